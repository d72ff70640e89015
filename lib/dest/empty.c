/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * empty.c - all RAM of a waiting VM reads as zero, whatever its firmware, an
 * attempt before this one or its VMM's user left there. A zero page that is
 * never sent depends on it (docs/internals/zero-pages.md).
 */
#include <string.h>

#include "dest/internal.h"
#include "page/zero.h"
#include "ram/extents.h"

/* For memory that must stay allocated, or cannot be punched. */
static int clear(struct gw_ramblock *b, struct gw_error *err)
{
	uint64_t at = 0, start, len, n = 0;
	int r;

	do {
		r = gw_extent_next(b, at, &start, &len, err);
		if (r)
			return r;
		for (at = start; at < start + len; at += GW_PAGE_SIZE) {
			if (gw_page_is_zero(b->host + at))
				continue;
			memset(b->host + at, 0, GW_PAGE_SIZE);
			n++;
		}
	} while (len);
	gw_info("RAM block '%s': %llu pages were not zero", b->idstr,
		(unsigned long long)n);
	return 0;
}

int gw_dest_empty_ram(struct gw_ram *ram, struct gw_error *err)
{
	int r = 0;

	for (int i = 0; i < ram->nblocks && !r; i++) {
		struct gw_ramblock *b = &ram->block[i];
		struct gw_error why = { 0 };

		if (!b->keep && !gw_extent_punch_all(b, &why))
			continue;
		if (why.code)
			gw_info("%s: it is cleared instead", why.msg);
		r = clear(b, err);
	}
	return r;
}
