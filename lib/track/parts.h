/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * parts.h - the parts of a VM's RAM that a tracker watches: 2 MiB each (a page
 * of the backing if that is more), as much as a page table of the VM maps.
 *
 * Protecting a hole makes page tables for it, 2 MiB per GiB, and each scan
 * walks them. So only parts that hold data are watched. What is written
 * elsewhere makes a hole data: each scan begins with asking the file for data
 * outside of the watched parts. A part that has some is
 *
 *	1. protected as a whole, also pages and page tables that are not there;
 *	2. a watched one from then on, whatever becomes of its data;
 *	3. reported: all its data, for there was none at the last look.
 *
 * A write before 1 is in what is copied after 3. One after 1 is found as in
 * any watched part, by this scan or the next. One into a part that the file
 * had nothing of, when asked, is found by the next scan in the same way: the
 * file has a page before the VM can write it, and as long as it holds what was
 * written (swapped out, too). Nothing is asked of page tables outside of
 * watched parts, so it does not matter what they say of pages that were
 * zapped, reclaimed, mapped as huge ones, or placed through the file without
 * the VM's knowledge. docs/internals/data-flow.md has the cases.
 *
 * A block without a file, and a file whose holes the kernel does not tell
 * (hugetlbfs), is data from its begin to its end.
 */
#ifndef GW_TRACK_PARTS_H
#define GW_TRACK_PARTS_H

#include "track/track.h"

struct gw_parts {
	const struct gw_ram *ram;
	struct gw_bitmap watched[GW_RAM_MAX_BLOCKS];
	int nblocks; /* bitmaps in use */
};

/* None is watched. After a failure, too, call _fini. */
int gw_parts_init(struct gw_parts *p, const struct gw_ram *ram,
		  struct gw_error *err) GW_MUST_CHECK;
void gw_parts_fini(struct gw_parts *p);

/* Write-protect [@addr, @addr + @len) of the VM, which is in @b. */
typedef int (*gw_part_protect)(struct gw_track *t, const struct gw_ramblock *b,
			       uint64_t addr, uint64_t len,
			       struct gw_error *err);

/* Tracking starts: nothing is watched but parts that hold data now. */
int gw_parts_start(struct gw_parts *p, struct gw_track *t,
		   gw_part_protect protect, struct gw_error *err) GW_MUST_CHECK;

/* A scan begins: watch those that hold data since, and report that. */
int gw_parts_grow(struct gw_parts *p, struct gw_track *t,
		  gw_part_protect protect, struct gw_error *err) GW_MUST_CHECK;

/*
 * The next watched bytes of block @block from *@at on, neighbours as one:
 * *@at moves there. Return: how many, whole pages of the backing; 0: none.
 */
uint64_t gw_parts_next(const struct gw_parts *p, int block, uint64_t *at);

#endif
