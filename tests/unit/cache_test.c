/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache_test.c - the page cache: against a slow LRU where it is one set,
 * against a dictionary where it is many; what fits and stays; from many
 * threads while its size changes; and a sender and a receiver whose memory
 * must be the same at the end of every pass.
 */
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "page/cache.h"
#include "page/xbzrle.h"

#define PAGE 4096
#define WAYS GW_CACHE_WAYS

static struct gw_error err;
static uint64_t seed;

static void make(struct gw_cache *c, uint64_t npages, unsigned int nshards)
{
	CHECK_OK(gw_cache_init(c, npages * PAGE, nshards, &err), &err);
}

static struct gw_cache_stats stats(struct gw_cache *c)
{
	struct gw_cache_stats s;

	gw_cache_get_stats(c, &s);
	return s;
}

/* A page's content: a number, over and over. */
static void stamp(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < PAGE; i += 8)
		memcpy(p + i, &v, 8);
}

/* That number, or ~0: it is not one number. */
static uint64_t stamped(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return memcmp(p, p + 8, PAGE - 8) ? ~0ULL : v;
}

/* Look up, and leave @v there. Return: what was there, 0: nothing. */
static uint64_t use(struct gw_cache *c, uint32_t block, uint64_t page,
		    uint64_t v)
{
	struct gw_cache_hold h;
	uint8_t *p = gw_cache_begin(c, block, page, &h);
	uint64_t was = 0;

	if (!p)
		return 0;
	if (h.hit)
		was = stamped(p);
	stamp(p, v);
	gw_cache_end(&h, true);
	return was;
}

/* How many of @n pages, @step apart, are there with stamp @v + i? Look at each
 * once; what is not there is not put there. */
static uint64_t present(struct gw_cache *c, uint32_t block, uint64_t n,
			uint64_t step, uint64_t v)
{
	uint64_t have = 0;

	for (uint64_t i = 0; i < n; i++) {
		struct gw_cache_hold h;
		uint8_t *p = gw_cache_begin(c, block, i * step, &h);

		if (!p)
			continue;
		have += h.hit && stamped(p) == v + i;
		gw_cache_end(&h, h.hit);
	}
	return have;
}

static void put(struct gw_cache *c, uint32_t block, uint64_t n, uint64_t step,
		uint64_t v)
{
	for (uint64_t i = 0; i < n; i++)
		use(c, block, i * step, v + i);
}

/* --- one set: exactly a slow LRU with ages ------------------------------ */

struct slow {
	struct {
		uint64_t page, value;
		uint32_t pass;
		bool there;
	} e[WAYS]; /* most recent first */
	uint64_t hits, misses, evictions, refused;
};

static int slow_find(const struct slow *s, uint64_t page)
{
	for (int i = 0; i < WAYS; i++)
		if (s->e[i].there && s->e[i].page == page)
			return i;
	return -1;
}

static void slow_drop(struct slow *s, int i)
{
	for (; i + 1 < WAYS; i++)
		s->e[i] = s->e[i + 1];
	s->e[WAYS - 1].there = false;
}

static uint64_t slow_use(struct slow *s, uint64_t page, uint64_t v,
			 uint32_t pass)
{
	int i = slow_find(s, page);
	uint64_t was = i < 0 ? 0 : s->e[i].value;

	s->hits += i >= 0;
	s->misses += i < 0;
	if (i < 0) {
		i = WAYS - 1;
		if (s->e[i].there && pass < s->e[i].pass + 2) {
			s->refused++;
			return 0;
		}
		s->evictions += s->e[i].there;
	}
	for (; i > 0; i--)
		s->e[i] = s->e[i - 1];
	s->e[0].page = page;
	s->e[0].value = v;
	s->e[0].pass = pass;
	s->e[0].there = true;
	return was;
}

static void slow_zero(struct slow *s, uint64_t page, uint32_t pass)
{
	int i = slow_find(s, page);

	if (i < 0)
		return;
	slow_use(s, page, 0, pass);
	s->hits--;
}

