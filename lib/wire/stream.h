/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stream.h - read a whole QEMU stream from its first byte up to its device
 * sections, one event at a time. Standard streams, streams with
 * x-ignore-shared and mapped-ram files; from memory, a channel or a file.
 *
 *	header configuration  CONFIG
 *	command		      COMMAND	OPEN_RETURN_PATH, PING, ...
 *	START ram	      SECTION
 *	  MEM_SIZE	      TABLE	s->ram.table, with mapped-ram s->mapped
 *	  page records	      PAGE, ZERO, DELTA
 *	  MULTIFD_FLUSH	      FLUSH
 *	EOS		      EOS
 *	footer		      SECTION_END
 *	PART ..., END ...
 *	FULL or EOF next      TAIL	not consumed; the last event
 *
 * What follows TAIL has no lengths: vmdesc.h, devstream.h.
 */
#ifndef GW_WIRE_STREAM_H
#define GW_WIRE_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/reader.h"
#include "wire/ram.h"
#include "wire/section.h"

struct gw_stream {
	/* set by gw_stream_init() */
	struct gw_reader *r;
	uint64_t base; /* file offset of the stream's first byte */

	struct gw_configuration config; /* valid after CONFIG */
	struct gw_ram_decoder ram;	/* ram.table valid after TABLE */
	bool have_config;
	bool have_end;	     /* RAM ended with END (background-snapshot: not) */
	bool return_path;    /* OPEN_RETURN_PATH was seen */
	bool colo;	     /* ENABLE_COLO: behind this stream the primary of
				QEMU's COLO goes on in another way */
	uint32_t ram_id;     /* section id */
	unsigned int nparts; /* PART sections so far */

	/* private to stream.c */
	bool ram_open, in_section, at_footer;
	enum gw_item item;
};

enum gw_stream_kind {
	GW_STREAM_CONFIG,
	GW_STREAM_COMMAND,     /* ev.command */
	GW_STREAM_SECTION,     /* ev.item: START, PART, END */
	GW_STREAM_TABLE,
	GW_STREAM_PAGE,	       /* ev.block, ev.addr; the caller reads
				  GW_PAGE_SIZE bytes from s->r */
	GW_STREAM_ZERO,
	GW_STREAM_DELTA,       /* ev.delta_len bytes in ev.delta */
	GW_STREAM_FLUSH,
	GW_STREAM_EOS,	       /* ev.item; the footer may come much later */
	GW_STREAM_SECTION_END, /* ev.item */
	GW_STREAM_TAIL,
};

struct gw_stream_event {
	enum gw_stream_kind kind;
	enum gw_item item;
	struct gw_command_record command;
	int block; /* index into ram.table */
	uint64_t addr;
	uint16_t delta_len;
	uint8_t delta[GW_PAGE_SIZE];
};

/* @r stays the caller's and must outlive @s. @base: see above, 0 if it is no
 * file. A mapped-ram stream is skipped over by gw_read_skip(), so @r should
 * know how to seek. */
void gw_stream_init(struct gw_stream *s, struct gw_reader *r, uint64_t base);

/* Return: 0 with @ev, or -errno: sticky in s->r. Not after TAIL. */
int gw_stream_next(struct gw_stream *s,
		   struct gw_stream_event *ev) GW_MUST_CHECK;

/*
 * What one event changes. Who reads from memory that grows goes back to where
 * an event began when its bytes were not all there yet, and sets s->r anew.
 */
struct gw_stream_mark {
	bool have_config, have_end, return_path, colo, ram_open, in_section;
	bool at_footer;
	bool have_table;
	uint32_t ram_id;
	unsigned int nparts;
	enum gw_item item;
	int last;
};
struct gw_stream_mark gw_stream_mark(const struct gw_stream *s);
void gw_stream_rewind(struct gw_stream *s, const struct gw_stream_mark *m);

#endif
