/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mapped_sink.c - a mapped-ram file (wire/mapped.h), as QEMU >= 9.0 loads it
 * with and without multifd and direct-io.
 *
 * The layout is known once the block table is, so begin() writes START with
 * its table around the places of bitmaps and pages. Pages are written when
 * they come, by any thread, and calls return when that is done: a pass has
 * nothing to wait for. device() writes the bitmaps and what follows the last
 * block's pages. A file that was cut short would load as a VM whose RAM is all
 * zero, so nothing has a name before.
 *
 * A reader leaves pages without their bit alone: right for RAM, which begins
 * as zeros, but ROMs and tables were filled by the reader's firmware. All
 * bits of those blocks are set, over holes where the page is zero.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "image/internal.h"
#include "image/pagefile.h"

/* As in stream_sink.c: none of the small ids that device sections have. */
#define RAM_SECTION_ID 0x52414d00u
#define BITMAP_CHUNK   8192 /* words */

struct mapped_sink {
	struct gw_sink base;
	struct gw_pagefile pages;
	const struct gw_image_desc *d;
	uint64_t bitmap_offset[GW_MAX_TABLE_BLOCKS];
	uint64_t at; /* where the writer writes next */
	struct gw_writer w;
};

/* The writer's bytes go to s->at, which moves on. */
static int mapped_flush(void *arg, struct iovec *iov, int niov,
			struct gw_error *err)
{
	struct mapped_sink *s = arg;

	for (int i = 0; i < niov; i++) {
		int r = gw_pagefile_put(&s->pages, iov[i].iov_base,
					iov[i].iov_len, s->at, err);

		if (r)
			return r;
		s->at += iov[i].iov_len;
	}
	return 0;
}

/* An entry of the table, after which the next one follows far behind. */
static int put_block(struct mapped_sink *s, int i, struct gw_error *err)
{
	const struct gw_ram_entry *e = &s->d->table.entry[i];
	struct gw_pagefile_block *b = &s->pages.block[i];
	struct gw_mapped_block m;
	int r;

	gw_ram_put_entry(&s->w, e->idstr, e->used_length, NULL);
	r = gw_write_flush(&s->w, err);
	if (r)
		return r;
	m = gw_mapped_layout(s->at, e->used_length);
	gw_mapped_put(&s->w, &m);
	r = gw_write_flush(&s->w, err);
	b->rule = gw_image_is_ram(s->d, i) ? GW_PAGEFILE_BITS :
					     GW_PAGEFILE_EXACT;
	b->part[0].n = e->used_length / GW_PAGE_SIZE;
	b->part[0].offset = m.pages_offset;
	s->bitmap_offset[i] = m.bitmap_offset;
	s->at = m.pages_offset + e->used_length;
	return r;
}

static int mapped_begin(struct gw_sink *base, const struct gw_image_desc *d,
			struct gw_error *err)
{
	static const struct gw_section ram = { .id = RAM_SECTION_ID,
					       .idstr = "ram",
					       .version_id = GW_RAM_VERSION };
	struct mapped_sink *s = (struct mapped_sink *)base;
	struct gw_configuration config = d->config;
	int r;

	s->d = d;
	r = gw_pagefile_begin(&s->pages, d, err);
	config.ignore_shared = false;
	config.mapped_ram = true;
	gw_stream_put_header(&s->w);
	gw_configuration_put(&s->w, &config);
	gw_section_put_long(&s->w, GW_ITEM_SECTION_START, &ram);
	gw_ram_put_total(&s->w, d->table.total);
	for (int i = 0; i < d->table.n && !r; i++)
		r = put_block(s, i, err);
	return r ? r : gw_savefile_resize(&s->pages.file, s->at, err);
}

static int mapped_pages(struct gw_sink *base, int block, uint64_t first,
			uint32_t n, const void *data, struct gw_error *err)
{
	struct mapped_sink *s = (struct mapped_sink *)base;

	return gw_pagefile_write(&s->pages, block, first, n, data, err);
}

static int mapped_zeros(struct gw_sink *base, int block, uint64_t first,
			uint64_t n, struct gw_error *err)
{
	struct mapped_sink *s = (struct mapped_sink *)base;

	return gw_pagefile_zeros(&s->pages, block, first, n, err);
}

