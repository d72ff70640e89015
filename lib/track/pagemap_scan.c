/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pagemap_scan.c - asynchronous write-protection and PAGEMAP_SCAN (Linux 6.7):
 * the kernel notes the first write to each page, the guest never waits for us.
 *
 * A scan has two phases, because protecting makes KVM forget its mappings of
 * the *whole* range it is asked for, also of pages that are only read: the
 * first looks at everything without protecting, the second protects the dirty
 * ranges, merged where they are close. What the second returns is dirty:
 *
 *	pages     . . W W . W . . . . . . . . . . . . . . . . . . . W . .
 *	phase 1       [===] =                                       =
 *	merged        [=====]         (gap > 16 pages)              =
 *	phase 2       W W . W  protected and reported               W
 *
 * A write between the phases is reported by the second; one after it finds
 * the page protected and is reported by the next scan. The kernel flushes the
 * TLBs before phase 2 returns, so whoever copies after the scan has
 * everything that was written without a fault.
 *
 * Third, for memory where it is possible: pages that vanished from the VM's
 * page tables with the mark that they were written, see scan_vanished().
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define GW_LOG_MODULE "track"
#include "base/log.h"
#include "base/scope.h"
#include "track/internal.h"
#include "track/parts.h"
#include "track/process.h"
#include "track/uapi.h"
#include "track/uffd.h"

#define FEATURES                                                    \
	(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |  \
	 UFFD_FEATURE_WP_UNPOPULATED)
#define NEEDS                                                               \
	"asynchronous write-protection needs Linux 6.7 on x86-64 or arm64 " \
	"(CONFIG_USERFAULTFD); use --tracker uffd-wp"

#define NREGIONS  4096
#define MERGE_GAP (16 * GW_PAGE_SIZE)
#define HUGE_2M	  (2UL << 20)

struct pagemap {
	struct gw_uffd uffd;
	struct gw_parts parts;
	int fd;	     /* /proc/PID/pagemap */
	int process; /* see process.h */
	bool forgets; /* the kernel may lose marks with a page table */
	struct page_region found[NREGIONS]; /* by phase 1 */
	struct page_region taken[NREGIONS]; /* by phase 2 and the third */
};

enum what { WRITTEN, TAKE_WRITTEN, VANISHED };

/*
 * One PAGEMAP_SCAN from *@at to @end into @vec[NREGIONS].
 * Return: number of regions, *@at moved to where the kernel stopped; -errno.
 */
static int pm_scan(int fd, enum what what, uint64_t *at, uint64_t end,
		   struct page_region *vec)
{
	const uint64_t absent = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
	struct pm_scan_arg a = {
		.size = sizeof(a),
		.flags = PM_SCAN_CHECK_WPASYNC |
			 (what == TAKE_WRITTEN ? PM_SCAN_WP_MATCHING : 0),
		.start = *at,
		.end = end,
		.vec = (uintptr_t)vec,
		.vec_len = NREGIONS,
		.category_inverted = what == VANISHED ? absent : 0,
		.category_mask = what == VANISHED ? absent : PAGE_IS_WRITTEN,
		.return_mask = what == VANISHED ? absent : PAGE_IS_WRITTEN,
	};
	int n;

	do {
		n = ioctl(fd, PAGEMAP_SCAN, &a);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (a.walk_end <= *at)
		return -EIO; /* would never end */
	*at = a.walk_end;
	return n;
}

static int open_pagemap(pid_t pid, struct gw_error *err)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	if (errno == ENOENT || errno == ESRCH)
		return gw_fail(err, ESRCH, "the VM's process %d does not exist",
			       (int)pid);
	if (errno == EACCES || errno == EPERM)
		return gw_fail(err, errno,
			       "%s: %s: run godwit as the user of the VM's process, as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH; or use --tracker uffd-wp",
			       path, strerror(errno));
	return gw_fail_errno(err, errno, "%s", path);
}

