/* SPDX-License-Identifier: BSD-3-Clause */
/* hint.c - see hint.h. */
#include "hint/hint.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/scope.h"

/* 0 and 1 are STOP and DONE of the balloon; its ids begin here. */
#define FIRST_ID 0x80000000u
#define STEP	 65536u /* pages taken out under the lock at once */

void gw_hint_init(struct gw_hint *h)
{
	memset(h, 0, sizeof(*h));
	pthread_mutex_init(&h->lock, NULL);
}

static void drop_bitmaps(struct gw_hint *h)
{
	while (h->nabsent)
		gw_bitmap_fini(&h->absent[--h->nabsent]);
}

void gw_hint_fini(struct gw_hint *h)
{
	gw_hint_end(h);
	drop_bitmaps(h);
	pthread_mutex_destroy(&h->lock);
}

static int make_bitmaps(struct gw_hint *h, const struct gw_ram *ram,
			struct gw_error *err)
{
	drop_bitmaps(h);
	for (int i = 0; i < ram->nblocks; i++) {
		int r = gw_bitmap_init(&h->absent[i],
				       gw_ramblock_npages(&ram->block[i]),
				       err);

		if (r)
			return r;
		h->nabsent++;
	}
	return 0;
}

/* Not to be guessed from the one before: an old answer must not fit. */
static uint32_t new_id(uint32_t old)
{
	uint32_t id;

	do {
		if (getrandom(&id, sizeof(id), GRND_NONBLOCK) != sizeof(id))
			id = (uint32_t)gw_now_ns() * 2654435761u;
		id |= FIRST_ID;
	} while (id == old);
	return id;
}

int gw_hint_open(struct gw_hint *h, struct gw_ram *ram, uint32_t *id,
		 struct gw_error *err)
{
	GW_LOCKED(&h->lock);
	int r = make_bitmaps(h, ram, err);

	if (r)
		return r;
	memset(&h->stats, 0, sizeof(h->stats));
	h->ram = ram;
	__atomic_store_n(&h->closing, false, __ATOMIC_RELEASE);
	h->id = h->last_id = *id = new_id(h->last_id);
	return 0;
}

/* Hints are applied under the lock: after this none touches a bitmap. */
void gw_hint_close(struct gw_hint *h)
{
	__atomic_store_n(&h->closing, true, __ATOMIC_RELEASE);
	GW_LOCKED(&h->lock);
	h->id = 0;
}

void gw_hint_end(struct gw_hint *h)
{
	gw_hint_close(h);
	GW_LOCKED(&h->lock);
	h->ram = NULL;
}

void gw_hint_reported(struct gw_hint *h)
{
	if (!__atomic_load_n(&h->stats.accepted, __ATOMIC_RELAXED))
		return;
	for (int i = 0; h->ram && i < h->nabsent; i++)
		gw_bitmap_subtract(&h->absent[i], &h->ram->block[i].dirty);
}

void gw_hint_reported_range(struct gw_hint *h, int block, uint64_t first,
			    uint64_t n)
{
	uint64_t end = first + n;

	if (!__atomic_load_n(&h->stats.accepted, __ATOMIC_RELAXED) ||
	    !h->ram || block >= h->nabsent)
		return;
	for (; gw_bitmap_next_run(&h->absent[block], first, 1, &first) &&
	       first < end;
	     first++)
		if (gw_bitmap_test(&h->ram->block[block].dirty, first))
			gw_bitmap_clear(&h->absent[block], first);
}

static void count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Whole pages inside of [@offset, @offset + @length); false: not memory. */
static bool whole_pages(const struct gw_ramblock *b, uint64_t offset,
			uint64_t length, uint64_t *first, uint64_t *end)
{
	if (offset > b->used_length || length > b->used_length - offset)
		return false;
	*first = (offset + GW_PAGE_SIZE - 1) >> GW_PAGE_BITS;
	*end = (offset + length) >> GW_PAGE_BITS;
	return true;
}

