/* SPDX-License-Identifier: BSD-3-Clause */
/* protect.c - see protect.h: setup and the loop. */
#include "source/protect.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/live.h"
#include "base/pause.h"
#include "base/scope.h"
#include "source/join.h"

#define FENCE_PERCENT 60 /* of the standby's time-out, unless told */
#define LOOK_NS	      (10 * GW_NS_PER_MS)
#define MAX_PASSES    30 /* before the first checkpoint */
#define SMALL_ENOUGH  (1u << 20)
/* From this many scan periods on there is time for two speculative passes. */
#define LONG_INTERVAL 10

/* --- setup ---------------------------------------------------------------- */

int gw_source_protect_new(struct gw_source *s, struct gw_error *err)
{
	struct gw_protect *p = s->protect = calloc(1, sizeof(*p));

	if (!p)
		return gw_fail(err, ENOMEM, "no memory to protect a VM");
	pthread_mutex_init(&p->lock, NULL);
	p->stop.fd = -1;
	p->ops = s->c.vm->ops->checkpoint;
	p->fence = s->c.params->fence;
	s->c.chan->stop = &p->stop;
	return gw_cancel_init(&p->stop, err);
}

void gw_source_protect_free(struct gw_source *s)
{
	struct gw_protect *p = s->protect;

	if (!p)
		return;
	gw_lease_holder_free(p->lease);
	s->c.chan->stop = NULL;
	gw_shadow_fini(&p->shadow);
	gw_cancel_fini(&p->stop);
	pthread_mutex_destroy(&p->lock);
	free(p);
	s->protect = NULL;
}

/* Before anything is said to anybody. */
int gw_source_protect_setup(struct gw_source *s, struct gw_error *err)
{
	const struct godwit_params *params = s->c.params;
	const struct gw_vm *vm = s->c.vm;

	if (!s->protect->ops)
		return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				  "'%s' cannot be protected: no checkpoints "
				  "are taken of a VM in %s",
				  vm->info.name, vm->info.vmm);
	if (strcmp(params->disks, "none"))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "disks=%s: a standby has no copy of a disk "
				  "that follows; 'protect' needs storage that "
				  "both hosts share",
				  params->disks);
	if (params->verify)
		return gw_fail_as(
			err, GW_FAULT_USAGE, EINVAL,
			"verify: checkpoints are not compared; leave it out");
	return gw_join_possible(s->c.uri ? s->c.uri : "", "a lease", err);
}

static int fence_after(struct gw_source *s, struct gw_error *err)
{
	int64_t asked = s->c.params->fence_after_ns;
	struct gw_protect *p = s->protect;

	p->fence_ns = asked ? asked : p->timeout_ns / 100 * FENCE_PERCENT;
	if (p->fence_ns < p->timeout_ns)
		return 0;
	return gw_fail_as(
		err, GW_FAULT_USAGE, EINVAL,
		"fence-after of %lld ms is not before the standby takes over "
		"(timeout of %lld ms there): lower the one or raise the other",
		(long long)(asked / GW_NS_PER_MS),
		(long long)(p->timeout_ns / GW_NS_PER_MS));
}

/* The lease's thread: the VM may run until @until_ns. */
static void renew(int64_t until_ns, void *arg)
{
	struct gw_source *s = arg;
	struct gw_protect *p = s->protect;
	struct gw_error err = { 0 };

	if (until_ns == INT64_MIN) {
		gw_cancel_request(&p->stop);
		return;
	}
	GW_LOCKED(&p->lock);
	p->until_ns = until_ns;
	if (p->armed && p->ops->lease(s->c.vm, until_ns, &err)) {
		gw_warn("the lease of '%s' cannot be kept: %s",
			s->c.vm->info.name, err.msg);
		gw_cancel_request(&p->stop);
	}
	if (until_ns == INT64_MAX)
		gw_cancel_request(&p->stop);
}