/* @fd: a pagemap. */
static int probe_kernel(int fd, struct gw_error *err)
{
	struct pm_scan_arg a = { .size = sizeof(a) };
	uint64_t features;

	/* An empty scan. Kernels without it do not know the number. */
	if (ioctl(fd, PAGEMAP_SCAN, &a) < 0 && errno == ENOTTY)
		return gw_fail(err, ENOTSUP,
			       "this kernel has no PAGEMAP_SCAN (needs Linux 6.7); use --tracker uffd-wp");
	if (!gw_uffd_kernel_features(&features) &&
	    (features & FEATURES) != FEATURES)
		return gw_fail(err, ENOTSUP,
			       "this kernel has no asynchronous write-protection: "
			       NEEDS);
	return 0;
}

static int pagemap_probe(const struct gw_track_config *c, struct gw_error *err)
{
	gw_autoclose int fd = -1;
	int r = gw_uffd_check_config(c, err);

	if (r)
		return r;
	fd = open_pagemap(c->pid, err);
	return fd < 0 ? fd : probe_kernel(fd, err);
}

bool gw_track_can_scan_pagemap(void)
{
	struct gw_error why = { 0 };
	gw_autoclose int fd = open_pagemap(getpid(), &why);

	return fd >= 0 && !probe_kernel(fd, &why);
}

