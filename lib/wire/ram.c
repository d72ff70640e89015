/* SPDX-License-Identifier: BSD-3-Clause */
/* ram.c - see ram.h. */
#include "wire/ram.h"

#include <errno.h>
#include <string.h>

void gw_ram_put_total(struct gw_writer *w, uint64_t total)
{
	gw_write_be64(w, total | GW_RAM_FLAG_MEM_SIZE);
}

void gw_ram_put_entry(struct gw_writer *w, const char *idstr,
		      uint64_t used_length, const uint64_t *mr_addr)
{
	gw_write_cstr8(w, idstr);
	gw_write_be64(w, used_length);
	if (mr_addr)
		gw_write_be64(w, *mr_addr);
}

void gw_ram_put_table(struct gw_writer *w, const struct gw_ram *ram)
{
	gw_ram_put_total(w, ram->total);
	for (int i = 0; i < ram->nblocks; i++)
		gw_ram_put_entry(w, ram->block[i].idstr,
				 ram->block[i].used_length, NULL);
}

static void put_header(struct gw_writer *w, struct gw_ram_encoder *e,
		       const char *idstr, uint64_t addr, unsigned int kind)
{
	if (e->last == idstr) {
		gw_write_be64(w, addr | kind | GW_RAM_FLAG_CONTINUE);
		return;
	}
	gw_write_be64(w, addr | kind);
	gw_write_cstr8(w, idstr);
	e->last = idstr;
}

void gw_ram_put_page(struct gw_writer *w, struct gw_ram_encoder *e,
		     const char *idstr, uint64_t addr, const void *page)
{
	put_header(w, e, idstr, addr, GW_RAM_FLAG_PAGE);
	gw_write_ref(w, page, GW_PAGE_SIZE);
}

void gw_ram_put_fill(struct gw_writer *w, struct gw_ram_encoder *e,
		     const char *idstr, uint64_t addr, uint8_t byte)
{
	put_header(w, e, idstr, addr, GW_RAM_FLAG_ZERO);
	gw_write_u8(w, byte);
}

void gw_ram_put_zero(struct gw_writer *w, struct gw_ram_encoder *e,
		     const char *idstr, uint64_t addr)
{
	gw_ram_put_fill(w, e, idstr, addr, 0);
}

void gw_ram_put_delta(struct gw_writer *w, struct gw_ram_encoder *e,
		      const char *idstr, uint64_t addr, const void *delta,
		      uint16_t len)
{
	put_header(w, e, idstr, addr, GW_RAM_FLAG_XBZRLE);
	gw_write_u8(w, GW_RAM_XBZRLE);
	gw_write_be16(w, len);
	gw_write_ref(w, delta, len);
}

void gw_ram_put_eos(struct gw_writer *w)
{
	gw_write_be64(w, GW_RAM_FLAG_EOS);
}

void gw_ram_put_flush(struct gw_writer *w)
{
	gw_write_be64(w, GW_RAM_FLAG_MULTIFD_FLUSH);
}

void gw_ram_decoder_init(struct gw_ram_decoder *d, bool ignore_shared)
{
	d->ignore_shared = ignore_shared;
	d->mapped_ram = false;
	d->base = 0;
	d->table.n = 0;
	d->table.total = 0;
	d->have_table = false;
	d->last = -1;
}

int gw_ram_table_find(const struct gw_ram_table *t, const char *idstr)
{
	for (int i = 0; i < t->n; i++)
		if (!strcmp(t->entry[i].idstr, idstr))
			return i;
	return -1;
}

/* The header behind an entry; then everything that is not stream is skipped. */
static int get_mapped(struct gw_reader *r, struct gw_ram_decoder *d,
		      struct gw_ram_entry *e)
{
	uint64_t at = d->base + r->offset + GW_MAPPED_HEADER_SIZE;

	if (gw_mapped_get(r, at, e->used_length, d->ignore_shared,
			  &e->mapped))
		return -r->err.code;
	if (e->mapped.pages_offset)
		gw_read_skip(r, e->mapped.pages_offset + e->used_length - at);
	return -r->err.code;
}

