/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uffd_wp.c - synchronous write-protection (shared memory: Linux 5.19), for
 * kernels without PAGEMAP_SCAN. The first write to a page blocks the guest
 * until our handler thread has noted it. The VM's userfaultfd must be a full
 * one: with UFFD_USER_MODE_ONLY the kernel's own writes (KVM, read(2)) fail.
 *
 * One bitmap per block says which pages are open, i.e. not write-protected.
 * The invariant, whenever `lock` is free: a page whose bit is clear is
 * protected, or in a part that is not watched (parts.h). Parts are protected
 * under the lock as well, but no bit is cleared for that.
 *
 *	handler  lock {  set bits; allow writing, wake;       }
 *	scan     lock {  take bits; protect;                  } set dirty bits
 *
 * - The bit is set before the page is opened, so no write comes unnoticed.
 * - Without the lock a scan could take the bit and protect between the two
 *   steps of the handler: the page would be open with its bit clear and
 *   later writes lost.
 * - The dirty bit is set last. A write before the protection is in what is
 *   copied after the scan; one after it faults and is in the next scan. Set
 *   earlier, a sender could take it and copy the page while it is still open.
 *
 * Discarded pages: the kernel keeps the protection of pages that are zapped
 * or punched out while protected (as markers).
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GW_LOG_MODULE "track"
#include "base/cancel.h"
#include "base/log.h"
#include "base/scope.h"
#include "base/thread.h"
#include "track/internal.h"
#include "track/parts.h"
#include "track/process.h"
#include "track/uapi.h"
#include "track/uffd.h"

#define FEATURES \
	(UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP)
#define NEEDS                                                        \
	"write-protection of shared memory needs Linux 5.19 on "     \
	"x86-64 or arm64 (CONFIG_USERFAULTFD)"

#define NMSGS	    64
#define NSTREAMS    8
#define MAX_WINDOW  (64u << 10) /* bytes opened ahead of a sequential writer */
#define MAX_RUNS    64
#define MERGE_GAP   16	/* pages, which are protected already */
#define MERGE_PAGES 512 /* bounds how long a scan keeps the lock */

/* A guest thread that writes page after page: open more at a time. */
struct stream {
	uint64_t next; /* address where it would fault again */
	uint64_t window; /* bytes opened at once */
};

struct wp {
	/* set once by open */
	int process; /* see process.h */
	int nblocks; /* bitmaps in use */

	struct gw_parts parts; /* owned by the scanning thread */

	/* from start to stop */
	struct gw_uffd uffd;
	struct gw_cancel stop;
	pthread_t thread;

	bool handler_waits;   /* atomic: a hint for the scan */
	pthread_mutex_t lock; /* guards the next three */
	struct gw_bitmap open[GW_RAM_MAX_BLOCKS];
	struct gw_error failure; /* code != 0: nothing is tracked any more */
	uint64_t faults;

	/* owned by the handler thread */
	struct stream streams[NSTREAMS];
	unsigned int victim;
	struct uffd_msg msgs[NMSGS];
};

/* There writes were missed: docs/internals/data-flow.md, "Huge pages". */
static int refuse_transparent(const struct gw_ramblock *b, struct gw_error *err)
{
	if (!b->transparent)
		return 0;
	return gw_fail(err, ENOTSUP,
		       "RAM block '%s' is on a tmpfs that gives huge pages, where uffd-wp can miss a write: use pagemap-scan (Linux 6.7), or a tmpfs with huge=never (godwit run --no-transparent-hugepages; shmem_enabled for a memfd)",
		       b->idstr);
}

static int wp_probe(const struct gw_track_config *c, struct gw_error *err)
{
	uint64_t features;
	int r = gw_uffd_check_config(c, err);

	for (int i = 0; !r && i < c->ram->nblocks; i++)
		r = refuse_transparent(&c->ram->block[i], err);
	if (r)
		return r;
	if (!gw_uffd_kernel_features(&features) &&
	    (features & FEATURES) != FEATURES)
		return gw_fail(err, ENOTSUP,
			       "this kernel cannot write-protect shared memory: "
			       NEEDS);
	return 0;
}

static void wp_close(struct gw_track *t)
{
	struct wp *w = t->priv;

	if (!w)
		return;
	for (int i = 0; i < w->nblocks; i++)
		gw_bitmap_fini(&w->open[i]);
	if (w->process >= 0)
		close(w->process);
	gw_parts_fini(&w->parts);
	pthread_mutex_destroy(&w->lock);
	free(w);
	t->priv = NULL;
}

static int wp_open(struct gw_track *t, struct gw_error *err)
{
	struct wp *w = calloc(1, sizeof(*w));
	const struct gw_ram *ram = t->config.ram;
	int r;

	t->priv = w;
	if (!w)
		return gw_fail(err, ENOMEM, "no memory for a tracker");
	pthread_mutex_init(&w->lock, NULL);
	w->uffd.fd = w->process = -1;
	r = gw_parts_init(&w->parts, ram, err);
	if (!r)
		r = w->process = gw_process_open(t->config.pid, err);
	for (; r >= 0 && w->nblocks < ram->nblocks; w->nblocks++) {
		const struct gw_ramblock *b = &ram->block[w->nblocks];

		r = gw_bitmap_init(&w->open[w->nblocks], gw_ramblock_npages(b),
				   err);
		if (r < 0)
			break;
	}
	if (r < 0) {
		wp_close(t);
		return r;
	}
	return 0;
}