static void one_set_is_an_lru_with_ages(void)
{
	struct slow s = { .hits = 0 };
	struct gw_cache_stats got;
	struct gw_cache c;
	uint32_t pass = 0;

	seed = test_seed();
	make(&c, WAYS, 3);
	for (uint64_t i = 1; i < 200000; i++) {
		uint64_t page = test_rand(&seed) % (WAYS * 2);
		uint64_t what = test_rand(&seed) % 40;

		if (what < 2) {
			gw_cache_next_pass(&c);
			pass++;
		} else if (what < 5) {
			gw_cache_forget(&c, 1, page);
			if (slow_find(&s, page) >= 0)
				slow_drop(&s, slow_find(&s, page));
		} else if (what < 8) {
			gw_cache_set_zero(&c, 1, page);
			slow_zero(&s, page, pass);
		} else {
			REQUIRE(use(&c, 1, page, i) ==
				slow_use(&s, page, i, pass));
		}
	}
	got = stats(&c);
	printf("%" PRIu64 " hits, %" PRIu64 " misses, %" PRIu64
	       " evictions, %" PRIu64 " refused\n",
	       got.hits, got.misses, got.evictions, got.refused);
	CHECK(got.hits == s.hits && got.misses == s.misses &&
	      got.evictions == s.evictions && got.refused == s.refused);
	CHECK(s.hits > 1000 && s.evictions > 1000 && s.refused > 1000);
	gw_cache_fini(&c);
}

/* --- many sets: what is there is right ----------------------------------- */

#define BLOCKS 5
#define SPAN   3000

static void what_is_there_was_put_there(void)
{
	static uint64_t value[BLOCKS][SPAN]; /* 0: must not be there */
	struct gw_cache_stats got;
	struct gw_cache c;
	uint64_t hits = 0, uses = 0;

	seed = test_seed();
	make(&c, 1000, 7);
	for (uint64_t i = 1; i < 400000; i++) {
		uint32_t b = (uint32_t)(test_rand(&seed) % BLOCKS);
		uint64_t page = test_rand(&seed) % (i % 3 ? 200 : SPAN);

		if (i % 2000 == 0)
			gw_cache_next_pass(&c);
		if (i % 50000 == 0)
			CHECK_OK(
				gw_cache_resize(
					&c,
					PAGE * (WAYS + test_rand(&seed) % 2000),
					&err),
				&err);
		if (i % 17 == 0) {
			gw_cache_forget(&c, b, page);
			value[b][page] = 0;
		} else {
			uint64_t was = use(&c, b, page, i);

			REQUIRE(!was || was == value[b][page]);
			hits += was != 0;
			uses++;
			value[b][page] = i; /* or it was refused */
		}
		got = stats(&c);
		REQUIRE(got.pages * PAGE <= gw_cache_size(&c));
	}
	CHECK(got.hits == hits && got.hits + got.misses == uses);
	CHECK(hits > uses / 10);
	gw_cache_fini(&c);
}

static void pages_are_told_apart(void)
{
	static const uint64_t far = 1ULL << 33; /* 32 TiB */
	struct gw_cache c;

	make(&c, 64, 1);
	CHECK(!use(&c, 0, 0, 1) && !use(&c, 1, 0, 2) && !use(&c, 63, 0, 3));
	CHECK(!use(&c, 0, far, 4) && !use(&c, 63, far, 5));
	CHECK(use(&c, 0, 0, 9) == 1 && use(&c, 1, 0, 9) == 2);
	CHECK(use(&c, 63, 0, 9) == 3 && use(&c, 0, far, 9) == 4);
	CHECK(use(&c, 63, far, 9) == 5);
	gw_cache_fini(&c);
}

static void an_entry_can_be_taken_back(void)
{
	struct gw_cache_hold h;
	struct gw_cache c;

	make(&c, WAYS, 1);
	CHECK(gw_cache_begin(&c, 0, 7, &h) && !h.hit);
	gw_cache_end(&h, false);
	CHECK(!use(&c, 0, 7, 1) && use(&c, 0, 7, 2) == 1);
	CHECK(gw_cache_begin(&c, 0, 7, &h) && h.hit);
	gw_cache_end(&h, false);
	CHECK(!stats(&c).pages && !use(&c, 0, 7, 3));
	gw_cache_fini(&c);
}

/* --- what stays ------------------------------------------------------------
 */

