/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache.c - see cache.h.
 *
 * A set is an array of ways in the order of last use, empty ones at its end;
 * so the last way is the one to take, and its `pass` says whether it may be
 * taken. A way owns a slot, one page of `data`; ways change places, slots stay
 * where they are. Only gw_cache_resize() gives slots to other ways.
 *
 * Which set: pages one after another are in sets one after another, so that a
 * piece of memory as large as the cache fills it evenly (a hash would put 9
 * pages into some sets and 7 into others). After as many pages as the cache
 * has, the next ones are shifted by a part of it, since programs like to write
 * at distances that are powers of two, and caches tend to have such sizes.
 */
#include "page/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/hugepage.h"
#include "base/scope.h"
#include "base/units.h"
#include "page/xbzrle.h"

#define WAYS GW_CACHE_WAYS
/* Sets in a row that share a lock. */
#define STRIPE 64
#define GOLDEN 0x9e3779b9ULL /* of 2^32 */
/* Not used in this pass nor in the one before. */
#define OLD_ENOUGH 2
/* One set in so many tries each rule of let_go(). */
#define TRIAL	  16
#define SCORE_MAX 256
/* Pages that fit into 32 bits of slot. */
#define MAX_BYTES ((uint64_t)UINT32_MAX * GW_PAGE_SIZE)

/* --- where a page is --------------------------------------------------- */

static inline uint64_t key_of(uint32_t block, uint64_t page)
{
	return (uint64_t)(block + 1) << 40 | page; /* never 0 */
}

static inline uint64_t set_of(uint64_t key, uint64_t nsets)
{
	uint64_t block = key >> 40, page = key & ((1ULL << 40) - 1);
	uint64_t lap = page / (nsets * WAYS) + 5 * block;
	/* an odd shift for near laps: no two alike while there are sets;
	 * another one for far laps, multiples of the golden section */
	uint64_t near = lap * ((nsets * GOLDEN >> 32) | 1);
	uint64_t far = ((lap >> 6) * GOLDEN & UINT32_MAX) * nsets >> 32;

	return (page % nsets + near + far) % nsets;
}

static inline uint8_t *slot_of(const struct gw_cache *c,
			       const struct gw_cache_way *w)
{
	return c->data + (size_t)w->slot * GW_PAGE_SIZE;
}

/* The set @key belongs to, with its shard locked. */
static struct gw_cache_way *lock_set(struct gw_cache *c, uint64_t key,
				     struct gw_cache_shard **shard)
{
	for (;;) {
		uint64_t n = __atomic_load_n(&c->nsets, __ATOMIC_RELAXED);
		uint64_t set = set_of(key, n);

		*shard = &c->shard[set / STRIPE % c->nshards];
		pthread_mutex_lock(&(*shard)->lock);
		/* with any lock held it cannot change any more */
		if (n == __atomic_load_n(&c->nsets, __ATOMIC_RELAXED))
			return c->way + set * WAYS;
		pthread_mutex_unlock(&(*shard)->lock);
	}
}

/* WAYS: it is not there. */
static inline int find(const struct gw_cache_way *set, uint64_t key)
{
	int i = 0;

	while (i < WAYS && set[i].key != key)
		i++;
	return i;
}

static void to_front(struct gw_cache_way *set, int i)
{
	struct gw_cache_way w = set[i];

	memmove(set + 1, set, (size_t)i * sizeof(*set));
	set[0] = w;
}

static void drop(struct gw_cache_shard *shard, struct gw_cache_way *set, int i)
{
	struct gw_cache_way w = set[i];

	memmove(set + i, set + i + 1, (size_t)(WAYS - 1 - i) * sizeof(*set));
	w.key = 0;
	set[WAYS - 1] = w;
	shard->stats.pages--;
}

/* --- pages ------------------------------------------------------------- */

/*
 * May a page that was not written for a while go? If it never comes back, yes;
 * if somebody writes round and round more than fits, no: he will be back, and
 * whoever takes its place will be gone before it is written again. Nobody
 * knows, so two small parts of the sets try: one lets every page go, one only
 * one in sixteen. Where there are fewer misses, there the others look.
 */
