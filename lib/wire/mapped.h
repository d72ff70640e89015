/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mapped.h - mapped-ram: every page of a block has one fixed offset in the
 * file (capability mapped-ram, QEMU >= 9.0). Behind a block's entry in the
 * table (cstr8 name, be64 used_length [, be64 mr_addr]) stands a packed header
 *
 *	be32 version 1, be64 page size, be64 bitmap_offset, be64 pages_offset
 *
 * then the bitmap (bit i%8 of byte i/8 is page i; whole 64-bit words), a hole
 * up to pages_offset (a multiple of 1 MiB), and used_length bytes of pages,
 * behind which the next entry or the EOS of START follows. Offsets count from
 * the beginning of the file, also when the stream begins later in it.
 *
 * With x-ignore-shared as well (QEMU >= 11.0) a shared block has both offsets
 * 0, no bitmap and no pages; the next entry follows at once.
 */
#ifndef GW_WIRE_MAPPED_H
#define GW_WIRE_MAPPED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/reader.h"
#include "base/writer.h"
#include "ram/block.h"

#define GW_MAPPED_VERSION     1u
#define GW_MAPPED_HEADER_SIZE 28u
#define GW_MAPPED_ALIGN	      (1ULL << 20) /* of pages_offset when written */

struct gw_mapped_block {
	uint64_t bitmap_offset; /* 0 and pages_offset 0: not in this file */
	uint64_t pages_offset;
};

static inline uint64_t gw_mapped_bitmap_size(uint64_t used_length)
{
	return (used_length / GW_PAGE_SIZE + 63) / 64 * 8;
}

/* Where a block's parts are when its header begins at file offset @at. */
struct gw_mapped_block gw_mapped_layout(uint64_t at, uint64_t used_length);

void gw_mapped_put(struct gw_writer *w, const struct gw_mapped_block *m);

/*
 * @at: the file offset right behind the header. Sticky errors in @r: version,
 * page size, overlapping or overflowing offsets, unaligned pages.
 * @may_be_ignored: the stream has x-ignore-shared, so both offsets may be 0.
 */
int gw_mapped_get(struct gw_reader *r, uint64_t at, uint64_t used_length,
		  bool may_be_ignored,
		  struct gw_mapped_block *m) GW_MUST_CHECK;

#endif
