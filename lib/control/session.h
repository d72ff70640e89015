/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * session.h - the migration of one VM as its monitor sees it: an operation in
 * a thread of its own, its state in QEMU's words, and what happened as a queue
 * of events. It attaches to the VM only for the time of an operation, so that
 * other godwits can have it in between.
 *
 * All functions but those marked belong to one thread, the front end's.
 *
 *	begin -> GW_EVENT_STARTED, then STATUS..., PASS..., GW_EVENT_ENDED
 *	      -> GW_EVENT_REFUSED
 */
#ifndef GW_CONTROL_SESSION_H
#define GW_CONTROL_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "godwit.h"

struct gw_session;

enum gw_event_kind {
	GW_EVENT_STARTED, /* it can be done, and is under way; a destination
			     listens */
	GW_EVENT_REFUSED, /* it cannot; nothing happened. Has an error */
	GW_EVENT_STATUS,
	GW_EVENT_PASS,
	GW_EVENT_ENDED, /* the VM is free for others again */
};

struct gw_event {
	enum gw_event_kind kind;
	char status[24]; /* GW_EVENT_STATUS */
	uint32_t pass;	 /* GW_EVENT_PASS */
	int64_t realtime_us;
};

/* What is to be done. */
struct gw_session_plan {
	bool incoming;
	const char *uri;
	struct godwit_params params;
	bool pause; /* wait for gw_session_continue() when the VM stands */
};

/* @vm as godwit_vm_open() has it. */
struct gw_session *gw_session_new(const char *vm, struct gw_error *err);
/* An operation that runs is cancelled and waited for. */
void gw_session_free(struct gw_session *s);

/* Readable when there are events. */
int gw_session_fd(const struct gw_session *s);
/* The oldest event. */
bool gw_session_event(struct gw_session *s, struct gw_event *e);

/* Begin; @plan is copied. Return: 0, -EBUSY: one runs, -errno. */
int gw_session_begin(struct gw_session *s, const struct gw_session_plan *plan,
		     struct gw_error *err) GW_MUST_CHECK;
bool gw_session_busy(struct gw_session *s);

/* Cancel what runs, if anything. Does not wait. */
void gw_session_cancel(struct gw_session *s);
/* Go on from the state @state ("pre-switchover"). Return: 0, -EINVAL: that is
 * not its state. */
int gw_session_continue(struct gw_session *s, const char *state,
			struct gw_error *err) GW_MUST_CHECK;
/* godwit_op_set() on what runs; 0 if nothing does. */
int gw_session_set(struct gw_session *s, const char *name, const char *value,
		   struct gw_error *err) GW_MUST_CHECK;

/* How it stands with the last operation. */
struct gw_session_state {
	char status[24]; /* "none": there was none */
	bool incoming, busy, xbzrle;
	char listening[160]; /* URI; "": no */
	struct godwit_stats stats;
	struct gw_error error; /* why it failed; code 0: it did not */
};
void gw_session_state(struct gw_session *s, struct gw_session_state *out);

#endif
