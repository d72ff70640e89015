/* SPDX-License-Identifier: BSD-3-Clause */
/* gone.c - see gone.h. */
#include "track/gone.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "track/uapi.h"

#define PRESENT (1ULL << 63) /* Documentation/admin-guide/mm/pagemap */

static uint64_t host_end(const struct gw_ramblock *b)
{
	return (uintptr_t)b->host + b->used_length;
}

int gw_gone_begin(struct gw_gone *g, const struct gw_ramblock *b,
		  struct gw_error *err)
{
	g->b = b;
	g->n = g->next = 0;
	g->at = (uintptr_t)b->host;
	g->scan = true;
	g->fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return g->fd >= 0 ? 0 :
			    gw_fail_errno(err, errno, "/proc/self/pagemap");
}

void gw_gone_end(struct gw_gone *g)
{
	if (g->fd >= 0)
		close(g->fd);
	g->fd = -1;
}

/* Return: 0, -errno; -ENOTTY before Linux 6.7. */
static int scan(struct gw_gone *g)
{
	struct page_region found[64];
	struct pm_scan_arg arg = { .size = sizeof(arg),
				   .start = g->at,
				   .end = host_end(g->b),
				   .vec = (uintptr_t)found,
				   .vec_len = 64,
				   .category_inverted = PAGE_IS_PRESENT,
				   .category_mask = PAGE_IS_PRESENT,
				   .return_mask = PAGE_IS_PRESENT };
	int n = ioctl(g->fd, PAGEMAP_SCAN, &arg);

	if (n < 0)
		return -errno;
	for (int i = 0; i < n; i++) {
		g->range[i].start = found[i].start;
		g->range[i].end = found[i].end;
	}
	g->n = n;
	g->at = arg.walk_end;
	return 0;
}

static int read_entries(struct gw_gone *g)
{
	uint64_t entry[GW_GONE_ENTRIES], left = host_end(g->b) - g->at;
	uint64_t want = left >> GW_PAGE_BITS;
	ssize_t got;

	if (want > GW_GONE_ENTRIES)
		want = GW_GONE_ENTRIES;
	got = pread(g->fd, entry, want * 8, (off_t)(g->at >> GW_PAGE_BITS) * 8);
	if (got <= 0 || got % 8)
		return got < 0 ? -errno : -EIO;
	g->n = 0;
	for (ssize_t i = 0; i < got / 8; i++, g->at += GW_PAGE_SIZE) {
		if (entry[i] & PRESENT)
			continue;
		if (!g->n || g->range[g->n - 1].end != g->at)
			g->range[g->n++].start = g->at;
		g->range[g->n - 1].end = g->at + GW_PAGE_SIZE;
	}
	return 0;
}

static int fill(struct gw_gone *g, struct gw_error *err)
{
	int r = 0;

	g->n = g->next = 0;
	while (!r && !g->n && g->at < host_end(g->b)) {
		r = g->scan ? scan(g) : read_entries(g);
		if (g->scan && (r == -ENOTTY || r == -EINVAL)) {
			g->scan = false;
			r = 0;
		}
	}
	return r ? gw_fail_errno(err, -r, "/proc/self/pagemap") : 0;
}

int gw_gone_next(struct gw_gone *g, uint64_t *first, uint64_t *n,
		 struct gw_error *err)
{
	int r = g->next < g->n ? 0 : fill(g, err);
	uint64_t base = (uintptr_t)g->b->host;

	*n = 0;
	if (r || g->next == g->n)
		return r;
	*first = (g->range[g->next].start - base) >> GW_PAGE_BITS;
	*n = (g->range[g->next].end - g->range[g->next].start) >> GW_PAGE_BITS;
	g->next++;
	return 0;
}
