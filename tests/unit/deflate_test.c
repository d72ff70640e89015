/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * deflate_test.c - what a sender compresses comes back from inflate.h, packet
 * after packet, also while somebody changes the pages.
 */
#include "test.h"

#include <malloc.h>
#include <pthread.h>

#include "page/deflate.h"
#include "page/inflate.h"

#define PAGE 4096
#define MAX  128 /* pages of a packet */

static const struct {
	const char *method;
	uint32_t level;
} ways[] = { { "zlib", 0 }, { "zlib", 9 },  { "zstd", 0 },
	     { "zstd", 3 }, { "zstd", 20 }, { "zstd", 22 } };

static uint8_t in[MAX][PAGE], out[MAX][PAGE];
static const uint8_t *from[MAX];
static uint8_t *to[MAX];

enum { ZEROS, TEXT, RANDOM, KINDS };

static void fill(uint8_t *p, int kind, uint64_t *seed)
{
	static const char *const word[] = { "migration ", "page ", "of ",
					    "memory, ",	  "\n",	   "dirty " };
	size_t at = 0;

	memset(p, 0, PAGE);
	while (kind == TEXT && at < PAGE - 16) {
		const char *w = word[test_rand(seed) % 6];

		memcpy(p + at, w, strlen(w));
		at += strlen(w);
	}
	for (at = 0; kind == RANDOM && at < PAGE; at += 8) {
		uint64_t v = test_rand(seed);

		memcpy(p + at, &v, 8);
	}
}

/* A packet of @n pages goes through both; its length in *@len. */
static void pass_on(struct gw_deflate *d, struct gw_inflate *z, size_t n,
		    size_t *len)
{
	struct gw_error err = { 0 };
	const uint8_t *p = NULL;
	uint8_t *exact;

	CHECK_OK(gw_deflate_pages(d, from, n, &p, len, &err), &err);
	REQUIRE(p && *len && *len <= 2 * n * PAGE);
	exact = malloc(*len); /* ends where the packet ends */
	memcpy(exact, p, *len);
	CHECK_OK(gw_inflate_pages(z, exact, *len, to, n, &err), &err);
	free(exact);
}

static void aim(size_t n)
{
	for (size_t i = 0; i < n; i++) {
		from[i] = in[i];
		to[i] = out[n - 1 - i]; /* in any order */
	}
}

static void packets_come_back(void)
{
	uint64_t seed = test_seed();

	for (size_t w = 0; w < sizeof(ways) / sizeof(*ways); w++) {
		struct gw_error err = { 0 };
		struct gw_deflate *d = gw_deflate_new(ways[w].method,
						      ways[w].level, MAX, &err);
		struct gw_inflate *z = gw_inflate_new(ways[w].method, &err);
		int packets = ways[w].level > 9 ? 4 : 20;

		CHECK_OK(-err.code, &err);
		REQUIRE(d && z);
		for (int packet = 0; packet < packets; packet++) {
			size_t n = packet < KINDS ? MAX
						  : 1 + test_rand(&seed) % MAX;
			size_t len = 0;

			for (size_t i = 0; i < n; i++)
				fill(in[i],
				     packet < KINDS
					     ? packet
					     : (int)(test_rand(&seed) % KINDS),
				     &seed);
			aim(n);
			pass_on(d, z, n, &len);
			for (size_t i = 0; i < n; i++)
				REQUIRE(!memcmp(from[i], to[i], PAGE));
			if (packet == ZEROS)
				CHECK(len < n * PAGE / 100);
			if (packet == TEXT)
				CHECK(len < n * PAGE / 2);
		}
		gw_deflate_free(d);
		gw_inflate_free(z);
	}
}

/* One random page each: the worst case of the bound. */
static void single_pages_keep_the_bound(void)
{
	uint64_t seed = test_seed();

	for (size_t w = 0; w < sizeof(ways) / sizeof(*ways); w++) {
		struct gw_error err = { 0 };
		struct gw_deflate *d =
			gw_deflate_new(ways[w].method, ways[w].level, 1, &err);
		struct gw_inflate *z = gw_inflate_new(ways[w].method, &err);
		size_t len;

		REQUIRE(d && z);
		for (int packet = 0; packet < 100; packet++) {
			fill(in[0], RANDOM, &seed);
			aim(1);
			pass_on(d, z, 1, &len);
			REQUIRE(!memcmp(in[0], out[0], PAGE));
		}
		gw_deflate_free(d);
		gw_inflate_free(z);
	}
}

/* Bytes from malloc and mmap; 0 with an allocator of another kind. */
static size_t allocated(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

static void nothing_is_allocated_after_the_start(void)
{
	uint64_t seed = test_seed();

	for (size_t w = 0; w < sizeof(ways) / sizeof(*ways); w++) {
		struct gw_error err = { 0 };
		struct gw_deflate *d = gw_deflate_new(ways[w].method,
						      ways[w].level, MAX, &err);
		size_t before = allocated(), len;
		const uint8_t *p;

		REQUIRE(d);
		for (size_t i = 0; i < MAX; i++)
			fill(in[i], (int)(i % KINDS), &seed);
		aim(MAX);
		for (int packet = 0; packet < 3; packet++)
			CHECK_OK(gw_deflate_pages(d, from, MAX, &p, &len, &err),
				 &err);
		CHECK(allocated() == before);
		gw_deflate_free(d);
	}
}

static int enough;

static void *scribble(void *arg)
{
	uint64_t seed = 99;

	while (!__atomic_load_n(&enough, __ATOMIC_RELAXED)) {
		uint64_t r = test_rand(&seed);

		/* odd pages only */
		__atomic_store_n(&in[(r % MAX) | 1][r / MAX % PAGE],
				 (uint8_t)(r >> 40), __ATOMIC_RELAXED);
	}
	return arg;
}

static void pages_may_change_meanwhile(void)
{
	uint64_t seed = test_seed();
	pthread_t t;

	for (size_t i = 0; i < MAX; i++)
		fill(in[i], TEXT, &seed);
	aim(MAX);
	REQUIRE(!pthread_create(&t, NULL, scribble, NULL));
	for (size_t w = 0; w < sizeof(ways) / sizeof(*ways); w++) {
		struct gw_error err = { 0 };
		struct gw_deflate *d = gw_deflate_new(ways[w].method,
						      ways[w].level, MAX, &err);
		struct gw_inflate *z = gw_inflate_new(ways[w].method, &err);
		int packets = ways[w].level > 9 ? 2 : 20;
		size_t len;

		CHECK(d && z);
		for (int packet = 0; d && z && packet < packets; packet++) {
			pass_on(d, z, MAX, &len);
			for (size_t i = 0; i < MAX; i += 2)
				CHECK(!memcmp(from[i], to[i], PAGE));
		}
		gw_deflate_free(d);
		gw_inflate_free(z);
	}
	__atomic_store_n(&enough, 1, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
}

static void what_cannot_be_is_refused(void)
{
	struct gw_error err = { 0 };

	CHECK(!gw_deflate_new("lz4", 1, MAX, &err));
	CHECK(err.fault == GW_FAULT_USAGE);
	CHECK(!gw_deflate_new("zlib", 10, MAX, &err) &&
	      strstr(err.msg, "zlib:10"));
	CHECK(!gw_deflate_new("zstd", 23, MAX, &err) &&
	      strstr(err.msg, "1 to 22"));
}

int main(void)
{
	RUN(packets_come_back);
	RUN(single_pages_keep_the_bound);
	RUN(nothing_is_allocated_after_the_start);
	RUN(pages_may_change_meanwhile);
	RUN(what_cannot_be_is_refused);
	return test_done();
}
