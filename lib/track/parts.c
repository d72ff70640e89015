/* SPDX-License-Identifier: BSD-3-Clause */
/* parts.c - see parts.h. */
#include "track/parts.h"

#include <string.h>

#include "ram/extents.h"
#include "track/uffd.h"

#define PART (2ULL << 20)

static uint64_t part_size(const struct gw_ramblock *b)
{
	return b->page_size > PART ? b->page_size : PART;
}

/* Parts begin where the VM's page tables do, blocks not always. */
static uint64_t skew(const struct gw_ramblock *b)
{
	return b->peer_addr % part_size(b);
}

static uint64_t part_of(const struct gw_ramblock *b, uint64_t at)
{
	return (at + skew(b)) / part_size(b);
}

static uint64_t begin_of(const struct gw_ramblock *b, uint64_t part)
{
	uint64_t at = part * part_size(b);

	return at > skew(b) ? at - skew(b) : 0;
}

static uint64_t end_of(const struct gw_ramblock *b, uint64_t part)
{
	uint64_t end = begin_of(b, part + 1), length = gw_uffd_length(b);

	return end < length ? end : length;
}

int gw_parts_init(struct gw_parts *p, const struct gw_ram *ram,
		  struct gw_error *err)
{
	int r = 0;

	memset(p, 0, sizeof(*p));
	p->ram = ram;
	for (; !r && p->nblocks < ram->nblocks; p->nblocks++) {
		const struct gw_ramblock *b = &ram->block[p->nblocks];

		r = gw_bitmap_init(&p->watched[p->nblocks],
				   part_of(b, gw_uffd_length(b) - 1) + 1, err);
	}
	return r;
}

void gw_parts_fini(struct gw_parts *p)
{
	for (int i = 0; i < p->nblocks; i++)
		gw_bitmap_fini(&p->watched[i]);
	p->nblocks = 0;
}

uint64_t gw_parts_next(const struct gw_parts *p, int block, uint64_t *at)
{
	const struct gw_ramblock *b = &p->ram->block[block];
	uint64_t first, from = part_of(b, *at), n;

	n = gw_bitmap_next_run(&p->watched[block], from, UINT64_MAX, &first);
	if (!n)
		return 0;
	if (first > from)
		*at = begin_of(b, first);
	return end_of(b, first + n - 1) - *at;
}

/*
 * The first part from *@part on that holds data and is not watched. One
 * question to the file for each stretch of parts that are not. Return: 1; 0,
 * there is none; -errno.
 */
static int next_new(const struct gw_parts *p, int block, uint64_t *part,
		    struct gw_error *err)
{
	const struct gw_ramblock *b = &p->ram->block[block];
	const struct gw_bitmap *watched = &p->watched[block];
	uint64_t at, n;
	int r;

	while (*part < watched->nbits) {
		if (gw_bitmap_test(watched, *part)) {
			n = gw_bitmap_next_run(watched, *part, UINT64_MAX, &at);
			*part += n;
			continue;
		}
		at = begin_of(b, *part);
		r = b->fd < 0 ? 0 : gw_extent_seek(b, at, &at, err);
		if (r)
			return r;
		if (at >= b->used_length)
			return 0;
		*part = part_of(b, at);
		if (!gw_bitmap_test(watched, *part))
			return 1;
	}
	return 0;
}

static int report(struct gw_track *t, struct gw_ramblock *b, uint64_t part,
		  struct gw_error *err)
{
	uint64_t page = begin_of(b, part) >> GW_PAGE_BITS, n;
	uint64_t end = end_of(b, part) >> GW_PAGE_BITS;

	if (end > gw_ramblock_npages(b)) /* the last huge page */
		end = gw_ramblock_npages(b);
	for (; page < end; page += n) {
		bool hole;
		int r = gw_extent_alike(b, page, end - page, &n, &hole, err);

		if (r)
			return r;
		if (hole)
			continue;
		gw_bitmap_set_range(&b->dirty, page, n);
		t->pages_reported += n;
	}
	return 0;
}

static int watch_new(struct gw_parts *p, struct gw_track *t, int block,
		     gw_part_protect protect, bool tell, struct gw_error *err)
{
	struct gw_ramblock *b = &t->config.ram->block[block];
	uint64_t part = 0;
	int r;

	while ((r = next_new(p, block, &part, err)) > 0) {
		uint64_t at = begin_of(b, part);

		r = protect(t, b, b->peer_addr + at, end_of(b, part) - at, err);
		if (r)
			return r;
		gw_bitmap_set(&p->watched[block], part);
		if (tell)
			r = report(t, b, part, err);
		if (r)
			return r;
		part++;
	}
	return r;
}

int gw_parts_start(struct gw_parts *p, struct gw_track *t,
		   gw_part_protect protect, struct gw_error *err)
{
	int r = 0;

	for (int i = 0; i < p->nblocks && !r; i++) {
		gw_bitmap_clear_all(&p->watched[i]);
		r = watch_new(p, t, i, protect, false, err);
	}
	return r;
}

int gw_parts_grow(struct gw_parts *p, struct gw_track *t,
		  gw_part_protect protect, struct gw_error *err)
{
	int r = 0;

	for (int i = 0; i < p->nblocks && !r; i++)
		r = watch_new(p, t, i, protect, true, err);
	return r;
}
