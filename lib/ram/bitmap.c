/* SPDX-License-Identifier: BSD-3-Clause */
/* bitmap.c - see bitmap.h. */
#include "ram/bitmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORD(bit) ((bit) >> 6)
#define MASK(bit) (1ULL << ((bit) & 63))

static inline uint64_t load(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

int gw_bitmap_init(struct gw_bitmap *b, uint64_t nbits, struct gw_error *err)
{
	uint64_t words = (nbits + 63) / 64;

	b->nbits = nbits;
	b->word = calloc(words + 1, sizeof(uint64_t));
	b->summary = calloc(words / 64 + 1, sizeof(uint64_t));
	if (!b->word || !b->summary) {
		gw_bitmap_fini(b);
		return gw_fail(err, ENOMEM, "no memory for a bitmap of %llu pages",
			       (unsigned long long)nbits);
	}
	return 0;
}

void gw_bitmap_fini(struct gw_bitmap *b)
{
	free(b->word);
	free(b->summary);
	b->word = b->summary = NULL;
	b->nbits = 0;
}

bool gw_bitmap_test(const struct gw_bitmap *b, uint64_t bit)
{
	return load(&b->word[WORD(bit)]) & MASK(bit);
}

/* OR @mask into word @w; the summary only after it (see bitmap.h). */
static uint64_t or_word(struct gw_bitmap *b, uint64_t w, uint64_t mask)
{
	uint64_t old = __atomic_fetch_or(&b->word[w], mask, __ATOMIC_SEQ_CST);

	if (!(__atomic_load_n(&b->summary[w >> 6], __ATOMIC_SEQ_CST) & MASK(w)))
		__atomic_fetch_or(&b->summary[w >> 6], MASK(w),
				  __ATOMIC_SEQ_CST);
	return old;
}

bool gw_bitmap_set(struct gw_bitmap *b, uint64_t bit)
{
	return or_word(b, WORD(bit), MASK(bit)) & MASK(bit);
}

bool gw_bitmap_clear(struct gw_bitmap *b, uint64_t bit)
{
	return __atomic_fetch_and(&b->word[WORD(bit)], ~MASK(bit),
				  __ATOMIC_SEQ_CST) &
	       MASK(bit);
}

/* The bits of word @w that lie in [first, end). */
static uint64_t range_mask(uint64_t w, uint64_t first, uint64_t end)
{
	uint64_t m = ~0ULL;

	if (w == WORD(first))
		m &= ~0ULL << (first & 63);
	if (w == WORD(end))
		m &= MASK(end) - 1;
	return m;
}

void gw_bitmap_set_range(struct gw_bitmap *b, uint64_t first, uint64_t n)
{
	uint64_t end = first + n;

	for (uint64_t w = WORD(first); n && w <= WORD(end - 1); w++)
		or_word(b, w, range_mask(w, first, end));
}

uint64_t gw_bitmap_count(const struct gw_bitmap *b)
{
	uint64_t n = 0, words = gw_bitmap_words(b);

	for (uint64_t s = 0; s * 64 < words; s++)
		for (uint64_t m = load(&b->summary[s]); m; m &= m - 1)
			n += (uint64_t)__builtin_popcountll(load(
				&b->word[s * 64 +
					 (uint64_t)__builtin_ctzll(m)]));
	return n;
}

uint64_t gw_bitmap_count_range(const struct gw_bitmap *b, uint64_t first,
			       uint64_t n)
{
	uint64_t end = first + n, count = 0;

	for (uint64_t w = WORD(first); n && w <= WORD(end - 1); w++)
		count += (uint64_t)__builtin_popcountll(
			load(&b->word[w]) & range_mask(w, first, end));
	return count;
}

/* The first word in [@w, @end) that may be non-zero, or @end. */
static uint64_t next_word_in(const struct gw_bitmap *b, uint64_t w,
			     uint64_t end)
{
	while (w < end) {
		uint64_t m = load(&b->summary[w >> 6]) & (~0ULL << (w & 63));

		if (m) {
			w = (w & ~63ULL) + (uint64_t)__builtin_ctzll(m);
			break;
		}
		w = (w & ~63ULL) + 64;
	}
	return w < end ? w : end;
}

static uint64_t next_word(const struct gw_bitmap *b, uint64_t w)
{
	return next_word_in(b, w, gw_bitmap_words(b));
}

static uint64_t exchange_word(struct gw_bitmap *b, uint64_t w)
{
	/*
	 * Summary first: a setter that comes between sets the summary again
	 * after its bit, at worst leaving a summary bit over an empty word.
	 */
	__atomic_fetch_and(&b->summary[w >> 6], ~MASK(w), __ATOMIC_SEQ_CST);
	return __atomic_exchange_n(&b->word[w], 0, __ATOMIC_SEQ_CST);
}

uint64_t gw_bitmap_next_word(const struct gw_bitmap *b, uint64_t *w,
			     uint64_t end)
{
	uint64_t v = 0;

	for (*w = next_word_in(b, *w, end); *w < end;
	     *w = next_word_in(b, *w + 1, end)) {
		v = load(&b->word[*w]);
		if (v)
			break;
	}
	return v;
}

void gw_bitmap_clear_word(struct gw_bitmap *b, uint64_t w)
{
	exchange_word(b, w);
}

void gw_bitmap_set_word(struct gw_bitmap *b, uint64_t w, uint64_t bits)
{
	or_word(b, w, bits);
}

void gw_bitmap_clear_all(struct gw_bitmap *b)
{
	uint64_t words = gw_bitmap_words(b);

	for (uint64_t w = next_word(b, 0); w < words; w = next_word(b, w + 1))
		exchange_word(b, w);
}

void gw_bitmap_move(struct gw_bitmap *dst, struct gw_bitmap *src)
{
	uint64_t words = gw_bitmap_words(src);

	for (uint64_t w = next_word(src, 0); w < words;
	     w = next_word(src, w + 1)) {
		uint64_t v = exchange_word(src, w);

		if (v)
			or_word(dst, w, v);
	}
}

uint64_t gw_bitmap_move_range(struct gw_bitmap *dst, struct gw_bitmap *src,
			      uint64_t first, uint64_t n)
{
	uint64_t end = first + n, moved = 0;

	for (uint64_t w = WORD(first); n && w <= WORD(end - 1); w++) {
		uint64_t mask = range_mask(w, first, end), v;

		if (!(load(&src->word[w]) & mask))
			continue;
		v = __atomic_fetch_and(&src->word[w], ~mask,
				       __ATOMIC_SEQ_CST) & mask;
		if (v)
			or_word(dst, w, v);
		moved += (uint64_t)__builtin_popcountll(v);
	}
	return moved;
}

void gw_bitmap_subtract(struct gw_bitmap *dst, const struct gw_bitmap *src)
{
	uint64_t words = gw_bitmap_words(dst);

	for (uint64_t w = next_word(dst, 0); w < words;
	     w = next_word(dst, w + 1))
		__atomic_fetch_and(&dst->word[w], ~load(&src->word[w]),
				   __ATOMIC_SEQ_CST);
}

uint64_t gw_bitmap_next_run(const struct gw_bitmap *b, uint64_t from,
			    uint64_t max, uint64_t *first)
{
	uint64_t words = gw_bitmap_words(b), w = WORD(from), v = 0, bit, n = 0;

	if (from >= b->nbits)
		return 0;
	v = load(&b->word[w]) & (~0ULL << (from & 63));
	while (!v) {
		w = next_word(b, w + 1);
		if (w >= words)
			return 0;
		v = load(&b->word[w]);
	}
	bit = (uint64_t)__builtin_ctzll(v);
	*first = w * 64 + bit;
	for (;;) {
		uint64_t rest = ~(v >> bit);
		uint64_t len = rest ? (uint64_t)__builtin_ctzll(rest) : 64;

		if (len > 64 - bit)
			len = 64 - bit;
		n += len;
		if (n >= max)
			return max;
		if (bit + len < 64 || ++w >= words)
			return n;
		v = load(&b->word[w]);
		bit = 0;
		if (!(v & 1))
			return n;
	}
}

/* The lowest run of set bits in @v, which is not 0. */
static uint64_t first_run(uint64_t v)
{
	uint64_t low = v & -v;

	/* The carry runs through the lowest run and stops behind it. */
	return v & ~(v + low);
}

/* Take the first run of word @w, among @allowed. Return: its bits. */
static uint64_t take_from_word(struct gw_bitmap *b, uint64_t w,
			       uint64_t allowed)
{
	uint64_t v = load(&b->word[w]), mask;

	while (v & allowed) {
		mask = first_run(v & allowed);
		/* Empty after this? Then say so first, like exchange_word(). */
		if (v == mask)
			__atomic_fetch_and(&b->summary[w >> 6], ~MASK(w),
					   __ATOMIC_SEQ_CST);
		if (__atomic_compare_exchange_n(&b->word[w], &v, v & ~mask,
						false, __ATOMIC_SEQ_CST,
						__ATOMIC_SEQ_CST))
			return mask;
		/* Somebody set or took a bit; v is the word as it is now. */
		if (v)
			__atomic_fetch_or(&b->summary[w >> 6], MASK(w),
					  __ATOMIC_SEQ_CST);
	}
	return 0;
}

uint64_t gw_bitmap_take_run(struct gw_bitmap *b, uint64_t from,
			    uint64_t *first)
{
	uint64_t words = gw_bitmap_words(b), w = WORD(from);
	uint64_t allowed = ~0ULL << (from & 63), mask;

	if (from >= b->nbits)
		return 0;
	for (; w < words; w = next_word(b, w + 1), allowed = ~0ULL) {
		mask = take_from_word(b, w, allowed);
		if (!mask)
			continue;
		*first = w * 64 + (uint64_t)__builtin_ctzll(mask);
		return (uint64_t)__builtin_popcountll(mask);
	}
	return 0;
}
