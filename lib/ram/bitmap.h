/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bitmap.h - one bit per page, set from any thread, scanned by words, with a
 * summary level so that a clean bitmap of a TB-sized block costs little.
 *
 * The summary has one bit per word of the bitmap, "this word may be non-zero":
 * set after the word, so a scan that misses a bit set concurrently will find
 * it next time, and never dropped while the word is non-zero (taking a word
 * clears its summary bit first, then exchanges the word). All accesses are
 * atomic; counts are exact when no other thread writes.
 */
#ifndef GW_RAM_BITMAP_H
#define GW_RAM_BITMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct gw_bitmap {
	uint64_t *word;	   /* atomic */
	uint64_t *summary; /* atomic */
	uint64_t nbits;
};

int gw_bitmap_init(struct gw_bitmap *b, uint64_t nbits,
		   struct gw_error *err) GW_MUST_CHECK;
void gw_bitmap_fini(struct gw_bitmap *b);

bool gw_bitmap_test(const struct gw_bitmap *b, uint64_t bit);
/* Return: whether the bit was set before. */
bool gw_bitmap_set(struct gw_bitmap *b, uint64_t bit);
bool gw_bitmap_clear(struct gw_bitmap *b, uint64_t bit);
void gw_bitmap_set_range(struct gw_bitmap *b, uint64_t first, uint64_t n);
void gw_bitmap_clear_all(struct gw_bitmap *b);
uint64_t gw_bitmap_count(const struct gw_bitmap *b);
uint64_t gw_bitmap_count_range(const struct gw_bitmap *b, uint64_t first,
			       uint64_t n);

/* For who divides a bitmap by its words, 64 bits each: */
static inline uint64_t gw_bitmap_words(const struct gw_bitmap *b)
{
	return (b->nbits + 63) / 64;
}
static inline uint64_t gw_bitmap_word(const struct gw_bitmap *b, uint64_t w)
{
	return __atomic_load_n(&b->word[w], __ATOMIC_ACQUIRE);
}
/* The first word in [*@w, @end) that is not zero: *@w is which. 0: none, and
 * *@w is @end. */
uint64_t gw_bitmap_next_word(const struct gw_bitmap *b, uint64_t *w,
			     uint64_t end);
void gw_bitmap_clear_word(struct gw_bitmap *b, uint64_t w);
/* OR @bits into word @w. */
void gw_bitmap_set_word(struct gw_bitmap *b, uint64_t w, uint64_t bits);

/* OR @src into @dst (same nbits) and clear @src, word by word. */
void gw_bitmap_move(struct gw_bitmap *dst, struct gw_bitmap *src);

/* The same for @n bits from @first on. Each goes to exactly one of several who
 * take it. Return: how many were set. */
uint64_t gw_bitmap_move_range(struct gw_bitmap *dst, struct gw_bitmap *src,
			      uint64_t first, uint64_t n);

/* Clear in @dst what is set in @src (same nbits). */
void gw_bitmap_subtract(struct gw_bitmap *dst, const struct gw_bitmap *src);

/*
 * Find the first run of set bits at or after @from.
 * Return: its length (0: none), its start in *@first; at most @max long.
 */
uint64_t gw_bitmap_next_run(const struct gw_bitmap *b, uint64_t from,
			    uint64_t max, uint64_t *first);

/*
 * Take the next run out: like gw_bitmap_next_run() but the bits returned are
 * cleared atomically; each set bit goes to exactly one of several takers. A
 * run ends at a word boundary at the latest, so it has at most 64 bits. Bits
 * set meanwhile stay set, but while another taker is at the same word a scan
 * may pass them by: "nothing left" is final when all takers have said so and
 * nobody sets.
 */
uint64_t gw_bitmap_take_run(struct gw_bitmap *b, uint64_t from,
			    uint64_t *first);

#endif
