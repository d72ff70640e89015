/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache.c - which share of the pages a writer dirties again is in the page
 * cache? Against a cache of the same bytes with one place per page, replaced
 * by the same rule of age (what QEMU has), and against one that may put a page
 * anywhere and replaces the least recently used. Nothing is timed: the same
 * numbers in every run.
 *
 *	build/bench/cache [MIB, default 16]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include "page/cache.h"

#define WARM   6
#define PASSES 20
#define CHUNK  512 /* pages of 2 MiB: what a guest's kernel hands out */

static uint64_t seed;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 2685821657736338717;
}

/* --- the others -------------------------------------------------------- */

static uint64_t npages; /* of each cache */
static uint32_t pass;

static struct {
	uint64_t page;
	uint32_t pass;
	bool used;
} * direct;

static bool direct_hit(uint64_t page)
{
	uint64_t i = page % npages;

	if (direct[i].used && direct[i].page == page) {
		direct[i].pass = pass;
		return true;
	}
	if (!direct[i].used || pass - direct[i].pass >= 2) {
		direct[i].used = true;
		direct[i].page = page;
		direct[i].pass = pass;
	}
	return false;
}

/* All uses in order; those that are a page's last one are what is cached. */
static struct {
	uint64_t *use;	/* page of the n-th use */
	uint64_t *last; /* by page: n + 1 of its last use, 0: not in */
	uint64_t n, oldest, have;
} lru;

static bool lru_hit(uint64_t page)
{
	bool hit = lru.last[page];

	lru.use[lru.n++] = page;
	lru.last[page] = lru.n;
	lru.have += !hit;
	for (; lru.have > npages; lru.oldest++)
		if (lru.last[lru.use[lru.oldest]] == lru.oldest + 1) {
			lru.last[lru.use[lru.oldest]] = 0;
			lru.have--;
		}
	return hit;
}

/* --- writers: which of @n pages does pass @k dirty? ---------------------- */

static uint8_t *dirty; /* a byte per page of the working set */

static void all(uint64_t n, uint32_t k)
{
	memset(dirty, 1, n);
}

/* As many writes as the cache has pages; page i with 1 / i^0.99. */
static void zipf(uint64_t n, uint32_t k)
{
	static double *sum;
	static uint64_t have;

	if (have != n) {
		sum = realloc(sum, n * sizeof(*sum));
		if (!sum)
			abort();
		for (uint64_t i = 0; i < n; i++)
			sum[i] =
				(i ? sum[i - 1] : 0) + pow((double)i + 1, -.99);
		have = n;
	}
	for (uint64_t w = 0; w < npages; w++) {
		double at = (double)(rnd() >> 11) / (1ULL << 53) * sum[n - 1];
		uint64_t lo = 0, hi = n - 1;

		while (lo < hi) {
			uint64_t mid = (lo + hi) / 2;

			if (sum[mid] < at)
				lo = mid + 1;
			else
				hi = mid;
		}
		/* ranks all over the place; n is a power of two */
		dirty[lo * 0x9e3779b1 % n] = 1;
	}
}

/* Four writers, each round and round its own quarter, an eighth a pass. */
static void sequential(uint64_t n, uint32_t k)
{
	uint64_t quarter = n / 4, step = quarter / 8;

	for (int w = 0; w < 4; w++)
		for (uint64_t i = 0; i < step; i++)
			dirty[(uint64_t)w * quarter +
			      (k * step + i) % quarter] = 1;
}

/* Half a cache of pages in every pass, after ten passes other ones. */
static void moving(uint64_t n, uint32_t k)
{
	uint64_t half = npages / 2;

	memset(dirty + k / 10 * half % n, 1, half);
}

/* --- places ------------------------------------------------------------ */

static uint64_t *chunk; /* where each 2 MiB of the working set are */

/* In a guest of 64 times the cache. */
static void scatter(uint64_t n, bool far)
{
	uint64_t slots = 64 * npages / CHUNK;
	bool *taken = calloc(slots, sizeof(*taken));

	if (!taken)
		abort();
	for (uint64_t i = 0; i < n / CHUNK; i++) {
		uint64_t at = i;

		while (far && taken[at = rnd() % slots])
			;
		taken[at] = true;
		chunk[i] = at;
	}
	free(taken);
}

static bool our_hit(struct gw_cache *c, uint64_t page)
{
	struct gw_cache_hold hold;
	bool room = gw_cache_begin(c, 0, page, &hold);

	if (room)
		gw_cache_end(&hold, true);
	return room && hold.hit;
}

static void row(const char *name, void (*writer)(uint64_t, uint32_t),
		double factor, bool far)
{
	uint64_t n = (uint64_t)((double)npages * factor), at;
	double total = 0, ours = 0, ones = 0, lrus = 0;
	struct gw_cache c;
	struct gw_error err;

	seed = 0x853c49e6748fea9b;
	if (gw_cache_init(&c, npages * GW_PAGE_SIZE, 16, &err)) {
		fprintf(stderr, "%s\n", err.msg);
		exit(1);
	}
	memset(direct, 0, npages * sizeof(*direct));
	memset(lru.last, 0, 64 * npages * sizeof(*lru.last));
	lru.n = lru.oldest = lru.have = 0;
	scatter(n, far);
	for (pass = 0; pass < WARM + PASSES; pass++) {
		memset(dirty, 0, n);
		writer(n, pass);
		for (uint64_t i = 0; i < n; i++) {
			bool counts = dirty[i] && pass >= WARM;

			if (!dirty[i])
				continue;
			at = chunk[i / CHUNK] * CHUNK + i % CHUNK;
			total += counts;
			ours += our_hit(&c, at) && counts;
			ones += direct_hit(at) && counts;
			lrus += lru_hit(at) && counts;
		}
		gw_cache_next_pass(&c);
	}
	printf("| %s%s | %.1fx | %.1f | %.1f | %.1f |\n", name,
	       far ? ", scattered" : "", factor, 100 * ours / total,
	       100 * ones / total, 100 * lrus / total);
	gw_cache_fini(&c);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*writer)(uint64_t n, uint32_t k);
	} w[] = { { "loop", all },
		  { "zipf 0.99", zipf },
		  { "sequential", sequential },
		  { "moving", moving } };
	static const double factor[] = { 0.5, 1, 2, 4 };

	npages = (argc > 1 ? strtoul(argv[1], NULL, 0) : 16) << 8;
	if (argc > 2 || npages < 2048 || (npages & (npages - 1))) {
		fprintf(stderr, "usage: cache [MIB, a power of two >= 8]\n");
		return 2;
	}
	direct = calloc(npages, sizeof(*direct));
	dirty = calloc(4, npages);
	chunk = calloc(4 * npages / CHUNK, sizeof(*chunk));
	lru.use = calloc(4 * npages * (WARM + PASSES), sizeof(*lru.use));
	lru.last = calloc(64 * npages, sizeof(*lru.last));
	if (!direct || !dirty || !chunk || !lru.use || !lru.last)
		abort();
	printf("| writer | working set | ours | one place | plain LRU |\n"
	       "|---|---|---|---|---|\n");
	for (int far = 0; far < 2; far++)
		for (size_t i = 0; i < sizeof(w) / sizeof(w[0]); i++)
			for (int f = 0; f < 4; f++)
				row(w[i].name, w[i].writer, factor[f], far);
	return 0;
}
