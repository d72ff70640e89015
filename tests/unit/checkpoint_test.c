/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * checkpoint_test.c - the checkpoint ops of vm.h on the synthetic VM, driven
 * as an engine does it: what changed is copied into a shadow while the VM
 * stands. Each checkpoint is loaded into another VM, which checks every page.
 */
#include "test.h"

#include <errno.h>
#include <time.h>

#include "base/clock.h"
#include "vm/synthetic.h"

#define RAM_BYTES (4ULL << 20)
#define NPAGES	  (RAM_BYTES / GW_PAGE_SIZE)

static struct gw_synthetic_config config(uint64_t seed)
{
	return (struct gw_synthetic_config){ .name = "a",
					     .seed = seed,
					     .nbytes = RAM_BYTES,
					     .nblocks = 2,
					     .populated = NPAGES / 2,
					     .nthreads = 3,
					     .working_set = NPAGES,
					     .zero_percent = 10 };
}

static struct gw_vm *open_mapped(const struct gw_synthetic_config *c)
{
	struct gw_error err = { 0 };
	struct gw_vm *vm = gw_synthetic_open(c, &err);

	if (vm && gw_ram_map(&vm->ram, true, &err)) {
		gw_vm_close(vm);
		vm = NULL;
	}
	if (!vm)
		fprintf(stderr, "%s\n", err.msg);
	return vm;
}

static void nap_us(long us)
{
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };

	nanosleep(&t, NULL);
}

/* Pages of @from that are dirty, into @to's memory; there they are dirty. */
static void copy_dirty(struct gw_vm *from, struct gw_vm *to)
{
	for (int i = 0; i < from->ram.nblocks; i++) {
		struct gw_ramblock *b = &from->ram.block[i];

		for (uint64_t p = 0; p < gw_ramblock_npages(b); p++)
			if (gw_bitmap_clear(&b->dirty, p)) {
				memcpy(to->ram.block[i].host +
					       (p << GW_PAGE_BITS),
				       b->host + (p << GW_PAGE_BITS),
				       GW_PAGE_SIZE);
				gw_bitmap_set(&to->ram.block[i].dirty, p);
			}
	}
}

static int load(struct gw_vm *vm, const struct gw_vm_state *st,
		struct gw_error *err)
{
	int r = vm->ops->load_begin(vm, err);

	if (!r && st->nbase)
		r = vm->ops->load_write(vm, st->base, st->nbase, err);
	if (!r)
		r = vm->ops->load_write(vm, st->part, st->npart, err);
	return r ? r : vm->ops->load_finish(vm, err);
}

static void all_dirty(struct gw_vm *vm)
{
	for (int i = 0; i < vm->ram.nblocks; i++)
		gw_bitmap_set_range(&vm->ram.block[i].dirty, 0,
				    gw_ramblock_npages(&vm->ram.block[i]));
}

/* One checkpoint of @vm into @shadow, which then must hold all of it. */
static void checkpoint(struct gw_vm *vm, struct gw_track *t,
		       struct gw_vm *shadow, struct gw_vm_state *st)
{
	const struct gw_vm_checkpoint_ops *ops = vm->ops->checkpoint;
	struct gw_error err = { 0 };
	int64_t before = gw_now_ns();

	CHECK_OK(ops->stop(vm, &err), &err);
	CHECK(vm->stopped_ns >= before && vm->stopped_ns <= gw_now_ns());
	CHECK(!gw_synthetic_running(vm));
	CHECK_OK(ops->state_begin(vm, &err), &err);
	CHECK_OK(gw_track_scan(t, &err), &err);
	copy_dirty(vm, shadow);
	CHECK_OK(ops->state_end(vm, st, &err), &err);
	CHECK_OK(ops->cont(vm, &err), &err);
	CHECK(gw_synthetic_running(vm));
	CHECK_OK(load(shadow, st, &err), &err);
	CHECK_OK(gw_synthetic_check(shadow, &err), &err);
}

