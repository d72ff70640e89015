/* SPDX-License-Identifier: BSD-3-Clause */
/* batch.c - see batch.h. */
#include "dest/batch.h"

#include <errno.h>
#include <stdlib.h>

int gw_batch_flush(struct gw_batch *b, struct gw_error *err)
{
	uint32_t n = b->n;

	b->n = 0;
	return n ? b->place->ops->pages(b->place, b->block, b->first, n,
					b->pages, err) :
		   0;
}

int gw_batch_at(struct gw_batch *b, int block, uint64_t page,
		struct gw_error *err)
{
	if (b->n && b->n < GW_BATCH_PAGES && block == b->block &&
	    page == b->first + b->n)
		return 0;
	return gw_batch_flush(b, err);
}

uint8_t *gw_batch_add(struct gw_batch *b, struct gw_place *place, int block,
		      uint64_t page, struct gw_error *err)
{
	if (!b->pages)
		b->pages = malloc((size_t)GW_BATCH_PAGES * GW_PAGE_SIZE);
	if (!b->pages) {
		gw_fail(err, ENOMEM, "no memory for %u pages", GW_BATCH_PAGES);
		return NULL;
	}
	if (!b->n) {
		b->place = place;
		b->block = block;
		b->first = page;
	}
	return b->pages + (size_t)b->n++ * GW_PAGE_SIZE;
}

void gw_batch_fini(struct gw_batch *b)
{
	free(b->pages);
}
