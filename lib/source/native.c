/* SPDX-License-Identifier: BSD-3-Clause */
/* native.c - see native.h. Everything here is decided in the caller's thread;
 * the carrier's threads only move bytes. */
#include "source/native.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/pause.h"
#include "base/units.h"
#include "source/carry.h"
#include "vm/qemu/native.h"

#define GW_LOG_MODULE "source"
#include "base/log.h"

#define STEP_MS		  50
#define QUERY_NS	  (100 * GW_NS_PER_MS)
#define COMMIT_TIMEOUT_MS 10000 /* QEMU says completed after SHUT 0 */
#define FAIL_TIMEOUT_MS	  20000 /* QEMU runs the VM on */

struct native {
	struct gw_source_config c;
	struct godwit_stats *now;
	bool two_way; /* the peer can answer */
	struct gw_carry *carry;
	struct gw_carry_state at;
	struct gw_native_numbers n;
	int64_t asked_ns;   /* the numbers are of then */
	int64_t carried_ns; /* since then all was carried; 0: not yet */
	bool continued;	    /* the destination may come to have the VM */
	uint64_t forth_before; /* carried when QEMU was told to go on */
	bool written; /* QEMU has written all of its stream */
};

static bool is(const struct native *s, const char *status)
{
	return !strcmp(s->n.status, status);
}

/* QEMU's `failing` and `cancelling` are not over yet. */
static bool is_over(const struct native *s)
{
	return is(s, "failed") || is(s, "cancelled") || is(s, "");
}

/* --- looking ------------------------------------------------------------ */

static void show(struct native *s)
{
	static const struct {
		const char *name;
		enum godwit_status status;
	} table[] = {
		{ "active", GODWIT_STATUS_ACTIVE },
		{ "pre-switchover", GODWIT_STATUS_PRE_SWITCHOVER },
		{ "device", GODWIT_STATUS_DEVICE },
	};
	struct godwit_stats *now = s->now;
	const struct gw_native_numbers *n = &s->n;

	now->transferred = s->at.forth;
	now->remaining = n->remaining;
	now->total = n->total;
	now->normal = n->normal;
	now->duplicate = n->duplicate;
	now->dirty_pages_rate = n->dirty_pages_rate;
	now->pass = n->pass;
	if (n->setup_ms > 0)
		now->setup_ns = n->setup_ms * GW_NS_PER_MS;
	if (n->expected_downtime_ms >= 0)
		now->expected_downtime_ns =
			n->expected_downtime_ms * GW_NS_PER_MS;
	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
		if (is(s, table[i].name) && now->status < table[i].status)
			gw_progress_status(s->c.progress, table[i].status);
	gw_progress_tick(s->c.progress);
}

/* One look at QEMU and at the carrier, for STEP_MS at most. */
static int look(struct native *s, struct gw_error *err)
{
	int r = gw_qemu_native_wait(s->c.vm, STEP_MS, err);

	if (r < 0)
		return r;
	if (r || gw_now_ns() - s->asked_ns >= QUERY_NS) {
		/*
		 * QEMU 10.0 says `device` a moment before it takes its big lock
		 * for the rest of the stream. Where some of that was seen, the
		 * lock was taken, and an answer means that it is free again.
		 */
		bool begun = s->continued && s->at.forth > s->forth_before;

		r = gw_qemu_native_query(s->c.vm, &s->n, err);
		if (r)
			return r;
		s->asked_ns = gw_now_ns();
		s->written = begun && is(s, "device");
	}
	/* After QEMU: what it heard from the carrier is known there. */
	gw_carry_look(s->carry, &s->at);
	show(s);
	return 0;
}

/* --- what went wrong ---------------------------------------------------- */