/* As many pages as the cache has, in one piece: not one is refused. */
static void a_piece_as_large_as_the_cache_fits(void)
{
	static const uint64_t sizes[] = { WAYS, 24, 1000, 1024, 4096, 7777 };
	struct gw_cache c;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (uint32_t block = 0; block < 4; block++) {
			uint64_t n;

			make(&c, sizes[i], 5);
			n = gw_cache_size(&c) / PAGE;
			CHECK(n <= sizes[i] && n + WAYS > sizes[i]);
			put(&c, block, n, 1, 100);
			CHECK(present(&c, block, n, 1, 100) == n);
			CHECK(stats(&c).pages == n && !stats(&c).refused);
			gw_cache_fini(&c);
		}
}

/* Distances that are powers of two do not all end in a few sets. */
static void strides_fit(void)
{
	struct gw_cache c;

	for (uint64_t step = 2; step <= 1 << 16; step *= 2) {
		uint64_t have;

		make(&c, 4096, 4);
		put(&c, 0, 2048, step, 100);
		have = present(&c, 0, 2048, step, 100);
		if (have < 1500)
			printf("step %" PRIu64 ": %" PRIu64 "\n", step, have);
		CHECK(have >= 1500);
		gw_cache_fini(&c);
	}
}

/* Twice and four times what fits, in every pass: what is in stays in. */
static void a_loop_too_large_keeps_its_share(void)
{
	for (uint64_t times = 2; times <= 4; times *= 2) {
		struct gw_cache_stats before, after;
		struct gw_cache c;

		make(&c, 2048, 4);
		for (int pass = 0; pass < 10; pass++) {
			before = stats(&c);
			put(&c, 0, 2048 * times, 1, 1);
			gw_cache_next_pass(&c);
		}
		after = stats(&c);
		CHECK(after.hits - before.hits == 2048);
		CHECK(after.evictions == 0);
		gw_cache_fini(&c);
	}
}

/* One who walks round and round, an eighth of his way in each pass. */
static void a_long_way_round_is_learned(void)
{
	struct gw_cache_stats before = { 0 }, after;
	uint64_t n = 2 * 4096, at = 0;
	struct gw_cache c;

	make(&c, 4096, 4);
	for (int pass = 0; pass < 64; pass++) {
		if (pass == 40)
			before = stats(&c);
		for (uint64_t i = 0; i < n / 8; i++, at++)
			use(&c, 0, at % n, 1 + at);
		gw_cache_next_pass(&c);
	}
	after = stats(&c);
	printf("%" PRIu64 " of %" PRIu64 "\n", after.hits - before.hits,
	       24 * n / 8);
	CHECK(after.hits - before.hits > 24 * n / 8 / 3);
	/* and others who come instead are let in soon all the same */
	for (int pass = 0; pass < 8; pass++) {
		put(&c, 1, 2048, 1, 1);
		gw_cache_next_pass(&c);
	}
	CHECK(present(&c, 1, 2048, 1, 1) > 2048 * 8 / 10);
	gw_cache_fini(&c);
}

static void what_nobody_uses_makes_room(void)
{
	struct gw_cache c;

	make(&c, 1024, 2);
	put(&c, 0, 1024, 1, 1);
	gw_cache_next_pass(&c);
	put(&c, 1, 1024, 1, 1);
	CHECK(stats(&c).refused == 1024 && !stats(&c).evictions);
	gw_cache_next_pass(&c);
	put(&c, 1, 1024, 1, 1);
	CHECK(stats(&c).evictions > 900);
	CHECK(present(&c, 1, 1024, 1, 1) > 900);
	gw_cache_fini(&c);
}

/* --- size --------------------------------------------------------------------
 */

