/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * flush_test.c - pages that bitmaps name are copied, all of them and no other,
 * by any number of threads, however they lie; and every variant of copying a
 * page copies a page.
 */
#include "colo/flush.h"
#include "page/copy.h"
#include "ram/block.h"
#include "test.h"

#define NBLOCKS 3

static uint64_t seed;

static uint64_t pick(uint64_t n)
{
	return test_rand(&seed) % n;
}

/* A block, and what is to be in its memory afterwards. */
struct area {
	uint64_t npages;
	struct gw_bitmap bits, own;
	bool with_own, with_dst1, with_dst2;
	uint8_t *mem[4];  /* src, base, dst1, dst2 */
	uint8_t *want[2]; /* dst1, dst2 */
};

static size_t bytes(const struct area *a)
{
	return a->npages << GW_PAGE_BITS;
}

static uint8_t *pages(size_t len, int content)
{
	uint8_t *p = aligned_alloc(GW_PAGE_SIZE, len);

	for (size_t i = 0; i < len; i += GW_PAGE_SIZE) {
		memset(p + i, content, GW_PAGE_SIZE);
		memcpy(p + i + pick(GW_PAGE_SIZE - 8), &(uint64_t){ i }, 8);
	}
	return p;
}

/* Spread over all of it, or close together, or nothing, or everything. */
static void pick_bits(struct gw_bitmap *b)
{
	uint64_t first = pick(b->nbits), n = pick(b->nbits - first + 1);

	switch (pick(5)) {
	case 0:
		break;
	case 1:
		gw_bitmap_set_range(b, 0, b->nbits);
		break;
	case 2:
		gw_bitmap_set_range(b, first, n);
		break;
	default:
		for (uint64_t k = pick(b->nbits / 3 + 2); k; k--)
			gw_bitmap_set(b, pick(b->nbits));
	}
}

static void area_init(struct area *a)
{
	memset(a, 0, sizeof(*a));
	a->npages = 1 + (pick(3) ? pick(200) : pick(5000));
	CHECK(!gw_bitmap_init(&a->bits, a->npages, NULL));
	CHECK(!gw_bitmap_init(&a->own, a->npages, NULL));
	a->with_own = pick(2);
	a->with_dst1 = pick(4);
	a->with_dst2 = pick(4);
	pick_bits(&a->bits);
	pick_bits(&a->own);
	for (int i = 0; i < 4; i++)
		a->mem[i] = pages(bytes(a), 0x10 + i);
	for (int i = 0; i < 2; i++) {
		a->want[i] = malloc(bytes(a));
		memcpy(a->want[i], a->mem[2 + i], bytes(a));
	}
}

static void area_fini(struct area *a)
{
	gw_bitmap_fini(&a->bits);
	gw_bitmap_fini(&a->own);
	for (int i = 0; i < 4; i++)
		free(a->mem[i]);
	for (int i = 0; i < 2; i++)
		free(a->want[i]);
}

/* The slow way. Return: pages. */
static uint64_t expect(struct area *a)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < a->npages; i++) {
		size_t at = i << GW_PAGE_BITS;
		bool in = gw_bitmap_test(&a->bits, i);
		bool own = a->with_own && gw_bitmap_test(&a->own, i);

		if (in && a->with_dst1)
			memcpy(a->want[0] + at, a->mem[0] + at, GW_PAGE_SIZE);
		if ((in || own) && a->with_dst2)
			memcpy(a->want[1] + at, a->mem[in ? 0 : 1] + at,
			       GW_PAGE_SIZE);
		n += in || own;
	}
	return n;
}

static void check_area(struct area *a, bool clear, uint64_t bits, uint64_t own)
{
	CHECK(!memcmp(a->mem[2], a->want[0], bytes(a)));
	CHECK(!memcmp(a->mem[3], a->want[1], bytes(a)));
	CHECK(gw_bitmap_count(&a->bits) == (clear ? 0 : bits));
	CHECK(gw_bitmap_count(&a->own) == (clear && a->with_own ? 0 : own));
}

