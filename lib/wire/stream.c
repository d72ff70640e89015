/* SPDX-License-Identifier: BSD-3-Clause */
/* stream.c - see stream.h. */
#include "wire/stream.h"

#include <errno.h>
#include <string.h>

void gw_stream_init(struct gw_stream *s, struct gw_reader *r, uint64_t base)
{
	memset(s, 0, sizeof(*s));
	s->r = r;
	s->base = base;
	gw_ram_decoder_init(&s->ram, false);
	s->ram.base = base;
}

static int get_config(struct gw_stream *s)
{
	struct gw_reader *r = s->r;
	uint8_t item;

	if (gw_stream_get_header(r))
		return -r->err.code;
	item = gw_read_u8(r);
	if (!gw_read_failed(r) && item != GW_ITEM_CONFIGURATION)
		return gw_read_fail(r, EPROTO,
				    "byte 0x%02x where the configuration should be",
				    item);
	if (gw_configuration_get(r, &s->config))
		return -r->err.code;
	s->ram.ignore_shared = s->config.ignore_shared;
	s->ram.mapped_ram = s->config.mapped_ram;
	s->have_config = true;
	return 0;
}

static int get_start(struct gw_stream *s)
{
	struct gw_reader *r = s->r;
	struct gw_section sec;

	gw_section_get_long(r, &sec);
	if (gw_read_failed(r))
		return -r->err.code;
	if (strcmp(sec.idstr, "ram") || sec.version_id != GW_RAM_VERSION)
		return gw_read_fail(r, ENOTSUP,
				    "iterable section '%s' version %u: only ram version %u can be read (dirty bitmaps, vfio and the like cannot be carried)",
				    sec.idstr, sec.version_id, GW_RAM_VERSION);
	if (s->ram_open)
		return gw_read_fail(r, EPROTO, "section ram starts twice");
	s->ram_open = true;
	s->ram_id = sec.id;
	return 0;
}

static int get_continued(struct gw_stream *s)
{
	uint32_t id = gw_read_be32(s->r);

	if (!gw_read_failed(s->r) &&
	    (!s->ram_open || id != s->ram_id || s->have_end))
		return gw_read_fail(s->r, EPROTO,
				    "section %u continues, but no such section is open",
				    id);
	return -s->r->err.code;
}

static int get_item(struct gw_stream *s, struct gw_stream_event *ev)
{
	const uint8_t *next = gw_read_peek(s->r, 1);
	uint8_t item;

	if (!next)
		return -s->r->err.code;
	item = *next;
	if (item == GW_ITEM_SECTION_FULL || item == GW_ITEM_EOF) {
		ev->kind = GW_STREAM_TAIL;
		return 0;
	}
	gw_read_u8(s->r);
	switch (item) {
	case GW_ITEM_COMMAND:
		ev->kind = GW_STREAM_COMMAND;
		if (gw_command_get(s->r, &ev->command))
			return -s->r->err.code;
		if (ev->command.id == GW_CMD_OPEN_RETURN_PATH)
			s->return_path = true;
		if (ev->command.id == GW_CMD_ENABLE_COLO)
			s->colo = true;
		return 0;
	case GW_ITEM_SECTION_START:
	case GW_ITEM_SECTION_PART:
	case GW_ITEM_SECTION_END:
		if (item == GW_ITEM_SECTION_START ? get_start(s) :
						    get_continued(s))
			return -s->r->err.code;
		s->nparts += item == GW_ITEM_SECTION_PART;
		s->in_section = true;
		s->item = ev->item = (enum gw_item)item;
		ev->kind = GW_STREAM_SECTION;
		return 0;
	}
	return gw_read_fail(s->r, EPROTO, "unknown item 0x%02x", item);
}

static int end_section(struct gw_stream *s, struct gw_stream_event *ev)
{
	ev->item = s->item;
	if (gw_section_get_footer(s->r, s->ram_id))
		return -s->r->err.code;
	if (!s->ram.have_table)
		return gw_read_fail(s->r, EPROTO,
				    "section ram starts without a table of its blocks");
	s->in_section = s->at_footer = false;
	s->have_end = s->item == GW_ITEM_SECTION_END;
	ev->kind = GW_STREAM_SECTION_END;
	return 0;
}

static int get_record(struct gw_stream *s, struct gw_stream_event *ev)
{
	struct gw_ram_record rec;

	if (gw_ram_get(s->r, &s->ram, &rec))
		return -s->r->err.code;
	ev->item = s->item;
	ev->block = rec.block;
	ev->addr = rec.addr;
	switch (rec.kind) {
	case GW_RAM_FLAG_MEM_SIZE:
		ev->kind = GW_STREAM_TABLE;
		return 0;
	case GW_RAM_FLAG_PAGE:
		ev->kind = GW_STREAM_PAGE;
		return 0;
	case GW_RAM_FLAG_ZERO:
		ev->kind = GW_STREAM_ZERO;
		return 0;
	case GW_RAM_FLAG_XBZRLE:
		ev->kind = GW_STREAM_DELTA;
		return gw_ram_get_delta(s->r, ev->delta, &ev->delta_len);
	case GW_RAM_FLAG_MULTIFD_FLUSH:
		ev->kind = GW_STREAM_FLUSH;
		return 0;
	}
	ev->kind = GW_STREAM_EOS;
	s->at_footer = true;
	return 0;
}

int gw_stream_next(struct gw_stream *s, struct gw_stream_event *ev)
{
	if (!s->have_config) {
		ev->kind = GW_STREAM_CONFIG;
		return get_config(s);
	}
	if (s->at_footer)
		return end_section(s, ev);
	return s->in_section ? get_record(s, ev) : get_item(s, ev);
}

struct gw_stream_mark gw_stream_mark(const struct gw_stream *s)
{
	return (struct gw_stream_mark){
		.have_config = s->have_config,
		.have_end = s->have_end,
		.return_path = s->return_path,
		.colo = s->colo,
		.ram_open = s->ram_open,
		.in_section = s->in_section,
		.at_footer = s->at_footer,
		.have_table = s->ram.have_table,
		.ram_id = s->ram_id,
		.nparts = s->nparts,
		.item = s->item,
		.last = s->ram.last,
	};
}

void gw_stream_rewind(struct gw_stream *s, const struct gw_stream_mark *m)
{
	s->have_config = m->have_config;
	s->have_end = m->have_end;
	s->return_path = m->return_path;
	s->colo = m->colo;
	s->ram_open = m->ram_open;
	s->in_section = m->in_section;
	s->at_footer = m->at_footer;
	s->ram_id = m->ram_id;
	s->nparts = m->nparts;
	s->item = m->item;
	s->ram.last = m->last;
	s->ram.have_table = m->have_table;
	if (!m->have_table)
		s->ram.table.n = 0;
}
