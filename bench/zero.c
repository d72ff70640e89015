/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * zero.c - is finding zero pages as fast as reading memory? Each variant of
 * page/zero.h against a plain loop that ORs every word of the same memory
 * together (vectorized by the compiler for this CPU), over memory that is far
 * larger than the caches and over pages that stay in L2. And on pages that are
 * not zero: how many a second when the first word says so, and when only the
 * last one does.
 *
 *	build/bench/zero [MIB of cold memory, default 1024] [ROUNDS, default 9]
 *
 * Rounds alternate between loop and variants, so that what others do on the
 * machine hits both. Medians.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "page/zero.h"
#include "ram/block.h"

#define HOT	   (512u << 10)
#define MAX_ROUNDS 99
#define NVARIANTS  8

static volatile uint64_t seen; /* so that no loop is thrown away unused */

#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#endif
static uint64_t read_words(const uint64_t *p, size_t n)
{
	uint64_t a = 0, b = 0, c = 0, d = 0;

	for (size_t i = 0; i < n; i += 32) {
		for (size_t k = 0; k < 8; k++) {
			a |= p[i + k];
			b |= p[i + 8 + k];
			c |= p[i + 16 + k];
			d |= p[i + 24 + k];
		}
	}
	return a | b | c | d;
}

static void read_pages(const uint8_t *mem, size_t len)
{
	for (size_t at = 0; at < len; at += GW_PAGE_SIZE)
		seen += read_words((const uint64_t *)(mem + at),
				   GW_PAGE_SIZE / 8);
}

static void find_pages(const uint8_t *mem, size_t len,
		       bool (*is_zero)(const void *))
{
	uint64_t n = 0;

	for (size_t at = 0; at < len; at += GW_PAGE_SIZE)
		n += is_zero(mem + at);
	seen += n;
}

/* Bytes per ns of going over @mem @times; without @is_zero the plain loop. */
static double once(const uint8_t *mem, size_t len, unsigned int times,
		   bool (*is_zero)(const void *))
{
	int64_t t0 = gw_now_ns();

	for (unsigned int i = 0; i < times; i++) {
		if (is_zero)
			find_pages(mem, len, is_zero);
		else
			read_pages(mem, len);
	}
	return (double)len * times / (double)(gw_now_ns() - t0);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, unsigned int n)
{
	qsort(v, n, sizeof(*v), by_value);
	return v[n / 2];
}

static void table(const char *what, const uint8_t *mem, size_t len,
		  unsigned int times, unsigned int rounds, bool per_page)
{
	static double rate[NVARIANTS + 1][MAX_ROUNDS];
	const struct gw_page_zero_impl *impl = gw_page_zero_impls;
	double plain;

	for (unsigned int r = 0; r < rounds; r++) {
		rate[0][r] = once(mem, len, times, NULL);
		for (int i = 0; impl[i].name && i < NVARIANTS; i++)
			if (impl[i].usable())
				rate[i + 1][r] = once(mem, len, times,
						      impl[i].is_zero);
	}
	plain = median(rate[0], rounds);
	printf("%s\n  %-8s %7.2f GB/s\n", what, "reading", plain);
	for (int i = 0; impl[i].name && i < NVARIANTS; i++) {
		double m;

		if (!impl[i].usable()) {
			printf("  %-8s not on this CPU\n", impl[i].name);
			continue;
		}
		m = median(rate[i + 1], rounds);
		if (per_page)
			printf("  %-8s %7.1f ns a page, %6.1f million pages/s\n",
			       impl[i].name, GW_PAGE_SIZE / m,
			       m * 1e3 / GW_PAGE_SIZE);
		else
			printf("  %-8s %7.2f GB/s %6.0f %%\n", impl[i].name, m,
			       100 * m / plain);
	}
}

/* The word at @at of every page becomes 1. */
static void mark(uint8_t *mem, size_t len, size_t at, uint64_t value)
{
	for (size_t page = 0; page < len; page += GW_PAGE_SIZE)
		memcpy(mem + page + at, &value, sizeof(value));
}

int main(int argc, char **argv)
{
	size_t len = (size_t)(argc > 1 ? atoi(argv[1]) : 1024) << 20;
	unsigned int rounds = argc > 2 ? (unsigned int)atoi(argv[2]) : 9;
	unsigned int times = (unsigned int)(len / HOT / 4);
	uint8_t *mem;

	if (len < HOT || rounds < 1 || rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: zero [MIB] [ROUNDS up to %d]\n",
			MAX_ROUNDS);
		return 2;
	}
	if (!times)
		times = 1;
	mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED) {
		perror("zero: memory");
		return 1;
	}
	memset(mem, 0, len); /* pages of its own, not the one zero page */
	table("zero pages, cold", mem, len, 1, rounds, false);
	table("zero pages, hot", mem, HOT, times, rounds, false);
	mark(mem, len, 0, 1);
	table("first word not zero, cold", mem, len, 1, rounds, true);
	table("first word not zero, hot", mem, HOT, times, rounds, true);
	mark(mem, len, 0, 0);
	mark(mem, len, GW_PAGE_SIZE - 8, 1);
	table("only the last word not zero, cold", mem, len, 1, rounds, true);
	return 0;
}
