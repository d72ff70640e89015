/* SPDX-License-Identifier: BSD-3-Clause */
/* diff.c - see diff.h. */
#include "image/diff.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "image/scan.h"
#include "page/zero.h"

/* --- RAM ---------------------------------------------------------------- */

static uint32_t uleb(uint32_t v)
{
	return v < 128 ? 1 : 2;
}

static uint32_t run(const uint8_t *a, const uint8_t *b, uint32_t at,
		    bool equal)
{
	uint32_t i = at;

	while (i < GW_PAGE_SIZE && (a[i] == b[i]) == equal)
		i++;
	return i - at;
}

uint32_t gw_diff_delta(const uint8_t *a, const uint8_t *b)
{
	uint32_t size = 0, at = 0;

	while (at < GW_PAGE_SIZE) {
		uint32_t same = run(a, b, at, true), changed;

		at += same;
		if (at == GW_PAGE_SIZE) /* trailing: left out */
			break;
		changed = run(a, b, at, false);
		at += changed;
		size += uleb(same) + uleb(changed) + changed;
	}
	return size;
}

struct work {
	struct gw_image_diff *d;
	pthread_mutex_t lock; /* guards counts in d->block */
};

/* Pages that both have; a's blocks come first and in its order. */
static bool want(void *arg, int block, uint64_t page, uint64_t max,
		 uint64_t *n)
{
	struct work *w = arg;
	struct gw_image_diff *d = w->d;
	struct gw_diff_block *b = &d->block[block];
	uint64_t both = b->length_a < b->length_b ? b->length_a : b->length_b;
	enum gw_page_state sa, sb;
	uint64_t na, nb;

	*n = max;
	both /= GW_PAGE_SIZE;
	if (b->in_b < 0 || b->outside || page >= both)
		return false;
	if (max > both - page)
		max = both - page;
	sa = d->a->ops->state(d->a, b->in_a, page, max, &na);
	sb = d->b->ops->state(d->b, b->in_b, page, max, &nb);
	*n = na < nb ? na : nb;
	if (sa == GW_PAGE_DATA || sb == GW_PAGE_DATA)
		return true;
	GW_LOCKED(&w->lock);
	b->npages[GW_DIFF_EQUAL] += *n;
	return false;
}

static enum gw_diff_page compare(const uint8_t *a, const uint8_t *b,
				 uint64_t *delta)
{
	uint32_t size;

	if (!memcmp(a, b, GW_PAGE_SIZE))
		return GW_DIFF_EQUAL;
	if (gw_page_is_zero(b))
		return GW_DIFF_ZEROED;
	if (gw_page_is_zero(a))
		return GW_DIFF_FILLED;
	size = gw_diff_delta(a, b);
	if (size > GW_DIFF_LITTLE)
		return GW_DIFF_REWRITTEN;
	*delta += size;
	return GW_DIFF_CHANGED;
}

static int visit(void *arg, int block, uint64_t page, uint32_t n, uint8_t *buf,
		 struct gw_error *err)
{
	struct work *w = arg;
	struct gw_image_diff *d = w->d;
	struct gw_diff_block *b = &d->block[block];
	uint8_t *other = buf + (size_t)GW_SCAN_PAGES * GW_PAGE_SIZE;
	uint64_t npages[GW_DIFF_NPAGES] = { 0 }, delta = 0;
	int r = gw_image_read(d->a, b->in_a, page, n, buf, err);

	if (!r)
		r = gw_image_read(d->b, b->in_b, page, n, other, err);
	if (r)
		return r;
	for (size_t i = 0; i < n; i++)
		npages[compare(buf + i * GW_PAGE_SIZE,
			       other + i * GW_PAGE_SIZE, &delta)]++;
	GW_LOCKED(&w->lock);
	for (int i = 0; i < GW_DIFF_NPAGES; i++)
		b->npages[i] += npages[i];
	b->delta += delta;
	return 0;
}

static void pair_blocks(struct gw_image_diff *d)
{
	const struct gw_ram_table *a = &d->a->desc.table;
	const struct gw_ram_table *b = &d->b->desc.table;
	struct gw_diff_block *to = d->block;

	for (int i = 0; i < a->n; i++, to++) {
		to->idstr = a->entry[i].idstr;
		to->in_a = i;
		to->length_a = a->entry[i].used_length;
		to->in_b = gw_ram_table_find(b, to->idstr);
		to->outside = gw_image_is_outside(d->a, i);
		if (to->in_b < 0)
			continue;
		to->length_b = b->entry[to->in_b].used_length;
		to->outside |= gw_image_is_outside(d->b, to->in_b);
	}
	for (int i = 0; i < b->n; i++) {
		if (gw_ram_table_find(a, b->entry[i].idstr) >= 0)
			continue;
		to->idstr = b->entry[i].idstr;
		to->in_a = -1;
		to->in_b = i;
		to->length_b = b->entry[i].used_length;
		to++;
	}
	d->nblocks = (int)(to - d->block);
}

