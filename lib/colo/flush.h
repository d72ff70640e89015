/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * flush.h - copy the pages that bitmaps name, with several threads.
 *
 * The work is split at 64-bit words of the bitmaps, so no two threads ever
 * share one, and dealt out as it is asked for, in pieces of about the same
 * number of *pages*, not of address space: pages that lie close together keep
 * all threads busy. (In 2016 each of four threads got a quarter of the
 * addresses; mostly one of them had everything to do.)
 */
#ifndef GW_COLO_FLUSH_H
#define GW_COLO_FLUSH_H

#include <stdint.h>

#include "base/error.h"
#include "ram/bitmap.h"

struct gw_flush; /* the threads; they wait between two runs */

/* One block: the pages in @bits or @own go from @src to @dst1 and @dst2. */
struct gw_flush_block {
	struct gw_bitmap *bits, *own; /* @own may be NULL; both are cleared
				       * only by gw_flush_run()'s @clear */
	const uint8_t *src;	      /* of pages that are in @bits */
	const uint8_t *base;	      /* of pages that are in @own alone */
	uint8_t *dst1, *dst2; /* may be NULL; dst1 is skipped for pages that
			       * are in @own alone (it is @base's memory) */
};

/* How the pieces are dealt out: the last two are there to be compared with. */
enum gw_flush_split {
	GW_FLUSH_QUEUE,	 /* small pieces of about the same number of pages */
	GW_FLUSH_STATIC, /* as in 2016: a share of the addresses each */
};

/* @n threads (the caller is one of them), > 0. NULL with @err. */
struct gw_flush *gw_flush_new(unsigned int n, struct gw_error *err);
void gw_flush_free(struct gw_flush *f); /* NULL is fine */

/* Copy; returns when all is copied. @clear: and clear the bitmaps.
 * Return: pages copied. */
uint64_t gw_flush_run(struct gw_flush *f, const struct gw_flush_block *b,
		      int nblocks, enum gw_flush_split split, bool clear);

#endif
