/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * transport.h - private to lib/chan: what open.c asks of each transport. A
 * transport makes channels; from then on gw_chan_ops does.
 */
#ifndef GW_CHAN_TRANSPORT_H
#define GW_CHAN_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "chan/chan.h"
#include "chan/uri.h"

#define GW_LISTEN_MAX 8 /* sockets of one listener: the addresses of a name */

/*
 * A dead TCP peer is noticed within a minute when nothing is in flight; when
 * data is, the channel's time limit for writing notices first. (Not
 * TCP_USER_TIMEOUT: it also ends a connection to a live peer that is busy and
 * takes no byte for that long.)
 */
#define GW_TCP_KEEPIDLE_S      30
#define GW_TCP_KEEPINTVL_S     10
#define GW_TCP_KEEPCNT	       3

/*
 * Bytes that a unix socket holds (the kernel counts twice as many): its default
 * of 208 KiB in all makes the two ends wait for each other all the time.
 */
#define GW_UNIX_SNDBUF (1 << 20)

struct gw_listener {
	char uri[512];
	/* one connection only, made by _listen */
	struct gw_chan *ready;
	/* or sockets that accept */
	int fd[GW_LISTEN_MAX];
	int nfds;
	bool keep_alive;
	/* the file of a unix socket, removed while it is still ours */
	char path[GW_URI_SUN_MAX + 1];
	dev_t dev;
	ino_t ino;
	/* fault: specs for every connection, the innermost first */
	char *fault[GW_URI_NEST_MAX];
	int nfaults;
};

struct gw_transport {
	/* @deadline: of gw_now_ns(), 0 for none. */
	struct gw_chan *(*connect)(const struct gw_uri *u, int64_t deadline,
				   const struct gw_cancel *cancel,
				   struct gw_error *err);
	/* Fill ready or fd[] of a listener whose nfds is 0. On failure the
	 * caller closes what is there. */
	int (*listen)(struct gw_listener *l, const struct gw_uri *u,
		      struct gw_error *err);
};

extern const struct gw_transport gw_transport_tcp, gw_transport_unix,
	gw_transport_fd, gw_transport_exec, gw_transport_file;

/* sock.c */
struct gw_chan *gw_sock_accept(struct gw_listener *l, int64_t deadline,
			       const struct gw_cancel *cancel,
			       struct gw_error *err);
void gw_sock_unlink(struct gw_listener *l);
/* The options above. Never fails: a kernel that lacks one still carries
 * data. */
void gw_sock_tune(int fd, bool keep_alive);
bool gw_sock_is_unix(int fd);

/*
 * resolve.c: getaddrinfo() for stream sockets that obeys @deadline and
 * @cancel. @host NULL: any address or, without @passive, this machine.
 * Return: 0 with a list for freeaddrinfo() in @res, or -errno with @err.
 */
struct addrinfo;
int gw_resolve(const char *host, const char *port, int family, bool passive,
	       int64_t deadline, const struct gw_cancel *cancel,
	       struct addrinfo **res, struct gw_error *err) GW_MUST_CHECK;

#endif
