/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * xbzrle.c - see xbzrle.h.
 *
 * Encoding is two steps. First the two pages become a bit per byte, "differs":
 * no branches, as wide as the CPU's registers; this is all that the variants
 * differ in. Then the runs are read off those 64 words by counting zeros; two
 * more words say which of the 64 have a set and which have a clear bit, so
 * that the end of any run is at most two steps away.
 */
#include "page/xbzrle.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "ram/block.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define WORDS 64 /* bits per word, and words */
_Static_assert(GW_PAGE_SIZE == WORDS * WORDS, "a bit per byte of a page");

struct diff {
	uint64_t word[WORDS]; /* bit i of word w: byte 64 * w + i differs */
	uint64_t some;	      /* words that are not 0 */
	uint64_t gaps;	      /* words that are not all ones */
};

static inline void diff_set(struct diff *d, unsigned int w, uint64_t bits)
{
	d->word[w] = bits;
	d->some |= (uint64_t)(bits != 0) << w;
	d->gaps |= (uint64_t)(bits != UINT64_MAX) << w;
}

/* --- runs -------------------------------------------------------------- */

/* Copy @n bytes; short ones inline, since most runs are. */
static inline void copy_run(uint8_t *dst, const uint8_t *src, size_t n)
{
	uint64_t a, b;
	uint32_t c, e;

	if (n > 16) {
		memcpy(dst, src, n);
	} else if (n >= 8) { /* two copies that may overlap */
		memcpy(&a, src, 8);
		memcpy(&b, src + n - 8, 8);
		memcpy(dst, &a, 8);
		memcpy(dst + n - 8, &b, 8);
	} else if (n >= 4) {
		memcpy(&c, src, 4);
		memcpy(&e, src + n - 4, 4);
		memcpy(dst, &c, 4);
		memcpy(dst + n - 4, &e, 4);
	} else if (n) {
		uint8_t first = src[0], mid = src[n / 2], last = src[n - 1];

		dst[0] = first;
		dst[n / 2] = mid;
		dst[n - 1] = last;
	}
}

static inline size_t run_size(size_t n)
{
	return n < 0x80 ? 1 : 2;
}

static inline uint8_t *put_run(uint8_t *p, size_t n)
{
	if (n < 0x80) {
		*p = (uint8_t)n;
		return p + 1;
	}
	p[0] = (uint8_t)(n | 0x80);
	p[1] = (uint8_t)(n >> 7);
	return p + 2;
}

/* First position >= @at (< GW_PAGE_SIZE) that differs, or, with @flip all
 * ones, that does not; GW_PAGE_SIZE: none. @which: d->some, or d->gaps. */
static inline size_t next(const struct diff *d, uint64_t which, uint64_t flip,
			  size_t at)
{
	size_t w = at / WORDS;
	uint64_t bits = (d->word[w] ^ flip) >> (at % WORDS);

	if (bits)
		return at + (size_t)__builtin_ctzll(bits);
	which &= (UINT64_MAX << w) << 1;
	if (!which)
		return GW_PAGE_SIZE;
	w = (size_t)__builtin_ctzll(which);
	return w * WORDS + (size_t)__builtin_ctzll(d->word[w] ^ flip);
}

static inline int put_runs(const struct diff *d, const uint8_t *new,
			   uint8_t *dst, size_t max)
{
	uint8_t *p = dst, *end = dst + max;
	size_t at = 0, start, n;

	for (;;) {
		start = next(d, d->some, 0, at);
		if (start == GW_PAGE_SIZE)
			return end - p < 2 && at ? -1 : (int)(p - dst);
		n = start - at;
		at = next(d, d->gaps, UINT64_MAX, start);
		if (run_size(n) + run_size(at - start) + at - start >
		    (size_t)(end - p))
			return -1;
		p = put_run(put_run(p, n), at - start);
		copy_run(p, new + start, at - start);
		p += at - start;
		if (at == GW_PAGE_SIZE)
			return (int)(p - dst);
	}
}

/* --- variants ---------------------------------------------------------- */

static inline uint64_t word(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v); /* byte i is bits 8i.. everywhere */
}

/* 8 bits: which bytes of @x are not 0. */
static inline uint64_t bytes_set(uint64_t x)
{
	const uint64_t low = 0x7f7f7f7f7f7f7f7f;

	/* the top bit of each byte: "not 0", without carries between bytes */
	x = (((x & low) + low) | x) & ~low;
	/* bit 8i + 7 to bit 56 + i; no two products meet */
	return ((x >> 7) * 0x0102040810204080) >> 56;
}

static int encode_words(const uint8_t *old, const uint8_t *new, uint8_t *dst,
			size_t max)
{
	struct diff d = { .some = 0 };

	for (unsigned int w = 0; w < WORDS; w++, old += WORDS, new += WORDS) {
		uint64_t x[8], any = 0, bits = 0;

		for (int i = 0; i < 8; i++)
			any |= x[i] = word(old + 8 * i) ^ word(new + 8 * i);
		for (int i = 0; any && i < 8; i++)
			bits |= bytes_set(x[i]) << 8 * i;
		diff_set(&d, w, bits);
	}
	return put_runs(&d, new - GW_PAGE_SIZE, dst, max);
}