/* Began, with a tracker; NULL: it cannot run here. */
static struct gw_track *begin(struct gw_vm *vm, bool hold)
{
	struct gw_vm_checkpoint_options o = { .hold_network = hold,
					      .fence = true };
	struct gw_error err = { 0 };
	struct gw_track *t = NULL;

	if (vm->ops->track(vm, "auto", &t, &err)) {
		printf("no tracker here, nothing is checked: %s\n", err.msg);
		test_skips++;
		return NULL;
	}
	CHECK_OK(gw_track_start(t, &err), &err);
	all_dirty(vm);
	CHECK_OK(vm->ops->checkpoint->begin(vm, &o, &err), &err);
	return t;
}

static void each_checkpoint_is_whole(void)
{
	struct gw_synthetic_config ca = config(test_seed()), cb = ca;
	struct gw_vm *a = open_mapped(&ca), *b;
	uint64_t last = 0, changed = 0;
	struct gw_vm_state st = { 0 };
	struct gw_error err = { 0 };
	struct gw_track *t;

	ca.base_every = 7;
	cb.waiting = true;
	cb.name = "b";
	b = open_mapped(&cb);
	REQUIRE(a && b);
	t = begin(a, false);
	for (int i = 0; i < 60 && t; i++) {
		checkpoint(a, t, b, &st);
		CHECK(gw_synthetic_writes(b) >= last);
		last = gw_synthetic_writes(b);
		changed += gw_synthetic_writes(a) > last;
		nap_us(500);
	}
	if (t) {
		CHECK(changed); /* it did run between them */
		CHECK_OK(a->ops->checkpoint->end(a, true, NULL, &err), &err);
		CHECK(gw_synthetic_running(a));
		CHECK_OK(a->ops->checkpoint->end(a, true, NULL, &err), &err);
		/* What was loaded runs on from there. */
		CHECK_OK(b->ops->run(b, &err), &err);
		nap_us(2000);
		CHECK_OK(gw_synthetic_check(b, &err), &err);
		CHECK(gw_synthetic_writes(b) > last);
	}
	gw_track_close(t);
	gw_vm_close(a);
	gw_vm_close(b);
}

static void a_base_stays_until_its_generation_changes(void)
{
	struct gw_synthetic_config c = config(test_seed());
	const struct gw_vm_checkpoint_ops *ops;
	struct gw_vm_checkpoint_options o = { 0 };
	struct gw_error err = { 0 };
	struct gw_vm_state st;
	uint8_t base[256];
	uint64_t generation = 0;
	struct gw_vm *vm;

	c.base_every = 3;
	vm = open_mapped(&c);
	REQUIRE(vm);
	ops = vm->ops->checkpoint;
	CHECK_OK(ops->begin(vm, &o, &err), &err);
	for (int i = 0; i < 9; i++) {
		CHECK_OK(ops->stop(vm, &err), &err);
		CHECK_OK(ops->state_begin(vm, &err), &err);
		CHECK_OK(ops->state_end(vm, &st, &err), &err);
		REQUIRE(st.nbase && st.nbase <= sizeof(base));
		CHECK((st.generation != generation) == (i % 3 == 0));
		if (st.generation == generation)
			CHECK(!memcmp(base, st.base, st.nbase));
		memcpy(base, st.base, st.nbase);
		generation = st.generation;
		CHECK_OK(ops->cont(vm, &err), &err);
	}
	CHECK_OK(ops->end(vm, true, NULL, &err), &err);
	gw_vm_close(vm);
}

static bool stops_within(struct gw_vm *vm, int ms)
{
	int64_t deadline = gw_deadline_ms(ms);

	while (gw_synthetic_running(vm) && gw_deadline_left_ms(deadline))
		nap_us(500);
	return !gw_synthetic_running(vm);
}