int gw_source_protect_join(struct gw_source *s, const struct gw_hello *theirs,
			   struct gw_error *err)
{
	int64_t limit_ms = s->c.params->connect_timeout_ns / GW_NS_PER_MS;
	unsigned int id = gw_source_channels(s->c.params);
	struct gw_protect *p = s->protect;
	struct gw_chan *c;
	int r;

	p->timeout_ns = theirs->timeout_ms * GW_NS_PER_MS;
	r = fence_after(s, err);
	if (r)
		return r;
	c = gw_join_connect(s->c.uri, theirs->session, (uint8_t)id, limit_ms,
			    s->c.cancel, err);
	if (!c) {
		gw_error_prefix(err, "connection of the lease");
		return -err->code;
	}
	p->lease = gw_lease_hold(c, p->timeout_ns, p->fence_ns, renew, s, err);
	if (!p->lease)
		return -err->code;
	return gw_lease_first(p->lease, limit_ms, err);
}

/* --- what is waited for --------------------------------------------------- */

int gw_protect_lease_error(struct gw_source *s, struct gw_error *err)
{
	struct gw_protect *p = s->protect;
	const char *peer = s->c.chan->peer;

	switch (gw_lease_held(p->lease)) {
	case GW_LEASE_ENDED:
		return gw_fail(err, ECONNABORTED,
			       "the standby %s ended: it will not take over",
			       peer);
	case GW_LEASE_EXPIRED:
		return gw_fail(err, ETIMEDOUT,
			       "the standby %s did not answer for %lld ms",
			       peer, (long long)(p->fence_ns / GW_NS_PER_MS));
	case GW_LEASE_HELD:
		break;
	}
	return gw_fail(err, ECONNRESET,
		       "the connection of the lease to the standby %s was lost",
		       peer);
}

int gw_source_protect_check(struct gw_source *s, struct gw_error *err)
{
	if (s->protect->bye)
		return gw_fail(err, ECONNABORTED, "the standby %s ended",
			       s->c.chan->peer);
	if (!gw_cancel_requested(&s->protect->stop))
		return 0;
	return gw_protect_lease_error(s, err);
}

void gw_protect_rest(struct gw_source *s, int64_t ns)
{
	struct pollfd p[] = {
		{ .fd = s->c.chan->rfd, .events = POLLIN },
		{ .fd = gw_cancel_fd(s->c.cancel), .events = POLLIN },
		{ .fd = s->protect->stop.fd, .events = POLLIN },
	};
	struct timespec t = { 0, ns < LOOK_NS ? ns : LOOK_NS };

	if (ns > 0)
		ppoll(p, 3, &t, NULL);
}

/* The standby may want to take over before @due_ns: then that is now. */
static int wait_until(struct gw_source *s, int64_t due_ns, struct gw_error *err)
{
	int r = s->to->check(s, err);

	while (!r && !s->protect->failover && gw_now_ns() < due_ns) {
		gw_protect_rest(s, due_ns - gw_now_ns());
		r = s->to->check(s, err);
		gw_progress_tick(s->c.progress);
	}
	return r;
}

/* --- before the first checkpoint ------------------------------------------ */

static int pass(struct gw_source *s, struct gw_error *err)
{
	s->now->pass++;
	return gw_source_pass_part(s, err);
}

/*
 * All of the RAM, then what changed meanwhile, as long as that gets less. What
 * is left goes with the first checkpoint, however much it is.
 */
static int copy_all(struct gw_source *s, struct gw_error *err)
{
	uint64_t last = UINT64_MAX, left;
	int r;

	gw_progress_status(s->c.progress, GODWIT_STATUS_ACTIVE);
	r = gw_source_pass_first(s, err);
	gw_pause_at(GW_PAUSE_SOURCE_PASS);
	for (int i = 0; !r && i < MAX_PASSES; i++) {
		r = gw_source_pass_pace(s, err);
		if (!r)
			r = gw_source_pass_scan(s, err);
		left = s->now->remaining;
		if (r || left <= SMALL_ENOUGH || left > last - last / 4)
			break;
		last = left;
		r = pass(s, err);
	}
	return r;
}

