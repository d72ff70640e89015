/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * gone.h - pages that this process has looked at through b->host and that are
 * not mapped there any more. Punching a page out of a file takes it from
 * every mapping of it, so all that the VM gave back (balloon, free-page
 * reporting) is among them, at the price of a walk over our own page tables:
 * 3.5 ms per GiB where asking the file, extent by extent, takes 19 ms. The
 * kernel drops entries for other reasons too: who is told of a page asks the
 * file (gw_extent_alike()).
 */
#ifndef GW_TRACK_GONE_H
#define GW_TRACK_GONE_H

#include <stdint.h>

#include "base/error.h"
#include "ram/block.h"

#define GW_GONE_ENTRIES 512

struct gw_gone {
	const struct gw_ramblock *b;
	int fd; /* /proc/self/pagemap */
	bool scan; /* PAGEMAP_SCAN, Linux 6.7; else entry by entry */
	uint64_t at; /* address from which on nothing was asked yet */
	int n, next; /* ranges found, first one not yet told */
	struct {
		uint64_t start, end; /* addresses */
	} range[GW_GONE_ENTRIES];
};

int gw_gone_begin(struct gw_gone *g, const struct gw_ramblock *b,
		  struct gw_error *err) GW_MUST_CHECK;

/* The next pages that are not mapped: *@first and *@n; *@n 0: no more. */
int gw_gone_next(struct gw_gone *g, uint64_t *first, uint64_t *n,
		 struct gw_error *err) GW_MUST_CHECK;

void gw_gone_end(struct gw_gone *g);

#endif