static int get_table(struct gw_reader *r, struct gw_ram_decoder *d,
		     uint64_t total)
{
	struct gw_ram_table *t = &d->table;
	uint64_t left = total;

	if (d->have_table)
		return gw_read_fail(r, EPROTO, "a second RAM block table");
	d->have_table = true;
	t->total = total;
	while (left && !gw_read_failed(r)) {
		struct gw_ram_entry *e = &t->entry[t->n];

		if (t->n == GW_MAX_TABLE_BLOCKS)
			return gw_read_fail(r, EPROTO,
					    "more than %d RAM blocks",
					    GW_MAX_TABLE_BLOCKS);
		gw_read_cstr8(r, e->idstr, "a RAM block name");
		e->used_length = gw_read_be64(r);
		e->mr_addr = d->ignore_shared ? gw_read_be64(r) : 0;
		if (gw_read_failed(r))
			break;
		if (gw_ram_table_find(t, e->idstr) >= 0)
			return gw_read_fail(r, EPROTO,
					    "RAM block '%s' is listed twice",
					    e->idstr);
		if (!e->used_length || e->used_length % GW_PAGE_SIZE ||
		    e->used_length > GW_RAM_MAX_LENGTH ||
		    e->used_length > left)
			return gw_read_fail(
				r, EPROTO,
				"RAM block '%s' has length %llu where %llu are left of the total: the lengths must be multiples of %u and add up",
				e->idstr, (unsigned long long)e->used_length,
				(unsigned long long)left, GW_PAGE_SIZE);
		left -= e->used_length;
		t->n++;
		if (d->mapped_ram && get_mapped(r, d, e))
			break;
	}
	return -r->err.code;
}

static int get_block(struct gw_reader *r, struct gw_ram_decoder *d,
		     bool cont, struct gw_ram_record *rec)
{
	char idstr[256];

	if (cont) {
		if (d->last < 0)
			return gw_read_fail(r, EPROTO,
					    "a RAM page continues a block, but none was named before");
	} else {
		gw_read_cstr8(r, idstr, "the block name of a RAM page");
		if (gw_read_failed(r))
			return -r->err.code;
		d->last = gw_ram_table_find(&d->table, idstr);
		if (d->last < 0)
			return gw_read_fail(r, EPROTO,
					    "a RAM page for unknown block '%s'",
					    idstr);
	}
	rec->block = d->last;
	if (rec->addr >= d->table.entry[d->last].used_length)
		return gw_read_fail(
			r, EPROTO,
			"a RAM page at 0x%llx of block '%s', which has %llu bytes",
			(unsigned long long)rec->addr,
			d->table.entry[d->last].idstr,
			(unsigned long long)
				d->table.entry[d->last].used_length);
	return 0;
}

int gw_ram_get(struct gw_reader *r, struct gw_ram_decoder *d,
	       struct gw_ram_record *rec)
{
	uint64_t h = gw_read_be64(r);
	unsigned int flags = (unsigned int)(h & GW_RAM_FLAGS_MASK);
	bool cont = flags & GW_RAM_FLAG_CONTINUE;

	if (gw_read_failed(r))
		return -r->err.code;
	rec->kind = flags & ~GW_RAM_FLAG_CONTINUE;
	rec->addr = h & ~(uint64_t)GW_RAM_FLAGS_MASK;
	rec->block = -1;
	rec->fill = 0;
	switch (rec->kind) {
	case GW_RAM_FLAG_ZERO:
	case GW_RAM_FLAG_PAGE:
	case GW_RAM_FLAG_XBZRLE:
		if (d->mapped_ram)
			return gw_read_fail(r, EPROTO,
					    "a page record in a mapped-ram stream, where pages have fixed places");
		if (get_block(r, d, cont, rec))
			return -r->err.code;
		if (rec->kind == GW_RAM_FLAG_ZERO)
			rec->fill = gw_read_u8(r);
		if (rec->fill && !d->fill)
			return gw_read_fail(r, EPROTO,
					    "a zero page is filled with something else than 0");
		return -r->err.code;
	case GW_RAM_FLAG_MEM_SIZE:
		if (!cont)
			return get_table(r, d, rec->addr);
		break;
	case GW_RAM_FLAG_MULTIFD_FLUSH:
		if (d->mapped_ram)
			break; /* channels write to fixed places too */
		/* fall through */
	case GW_RAM_FLAG_EOS:
		if (!cont && !rec->addr)
			return 0;
		break;
	}
	return gw_read_fail(r, EPROTO,
			    "a RAM record with impossible flags 0x%x at 0x%llx",
			    flags, (unsigned long long)rec->addr);
}

int gw_ram_get_delta(struct gw_reader *r, uint8_t delta[GW_PAGE_SIZE],
		     uint16_t *len)
{
	uint8_t encoding = gw_read_u8(r);
	uint16_t n = gw_read_be16(r);

	if (!gw_read_failed(r) && (encoding != GW_RAM_XBZRLE ||
				   n > GW_PAGE_SIZE))
		return gw_read_fail(r, EPROTO,
				    "an XBZRLE page with encoding 0x%02x and %u bytes: only 0x%02x and at most %u are possible",
				    encoding, n, GW_RAM_XBZRLE, GW_PAGE_SIZE);
	gw_read_bytes(r, delta, n);
	*len = n;
	return -r->err.code;
}
