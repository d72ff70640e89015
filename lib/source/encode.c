/* SPDX-License-Identifier: BSD-3-Clause */
/* encode.c - see encode.h. */
#include "source/encode.h"

#include <string.h>

#include "page/zero.h"

#define GW_LOG_MODULE "source"
#include "base/log.h"

#define RECORD_HEAD 3 /* flag and length, as QEMU counts them */

int gw_encode_init(struct gw_encode *e, const struct godwit_params *params,
		   unsigned int nthreads, struct gw_error *err)
{
	unsigned int nshards = nthreads < 2 ? 1 : 8 * nthreads;

	e->params = params;
	e->on = params->xbzrle;
	if (!e->on)
		return 0;
	if (nshards > GW_CACHE_MAX_SHARDS)
		nshards = GW_CACHE_MAX_SHARDS;
	return gw_cache_init(&e->cache, params->cache_size, nshards, err);
}

void gw_encode_fini(struct gw_encode *e)
{
	if (e->on)
		gw_cache_fini(&e->cache);
	e->on = e->active = false;
}

/* What was sent for pages that the cache had. */
static uint64_t bytes_sent(const struct gw_encode *e,
			   const struct gw_cache_stats *c)
{
	return __atomic_load_n(&e->bytes, __ATOMIC_RELAXED) +
	       c->overflows * GW_PAGE_SIZE;
}

void gw_encode_pass(struct gw_encode *e)
{
	struct gw_cache_stats c;

	e->skip_zeros = false;
	if (!e->on)
		return;
	gw_cache_get_stats(&e->cache, &c);
	e->bytes0 = bytes_sent(e, &c);
	e->hits0 = c.hits;
	e->misses0 = c.misses;
	gw_cache_next_pass(&e->cache);
	gw_encode_tune(e);
	e->active = true;
}

/* Before there is a cache. */
static enum gw_encoded zero_page(struct gw_encode *e)
{
	if (!e->skip_zeros)
		return GW_ENCODED_ZERO;
	__atomic_fetch_add(&e->skipped, 1, __ATOMIC_RELAXED);
	return GW_ENCODED_SAME;
}

static enum gw_encoded filled_page(struct gw_encode *e, const uint8_t *host,
				   int *len)
{
	uint8_t byte;

	if (!e->fill || !gw_page_is_filled(host, &byte))
		return GW_ENCODED_WHOLE;
	*len = byte;
	return GW_ENCODED_FILL;
}

static enum gw_encoded encode(struct gw_encode *e, int block, uint64_t page,
			      const uint8_t *host, uint8_t *copy,
			      uint8_t *delta, int *len)
{
	if (!e->active)
		return gw_page_is_zero(host) ? zero_page(e) :
					       filled_page(e, host, len);
	memcpy(copy, host, GW_PAGE_SIZE);
	if (gw_page_is_zero(copy)) {
		gw_cache_set_zero(&e->cache, (uint32_t)block, page);
		return GW_ENCODED_ZERO;
	}
	*len = gw_cache_delta(&e->cache, (uint32_t)block, page, copy, delta);
	if (*len < 0)
		return *len == GW_CACHE_OVERFLOW ? GW_ENCODED_OVERFLOW :
						   GW_ENCODED_COPY;
	if (!*len) {
		__atomic_fetch_add(&e->same, 1, __ATOMIC_RELAXED);
		return GW_ENCODED_SAME;
	}
	__atomic_fetch_add(&e->bytes, (uint64_t)*len + RECORD_HEAD,
			   __ATOMIC_RELAXED);
	return GW_ENCODED_DELTA;
}

enum gw_encoded gw_encode_page(struct gw_encode *e, int block, uint64_t page,
			       const uint8_t *host, uint8_t *copy,
			       uint8_t *delta, int *len)
{
	enum gw_encoded what = encode(e, block, page, host, copy, delta, len);

	if (e->fresh && what >= GW_ENCODED_FILL)
		gw_bitmap_set(&e->fresh[block], page);
	return what;
}

void gw_encode_zeros(struct gw_encode *e, int block, uint64_t first, uint64_t n)
{
	if (!e->active)
		return;
	for (uint64_t i = 0; i < n; i++)
		gw_cache_set_zero(&e->cache, (uint32_t)block, first + i);
}

void gw_encode_tune(struct gw_encode *e)
{
	struct gw_error err = { 0 };
	uint64_t want;

	if (!e->on)
		return;
	want = __atomic_load_n(&e->params->cache_size, __ATOMIC_RELAXED);
	if (want == e->refused || !gw_cache_resize(&e->cache, want, &err))
		return;
	e->refused = want;
	gw_warn("the cache keeps its %llu bytes: %s",
		(unsigned long long)gw_cache_size(&e->cache), err.msg);
}

static double ratio(uint64_t a, uint64_t b)
{
	return b ? (double)a / (double)b : 0;
}

void gw_encode_stats(struct gw_encode *e, struct godwit_stats *now)
{
	struct gw_cache_stats c;

	now->skipped = __atomic_load_n(&e->skipped, __ATOMIC_RELAXED);
	if (!e->on)
		return;
	gw_cache_get_stats(&e->cache, &c);
	now->xbzrle_cache_size = gw_cache_size(&e->cache);
	now->xbzrle_pages = c.hits;
	now->xbzrle_cache_miss = c.misses;
	now->xbzrle_overflow = c.overflows;
	now->xbzrle_bytes = bytes_sent(e, &c);
	now->xbzrle_same = __atomic_load_n(&e->same, __ATOMIC_RELAXED);
	now->xbzrle_cache_miss_rate =
		ratio(c.misses - e->misses0,
		      c.misses - e->misses0 + c.hits - e->hits0);
	now->xbzrle_encoding_rate =
		ratio((c.hits - e->hits0) * GW_PAGE_SIZE,
		      bytes_sent(e, &c) - e->bytes0);
}