/* How many bytes to open for a fault at @addr, from what came before. */
static uint64_t window(struct wp *w, const struct gw_ramblock *b, uint64_t addr)
{
	uint64_t n = b->page_size, left;
	struct stream *s = NULL;

	for (int i = 0; i < NSTREAMS && !s; i++)
		if (w->streams[i].next == addr)
			s = &w->streams[i];
	if (s)
		n = 2 * s->window > MAX_WINDOW ? MAX_WINDOW : 2 * s->window;
	else
		s = &w->streams[w->victim++ % NSTREAMS];
	if (n < b->page_size)
		n = b->page_size;
	left = b->peer_addr + gw_uffd_length(b) - addr;
	s->window = n;
	s->next = addr + n;
	return n < left ? n : left;
}

/* Pages touched by @len bytes of @b from @off; the tail is cut at its end. */
static uint64_t npages(const struct gw_ramblock *b, uint64_t off, uint64_t len)
{
	uint64_t end = off + len < b->used_length ? off + len : b->used_length;

	return (end - off) >> GW_PAGE_BITS;
}

/* A write fault at @addr, under the lock. Return: 0, or -errno: give up. */
static int allow(struct wp *w, uint64_t addr)
{
	const struct gw_ram *ram = w->uffd.config->ram;

	w->faults++;
	for (int i = 0; i < ram->nblocks; i++) {
		const struct gw_ramblock *b = &ram->block[i];
		uint64_t off = addr - b->peer_addr, len;
		int r;

		if (off >= gw_uffd_length(b))
			continue;
		off -= off % b->page_size;
		addr = b->peer_addr + off;
		len = window(w, b, addr);
		/* First: after the next line the guest writes. */
		gw_bitmap_set_range(&w->open[i], off >> GW_PAGE_BITS,
				    npages(b, off, len));
		r = gw_uffd_protect(&w->uffd, addr, len, false);
		if (r == -ENOENT || r == -EINVAL) {
			/* Unmapped meanwhile: let the thread see that. */
			gw_uffd_wake(&w->uffd, addr, len);
			r = 0;
		}
		return r;
	}
	gw_uffd_wake(&w->uffd, addr & ~(uint64_t)(GW_PAGE_SIZE - 1),
		     GW_PAGE_SIZE);
	return 0;
}

static int serve_some(struct wp *w)
{
	ssize_t n = read(w->uffd.fd, w->msgs, sizeof(w->msgs));
	int r = 0;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n < (ssize_t)sizeof(w->msgs[0]))
		return -EIO;
	__atomic_store_n(&w->handler_waits, true, __ATOMIC_RELAXED);
	GW_LOCKED(&w->lock);
	__atomic_store_n(&w->handler_waits, false, __ATOMIC_RELAXED);
	for (size_t i = 0; i < (size_t)n / sizeof(w->msgs[0]) && !r; i++)
		if (w->msgs[i].event == UFFD_EVENT_PAGEFAULT)
			r = allow(w, w->msgs[i].arg.pagefault.address);
	return r;
}

static void *serve(void *arg)
{
	struct wp *w = arg;
	int r;

	do {
		r = gw_wait_fd(w->uffd.fd, POLLIN, 0, &w->stop);
		if (!r)
			r = serve_some(w);
	} while (!r);
	if (r == -ECANCELED)
		return NULL;
	/*
	 * Nobody serves faults from here on, so there must be none: open all
	 * memory, and wake those who wait. Under the lock, or a running scan
	 * would protect again behind our back.
	 */
	GW_LOCKED(&w->lock);
	if (r == -ESRCH)
		gw_fail(&w->failure, ESRCH, "the VM's process has ended");
	else
		gw_fail_errno(&w->failure, -r,
			      "the thread that serves the VM's write faults");
	gw_uffd_unwatch(&w->uffd);
	return NULL;
}

/*
 * A mutex is not fair: without this a long scan would take it again and again
 * while the handler, and behind it the guest, waits.
 */
static void let_handler_in(struct wp *w)
{
	for (int i = 0; i < 1000; i++) {
		if (!__atomic_load_n(&w->handler_waits, __ATOMIC_RELAXED))
			return;
		sched_yield();
	}
}

/* Under the lock. */
static int failed(const struct wp *w, struct gw_error *err)
{
	if (w->failure.code && err)
		*err = w->failure;
	return -w->failure.code;
}

/* Under the lock. */
static int protect(struct wp *w, const struct gw_ramblock *b, uint64_t addr,
		   uint64_t len, struct gw_error *err)
{
	int r = gw_uffd_protect(&w->uffd, addr, len, true);

	if (r == -ESRCH)
		return gw_fail(err, ESRCH, "the VM's process has ended");
	return r ? gw_fail_errno(err, -r, "write-protecting RAM block '%s'",
				 b->idstr) :
		   0;
}

