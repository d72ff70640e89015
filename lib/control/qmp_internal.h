/* SPDX-License-Identifier: BSD-3-Clause */
/* qmp_internal.h - what qmp_server.c and qmp_cmds.c share. */
#ifndef GW_CONTROL_QMP_INTERNAL_H
#define GW_CONTROL_QMP_INTERNAL_H

#include "control/qmp_server.h"

#define GW_QMP_MAX_NAMED 64

struct gw_qmp_client {
	uint64_t id; /* never used again */
	int fd;
	struct gw_qmp_text in;
	char *out;
	size_t out_len, out_cap;
	unsigned int asked; /* QEMU, and not answered yet */
	bool negotiated, oob, dead;
	int fds[GW_UPSTREAM_MAX_FDS], nfds; /* came with the last bytes */
};

/* A command that QEMU is answering for a client. */
struct gw_qmp_forward {
	struct gw_qmp_forward *next;
	uint64_t who, client;
	char *id; /* as the client wrote it, NULL: none */
	/* getfd and closefd; name "": something else */
	char name[64];
	int fd; /* our copy; -1: closefd */
};

/* A command that is answered when an operation has begun, or was refused. */
struct gw_qmp_deferred {
	bool active, hmp;
	uint64_t client;
	char *id;
	int fd; /* of a uri fd:NAME; -1: none */
};

/* A descriptor that a client gave a name (getfd). */
struct gw_qmp_named {
	char name[64]; /* "": free */
	int fd;
};

struct gw_qmp_server {
	struct gw_front front;
	int listener; /* -1: none */
	char path[108];
	struct gw_qmp_client *client[GW_QMP_MAX_CLIENTS];
	uint64_t last_client, last_who;
	struct gw_qmp_forward *forward;
	struct gw_qmp_deferred deferred;
	struct gw_qmp_named named[GW_QMP_MAX_NAMED];
};

/* What a client wants, and where its answer goes. */
struct gw_qmp_call {
	struct gw_qmp_server *s;
	struct gw_qmp_client *c;
	const char *id; /* as the client wrote it, NULL: none */
	json_t *args;	/* an object */
};

/* --- qmp_server.c --- */

/* {"return": @value}; takes the reference. */
void gw_qmp_return(struct gw_qmp_client *c, const char *id, json_t *value);
void gw_qmp_error(struct gw_qmp_client *c, const char *id, const char *class,
		  const char *desc);
/* The client of call @call is answered when the operation that begins now is
 * under way; @fd is closed if it is refused. */
void gw_qmp_defer(struct gw_qmp_call *call, bool hmp, int fd);
/* A copy of the descriptor that has this name, or -1. */
int gw_qmp_named_fd(struct gw_qmp_server *s, const char *name);
/* The text of an HMP answer, with QEMU's ends of lines. */
json_t *gw_qmp_hmp_text(const char *text);

/* --- qmp_cmds.c --- */

struct gw_qmp_command {
	const char *name;
	/* Answers, or defers. */
	void (*run)(struct gw_qmp_call *call);
};

/* NULL: QEMU's. */
const struct gw_qmp_command *gw_qmp_command_find(const char *name);
/* Is this human-monitor-command one of godwit's? */
bool gw_qmp_is_our_hmp(const json_t *args);

#endif
