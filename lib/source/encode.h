/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * encode.h - what becomes of a page on its way out: nothing, zeros, its
 * difference from what the receiver has, or itself.
 *
 * Differences (XBZRLE) begin with the second pass: in the first every page is
 * new. The cache (page/cache.h) holds what the receiver has, so a page that is
 * in it is copied before it is looked at, and the copy is what goes out.
 *
 * gw_encode_page() and gw_encode_zeros(): any thread, one page for one thread
 * at a time, and between two calls of gw_encode_pass() each page once. The
 * rest: the migration thread, while nobody encodes, but gw_encode_tune().
 */
#ifndef GW_SOURCE_ENCODE_H
#define GW_SOURCE_ENCODE_H

#include "godwit.h"
#include "page/cache.h"
#include "ram/bitmap.h"

struct gw_encode {
	bool on;     /* XBZRLE was asked for */
	bool active; /* and there is something to compare with */
	/* The receiver has zeros wherever nothing was sent (promised in the
	 * greeting), and this is the first pass: set by the owner, dropped by
	 * gw_encode_pass(). */
	bool skip_zeros;
	/* A page of one byte may go out as that byte: set by the owner, where
	 * the receiver knows such a record. */
	bool fill;
	/* Optional, per block: pages that were not zero when they were read. */
	struct gw_bitmap *fresh;
	uint64_t skipped; /* atomic: zero pages left out for it */
	struct gw_cache cache;
	const struct godwit_params *params;
	uint64_t refused; /* a cache size there was no memory for */
	uint64_t bytes, same; /* atomic: sent as deltas; unchanged pages */
	/* at the beginning of the pass; bytes with those of overflows */
	uint64_t bytes0, hits0, misses0;
};

/* From FILL on something of the page goes out. */
enum gw_encoded {
	GW_ENCODED_ZERO,  /* all bytes are zero */
	GW_ENCODED_SAME,  /* the receiver has it: send nothing */
	GW_ENCODED_FILL,  /* all bytes are *@len; only with e->fill */
	GW_ENCODED_DELTA, /* *@len bytes in @delta */
	GW_ENCODED_COPY,  /* what is in @copy, whole */
	GW_ENCODED_OVERFLOW, /* the same: the delta would have been too long */
	GW_ENCODED_WHOLE, /* the page itself, whole; it may still change */
};

/* @nthreads will encode. Without params->xbzrle nothing is allocated. */
int gw_encode_init(struct gw_encode *e, const struct godwit_params *params,
		   unsigned int nthreads, struct gw_error *err) GW_MUST_CHECK;
void gw_encode_fini(struct gw_encode *e); /* also of a zeroed one */

/* A pass begins that is not the first. */
void gw_encode_pass(struct gw_encode *e);

/* Page @page of block @block at @host; @copy and @delta have GW_PAGE_SIZE
 * bytes of room each. */
enum gw_encoded gw_encode_page(struct gw_encode *e, int block, uint64_t page,
			       const uint8_t *host, uint8_t *copy,
			       uint8_t *delta, int *len);

/* Pages that go out as zeros without having been looked at. */
void gw_encode_zeros(struct gw_encode *e, int block, uint64_t first,
		     uint64_t n);

/* Follow a changed cache-size. A size there is no memory for leaves the cache
 * as it is, with a warning. */
void gw_encode_tune(struct gw_encode *e);

void gw_encode_stats(struct gw_encode *e, struct godwit_stats *now);

#endif