/* The destination said no, in one way or another. */
static int fail_peer(struct native *s, struct gw_error *err)
{
	const struct gw_carry_state *a = &s->at;
	const char *peer = s->c.chan->peer;
	char sent[32];

	gw_format_size(sent, sizeof(sent), a->forth);
	if (a->godwit)
		return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
				  "the godwit at %s takes only what a godwit "
				  "sends, not QEMU's own stream: move without "
				  "--native, or use a godwit there that can",
				  peer);
	if (a->shut && a->shut_value)
		return gw_fail_as(
			err, GW_FAULT_REFUSED, EREMOTEIO,
			"the destination %s could not load the VM (%s were "
			"sent): what QEMU there wrote says why",
			peer, sent);
	if (a->peer == GW_CARRY_ENDED && s->two_way && !a->back &&
	    !s->continued && s->n.pass < 2)
		return gw_fail_as(
			err, GW_FAULT_REFUSED, ECONNRESET,
			"the destination %s ended the connection without an "
			"answer (%.200s): its QEMU did not like how the stream "
			"begins (machine type, memory, capabilities; what it "
			"wrote says it), or a 'godwit receive' there takes "
			"only what a godwit sends",
			peer, a->why.msg);
	gw_fail_as(err, a->why.fault, a->why.code,
		   "lost the destination %s after %s: %.400s%s", peer, sent,
		   a->why.msg,
		   a->peer == GW_CARRY_ENDED
			   ? "; what QEMU there wrote may say why"
			   : "");
	return -err->code;
}

/* QEMU's migration came to nothing. */
static int fail_own(struct native *s, struct gw_error *err)
{
	gw_carry_look(s->carry, &s->at);
	if (s->at.peer != GW_CARRY_OPEN || (s->at.shut && s->at.shut_value))
		return fail_peer(s, err);
	return gw_fail(err, EREMOTEIO, "QEMU's migration %s: %s",
		       s->n.status[0] ? s->n.status : "ended",
		       s->n.why[0] ? s->n.why : "it gives no reason");
}

static int check_peer(struct native *s, struct gw_error *err)
{
	return s->at.peer == GW_CARRY_OPEN ? 0 : fail_peer(s, err);
}

/* --- up to the stop ----------------------------------------------------- */

static int begin(struct native *s, struct gw_error *err)
{
	const struct godwit_params *p = s->c.params;
	struct godwit_params plain;
	struct gw_native_config config = {
		.return_path = s->two_way,
		.max_bandwidth = p->max_bandwidth,
		.downtime_limit_ms = -1,
	};
	int fd;

	godwit_params_init(&plain);
	/* Ours unless said otherwise is QEMU's: then its user's counts. */
	if (p->downtime_limit_ns != plain.downtime_limit_ns)
		config.downtime_limit_ms =
			(p->downtime_limit_ns + GW_NS_PER_MS - 1) /
			GW_NS_PER_MS;
	gw_progress_status(s->c.progress, GODWIT_STATUS_SETUP);
	s->c.chan->read_timeout_ms = -1; /* a destination has little to say */
	s->c.chan->write_timeout_ms = p->idle_timeout_ns / GW_NS_PER_MS;
	s->c.chan->cancel = NULL; /* cancelling is QEMU's business */
	fd = gw_qemu_native_prepare(s->c.vm, &config, err);
	if (fd < 0)
		return fd;
	s->carry = gw_carry_start(fd, s->c.chan, s->two_way, err);
	if (!s->carry)
		return -err->code;
	gw_pause_at(GW_PAUSE_SOURCE_SETUP);
	return gw_qemu_native_start(s->c.vm, err);
}

static int give_up(struct native *s, struct gw_error *err)
{
	char left[32], dirty[32];

	return gw_fail_as(
		err, GW_FAULT_CONVERGE, ETIME,
		"does not converge: %s left after pass %u, the guest dirties "
		"%s/s. Raise --downtime-limit or --max-bandwidth, switch "
		"QEMU's auto-converge on, or calm the guest",
		gw_format_size(left, sizeof(left), s->n.remaining), s->n.pass,
		gw_format_size(dirty, sizeof(dirty),
			       s->n.dirty_pages_rate * 4096));
}