static void sizes_are_checked(void)
{
	struct gw_cache c;

	CHECK(gw_cache_init(&c, GW_CACHE_MIN - 1, 1, &err) == -EINVAL);
	CHECK(err.fault == GW_FAULT_USAGE && strstr(err.msg, "least 32.0 KiB"));
	CHECK(gw_cache_init(&c, 1ULL << 45, 1, &err) == -EINVAL);
	CHECK(gw_cache_init(&c, 1 << 20, 0, &err) == -EINVAL);
	CHECK(gw_cache_init(&c, 1 << 20, 257, &err) == -EINVAL);
	gw_cache_fini(&c);
	make(&c, 100, 4);
	put(&c, 0, 96, 1, 1);
	CHECK(gw_cache_resize(&c, 0, &err) == -EINVAL);
	CHECK(gw_cache_resize(&c, 1ULL << 45, &err) == -EINVAL);
	CHECK(gw_cache_resize(&c, 1, NULL) == -EINVAL);
	CHECK(gw_cache_size(&c) == 96 * PAGE);
	CHECK(present(&c, 0, 96, 1, 1) == 96);
	gw_cache_fini(&c);
}

/* Larger: all is still there. Smaller: as much as fits, and that is right. */
static void what_fits_stays(void)
{
	struct gw_cache c;

	make(&c, 1000, 3);
	put(&c, 0, 1000, 1, 1);
	CHECK_OK(gw_cache_resize(&c, 2222 * PAGE, &err), &err);
	CHECK(present(&c, 0, 1000, 1, 1) == 1000);
	CHECK(stats(&c).pages == 1000 && !stats(&c).evictions);
	put(&c, 0, 2216, 1, 5000);
	CHECK(present(&c, 0, 2216, 1, 5000) == 2216);
	CHECK_OK(gw_cache_resize(&c, 1024 * PAGE, &err), &err);
	CHECK(stats(&c).pages == 1024 && stats(&c).evictions == 2216 - 1024);
	CHECK(present(&c, 0, 2216, 1, 5000) == 1024);
	CHECK_OK(gw_cache_resize(&c, 40000 * PAGE, &err), &err);
	CHECK_OK(gw_cache_resize(&c, GW_CACHE_MIN, &err), &err);
	CHECK(present(&c, 0, 2216, 1, 5000) == WAYS);
	CHECK(stats(&c).pages == WAYS);
	gw_cache_fini(&c);
}

static void the_recent_half_stays(void)
{
	struct gw_cache c;

	make(&c, 2048, 3);
	put(&c, 0, 2048, 1, 1);
	gw_cache_next_pass(&c);
	put(&c, 0, 1024, 2, 7000); /* every other one again */
	CHECK_OK(gw_cache_resize(&c, 1024 * PAGE, &err), &err);
	CHECK(present(&c, 0, 1024, 2, 7000) > 1024 * 9 / 20);
	gw_cache_fini(&c);
	/* a set that becomes too small: the newest ones of it */
	make(&c, 2 * WAYS, 1);
	for (uint64_t i = 0; i < 2 * WAYS; i++) {
		use(&c, 0, i * 7 % (2 * WAYS), 1 + i);
		gw_cache_next_pass(&c);
	}
	CHECK_OK(gw_cache_resize(&c, GW_CACHE_MIN, &err), &err);
	for (uint64_t i = WAYS; i < 2 * WAYS; i++)
		CHECK(use(&c, 0, i * 7 % (2 * WAYS), 1) == 1 + i);
	gw_cache_fini(&c);
}

/* --- threads
 * ------------------------------------------------------------------- */

#define THREADS 4
#define SHARED	700

static struct gw_cache shared;
static bool stop; /* atomic */

/* All use the same pages: what is there is whole, and of that page. */
static void *sharer(void *arg)
{
	uint64_t rnd = (uintptr_t)arg * 77 + 1, bad = 0;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		uint64_t page = test_rand(&rnd) % SHARED, v;
		struct gw_cache_hold h;
		uint8_t *p;

		if (test_rand(&rnd) % 16 == 0)
			gw_cache_forget(&shared, 2, page);
		p = gw_cache_begin(&shared, 2, page, &h);
		if (!p)
			continue;
		v = h.hit ? stamped(p) : page << 32;
		bad += v >> 32 != page;
		stamp(p, v + 1);
		gw_cache_end(&h, true);
	}
	return (void *)(uintptr_t)bad;
}

