/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * upstream.h - QEMU's own monitor behind godwit's: commands of clients are
 * passed on as they are, but for their id, and answers come back the same
 * way; in between godwit asks for things itself. It knows no command.
 *
 * One thread. Nothing but gw_upstream_ask() waits.
 */
#ifndef GW_CONTROL_UPSTREAM_H
#define GW_CONTROL_UPSTREAM_H

#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cancel.h"
#include "base/error.h"
#include "control/qmp_text.h"

#define GW_UPSTREAM_MAX_FDS 16

struct gw_upstream;

/* Called by gw_upstream_work() and _ask(); neither may be called from here. */
struct gw_upstream_ops {
	/* QEMU answered what was sent for @who: the whole @text, in which @id
	 * is the value of its id; p NULL: it could not find one. */
	void (*reply)(void *data, uint64_t who, struct gw_span text,
		      struct gw_span id);
	void (*event)(void *data, const char *name, struct gw_span text);
};

/* @ops may be NULL. NULL with @err as gw_qmp_open(). */
struct gw_upstream *gw_upstream_open(const char *path,
				     const struct gw_upstream_ops *ops,
				     void *data, struct gw_error *err);
/* The same on a connected socket, which is taken over, also on failure. */
struct gw_upstream *gw_upstream_open_fd(int fd, const char *name,
					const struct gw_upstream_ops *ops,
					void *data, struct gw_error *err);
void gw_upstream_close(struct gw_upstream *u); /* NULL is fine */

/* QEMU's greeting: {"QMP": ...}, as text. */
struct gw_span gw_upstream_greeting(const struct gw_upstream *u);
bool gw_upstream_oob(const struct gw_upstream *u);

/* For poll(2): its descriptor and what to wait for. */
struct pollfd gw_upstream_poll(const struct gw_upstream *u);
/* Read, write and hand on what is possible now. Return: 0, or -errno: QEMU
 * is gone, or did not speak QMP. */
int gw_upstream_work(struct gw_upstream *u, struct gw_error *err) GW_MUST_CHECK;

/*
 * Send the command @text, a checked JSON object, with @fds. Its id is taken
 * out; ops->reply gets @who with the answer. Return: 0 or -ENOMEM; the
 * descriptors are taken over.
 */
int gw_upstream_send(struct gw_upstream *u, uint64_t who, struct gw_span text,
		     const int *fds, int nfds);

/*
 * Execute @command with @args (taken over; NULL: none) and wait for the
 * answer. What comes meanwhile goes to @ops. Return: {"return": ...} or
 * {"error": {"class", "desc"}}, or NULL with @err: no answer.
 */
json_t *gw_upstream_ask(struct gw_upstream *u, const char *command,
			json_t *args, struct gw_error *err);

#endif