static int until_stopped(struct native *s, struct gw_error *err)
{
	uint32_t max = s->c.params->max_passes;
	int r;

	for (;;) {
		r = gw_cancel_requested(s->c.cancel) ? gw_cancel_fail(err)
						     : look(s, err);
		if (r)
			return r;
		if (is_over(s))
			return fail_own(s, err);
		/* Somebody else told QEMU to go on. */
		s->continued = is(s, "device") || is(s, "completed");
		if (s->continued)
			return 0;
		r = check_peer(s, err);
		if (r || is(s, "pre-switchover"))
			return r;
		if (is(s, "active") && s->now->pass > 1)
			gw_pause_at(GW_PAUSE_SOURCE_PASS);
		if (is(s, "active"))
			gw_pause_at(GW_PAUSE_SOURCE_BULK);
		if (max && s->n.pass > max)
			return give_up(s, err);
	}
}

/* The VM stands: what comes behind this is the end of the stream. */
static int drain(struct native *s, struct gw_error *err)
{
	struct timespec step = { 0, GW_NS_PER_MS };
	int r;

	for (;;) {
		gw_carry_look(s->carry, &s->at);
		r = gw_cancel_requested(s->c.cancel) ? gw_cancel_fail(err) :
						       check_peer(s, err);
		if (r || s->at.idle)
			break;
		nanosleep(&step, NULL);
	}
	s->forth_before = s->at.forth;
	return r;
}

/* The last look, then the point of no return. */
static int go_on(struct native *s, struct gw_error *err)
{
	int r;

	gw_pause_at(GW_PAUSE_SOURCE_STOPPED);
	if (s->continued)
		return 0;
	r = drain(s, err);
	if (r)
		return r;
	r = gw_qemu_native_continue(s->c.vm, err);
	/* Refused: QEMU stays where it is. A lost answer says nothing. */
	s->continued = !r || r == -ETIMEDOUT || r == -ECONNRESET;
	return r == -ETIMEDOUT ? 0 : r;
}

/* --- the end ------------------------------------------------------------ */

static bool has_it(const struct native *s)
{
	return s->at.shut && s->at.shut_value == 0;
}

static bool has_it_not(const struct native *s)
{
	return (s->at.shut && s->at.shut_value) ||
	       (s->at.peer == GW_CARRY_ENDED && !s->at.shut);
}

/* Wait until QEMU's migration has ended. Return: 0 or -errno. */
static int until_over(struct native *s, int timeout_ms, struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(timeout_ms);

	while (!is(s, "completed") && !is_over(s)) {
		int r = look(s, err);

		if (r)
			return r;
		if (!gw_deadline_left_ms(deadline))
			return gw_fail(
				err, ETIMEDOUT,
				"QEMU's migration is still '%s' after %d s",
				s->n.status, timeout_ms / 1000);
	}
	return 0;
}

/* Nobody knows who has it: somebody has to look before it may run here. */
static int uncertain(struct native *s, bool stands, const char *why,
		     struct gw_error *err)
{
	char name[128];

	gw_qemu_native_name(s->c.vm, name);
	gw_qemu_native_done(s->c.vm, false);
	return gw_fail_as(err, GW_FAULT_UNCERTAIN, ETIMEDOUT,
			  "the hand-over of '%s' is uncertain: QEMU handed the "
			  "VM over, and %.300s. %s Look at the destination: if "
			  "the VM runs there, end the one here; if it cannot "
			  "run there, 'godwit resume %s' runs it here",
			  s->c.vm->info.name, why,
			  stands ? "The VM stands still here."
				 : "Whether the VM stands still here is not "
				   "known (query-status).",
			  name);
}

/*
 * Silence. QEMU would wait for ever, and run the VM as soon as its socket is
 * closed. In the destination's place it is told that the VM is there.
 */
