/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * handover.c - from "what is left fits" to "it runs there".
 *
 *	save_begin	the VMM is asked to stop the VM; passes go on meanwhile
 *	stopped		last scan, last pages, verification: RAM is complete;
 *			what is left of the disks (disks.h)
 *	DEVICE...	the device state follows
 *	READY		the destination has loaded it and stands paused
 *	save_commit	our VMM gives the VM up
 *	save_release	nothing here will run it by itself, not even if we die
 *	GO		from here on only the destination may run it
 *	RUNNING		it does
 *
 * Whatever fails before GO: save_abort, the VM goes on here. After GO nobody
 * guesses (docs/internals/hand-over.md has a row for each point).
 */
#include <errno.h>

#include "base/live.h"
#include "base/pause.h"
#include "base/scope.h"
#include "base/trace.h"
#include "source/internal.h"
#include "wire/section.h"

#define STOP_TIMEOUT_NS (30 * GW_NS_PER_S)

/* One short pass while the VMM is getting ready to stop the VM. */
static int pass_meanwhile(struct gw_source *s, struct gw_error *err)
{
	int r = gw_source_pass_scan(s, err);

	return r ? r : gw_source_pass_part(s, err);
}

/*
 * The last pass is not limited. So what is left to it need not be either,
 * while the VM still runs: under a limit that is most of what it would stand
 * for. A sender that kept to its limit would also see too late that it stands.
 * Without a limit, only what is so little that not more is written meanwhile.
 */
static int send_what_is_left(struct gw_source *s, struct gw_error *err)
{
	int64_t ns = gw_converge_estimate(s->now->remaining, s->ram_rate);

	s->unlimited = true;
	if (!s->track || !s->now->remaining ||
	    (!GW_LIVE(s->c.params->max_bandwidth) &&
	     (ns < 0 || ns > GW_CONVERGE_SHORT_NS)))
		return 0;
	return gw_source_pass_part(s, err);
}

int gw_source_stop_vm(struct gw_source *s, struct gw_error *err)
{
	int64_t deadline = gw_now_ns() + STOP_TIMEOUT_NS;
	struct gw_vm *vm = s->c.vm;
	bool stopped = false;
	int r;

	gw_moment("switch over");
	r = send_what_is_left(s, err);
	if (!r)
		r = vm->ops->save_begin(vm, err);
	gw_pause_at(GW_PAUSE_SOURCE_SAVING);
	while (!r) {
		r = vm->ops->save_poll(vm, 2, &stopped, err);
		if (r || stopped)
			break;
		if (gw_now_ns() > deadline)
			return gw_fail(err, ETIMEDOUT,
				       "the VMM did not stop the VM within %d s",
				       (int)(STOP_TIMEOUT_NS / GW_NS_PER_S));
		r = s->to->check(s, err);
		/* What QEMU sent so far (ROMs, video RAM) need not wait. */
		if (!r)
			r = vm->ops->save_read(vm, false, s->to->device, s,
					       err);
		if (!r && s->track)
			r = pass_meanwhile(s, err);
	}
	if (r)
		return r;
	s->stopped_ns = vm->stopped_ns ? vm->stopped_ns : gw_now_ns();
	gw_moment_was("stopped", s->stopped_ns);
	gw_moment("stop seen");
	gw_pause_at(GW_PAUSE_SOURCE_STOPPED);
	return 0;
}

int gw_source_last_scan(struct gw_source *s, struct gw_error *err)
{
	int r;

	gw_progress_status(s->c.progress, GODWIT_STATUS_PRE_SWITCHOVER);
	if (!s->track)
		return 0;
	s->now->pass++;
	r = gw_source_pass_scan(s, err);
	gw_encode_pass(&s->encode);
	if (!r)
		r = s->to->pass_begin(s, true, err);
	return r ? r : gw_source_holes(s, true, err);
}

