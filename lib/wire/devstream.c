/* SPDX-License-Identifier: BSD-3-Clause */
/* devstream.c - see devstream.h. */
#include "wire/devstream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire/vmdesc.h"

enum state { HEADER, ITEMS, RAM_RECORDS, TAIL };

void gw_devstream_init(struct gw_devstream *d)
{
	memset(d, 0, sizeof(*d));
	gw_ram_decoder_init(&d->ram, true);
}

void gw_devstream_init_tail(struct gw_devstream *d)
{
	gw_devstream_init(d);
	d->state = TAIL;
}

void gw_devstream_fini(struct gw_devstream *d)
{
	free(d->buf);
	d->buf = NULL;
	d->len = d->cap = 0;
}

static int append(struct gw_devstream *d, const void *p, size_t len,
		  struct gw_error *err)
{
	if (len > GW_MAX_DEVICE_STATE - d->len)
		return gw_fail_as(err, GW_FAULT_INPUT, EMSGSIZE,
				  "the device state is larger than %u bytes",
				  GW_MAX_DEVICE_STATE);
	if (d->len + len > d->cap) {
		size_t cap = d->cap ? d->cap : 1 << 20;
		void *n;

		while (cap < d->len + len)
			cap *= 2;
		n = realloc(d->buf, cap);
		if (!n)
			return gw_fail(err, ENOMEM,
				       "no memory for %zu bytes of device state",
				       cap);
		d->buf = n;
		d->cap = cap;
	}
	memcpy(d->buf + d->len, p, len);
	d->len += len;
	return 0;
}

/* --- up to the last RAM record: exact --------------------------------- */

static void parse_header(struct gw_devstream *d, struct gw_reader *r)
{
	uint8_t item;

	if (gw_stream_get_header(r))
		return;
	item = gw_read_u8(r);
	if (!gw_read_failed(r) && item != GW_ITEM_CONFIGURATION)
		gw_read_fail(r, EPROTO,
			     "byte 0x%02x where the configuration should be",
			     item);
	/* A subsection may follow, so the next byte must be there too. */
	if (gw_read_failed(r) || gw_configuration_get(r, &d->config))
		return;
	if (!d->config.ignore_shared) {
		gw_read_fail(r, EPROTO,
			     "the device stream was made without capability x-ignore-shared");
		return;
	}
	d->have_config = true;
	d->state = ITEMS;
}

static void parse_command(struct gw_devstream *d, struct gw_reader *r)
{
	struct gw_command_record c;

	if (gw_command_get(r, &c) || c.id != GW_CMD_PING)
		return;
	if (d->npings == sizeof(d->ping) / sizeof(d->ping[0]))
		gw_read_fail(r, EPROTO, "more than %u PINGs", d->npings);
	else
		d->ping[d->npings++] = c.ping;
}

static void parse_item(struct gw_devstream *d, struct gw_reader *r)
{
	uint8_t item = gw_read_u8(r);
	struct gw_section s;

	if (gw_read_failed(r))
		return;
	switch (item) {
	case GW_ITEM_COMMAND:
		parse_command(d, r);
		return;
	case GW_ITEM_SECTION_START:
		gw_section_get_long(r, &s);
		if (gw_read_failed(r))
			return;
		if (strcmp(s.idstr, "ram") || s.version_id != GW_RAM_VERSION)
			gw_read_fail(r, ENOTSUP,
				     "iterable section '%s' version %u: only ram version %u can be carried",
				     s.idstr, s.version_id, GW_RAM_VERSION);
		else if (d->ram_open)
			gw_read_fail(r, EPROTO, "section ram starts twice");
		d->ram_open = true;
		d->ram_id = s.id;
		d->state = RAM_RECORDS;
		return;
	case GW_ITEM_SECTION_PART:
	case GW_ITEM_SECTION_END:
		s.id = gw_read_be32(r);
		if (!gw_read_failed(r) && (!d->ram_open || s.id != d->ram_id))
			gw_read_fail(r, EPROTO,
				     "section %u continues but never started",
				     s.id);
		d->state = RAM_RECORDS;
		return;
	case GW_ITEM_SECTION_FULL:
		d->tail = d->pos;
		d->search = d->pos;
		d->state = TAIL;
		return;
	}
	gw_read_fail(r, EPROTO, "unknown item 0x%02x in the device stream",
		     item);
}

