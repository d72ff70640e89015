/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the test guest's memory and disk hold, so that whoever reads a page or
 * a block, inside the guest or outside, can tell whether it is right.
 *
 * Everything is little-endian 64-bit words.  Patterns are a function of a seed
 * only, and differ in every word between seeds, so that a page mixed from two
 * states is always found.
 */
#ifndef GODWIT_TESTS_GUEST_PATTERN_H
#define GODWIT_TESTS_GUEST_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_PAGE		4096
#define GW_WORDS	(GW_PAGE / 8)
#define GW_LOOP_SEED	0x706f6f6cULL
#define GW_MAGIC	0x5449574447545347ULL	/* "GSTGDWIT" in memory */

/* gw_mix() - spread @x over all 64 bits (the finaliser of splitmix64) */
static inline uint64_t gw_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

/* gw_next() - one step of the generator that patterns are made of */
static inline uint64_t gw_next(uint64_t x)
{
	return x * 6364136223846793005ULL + 1442695040888963407ULL;
}

/* gw_fill() - write the pattern of @seed to the @n words at @w */
static inline void gw_fill(uint64_t *w, size_t n, uint64_t seed)
{
	uint64_t x = gw_mix(seed);

	for (size_t i = 0; i < n; i++) {
		w[i] = x;
		x = gw_next(x);
	}
}

/*
 * gw_differs() - compare the @n words at @w with the pattern of @seed
 *
 * Return: the index of the first word that differs, @n if there is none
 */
static inline size_t gw_differs(const uint64_t *w, size_t n, uint64_t seed)
{
	uint64_t x = gw_mix(seed);

	for (size_t i = 0; i < n; i++) {
		if (w[i] != x)
			return i;
		x = gw_next(x);
	}
	return n;
}

/* gw_sum() - continue the checksum @h over the @n words at @w */
static inline uint64_t gw_sum(uint64_t h, const uint64_t *w, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		h = (h ^ w[i]) * 0x9fb21c651e98df25ULL;
		h ^= h >> 32;
	}
	return h;
}

/*
 * A page of gw.dirty.  The first @varying words of the body are the pattern of
 * (page, generation), the rest of it that of the page number alone.
 */
struct gw_page {
	uint64_t magic;
	uint64_t number;	/* its index in the area */
	uint64_t generation;	/* 1 when first written, one more each time */
	uint64_t sum;		/* gw_page_sum() */
	uint64_t body[GW_WORDS - 4];
};

static inline uint64_t gw_page_sum(const struct gw_page *p)
{
	return gw_sum(gw_sum(0, &p->magic, 3), p->body, GW_WORDS - 4);
}

static inline void gw_page_make(struct gw_page *p, uint64_t number,
				uint64_t generation, size_t varying)
{
	p->magic = GW_MAGIC;
	p->number = number;
	p->generation = generation;
	gw_fill(p->body, varying, gw_mix(number) ^ generation);
	gw_fill(p->body + varying, GW_WORDS - 4 - varying, gw_mix(number));
	p->sum = gw_page_sum(p);
}

static inline bool gw_page_ok(const struct gw_page *p, uint64_t number,
			      uint64_t generation)
{
	return p->magic == GW_MAGIC && p->number == number &&
	       p->generation == generation && p->sum == gw_page_sum(p);
}

/*
 * A page of gw.loop.  The area is the pattern of its page numbers, and @len
 * bytes every @every of it, runs that may cross from one page to the next, have
 * something added that depends on the page's generation: other values for any
 * two generations less than 256 apart, and if a run has two bytes or more, less
 * than 65536 apart.  Generation 0 adds nothing.
 */
static inline uint8_t gw_loop_add(uint64_t generation, uint64_t byte)
{
	return generation + (generation >> 8) * byte;
}

/* gw_loop_change() - bring a page from generation @from to @to */
static inline void gw_loop_change(uint8_t *page, uint64_t number, uint64_t len,
				  uint64_t every, uint64_t from, uint64_t to)
{
	uint64_t start = number * GW_PAGE, end = start + GW_PAGE;

	for (uint64_t at = start / every * every; at < end; at += every) {
		uint64_t first = at < start ? start - at : 0;
		uint64_t stop = at + len > end ? end - at : len;

		for (uint64_t i = first; i < stop; i++)
			page[at - start + i] +=
				gw_loop_add(to, i) - gw_loop_add(from, i);
	}
}

static inline void gw_loop_make(void *page, uint64_t number, uint64_t len,
				uint64_t every, uint64_t generation)
{
	gw_fill(page, GW_WORDS, number ^ GW_LOOP_SEED);
	gw_loop_change(page, number, len, every, 0, generation);
}

/* A 4 KiB block of the test disk: its number, then a pattern. */
#define GW_DISK_SEED	0x6b736964ULL

static inline void gw_block_make(uint64_t *w, uint64_t number)
{
	w[0] = number;
	gw_fill(w + 1, GW_WORDS - 1, number ^ GW_DISK_SEED);
}

/* Return: the index of the first wrong word of a block, GW_WORDS if none */
static inline size_t gw_block_differs(const uint64_t *w, uint64_t number)
{
	if (w[0] != number)
		return 0;
	return 1 + gw_differs(w + 1, GW_WORDS - 1, number ^ GW_DISK_SEED);
}

#endif