static int hold(struct native *s, const char *why, struct gw_error *err)
{
	int r = 0;

	gw_carry_cut(s->carry);
	gw_carry_look(s->carry, &s->at);
	if (!s->at.shut_passed)
		r = gw_carry_say_shut(s->carry, 0, err);
	if (!r)
		r = until_over(s, COMMIT_TIMEOUT_MS, err);
	if (!r && !is(s, "completed") && s->c.vm->info.running)
		r = gw_qemu_native_stop(s->c.vm, err);
	if (!r && is(s, "completed") && has_it(s))
		return 0; /* it came in the last moment */
	return uncertain(s, !r, why, err);
}

/*
 * QEMU gave up by itself (somebody cancelled it, or it could not write), and
 * runs the VM on. The destination does too if it got everything.
 */
static int ended_here(struct native *s, struct gw_error *err)
{
	int r;

	if (has_it_not(s) || (!has_it(s) && !s->carried_ns))
		return fail_own(s, err);
	r = gw_qemu_native_stop(s->c.vm, err);
	return uncertain(s, !r,
			 "QEMU here took it back by itself when the "
			 "destination had all of it",
			 err);
}

/* All that QEMU has written is with the peer; since when? */
static void note_carried(struct native *s)
{
	bool all = s->written && s->at.idle;

	if (all && !s->carried_ns) {
		s->carried_ns = gw_now_ns();
		gw_debug("all is carried, %llu bytes",
			 (unsigned long long)s->at.forth);
		gw_pause_at(GW_PAUSE_SOURCE_DEVICE);
	}
}

/* QEMU here says `completed`. */
static int committed(struct native *s, struct gw_error *err)
{
	gw_carry_look(s->carry, &s->at);
	if (has_it(s))
		return 0;
	if (s->two_way) /* cannot be */
		return uncertain(
			s, true,
			"it is done without a word from the destination", err);
	while (!s->at.ended && s->at.peer == GW_CARRY_OPEN) {
		struct gw_error ignored;

		if (look(s, &ignored)) /* QEMU is not needed any more */
			gw_carry_look(s->carry, &s->at);
	}
	return s->at.ended ? 0 : uncertain(s, true, s->at.why.msg, err);
}

/* The monitor is lost after migrate-continue: QEMU has ended, most likely. What
 * it wrote before is still carried, and the destination may say that it has
 * the VM. */
static int without_qemu(struct native *s, struct gw_error *err)
{
	int64_t limit = s->c.params->handover_timeout_ns / GW_NS_PER_MS;
	int64_t deadline = gw_deadline_ms(limit);
	struct timespec step = { 0, 10 * GW_NS_PER_MS };
	struct gw_error ignored = { 0 };
	char why[GW_ERROR_MAX];

	do {
		nanosleep(&step, NULL);
		gw_carry_look(s->carry, &s->at);
		if (has_it(s)) {
			gw_warn("lost the source QEMU during the hand-over "
				"(%s); the destination has the whole VM",
				err->msg);
			return 0;
		}
	} while (s->at.peer == GW_CARRY_OPEN && gw_deadline_left_ms(deadline));
	if (has_it_not(s))
		return -err->code;
	/* Should only the monitor be gone: the VM must not run on here. */
	gw_carry_cut(s->carry);
	if (gw_carry_say_shut(s->carry, 0, &ignored))
		gw_debug("%s", ignored.msg);
	memcpy(why, err->msg, sizeof(why));
	return uncertain(s, false, why, err);
}

