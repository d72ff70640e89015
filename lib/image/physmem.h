/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * physmem.h - where a machine's main memory lies in the guest's physical
 * address space. An image names blocks, not addresses, so this is by machine
 * type, as QEMU 7.2 to 11.1 place it ("info mtree -f"):
 *
 *	pc-i440fx-*  all below 4 GiB if smaller than 0xe0000000, else 0xc0000000
 *	pc-q35-*     all below 4 GiB if smaller than 0xb0000000, else 0x80000000
 *	microvm	     at most 0xc0000000 below 4 GiB
 *	isapc, none  flat
 *
 * The rest is at 4 GiB. 0xa0000 to 0xfffff holds the RAM that video memory
 * and firmware hide from the guest.
 */
#ifndef GW_IMAGE_PHYSMEM_H
#define GW_IMAGE_PHYSMEM_H

#include <stdbool.h>
#include <stdint.h>

#include "image/sink.h"

struct gw_physmem {
	int block; /* the main one, index into the table */
	int n;	   /* parts, 1 or 2 */
	struct {
		uint64_t phys, len;
		uint64_t offset; /* in the block */
	} part[2];
	/* What the result may lack, as a sentence; "": nothing known. */
	char warning[512];
};

/* -ENOENT when there is no memory at all. */
int gw_physmem_find(const struct gw_image_desc *d, struct gw_physmem *p,
		    struct gw_error *err) GW_MUST_CHECK;

#endif