static int mapped_delta(struct gw_sink *base, int block, uint64_t page,
			const void *delta, uint16_t len, struct gw_error *err)
{
	struct mapped_sink *s = (struct mapped_sink *)base;

	return gw_pagefile_delta(&s->pages, block, page, delta, len, err);
}

static int mapped_pass(struct gw_sink *base, bool last, struct gw_error *err)
{
	return 0;
}

static int put_bitmap(struct mapped_sink *s, int block, struct gw_error *err)
{
	struct gw_bitmap *b = &s->pages.block[block].written;
	uint64_t words = (b->nbits + 63) / 64;
	uint64_t buf[BITMAP_CHUNK];
	int r = 0;

	if (s->pages.block[block].rule == GW_PAGEFILE_EXACT)
		gw_bitmap_set_range(b, 0, b->nbits);
	for (uint64_t w = 0; w < words && !r; w += BITMAP_CHUNK) {
		uint64_t n = words - w < BITMAP_CHUNK ? words - w :
							BITMAP_CHUNK;

		for (uint64_t i = 0; i < n; i++)
			buf[i] = htole64(b->word[w + i]);
		r = gw_pagefile_put(&s->pages, buf, n * sizeof(buf[0]),
				    s->bitmap_offset[block] + w * 8, err);
	}
	return r;
}

static int mapped_device(struct gw_sink *base, const void *sections, size_t len,
			 const char *vmdesc, size_t vmdesc_len,
			 struct gw_error *err)
{
	struct mapped_sink *s = (struct mapped_sink *)base;
	int r = 0;

	for (int i = 0; i < s->d->table.n && !r; i++)
		r = put_bitmap(s, i, err);
	/* START ends and END has nothing, at s->at behind the last block. */
	if (!r)
		r = gw_savefile_resize(&s->pages.file,
				       s->at + len + vmdesc_len + 64, err);
	if (r)
		return r;
	gw_ram_put_eos(&s->w);
	gw_section_put_footer(&s->w, RAM_SECTION_ID);
	gw_section_put_short(&s->w, GW_ITEM_SECTION_END, RAM_SECTION_ID);
	gw_ram_put_eos(&s->w);
	gw_section_put_footer(&s->w, RAM_SECTION_ID);
	gw_write_ref(&s->w, sections, len);
	gw_image_put_end(&s->w, vmdesc, vmdesc_len);
	r = gw_write_flush(&s->w, err);
	return r ? r : gw_savefile_resize(&s->pages.file, s->at, err);
}

static int mapped_ready(struct gw_sink *base, struct gw_error *err)
{
	struct mapped_sink *s = (struct mapped_sink *)base;

	return gw_savefile_sync(&s->pages.file, err);
}

static int mapped_finish(struct gw_sink *base, struct gw_error *err)
{
	struct mapped_sink *s = (struct mapped_sink *)base;

	return gw_savefile_finish(&s->pages.file, err);
}

static void mapped_close(struct gw_sink *base)
{
	struct mapped_sink *s = (struct mapped_sink *)base;

	gw_pagefile_close(&s->pages);
	free(s);
}

static const struct gw_sink_ops mapped_ops = {
	.name = "mapped-ram",
	.begin = mapped_begin,
	.pages = mapped_pages,
	.zeros = mapped_zeros,
	.delta = mapped_delta,
	.pass = mapped_pass,
	.device = mapped_device,
	.ready = mapped_ready,
	.finish = mapped_finish,
	.close = mapped_close,
};

struct gw_sink *gw_sink_mapped_file(const char *path,
				    const struct gw_sink_options *o,
				    struct gw_error *err)
{
	struct mapped_sink *s = calloc(1, sizeof(*s));

	if (!s) {
		gw_fail(err, ENOMEM, "no memory for a file");
		return NULL;
	}
	if (gw_pagefile_open(&s->pages, path, o, &s->base.nbytes, err)) {
		free(s);
		return NULL;
	}
	s->base.ops = &mapped_ops;
	s->base.parallel = true;
	s->base.keeps_holes = true;
	gw_writer_init(&s->w, mapped_flush, s);
	return &s->base;
}