static bool let_go(struct gw_cache *c, struct gw_cache_shard *shard,
		   const struct gw_cache_way *set)
{
	int which = (int)((size_t)(set - c->way) / WAYS % TRIAL);
	int score = __atomic_load_n(&c->score, __ATOMIC_RELAXED);
	bool lucky;

	if (c->nsets < TRIAL)
		return true;
	shard->dice = shard->dice * 1664525 + 1013904223;
	lucky = shard->dice >> 28 == 0;
	if (which == 0 || which == TRIAL / 2) {
		score += which ? -1 : 1;
		if (abs(score) <= SCORE_MAX) /* a lost update is no harm */
			__atomic_store_n(&c->score, score, __ATOMIC_RELAXED);
		return !which || lucky;
	}
	return score < SCORE_MAX / 16 || lucky;
}

/* Make the last way free. */
static bool make_room(struct gw_cache *c, struct gw_cache_shard *shard,
		      struct gw_cache_way *set, uint32_t pass)
{
	struct gw_cache_way *last = &set[WAYS - 1];

	if (last->key &&
	    (pass - last->pass < OLD_ENOUGH || !let_go(c, shard, set))) {
		shard->stats.refused++;
		return false;
	}
	if (last->key)
		shard->stats.evictions++;
	else
		shard->stats.pages++;
	return true;
}

uint8_t *gw_cache_begin(struct gw_cache *c, uint32_t block, uint64_t page,
			struct gw_cache_hold *hold)
{
	uint64_t key = key_of(block, page);
	struct gw_cache_way *set = lock_set(c, key, &hold->shard);
	uint32_t pass = __atomic_load_n(&c->pass, __ATOMIC_RELAXED);
	int i = find(set, key);

	hold->set = set;
	hold->hit = i < WAYS;
	if (hold->hit) {
		hold->shard->stats.hits++;
	} else {
		hold->shard->stats.misses++;
		if (!make_room(c, hold->shard, set, pass)) {
			pthread_mutex_unlock(&hold->shard->lock);
			return NULL;
		}
		i = WAYS - 1;
	}
	to_front(set, i);
	set->key = key;
	set->pass = pass;
	return slot_of(c, set);
}

void gw_cache_end(struct gw_cache_hold *hold, bool keep)
{
	if (!keep)
		drop(hold->shard, hold->set, 0);
	pthread_mutex_unlock(&hold->shard->lock);
}

int gw_cache_delta(struct gw_cache *c, uint32_t block, uint64_t page,
		   const uint8_t *copy, uint8_t *delta)
{
	struct gw_cache_hold hold;
	uint8_t *old = gw_cache_begin(c, block, page, &hold);
	int len = GW_CACHE_MISS;

	if (!old)
		return GW_CACHE_MISS;
	if (hold.hit) {
		len = gw_xbzrle_encode(old, copy, delta, GW_CACHE_MAX_DELTA);
		if (len < 0)
			len = GW_CACHE_OVERFLOW;
		hold.shard->stats.overflows += len < 0;
	}
	/* a small delta touches fewer bytes than a copy would */
	if (len < 0 || len > (int)GW_PAGE_SIZE / 8 ||
	    gw_xbzrle_decode(delta, (size_t)len, old))
		memcpy(old, copy, GW_PAGE_SIZE);
	gw_cache_end(&hold, true);
	return len;
}

void gw_cache_forget(struct gw_cache *c, uint32_t block, uint64_t page)
{
	uint64_t key = key_of(block, page);
	struct gw_cache_shard *shard;
	struct gw_cache_way *set = lock_set(c, key, &shard);
	int i = find(set, key);

	if (i < WAYS)
		drop(shard, set, i);
	pthread_mutex_unlock(&shard->lock);
}

void gw_cache_set_zero(struct gw_cache *c, uint32_t block, uint64_t page)
{
	uint64_t key = key_of(block, page);
	struct gw_cache_shard *shard;
	struct gw_cache_way *set = lock_set(c, key, &shard);
	int i = find(set, key);

	if (i < WAYS) {
		memset(slot_of(c, &set[i]), 0, GW_PAGE_SIZE);
		set[i].pass = __atomic_load_n(&c->pass, __ATOMIC_RELAXED);
		to_front(set, i);
	}
	pthread_mutex_unlock(&shard->lock);
}

void gw_cache_next_pass(struct gw_cache *c)
{
	__atomic_fetch_add(&c->pass, 1, __ATOMIC_RELAXED);
}

