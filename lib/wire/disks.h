/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * disks.h - the records by which two godwits agree which disks are copied
 * (docs/internals/disks.md). Their data goes over connections of its own.
 *
 *	DISKS		source: be16 number, then each: cstr8 name, be64 bytes,
 *			u8 flags (bit 0: what lies in its backing file is not
 *			copied, the destination has it)
 *	DISKS_READY	destination: it has each of them and serves it
 *	DISKS_PROGRESS	source: be64 bytes copied, be64 bytes in all; optional,
 *			also the sign of life while nothing else is sent
 *	DISKS_END	source: all of them are complete, nothing follows
 */
#ifndef GW_WIRE_DISKS_H
#define GW_WIRE_DISKS_H

#include <stdbool.h>
#include <stdint.h>

#include "wire/record.h"

#define GW_DISKS_MAX 32u
#define GW_DISKS_NOW                                         \
	0x4eu /* first byte of a disk's connection, from the \
	       * source: its VMM speaks from now on */
#define GW_DISK_NAME_MAX 255u

struct gw_disk {
	char name[GW_DISK_NAME_MAX + 1]; /* as `-drive id=` or `-device id=` */
	uint64_t size;			 /* bytes the guest sees */
	bool backing; /* only what is in front of its backing file */
};

struct gw_disks {
	uint32_t n;
	struct gw_disk disk[GW_DISKS_MAX];
};

void gw_disks_put(struct gw_writer *w, const struct gw_disks *d);

/* After the header of DISKS. Names are printable and differ. */
int gw_disks_get(struct gw_reader *r, const struct gw_record *rec,
		 struct gw_disks *d) GW_MUST_CHECK;

void gw_disks_put_progress(struct gw_writer *w, uint64_t done, uint64_t total);
int gw_disks_get_progress(struct gw_reader *r, const struct gw_record *rec,
			  uint64_t *done, uint64_t *total) GW_MUST_CHECK;

#endif
