/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * flush.c - how long does a standby need to copy the pages of a checkpoint
 * into the VM's RAM (colo/flush.h)? With 1, 2 and 4 threads, pages spread over
 * RAM or in one place; the work dealt out from a queue, or split by addresses
 * as in 2016; against one memcpy() of as many bytes.
 *
 *	build/bench/flush [--mib 4096] [--rounds 5] [--both] [--json]
 *
 * Rounds alternate between all of them, so that what others do on the machine
 * hits each. Medians, and the best. --both: two copies of each page, as a
 * commit makes them. Needs twice (--both: three times) the memory.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "colo/flush.h"
#include "ram/block.h"

#define MAX_ROUNDS 99
#define NTHREADS   3
#define NWAYS	   (1 + 2 * NTHREADS) /* memcpy; queue, static */

static const unsigned int threads[NTHREADS] = { 1, 2, 4 };
static struct gw_flush *flush[NTHREADS];
static struct gw_flush_block block;
static struct gw_bitmap bits;
static unsigned int rounds = 5;
static bool json;

static double ms[NWAYS][MAX_ROUNDS];

static void *memory(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED) {
		perror("flush: memory");
		exit(1);
	}
	return p;
}

/* Every 100 / @percent th page by chance, or all in one place. */
static void mark(unsigned int percent, bool clustered)
{
	uint64_t seed = 88172645463325252ULL, n = bits.nbits * percent / 100;

	gw_bitmap_clear_all(&bits);
	if (clustered)
		gw_bitmap_set_range(&bits, bits.nbits * 3 / 10, n);
	while (!clustered && n) {
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		n -= !gw_bitmap_set(&bits, seed % bits.nbits);
	}
}

/* What one copy of all that is marked takes, in ms. */
static double once(int way)
{
	uint64_t n = gw_bitmap_count(&bits) << GW_PAGE_BITS;
	uint64_t from = n > (bits.nbits << GW_PAGE_BITS) - n ? 0 : n / 2;
	int64_t t0 = gw_now_ns();

	if (way) {
		gw_flush_run(flush[(way - 1) / 2], &block, 1,
			     way % 2 ? GW_FLUSH_QUEUE : GW_FLUSH_STATIC, false);
	} else {
		memcpy(block.dst2 + from, block.src + from, n);
		if (block.dst1)
			memcpy(block.dst1 + from, block.src + from, n);
	}
	return (double)(gw_now_ns() - t0) / 1e6;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static const char *name(int way, char buf[32])
{
	if (!way)
		return "memcpy";
	snprintf(buf, 32, "%s, %u", way % 2 ? "queue" : "static",
		 threads[(way - 1) / 2]);
	return buf;
}

static void report(const char *what)
{
	char buf[32];

	for (int w = 0; w < NWAYS; w++) {
		if (json)
			printf("%s{\"case\": \"%s\", \"way\": \"%s\", \"ms\": "
			       "[",
			       w ? ",\n" : "", what, name(w, buf));
		for (unsigned int r = 0; r < rounds && json; r++)
			printf("%s%.3f", r ? ", " : "", ms[w][r]);
		if (json)
			printf("]}");
		qsort(ms[w], rounds, sizeof(double), by_value);
	}
	for (int w = 0; w < NWAYS && !json; w++) {
		double m = ms[w][rounds / 2], best = ms[w][0];

		printf("%-16s %-10s %8.1f ms (best %8.1f) %6.2f x one thread "
		       "(best %5.2f) %6.2f x memcpy\n",
		       what, name(w, buf), m, best, ms[1][rounds / 2] / m,
		       ms[1][0] / best, ms[0][rounds / 2] / m);
	}
}

static void measure(unsigned int percent, bool clustered)
{
	char what[32];

	mark(percent, clustered);
	for (int w = 0; w < NWAYS; w++) /* memory and page tables are there */
		once(w);
	for (unsigned int r = 0; r < rounds; r++)
		for (int w = 0; w < NWAYS; w++)
			ms[w][r] = once(w);
	snprintf(what, sizeof(what), "%u %% %s", percent,
		 clustered ? "clustered" : "spread");
	report(what);
}

static void options(int argc, char **argv, size_t *mib, bool *both)
{
	static const struct option long_options[] = {
		{ "mib", required_argument, NULL, 'm' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "both", no_argument, NULL, 'b' },
		{ "json", no_argument, NULL, 'j' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", long_options, NULL)) >= 0) {
		if (c == 'm')
			*mib = strtoul(optarg, NULL, 0);
		else if (c == 'r')
			rounds = (unsigned int)atoi(optarg);
		else if (c == 'b')
			*both = true;
		else if (c == 'j')
			json = true;
		else
			exit(2);
	}
	if (*mib && rounds && rounds <= MAX_ROUNDS)
		return;
	fprintf(stderr,
		"usage: flush [--mib N] [--rounds N up to %d] [--both] "
		"[--json]\n",
		MAX_ROUNDS);
	exit(2);
}

int main(int argc, char **argv)
{
	static const unsigned int percents[] = { 1, 10, 50 };
	struct gw_error err = { 0 };
	size_t mib = 4096, len;
	bool both = false;

	options(argc, argv, &mib, &both);
	len = mib << 20;
	block.bits = &bits;
	block.src = memset(memory(len), 1, len);
	block.dst1 = both ? memset(memory(len), 2, len) : NULL;
	block.dst2 = memset(memory(len), 3, len);
	if (gw_bitmap_init(&bits, len >> GW_PAGE_BITS, &err)) {
		fprintf(stderr, "flush: %s\n", err.msg);
		return 1;
	}
	for (int i = 0; i < NTHREADS; i++) {
		flush[i] = gw_flush_new(threads[i], &err);
		if (!flush[i]) {
			fprintf(stderr, "flush: %s\n", err.msg);
			return 1;
		}
	}
	if (json)
		printf("[");
	for (size_t i = 0; i < sizeof(percents) / sizeof(percents[0]); i++)
		for (int clustered = 0; clustered < 2; clustered++) {
			if (json && (i || clustered))
				printf(",\n");
			measure(percents[i], clustered);
		}
	if (json)
		printf("]\n");
	for (int i = 0; i < NTHREADS; i++)
		gw_flush_free(flush[i]);
	gw_bitmap_fini(&bits);
	return 0;
}
