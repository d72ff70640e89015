/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * batch.h - pages that come one by one and follow each other, put into their
 * place (place.h, pages()) together.
 */
#ifndef GW_DEST_BATCH_H
#define GW_DEST_BATCH_H

#include "dest/place.h"

#define GW_BATCH_PAGES 64u /* they stay in the processor's cache */

struct gw_batch {
	uint8_t *pages; /* [GW_BATCH_PAGES]; NULL: none yet. Owned */
	struct gw_place *place;
	int block;
	uint64_t first;
	uint32_t n;
};

/* Where page @page of @block goes is to be asked: does it follow the others?
 * If not, or when there is no room for one more, they are put. */
int gw_batch_at(struct gw_batch *b, int block, uint64_t page,
		struct gw_error *err) GW_MUST_CHECK;

/* Where to read that page to. It belongs to @place. NULL with @err. */
uint8_t *gw_batch_add(struct gw_batch *b, struct gw_place *place, int block,
		      uint64_t page, struct gw_error *err);

int gw_batch_flush(struct gw_batch *b, struct gw_error *err) GW_MUST_CHECK;

void gw_batch_fini(struct gw_batch *b);

#endif