static void parse_ram_record(struct gw_devstream *d, struct gw_reader *r)
{
	struct gw_ram_record rec;

	if (gw_ram_get(r, &d->ram, &rec))
		return;
	if (rec.kind == GW_RAM_FLAG_PAGE) {
		gw_read_skip(r, GW_PAGE_SIZE);
	} else if (rec.kind == GW_RAM_FLAG_XBZRLE) {
		gw_read_fail(r, EPROTO,
			     "a compressed page in the device stream");
	} else if (rec.kind == GW_RAM_FLAG_EOS) {
		if (!gw_section_get_footer(r, d->ram_id))
			d->state = ITEMS;
	}
}

/*
 * One unit of the exact part: parsed whole or not at all. Return: 1 parsed,
 * 0 more bytes needed, -errno.
 */
static int parse_unit(struct gw_devstream *d, struct gw_error *err)
{
	struct gw_ram_decoder *ram = &d->ram;
	bool had_table = ram->have_table, ram_open = d->ram_open;
	unsigned int npings = d->npings;
	int state = d->state, last = ram->last;
	struct gw_reader r;

	gw_reader_init_mem(&r, d->buf + d->pos, d->len - d->pos);
	if (d->state == HEADER)
		parse_header(d, &r);
	else if (d->state == ITEMS)
		parse_item(d, &r);
	else
		parse_ram_record(d, &r);
	if (!gw_read_failed(&r)) {
		if (d->state != TAIL)
			d->pos += r.offset;
		return 1;
	}
	if (r.err.code != ECONNRESET)
		return gw_read_check(&r, err);
	/* Short: undo, and parse this unit again when more has come. */
	d->state = state;
	d->ram_open = ram_open;
	d->npings = npings;
	d->have_config = state != HEADER;
	ram->last = last;
	if (!had_table) {
		ram->have_table = false;
		ram->table.n = 0;
	}
	return 0;
}

/* --- the tail: found by its end, split by its own description ---------- */

/*
 * After each piece: is this the end? Where the last NUL byte is decides which
 * description could end here, so that every byte is looked at once however
 * the pieces are cut, and each piece of text is parsed at most once.
 */
static int parse_tail(struct gw_devstream *d, struct gw_error *err)
{
	const uint8_t *tail = d->buf + d->tail, *nul;
	size_t len = d->len - d->tail, eof, text;
	struct gw_tail t;
	int r;

	nul = memrchr(d->buf + d->search, 0, d->len - d->search);
	if (nul)
		d->nul = (size_t)(nul - tail);
	d->search = d->len;
	if (!gw_tail_ends(tail, len, d->nul, &eof))
		return 0;
	text = eof + 6; /* EOF, VMDESCRIPTION, its length */
	r = gw_tail_split(&t, tail, eof, (const char *)tail + text, len - text,
			  NULL);
	if (r == -ENOMEM)
		return gw_fail(err, ENOMEM,
			       "no memory to split %zu bytes of device state",
			       eof);
	if (r) /* a look-alike in a device's payload */
		return 0;
	d->ndevices = t.n;
	d->complete = true;
	gw_tail_fini(&t);
	return 0;
}

int gw_devstream_feed(struct gw_devstream *d, const void *p, size_t len,
		      struct gw_error *err)
{
	int r;

	if (d->complete && len)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "%zu bytes after the end of the device state",
				  len);
	r = append(d, p, len, err);
	while (!r && d->state != TAIL) {
		r = parse_unit(d, err);
		if (r < 0) {
			gw_error_prefix(err, "device state at byte %zu", d->pos);
			return r;
		}
		if (!r)
			return 0;
		r = 0;
	}
	return r ? r : parse_tail(d, err);
}
