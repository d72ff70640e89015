/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * join.h - the further connections of a migration: those of multifd, and one
 * per disk. Each begins with a multifd hello (wire/multifd.h): a session and
 * a number. From a godwit the session is what our greeting said; a plain QEMU
 * gives the VM's UUID, and its connections may come before the main one.
 */
#ifndef GW_DEST_JOIN_H
#define GW_DEST_JOIN_H

#include "base/cancel.h"
#include "base/error.h"
#include "chan/chan.h"
#include "wire/hello.h"

struct gw_join {
	struct gw_listener *listener;
	/* GW_HELLO_SESSION bytes; NULL: that of the first to come */
	const uint8_t *session;
	unsigned int n;		/* numbers are below it */
	const struct gw_cancel *cancel;
	struct gw_chan *chan[GW_HELLO_MAX_CONNECTIONS]; /* by number */
	unsigned int joined;
	uint8_t first[GW_HELLO_SESSION];
};

/* A random session. */
int gw_join_session(uint8_t session[GW_HELLO_SESSION],
		    struct gw_error *err) GW_MUST_CHECK;

/*
 * Wait until all have come, @timeout_ms in all. A stranger (other bytes,
 * another session, a number twice) is closed, and the waiting goes on.
 * Return: 0, or -errno with @err, which says how many came.
 */
int gw_join_wait(struct gw_join *j, int64_t timeout_ms,
		 struct gw_error *err) GW_MUST_CHECK;

/*
 * How many there will be is not known: take all that have come, at least
 * @least, and wait for those whose number is missing below another's; @n is
 * then what came. Otherwise as gw_join_wait().
 */
int gw_join_rest(struct gw_join *j, unsigned int least, int64_t timeout_ms,
		 struct gw_error *err) GW_MUST_CHECK;

/*
 * @chan has come, and its first @nhead bytes were read: read the rest of its
 * hello and take it. Return: 0; -errno with @err, and it is still the caller's.
 */
int gw_join_take(struct gw_join *j, struct gw_chan *chan, const uint8_t *head,
		 size_t nhead, int64_t timeout_ms,
		 struct gw_error *err) GW_MUST_CHECK;

/* Close what is still in chan[]. */
void gw_join_close(struct gw_join *j);

#endif
