/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * record.h - what two godwits say to each other besides QEMU's format.
 *
 * A connection begins with a greeting in each direction (hello.h). Then the
 * source sends items: `ram` sections in QEMU's framing (section.h, ram.h) and
 * records; the destination sends records only. A record is
 *
 *	u8 0x47, u8 flags, be16 type, be32 length, payload[length]
 *
 * flags bit 0: mandatory, i.e. a receiver that does not know the type must
 * give up; without it, it skips the payload. Other bits are 0.
 */
#ifndef GW_WIRE_RECORD_H
#define GW_WIRE_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/reader.h"
#include "base/writer.h"
#include "ram/block.h"
#include "wire/qemu.h"

#define GW_RECORD_MANDATORY 0x01u

/* Numbers are wire format: never renumber, never reuse. */
enum gw_record_type {
	/* either direction: JSON, see gw_record_put_error(); the last word */
	GW_RECORD_ERROR = 1,
	/* source: populated ranges of a block, before their pages; optional */
	GW_RECORD_EXTENTS = 2,
	/* source: the VM stands, the last pass follows; optional */
	GW_RECORD_STOPPED = 3,
	/* source: hashes of pages, see struct gw_verify_header */
	GW_RECORD_VERIFY = 4,
	/* source: all hashes sent; destination: all compared equal */
	GW_RECORD_VERIFY_END = 5,
	/* source: bytes of QEMU's device stream */
	GW_RECORD_DEVICE = 6,
	/* source: be64 total bytes and be64 XXH3-64 of the device stream */
	GW_RECORD_DEVICE_END = 7,
	/* destination: loaded, paused */
	GW_RECORD_READY = 8,
	/* source: my VMM gave the VM up; u8: 1 run it, 0 it was paused */
	GW_RECORD_GO = 9,
	/* destination: it runs (or rests, as it did on the source) */
	GW_RECORD_RUNNING = 10,
	/* the disks are copied too: disks.h */
	GW_RECORD_DISKS = 11,
	GW_RECORD_DISKS_READY = 12,
	GW_RECORD_DISKS_END = 13,
	GW_RECORD_DISKS_PROGRESS = 14,
	/* checkpoints: checkpoint.h */
	GW_RECORD_STATE_BASE = 15,
	GW_RECORD_CHECKPOINT = 16,
	GW_RECORD_ACK = 17,
	GW_RECORD_FAILOVER = 18,
	GW_RECORD_BYE = 19,
};

#define GW_RECORD_MAX_JSON    65536u
#define GW_RECORD_MAX_EXTENTS 1024u
#define GW_RECORD_MAX_DEVICE  (1u << 20)
#define GW_VERIFY_CHUNK	      512u /* pages per VERIFY record */

struct gw_record {
	uint16_t type;
	bool mandatory;
	uint32_t len; /* payload bytes that follow in the reader */
};

/* The header; the payload of @len bytes follows. */
void gw_record_put(struct gw_writer *w, enum gw_record_type type,
		   bool mandatory, uint32_t len);

/* After the item byte. Flags and a length over 16 MiB are errors. */
int gw_record_get(struct gw_reader *r, struct gw_record *rec) GW_MUST_CHECK;

/*
 * An error as JSON: {"fault": N, "code": errno, "reason": text, "vm": where}
 * with @vm_here: the sender vouches that the VM does not run, and will not
 * run, on its side ("not-here") or says nothing.
 */
void gw_record_put_error(struct gw_writer *w, const struct gw_error *err,
			 bool not_here);
/* Payload of ERROR into @out, as "PEER: reason". Return: 0 or -errno in @r. */
int gw_record_get_error(struct gw_reader *r, const struct gw_record *rec,
			const char *peer, struct gw_error *out,
			bool *not_here) GW_MUST_CHECK;

/* EXTENTS: cstr8 block, then be64 start, be64 length, ascending, disjoint. */
struct gw_extent {
	uint64_t start, len;
};
void gw_record_put_extents(struct gw_writer *w, const struct gw_ramblock *b,
			   const struct gw_extent *e, uint32_t n);
/* Fills @e[GW_RECORD_MAX_EXTENTS] and *@n; checks against @ram's block. */
int gw_record_get_extents(struct gw_reader *r, const struct gw_record *rec,
			  struct gw_ram *ram, struct gw_ramblock **b,
			  struct gw_extent *e, uint32_t *n) GW_MUST_CHECK;

/*
 * VERIFY: cstr8 block, be64 first page, then one be64 per page: XXH3-64 of
 * the page (0 stands for an all-zero page or a hole; a hash of 0 is sent as 1).
 */
void gw_record_put_verify(struct gw_writer *w, const struct gw_ramblock *b,
			  uint64_t first, const uint64_t *hash, uint32_t n);
int gw_record_get_verify(struct gw_reader *r, const struct gw_record *rec,
			 struct gw_ram *ram, struct gw_ramblock **b,
			 uint64_t *first, uint64_t *hash,
			 uint32_t *n) GW_MUST_CHECK;

#endif