static void a_lease_that_ran_out_is_for_good(void)
{
	struct gw_synthetic_config c = config(test_seed());
	const struct gw_vm_checkpoint_ops *ops;
	struct gw_vm_checkpoint_options o = { 0 };
	struct gw_error err = { 0 };
	struct gw_vm *vm = open_mapped(&c);
	int64_t until;

	REQUIRE(vm);
	ops = vm->ops->checkpoint;
	CHECK_OK(ops->begin(vm, &o, &err), &err);
	/* Moved on before it ends, many times: it runs. */
	until = gw_now_ns() + 2000 * GW_NS_PER_MS;
	CHECK_OK(ops->lease(vm, until, &err), &err);
	for (int i = 0; i < 20; i++) {
		until += GW_NS_PER_MS;
		CHECK_OK(ops->lease(vm, until, &err), &err);
	}
	CHECK(gw_synthetic_running(vm));
	/* Earlier than before. */
	until = gw_now_ns() + 30 * GW_NS_PER_MS;
	CHECK_OK(ops->lease(vm, until, &err), &err);
	CHECK(stops_within(vm, 20000));
	CHECK(gw_now_ns() >= until);
	CHECK(ops->lease(vm, INT64_MAX, &err) == -EPERM);
	CHECK_OK(ops->stop(vm, &err), &err);
	CHECK(ops->cont(vm, &err) == -EPERM);
	CHECK(!gw_synthetic_running(vm));
	/* Somebody who knows what the standby did may end it all the same. */
	CHECK_OK(ops->end(vm, true, NULL, &err), &err);
	CHECK(gw_synthetic_running(vm));
	gw_vm_close(vm);
}

static void nothing_unreleased_is_seen(void)
{
	struct gw_synthetic_config c = config(test_seed());
	const struct gw_vm_checkpoint_ops *ops;
	struct gw_vm_checkpoint_options o = { .hold_network = true,
					      .fence = true };
	struct gw_error err = { 0 };
	struct gw_vm *vm = open_mapped(&c);
	uint64_t seen;

	REQUIRE(vm);
	ops = vm->ops->checkpoint;
	CHECK_OK(ops->begin(vm, &o, &err), &err);
	seen = gw_synthetic_seen(vm);
	for (int i = 0; i < 5; i++) {
		uint64_t stopped;

		nap_us(1000);
		CHECK_OK(ops->stop(vm, &err), &err);
		stopped = gw_synthetic_writes(vm);
		CHECK_OK(ops->cont(vm, &err), &err);
		nap_us(1000);
		CHECK(gw_synthetic_seen(vm) == seen);
		CHECK_OK(ops->release(vm, &err), &err);
		CHECK(gw_synthetic_seen(vm) == stopped);
		seen = stopped;
	}
	CHECK_OK(ops->end(vm, false, "test", &err), &err);
	CHECK(gw_synthetic_seen(vm) == seen);
	gw_vm_close(vm);
}

static void faults_are_reported(void)
{
	static const enum gw_synthetic_fault faults[] = {
		GW_SYNTHETIC_FAIL_CHECKPOINT_BEGIN, GW_SYNTHETIC_FAIL_STOP,
		GW_SYNTHETIC_FAIL_STATE, GW_SYNTHETIC_FAIL_CONT
	};

	for (int i = 0; i < 4; i++) {
		struct gw_synthetic_config c = config(5);
		struct gw_vm_checkpoint_options o = { 0 };
		const struct gw_vm_checkpoint_ops *ops;
		struct gw_error err = { 0 };
		struct gw_vm *vm;
		int r[4];

		c.fault = faults[i];
		vm = open_mapped(&c);
		REQUIRE(vm);
		ops = vm->ops->checkpoint;
		r[0] = ops->begin(vm, &o, &err);
		r[1] = ops->stop(vm, &err);
		r[2] = ops->state_begin(vm, &err);
		r[3] = ops->cont(vm, &err);
		for (int k = 0; k < 4; k++)
			CHECK(r[k] == (k == i ? -EIO : 0));
		CHECK_OK(ops->end(vm, true, NULL, &err), &err);
		CHECK(gw_synthetic_running(vm));
		gw_vm_close(vm);
	}
}