/* Who clears the bit has the page: we, or the sender. */
static void take_out(struct gw_hint *h, int block, uint64_t first, uint64_t n)
{
	uint64_t taken = gw_bitmap_move_range(&h->absent[block],
					      &h->ram->block[block].dirty,
					      first, n);

	count(&h->stats.accepted, taken);
	count(&h->stats.late, n - taken);
}

static int refuse(struct gw_hint *h)
{
	count(&h->stats.refused, 1);
	return -EINVAL;
}

static int stale(struct gw_hint *h, uint64_t length)
{
	count(&h->stats.stale, length >> GW_PAGE_BITS);
	return -ESTALE;
}

/* The open window is @id, and stays so while the lock is held. */
static bool is_open(struct gw_hint *h, uint32_t id)
{
	return id && id == h->id;
}

/* Which pages of @block, or of the one that is called @name? Return: 0,
 * -ESTALE, -EINVAL. */
static int look_up(struct gw_hint *h, uint32_t id, const char *name,
		   int *block, uint64_t offset, uint64_t length,
		   uint64_t *first, uint64_t *end)
{
	GW_LOCKED(&h->lock);
	struct gw_ramblock *b;

	if (!is_open(h, id))
		return stale(h, length);
	b = name ? gw_ram_find(h->ram, name) : NULL;
	if (b)
		*block = (int)(b - h->ram->block);
	if ((name && !b) || *block < 0 || *block >= h->ram->nblocks ||
	    !whole_pages(&h->ram->block[*block], offset, length, first, end))
		return refuse(h);
	return 0;
}

/*
 * In steps: a guest may call a terabyte free, and call it so again and again,
 * and who closes the window does not wait for more than one step.
 */
static int hint_free(struct gw_hint *h, uint32_t id, const char *name,
		     int block, uint64_t offset, uint64_t length)
{
	uint64_t first, end, n;
	int r;

	if (__atomic_load_n(&h->closing, __ATOMIC_ACQUIRE))
		return stale(h, length);
	r = look_up(h, id, name, &block, offset, length, &first, &end);
	for (; !r && first < end; first += n) {
		n = end - first < STEP ? end - first : STEP;
		if (__atomic_load_n(&h->closing, __ATOMIC_ACQUIRE))
			return stale(h, (end - first) << GW_PAGE_BITS);
		GW_LOCKED(&h->lock);
		if (!is_open(h, id))
			return stale(h, (end - first) << GW_PAGE_BITS);
		take_out(h, block, first, n);
	}
	return r;
}

int gw_hint_free_at(struct gw_hint *h, uint32_t id, int block, uint64_t offset,
		    uint64_t length)
{
	return hint_free(h, id, NULL, block, offset, length);
}

int gw_hint_free(struct gw_hint *h, uint32_t id, const char *block,
		 uint64_t offset, uint64_t length)
{
	return hint_free(h, id, block, -1, offset, length);
}

bool gw_hint_absent(const struct gw_hint *h, int block, uint64_t page)
{
	return block < h->nabsent && gw_bitmap_test(&h->absent[block], page);
}

uint64_t gw_hint_nabsent(const struct gw_hint *h)
{
	uint64_t n = 0;

	for (int i = 0; i < h->nabsent; i++)
		n += gw_bitmap_count(&h->absent[i]);
	return n;
}

void gw_hint_get_stats(const struct gw_hint *h, struct gw_hint_stats *stats)
{
	stats->accepted = __atomic_load_n(&h->stats.accepted, __ATOMIC_RELAXED);
	stats->late = __atomic_load_n(&h->stats.late, __ATOMIC_RELAXED);
	stats->stale = __atomic_load_n(&h->stats.stale, __ATOMIC_RELAXED);
	stats->refused = __atomic_load_n(&h->stats.refused, __ATOMIC_RELAXED);
}
