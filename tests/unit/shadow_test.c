/* SPDX-License-Identifier: BSD-3-Clause */
/* shadow_test.c - the copy of a checkpoint's pages against a plain one; and
 * percentiles of pauses against sorting. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "source/pauses.h"
#include "source/shadow.h"

#define PAGES 512

static uint64_t seed;

static bool is_backed(const struct gw_shadow *sh, uint64_t page)
{
	unsigned char in;

	CHECK(!mincore(sh->block[0].mem + (page << GW_PAGE_BITS), 1, &in));
	return in & 1;
}

static void fill(struct gw_ramblock *b, uint64_t page)
{
	uint64_t x = test_rand(&seed) | 1;

	for (int i = 0; i < 512; i++)
		((uint64_t *)(void *)(b->host + (page << GW_PAGE_BITS)))[i] =
			x + (uint64_t)i;
}

static struct gw_ramblock *one_block(struct gw_ram *ram)
{
	int fd = memfd_create("shadow", MFD_CLOEXEC);
	struct gw_ramblock *b;

	CHECK(fd >= 0 && !ftruncate(fd, PAGES * GW_PAGE_SIZE));
	gw_ram_init(ram);
	b = gw_ram_add(ram, "ram", PAGES * GW_PAGE_SIZE, GW_PAGE_SIZE, fd, 0,
		       NULL);
	CHECK(b && !gw_ram_map(ram, true, NULL));
	return b;
}

/* What was dirty is as it was then; what was a hole is known; the rest of the
 * RAM was neither read nor is it backed. */
static void keeps_what_was_there(void)
{
	static uint8_t model[PAGES * GW_PAGE_SIZE];
	struct gw_shadow sh = { 0 };
	struct gw_error err = { 0 };
	struct gw_ramblock *b;
	struct gw_ram ram;
	bool hole[PAGES];

	b = one_block(&ram);
	CHECK_OK(gw_shadow_init(&sh, &ram, &err), &err);
	for (int round = 0; round < 20; round++) {
		memset(hole, 1, sizeof(hole));
		for (uint64_t i = 0; i < PAGES; i++) {
			uint64_t x = test_rand(&seed);

			if (x % 3 == 0)
				CHECK(!fallocate(b->fd,
						 FALLOC_FL_PUNCH_HOLE |
							 FALLOC_FL_KEEP_SIZE,
						 (off_t)(i * GW_PAGE_SIZE),
						 GW_PAGE_SIZE));
			else
				fill(b, i);
			hole[i] = x % 3 == 0;
			if (x >> 60 < 6)
				gw_bitmap_set(&b->dirty, i);
		}
		for (uint64_t i = 0; i < PAGES; i++)
			if (!hole[i])
				memcpy(model + i * GW_PAGE_SIZE,
				       b->host + i * GW_PAGE_SIZE,
				       GW_PAGE_SIZE);
		CHECK_OK(gw_shadow_copy(&sh, &ram, &err), &err);
		for (uint64_t i = 0; i < PAGES; i++)
			fill(b, i); /* it runs on */
		for (uint64_t i = 0; i < PAGES; i++) {
			uint64_t at = i * GW_PAGE_SIZE, n;
			bool was;

			if (!gw_bitmap_test(&b->dirty, i))
				continue;
			n = gw_shadow_alike(&sh, 0, i, PAGES - i, &was);
			CHECK(n > 0 && was == hole[i]);
			CHECK(was || !memcmp(sh.block[0].mem + at, model + at,
					     GW_PAGE_SIZE));
			for (uint64_t k = 1; k < n; k++)
				CHECK(!gw_bitmap_test(&b->dirty, i + k) ||
				      hole[i + k] == was);
		}
		gw_bitmap_clear_all(&b->dirty);
		gw_shadow_done(&sh);
	}
	gw_shadow_fini(&sh);
	gw_ram_fini(&ram);
}

/* Memory stays for the next time, but not more than the bound. */
static void memory_is_bounded(void)
{
	struct gw_shadow sh = { 0 };
	struct gw_ramblock *b;
	struct gw_ram ram;

	b = one_block(&ram);
	CHECK(!gw_shadow_init(&sh, &ram, NULL));
	sh.keep = 8;
	for (uint64_t i = 0; i < 8; i++) {
		fill(b, i);
		gw_bitmap_set(&b->dirty, i);
	}
	CHECK(!gw_shadow_copy(&sh, &ram, NULL));
	gw_shadow_done(&sh);
	CHECK(sh.nbacked == 8 && is_backed(&sh, 7) && !is_backed(&sh, 8));
	/* one page more each time: twice what the last one took is kept */
	gw_bitmap_clear_all(&b->dirty);
	fill(b, 100);
	gw_bitmap_set(&b->dirty, 100);
	CHECK(!gw_shadow_copy(&sh, &ram, NULL) && sh.nbacked == 9);
	CHECK(is_backed(&sh, 100));
	gw_shadow_done(&sh);
	CHECK(!sh.nbacked && !is_backed(&sh, 7) && !is_backed(&sh, 100));
	gw_shadow_fini(&sh);
	gw_ram_fini(&ram);
}

/* The nearest rank, of the last ones. */
static void pauses_are_ranked(void)
{
	static struct gw_pauses p;
	struct godwit_stats now = { 0 };

	gw_pauses_stats(&p, &now);
	CHECK(!now.checkpoint_pause_p50_ns);
	gw_pauses_add(&p, 7);
	gw_pauses_stats(&p, &now);
	CHECK(now.checkpoint_pause_p50_ns == 7 &&
	      now.checkpoint_pause_p99_ns == 7 &&
	      now.checkpoint_pause_max_ns == 7);
	/* the first ones are forgotten: 100001 ... 104096 are left */
	for (int64_t i = 1; i <= 4096 + 100000; i++)
		gw_pauses_add(&p, i);
	p.told_ns = 0;
	gw_pauses_stats(&p, &now);
	CHECK(now.checkpoint_pause_p50_ns == 100000 + 2048);
	CHECK(now.checkpoint_pause_p99_ns == 100000 + 4056);
	CHECK(now.checkpoint_pause_max_ns == 104096);
}

int main(void)
{
	seed = test_seed();
	RUN(keeps_what_was_there);
	RUN(memory_is_bounded);
	RUN(pauses_are_ranked);
	return test_done();
}