static void one_run(struct gw_flush *f, enum gw_flush_split split)
{
	struct gw_flush_block b[NBLOCKS];
	struct area a[NBLOCKS];
	uint64_t want = 0, count[NBLOCKS][2];
	bool clear = pick(2);

	for (int i = 0; i < NBLOCKS; i++) {
		area_init(&a[i]);
		count[i][0] = gw_bitmap_count(&a[i].bits);
		count[i][1] = gw_bitmap_count(&a[i].own);
		want += expect(&a[i]);
		b[i] = (struct gw_flush_block){
			.bits = &a[i].bits,
			.own = a[i].with_own ? &a[i].own : NULL,
			.src = a[i].mem[0],
			.base = a[i].mem[1],
			.dst1 = a[i].with_dst1 ? a[i].mem[2] : NULL,
			.dst2 = a[i].with_dst2 ? a[i].mem[3] : NULL,
		};
	}
	CHECK(gw_flush_run(f, b, NBLOCKS, split, clear) == want);
	for (int i = 0; i < NBLOCKS; i++) {
		check_area(&a[i], clear, count[i][0], count[i][1]);
		area_fini(&a[i]);
	}
}

static void copies_what_is_named(enum gw_flush_split split)
{
	for (unsigned int n = 1; n <= 8; n++) {
		struct gw_error err = { 0 };
		struct gw_flush *f = gw_flush_new(n, &err);

		REQUIRE(f);
		for (int i = 0; i < 12; i++)
			one_run(f, split);
		gw_flush_free(f);
	}
}

static void the_queue_copies_what_is_named(void)
{
	copies_what_is_named(GW_FLUSH_QUEUE);
}

static void the_static_split_copies_what_is_named(void)
{
	copies_what_is_named(GW_FLUSH_STATIC);
}

/* Threads that are started, perhaps not yet there, and ended; and runs that
 * follow each other closely. */
static void comes_and_goes(void)
{
	struct gw_bitmap bits;
	uint8_t *src = pages(256 << GW_PAGE_BITS, 1);
	uint8_t *dst = pages(256 << GW_PAGE_BITS, 2);
	struct gw_flush_block b = { .bits = &bits, .src = src, .dst1 = dst };

	CHECK(!gw_bitmap_init(&bits, 256, NULL));
	for (int i = 0; i < 60; i++) {
		struct gw_flush *f =
			gw_flush_new(1 + (unsigned int)pick(8), NULL);

		for (uint64_t k = pick(20); k; k--) {
			uint64_t page = pick(256);
			uint8_t *at = src + (page << GW_PAGE_BITS);

			memset(at, (int)k, GW_PAGE_SIZE);
			gw_bitmap_set(&bits, page);
			CHECK(gw_flush_run(f, &b, 1, GW_FLUSH_QUEUE, true) ==
			      1);
			CHECK(!memcmp(dst + (page << GW_PAGE_BITS), at,
				      GW_PAGE_SIZE));
		}
		CHECK(gw_flush_run(f, &b, 0, GW_FLUSH_QUEUE, true) == 0);
		gw_flush_free(f);
	}
	gw_flush_free(NULL);
	gw_bitmap_fini(&bits);
	free(src);
	free(dst);
}

static void every_variant_copies_a_page(void)
{
	uint8_t *src = pages(3 * GW_PAGE_SIZE, 0x33);
	uint8_t *dst = pages(3 * GW_PAGE_SIZE, 0x44);
	uint8_t *was = pages(3 * GW_PAGE_SIZE, 0);
	int n = 0;

	for (const struct gw_page_copy_impl *i = gw_page_copy_impls; i->name;
	     i++) {
		if (!i->usable())
			continue;
		for (unsigned int k = 0; k < GW_PAGE_SIZE; k++)
			src[GW_PAGE_SIZE + k] = (uint8_t)test_rand(&seed);
		memcpy(was, dst, 3 * GW_PAGE_SIZE);
		i->copy(dst + GW_PAGE_SIZE, src + GW_PAGE_SIZE);
		CHECK(!memcmp(dst + GW_PAGE_SIZE, src + GW_PAGE_SIZE,
			      GW_PAGE_SIZE));
		CHECK(!memcmp(dst, was, GW_PAGE_SIZE) &&
		      !memcmp(dst + 2 * GW_PAGE_SIZE, was + 2 * GW_PAGE_SIZE,
			      GW_PAGE_SIZE));
		n++;
	}
	CHECK(n > 0);
	free(src);
	free(dst);
	free(was);
}

int main(void)
{
	seed = test_seed();
	RUN(every_variant_copies_a_page);
	RUN(the_queue_copies_what_is_named);
	RUN(the_static_split_copies_what_is_named);
	RUN(comes_and_goes);
	return test_done();
}
