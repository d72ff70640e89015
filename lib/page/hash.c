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
	uint64_t len;

	memset(hash, 0, n * sizeof(*hash));
	*any = false;
	for (uint64_t at = 0; at < n; at += len) {
		bool hole;
		int r = gw_extent_alike(b, first + at, n - at, &len, &hole,
					err);

		if (r)
			return r;
		for (uint64_t i = at; i < at + len && !hole; i++) {
			hash[i] = gw_page_hash(b->host +
					       ((first + i) << GW_PAGE_BITS));
			*any |= hash[i] != 0;
		}
	}
	return 0;
}
