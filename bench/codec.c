/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * codec.c - how fast are the page codecs on this machine? One thread, pages
 * that stay in the L2 cache; the best of several repetitions, since others
 * may be using the machine. GB/s are bytes of pages, not of deltas.
 *
 *	build/bench/codec [SECONDS per number, default 0.3]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "page/cache.h"
#include "page/xbzrle.h"
#include "page/zero.h"
#include "ram/block.h"

#define NPAGES 64 /* two copies: 512 KiB */

#define SIZE ((size_t)NPAGES * GW_PAGE_SIZE)

static uint8_t old[SIZE] __attribute__((aligned(4096)));
static uint8_t new[SIZE] __attribute__((aligned(4096)));
static uint8_t work[SIZE] __attribute__((aligned(4096)));
static uint8_t delta[SIZE];
#define AT(page) ((size_t)(page)*GW_PAGE_SIZE)

static int delta_len[NPAGES];
static int64_t budget = 300000000;
static struct gw_cache cache;
static uint64_t sink; /* so that no result is thrown away unused */

static uint64_t rnd(void)
{
	static uint64_t x = 88172645463325252;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x * 2685821657736338717;
}

/* --- what changed ------------------------------------------------------ */

/* @len bytes every @every, over all of memory as one piece. */
static void change(unsigned int len, unsigned int every)
{
	for (size_t i = 0; i < SIZE; i += every)
		for (size_t k = i; k < i + len && k < SIZE; k++)
			new[k] = (uint8_t) ~new[k];
}

static const struct {
	const char *name;
	unsigned int len, every;
} patterns[] = {
	{ "equal", 0, 1 << 30 }, { "one byte", 1, 4096 + 61 },
	{ "sparse", 12, 1111 },	 { "medium", 33, 701 },
	{ "dense", 40, 100 },	 { "short runs", 1, 4 },
	{ "all changed", 1, 1 },
};

/* --- the byte loop ------------------------------------------------------ */

static size_t put_len(uint8_t *d, size_t n)
{
	d[0] = (uint8_t)(n & 127);
	if (n < 128)
		return 1;
	d[0] |= 128;
	d[1] = (uint8_t)(n >> 7);
	return 2;
}

/* What everything else is to be compared with: byte by byte, in plain C. */
static int byte_loop(const uint8_t *was, const uint8_t *now, uint8_t *d,
		     size_t max)
{
	size_t at = 0, out = 0;

	while (at < GW_PAGE_SIZE) {
		size_t same = at, changed;

		while (same < GW_PAGE_SIZE && was[same] == now[same])
			same++;
		if (same == GW_PAGE_SIZE)
			break;
		for (changed = same; changed < GW_PAGE_SIZE; changed++)
			if (was[changed] == now[changed])
				break;
		if (out + changed - same + 4 > max)
			return -1;
		out += put_len(d + out, same - at);
		out += put_len(d + out, changed - same);
		for (size_t i = same; i < changed; i++)
			d[out++] = now[i];
		at = changed;
	}
	return (int)out;
}

static bool always(void)
{
	return true;
}

static const struct gw_xbzrle_impl bytes = { "bytes", always, byte_loop };

/* --- measuring --------------------------------------------------------- */

/* Best rate of @fn(@arg), which works through all pages once, in GB/s. */
static double best(void (*fn)(const void *), const void *arg)
{
	int64_t end = gw_now_ns() + budget, fastest = INT64_MAX;

	do {
		int64_t start = gw_now_ns(), took;

		for (int i = 0; i < 8; i++)
			fn(arg);
		took = gw_now_ns() - start;
		if (took < fastest)
			fastest = took;
	} while (gw_now_ns() < end);
	return 8.0 * SIZE / (double)fastest;
}

static void do_encode(const void *arg)
{
	const struct gw_xbzrle_impl *impl = arg;

	for (int i = 0; i < NPAGES; i++)
		delta_len[i] = impl->encode(old + AT(i), new + AT(i),
					    delta + AT(i), GW_PAGE_SIZE);
}

static void do_decode(const void *arg)
{
	for (int i = 0; i < NPAGES; i++)
		sink += (uint64_t)gw_xbzrle_decode(
			delta + AT(i), (size_t)delta_len[i], work + AT(i));
}

