/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * synthetic_checkpoint.c - checkpoints of a synthetic VM. In the place of the
 * guardian is a thread. What the VM sends is the number of its writes: so many
 * of them somebody outside has seen.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"
#include "vm/synthetic_internal.h"

/* Under the lock. As long as there is a limit, until it is reached. */
static void wait_lease(struct synthetic *s)
{
	struct synthetic_checkpoint *ck = &s->ck;
	struct timespec t = { ck->until / GW_NS_PER_S,
			      ck->until % GW_NS_PER_S };

	if (ck->until == INT64_MAX || ck->fenced)
		pthread_cond_wait(&ck->moved, &s->lock);
	else
		pthread_cond_timedwait(&ck->moved, &s->lock, &t);
}

static void *keep_lease(void *arg)
{
	struct synthetic *s = arg;
	struct synthetic_checkpoint *ck = &s->ck;

	GW_LOCKED(&s->lock);
	while (!ck->over) {
		wait_lease(s);
		if (!ck->over && !ck->fenced && gw_now_ns() >= ck->until) {
			ck->fenced = true;
			gw_synthetic_set_run_locked(s, false);
		}
	}
	return NULL;
}

static void end_lease(struct synthetic *s)
{
	struct synthetic_checkpoint *ck = &s->ck;

	if (!ck->thread_runs)
		return;
	pthread_mutex_lock(&s->lock);
	ck->over = true;
	pthread_cond_signal(&ck->moved);
	pthread_mutex_unlock(&s->lock);
	pthread_join(ck->thread, NULL);
	ck->thread_runs = false;
}

static uint64_t writes(struct synthetic *s)
{
	return __atomic_load_n(&s->writes, __ATOMIC_RELAXED);
}

static void show(struct synthetic *s, uint64_t n)
{
	__atomic_store_n(&s->ck.seen, n, __ATOMIC_RELAXED);
}

static int op_begin(struct gw_vm *vm, const struct gw_vm_checkpoint_options *o,
		    struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);
	struct synthetic_checkpoint *ck = &s->ck;
	int r = gw_synthetic_inject(s, GW_SYNTHETIC_FAIL_CHECKPOINT_BEGIN,
				    err);

	if (r)
		return r;
	ck->until = INT64_MAX;
	ck->fenced = ck->over = false;
	ck->hold = o->hold_network;
	ck->states = 0;
	show(s, writes(s));
	r = gw_thread_start(&ck->thread, "gw-lease", keep_lease, s, err);
	ck->thread_runs = ck->begun = !r;
	return r;
}

static int fenced(struct gw_vm *vm, struct gw_error *err)
{
	return gw_fail(err, EPERM,
		       "the time until which '%s' was allowed to run is over: it was stopped",
		       vm->info.name);
}

static int op_lease(struct gw_vm *vm, int64_t until_ns, struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);
	GW_LOCKED(&s->lock);

	if (s->ck.fenced)
		return fenced(vm, err);
	s->ck.until = until_ns;
	pthread_cond_signal(&s->ck.moved);
	return 0;
}

static int op_stop(struct gw_vm *vm, struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);
	bool was = vm->info.running;
	int r = gw_synthetic_inject(s, GW_SYNTHETIC_FAIL_STOP, err);

	if (r)
		return r;
	vm->stopped_ns = gw_now_ns();
	s->ck.ran = was;
	gw_synthetic_set_run(s, false);
	vm->info.running = was; /* what a standby is told */
	s->ck.stopped_at = writes(s);
	return 0;
}

static int op_state_begin(struct gw_vm *vm, struct gw_error *err)
{
	return gw_synthetic_inject(gw_synthetic_of(vm),
				   GW_SYNTHETIC_FAIL_STATE, err);
}

static int add_part(void *arg, const void *p, size_t len, struct gw_error *err)
{
	struct synthetic_checkpoint *ck = arg;

	memcpy(ck->part + ck->npart, p, len);
	ck->npart += len;
	return 0;
}

static bool wants_base(const struct synthetic *s)
{
	return !s->ck.states ||
	       (s->c.base_every && s->ck.states % s->c.base_every == 0);
}

/* The base has the number of writes as it was then, the part as it is now. */
static int op_state_end(struct gw_vm *vm, struct gw_vm_state *st,
			struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);
	struct synthetic_checkpoint *ck = &s->ck;
	uint8_t count[8];

	if (!ck->part)
		ck->part = malloc((size_t)s->c.nblocks *
					  (s->c.nbytes >> GW_PAGE_BITS) * 4 +
				  sizeof(count));
	if (!ck->part)
		return gw_fail(err, ENOMEM, "no memory for a device state");
	if (wants_base(s)) {
		gw_synthetic_put_head(s, ck->base);
		ck->generation++;
	}
	ck->states++;
	ck->npart = 0;
	gw_synthetic_put_pages(s, add_part, ck, err);
	gw_put_be64(count, writes(s));
	add_part(ck, count, sizeof(count), err);
	*st = (struct gw_vm_state){ .base = ck->base,
				    .nbase = sizeof(ck->base),
				    .part = ck->part,
				    .npart = ck->npart,
				    .generation = ck->generation };
	return 0;
}

static int op_cont(struct gw_vm *vm, struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);
	int r = gw_synthetic_inject(s, GW_SYNTHETIC_FAIL_CONT, err);
	GW_LOCKED(&s->lock);

	if (r)
		return r;
	if (s->ck.fenced)
		return fenced(vm, err);
	if (s->ck.ran)
		gw_synthetic_set_run_locked(s, true);
	return 0;
}

static int op_release(struct gw_vm *vm, struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);

	show(s, s->ck.stopped_at);
	return 0;
}

static int op_end(struct gw_vm *vm, bool run, const char *why,
		  struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);
	struct synthetic_checkpoint *ck = &s->ck;

	if (!ck->begun)
		return 0;
	end_lease(s);
	ck->begun = ck->fenced = false;
	if (!run) {
		gw_synthetic_set_run(s, false);
		if (!ck->hold)
			show(s, writes(s));
		return 0;
	}
	ck->hold = false;
	if (vm->info.running)
		gw_synthetic_set_run(s, true);
	return 0;
}

const struct gw_vm_checkpoint_ops gw_synthetic_checkpoint_ops = {
	.begin = op_begin,
	.lease = op_lease,
	.stop = op_stop,
	.state_begin = op_state_begin,
	.state_end = op_state_end,
	.cont = op_cont,
	.release = op_release,
	.end = op_end,
};

void gw_synthetic_checkpoint_init(struct synthetic *s)
{
	pthread_condattr_t a;

	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_cond_init(&s->ck.moved, &a);
	pthread_condattr_destroy(&a);
}

void gw_synthetic_checkpoint_fini(struct synthetic *s)
{
	end_lease(s);
	pthread_cond_destroy(&s->ck.moved);
	free(s->ck.part);
}

uint64_t gw_synthetic_writes(struct gw_vm *vm)
{
	return writes(gw_synthetic_of(vm));
}

uint64_t gw_synthetic_seen(struct gw_vm *vm)
{
	struct synthetic *s = gw_synthetic_of(vm);

	if (s->ck.hold)
		return __atomic_load_n(&s->ck.seen, __ATOMIC_RELAXED);
	return writes(s);
}
