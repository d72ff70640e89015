/* SPDX-License-Identifier: BSD-3-Clause */
/* place.c - see place.h. */
#include "dest/place.h"

#include <string.h>

#include "base/scope.h"
#include "dest/put.h"

/* --- the memory of a VM -------------------------------------------------- */

static struct gw_ramblock *block_of(struct gw_place *p, int block)
{
	return ((struct gw_place_ram *)p)->block[block];
}

/* Every page is this thread's alone until the next sync: what is not placed now
 * will not be by another. */
static int ram_room(struct gw_place *p, int block, uint64_t first, uint32_t n,
		    uint8_t **host, struct gw_error *err)
{
	struct gw_ramblock *b = block_of(p, block);

	*host = NULL;
	if (gw_put_is_fresh(b, first, n))
		return 0;
	*host = b->host + (first << GW_PAGE_BITS);
	return gw_put_room(b, first, n, err);
}

static int ram_pages(struct gw_place *p, int block, uint64_t first, uint32_t n,
		     const void *data, struct gw_error *err)
{
	return gw_put_pages(block_of(p, block), first, n, data, err);
}

static int ram_zeros(struct gw_place *p, int block, uint64_t first, uint64_t n,
		     struct gw_error *err)
{
	gw_put_zeros(block_of(p, block), first, n);
	return 0;
}

static const struct gw_place_ops ram_ops = { .room = ram_room,
					     .pages = ram_pages,
					     .zeros = ram_zeros };

void gw_place_ram_init(struct gw_place_ram *p, const struct gw_ram_table *t)
{
	memset(p, 0, sizeof(*p));
	p->base.ops = &ram_ops;
	p->base.table = t;
}

/* --- a sink -------------------------------------------------------------- */

/* What has to be locked for it; NULL: nothing. */
static pthread_mutex_t *turn(struct gw_place_sink *p)
{
	return p->sink->parallel ? NULL : &p->lock;
}

static void enter(pthread_mutex_t *m)
{
	if (m)
		pthread_mutex_lock(m);
}

static void leave(pthread_mutex_t *m)
{
	if (m)
		pthread_mutex_unlock(m);
}

static int sink_pages(struct gw_place *base, int block, uint64_t first,
		      uint32_t n, const void *data, struct gw_error *err)
{
	struct gw_place_sink *p = (struct gw_place_sink *)base;
	int r;

	enter(turn(p));
	r = p->sink->ops->pages(p->sink, block, first, n, data, err);
	leave(turn(p));
	return r;
}

static int sink_zeros(struct gw_place *base, int block, uint64_t first,
		      uint64_t n, struct gw_error *err)
{
	struct gw_place_sink *p = (struct gw_place_sink *)base;
	int r;

	enter(turn(p));
	r = p->sink->ops->zeros(p->sink, block, first, n, err);
	leave(turn(p));
	return r;
}

static const struct gw_place_ops sink_ops = { .pages = sink_pages,
					      .zeros = sink_zeros };

int gw_place_sink_delta(struct gw_place_sink *p, int block, uint64_t page,
			const void *delta, uint16_t len, struct gw_error *err)
{
	int r;

	enter(turn(p));
	r = p->sink->ops->delta(p->sink, block, page, delta, len, err);
	leave(turn(p));
	return r;
}

void gw_place_sink_init(struct gw_place_sink *p, const struct gw_ram_table *t,
			struct gw_sink *sink)
{
	memset(p, 0, sizeof(*p));
	p->base.ops = &sink_ops;
	p->base.table = t;
	p->sink = sink;
	pthread_mutex_init(&p->lock, NULL);
}

void gw_place_sink_fini(struct gw_place_sink *p)
{
	pthread_mutex_destroy(&p->lock);
}