/* --- device state ------------------------------------------------------- */

static int split(struct gw_image *img, struct gw_tail *t, struct gw_error *err)
{
	int r;

	if (img->vmdesc)
		r = gw_tail_split(t, img->tail, img->eof, img->vmdesc,
				  img->vmdesc_len, err);
	else
		r = gw_tail_scan(t, img->tail, img->eof, err);
	if (r)
		gw_error_prefix(err, "%s: device state", img->path);
	return r;
}

static const struct gw_tail_section *find(const struct gw_tail *t,
					  const struct gw_tail_section *s)
{
	for (int i = 0; i < t->n; i++)
		if (!strcmp(t->section[i].idstr, s->idstr) &&
		    t->section[i].instance_id == s->instance_id)
			return &t->section[i];
	return NULL;
}

static void differs(struct gw_image_diff *d, const struct gw_tail_section *s,
		    const char *how)
{
	struct gw_diff_section *to = &d->section[d->nsections++];

	snprintf(to->idstr, sizeof(to->idstr), "%s", s->idstr);
	to->instance_id = s->instance_id;
	to->how = how;
}

static void compare_sections(struct gw_image_diff *d, const struct gw_tail *a,
			     const struct gw_tail *b)
{
	for (int i = 0; i < a->n; i++) {
		const struct gw_tail_section *x = &a->section[i];
		const struct gw_tail_section *y = find(b, x);

		if (!y)
			differs(d, x, "only in the first");
		else if (x->version_id != y->version_id)
			differs(d, x, "another version");
		else if (x->size != y->size)
			differs(d, x, "another size");
		else if (memcmp(d->a->tail + x->payload,
				d->b->tail + y->payload, x->size))
			differs(d, x, "other contents");
		else
			d->nequal++;
	}
	for (int i = 0; i < b->n; i++)
		if (!find(a, &b->section[i]))
			differs(d, &b->section[i], "only in the second");
}

static int compare_devices(struct gw_image_diff *d, struct gw_error *err)
{
	struct gw_tail a = { 0 }, b = { 0 };
	int r = split(d->a, &a, err);

	if (!r)
		r = split(d->b, &b, err);
	if (!r) {
		d->section = calloc((size_t)a.n + (size_t)b.n + 1,
				    sizeof(*d->section));
		if (d->section)
			compare_sections(d, &a, &b);
		else
			r = gw_fail(err, ENOMEM, "no memory");
	}
	gw_tail_fini(&a);
	gw_tail_fini(&b);
	return r;
}

/* --- both --------------------------------------------------------------- */

static bool any(const struct gw_image_diff *d)
{
	if (d->machine || d->uuid || d->nsections)
		return true;
	for (int i = 0; i < d->nblocks; i++) {
		const struct gw_diff_block *b = &d->block[i];

		if (b->length_a != b->length_b)
			return true;
		for (int k = GW_DIFF_EQUAL + 1; k < GW_DIFF_NPAGES; k++)
			if (b->npages[k])
				return true;
	}
	return false;
}

int gw_image_diff(struct gw_image_diff *d, struct gw_error *err)
{
	const struct gw_configuration *a = &d->a->desc.config;
	const struct gw_configuration *b = &d->b->desc.config;
	struct work w = { .d = d };
	struct gw_scan scan = {
		.img = d->a,   .threads = d->threads, .cancel = d->cancel,
		.want = want,  .visit = visit,	      .tick = d->tick,
		.arg = &w,     .data = d->data,
	};
	int r;

	pair_blocks(d);
	d->machine = strcmp(a->machine, b->machine) != 0;
	d->uuid = a->have_uuid && b->have_uuid &&
		  memcmp(a->uuid, b->uuid, sizeof(a->uuid)) != 0;
	r = compare_devices(d, err);
	if (r)
		return r;
	pthread_mutex_init(&w.lock, NULL);
	r = gw_scan(&scan, err);
	pthread_mutex_destroy(&w.lock);
	d->different = any(d);
	return r;
}

void gw_image_diff_fini(struct gw_image_diff *d)
{
	free(d->section);
	d->section = NULL;
}
