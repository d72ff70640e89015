/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pagefile.h - a file in which every page has one fixed place: mapped-ram,
 * raw memory, ELF cores. One bit per page says whether its place was written;
 * where it was not, the file has a hole.
 *
 * gw_pagefile_write() and gw_pagefile_zeros() may be called by several threads
 * for different pages, all else by one.
 */
#ifndef GW_IMAGE_PAGEFILE_H
#define GW_IMAGE_PAGEFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "image/savefile.h"
#include "image/sink.h"
#include "ram/bitmap.h"

/* What becomes of a page's place when the page turns zero. */
enum gw_pagefile_rule {
	GW_PAGEFILE_NONE,  /* this block is not in the file */
	GW_PAGEFILE_BITS,  /* its bit is cleared, readers believe the bit */
	GW_PAGEFILE_EXACT, /* it is overwritten, readers believe the place */
};

struct gw_pagefile_block {
	enum gw_pagefile_rule rule;
	struct gw_bitmap written;
	/* where its pages are; a PC's RAM is in two parts */
	struct gw_pagefile_part {
		uint64_t first, n; /* pages */
		uint64_t offset;   /* in the file, bytes */
	} part[2];
};

struct gw_pagefile {
	struct gw_savefile file;
	int direct;	  /* the same with O_DIRECT, -1: none */
	uint64_t *nbytes; /* atomic: counts what is written */
	const struct gw_image_desc *d;
	struct gw_pagefile_block *block; /* owned, d->table.n of them */
};

/* @p is closed when this fails. @nbytes: see there, outlives @p. */
int gw_pagefile_open(struct gw_pagefile *p, const char *path,
		     const struct gw_sink_options *o, uint64_t *nbytes,
		     struct gw_error *err) GW_MUST_CHECK;
void gw_pagefile_close(struct gw_pagefile *p);

/* Blocks of @d, none in the file yet: the caller fills in rule and parts. */
int gw_pagefile_begin(struct gw_pagefile *p, const struct gw_image_desc *d,
		      struct gw_error *err) GW_MUST_CHECK;

int gw_pagefile_write(struct gw_pagefile *p, int block, uint64_t first,
		      uint32_t n, const void *data,
		      struct gw_error *err) GW_MUST_CHECK;
int gw_pagefile_zeros(struct gw_pagefile *p, int block, uint64_t first,
		      uint64_t n, struct gw_error *err) GW_MUST_CHECK;
/* An XBZRLE delta against what was written of the page, else zeros. */
int gw_pagefile_delta(struct gw_pagefile *p, int block, uint64_t page,
		      const void *delta, uint16_t len,
		      struct gw_error *err) GW_MUST_CHECK;

/* Anything that is no page. */
int gw_pagefile_put(struct gw_pagefile *p, const void *data, size_t len,
		    uint64_t offset, struct gw_error *err) GW_MUST_CHECK;

#endif
