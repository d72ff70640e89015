/* SPDX-License-Identifier: BSD-3-Clause */
/* pagefile.c - see pagefile.h. */
#include "image/pagefile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image/direct.h"
#include "page/xbzrle.h"

#define WRITE_MAX  (1u << 20) /* one write; enough for any disk */

int gw_pagefile_open(struct gw_pagefile *p, const char *path,
		     const struct gw_sink_options *o, uint64_t *nbytes,
		     struct gw_error *err)
{
	int r;

	memset(p, 0, sizeof(*p));
	p->direct = -1;
	p->nbytes = nbytes;
	r = gw_savefile_open(&p->file, path, GW_SAVE_PLACED, o->cancel, err);
	if (!r && o->direct_io)
		p->direct = gw_savefile_direct(&p->file);
	return r;
}

void gw_pagefile_close(struct gw_pagefile *p)
{
	for (int i = 0; p->block && i < p->d->table.n; i++)
		gw_bitmap_fini(&p->block[i].written);
	free(p->block);
	p->block = NULL;
	if (p->direct >= 0)
		close(p->direct);
	p->direct = -1;
	gw_savefile_close(&p->file);
}

int gw_pagefile_begin(struct gw_pagefile *p, const struct gw_image_desc *d,
		      struct gw_error *err)
{
	p->d = d;
	p->block = calloc((size_t)d->table.n + 1, sizeof(*p->block));
	if (!p->block)
		return gw_fail(err, ENOMEM, "no memory for %d RAM blocks",
			       d->table.n);
	for (int i = 0; i < d->table.n; i++) {
		uint64_t len = d->table.entry[i].used_length;
		int r = gw_bitmap_init(&p->block[i].written,
				       len / GW_PAGE_SIZE, err);

		if (r)
			return r;
	}
	return 0;
}

static int put(struct gw_pagefile *p, const uint8_t *data, uint64_t len,
	       uint64_t offset, struct gw_error *err)
{
	bool direct = gw_direct_fits(p->direct, data, len, offset);
	int fd = direct ? p->direct : p->file.fd;

	while (len) {
		size_t n = len < WRITE_MAX ? (size_t)len : WRITE_MAX;
		int r = gw_savefile_pwrite(&p->file, fd, data, n, offset, err);

		if (r == -EINVAL && fd != p->file.fd) {
			fd = p->file.fd; /* this one wants more alignment */
			continue;
		}
		if (r)
			return r;
		__atomic_fetch_add(p->nbytes, n, __ATOMIC_RELAXED);
		data += n;
		offset += n;
		len -= n;
	}
	return 0;
}

int gw_pagefile_put(struct gw_pagefile *p, const void *data, size_t len,
		    uint64_t offset, struct gw_error *err)
{
	int r = gw_savefile_pwrite(&p->file, p->file.fd, data, len, offset,
				   err);

	if (!r)
		__atomic_fetch_add(p->nbytes, len, __ATOMIC_RELAXED);
	return r;
}

/*
 * Where page @page is in the file, and in *@n how many of the *@n pages from
 * there follow each other in that part. false: it is in no part; *@n then are
 * all up to the next one.
 */
static bool place(const struct gw_pagefile_block *b, uint64_t page,
		  uint64_t *n, uint64_t *offset)
{
	for (size_t i = 0; i < sizeof(b->part) / sizeof(b->part[0]); i++) {
		const struct gw_pagefile_part *t = &b->part[i];
		uint64_t left = t->first + t->n - page;

		if (page < t->first && *n > t->first - page && t->n)
			*n = t->first - page;
		if (page < t->first || page >= t->first + t->n)
			continue;
		*n = *n < left ? *n : left;
		*offset = t->offset + (page - t->first) * GW_PAGE_SIZE;
		return true;
	}
	return false;
}

int gw_pagefile_write(struct gw_pagefile *p, int block, uint64_t first,
		      uint32_t n, const void *data, struct gw_error *err)
{
	struct gw_pagefile_block *b = &p->block[block];
	const uint8_t *s = data;
	uint64_t end = first + n, len, offset;

	if (b->rule == GW_PAGEFILE_NONE)
		return 0;
	for (; first < end; first += len, s += len * GW_PAGE_SIZE) {
		int r;

		len = end - first;
		if (!place(b, first, &len, &offset))
			continue;
		r = put(p, s, len * GW_PAGE_SIZE, offset, err);
		if (r)
			return r;
		gw_bitmap_set_range(&b->written, first, len);
	}
	return 0;
}

static int overwrite(struct gw_pagefile *p, const struct gw_pagefile_block *b,
		     uint64_t first, uint64_t n, struct gw_error *err)
{
	static const _Alignas(GW_PAGE_SIZE) uint8_t zeros[64 * GW_PAGE_SIZE];
	uint64_t len, offset;

	for (uint64_t end = first + n; first < end; first += len) {
		int r;

		len = end - first < 64 ? end - first : 64;
		if (!place(b, first, &len, &offset))
			continue;
		r = put(p, zeros, len * GW_PAGE_SIZE, offset, err);
		if (r)
			return r;
	}
	return 0;
}

/* The first run of written pages in [@first, @end): its length, 0: none. */
static uint64_t next_written(const struct gw_bitmap *b, uint64_t *first,
			     uint64_t end)
{
	uint64_t n = 0;

	/* A search goes on to the end of the bitmap, which may be far. */
	if (end - *first > 4096) {
		n = gw_bitmap_next_run(b, *first, end - *first, first);
		if (!n || *first >= end)
			return 0;
		return n < end - *first ? n : end - *first;
	}
	while (*first < end && !gw_bitmap_test(b, *first))
		++*first;
	while (*first + n < end && gw_bitmap_test(b, *first + n))
		n++;
	return n;
}

/* Only pages that were written need anything done about them. */
int gw_pagefile_zeros(struct gw_pagefile *p, int block, uint64_t first,
		      uint64_t n, struct gw_error *err)
{
	struct gw_pagefile_block *b = &p->block[block];
	uint64_t end = first + n, len;

	if (b->rule == GW_PAGEFILE_NONE)
		return 0;
	while ((len = next_written(&b->written, &first, end))) {
		int r = 0;

		if (b->rule == GW_PAGEFILE_EXACT)
			r = overwrite(p, b, first, len, err);
		if (r)
			return r;
		for (uint64_t i = 0; i < len; i++)
			gw_bitmap_clear(&b->written, first + i);
		first += len;
	}
	return 0;
}

int gw_pagefile_delta(struct gw_pagefile *p, int block, uint64_t page,
		      const void *delta, uint16_t len, struct gw_error *err)
{
	struct gw_pagefile_block *b = &p->block[block];
	_Alignas(GW_PAGE_SIZE) uint8_t data[GW_PAGE_SIZE] = { 0 };
	uint64_t n = 1, offset;
	int r = 0;

	if (b->rule == GW_PAGEFILE_NONE || !place(b, page, &n, &offset))
		return 0;
	if (gw_bitmap_test(&b->written, page))
		r = gw_savefile_pread(&p->file, data, sizeof(data), offset,
				      err);
	if (r)
		return r;
	if (gw_xbzrle_decode(delta, len, data))
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "a damaged XBZRLE delta of %u bytes for page 0x%llx of block '%s'",
				  len, (unsigned long long)page * GW_PAGE_SIZE,
				  p->d->table.entry[block].idstr);
	return gw_pagefile_write(p, block, page, 1, data, err);
}