static bool always(void)
{
	return true;
}

#if defined(__x86_64__)
static inline uint64_t differ16(const uint8_t *old, const uint8_t *new)
{
	__m128i a = _mm_loadu_si128((const __m128i *)old);
	__m128i b = _mm_loadu_si128((const __m128i *)new);

	return (uint16_t)~_mm_movemask_epi8(_mm_cmpeq_epi8(a, b));
}

static int encode_sse2(const uint8_t *old, const uint8_t *new, uint8_t *dst,
		       size_t max)
{
	struct diff d = { .some = 0 };

	for (unsigned int w = 0; w < WORDS; w++, old += WORDS, new += WORDS)
		diff_set(&d, w,
			 differ16(old, new) |
				 differ16(old + 16, new + 16) << 16 |
				 differ16(old + 32, new + 32) << 32 |
				 differ16(old + 48, new + 48) << 48);
	return put_runs(&d, new - GW_PAGE_SIZE, dst, max);
}

#define AVX2   __attribute__((target("avx2,bmi,bmi2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,bmi,bmi2")))

AVX2 static inline uint64_t differ32(const uint8_t *old, const uint8_t *new)
{
	__m256i a = _mm256_loadu_si256((const __m256i *)old);
	__m256i b = _mm256_loadu_si256((const __m256i *)new);

	return (uint32_t)~_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b));
}

AVX2 static int encode_avx2(const uint8_t *old, const uint8_t *new,
			    uint8_t *dst, size_t max)
{
	struct diff d = { .some = 0 };

	for (unsigned int w = 0; w < WORDS; w++, old += WORDS, new += WORDS)
		diff_set(&d, w,
			 differ32(old, new) | differ32(old + 32, new + 32)
						      << 32);
	return put_runs(&d, new - GW_PAGE_SIZE, dst, max);
}

static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2") &&
	       __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

AVX512 static int encode_avx512(const uint8_t *old, const uint8_t *new,
				uint8_t *dst, size_t max)
{
	struct diff d = { .some = 0 };

	for (unsigned int w = 0; w < WORDS; w++, old += WORDS, new += WORDS)
		diff_set(&d, w,
			 _mm512_cmpneq_epu8_mask(_mm512_loadu_si512(old),
						 _mm512_loadu_si512(new)));
	return put_runs(&d, new - GW_PAGE_SIZE, dst, max);
}

static bool has_avx512(void)
{
	return has_avx2() && __builtin_cpu_supports("avx512bw");
}
#endif

const struct gw_xbzrle_impl gw_xbzrle_impls[] = {
#if defined(__x86_64__)
	{ "avx512", has_avx512, encode_avx512 },
	{ "avx2", has_avx2, encode_avx2 },
	{ "sse2", always, encode_sse2 },
#endif
	{ "words", always, encode_words },
	{ NULL, NULL, NULL },
};

static int resolve(const uint8_t *old, const uint8_t *new, uint8_t *dst,
		   size_t max);

/* atomic; every thread that resolves comes to the same result */
static int (*chosen)(const uint8_t *old, const uint8_t *new, uint8_t *dst,
		     size_t max) = resolve;

static int resolve(const uint8_t *old, const uint8_t *new, uint8_t *dst,
		   size_t max)
{
	const struct gw_xbzrle_impl *i = gw_xbzrle_impls;

	while (!i->usable())
		i++;
	__atomic_store_n(&chosen, i->encode, __ATOMIC_RELAXED);
	return i->encode(old, new, dst, max);
}

int gw_xbzrle_encode(const uint8_t *old, const uint8_t *new, uint8_t *dst,
		     size_t max)
{
	return __atomic_load_n(&chosen, __ATOMIC_RELAXED)(old, new, dst, max);
}

/* --- decode ------------------------------------------------------------ */

/*
 * A run's length at @p, where at least two bytes must be left: no valid delta
 * ends earlier, because the last run has a byte of content. Return: bytes
 * taken, 0: there is no length.
 */
static inline size_t get_run(const uint8_t *p, const uint8_t *end, size_t *run)
{
	if (end - p < 2)
		return 0;
	*run = p[0] & 0x7f;
	if (p[0] < 0x80)
		return 1;
	if (p[1] >= 0x80)
		return 0;
	*run |= (size_t)p[1] << 7;
	return 2;
}

int gw_xbzrle_decode(const uint8_t *delta, size_t len, uint8_t *page)
{
	const uint8_t *p = delta, *end = delta + len;
	size_t at = 0, run, n;

	while (p < end) {
		n = get_run(p, end, &run);
		if (!n || (!run && p != delta) || run > GW_PAGE_SIZE - at)
			return -EPROTO;
		p += n;
		at += run;
		n = get_run(p, end, &run);
		if (!n || !run || run > GW_PAGE_SIZE - at)
			return -EPROTO;
		p += n;
		if (run > (size_t)(end - p))
			return -EPROTO;
		copy_run(page + at, p, run);
		p += run;
		at += run;
	}
	return 0;
}
