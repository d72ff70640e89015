/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qmp.h - a client of QEMU's machine protocol (QMP) on a unix socket. It
 * knows commands, replies and events, but no particular command.
 *
 * One thread uses a client at a time. Commands are answered in order; a
 * command that ran into its time limit may still be answered later, and that
 * reply is recognised by its id and dropped. Events that arrive meanwhile are
 * kept in a bounded queue until somebody asks for them.
 *
 * After the end of the connection, bytes that are not QMP, or a message
 * beyond the limits below every call fails with the same error: the client is
 * of no use any more, close it. Time limits, cancellation and errors that
 * QEMU reports leave it usable.
 *
 * Time limits are milliseconds; negative: none, 0: do not wait.
 */
#ifndef GW_VM_QEMU_QMP_H
#define GW_VM_QEMU_QMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cancel.h"
#include "base/error.h"

#define GW_QMP_MAX_MESSAGE (64u << 20) /* bytes */
#define GW_QMP_MAX_NESTING 128
#define GW_QMP_MAX_EVENTS  256

struct gw_qmp;

struct gw_qmp_version {
	int major, minor, micro;
	char package[128]; /* "Debian 1:10.0.2+ds-2", may be empty */
};

struct gw_qmp_event {
	char name[64];	     /* "MIGRATION" */
	int64_t realtime_us; /* QEMU's clock, since 1970; -1: it had none */
	int64_t received_ns; /* gw_now_ns() when it was read */
	json_t *data;	     /* its "data"; NULL: none. Owned */
};

/*
 * Connect to the monitor at @path, read its greeting and negotiate, all
 * within @timeout_ms. @cancel (may be NULL) ends every wait of this client.
 * Return: NULL with @err: ENOENT or ECONNREFUSED nobody listens, EBUSY
 * another client holds the monitor, ETIMEDOUT, ECANCELED, EPROTO.
 */
struct gw_qmp *gw_qmp_open(const char *path, int timeout_ms,
			   const struct gw_cancel *cancel,
			   struct gw_error *err);

/* The same on a connected socket, which is taken over, also on failure.
 * @name stands for it in messages. */
struct gw_qmp *gw_qmp_open_fd(int fd, const char *name, int timeout_ms,
			      const struct gw_cancel *cancel,
			      struct gw_error *err);

void gw_qmp_close(struct gw_qmp *q); /* NULL is fine */

const struct gw_qmp_version *gw_qmp_version(const struct gw_qmp *q);

/* The process at the other end (who listens), 0: unknown. */
pid_t gw_qmp_peer_pid(const struct gw_qmp *q);

/*
 * Execute @command with the arguments of @args_fmt (json_pack() format of an
 * object, NULL: none) and wait for its reply.
 * Return: its "return" value, which the caller must json_decref(), or NULL
 * with @err, "QMP command 'migrate': ..." and one of: EREMOTEIO QEMU says no
 * (ENOSYS, ENODEV: CommandNotFound, DeviceNotFound), ETIMEDOUT, ECANCELED,
 * ECONNRESET QEMU is gone, EPROTO.
 */
json_t *gw_qmp_cmd(struct gw_qmp *q, int timeout_ms, struct gw_error *err,
		   const char *command, const char *args_fmt, ...);

/* The same with @args as an object (borrowed; NULL: none) and a file
 * descriptor sent along (-1: none), as "getfd" and "add-fd" want it. */
json_t *gw_qmp_cmd_json(struct gw_qmp *q, int timeout_ms, int fd,
			const char *command, json_t *args,
			struct gw_error *err);

/* gw_qmp_cmd() for commands whose value does not matter. Return: 0, -errno. */
int gw_qmp_do(struct gw_qmp *q, int timeout_ms, struct gw_error *err,
	      const char *command, const char *args_fmt, ...) GW_MUST_CHECK;

/*
 * Send @command and return at once. The next call on @q but for events is
 * gw_qmp_reply(), which waits for its end; @err must not be NULL. Whoever does
 * not call it has given up the reply.
 */
int gw_qmp_send(struct gw_qmp *q, struct gw_error *err, const char *command,
		const char *args_fmt, ...) GW_MUST_CHECK;
int gw_qmp_reply(struct gw_qmp *q, int timeout_ms,
		 struct gw_error *err) GW_MUST_CHECK;

/*
 * Take the oldest queued event whose name is in @names (NULL terminated;
 * NULL: any), waiting for one up to @timeout_ms. Others stay queued.
 * Return: 0 with *@event (gw_qmp_event_fini() it), -ETIMEDOUT, -ECANCELED,
 * -EOVERFLOW once if an event that must not be missed (STOP, RESUME,
 * SHUTDOWN, MIGRATION) had to be dropped, or the client's final error.
 */
int gw_qmp_wait_event(struct gw_qmp *q, const char *const *names,
		      int timeout_ms, struct gw_qmp_event *event,
		      struct gw_error *err) GW_MUST_CHECK;

/* Queue what has arrived, without waiting.
 * Return: the number of events queued, or -errno as above. */
int gw_qmp_poll(struct gw_qmp *q, struct gw_error *err) GW_MUST_CHECK;

/* Forget every queued event. */
void gw_qmp_drop_events(struct gw_qmp *q);

void gw_qmp_event_fini(struct gw_qmp_event *event);

#endif
