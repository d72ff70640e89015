/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * unprotect.c - how a protection ends, and who has the VM then.
 *
 *	FAILOVER	a last checkpoint; the VM is given up, then GO, RUNNING
 *	cancelled,	the standby promises not to take over (LEAVE or END on
 *	an error	the lease, or BYE): the VM goes on here, unprotected
 *	no promise	without fence: it goes on here all the same. Otherwise
 *			it stands, as it does anyway when the lease has run
 *			out; an arbiter may let it go on; if there is none it
 *			stays so, and who ends here is told
 *	the VM died	the standby takes over as soon as it hears nothing
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/command.h"
#include "base/pause.h"
#include "base/scope.h"
#include "source/protect.h"

#define GIVE_BACK_MS 1000 /* if nothing depends on it */
#define ARBITER_MS   30000

/* --- the VM --------------------------------------------------------------- */

static int end_vm(struct gw_source *s, bool run, const char *why,
		  struct gw_error *err)
{
	struct gw_protect *p = s->protect;

	pthread_mutex_lock(&p->lock); /* no lease() any more */
	p->armed = false;
	pthread_mutex_unlock(&p->lock);
	return p->ops->end(s->c.vm, run, why, err);
}

/* --- in an orderly way ---------------------------------------------------- */

int gw_protect_hand_over(struct gw_source *s, struct gw_error *err)
{
	int64_t limit_ms = s->c.params->handover_timeout_ns / GW_NS_PER_MS;
	struct gw_protect *p = s->protect;
	int r = gw_protect_checkpoint(s, true, err);

	if (!r) {
		gw_progress_status(s->c.progress, GODWIT_STATUS_DEVICE);
		s->stopped_ns = s->c.vm->stopped_ns;
		r = s->to->check(s, err);
	}
	if (!r)
		r = end_vm(s, false, "the standby took it over", err);
	if (r)
		return r;
	gw_pause_at(GW_PAUSE_SOURCE_COMMITTED);
	p->handed = true;
	s->c.chan->stop = NULL; /* the lease says nothing any more */
	r = gw_source_say_go(s, p->running, err);
	gw_pause_at(GW_PAUSE_SOURCE_GO);
	if (!r)
		r = gw_source_peer_wait(s, GW_RECORD_RUNNING, limit_ms,
					"confirm that the VM runs", err);
	if (!r)
		s->now->downtime_ns = gw_now_ns() - s->stopped_ns;
	return r;
}

/* Say that the VM stays, and wait for the standby's word. */
static bool say_bye(struct gw_source *s, int64_t timeout_ms)
{
	struct gw_chan *c = s->c.chan;
	struct gw_error ignored;

	if (gw_write_failed(&s->out) || timeout_ms <= 0)
		return false;
	c->cancel = c->stop = NULL;
	c->write_timeout_ms = timeout_ms;
	if (s->in_section)
		gw_source_section_end(s);
	gw_record_put(&s->out, GW_RECORD_BYE, true, 0);
	if (gw_write_flush(&s->out, &ignored))
		return false;
	c->read_timeout_ms = timeout_ms;
	while (!s->protect->bye)
		if (gw_source_peer_hear(s, &ignored))
			return false;
	return true;
}

static int64_t lease_end(struct gw_protect *p)
{
	GW_LOCKED(&p->lock);
	return p->until_ns;
}

bool gw_protect_settle(struct gw_source *s)
{
	struct gw_protect *p = s->protect;
	bool leave = gw_cancel_requested(s->c.cancel);
	int64_t limit_ms = p->exposed ? p->timeout_ns / GW_NS_PER_MS :
					GIVE_BACK_MS;

	if (gw_lease_give_back(p->lease, leave, limit_ms) || p->bye ||
	    !p->exposed)
		return true;
	return say_bye(s, (lease_end(p) - gw_now_ns()) / GW_NS_PER_MS);
}

/* --- what is said --------------------------------------------------------- */

int gw_source_protect_explain(struct gw_source *s, int r, struct gw_error *err)
{
	/* Fenced: its driver's words are for a VM that stays so. */
	if (r == -EPERM)
		return gw_fail(err, ETIMEDOUT,
			       "there was no word of the standby %.150s for %lld ms, and the VM was stopped",
			       s->c.chan->peer,
			       (long long)(s->protect->fence_ns /
					   GW_NS_PER_MS));
	if (err->fault != GW_FAULT_CANCELLED ||
	    !gw_cancel_requested(&s->protect->stop) ||
	    gw_cancel_requested(s->c.cancel))
		return r;
	return gw_protect_lease_error(s, err);
}

static int cannot_run(struct gw_source *s, struct gw_error *err, int r,
		      const struct gw_error *undo)
{
	char why[GW_ERROR_MAX];

	memcpy(why, err->msg, sizeof(why));
	if (r == -ESRCH)
		return gw_fail_as(err, GW_FAULT_FAILED, ESRCH, "%.500s; %.400s",
				  why, undo->msg);
	return gw_fail_as(
		err, GW_FAULT_UNCERTAIN, undo->code,
		"%.400s; and the VM could not be set going again here: %.400s; "
		"it runs nowhere, 'godwit resume %s' tries it again",
		why, undo->msg, s->c.vm->info.name);
}

/* --- without the standby -------------------------------------------------- */