void gw_cache_get_stats(struct gw_cache *c, struct gw_cache_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	for (unsigned int i = 0; i < c->nshards; i++) {
		struct gw_cache_stats *s = &c->shard[i].stats;
		GW_LOCKED(&c->shard[i].lock);

		stats->hits += s->hits;
		stats->misses += s->misses;
		stats->evictions += s->evictions;
		stats->refused += s->refused;
		stats->overflows += s->overflows;
		stats->pages += s->pages;
	}
}

uint64_t gw_cache_size(const struct gw_cache *c)
{
	return c->nsets * GW_CACHE_MIN;
}

/* --- size -------------------------------------------------------------- */

static int check_size(uint64_t nbytes, struct gw_error *err)
{
	char have[32], limit[32];

	if (nbytes >= GW_CACHE_MIN && nbytes <= MAX_BYTES)
		return 0;
	gw_format_size(have, sizeof(have), nbytes);
	gw_format_size(limit, sizeof(limit),
		       nbytes < GW_CACHE_MIN ? GW_CACHE_MIN : MAX_BYTES);
	return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			  "a page cache of %s: give it at %s %s", have,
			  nbytes < GW_CACHE_MIN ? "least" : "most", limit);
}

static uint8_t *map_data(size_t len, struct gw_error *err)
{
	uint8_t *p = gw_huge_alloc(len);

	if (!p)
		gw_fail_errno(err, errno, "page cache: mapping %zu bytes", len);
	return p;
}

/* Way 0 of all sets first, then way 1: a cache that is not full is dense. */
static inline struct gw_cache_way *nth(struct gw_cache_way *way, uint64_t nsets,
				       uint64_t i)
{
	return way + i % nsets * WAYS + i / nsets;
}

static struct gw_cache_way *alloc_ways(uint64_t nsets, struct gw_error *err)
{
	struct gw_cache_way *way = calloc(nsets * WAYS, sizeof(*way));

	if (!way)
		gw_fail(err, ENOMEM, "page cache: no memory to find %llu pages",
			(unsigned long long)nsets * WAYS);
	return way;
}

int gw_cache_init(struct gw_cache *c, uint64_t nbytes, unsigned int nshards,
		  struct gw_error *err)
{
	int r = check_size(nbytes, err);

	memset(c, 0, sizeof(*c));
	if (r)
		return r;
	if (!nshards || nshards > GW_CACHE_MAX_SHARDS)
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "a page cache of %u shards: 1 to %d", nshards,
				  GW_CACHE_MAX_SHARDS);
	c->nsets = nbytes / GW_CACHE_MIN;
	c->way = alloc_ways(c->nsets, err);
	c->shard = aligned_alloc(64, nshards * sizeof(*c->shard));
	if (c->way && c->shard)
		c->data = map_data(c->nsets * GW_CACHE_MIN, err);
	else if (c->way)
		gw_fail(err, ENOMEM, "page cache: no memory for %u locks",
			nshards);
	if (!c->data) {
		gw_cache_fini(c);
		return err ? -err->code : -ENOMEM;
	}
	for (uint64_t i = 0; i < c->nsets * WAYS; i++)
		nth(c->way, c->nsets, i)->slot = (uint32_t)i;
	memset(c->shard, 0, nshards * sizeof(*c->shard));
	for (c->nshards = 0; c->nshards < nshards; c->nshards++)
		pthread_mutex_init(&c->shard[c->nshards].lock, NULL);
	return 0;
}

void gw_cache_fini(struct gw_cache *c)
{
	for (unsigned int i = 0; i < c->nshards; i++)
		pthread_mutex_destroy(&c->shard[i].lock);
	if (c->data)
		munmap(c->data, c->nsets * GW_CACHE_MIN);
	free(c->way);
	free(c->shard);
	memset(c, 0, sizeof(*c));
}

/* --- a new size -------------------------------------------------------- */

struct resize {
	uint64_t nsets;		  /* new */
	struct gw_cache_way *way; /* new; empty at first */
	uint8_t *used;		  /* one byte per new slot */
	uint64_t next;		  /* no slot below is free */
};

/* A page into its new set, which is in the order of last use. Return: is it
 * there, and nothing else lost? */
