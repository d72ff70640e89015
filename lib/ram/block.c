/* SPDX-License-Identifier: BSD-3-Clause */
/* block.c - see block.h. */
#include "ram/block.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hugepage.h"
#include "base/units.h"


void gw_ram_init(struct gw_ram *ram)
{
	memset(ram, 0, sizeof(*ram));
}

/* hugetlbfs maps and unmaps whole huge pages. */
static size_t mapped_length(const struct gw_ramblock *b)
{
	return (b->used_length + b->page_size - 1) & -(size_t)b->page_size;
}

static void block_fini(struct gw_ramblock *b)
{
	gw_bitmap_fini(&b->dirty);
	gw_bitmap_fini(&b->placed);
	if (b->fd >= 0) {
		if (b->host)
			munmap(b->host, mapped_length(b));
		close(b->fd);
	}
}

void gw_ram_fini(struct gw_ram *ram)
{
	for (int i = 0; i < ram->nblocks; i++)
		block_fini(&ram->block[i]);
	gw_ram_init(ram);
}

static int check(struct gw_ram *ram, const char *idstr, uint64_t used_length,
		 uint32_t page_size, struct gw_error *err)
{
	size_t n = strlen(idstr);

	if (n == 0 || n > GW_IDSTR_MAX)
		return gw_fail_as(err, GW_FAULT_INPUT, EINVAL,
				  "a RAM block name has %zu bytes, 1 to %d are possible",
				  n, GW_IDSTR_MAX);
	if (gw_ram_find(ram, idstr))
		return gw_fail_as(err, GW_FAULT_INPUT, EEXIST,
				  "RAM block '%s' is listed twice", idstr);
	if (used_length == 0 || used_length % GW_PAGE_SIZE ||
	    used_length > GW_RAM_MAX_LENGTH)
		return gw_fail_as(err, GW_FAULT_INPUT, EINVAL,
				  "RAM block '%s' has %llu bytes; a multiple of %u up to 64 TiB is possible",
				  idstr, (unsigned long long)used_length,
				  GW_PAGE_SIZE);
	if (page_size < GW_PAGE_SIZE || (page_size & (page_size - 1)))
		return gw_fail_as(err, GW_FAULT_INPUT, EINVAL,
				  "RAM block '%s' has pages of %u bytes; a power of two from %u on is possible",
				  idstr, page_size, GW_PAGE_SIZE);
	if (ram->nblocks == GW_RAM_MAX_BLOCKS)
		return gw_fail_as(err, GW_FAULT_INPUT, E2BIG,
				  "more than %d RAM blocks", GW_RAM_MAX_BLOCKS);
	return 0;
}

int gw_ram_describe(struct gw_ram *ram, const char *idstr,
		    uint64_t used_length, uint32_t page_size,
		    struct gw_error *err)
{
	struct gw_ramblock *b;
	int r = check(ram, idstr, used_length, page_size, err);

	if (r)
		return r;
	b = &ram->block[ram->nblocks++];
	memset(b, 0, sizeof(*b));
	strcpy(b->idstr, idstr);
	b->used_length = used_length;
	b->page_size = page_size;
	b->fd = -1;
	ram->total += used_length;
	return 0;
}

static int check_offset(const char *idstr, uint64_t fd_offset,
			struct gw_error *err)
{
	if (fd_offset % GW_PAGE_SIZE == 0 &&
	    fd_offset <= (uint64_t)INT64_MAX - GW_RAM_MAX_LENGTH)
		return 0;
	return gw_fail_as(err, GW_FAULT_INPUT, EINVAL,
			  "RAM block '%s' begins at byte %llu of its file; a multiple of %u is possible",
			  idstr, (unsigned long long)fd_offset, GW_PAGE_SIZE);
}

/* A tmpfs that gives huge pages says so by the block size of its files. */
static bool is_transparent(const struct gw_ramblock *b)
{
	struct stat st;

	return b->fd >= 0 && b->page_size == GW_PAGE_SIZE &&
	       !fstat(b->fd, &st) && st.st_blksize >= GW_HUGE_PAGE;
}

