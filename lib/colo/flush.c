/* SPDX-License-Identifier: BSD-3-Clause */
/* flush.c - see flush.h. */
#include "colo/flush.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/scope.h"
#include "base/thread.h"
#include "page/copy.h"
#include "ram/block.h"

#define PIECE_PAGES 64 /* at least, if there are so many */

/* The words of a block in which a page is to be copied, in order. */
struct words {
	const struct gw_bitmap *map[2]; /* bits, own */
	uint64_t at[2], value[2]; /* the next word of each that is not 0 */
	uint64_t end;
};

struct piece {
	const struct gw_flush_block *b;
	uint64_t first, end; /* words */
};

struct gw_flush {
	unsigned int n; /* threads, with the caller */
	pthread_t *thread;
	unsigned int started;
	/* set by gw_flush_run() while nobody works */
	const struct gw_flush_block *block;
	int nblocks;
	enum gw_flush_split split;
	bool clear;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t work, idle;
	int at; /* the block that is dealt out; nblocks: none is left */
	struct words words; /* of it: not dealt out yet */
	unsigned int share; /* of it, GW_FLUSH_STATIC */
	unsigned int busy;
	uint64_t copied; /* pages */
	bool quit;
};

/* --- words ---------------------------------------------------------------- */

static void look(struct words *w, int i, uint64_t from)
{
	w->at[i] = from;
	w->value[i] =
		w->map[i] ? gw_bitmap_next_word(w->map[i], &w->at[i], w->end)
			  : 0;
	if (!w->value[i])
		w->at[i] = w->end;
}

static void words_init(struct words *w, const struct gw_flush_block *b,
		       uint64_t first, uint64_t end)
{
	w->map[0] = b->bits;
	w->map[1] = b->own;
	w->end = end;
	look(w, 0, first);
	look(w, 1, first);
}

/* The next one: its number in *@at, its values in @value. false: no more. */
static bool words_next(struct words *w, uint64_t *at, uint64_t value[2])
{
	*at = w->at[0] < w->at[1] ? w->at[0] : w->at[1];
	if (*at >= w->end)
		return false;
	for (int i = 0; i < 2; i++) {
		value[i] = 0;
		if (w->at[i] != *at)
			continue;
		value[i] = w->value[i];
		look(w, i, *at + 1);
	}
	return true;
}

/* --- dealing out ---------------------------------------------------------- */

static void begin_block(struct gw_flush *f, int at)
{
	f->at = at;
	f->share = 0;
	if (at < f->nblocks)
		words_init(&f->words, &f->block[at], 0,
			   gw_bitmap_words(f->block[at].bits));
}

/* Of block f->at: enough words for PIECE_PAGES, or its last ones. */
static bool deal_pages(struct gw_flush *f, struct piece *p)
{
	uint64_t at, value[2], n = 0;

	while (n < PIECE_PAGES && words_next(&f->words, &at, value)) {
		if (!n)
			p->first = at;
		p->end = at + 1;
		n += (uint64_t)__builtin_popcountll(value[0] | value[1]);
	}
	return n;
}

static bool deal_share(struct gw_flush *f, struct piece *p)
{
	uint64_t words = f->words.end;

	if (f->share == f->n)
		return false;
	p->first = words * f->share / f->n;
	p->end = words * ++f->share / f->n;
	return true;
}

/* With the lock held. false: nothing is left. */
static bool deal(struct gw_flush *f, struct piece *p)
{
	for (; f->at < f->nblocks; begin_block(f, f->at + 1)) {
		p->b = &f->block[f->at];
		if (f->split == GW_FLUSH_STATIC ? deal_share(f, p)
						: deal_pages(f, p))
			return true;
	}
	return false;
}

/* --- copying -------------------------------------------------------------- */

static void copy_word(const struct gw_flush_block *b, uint64_t w,
		      const uint64_t value[2])
{
	for (uint64_t m = value[0] | value[1]; m; m &= m - 1) {
		uint64_t bit = (uint64_t)__builtin_ctzll(m);
		uint64_t at = (w * 64 + bit) << GW_PAGE_BITS;
		bool in = value[0] >> bit & 1;
		const uint8_t *src = (in ? b->src : b->base) + at;

		if (in && b->dst1)
			gw_page_copy(b->dst1 + at, src);
		if (b->dst2)
			gw_page_copy(b->dst2 + at, src);
	}
}

static uint64_t copy_piece(const struct piece *p, bool clear)
{
	const struct gw_flush_block *b = p->b;
	uint64_t at, value[2], n = 0;
	struct words w;

	words_init(&w, b, p->first, p->end);
	while (words_next(&w, &at, value)) {
		copy_word(b, at, value);
		n += (uint64_t)__builtin_popcountll(value[0] | value[1]);
		if (clear && value[0])
			gw_bitmap_clear_word(b->bits, at);
		if (clear && value[1])
			gw_bitmap_clear_word(b->own, at);
	}
	return n;
}

/* Piece after piece, until nothing is left. With the lock held. */
static void work(struct gw_flush *f)
{
	struct piece p;

	while (deal(f, &p)) {
		uint64_t n;

		f->busy++;
		pthread_mutex_unlock(&f->lock);
		n = copy_piece(&p, f->clear);
		pthread_mutex_lock(&f->lock);
		f->copied += n;
		if (!--f->busy)
			pthread_cond_signal(&f->idle);
	}
}

static void *worker(void *arg)
{
	struct gw_flush *f = arg;
	GW_LOCKED(&f->lock);

	while (!f->quit) {
		work(f);
		if (!f->quit)
			pthread_cond_wait(&f->work, &f->lock);
	}
	return NULL;
}

/* --- the caller ----------------------------------------------------------- */

struct gw_flush *gw_flush_new(unsigned int n, struct gw_error *err)
{
	struct gw_flush *f = calloc(1, sizeof(*f));

	if (f)
		f->thread = calloc(n, sizeof(*f->thread));
	if (!f || !f->thread) {
		free(f);
		gw_fail(err, ENOMEM, "no memory for %u threads", n);
		return NULL;
	}
	f->n = n;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->work, NULL);
	pthread_cond_init(&f->idle, NULL);
	for (; f->started + 1 < n; f->started++)
		if (gw_thread_start(&f->thread[f->started], "gw-flush", worker,
				    f, err)) {
			gw_flush_free(f);
			return NULL;
		}
	return f;
}

void gw_flush_free(struct gw_flush *f)
{
	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	f->quit = true;
	pthread_cond_broadcast(&f->work);
	pthread_mutex_unlock(&f->lock);
	while (f->started)
		pthread_join(f->thread[--f->started], NULL);
	pthread_cond_destroy(&f->idle);
	pthread_cond_destroy(&f->work);
	pthread_mutex_destroy(&f->lock);
	free(f->thread);
	free(f);
}

uint64_t gw_flush_run(struct gw_flush *f, const struct gw_flush_block *b,
		      int nblocks, enum gw_flush_split split, bool clear)
{
	GW_LOCKED(&f->lock);

	f->block = b;
	f->nblocks = nblocks;
	f->split = split;
	f->clear = clear;
	f->copied = 0;
	begin_block(f, 0);
	pthread_cond_broadcast(&f->work);
	work(f);
	while (f->busy)
		pthread_cond_wait(&f->idle, &f->lock);
	return f->copied;
}