static void a_fresh_one_replaces_what_did_not_load(void)
{
	struct gw_synthetic_config ca = config(test_seed()), cb = ca;
	struct gw_vm *a = open_mapped(&ca), *b;
	struct gw_error err = { 0 };
	struct gw_vm_state st;
	struct gw_track *t;

	cb.waiting = true;
	b = open_mapped(&cb);
	REQUIRE(a && b);
	t = begin(a, false);
	if (t) {
		checkpoint(a, t, b, &st);
		CHECK(b->ops->replace(b, &err) == 0);
		CHECK(b->info.waiting && !b->ram.block[0].host);
		CHECK_OK(gw_ram_map(&b->ram, true, &err), &err);
		for (uint64_t i = 0; i < RAM_BYTES; i++)
			if (b->ram.block[1].host[i]) {
				CHECK(!"its RAM is empty");
				break;
			}
		all_dirty(a);
		checkpoint(a, t, b, &st);
		CHECK_OK(b->ops->run(b, &err), &err);
		CHECK(b->ops->replace(b, &err) == -EBUSY);
		CHECK_OK(a->ops->checkpoint->end(a, false, "test", &err),
			 &err);
	}
	gw_track_close(t);
	gw_vm_close(a);
	gw_vm_close(b);
}

/* Pages that either wrote, as @from has them. */
static void flush(struct gw_vm *from, struct gw_vm *to)
{
	for (int i = 0; i < to->ram.nblocks; i++)
		for (uint64_t p = 0; p < NPAGES; p++) {
			bool own = gw_bitmap_clear(&to->ram.block[i].dirty, p);
			bool new = gw_bitmap_clear(&from->ram.block[i].dirty,
						   p);

			if (own || new)
				memcpy(to->ram.block[i].host +
					       (p << GW_PAGE_BITS),
				       from->ram.block[i].host +
					       (p << GW_PAGE_BITS),
				       GW_PAGE_SIZE);
		}
}

/* What a secondary wrote itself, it marked: putting back those pages and the
 * primary's makes it equal again, each time. */
static void a_secondary_runs_between_checkpoints(void)
{
	struct gw_synthetic_config ca = config(test_seed()), cb = ca;
	struct gw_vm *a, *b, *shadow;
	struct gw_error err = { 0 };
	struct gw_vm_state st;
	struct gw_track *t;
	uint64_t own = 0;

	a = open_mapped(&ca);
	cb.waiting = true;
	shadow = open_mapped(&cb);
	cb.secondary = true;
	cb.seed++;
	b = open_mapped(&cb);
	REQUIRE(a && b && shadow);
	t = begin(a, false);
	for (int i = 0; i < 20 && t; i++) {
		checkpoint(a, t, shadow, &st);
		nap_us(500);
		CHECK_OK(b->ops->checkpoint->stop(b, &err), &err);
		if (i == 0)
			all_dirty(b); /* the first copy is a whole one */
		else
			own += gw_ram_dirty_pages(&b->ram);
		flush(shadow, b);
		CHECK_OK(load(b, &st, &err), &err);
		CHECK_OK(gw_synthetic_check(b, &err), &err);
		CHECK_OK(b->ops->run(b, &err), &err);
	}
	CHECK(!t || own);
	gw_track_close(t);
	gw_vm_close(a);
	gw_vm_close(b);
	gw_vm_close(shadow);
}

int main(void)
{
	RUN(each_checkpoint_is_whole);
	RUN(a_base_stays_until_its_generation_changes);
	RUN(a_lease_that_ran_out_is_for_good);
	RUN(nothing_unreleased_is_seen);
	RUN(faults_are_reported);
	RUN(a_fresh_one_replaces_what_did_not_load);
	RUN(a_secondary_runs_between_checkpoints);
	return test_done();
}
