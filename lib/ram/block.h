/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * block.h - the RAM block table: which memory a VM has, under QEMU's names.
 *
 * A block's bytes are reached through `host`, our own mapping of `fd`. The VM
 * maps the same file in its process at `peer_addr`; that is where trackers
 * look. A page is always GW_PAGE_SIZE bytes (QEMU's target page on x86);
 * `page_size` is the granularity of the backing (2 MiB on hugetlbfs).
 */
#ifndef GW_RAM_BLOCK_H
#define GW_RAM_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "ram/bitmap.h"

#define GW_PAGE_BITS	  12
#define GW_PAGE_SIZE	  4096u
#define GW_IDSTR_MAX	  255
#define GW_RAM_MAX_BLOCKS 64
#define GW_RAM_MAX_LENGTH (1ULL << 46) /* 64 TiB: x86 physical addresses */

struct gw_ramblock {
	/* set once, before use */
	char idstr[GW_IDSTR_MAX + 1];
	uint64_t used_length; /* bytes, a multiple of GW_PAGE_SIZE */
	uint32_t page_size;   /* bytes */
	int fd;		      /* the shared file; -1: none. Owned */
	bool transparent; /* fd's file gets huge pages where there are any;
			     page_size is 4096 all the same */
	uint64_t fd_offset;   /* where in fd the block begins */
	uint8_t *host;	      /* our mapping, or NULL. Owned if fd >= 0 */
	uint64_t peer_addr;   /* address in the VM's process, 0: none */
	bool keep; /* allocated or locked on purpose: never punched */

	/* any thread */
	struct gw_bitmap dirty; /* pages to send (a source) */
	/* destination: pages written so far; source: pages sent, so that they
	 * can be found when they became holes */
	struct gw_bitmap placed;
};

struct gw_ram {
	struct gw_ramblock block[GW_RAM_MAX_BLOCKS];
	int nblocks;
	uint64_t total; /* sum of used_length */
};

void gw_ram_init(struct gw_ram *ram);
void gw_ram_fini(struct gw_ram *ram); /* unmaps, closes */

/*
 * Add a block backed by @fd (taken over, also on failure; -1: none yet) and
 * return it, or NULL with @err: empty, overlong or duplicate name, length 0,
 * unaligned or too large, table full.
 */
struct gw_ramblock *gw_ram_add(struct gw_ram *ram, const char *idstr,
			       uint64_t used_length, uint32_t page_size,
			       int fd, uint64_t fd_offset,
			       struct gw_error *err);

/* Add a block that is only described, as by a peer: no file, no bitmaps. */
int gw_ram_describe(struct gw_ram *ram, const char *idstr,
		    uint64_t used_length, uint32_t page_size,
		    struct gw_error *err) GW_MUST_CHECK;

struct gw_ramblock *gw_ram_find(struct gw_ram *ram, const char *idstr);

/* Map every block's fd shared, @writable or read-only. */
int gw_ram_map(struct gw_ram *ram, bool writable,
	       struct gw_error *err) GW_MUST_CHECK;

/*
 * Do two tables describe the same memory? The first difference is in @err,
 * with @ours and @theirs ("source", "destination") as names of the sides.
 */
int gw_ram_compare(const struct gw_ram *a, const char *ours,
		   const struct gw_ram *b, const char *theirs,
		   struct gw_error *err) GW_MUST_CHECK;

static inline uint64_t gw_ramblock_npages(const struct gw_ramblock *b)
{
	return b->used_length >> GW_PAGE_BITS;
}

uint64_t gw_ram_dirty_pages(const struct gw_ram *ram);

#endif
