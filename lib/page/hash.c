/* SPDX-License-Identifier: BSD-3-Clause */
/* hash.c - see hash.h. */
#include "page/hash.h"

#include <string.h>
#include <xxhash.h>

#include "page/zero.h"
#include "ram/extents.h"

uint64_t gw_page_hash(const void *page)
{
	uint64_t h;

	if (gw_page_is_zero(page))
		return 0;
	h = XXH3_64bits(page, GW_PAGE_SIZE);
	return h ? h : 1;
}

int gw_page_hash_range(const struct gw_ramblock *b, uint64_t first, uint32_t n,
		       uint64_t *hash, bool *any, struct gw_error *err)
{
	uint64_t at = first << GW_PAGE_BITS;
	uint64_t end = (first + n) << GW_PAGE_BITS;

	memset(hash, 0, n * sizeof(*hash));
	*any = false;
	while (at < end) {
		uint64_t start, len;
		int r = gw_extent_next(b, at, &start, &len, err);

		if (r)
			return r;
		if (!len || start >= end)
			return 0;
		for (at = start; at < start + len && at < end;
		     at += GW_PAGE_SIZE) {
			uint64_t h = gw_page_hash(b->host + at);

			hash[(at >> GW_PAGE_BITS) - first] = h;
			*any |= h != 0;
		}
	}
	return 0;
}