/* Write 2 MiB at @p, zap them. Does a scan still know about them? */
static bool zapped_is_reported(int uffd, uint8_t *p, struct page_region *vec)
{
	struct uffdio_register reg = { .range = { (uintptr_t)p, HUGE_2M },
				       .mode = UFFDIO_REGISTER_MODE_WP };
	struct uffdio_writeprotect wp = { .range = { (uintptr_t)p, HUGE_2M },
					  .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	gw_autoclose int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t at = (uintptr_t)p, end = at + HUGE_2M;

	if (fd < 0 || ioctl(uffd, UFFDIO_REGISTER, &reg) ||
	    ioctl(uffd, UFFDIO_WRITEPROTECT, &wp))
		return false;
	memset(p, 1, HUGE_2M);
	if (madvise(p, HUGE_2M, MADV_DONTNEED))
		return false;
	return pm_scan(fd, WRITTEN, &at, end, vec) == 1 && at == end &&
	       vec[0].end - vec[0].start == HUGE_2M;
}

/*
 * Linux 6.14 began to free page tables that MADV_DONTNEED emptied
 * (CONFIG_PT_RECLAIM), and not every kernel takes a missing page table for
 * written pages. Try it on memory of our own rather than trust versions.
 */
static bool kernel_forgets(struct page_region *vec)
{
	gw_autoclose int uffd = gw_uffd_own(FEATURES);
	gw_autoclose int mem = memfd_create("gw-probe", MFD_CLOEXEC);
	bool forgets = true;
	uint8_t *p, *q;

	if (uffd < 0 || mem < 0 || ftruncate(mem, HUGE_2M))
		return true; /* not known: the safe answer */
	p = mmap(NULL, 2 * HUGE_2M, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		 0);
	if (p == MAP_FAILED)
		return true;
	q = p + (-(uintptr_t)p & (HUGE_2M - 1));
	if (mmap(q, HUGE_2M, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 mem, 0) != MAP_FAILED)
		forgets = !zapped_is_reported(uffd, q, vec);
	munmap(p, 2 * HUGE_2M);
	return forgets;
}

static void pagemap_close(struct gw_track *t)
{
	struct pagemap *p = t->priv;

	if (p && p->fd >= 0)
		close(p->fd);
	if (p && p->process >= 0)
		close(p->process);
	if (p)
		gw_parts_fini(&p->parts);
	free(p);
	t->priv = NULL;
}

static int pagemap_open(struct gw_track *t, struct gw_error *err)
{
	struct pagemap *p = calloc(1, sizeof(*p));
	int r;

	t->priv = p;
	if (!p)
		return gw_fail(err, ENOMEM, "no memory for a tracker");
	p->uffd.fd = p->process = p->fd = -1;
	r = gw_parts_init(&p->parts, t->config.ram, err);
	if (!r)
		r = p->fd = open_pagemap(t->config.pid, err);
	if (r >= 0)
		r = p->process = gw_process_open(t->config.pid, err);
	if (r < 0) {
		pagemap_close(t);
		return r;
	}
	p->forgets = kernel_forgets(p->found);
	if (p->forgets)
		gw_debug("scans look for vanished page tables here");
	return 0;
}

static int fail(const struct gw_track *t, const struct gw_ramblock *b,
		const char *doing, int r, struct gw_error *err)
{
	const struct pagemap *p = t->priv;
	int dead = gw_process_check(p->process, t->config.pid, err);

	if (dead)
		return dead;
	if (r == -EPERM || r == -ENOENT)
		return gw_fail(err, EPERM,
			       "RAM block '%s' at 0x%" PRIx64
			       " of process %d is no longer watched: the VM changed its mappings, or process and userfaultfd do not belong together",
			       b->idstr, b->peer_addr, (int)t->config.pid);
	return gw_fail_errno(err, -r, "%s RAM block '%s'", doing, b->idstr);
}

static int protect(struct gw_track *t, const struct gw_ramblock *b,
		   uint64_t addr, uint64_t len, struct gw_error *err)
{
	struct pagemap *p = t->priv;
	int r = gw_uffd_protect(&p->uffd, addr, len, true);

	return r ? fail(t, b, "write-protecting", r, err) : 0;
}

static int pagemap_start(struct gw_track *t, struct gw_error *err)
{
	struct pagemap *p = t->priv;
	int r = gw_uffd_open(&p->uffd, &t->config, GW_UFFD_TRACK_ASYNC,
			     FEATURES, NEEDS, err);

	if (!r)
		r = gw_uffd_watch(&p->uffd, err);
	if (!r)
		r = gw_parts_start(&p->parts, t, protect, err);
	if (r)
		gw_uffd_close(&p->uffd);
	return r;
}

/* Addresses -> bits. */
static void report(struct gw_track *t, struct gw_ramblock *b,
		   const struct page_region *r)
{
	uint64_t first = (r->start - b->peer_addr) >> GW_PAGE_BITS;
	uint64_t end = (r->end - b->peer_addr) >> GW_PAGE_BITS;

	if (end > gw_ramblock_npages(b)) /* the last huge page */
		end = gw_ramblock_npages(b);
	if (first >= end)
		return;
	gw_bitmap_set_range(&b->dirty, first, end - first);
	t->pages_reported += end - first;
}

/* Join neighbours in @v[n] that are close. Return: how many are left. */
static int merge(struct page_region *v, int n)
{
	int last = 0;

	for (int i = 1; i < n; i++) {
		if (v[i].start - v[last].end <= MERGE_GAP)
			v[last].end = v[i].end;
		else
			v[++last] = v[i];
	}
	return n ? last + 1 : 0;
}

/* Phase 2 over one range of phase 1. */
static int take(struct gw_track *t, struct gw_ramblock *b,
		const struct page_region *range)
{
	struct pagemap *p = t->priv;

	for (uint64_t at = range->start; at < range->end;) {
		int n = pm_scan(p->fd, TAKE_WRITTEN, &at, range->end, p->taken);

		if (n < 0)
			return n;
		for (int i = 0; i < n; i++)
			report(t, b, &p->taken[i]);
	}
	return 0;
}

static int scan_written(struct gw_track *t, struct gw_ramblock *b, uint64_t at,
			uint64_t end)
{
	struct pagemap *p = t->priv;

	while (at < end) {
		int n = pm_scan(p->fd, WRITTEN, &at, end, p->found), r = 0;

		if (n < 0)
			return n;
		n = merge(p->found, n);
		for (int i = 0; i < n && !r; i++)
			r = take(t, b, &p->found[i]);
		if (r)
			return r;
	}
	return 0;
}

/*
 * A written page that the VM zaps (MADV_DONTNEED; its content stays in the
 * file) leaves an empty entry. In a 4 KiB page table that counts as written.
 * If the table itself is freed, or on hugetlbfs, it counts as clean on some
 * kernels, and the write would be lost. So it is with a transparent huge page
 * of a file, mapped as one and therefore without a table: when it is split
 * (one page of it is given back), the kernel takes all of it out. Protecting a
 * part left no entry of it empty, so whatever is empty now was zapped: report
 * it.
 *
 * Protect first, then report: a write before is in what will be copied, one
 * after faults. If the VM touches the page before we protect it, it becomes
 * an ordinary written page and the next scan has it.
 */
static int scan_vanished(struct gw_track *t, struct gw_ramblock *b, uint64_t at,
			 uint64_t end)
{
	struct pagemap *p = t->priv;

	if (!p->forgets && !b->transparent && b->page_size == GW_PAGE_SIZE)
		return 0;
	while (at < end) {
		int n = pm_scan(p->fd, VANISHED, &at, end, p->taken), r;

		if (n < 0)
			return n;
		for (int i = 0; i < n; i++) {
			const struct page_region *v = &p->taken[i];

			r = gw_uffd_protect(&p->uffd, v->start,
					    v->end - v->start, true);
			if (r)
				return r;
			report(t, b, v);
		}
	}
	return 0;
}

/* What is watched of bytes [@at, @end); @all: what vanished there, too. */
static int scan_parts(struct gw_track *t, int block, uint64_t at, uint64_t end,
		      bool all)
{
	struct pagemap *p = t->priv;
	struct gw_ramblock *b = &t->config.ram->block[block];
	uint64_t len;
	int r = 0;

	for (; !r && (len = gw_parts_next(&p->parts, block, &at)) && at < end;
	     at += len) {
		uint64_t start = b->peer_addr + at;

		if (len > end - at)
			len = end - at;
		r = scan_written(t, b, start, start + len);
		if (!r && all)
			r = scan_vanished(t, b, start, start + len);
	}
	return r;
}

static int pagemap_scan(struct gw_track *t, struct gw_error *err)
{
	struct pagemap *p = t->priv;
	int r = gw_parts_grow(&p->parts, t, protect, err);

	if (r)
		return r;
	for (int i = 0; i < t->config.ram->nblocks; i++) {
		r = scan_parts(t, i, 0, UINT64_MAX, true);
		if (r)
			return fail(t, &t->config.ram->block[i],
				    "scanning the pages of", r, err);
	}
	/* Page tables of a dying process look clean; was it alive? */
	return gw_process_check(p->process, t->config.pid, err);
}

/* Without what vanished, and without new parts: the next scan has those. */
static int pagemap_scan_range(struct gw_track *t, int block, uint64_t first,
			      uint64_t n, struct gw_error *err)
{
	const struct gw_ramblock *b = &t->config.ram->block[block];
	uint64_t at = first << GW_PAGE_BITS;
	int r;

	if (b->page_size != GW_PAGE_SIZE)
		return 0;
	r = scan_parts(t, block, at, at + (n << GW_PAGE_BITS), false);
	return r ? fail(t, b, "scanning the pages of", r, err) : 0;
}

static void pagemap_stop(struct gw_track *t)
{
	struct pagemap *p = t->priv;

	gw_uffd_close(&p->uffd);
}

const struct gw_track_ops gw_track_pagemap_scan = {
	.name = "pagemap-scan",
	.probe = pagemap_probe,
	.open = pagemap_open,
	.start = pagemap_start,
	.scan = pagemap_scan,
	.scan_range = pagemap_scan_range,
	.stop = pagemap_stop,
	.close = pagemap_close,
};
