/* SPDX-License-Identifier: BSD-3-Clause */
/* put.c - see put.h. */
#include "dest/put.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/hugepage.h"
#include "base/pause.h"

static int no_memory(const struct gw_ramblock *b, uint64_t first, int code,
		     struct gw_error *err)
{
	return gw_fail_errno(err, code,
			     "no memory on this host for RAM block '%s' at 0x%llx",
			     b->idstr,
			     (unsigned long long)first << GW_PAGE_BITS);
}

static void note(struct gw_ramblock *b, uint64_t first, uint32_t n)
{
	gw_bitmap_set_range(&b->placed, first, n);
	gw_pause_at(GW_PAUSE_DEST_BULK);
}

/* Huge pages have no write(). */
static bool has_write(const struct gw_ramblock *b)
{
	return b->fd >= 0 && b->page_size == GW_PAGE_SIZE;
}

int gw_put_room(struct gw_ramblock *b, uint64_t first, uint32_t n,
		struct gw_error *err)
{
	uint64_t at = first, end = first + n;
	int r;

	while (at < end && gw_bitmap_test(&b->placed, at))
		at++;
	if (at == end)
		return 0;
	r = gw_populate(b->host + (at << GW_PAGE_BITS),
			(end - at) << GW_PAGE_BITS);
	if (r)
		return no_memory(b, at, -r, err);
	note(b, at, (uint32_t)(end - at));
	return 0;
}

static int copy_in(struct gw_ramblock *b, uint64_t first, uint32_t n,
		   const void *data, struct gw_error *err)
{
	int r = gw_put_room(b, first, n, err);

	if (!r)
		memcpy(b->host + (first << GW_PAGE_BITS), data,
		       (size_t)n << GW_PAGE_BITS);
	return r;
}

int gw_put_pages(struct gw_ramblock *b, uint64_t first, uint32_t n,
		 const void *data, struct gw_error *err)
{
	off_t at = (off_t)(b->fd_offset + (first << GW_PAGE_BITS));
	size_t len = (size_t)n << GW_PAGE_BITS, done = 0;

	if (!has_write(b))
		return copy_in(b, first, n, data, err);
	while (done < len) {
		ssize_t w = pwrite(b->fd, (const uint8_t *)data + done,
				   len - done, at + (off_t)done);

		if (w < 0 && errno == EINVAL)
			return copy_in(b, first, n, data, err);
		if (w < 0 && errno != EINTR)
			return no_memory(b, first, errno, err);
		if (w > 0)
			done += (size_t)w;
	}
	note(b, first, n);
	return 0;
}

bool gw_put_is_fresh(const struct gw_ramblock *b, uint64_t first, uint32_t n)
{
	for (uint64_t i = first; i < first + n; i++)
		if (gw_bitmap_test(&b->placed, i))
			return false;
	/* A huge page is cleared and mapped as one: that costs less than to
	 * copy what comes once more. */
	return has_write(b) && !b->transparent;
}

void gw_put_zeros(struct gw_ramblock *b, uint64_t first, uint64_t n)
{
	uint64_t at = first, end = first + n, len;

	while (at < end &&
	       (len = gw_bitmap_next_run(&b->placed, at, end - at, &at))) {
		if (at >= end)
			break;
		if (len > end - at)
			len = end - at;
		memset(b->host + (at << GW_PAGE_BITS), 0, len << GW_PAGE_BITS);
		at += len;
	}
}