static bool place(struct resize *z, const struct gw_cache_way *w)
{
	struct gw_cache_way *set = z->way + set_of(w->key, z->nsets) * WAYS;
	bool full = set[WAYS - 1].key;
	int i = WAYS - 1;

	if (full && set[i].pass >= w->pass)
		return false;
	for (; i > 0 && (!set[i - 1].key || set[i - 1].pass < w->pass); i--)
		set[i] = set[i - 1];
	set[i] = *w;
	return !full;
}

static uint32_t free_slot(struct resize *z)
{
	while (z->used[z->next])
		z->next++;
	return (uint32_t)z->next++;
}

/* Slots that exist no longer are emptied, free ones given to empty ways. */
static void move_slots(struct gw_cache *c, struct resize *z)
{
	uint64_t n = z->nsets * WAYS;

	for (uint64_t i = 0; i < n; i++)
		if (z->way[i].key && z->way[i].slot < n)
			z->used[z->way[i].slot] = 1;
	for (uint64_t i = 0; i < n; i++) {
		struct gw_cache_way *w = nth(z->way, z->nsets, i), from = *w;

		if (w->key && w->slot < n)
			continue;
		w->slot = free_slot(z);
		if (w->key)
			memcpy(slot_of(c, w), slot_of(c, &from), GW_PAGE_SIZE);
	}
}

/* Every page to its new set. What is lost is counted in its old shard, what
 * there is now in the new one. All locks are held. */
static void rehash(struct gw_cache *c, struct resize *z)
{
	for (unsigned int i = 0; i < c->nshards; i++)
		c->shard[i].stats.pages = 0;
	for (uint64_t i = 0; i < c->nsets * WAYS; i++)
		if (c->way[i].key && !place(z, &c->way[i]))
			c->shard[i / WAYS / STRIPE % c->nshards]
				.stats.evictions++;
	for (uint64_t i = 0; i < z->nsets * WAYS; i++)
		if (z->way[i].key)
			c->shard[i / WAYS / STRIPE % c->nshards].stats.pages++;
	move_slots(c, z);
}

/* Move the pages' memory (not their bytes) to where there is more room. */
static int grow(struct gw_cache *c, size_t old_len, size_t len,
		struct gw_error *err)
{
	uint8_t *p = map_data(len, err);

	if (!p)
		return -ENOMEM;
	if (mremap(c->data, old_len, old_len, MREMAP_MAYMOVE | MREMAP_FIXED,
		   p) == MAP_FAILED) {
		int e = errno;

		munmap(p, len);
		return gw_fail_errno(err, e, "page cache: moving %zu bytes",
				     old_len);
	}
	c->data = p;
	return 0;
}

/* All locks are held. On error nothing has changed. */
static int swap(struct gw_cache *c, struct resize *z, struct gw_error *err)
{
	size_t old_len = c->nsets * GW_CACHE_MIN;
	size_t len = z->nsets * GW_CACHE_MIN;
	struct gw_cache_way *old = c->way;
	int r = len > old_len ? grow(c, old_len, len, err) : 0;

	if (r)
		return r;
	rehash(c, z);
	if (len < old_len)
		munmap(c->data + len, old_len - len);
	c->way = z->way;
	z->way = old; /* for the caller to free */
	__atomic_store_n(&c->nsets, z->nsets, __ATOMIC_RELAXED);
	return 0;
}

int gw_cache_resize(struct gw_cache *c, uint64_t nbytes, struct gw_error *err)
{
	struct resize z = { .nsets = nbytes / GW_CACHE_MIN };
	int r = check_size(nbytes, err);

	if (r || z.nsets == c->nsets)
		return r;
	z.way = alloc_ways(z.nsets, err);
	z.used = z.way ? calloc(z.nsets, WAYS) : NULL;
	if (!z.used) {
		free(z.way);
		return gw_fail(err, ENOMEM,
			       "page cache: no memory for another size");
	}
	/* the one place where a lock is taken with another held: in the order
	 * of shards, and by the owner alone */
	for (unsigned int i = 0; i < c->nshards; i++)
		pthread_mutex_lock(&c->shard[i].lock);
	r = swap(c, &z, err);
	for (unsigned int i = 0; i < c->nshards; i++)
		pthread_mutex_unlock(&c->shard[i].lock);
	free(z.way);
	free(z.used);
	return r;
}
