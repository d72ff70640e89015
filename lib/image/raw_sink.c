/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * raw_sink.c - guest memory as a sparse file: at the offset of its physical
 * address (raw), one block alone from its beginning (raw with a block), or as
 * the segments of an ELF core (elf). Pages that are zero are holes. Device
 * state has no place in it.
 */
#include "image/raw_sink.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/internal.h"
#include "image/pagefile.h"

struct raw_sink {
	struct gw_sink base;
	struct gw_pagefile pages;
	bool elf;
	char block[GW_IDSTR_MAX + 1]; /* "": physical memory */
};

static int no_block(const struct raw_sink *s, const struct gw_image_desc *d,
		    struct gw_error *err)
{
	char names[512] = "";
	size_t n = 0;

	for (int i = 0; i < d->table.n && n < sizeof(names); i++)
		n += (size_t)snprintf(names + n, sizeof(names) - n, "%s'%s'",
				      i ? ", " : "", d->table.entry[i].idstr);
	return gw_fail_as(err, GW_FAULT_USAGE, ENOENT,
			  "there is no block '%s': the image has %s", s->block,
			  n ? names : "none");
}

/* The block as if it were all of physical memory. */
static int one_block(const struct raw_sink *s, const struct gw_image_desc *d,
		     struct gw_physmem *m, struct gw_error *err)
{
	memset(m, 0, sizeof(*m));
	m->block = gw_ram_table_find(&d->table, s->block);
	if (m->block < 0)
		return no_block(s, d, err);
	m->n = 1;
	m->part[0].len = d->table.entry[m->block].used_length;
	return 0;
}

/* Return: the file's size. */
static uint64_t place(struct raw_sink *s, const struct gw_physmem *m)
{
	struct gw_pagefile_block *b = &s->pages.block[m->block];
	uint64_t end = s->elf ? GW_ELF_HEADER_SIZE : 0;

	b->rule = GW_PAGEFILE_EXACT;
	for (int i = 0; i < m->n; i++) {
		b->part[i].first = m->part[i].offset / GW_PAGE_SIZE;
		b->part[i].n = m->part[i].len / GW_PAGE_SIZE;
		b->part[i].offset = s->elf ? end : m->part[i].phys;
		end = b->part[i].offset + m->part[i].len;
	}
	return end;
}

static int raw_begin(struct gw_sink *base, const struct gw_image_desc *d,
		     struct gw_error *err)
{
	struct raw_sink *s = (struct raw_sink *)base;
	uint8_t header[GW_ELF_HEADER_SIZE];
	struct gw_physmem m;
	int r = s->block[0] ? one_block(s, d, &m, err) :
			      gw_physmem_find(d, &m, err);

	if (!r)
		r = gw_pagefile_begin(&s->pages, d, err);
	if (!r)
		r = gw_savefile_resize(&s->pages.file, place(s, &m), err);
	if (r || !s->elf)
		return r;
	gw_elf_put_header(header, &m);
	return gw_pagefile_put(&s->pages, header, sizeof(header), 0, err);
}

static int raw_pages(struct gw_sink *base, int block, uint64_t first,
		     uint32_t n, const void *data, struct gw_error *err)
{
	struct raw_sink *s = (struct raw_sink *)base;

	return gw_pagefile_write(&s->pages, block, first, n, data, err);
}

static int raw_zeros(struct gw_sink *base, int block, uint64_t first,
		     uint64_t n, struct gw_error *err)
{
	struct raw_sink *s = (struct raw_sink *)base;

	return gw_pagefile_zeros(&s->pages, block, first, n, err);
}

static int raw_delta(struct gw_sink *base, int block, uint64_t page,
		     const void *delta, uint16_t len, struct gw_error *err)
{
	struct raw_sink *s = (struct raw_sink *)base;

	return gw_pagefile_delta(&s->pages, block, page, delta, len, err);
}

static int raw_pass(struct gw_sink *base, bool last, struct gw_error *err)
{
	return 0;
}

static int raw_device(struct gw_sink *base, const void *sections, size_t len,
		      const char *vmdesc, size_t vmdesc_len,
		      struct gw_error *err)
{
	return 0;
}

static int raw_ready(struct gw_sink *base, struct gw_error *err)
{
	struct raw_sink *s = (struct raw_sink *)base;

	return gw_savefile_sync(&s->pages.file, err);
}

static int raw_finish(struct gw_sink *base, struct gw_error *err)
{
	struct raw_sink *s = (struct raw_sink *)base;

	return gw_savefile_finish(&s->pages.file, err);
}

static void raw_close(struct gw_sink *base)
{
	struct raw_sink *s = (struct raw_sink *)base;

	gw_pagefile_close(&s->pages);
	free(s);
}

#define RAW_OPS(what)                                                     \
	{                                                                 \
		.name = what, .begin = raw_begin, .pages = raw_pages,     \
		.zeros = raw_zeros, .delta = raw_delta, .pass = raw_pass, \
		.device = raw_device, .ready = raw_ready,                 \
		.finish = raw_finish, .close = raw_close,                 \
	}
static const struct gw_sink_ops raw_ops = RAW_OPS("raw");
static const struct gw_sink_ops elf_ops = RAW_OPS("elf");

static struct gw_sink *open_raw(const char *path,
				const struct gw_sink_options *o, bool elf,
				struct gw_error *err)
{
	struct raw_sink *s = calloc(1, sizeof(*s));

	if (!s) {
		gw_fail(err, ENOMEM, "no memory for a file");
		return NULL;
	}
	if (gw_pagefile_open(&s->pages, path, o, &s->base.nbytes, err)) {
		free(s);
		return NULL;
	}
	s->elf = elf;
	if (o->block)
		snprintf(s->block, sizeof(s->block), "%s", o->block);
	s->base.ops = elf ? &elf_ops : &raw_ops;
	s->base.parallel = true;
	s->base.keeps_holes = true;
	return &s->base;
}

struct gw_sink *gw_sink_raw_file(const char *path,
				 const struct gw_sink_options *o,
				 struct gw_error *err)
{
	return open_raw(path, o, false, err);
}

struct gw_sink *gw_sink_elf_file(const char *path,
				 const struct gw_sink_options *o,
				 struct gw_error *err)
{
	if (o->block) {
		gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			   "an ELF core has all of physical memory: --block goes with --format raw");
		return NULL;
	}
	return open_raw(path, o, true, err);
}