/* Each has its pages, as the channels of a sender do: deltas must be right. */
static void *channel(void *arg)
{
	uint64_t rnd = (uintptr_t)arg * 99 + 5, bad = 0;
	uint32_t block = (uint32_t)(uintptr_t)arg;
	uint8_t(*theirs)[PAGE] = calloc(64, PAGE);
	uint8_t *copy = calloc(1, PAGE), *delta = calloc(1, PAGE);

	while (theirs && copy && delta &&
	       !__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		uint64_t page = test_rand(&rnd) % 64;
		int len;

		memcpy(copy, theirs[page], PAGE);
		for (uint64_t n = test_rand(&rnd) % 5; n; n--)
			copy[test_rand(&rnd) % PAGE] = (uint8_t)n;
		len = gw_cache_delta(&shared, block, page, copy, delta);
		if (len < 0)
			memcpy(theirs[page], copy, PAGE);
		else
			bad += gw_xbzrle_decode(delta, (size_t)len,
						theirs[page]) != 0;
		bad += memcmp(theirs[page], copy, PAGE) != 0;
	}
	free(theirs);
	free(copy);
	free(delta);
	return (void *)(uintptr_t)bad;
}

static void threads_share_it_while_its_size_changes(void)
{
	pthread_t t[2 * THREADS];
	uint64_t bad = 0;
	void *r;

	seed = test_seed();
	make(&shared, 512, 8);
	for (int i = 0; i < 2 * THREADS; i++)
		pthread_create(&t[i], NULL, i < THREADS ? sharer : channel,
			       (void *)(uintptr_t)(10 + i));
	for (int i = 0; i < 300; i++) {
		uint64_t n = WAYS + test_rand(&seed) % 1500;

		CHECK_OK(gw_cache_resize(&shared, n * PAGE, &err), &err);
		gw_cache_next_pass(&shared);
		CHECK(stats(&shared).pages <= n);
		usleep(1000);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 2 * THREADS; i++) {
		pthread_join(t[i], &r);
		bad += (uintptr_t)r;
	}
	CHECK(!bad);
	CHECK(stats(&shared).hits > 1000);
	gw_cache_fini(&shared);
}

/* --- a sender and a receiver
 * ----------------------------------------------------- */

#define MEM 96 /* pages of the VM */

struct vm {
	uint8_t mem[MEM][PAGE], theirs[MEM][PAGE], before[MEM][PAGE];
	bool dirty[MEM];
	uint64_t zero, equal, deltas, whole;
};

static const uint8_t nothing[PAGE];

/* What a guest does to a page: little, all, zero, and back again. */
static void scribble(struct vm *vm, uint64_t page)
{
	uint8_t *p = vm->mem[page], keep[PAGE];

	vm->dirty[page] = true;
	memcpy(keep, p, PAGE);
	switch (test_rand(&seed) % 8) {
	case 0:
		memset(p, 0, PAGE);
		break;
	case 1:
		stamp(p, test_rand(&seed));
		break;
	case 2:
		memcpy(p, vm->before[page], PAGE); /* A, zero, A */
		break;
	case 3:
		break; /* written, and the same */
	default:
		for (uint64_t n = test_rand(&seed) % 30; n; n--)
			p[test_rand(&seed) % PAGE] = (uint8_t)test_rand(&seed);
	}
	memcpy(vm->before[page], keep, PAGE);
}

static void send_page(struct gw_cache *c, struct vm *vm, uint64_t page)
{
	uint8_t copy[PAGE], delta[PAGE], *theirs = vm->theirs[page];
	uint32_t block = page % 3;
	int len;

	memcpy(copy, vm->mem[page], PAGE);
	if (!memcmp(copy, nothing, PAGE)) {
		/* a ZERO record, or a hole that is skipped */
		if (page % 5)
			gw_cache_set_zero(c, block, page);
		else
			gw_cache_forget(c, block, page);
		memset(theirs, 0, PAGE);
		vm->zero++;
	} else if (test_rand(&seed) % 20 == 0) {
		/* by another way, past the cache */
		gw_cache_forget(c, block, page);
		memcpy(theirs, copy, PAGE);
	} else {
		len = gw_cache_delta(c, block, page, copy, delta);
		if (len < 0)
			memcpy(theirs, copy, PAGE);
		else if (gw_xbzrle_decode(delta, (size_t)len, theirs))
			abort();
		vm->whole += len < 0;
		vm->equal += len == 0;
		vm->deltas += len > 0;
	}
	vm->dirty[page] = false;
}