static size_t get_len(const uint8_t *d, size_t *n)
{
	*n = d[0] & 127;
	if (d[0] < 128)
		return 1;
	*n |= (size_t)d[1] << 7;
	return 2;
}

/* The byte loop again; it trusts what it gets. */
static void do_decode_bytes(const void *arg)
{
	(void)arg;
	for (int p = 0; p < NPAGES; p++) {
		const uint8_t *d = delta + AT(p), *end = d + delta_len[p];
		uint8_t *to = work + AT(p);

		while (d < end) {
			size_t same, changed;

			d += get_len(d, &same);
			d += get_len(d, &changed);
			to += same;
			while (changed--)
				*to++ = *d++;
		}
	}
}

/* All of it: look up, encode, update. The guest's pages change each time. */
static void do_cache(const void *arg)
{
	static bool flip;
	struct gw_cache *c = (struct gw_cache *)(uintptr_t)arg;
	const uint8_t *now = (flip = !flip) ? new : old;

	for (uint64_t i = 0; i < NPAGES; i++)
		delta_len[i] =
			gw_cache_delta(c, 0, i, now + AT(i), delta + AT(i));
}

static void do_copy(const void *arg)
{
	for (int i = 0; i < NPAGES; i++)
		memcpy(work + AT(i), new + AT(i), GW_PAGE_SIZE);
	sink += work[rnd() % SIZE];
}

static void do_zero(const void *arg)
{
	const struct gw_page_zero_impl *impl = arg;

	for (int i = 0; i < NPAGES; i++)
		sink += impl->is_zero(work + AT(i));
}

/* Every encoder's rate; all of them must come to the same deltas. */
static void encoders(void)
{
	const struct gw_xbzrle_impl *i = gw_xbzrle_impls;
	int want[NPAGES];

	for (; i->name; i++) {
		if (!i->usable()) {
			printf(" %8s", "-");
			continue;
		}
		printf(" %8.1f", best(do_encode, i));
		memcpy(want, delta_len, sizeof(want));
	}
	printf(" %8.1f", best(do_encode, &bytes));
	for (int k = 0; k < NPAGES; k++)
		if (want[k] != delta_len[k])
			printf(" (page %d: %d bytes and %d)", k, want[k],
			       delta_len[k]);
}

static void one_pattern(size_t n)
{
	long sum = 0;
	bool fits = true;

	memcpy(new, old, SIZE);
	change(patterns[n].len, patterns[n].every);
	memcpy(work, old, SIZE);
	printf("%-12s", patterns[n].name);
	encoders();
	for (int k = 0; k < NPAGES; k++) {
		fits = fits && delta_len[k] >= 0;
		sum += delta_len[k];
	}
	if (fits)
		printf(" %8.1f %8.1f %8.0f", best(do_decode, NULL),
		       best(do_decode_bytes, NULL), (double)sum / NPAGES);
	else
		printf(" %8s %8s %8s", "-", "-", "whole");
	printf(" %8.1f\n", best(do_cache, &cache));
}

int main(int argc, char **argv)
{
	const struct gw_xbzrle_impl *i = gw_xbzrle_impls;
	const struct gw_page_zero_impl *z = gw_page_zero_impls;

	if (argc > 1)
		budget = (int64_t)(atof(argv[1]) * 1e9);
	if (argc > 2 || budget <= 0) {
		fprintf(stderr, "usage: codec [SECONDS per number]\n");
		return 2;
	}
	if (gw_cache_init(&cache, SIZE, 16, NULL))
		return 1;
	for (size_t k = 0; k < SIZE; k++)
		old[k] = (uint8_t)(rnd() >> 32);
	memcpy(new, old, SIZE);
	printf("memcpy %.1f GB/s\n", best(do_copy, NULL));
	memset(work, 0, SIZE);
	printf("zero pages, GB/s:");
	for (; z->name; z++)
		if (z->usable())
			printf(" %s %.1f", z->name, best(do_zero, z));
	printf("\n%-12s", "encode, GB/s");
	for (; i->name; i++)
		printf(" %8s", i->name);
	printf(" %8s %8s %8s %8s %8s\n", "bytes", "decode", "bytes", "delta, B",
	       "cache");
	for (size_t n = 0; n < sizeof(patterns) / sizeof(patterns[0]); n++)
		one_pattern(n);
	return sink == 0x5eed; /* never, but the compiler cannot know */
}
