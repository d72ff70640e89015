/* SPDX-License-Identifier: BSD-3-Clause */
/* prepare.c - see prepare.h. */
#include "dest/prepare.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/scope.h"
#include "base/thread.h"

#define STEP	 (8ULL << 20) /* bytes between looks at `stop` */
#define MAX_JOBS (1u << 20)   /* extents that are worth remembering */

#ifndef MADV_POPULATE_WRITE /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif

static int no_memory(const struct gw_ramblock *b, int code,
		     struct gw_error *err)
{
	return gw_fail_errno(err, code,
			     "no memory on this host for RAM block '%s'",
			     b->idstr);
}

/* Allocate and map; a kernel that cannot populate faults later instead. */
static int populate(struct gw_ramblock *b, uint64_t start, uint64_t len,
		    struct gw_error *err)
{
	if (b->fd >= 0 && fallocate(b->fd, FALLOC_FL_KEEP_SIZE,
				    (off_t)(b->fd_offset + start),
				    (off_t)len) && errno != EOPNOTSUPP &&
	    errno != EINTR)
		return no_memory(b, errno, err);
	if (madvise(b->host + start, len, MADV_POPULATE_WRITE) &&
	    errno != EINVAL && errno != EINTR)
		return no_memory(b, errno == EFAULT ? ENOMEM : errno, err);
	return 0;
}

static int do_job(struct gw_prepare *p, const struct gw_prepare_job *j,
		  struct gw_error *err)
{
	struct gw_ramblock *b = &p->ram->block[j->block];

	for (uint64_t at = 0; at < j->len; at += STEP) {
		uint64_t n = j->len - at < STEP ? j->len - at : STEP;

		if (__atomic_load_n(&p->stop, __ATOMIC_RELAXED))
			return 0;
		if (populate(b, j->start + at, n, err))
			return -err->code;
		gw_bitmap_set_range(&p->ready[j->block],
				    (j->start + at) >> GW_PAGE_BITS,
				    n >> GW_PAGE_BITS);
	}
	return 0;
}

static void *worker(void *arg)
{
	struct gw_prepare *p = arg;

	pthread_mutex_lock(&p->lock);
	while (!p->stop && !p->broken) {
		struct gw_error err = { 0 };
		struct gw_prepare_job j;

		if (p->next == p->njobs) {
			pthread_cond_wait(&p->work, &p->lock);
			continue;
		}
		j = p->job[p->next++];
		pthread_mutex_unlock(&p->lock);
		do_job(p, &j, &err);
		pthread_mutex_lock(&p->lock);
		if (err.code) {
			p->failed = err;
			__atomic_store_n(&p->broken, true, __ATOMIC_RELEASE);
		}
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

int gw_prepare_start(struct gw_prepare *p, struct gw_ram *ram,
		     struct gw_error *err)
{
	int r = 0;

	memset(p, 0, sizeof(*p));
	p->ram = ram;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	for (int i = 0; i < ram->nblocks && !r; i++)
		r = gw_bitmap_init(&p->ready[i],
				   gw_ramblock_npages(&ram->block[i]), err);
	if (!r)
		r = gw_thread_start(&p->thread, "gw-prepare", worker, p, err);
	p->started = !r;
	return r;
}

void gw_prepare_add(struct gw_prepare *p, const struct gw_ramblock *b,
		    uint64_t start, uint64_t len)
{
	GW_LOCKED(&p->lock);
	if (p->njobs == p->cap) {
		size_t cap = p->cap ? p->cap * 2 : 1024;
		void *n = cap > MAX_JOBS ?
				  NULL :
				  realloc(p->job, cap * sizeof(*p->job));

		if (!n)
			return; /* only a preparation: the page will fault */
		p->job = n;
		p->cap = cap;
	}
	p->job[p->njobs++] = (struct gw_prepare_job){
		(int)(b - p->ram->block), start, len
	};
	pthread_cond_signal(&p->work);
}

int gw_prepare_pages(struct gw_prepare *p, struct gw_ramblock *b,
		     uint64_t first, uint64_t n, struct gw_error *err)
{
	const struct gw_bitmap *ready = &p->ready[b - p->ram->block];

	for (; n && gw_bitmap_test(ready, first); first++)
		n--;
	while (n && gw_bitmap_test(ready, first + n - 1))
		n--;
	if (!n)
		return 0;
	if (madvise(b->host + (first << GW_PAGE_BITS), n << GW_PAGE_BITS,
		    MADV_POPULATE_WRITE) && errno != EINVAL && errno != EINTR)
		return no_memory(b, errno == EFAULT ? ENOMEM : errno, err);
	return 0;
}

int gw_prepare_check(struct gw_prepare *p, struct gw_error *err)
{
	if (!__atomic_load_n(&p->broken, __ATOMIC_ACQUIRE))
		return 0;
	if (err)
		*err = p->failed;
	return -p->failed.code;
}

void gw_prepare_quit(struct gw_prepare *p)
{
	if (!p->started)
		return;
	GW_LOCKED(&p->lock);
	__atomic_store_n(&p->stop, true, __ATOMIC_RELAXED);
	pthread_cond_signal(&p->work);
}

void gw_prepare_stop(struct gw_prepare *p)
{
	if (!p->ram)
		return;
	if (p->started) {
		gw_prepare_quit(p);
		pthread_join(p->thread, NULL);
	}
	for (int i = 0; i < p->ram->nblocks; i++)
		gw_bitmap_fini(&p->ready[i]);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	free(p->job);
	memset(p, 0, sizeof(*p));
}