static int until_completed(struct native *s, struct gw_error *err)
{
	int64_t limit = s->c.params->handover_timeout_ns, shut_limit = 0;
	char why[320];
	int r;

	for (;;) {
		r = look(s, err);
		if (r == -ECONNRESET)
			return without_qemu(s, err);
		if (r) {
			snprintf(why, sizeof(why), "%.300s", err->msg);
			return hold(s, why, err);
		}
		if (is(s, "completed"))
			return committed(s, err);
		if (is_over(s))
			return ended_here(s, err);
		note_carried(s);
		if (has_it(s)) {
			if (!shut_limit)
				shut_limit = gw_deadline_ms(COMMIT_TIMEOUT_MS);
			if (!gw_deadline_left_ms(shut_limit))
				return hold(s,
					    "QEMU here does not take the "
					    "destination's word for it",
					    err);
			continue;
		}
		if (has_it_not(s)) {
			gw_carry_hang_up(s->carry);
			r = until_over(s, FAIL_TIMEOUT_MS, err);
			return r ? r : fail_own(s, err);
		}
		if (s->at.peer == GW_CARRY_LOST)
			return hold(s, s->at.why.msg, err);
		if (s->carried_ns && gw_now_ns() - s->carried_ns > limit) {
			snprintf(why, sizeof(why),
				 "the destination did not say within %lld ms "
				 "that it has it",
				 (long long)(limit / GW_NS_PER_MS));
			return hold(s, why, err);
		}
	}
}

/* --- */

/* Say behind the reason what became of the VM. */
static void say_where(struct native *s, struct gw_error *err, int r,
		      const struct gw_error *undo)
{
	char why[GW_ERROR_MAX], name[128];

	memcpy(why, err->msg, sizeof(why));
	if (!r)
		gw_fail_as(err, err->fault, err->code, "%.900s; the VM %s", why,
			   s->c.vm->info.running ? "runs on here"
						 : "rests here as before");
	else if (r == -ESRCH)
		gw_fail_as(err, err->fault, err->code, "%.500s; %.400s", why,
			   undo->msg);
	else
		gw_fail_as(err, GW_FAULT_UNCERTAIN, undo->code,
			   "%.400s; and the VM could not be set going again "
			   "here: %.300s; 'godwit resume %s' tries it again",
			   why, undo->msg, gw_qemu_native_name(s->c.vm, name));
}

static void fall_back(struct native *s, struct gw_error *err)
{
	bool cancelled = err->fault == GW_FAULT_CANCELLED;
	struct gw_error undo = { 0 };
	int r;

	if (err->fault == GW_FAULT_UNCERTAIN) {
		gw_progress_status(s->c.progress, GODWIT_STATUS_FAILED);
		return;
	}
	if (cancelled)
		gw_progress_status(s->c.progress, GODWIT_STATUS_CANCELLING);
	r = gw_qemu_native_undo(s->c.vm, &undo);
	say_where(s, err, r, &undo);
	gw_progress_status(s->c.progress, cancelled ? GODWIT_STATUS_CANCELLED
						    : GODWIT_STATUS_FAILED);
}

static void succeed(struct native *s)
{
	int64_t stopped = s->c.vm->stopped_ns;

	s->now->transferred = s->at.forth;
	s->now->remaining = 0;
	if (stopped && s->at.shut_ns > stopped)
		s->now->downtime_ns = s->at.shut_ns - stopped;
	else if (s->n.downtime_ms > 0)
		s->now->downtime_ns = s->n.downtime_ms * GW_NS_PER_MS;
	gw_qemu_native_done(s->c.vm, true);
	gw_progress_status(s->c.progress, GODWIT_STATUS_COMPLETED);
}

int gw_native_run(const struct gw_source_config *c, struct gw_error *err)
{
	struct native s = { .c = *c, .now = &c->progress->now };
	struct gw_error local = { 0 };
	int r;

	if (!err)
		err = &local;
	s.two_way = c->chan->rfd >= 0;
	c->vm->stopped_ns = 0;
	r = begin(&s, err);
	if (!r)
		r = until_stopped(&s, err);
	if (!r)
		r = go_on(&s, err);
	if (!r) {
		gw_pause_at(GW_PAUSE_SOURCE_SAVING);
		r = until_completed(&s, err);
	} else if (s.continued) {
		r = without_qemu(&s, err);
	}
	if (r)
		fall_back(&s, err);
	else
		succeed(&s);
	gw_carry_free(s.carry);
	gw_qemu_native_end(c->vm);
	return r;
}