/* The VM goes on here. @how: how it may, to be said. */
static int go_on(struct gw_source *s, const char *how, struct gw_error *err)
{
	bool cancelled = err->fault == GW_FAULT_CANCELLED;
	struct gw_error undo = { 0 };
	char why[GW_ERROR_MAX];
	int r = end_vm(s, true, NULL, &undo);

	if (r)
		return cannot_run(s, err, r, &undo);
	if (cancelled && !*how) {
		gw_progress_status(s->c.progress, GODWIT_STATUS_CANCELLED);
		memset(err, 0, sizeof(*err));
		return 0;
	}
	memcpy(why, err->msg, sizeof(why));
	gw_fail_as(err, GW_FAULT_FAILED, err->code,
		   "%.700s; the VM %s here, unprotected%s", why,
		   s->protect->running ? "runs on" : "rests as before", how);
	s->c.chan->stop = NULL;
	s->to->tell(s, err);
	return -err->code;
}

/* Does somebody who knows more than we do let it run here? */
static bool arbiter_agrees(struct gw_source *s)
{
	const char *command = s->c.params->arbiter;
	const char *name = s->c.vm->info.name;
	const char *uri = s->c.uri ? s->c.uri : "";
	const char *args[] = { "primary", name, uri, NULL };
	char vm[96], peer[1024];
	const char *env[] = { "GODWIT_ROLE=primary", vm, peer, NULL };
	struct gw_error err = { 0 };
	int r;

	if (!command || !*command)
		return false;
	snprintf(vm, sizeof(vm), "GODWIT_VM=%s", name);
	snprintf(peer, sizeof(peer), "GODWIT_PEER=%s", uri);
	gw_info("asking the arbiter: %s", command);
	r = gw_command_run(command, args, env, ARBITER_MS, NULL, &err);
	if (r < 0)
		gw_warn("the arbiter did not decide: %s", err.msg);
	else
		gw_info("the arbiter's exit status is %d", r);
	return !r;
}

/* Nobody promised anything: it must not run here, unless it may. */
static int stand_still(struct gw_source *s, struct gw_error *err)
{
	const char *name = s->c.vm->info.name;
	int64_t end = lease_end(s->protect);
	struct timespec t = { end / GW_NS_PER_S, end % GW_NS_PER_S };
	struct gw_error ignored;
	char why[GW_ERROR_MAX];
	int r;

	/* Until then it may run, and then it stands. */
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL))
		;
	if (arbiter_agrees(s))
		return go_on(s, "; the arbiter agreed", err);
	memcpy(why, err->msg, sizeof(why));
	gw_fail_as(err, GW_FAULT_UNCERTAIN, err->code,
		   "%.500s. The VM stands still here, because the standby may "
		   "run it. Look at %.150s: if the VM runs there, end the one "
		   "here; if it does not, 'godwit resume %s' runs it here",
		   why, s->c.chan->peer, name);
	r = end_vm(s, false, why, &ignored);
	if (r)
		gw_warn("'%s' may not be marked as standing still: %s", name,
			ignored.msg);
	return -err->code;
}

/* The driver may only know that nobody answers. */
static bool vm_is_dead(struct gw_source *s, int r)
{
	struct gw_error ignored;

	return r == -ESRCH || gw_track_scan(s->track, &ignored) == -ESRCH;
}

/* There is nothing here that could go on. */
static int vm_died(struct gw_source *s, struct gw_error *err)
{
	struct gw_error ignored;
	char why[GW_ERROR_MAX];

	if (!s->protect->exposed)
		return go_on(s, "", err);
	gw_lease_holder_free(s->protect->lease);
	s->protect->lease = NULL;
	memcpy(why, err->msg, sizeof(why));
	if (end_vm(s, false, why, &ignored))
		gw_debug("end: %s", ignored.msg);
	return gw_fail_as(
		err, GW_FAULT_UNCERTAIN, ESRCH,
		"%.700s; the standby %.150s takes over from checkpoint %llu",
		why, s->c.chan->peer, (unsigned long long)s->protect->acked);
}

static int end_badly(struct gw_source *s, int r, struct gw_error *err)
{
	struct gw_protect *p = s->protect;

	if (p->handed && s->peer_not_here)
		return go_on(s, "", err);
	if (p->handed)
		return gw_source_uncertain(s, err);
	if (vm_is_dead(s, r))
		return vm_died(s, err);
	gw_track_stop(s->track);
	(void)gw_source_protect_explain(s, r, err);
	if (err->fault == GW_FAULT_CANCELLED)
		gw_progress_status(s->c.progress, GODWIT_STATUS_CANCELLING);
	if (gw_protect_settle(s))
		return go_on(s, "", err);
	if (!p->fence) {
		gw_warn("'%s' is not fenced: the standby may run it, too",
			s->c.vm->info.name);
		return go_on(s, ", and not fenced: the standby may run it, too",
			     err);
	}
	return stand_still(s, err);
}

int gw_protect_end(struct gw_source *s, int r, struct gw_error *err)
{
	if (!r) {
		gw_progress_status(s->c.progress, GODWIT_STATUS_COMPLETED);
		return 0;
	}
	r = end_badly(s, r, err);
	if (r)
		gw_progress_status(s->c.progress, GODWIT_STATUS_FAILED);
	return r;
}
