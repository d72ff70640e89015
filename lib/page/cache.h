/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache.h - what the receiver has: copies of pages that were sent, so that the
 * next time only a difference is sent (page/xbzrle.h). A page is known by its
 * block's index and its number in the block.
 *
 * Sets of GW_CACHE_WAYS pages, the least recently used one of a set is
 * replaced, but only if neither this pass nor the one before used it. A pass
 * touches a page at most once, in the order of addresses; a plain LRU that is
 * a little too small for that would throw out each page just before its turn
 * and hit nothing. This way what is in stays in as long as it is written in
 * every pass, and what does not fit is refused.
 *
 * Any thread may look up; the sets are divided among shards with a lock each,
 * 64 neighbouring pages (a run of the dirty bitmap) are in one shard or two.
 * One page is for one thread at a time: the order in which two deltas of it
 * arrive is the caller's business. init, resize and fini: the owner, and no
 * one else meanwhile for init and fini.
 */
#ifndef GW_PAGE_CACHE_H
#define GW_PAGE_CACHE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "ram/block.h"

#define GW_CACHE_WAYS	    8
#define GW_CACHE_MIN	    (GW_CACHE_WAYS * GW_PAGE_SIZE) /* bytes */
#define GW_CACHE_MAX_SHARDS 256

struct gw_cache_way {
	uint64_t key;  /* block and page; 0: empty */
	uint32_t slot; /* which page of data */
	uint32_t pass; /* that used it last */
};

struct gw_cache_stats {
	uint64_t hits, misses;
	uint64_t evictions; /* pages that made room, or did not fit any more */
	uint64_t refused;   /* misses that found no room */
	uint64_t overflows; /* gw_cache_delta(): hits without a delta */
	uint64_t pages;	    /* in the cache now */
};

struct gw_cache_shard {
	pthread_mutex_t lock; /* guards stats, and the sets of this shard */
	struct gw_cache_stats stats;
	uint32_t dice;
} __attribute__((aligned(64)));

struct gw_cache {
	/* written by gw_cache_resize(), which holds all locks */
	uint64_t nsets;		  /* atomic: read to find the lock */
	struct gw_cache_way *way; /* the sets, each most recent first */
	uint8_t *data;		  /* 2 MiB aligned */
	/* set once */
	struct gw_cache_shard *shard;
	unsigned int nshards;

	uint32_t pass; /* atomic */
	int score;     /* atomic: cache.c, let_go() */
};

/*
 * @nbytes of pages, GW_CACHE_MIN at least, rounded down to whole sets; and 16
 * bytes per page for finding them. Memory for pages is taken when they come.
 * @nshards: 1 to GW_CACHE_MAX_SHARDS; some more than threads.
 */
int gw_cache_init(struct gw_cache *c, uint64_t nbytes, unsigned int nshards,
		  struct gw_error *err) GW_MUST_CHECK;
void gw_cache_fini(struct gw_cache *c); /* also of a zeroed one */

/*
 * At any time, also while others look up (they wait). What still fits stays,
 * in a set that becomes too small the most recently used pages. On error
 * nothing has changed.
 */
int gw_cache_resize(struct gw_cache *c, uint64_t nbytes,
		    struct gw_error *err) GW_MUST_CHECK;

/* Bytes of pages it can hold. The owner. */
uint64_t gw_cache_size(const struct gw_cache *c);

/* A new pass over the dirty pages begins; the clock of the replacement. */
void gw_cache_next_pass(struct gw_cache *c);

/*
 * The page's entry, to be read and written until gw_cache_end(), with the
 * shard's lock held: only compute in between. With @hold->hit its bytes are
 * what was left there; otherwise room was made, and the caller fills it. NULL:
 * no room, nothing is held.
 */
struct gw_cache_hold {
	bool hit;
	/* private */
	struct gw_cache_shard *shard;
	struct gw_cache_way *set;
};
uint8_t *gw_cache_begin(struct gw_cache *c, uint32_t block, uint64_t page,
			struct gw_cache_hold *hold);
/* @keep: false if the entry is not what the receiver has: it is dropped. */
void gw_cache_end(struct gw_cache_hold *hold, bool keep);

/*
 * All of that for one page to send: @copy is a copy of it (guest memory may
 * change), @delta has room for GW_PAGE_SIZE bytes. Return: 0: the receiver has
 * it already, send nothing; more: so many bytes of delta to send, fewer than
 * the page has (a packet tells the two apart by that); _MISS or
 * _OVERFLOW (it was there, but the delta is too long): send @copy whole. In
 * each case the cache now has @copy, if it has the page.
 */
#define GW_CACHE_MISS	   (-1)
#define GW_CACHE_OVERFLOW  (-2)
#define GW_CACHE_MAX_DELTA (GW_PAGE_SIZE - 1)
int gw_cache_delta(struct gw_cache *c, uint32_t block, uint64_t page,
		   const uint8_t *copy, uint8_t *delta);

/* The receiver has, or gets, something else by another way. */
void gw_cache_forget(struct gw_cache *c, uint32_t block, uint64_t page);
/* The receiver's page becomes all zero. */
void gw_cache_set_zero(struct gw_cache *c, uint32_t block, uint64_t page);

/* Sums over the shards, one after another. Any thread. */
void gw_cache_get_stats(struct gw_cache *c, struct gw_cache_stats *stats);

#endif