static void walk(uint64_t npages)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	struct gw_cache c;

	REQUIRE(vm);
	make(&c, npages, 3);
	for (int pass = 0; pass < 400; pass++) {
		uint64_t hot = test_rand(&seed) % MEM;

		for (uint64_t n = test_rand(&seed) % (2 * MEM); n; n--)
			scribble(vm, n % 3 ? (hot + n % 9) % MEM
					   : test_rand(&seed) % MEM);
		if (pass % 7 == 6)
			CHECK_OK(gw_cache_resize(&c,
						 (WAYS + test_rand(&seed) %
								 (2 * npages)) *
							 PAGE,
						 &err),
				 &err);
		for (uint64_t i = 0; i < MEM; i++) {
			if (vm->dirty[i])
				send_page(&c, vm, i);
			if (i % 10 == 0) /* the guest goes on meanwhile */
				scribble(vm, test_rand(&seed) % MEM);
		}
		for (uint64_t i = 0; i < MEM; i++)
			REQUIRE(vm->dirty[i] ||
				!memcmp(vm->mem[i], vm->theirs[i], PAGE));
		gw_cache_next_pass(&c);
	}
	for (uint64_t i = 0; i < MEM; i++) /* the last pass: it stands */
		if (vm->dirty[i])
			send_page(&c, vm, i);
	CHECK(!memcmp(vm->mem, vm->theirs, sizeof(vm->mem)));
	printf("%" PRIu64 " pages: %" PRIu64 " deltas, %" PRIu64
	       " equal, %" PRIu64 " whole, %" PRIu64 " zero\n",
	       npages, vm->deltas, vm->equal, vm->whole, vm->zero);
	CHECK(vm->deltas > 100 && vm->equal && vm->whole && vm->zero);
	gw_cache_fini(&c);
	free(vm);
}

static void the_receiver_has_what_the_sender_has(void)
{
	seed = test_seed();
	walk(WAYS);
	walk(24);
	walk(MEM);
	walk(10 * MEM);
}

/* A, zero, B: the delta is against zeros, or there is none. */
static void after_zero_the_delta_is_against_zero(void)
{
	uint8_t a[PAGE], b[PAGE] = { 0 }, delta[PAGE];
	struct gw_cache c;

	make(&c, WAYS, 1);
	stamp(a, 0x1122334455667788);
	CHECK(gw_cache_delta(&c, 0, 3, a, delta) == -1);
	CHECK(gw_cache_delta(&c, 0, 3, a, delta) == 0);
	gw_cache_set_zero(&c, 0, 3);
	b[5] = 9;
	CHECK(gw_cache_delta(&c, 0, 3, b, delta) == 3);
	CHECK(delta[0] == 5 && delta[1] == 1 && delta[2] == 9);
	gw_cache_set_zero(&c, 0, 3);
	CHECK(gw_cache_delta(&c, 0, 3, a, delta) == GW_CACHE_OVERFLOW); /* overflow */
	CHECK(stats(&c).overflows == 1 && stats(&c).hits == 3);
	gw_cache_forget(&c, 0, 3);
	CHECK(gw_cache_delta(&c, 0, 3, a, delta) == -1);
	gw_cache_set_zero(&c, 0, 4); /* not there: nothing happens */
	CHECK(stats(&c).pages == 1 && stats(&c).misses == 2);
	gw_cache_fini(&c);
}

int main(void)
{
	RUN(one_set_is_an_lru_with_ages);
	RUN(what_is_there_was_put_there);
	RUN(pages_are_told_apart);
	RUN(an_entry_can_be_taken_back);
	RUN(a_piece_as_large_as_the_cache_fits);
	RUN(strides_fit);
	RUN(a_loop_too_large_keeps_its_share);
	RUN(a_long_way_round_is_learned);
	RUN(what_nobody_uses_makes_room);
	RUN(sizes_are_checked);
	RUN(what_fits_stays);
	RUN(the_recent_half_stays);
	RUN(threads_share_it_while_its_size_changes);
	RUN(after_zero_the_delta_is_against_zero);
	RUN(the_receiver_has_what_the_sender_has);
	return test_done();
}