/* From here on the VM keeps to the lease. */
static int arm(struct gw_source *s, struct gw_error *err)
{
	struct gw_protect *p = s->protect;

	if (!p->fence)
		return 0;
	GW_LOCKED(&p->lock);
	p->armed = true;
	return p->ops->lease(s->c.vm, p->until_ns, err);
}

static int begin(struct gw_source *s, struct gw_error *err)
{
	const struct gw_vm_checkpoint_options o = {
		.hold_network = s->c.params->hold_network,
		.fence = s->protect->fence
	};
	struct gw_protect *p = s->protect;
	int r = gw_shadow_init(&p->shadow, &s->c.vm->ram, err);

	p->running = s->c.vm->info.running;
	if (!r)
		r = s->to->check(s, err);
	if (!r)
		r = p->ops->begin(s->c.vm, &o, err);
	if (r)
		return r;
	p->begun = true;
	p->nbytes = s->to->nbytes(s);
	gw_progress_status(s->c.progress, GODWIT_STATUS_COLO);
	return arm(s, err);
}

/* --- the loop ------------------------------------------------------------- */

/* What is sent now need not be copied while the VM stands. */
static int speculate_at(struct gw_source *s, int64_t due_ns,
			struct gw_error *err)
{
	struct gw_protect *p = s->protect;
	int r = wait_until(s, due_ns, err);
	int64_t t0 = gw_now_ns();

	if (r || p->failover ||
	    t0 - s->last_scan_ns < GW_SOURCE_SCAN_PERIOD_NS / 2)
		return r;
	r = gw_source_pass_scan(s, err);
	p->nspeculated += s->now->remaining >> GW_PAGE_BITS;
	if (!r)
		r = pass(s, err);
	p->speculate_ns = gw_now_ns() - t0;
	return r;
}

/* So long before the stop that it is over when that is due, if the last one
 * was as long. */
static int64_t ahead(const struct gw_protect *p, int64_t interval)
{
	int64_t most = interval - GW_SOURCE_SCAN_PERIOD_NS;

	if (most > interval / 2)
		most = interval / 2;
	return p->speculate_ns < most ? p->speculate_ns : most;
}

/*
 * From one checkpoint to the next. A scan makes the guest fault once for each
 * page that it writes afterwards, so there are none between two stops that are
 * close, one right before the stop when they are not, and one in the middle,
 * too, when there is plenty of time.
 */
static int turn(struct gw_source *s, struct gw_error *err)
{
	int64_t interval = GW_LIVE(s->c.params->interval_ns);
	struct gw_protect *p = s->protect;
	int64_t due = p->taken_ns ? p->taken_ns + interval : gw_now_ns();
	int r = 0;

	if (interval >= LONG_INTERVAL * GW_SOURCE_SCAN_PERIOD_NS)
		r = speculate_at(s, due - interval / 2, err);
	if (!r && interval >= GW_SOURCE_SCAN_PERIOD_NS)
		r = speculate_at(s, due - ahead(p, interval), err);
	if (!r)
		r = wait_until(s, due, err);
	if (r)
		return r;
	/* A first one has to be there before there can be a last one. */
	return p->failover && p->acked ? gw_protect_hand_over(s, err)
				       : gw_protect_checkpoint(s, false, err);
}

int gw_source_protect(struct gw_source *s, bool *undo, struct gw_error *err)
{
	struct gw_protect *p = s->protect;
	int r = copy_all(s, err);

	if (!r)
		r = begin(s, err);
	while (!r && !p->handed)
		r = turn(s, err);
	*undo = r && !p->begun;
	if (!*undo)
		return gw_protect_end(s, r, err);
	/* It has nothing yet to take over with, and need not wait for us. */
	(void)gw_protect_settle(s);
	return r;
}
