/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ram.h - the `ram` section, version 4: encode and decode side by side.
 *
 * A section's payload is a list of records that ends with EOS. A record is a
 * be64 whose low bits are flags (qemu.h) and whose high bits are the page's
 * byte address inside its block; the block's name follows unless CONTINUE
 * says "as before on this channel".
 *
 *	00000000 00020008 06 "pc.ram" <4096 bytes>	page 0x20000
 *	00000000 00021022 00				page 0x21000 is zero
 *	00000000 00000010				end of the list
 */
#ifndef GW_WIRE_RAM_H
#define GW_WIRE_RAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/reader.h"
#include "base/writer.h"
#include "ram/block.h"
#include "wire/mapped.h"
#include "wire/qemu.h"

/* --- encode --- */

struct gw_ram_encoder {
	const char *last; /* name of the block for CONTINUE; NULL: none yet */
};

/* MEM_SIZE, always the first record of START: the sum of all lengths, then an
 * entry per block. @mr_addr: NULL without x-ignore-shared. */
void gw_ram_put_total(struct gw_writer *w, uint64_t total);
void gw_ram_put_entry(struct gw_writer *w, const char *idstr,
		      uint64_t used_length, const uint64_t *mr_addr);
void gw_ram_put_table(struct gw_writer *w, const struct gw_ram *ram);

/* Page records. @idstr is compared by address, so it is one pointer per block
 * for the life of @e. @page and @delta are referenced until the next flush. */
void gw_ram_put_page(struct gw_writer *w, struct gw_ram_encoder *e,
		     const char *idstr, uint64_t addr, const void *page);
void gw_ram_put_zero(struct gw_writer *w, struct gw_ram_encoder *e,
		     const char *idstr, uint64_t addr);
/* Not to a QEMU. */
void gw_ram_put_fill(struct gw_writer *w, struct gw_ram_encoder *e,
		     const char *idstr, uint64_t addr, uint8_t byte);
void gw_ram_put_delta(struct gw_writer *w, struct gw_ram_encoder *e,
		      const char *idstr, uint64_t addr, const void *delta,
		      uint16_t len);
void gw_ram_put_eos(struct gw_writer *w);
/* MULTIFD_FLUSH: here the receiver waits for a SYNC of every channel. */
void gw_ram_put_flush(struct gw_writer *w);

/* --- decode --- */

struct gw_ram_table {
	int n;
	uint64_t total;
	struct gw_ram_entry {
		char idstr[GW_IDSTR_MAX + 1];
		uint64_t used_length;
		uint64_t mr_addr; /* only with x-ignore-shared, else 0 */
		struct gw_mapped_block mapped; /* only with mapped-ram */
	} entry[GW_MAX_TABLE_BLOCKS];
};

/* Index of the block called @idstr, -1: none. */
int gw_ram_table_find(const struct gw_ram_table *t, const char *idstr);

struct gw_ram_decoder {
	/* set by the caller before the first record */
	bool ignore_shared; /* the table carries mr_addr */
	bool fill;	    /* ZERO may carry any byte */
	bool mapped_ram;    /* and offsets; there are no page records */
	uint64_t base;	    /* file offset of the reader's first byte */
	/* filled by MEM_SIZE; pages are checked against it */
	struct gw_ram_table table;
	bool have_table;
	/* block of the last page record: index into table, -1: none yet */
	int last;
};

struct gw_ram_record {
	unsigned int kind; /* one GW_RAM_FLAG_*, without CONTINUE */
	int block;	   /* pages: index into the decoder's table */
	uint64_t addr;	   /* pages: byte address in the block */
	uint8_t fill;	   /* ZERO: what all its bytes are; 0 unless agreed on */
};

void gw_ram_decoder_init(struct gw_ram_decoder *d, bool ignore_shared);

/*
 * Read one record. MEM_SIZE is read whole into d->table (with mapped_ram the
 * bitmaps and pages are skipped over). After PAGE the caller reads
 * GW_PAGE_SIZE bytes, after XBZRLE gw_ram_get_delta(). Return: 0 or -errno
 * (sticky in @r): unknown or contradictory flags, CONTINUE without a block,
 * unknown block, address beyond used_length, a second table, lengths that do
 * not add up, fill byte other than 0 without d->fill.
 */
int gw_ram_get(struct gw_reader *r, struct gw_ram_decoder *d,
	       struct gw_ram_record *rec) GW_MUST_CHECK;

/* The rest of an XBZRLE record. Return: 0 or -errno (sticky). */
int gw_ram_get_delta(struct gw_reader *r, uint8_t delta[GW_PAGE_SIZE],
		     uint16_t *len) GW_MUST_CHECK;

#endif
