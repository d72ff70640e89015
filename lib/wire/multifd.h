/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * multifd.h - what travels on the extra connections of QEMU's multifd: a hello
 * of 64 bytes, then packets: a fixed header of 320 + 8 * 128 bytes, the offsets
 * of normal pages first, zero pages next, and the payload (page/inflate.h when
 * compressed). All pages of a packet are of one block. A packet with SYNC has
 * no pages (sources before QEMU 9.0: its pages come before the sync). Two
 * godwits also send differences this way: GW_MULTIFD_DELTA.
 */
#ifndef GW_WIRE_MULTIFD_H
#define GW_WIRE_MULTIFD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/reader.h"
#include "base/writer.h"
#include "ram/block.h"

#define GW_MULTIFD_MAGIC	0x11223344u
#define GW_MULTIFD_VERSION	1u
#define GW_MULTIFD_PAGES	128u /* per packet: 512 KiB */
#define GW_MULTIFD_HELLO_SIZE	64u
#define GW_MULTIFD_PACKET_SIZE	(320u + 8u * GW_MULTIFD_PAGES)
#define GW_MULTIFD_MAX_PAYLOAD	(2u * GW_MULTIFD_PAGES * GW_PAGE_SIZE)
#define GW_MULTIFD_MAX_CHANNELS 255

enum gw_multifd_flag {
	GW_MULTIFD_SYNC = 0x01,
	GW_MULTIFD_NOCOMP = 0x00,
	GW_MULTIFD_ZLIB = 0x02,
	GW_MULTIFD_ZSTD = 0x04,
	GW_MULTIFD_COMPRESSION = 0x3e, /* mask */
	GW_MULTIFD_DEVICE_STATE = 0x40, /* vfio: refused by name */
	/*
	 * Between two godwits with feature "xbzrle" only; a receiver of QEMU's
	 * packets refuses it. `normal` pages, no zero pages, no compression;
	 * the payload is one be16 per page, then for each page so many bytes:
	 * an XBZRLE delta to what the receiver has there, or, if GW_PAGE_SIZE,
	 * the page. (There are deltas as long as a page: they must not be sent.)
	 */
	GW_MULTIFD_DELTA = 0x80,
};

struct gw_multifd_hello {
	uint8_t uuid[16];
	uint8_t id;
};
void gw_multifd_put_hello(struct gw_writer *w,
			  const struct gw_multifd_hello *h);
/* @channels: valid ids are below it. */
int gw_multifd_get_hello(struct gw_reader *r, unsigned int channels,
			 struct gw_multifd_hello *h) GW_MUST_CHECK;

struct gw_multifd_packet {
	uint32_t flags;
	uint32_t normal, zero; /* pages */
	uint32_t payload;      /* bytes that follow the header */
	uint64_t number;
	char idstr[GW_IDSTR_MAX + 1]; /* "" when there are no pages */
	uint64_t offset[GW_MULTIFD_PAGES]; /* normal pages, then zero pages */
};
void gw_multifd_put_packet(struct gw_writer *w,
			   const struct gw_multifd_packet *p);
/*
 * Every field is checked that can be without a block table: counts, flags,
 * alignment of offsets, payload length (without compression normal * 4096,
 * else at most GW_MULTIFD_MAX_PAYLOAD, 0 exactly when there are no normal
 * pages; with DELTA 3 to 2 + 4096 bytes per page). The caller checks offsets
 * against the block's length. What sources before 9.0 leave in a packet without
 * pages is cleared: no payload, no name.
 */
int gw_multifd_get_packet(struct gw_reader *r,
			  struct gw_multifd_packet *p) GW_MUST_CHECK;

#endif
