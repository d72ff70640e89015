/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * journal.h - the part of a store's file that is not RAM: bytes to structures
 * and back, and nothing else. What is read may be anything.
 *
 *	head	at 0: magic, version, length; name, machine, blocks; hash
 *	slots	two, a page each; a slot is smaller than a disk's sector
 *	map	entries of 24 bytes: what is in `next`, by words of 64 pages
 *
 * All numbers are big-endian, all hashes XXH3-64.
 */
#ifndef GW_COLO_JOURNAL_H
#define GW_COLO_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "ram/block.h"

#define GW_STORE_MAGIC	   "gwstore\n"
#define GW_STORE_MAGIC_NEW "gwstnew\n" /* it is being created: worth nothing \
					*/
#define GW_STORE_MAGIC_LEN 8
#define GW_STORE_HEAD	   32768
#define GW_STORE_NAME_MAX  255
#define GW_STORE_STATE_MAX (1ULL << 30)
#define GW_STORE_SLOT	   80 /* bytes in use of a slot's page */
#define GW_STORE_ENTRY	   24 /* bytes of an entry of the map */

/* Whose file it is. */
struct gw_store_head {
	char name[GW_STORE_NAME_MAX + 1];
	char machine[GW_STORE_NAME_MAX + 1];
	int nblocks;
	struct gw_store_block {
		char idstr[GW_IDSTR_MAX + 1];
		uint64_t used_length;
		uint32_t page_size;
	} block[GW_RAM_MAX_BLOCKS];
};

/* Where things are, by the head alone. Offsets in bytes. */
struct gw_store_layout {
	uint64_t slot[2], state[2];
	uint64_t map, map_max; /* bytes */
	uint64_t committed[GW_RAM_MAX_BLOCKS], next[GW_RAM_MAX_BLOCKS];
	uint64_t total;
};

enum gw_store_phase {
	GW_STORE_APPLYING = 1,
	GW_STORE_DONE = 2,
};

struct gw_store_slot {
	uint64_t serial; /* of slots written, one after the other */
	uint64_t seq;	 /* 0: no checkpoint */
	uint32_t phase;	 /* enum gw_store_phase */
	uint32_t flags;
	uint32_t area; /* of the two for device state */
	uint64_t nstate, state_hash;
	uint64_t nmap, map_hash; /* bytes; of APPLYING */
};

struct gw_store_entry {
	uint32_t block;
	uint32_t zero; /* 1: these pages became zero, 0: they are in `next` */
	uint64_t word; /* pages 64 * word on */
	uint64_t bits;
};

void gw_store_layout(const struct gw_store_head *h, struct gw_store_layout *l);

/* @buf: GW_STORE_HEAD bytes; the rest of it becomes 0. */
void gw_store_head_put(const struct gw_store_head *h, uint8_t *buf);
int gw_store_head_get(struct gw_store_head *h, const uint8_t *buf,
		      struct gw_error *err) GW_MUST_CHECK;

void gw_store_slot_put(const struct gw_store_slot *s,
		       uint8_t buf[GW_STORE_SLOT]);
int gw_store_slot_get(struct gw_store_slot *s, const uint8_t buf[GW_STORE_SLOT],
		      const struct gw_store_layout *l,
		      struct gw_error *err) GW_MUST_CHECK;

/* Of two slots the one that counts; one that does not check, or two that do
 * not follow each other, are damage. */
int gw_store_slot_newest(struct gw_store_slot *s, const uint8_t *a,
			 const uint8_t *b, const struct gw_store_layout *l,
			 struct gw_error *err) GW_MUST_CHECK;

void gw_store_entry_put(const struct gw_store_entry *e,
			uint8_t buf[GW_STORE_ENTRY]);
/* @h: blocks and bits must be of it. */
int gw_store_entry_get(struct gw_store_entry *e,
		       const uint8_t buf[GW_STORE_ENTRY],
		       const struct gw_store_head *h,
		       struct gw_error *err) GW_MUST_CHECK;

#endif
