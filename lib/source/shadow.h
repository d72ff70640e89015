/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * shadow.h - the pages of a checkpoint: copied while the VM stands, sent while
 * it runs. Anonymous memory of each block's size, of which only what was copied
 * is backed; pages are at the offsets that they have in the VM, so that whoever
 * sends needs another base address and nothing else.
 *
 * Memory that has been used is kept for the next checkpoint, whose copy then
 * faults nothing in, up to a bound.
 *
 * gw_shadow_copy() while the VM stands and nobody reads; gw_shadow_alike() and
 * the memory: any thread. The rest: the migration thread.
 */
#ifndef GW_SOURCE_SHADOW_H
#define GW_SOURCE_SHADOW_H

#include "ram/block.h"

struct gw_shadow {
	int nblocks;
	struct gw_shadow_block {
		uint8_t *mem;
		uint64_t nbytes;
		struct gw_bitmap copied; /* now; the others were holes */
		struct gw_bitmap backed; /* by memory */
	} block[GW_RAM_MAX_BLOCKS];
	uint64_t nbacked, ncopied; /* pages */
	uint64_t keep; /* pages of memory, at least; more after a large one */
};

int gw_shadow_init(struct gw_shadow *sh, const struct gw_ram *ram,
		   struct gw_error *err) GW_MUST_CHECK;
void gw_shadow_fini(struct gw_shadow *sh); /* also of a zeroed one */

/* Copy the pages that are dirty in @ram, whose bitmaps stay as they are. */
int gw_shadow_copy(struct gw_shadow *sh, struct gw_ram *ram,
		   struct gw_error *err) GW_MUST_CHECK;

/* Was page @first of block @block a hole when it was copied? Return: how many
 * of the @n pages from it on are like it. */
uint64_t gw_shadow_alike(const struct gw_shadow *sh, int block, uint64_t first,
			 uint64_t n, bool *hole);

/* They are sent: forget them, and memory beyond the bound. */
void gw_shadow_done(struct gw_shadow *sh);

#endif
