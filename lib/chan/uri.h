/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uri.h - what a migration URI says, spelled as QEMU spells it. Parsing only:
 * no name is looked up, no descriptor or file touched; chan.h does that.
 *
 *	tcp:HOST:PORT[,to=PORT][,ipv4[=on|off]][,ipv6[=on|off]]
 *	   [,keep-alive[=on|off]]	HOST empty or 0: any address when
 *					listening, this machine when connecting
 *	unix:PATH			PATH is everything behind the colon
 *	fd:N				an open descriptor of this process
 *	exec:COMMAND			/bin/sh -c COMMAND, its stdin and stdout
 *	file:PATH[,offset=N]
 *	fault:SPEC+URI			for tests, see fault.h
 */
#ifndef GW_CHAN_URI_H
#define GW_CHAN_URI_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum gw_uri_kind {
	GW_URI_TCP,
	GW_URI_UNIX,
	GW_URI_FD,
	GW_URI_EXEC,
	GW_URI_FILE,
	GW_URI_FAULT,
	GW_URI_NKINDS,
};

/* What a transport can do; fault: can what the uri inside can. */
enum gw_uri_can {
	GW_URI_CONNECT = 1,
	GW_URI_LISTEN = 2,
	GW_URI_MULTI = 4, /* any number of connections: multifd, preempt */
	GW_URI_SEEK = 8,  /* has offsets: mapped-ram */
	GW_URI_TEST = 16, /* not offered in messages */
};

#define GW_URI_MAX	 65536 /* bytes of a whole uri */
#define GW_URI_HOST_MAX	 255
#define GW_URI_PATH_MAX	 (PATH_MAX - 1)
#define GW_URI_SUN_MAX	 107 /* sockaddr_un.sun_path without its NUL */
#define GW_URI_FAULT_MAX 511
#define GW_URI_NEST_MAX	 4 /* fault: inside fault: ... */

struct gw_uri {
	const struct gw_uri_scheme *scheme;
	unsigned can;	 /* enum gw_uri_can, of this very uri */
	char shown[128]; /* the uri for messages: printable, perhaps cut */
	/* tcp: */
	char host[GW_URI_HOST_MAX + 1]; /* "": any; IPv6 without brackets */
	char port[33];			/* a number or a service name */
	bool port_is_number;
	uint16_t port_number, port_to; /* port_to == port_number: no range */
	bool want_ipv4, want_ipv6, keep_alive;
	/* fd: */
	int fd;
	/* unix:, file: */
	char path[GW_URI_PATH_MAX + 1];
	uint64_t offset;
	/* exec: the command; points into the text that was parsed */
	const char *command;
	/* fault: */
	char fault[GW_URI_FAULT_MAX + 1];
	const char *inner; /* points into the text that was parsed */
};

struct gw_uri_scheme {
	const char *name;   /* "tcp" */
	const char *syntax; /* for usage texts */
	enum gw_uri_kind kind;
	unsigned can;
	int (*parse)(struct gw_uri *u, const char *rest, struct gw_error *err);
};

/* All schemes in the order of enum gw_uri_kind; ends with name NULL. */
extern const struct gw_uri_scheme gw_uri_schemes[];

/*
 * Parse @text into @u; @text must outlive @u (command, inner). Pure, any
 * thread. Return: 0, or -EINVAL, -ENAMETOOLONG with GW_FAULT_USAGE and a text
 * that says what was wrong and what is possible.
 */
int gw_uri_parse(struct gw_uri *u, const char *text,
		 struct gw_error *err) GW_MUST_CHECK;

/*
 * Does @u make sense for @role, GW_URI_CONNECT or GW_URI_LISTEN (port 0 and
 * ",to=" only listen)? Return: 0 or -EINVAL with GW_FAULT_USAGE.
 */
int gw_uri_check_role(const struct gw_uri *u, enum gw_uri_can role,
		      struct gw_error *err) GW_MUST_CHECK;

#endif
