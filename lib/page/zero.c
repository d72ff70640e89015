/* SPDX-License-Identifier: BSD-3-Clause */
/* zero.c - see zero.h. */
#include "page/zero.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ram/block.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/*
 * Guest memory is written by others while we read it; that is meant to be.
 * The loads are compiled to plain ones either way, the attribute only keeps
 * ThreadSanitizer from reporting them.
 */
#define RACY __attribute__((no_sanitize("thread")))

static inline RACY uint64_t word(const uint8_t *p)
{
	uint64_t v;

	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

/* Most pages that are not zero show it early: each looks there first. */
static RACY bool zero_words(const void *page)
{
	const uint8_t *p = page, *end = p + GW_PAGE_SIZE;

	if (word(p))
		return false;
	for (; p < end; p += 256) {
		uint64_t a = 0, b = 0, c = 0, d = 0;

		for (int i = 0; i < 256; i += 32) {
			a |= word(p + i);
			b |= word(p + i + 8);
			c |= word(p + i + 16);
			d |= word(p + i + 24);
		}
		if (a | b | c | d)
			return false;
	}
	return true;
}

static bool always(void)
{
	return true;
}

#if defined(__x86_64__)
static RACY bool zero_sse2(const void *page)
{
	const __m128i *p = page, *end = p + GW_PAGE_SIZE / sizeof(*p);
	const __m128i zero = _mm_setzero_si128();

	if (word(page))
		return false;
	for (; p < end; p += 8) {
		__m128i a = _mm_or_si128(_mm_loadu_si128(p),
					 _mm_loadu_si128(p + 1));
		__m128i b = _mm_or_si128(_mm_loadu_si128(p + 2),
					 _mm_loadu_si128(p + 3));
		__m128i c = _mm_or_si128(_mm_loadu_si128(p + 4),
					 _mm_loadu_si128(p + 5));
		__m128i d = _mm_or_si128(_mm_loadu_si128(p + 6),
					 _mm_loadu_si128(p + 7));
		__m128i all = _mm_or_si128(_mm_or_si128(a, b),
					   _mm_or_si128(c, d));

		if (_mm_movemask_epi8(_mm_cmpeq_epi8(all, zero)) != 0xffff)
			return false;
	}
	return true;
}

__attribute__((target("avx2"))) static RACY bool zero_avx2(const void *page)
{
	const __m256i *p = page, *end = p + GW_PAGE_SIZE / sizeof(*p);

	if (word(page))
		return false;
	for (; p < end; p += 8) {
		__m256i a = _mm256_or_si256(_mm256_loadu_si256(p),
					    _mm256_loadu_si256(p + 1));
		__m256i b = _mm256_or_si256(_mm256_loadu_si256(p + 2),
					    _mm256_loadu_si256(p + 3));
		__m256i c = _mm256_or_si256(_mm256_loadu_si256(p + 4),
					    _mm256_loadu_si256(p + 5));
		__m256i d = _mm256_or_si256(_mm256_loadu_si256(p + 6),
					    _mm256_loadu_si256(p + 7));
		__m256i all = _mm256_or_si256(_mm256_or_si256(a, b),
					      _mm256_or_si256(c, d));

		if (!_mm256_testz_si256(all, all))
			return false;
	}
	return true;
}

__attribute__((target("avx512f"))) static RACY bool
zero_avx512(const void *page)
{
	const uint8_t *p = page, *end = p + GW_PAGE_SIZE;

	if (word(page))
		return false;
	for (; p < end; p += 512) {
		__m512i a = _mm512_or_si512(_mm512_loadu_si512(p),
					    _mm512_loadu_si512(p + 64));
		__m512i b = _mm512_or_si512(_mm512_loadu_si512(p + 128),
					    _mm512_loadu_si512(p + 192));
		__m512i c = _mm512_or_si512(_mm512_loadu_si512(p + 256),
					    _mm512_loadu_si512(p + 320));
		__m512i d = _mm512_or_si512(_mm512_loadu_si512(p + 384),
					    _mm512_loadu_si512(p + 448));
		__m512i all = _mm512_or_si512(_mm512_or_si512(a, b),
					      _mm512_or_si512(c, d));

		if (_mm512_test_epi64_mask(all, all))
			return false;
	}
	return true;
}

static bool has_avx512(void)
{
	return __builtin_cpu_supports("avx512f");
}

static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2");
}
#endif

const struct gw_page_zero_impl gw_page_zero_impls[] = {
#if defined(__x86_64__)
	{ "avx512", has_avx512, zero_avx512 },
	{ "avx2", has_avx2, zero_avx2 },
	{ "sse2", always, zero_sse2 },
#endif
	{ "words", always, zero_words },
	{ NULL, NULL, NULL },
};

static bool resolve(const void *page);

/* atomic; every thread that resolves comes to the same result */
static bool (*chosen)(const void *page) = resolve;

static bool resolve(const void *page)
{
	const struct gw_page_zero_impl *i = gw_page_zero_impls;

	while (!i->usable())
		i++;
	__atomic_store_n(&chosen, i->is_zero, __ATOMIC_RELAXED);
	return i->is_zero(page);
}

bool gw_page_is_zero(const void *page)
{
	return __atomic_load_n(&chosen, __ATOMIC_RELAXED)(page);
}

RACY bool gw_page_is_filled(const void *page, uint8_t *byte)
{
	const uint8_t *p = page, *end = p + GW_PAGE_SIZE;
	uint64_t first = word(p);

	*byte = (uint8_t)first;
	if (first != *byte * 0x0101010101010101ULL)
		return false;
	for (; p < end; p += 64)
		if ((word(p) ^ first) | (word(p + 8) ^ first) |
		    (word(p + 16) ^ first) | (word(p + 24) ^ first) |
		    (word(p + 32) ^ first) | (word(p + 40) ^ first) |
		    (word(p + 48) ^ first) | (word(p + 56) ^ first))
			return false;
	return true;
}
