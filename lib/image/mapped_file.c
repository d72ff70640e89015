/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mapped_file.c - pages of a mapped-ram file: their places are fixed, the
 * bitmaps say which are there. Bitmaps are read when the file is opened, but
 * for their holes; pages only when they are asked for.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>

#include "image/file.h"

struct mapped_file {
	struct gw_image_file f;
	uint64_t *bitmap[GW_MAX_TABLE_BLOCKS]; /* NULL: not in this file */
};

static struct gw_image_file *new_mapped(void)
{
	struct mapped_file *m = calloc(1, sizeof(*m));

	return m ? &m->f : NULL;
}

static void close_mapped(struct gw_image *img)
{
	struct mapped_file *m = (struct mapped_file *)img;

	for (int i = 0; i < img->desc.table.n; i++)
		gw_lazy_free(m->bitmap[i],
			     gw_mapped_bitmap_size(
				     img->desc.table.entry[i].used_length));
	free(m);
}

static int read_bitmap(int fd, const struct gw_ram_entry *e, uint64_t *bitmap,
		       struct gw_error *err)
{
	uint64_t size = gw_mapped_bitmap_size(e->used_length);
	uint64_t from = e->mapped.bitmap_offset, end = from + size, len;
	uint64_t npages = e->used_length / GW_PAGE_SIZE;
	uint64_t *last = &bitmap[size / 8 - 1];

	for (uint64_t at = from; (len = gw_input_data(fd, at, end, &at));
	     at += len) {
		int r = gw_input_read(fd, (uint8_t *)bitmap + (at - from), len,
				      at, err);
		if (r)
			return r;
	}
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	for (uint64_t i = 0; i < size / 8; i++)
		bitmap[i] = le64toh(bitmap[i]);
#endif
	if (npages % 64 && *last >> npages % 64)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "the bitmap of block '%s' (at byte %llu) has bits beyond its %llu pages",
				  e->idstr, (unsigned long long)from,
				  (unsigned long long)npages);
	return 0;
}

static int table(struct gw_image_file *f, struct gw_error *err)
{
	struct mapped_file *m = (struct mapped_file *)f;

	for (int i = 0; i < f->img.desc.table.n; i++) {
		const struct gw_ram_entry *e = &f->img.desc.table.entry[i];
		int r;

		if (!e->mapped.pages_offset) /* with x-ignore-shared */
			continue;
		m->bitmap[i] =
			gw_lazy_alloc(gw_mapped_bitmap_size(e->used_length));
		if (!m->bitmap[i])
			return gw_fail(err, ENOMEM,
				       "no memory for the bitmap of block '%s' with %llu pages",
				       e->idstr,
				       (unsigned long long)gw_image_npages(
					       &f->img, i));
		r = read_bitmap(f->fd, e, m->bitmap[i], err);
		if (r)
			return r;
	}
	return 0;
}

/* The stream's parser refuses page records in such a stream. */
static int record(struct gw_image_file *f, const struct gw_stream_event *ev,
		  uint64_t at, struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "a page record in a mapped-ram stream");
}

static enum gw_page_state state(struct gw_image *img, int block,
				uint64_t page, uint64_t max, uint64_t *n)
{
	const uint64_t *bitmap = ((struct mapped_file *)img)->bitmap[block];

	*n = max;
	if (!bitmap || !gw_bits_run(bitmap, page, max, n))
		return GW_PAGE_ABSENT;
	return GW_PAGE_DATA;
}

static int read_data(struct gw_image *img, int block, uint64_t page,
		     uint32_t n, void *dst, struct gw_error *err)
{
	const struct gw_mapped_block *m =
		&img->desc.table.entry[block].mapped;

	const struct gw_image_file *f = (struct gw_image_file *)img;

	return gw_input_read_direct(f->direct, f->fd, dst,
				    (size_t)n * GW_PAGE_SIZE,
				    m->pages_offset + page * GW_PAGE_SIZE,
				    err);
}

const struct gw_image_kind gw_image_mapped = {
	.ops = { .state = state, .read = read_data, .close = close_mapped },
	.format = "mapped-ram",
	.new = new_mapped,
	.table = table,
	.record = record,
};
