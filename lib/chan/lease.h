/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lease.h - who may run the VM, between a primary and its standby, over a
 * connection of its own, so that pages on their way delay nothing.
 *
 * The primary (holder) pings ten times per timeout; the standby (grantor)
 * answers. Each answer lets the holder run until
 *
 *	the time at which it sent that ping + fence_after
 *
 * and the grantor takes over no earlier than
 *
 *	the time at which the last ping came + timeout,	fence_after < timeout
 *
 * A ping comes after it was sent, so while both clocks run alike, the holder
 * has stopped before the grantor starts, whatever the network does. Once the
 * grantor has taken over it answers nothing any more: whether a ping is
 * answered and whether it takes over is decided under one lock. A lease that
 * ran out is not renewed any more, whatever answer comes late. A connection
 * that breaks changes nothing: both sides wait for their time.
 *
 * What this cannot do: stop a host that stood still as a whole (its VM runs a
 * moment when it wakes up, until the guardian has stopped it) or mend clocks
 * that run at different speeds. docs/internals/protect.md says so at length.
 *
 * A message is 16 bytes, big-endian: u32 "GWLS", u32 type, u64 value.
 *	PING value: the holder's time	PONG the same value
 *	END value 0: the VM is the holder's, no take-over (and the reverse:
 *	the grantor will never take over; do without it)
 *	LEAVE value 0, from the holder: END, and it will not come back
 * Every function: any thread, unless it says otherwise.
 */
#ifndef GW_CHAN_LEASE_H
#define GW_CHAN_LEASE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "chan/chan.h"

enum gw_lease_end {
	GW_LEASE_HELD,	  /* goes on */
	GW_LEASE_ENDED,	  /* the other side said END */
	GW_LEASE_EXPIRED, /* holder: nothing answered in time */
};

/* --- the holder --------------------------------------------------------- */

struct gw_lease_holder;

/*
 * Over @chan (connected; taken over, also on failure). @timeout_ns: the
 * grantor's; @fence_ns < it. @renew is called from the lease's thread with the
 * time until which the VM may run: later and later, INT64_MAX once the other
 * side said END, and INT64_MIN once when no more will come: the connection was
 * lost, or the lease ran out (the last time given stays). NULL with @err.
 */
struct gw_lease_holder *
gw_lease_hold(struct gw_chan *chan, int64_t timeout_ns, int64_t fence_ns,
	      void (*renew)(int64_t until_ns, void *arg), void *arg,
	      struct gw_error *err);

/* Never waits. What has ended or run out stays so, but that END still comes
 * after a lease ran out that nobody took. */
enum gw_lease_end gw_lease_held(struct gw_lease_holder *h);

/* Wait for the first answer. Return: 0, -ETIMEDOUT, -ECONNRESET. */
int gw_lease_first(struct gw_lease_holder *h, int64_t timeout_ms,
		   struct gw_error *err) GW_MUST_CHECK;

/* Say END, or LEAVE with @leave, and wait up to @timeout_ms for END. Return:
 * whether it came: the standby will not take over. */
bool gw_lease_give_back(struct gw_lease_holder *h, bool leave,
			int64_t timeout_ms);

void gw_lease_holder_free(struct gw_lease_holder *h); /* NULL is fine */

/* --- the grantor --------------------------------------------------------- */

struct gw_lease_grantor;

/* Over @chan (accepted; taken over, also on failure). *@expired_fd (the
 * lease's) is readable while the holder has been silent for @timeout_ns, and
 * once it said END or LEAVE: poll it, do not read it. */
struct gw_lease_grantor *gw_lease_grant(struct gw_chan *chan,
					int64_t timeout_ns, int *expired_fd,
					struct gw_error *err);

/* The time of the last ping, ns; for a status line. */
int64_t gw_lease_heard(struct gw_lease_grantor *g);

/*
 * Take over: if the holder was silent for the time-out, from here on no ping is
 * answered. Return: 0 taken; -EAGAIN not yet (it was heard meanwhile);
 * -ECANCELED the holder said END or LEAVE, or we said END.
 */
int gw_lease_take(struct gw_lease_grantor *g);

/* Did the holder say LEAVE? */
bool gw_lease_left(struct gw_lease_grantor *g);

/* Say END: never take over (idempotent; too late after a take-over). */
void gw_lease_renounce(struct gw_lease_grantor *g);

void gw_lease_grantor_free(struct gw_lease_grantor *g); /* NULL is fine */

#endif