struct gw_ramblock *gw_ram_add(struct gw_ram *ram, const char *idstr,
			       uint64_t used_length, uint32_t page_size,
			       int fd, uint64_t fd_offset, struct gw_error *err)
{
	uint64_t npages = used_length >> GW_PAGE_BITS;
	struct gw_ramblock *b;

	if (check_offset(idstr, fd_offset, err) ||
	    gw_ram_describe(ram, idstr, used_length, page_size, err)) {
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	b = &ram->block[ram->nblocks - 1];
	b->fd = fd;
	b->fd_offset = fd_offset;
	b->transparent = is_transparent(b);
	if (gw_bitmap_init(&b->dirty, npages, err) ||
	    gw_bitmap_init(&b->placed, npages, err)) {
		block_fini(b);
		ram->nblocks--;
		ram->total -= used_length;
		return NULL;
	}
	return b;
}

struct gw_ramblock *gw_ram_find(struct gw_ram *ram, const char *idstr)
{
	for (int i = 0; i < ram->nblocks; i++)
		if (!strcmp(ram->block[i].idstr, idstr))
			return &ram->block[i];
	return NULL;
}

int gw_ram_map(struct gw_ram *ram, bool writable, struct gw_error *err)
{
	int prot = PROT_READ | (writable ? PROT_WRITE : 0);

	for (int i = 0; i < ram->nblocks; i++) {
		struct gw_ramblock *b = &ram->block[i];
		void *p;

		if (b->host)
			continue;
		p = mmap(NULL, mapped_length(b), prot, MAP_SHARED, b->fd,
			 (off_t)b->fd_offset);
		if (p == MAP_FAILED)
			return gw_fail_errno(err, errno,
					     "mapping RAM block '%s', %llu bytes",
					     b->idstr,
					     (unsigned long long)b->used_length);
		b->host = p;
	}
	return 0;
}

static int missing(const struct gw_ramblock *b, const char *has,
		   const char *lacks, struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
			  "the %s has RAM block '%s', the %s has not: start both VMs with the same memory backends",
			  has, b->idstr, lacks);
}

int gw_ram_compare(const struct gw_ram *a, const char *ours,
		   const struct gw_ram *b, const char *theirs,
		   struct gw_error *err)
{
	char s1[32], s2[32];

	for (int i = 0; i < a->nblocks; i++) {
		const struct gw_ramblock *x = &a->block[i];
		const struct gw_ramblock *y =
			gw_ram_find((struct gw_ram *)(uintptr_t)b, x->idstr);

		if (!y)
			return missing(x, ours, theirs, err);
		if (x->used_length != y->used_length)
			return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
					  "RAM block '%s' has %s (%llu bytes) on the %s and %s (%llu bytes) on the %s: start both VMs with the same -m",
					  x->idstr,
					  gw_format_size(s1, sizeof(s1),
							 x->used_length),
					  (unsigned long long)x->used_length,
					  ours,
					  gw_format_size(s2, sizeof(s2),
							 y->used_length),
					  (unsigned long long)y->used_length,
					  theirs);
		if (x->page_size != y->page_size)
			return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
					  "RAM block '%s' has pages of %u bytes on the %s and of %u bytes on the %s: use the same kind of memory (--hugepages) on both",
					  x->idstr, x->page_size, ours,
					  y->page_size, theirs);
	}
	for (int i = 0; i < b->nblocks; i++)
		if (!gw_ram_find((struct gw_ram *)(uintptr_t)a,
				 b->block[i].idstr))
			return missing(&b->block[i], theirs, ours, err);
	return 0;
}

uint64_t gw_ram_dirty_pages(const struct gw_ram *ram)
{
	uint64_t n = 0;

	for (int i = 0; i < ram->nblocks; i++)
		n += gw_bitmap_count(&ram->block[i].dirty);
	return n;
}