static int last_pass(struct gw_source *s, struct gw_error *err)
{
	int r;

	gw_record_put(&s->out, GW_RECORD_STOPPED, false, 0);
	r = gw_source_last_scan(s, err);
	gw_moment("last scan");
	if (!r)
		r = gw_source_pass_send(s, true, err);
	gw_moment("last page sent");
	if (!r && s->verify)
		r = gw_source_verify(s, err);
	return r;
}

static int send_device(struct gw_source *s, struct gw_error *err)
{
	struct gw_vm *vm = s->c.vm;
	int r;

	gw_progress_status(s->c.progress, GODWIT_STATUS_DEVICE);
	r = vm->ops->save_read(vm, true, s->to->device, s, err);
	if (r)
		return r;
	gw_pause_at(GW_PAUSE_SOURCE_DEVICE);
	gw_record_put(&s->out, GW_RECORD_DEVICE_END, true, 16);
	gw_write_be64(&s->out, s->now->device_bytes);
	gw_write_be64(&s->out, XXH3_64bits_digest(s->device_hash));
	s->complete = true;
	r = gw_source_flush_question(s, err);
	gw_moment("device state sent");
	return r;
}

/* What fails half way was not said: the destination obeys a whole GO only. */
int gw_source_say_go(struct gw_source *s, bool run, struct gw_error *err)
{
	int r;

	gw_record_put(&s->out, GW_RECORD_GO, true, 1);
	gw_write_u8(&s->out, run);
	s->c.chan->cancel = NULL; /* too late for that */
	r = gw_write_flush(&s->out, err);
	s->go_sent = !r;
	s->now->transferred = s->to->nbytes(s);
	GW_TRACE1(go, r);
	return r;
}

/*
 * Our VMM has given the VM up; tell the destination to run it. A destination
 * that is gone is better noticed before than after.
 */
static int send_go(struct gw_source *s, struct gw_error *err)
{
	int r = gw_source_peer_check(s, err);

	if (r)
		return r;
	s->c.vm->ops->save_release(s->c.vm);
	r = gw_source_say_go(s, s->c.vm->info.running, err);
	gw_moment("GO sent");
	return r;
}

int gw_source_uncertain(struct gw_source *s, struct gw_error *err)
{
	gw_error_prefix(err,
			"the hand-over of '%s' is uncertain: the destination was told to run the VM and its confirmation did not come. The VM stands still here. Look at the destination: if the VM runs there, end the one here; if it cannot run there, 'godwit resume %s' runs it here",
			s->c.vm->info.name, s->c.vm->info.name);
	err->fault = GW_FAULT_UNCERTAIN;
	return -err->code;
}

int gw_source_hand_over(struct gw_source *s, struct gw_error *err)
{
	int64_t limit_ms = s->c.params->handover_timeout_ns / GW_NS_PER_MS;
	struct gw_vm *vm = s->c.vm;
	int r = gw_source_disks_complete(s, err);

	if (!r)
		r = last_pass(s, err);
	if (!r)
		r = gw_source_disks_end(s, err);
	if (!r)
		r = send_device(s, err);
	if (!r)
		r = gw_source_peer_wait(s, GW_RECORD_READY, limit_ms,
					"load the device state", err);
	gw_moment("READY read");
	if (!r)
		gw_pause_at(GW_PAUSE_SOURCE_READY);
	/* The last look before the point of no return. */
	if (!r)
		r = gw_source_peer_check(s, err);
	if (!r)
		r = vm->ops->save_commit(vm, err);
	gw_moment("committed");
	if (!r) {
		gw_pause_at(GW_PAUSE_SOURCE_COMMITTED);
		r = send_go(s, err);
	}
	if (r)
		return r;
	gw_pause_at(GW_PAUSE_SOURCE_GO);
	r = gw_source_peer_wait(s, GW_RECORD_RUNNING, limit_ms,
				"confirm that the VM runs", err);
	if (r)
		return s->peer_not_here ? r :
						       gw_source_uncertain(s, err);
	gw_moment("RUNNING read");
	s->now->downtime_ns = gw_now_ns() - s->stopped_ns;
	vm->ops->save_done(vm);
	return 0;
}
