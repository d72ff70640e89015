/* SPDX-License-Identifier: BSD-3-Clause */
/* ram.c - see ram.h. */
#include "wire/ram.h"

#include <errno.h>
#include <string.h>

void gw_ram_put_table(struct gw_writer *w, const struct gw_ram *ram)
{
	gw_write_be64(w, ram->total | GW_RAM_FLAG_MEM_SIZE);
	for (int i = 0; i < ram->nblocks; i++) {
		gw_write_cstr8(w, ram->block[i].idstr);
		gw_write_be64(w, ram->block[i].used_length);
	}
}

static void put_header(struct gw_writer *w, struct gw_ram_encoder *e,
		       const struct gw_ramblock *b, uint64_t addr,
		       unsigned int kind)
{
	if (e->last == b) {
		gw_write_be64(w, addr | kind | GW_RAM_FLAG_CONTINUE);
		return;
	}
	gw_write_be64(w, addr | kind);
	gw_write_cstr8(w, b->idstr);
	e->last = b;
}

void gw_ram_put_page(struct gw_writer *w, struct gw_ram_encoder *e,
		     const struct gw_ramblock *b, uint64_t addr,
		     const void *page)
{
	put_header(w, e, b, addr, GW_RAM_FLAG_PAGE);
	gw_write_ref(w, page, GW_PAGE_SIZE);
}

void gw_ram_put_zero(struct gw_writer *w, struct gw_ram_encoder *e,
		     const struct gw_ramblock *b, uint64_t addr)
{
	put_header(w, e, b, addr, GW_RAM_FLAG_ZERO);
	gw_write_u8(w, 0);
}

void gw_ram_put_eos(struct gw_writer *w)
{
	gw_write_be64(w, GW_RAM_FLAG_EOS);
}

void gw_ram_decoder_init(struct gw_ram_decoder *d, bool ignore_shared)
{
	d->ignore_shared = ignore_shared;
	d->table.n = 0;
	d->table.total = 0;
	d->have_table = false;
	d->last = -1;
}

static int find(const struct gw_ram_table *t, const char *idstr)
{
	for (int i = 0; i < t->n; i++)
		if (!strcmp(t->entry[i].idstr, idstr))
			return i;
	return -1;
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
		if (find(t, e->idstr) >= 0)
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
		d->last = find(&d->table, idstr);
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
	switch (rec->kind) {
	case GW_RAM_FLAG_ZERO:
	case GW_RAM_FLAG_PAGE:
	case GW_RAM_FLAG_XBZRLE:
		if (get_block(r, d, cont, rec))
			return -r->err.code;
		if (rec->kind == GW_RAM_FLAG_ZERO && gw_read_u8(r) != 0)
			return gw_read_fail(r, EPROTO,
					    "a zero page is filled with something else than 0");
		return -r->err.code;
	case GW_RAM_FLAG_MEM_SIZE:
		if (!cont)
			return get_table(r, d, rec->addr);
		break;
	case GW_RAM_FLAG_EOS:
	case GW_RAM_FLAG_MULTIFD_FLUSH:
		if (!cont && !rec->addr)
			return 0;
		break;
	}
	return gw_read_fail(r, EPROTO,
			    "a RAM record with impossible flags 0x%x at 0x%llx",
			    flags, (unsigned long long)rec->addr);
}