static int protect_part(struct gw_track *t, const struct gw_ramblock *b,
			uint64_t addr, uint64_t len, struct gw_error *err)
{
	struct wp *w = t->priv;
	int r;

	let_handler_in(w);
	GW_LOCKED(&w->lock);
	r = failed(w, err);
	return r ? r : protect(w, b, addr, len, err);
}

static int wp_start(struct gw_track *t, struct gw_error *err)
{
	struct wp *w = t->priv;
	int r;

	for (int i = 0; i < w->nblocks; i++)
		gw_bitmap_clear_all(&w->open[i]);
	memset(&w->failure, 0, sizeof(w->failure));
	memset(w->streams, 0, sizeof(w->streams));
	w->faults = 0;
	r = gw_cancel_init(&w->stop, err);
	if (r)
		return r;
	r = gw_uffd_open(&w->uffd, &t->config, GW_UFFD_TRACK_SYNC, FEATURES,
			 NEEDS, err);
	/* The handler first: from the first protected page on, guests wait. */
	if (!r)
		r = gw_thread_start(&w->thread, "gw-uffd-wp", serve, w, err);
	if (r) {
		gw_uffd_close(&w->uffd);
		gw_cancel_fini(&w->stop);
		return r;
	}
	r = gw_uffd_watch(&w->uffd, err);
	if (!r)
		r = gw_parts_start(&w->parts, t, protect_part, err);
	if (r)
		t->ops->stop(t);
	return r;
}

static void wp_stop(struct gw_track *t)
{
	struct wp *w = t->priv;

	gw_cancel_request(&w->stop);
	pthread_join(w->thread, NULL);
	/* Unregisters, which wakes those who faulted after the handler left. */
	gw_uffd_close(&w->uffd);
	gw_cancel_fini(&w->stop);
	gw_debug("uffd-wp: %llu write faults", (unsigned long long)w->faults);
}

struct runs {
	int n;
	struct {
		uint64_t first, n;
	} run[MAX_RUNS];
};

/* Take open pages from @from on that are close together. Under the lock. */
static uint64_t take_runs(struct gw_bitmap *open, uint64_t from,
			  struct runs *out)
{
	uint64_t begin = 0, end = from, first, n;

	out->n = 0;
	while (out->n < MAX_RUNS) {
		/* Look, then take: handlers are locked out. */
		if (!gw_bitmap_next_run(open, end, 1, &first))
			break;
		if (out->n && (first - end > MERGE_GAP ||
			       first - begin >= MERGE_PAGES))
			break;
		n = gw_bitmap_take_run(open, first, &first);
		if (!out->n)
			begin = first;
		end = first + n;
		out->run[out->n].first = first;
		out->run[out->n++].n = n;
	}
	return end;
}

/* Protect everything from the first to the last of @runs again. */
static int close_runs(struct wp *w, const struct gw_ramblock *b,
		      const struct runs *runs, struct gw_error *err)
{
	uint64_t start = runs->run[0].first << GW_PAGE_BITS;
	uint64_t end = (runs->run[runs->n - 1].first +
			runs->run[runs->n - 1].n)
		       << GW_PAGE_BITS;

	/* Whole pages of the backing: a bit too few taken is no harm. */
	start -= start % b->page_size;
	end += (b->page_size - end % b->page_size) % b->page_size;
	return protect(w, b, b->peer_addr + start, end - start, err);
}

/* Take and protect from *@at on. Return: 1, 0 when nothing is left, -errno. */
static int scan_some(struct wp *w, struct gw_ramblock *b,
		     struct gw_bitmap *open, uint64_t *at, struct runs *runs,
		     struct gw_error *err)
{
	int r;

	runs->n = 0;
	let_handler_in(w);
	GW_LOCKED(&w->lock);
	r = failed(w, err);
	if (r)
		return r;
	*at = take_runs(open, *at, runs);
	if (!runs->n)
		return 0;
	r = close_runs(w, b, runs, err);
	return r ? r : 1;
}

static int wp_scan(struct gw_track *t, struct gw_error *err)
{
	struct wp *w = t->priv;
	int r = gw_parts_grow(&w->parts, t, protect_part, err);

	if (r)
		return r;
	for (int i = 0; i < w->nblocks; i++) {
		struct gw_ramblock *b = &t->config.ram->block[i];
		struct runs runs;
		uint64_t at = 0;

		do {
			r = scan_some(w, b, &w->open[i], &at, &runs, err);
			/* Last, see the top; also when protecting failed. */
			for (int k = 0; r != 0 && k < runs.n; k++) {
				gw_bitmap_set_range(&b->dirty,
						    runs.run[k].first,
						    runs.run[k].n);
				t->pages_reported += runs.run[k].n;
			}
		} while (r > 0);
		if (r)
			return r;
	}
	return gw_process_check(w->process, t->config.pid, err);
}

const struct gw_track_ops gw_track_uffd_wp = {
	.name = "uffd-wp",
	.probe = wp_probe,
	.open = wp_open,
	.start = wp_start,
	.scan = wp_scan,
	.stop = wp_stop,
	.close = wp_close,
};
