/* SPDX-License-Identifier: BSD-3-Clause */
/* extents.c - see extents.h. */
#include "ram/extents.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/scope.h"

static int seek_next(const struct gw_ramblock *b, uint64_t from,
		     uint64_t *start, uint64_t *len, struct gw_error *err)
{
	uint64_t end = b->fd_offset + b->used_length, s, e;
	off_t d, h;

	*len = 0;
	d = (off_t)(b->fd_offset + from);
	do {
		d = lseek(b->fd, d, SEEK_DATA);
		if (d < 0 && errno == ENXIO)
			return 0;
		h = d < 0 ? d : lseek(b->fd, d, SEEK_HOLE);
		/* Equal: the VM punched it out between the calls; go on. */
	} while (h >= 0 && h == d);
	if (h < 0)
		return gw_fail_errno(err, errno,
				     "looking for data in RAM block '%s' at %llu",
				     b->idstr, (unsigned long long)from);
	if ((uint64_t)d >= end)
		return 0;
	s = (uint64_t)d & ~(uint64_t)(GW_PAGE_SIZE - 1);
	e = ((uint64_t)h + GW_PAGE_SIZE - 1) & ~(uint64_t)(GW_PAGE_SIZE - 1);
	if (e > end)
		e = end;
	*start = s - b->fd_offset;
	if (*start < from)
		*start = from;
	*len = e - b->fd_offset - *start;
	return 0;
}

/* Present (bit 63) or swapped (bit 62): Documentation/admin-guide/mm/pagemap */
#define PAGEMAP_POPULATED (3ULL << 62)

static int pagemap_next(const struct gw_ramblock *b, uint64_t from,
			uint64_t *start, uint64_t *len, struct gw_error *err)
{
	gw_autoclose int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry[512], page = from >> GW_PAGE_BITS;
	uint64_t npages = gw_ramblock_npages(b);
	bool in = false;

	if (fd < 0)
		return gw_fail_errno(err, errno, "/proc/self/pagemap");
	*len = 0;
	while (page < npages) {
		uint64_t n = npages - page < 512 ? npages - page : 512;
		uint64_t at = ((uintptr_t)b->host >> GW_PAGE_BITS) + page;
		ssize_t got = pread(fd, entry, n * 8, (off_t)(at * 8));

		if (got <= 0 || got % 8)
			return gw_fail_errno(err, got < 0 ? errno : EIO,
					     "/proc/self/pagemap");
		n = (uint64_t)got / 8;
		for (uint64_t i = 0; i < n; i++, page++) {
			bool data = entry[i] & PAGEMAP_POPULATED;

			if (data && !in)
				*start = page << GW_PAGE_BITS;
			if (in && !data)
				return 0;
			in = data;
			if (data)
				*len = ((page + 1) << GW_PAGE_BITS) - *start;
		}
	}
	return 0;
}

int gw_extent_next(const struct gw_ramblock *b, uint64_t from, uint64_t *start,
		   uint64_t *len, struct gw_error *err)
{
	*start = from;
	*len = 0;
	if (from >= b->used_length)
		return 0;
	if (b->fd >= 0)
		return seek_next(b, from, start, len, err);
	return pagemap_next(b, from, start, len, err);
}

int gw_extent_seek(const struct gw_ramblock *b, uint64_t from, uint64_t *at,
		   struct gw_error *err)
{
	off_t d = lseek(b->fd, (off_t)(b->fd_offset + from), SEEK_DATA);

	*at = b->used_length;
	if (d < 0 && errno != ENXIO)
		return gw_fail_errno(err, errno,
				     "looking for data in RAM block '%s'",
				     b->idstr);
	if (d >= 0 && (uint64_t)d - b->fd_offset < b->used_length)
		*at = (uint64_t)d - b->fd_offset;
	return 0;
}

/* *@at is the first populated page from @first on, or @first + @n. */
static int next_populated(const struct gw_ramblock *b, uint64_t first,
			  uint64_t n, uint64_t *at, struct gw_error *err)
{
	uint64_t start, len;
	int r;

	*at = first + n;
	if (b->fd < 0) {
		r = pagemap_next(b, first << GW_PAGE_BITS, &start, &len, err);
		if (!r && len && start >> GW_PAGE_BITS < *at)
			*at = start >> GW_PAGE_BITS;
		return r;
	}
	r = gw_extent_seek(b, first << GW_PAGE_BITS, &start, err);
	if (!r && start >> GW_PAGE_BITS < *at)
		*at = start >> GW_PAGE_BITS;
	return r;
}

#define LOOK 256 /* pages at once */

/* mincore() says at once what is in memory; of what is not, it does not know
 * what is swapped out, and the file does. */
int gw_extent_alike(const struct gw_ramblock *b, uint64_t first, uint64_t n,
		    uint64_t *len, bool *hole, struct gw_error *err)
{
	unsigned char in[LOOK] = { 0 };
	uint64_t look = n < LOOK ? n : LOOK, at;
	int r;

	*len = n;
	*hole = false;
	if (b->page_size > GW_PAGE_SIZE)
		return 0;
	if (mincore(b->host + (first << GW_PAGE_BITS), look << GW_PAGE_BITS,
		    in))
		in[0] = 0;
	for (at = 0; at < look && in[at] & 1; at++)
		;
	*len = at;
	if (at)
		return 0;
	r = next_populated(b, first, n, &at, err);
	*hole = at > first;
	*len = *hole ? at - first : 1;
	return r;
}

int gw_extent_total(const struct gw_ramblock *b, uint64_t *nbytes,
		    struct gw_error *err)
{
	uint64_t start, len, at = 0;
	int r;

	*nbytes = 0;
	do {
		r = gw_extent_next(b, at, &start, &len, err);
		if (r)
			return r;
		*nbytes += len;
		at = start + len;
	} while (len);
	return 0;
}

int gw_extent_punch(struct gw_ramblock *b, uint64_t first, uint64_t n,
		    struct gw_error *err)
{
	uint64_t at = first << GW_PAGE_BITS, len = n << GW_PAGE_BITS;
	int r = 0;

	if (b->fd >= 0)
		r = fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)(b->fd_offset + at), (off_t)len);
	else if (madvise(b->host + at, len, MADV_REMOVE)) /* shared */
		r = madvise(b->host + at, len, MADV_DONTNEED);
	if (r)
		return gw_fail_errno(err, errno, "emptying RAM block '%s'",
				     b->idstr);
	return 0;
}

int gw_extent_punch_all(struct gw_ramblock *b, struct gw_error *err)
{
	return gw_extent_punch(b, 0, gw_ramblock_npages(b), err);
}
