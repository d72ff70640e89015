/* SPDX-License-Identifier: BSD-3-Clause */
/* shadow.c - see shadow.h. */
#include "source/shadow.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "ram/extents.h"

#define KEEP_PAGES ((256ULL << 20) >> GW_PAGE_BITS)

static int block_init(struct gw_shadow_block *b, const struct gw_ramblock *of,
		      struct gw_error *err)
{
	void *p = mmap(NULL, of->used_length, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int r;

	if (p == MAP_FAILED)
		return gw_fail_errno(
			err, errno,
			"%llu bytes of address space for what changes in '%s'",
			(unsigned long long)of->used_length, of->idstr);
	b->mem = p;
	b->nbytes = of->used_length;
	/* Pages lie where they lie in the VM: a huge one would be mostly
	 * empty. */
	(void)madvise(p, b->nbytes, MADV_NOHUGEPAGE);
	r = gw_bitmap_init(&b->copied, gw_ramblock_npages(of), err);
	return r ? r : gw_bitmap_init(&b->backed, gw_ramblock_npages(of), err);
}

int gw_shadow_init(struct gw_shadow *sh, const struct gw_ram *ram,
		   struct gw_error *err)
{
	int r = 0;

	sh->keep = KEEP_PAGES;
	for (int i = 0; i < ram->nblocks && !r; i++) {
		sh->nblocks = i + 1;
		r = block_init(&sh->block[i], &ram->block[i], err);
	}
	return r;
}

void gw_shadow_fini(struct gw_shadow *sh)
{
	for (int i = 0; i < sh->nblocks; i++) {
		struct gw_shadow_block *b = &sh->block[i];

		if (b->mem)
			munmap(b->mem, b->nbytes);
		gw_bitmap_fini(&b->copied);
		gw_bitmap_fini(&b->backed);
	}
	sh->nblocks = 0;
}

/* Pages that are not holes. */
static void copy_run(struct gw_shadow *sh, int block, const uint8_t *host,
		     uint64_t first, uint64_t n)
{
	struct gw_shadow_block *b = &sh->block[block];
	uint64_t at = first << GW_PAGE_BITS;

	memcpy(b->mem + at, host + at, n << GW_PAGE_BITS);
	gw_bitmap_set_range(&b->copied, first, n);
	for (uint64_t i = first; i < first + n; i++)
		sh->nbacked += !gw_bitmap_set(&b->backed, i);
	sh->ncopied += n;
}

/* A hole is not read: that would allocate it. */
static int copy_block(struct gw_shadow *sh, int block, struct gw_ramblock *b,
		      struct gw_error *err)
{
	uint64_t at = 0, end = gw_ramblock_npages(b), n, len, first;

	while ((n = gw_bitmap_next_run(&b->dirty, at, end, &first))) {
		for (at = first; at < first + n; at += len) {
			bool hole;
			int r = gw_extent_alike(b, at, first + n - at, &len,
						&hole, err);

			if (r)
				return r;
			if (!hole)
				copy_run(sh, block, b->host, at, len);
		}
	}
	return 0;
}

int gw_shadow_copy(struct gw_shadow *sh, struct gw_ram *ram,
		   struct gw_error *err)
{
	int r = 0;

	for (int i = 0; i < sh->nblocks && !r; i++)
		r = copy_block(sh, i, &ram->block[i], err);
	return r;
}

uint64_t gw_shadow_alike(const struct gw_shadow *sh, int block, uint64_t first,
			 uint64_t n, bool *hole)
{
	const struct gw_bitmap *copied = &sh->block[block].copied;
	uint64_t len = 1;

	*hole = !gw_bitmap_test(copied, first);
	while (len < n && gw_bitmap_test(copied, first + len) == !*hole)
		len++;
	return len;
}

void gw_shadow_done(struct gw_shadow *sh)
{
	uint64_t keep = 2 * sh->ncopied > sh->keep ? 2 * sh->ncopied : sh->keep;
	bool drop = sh->nbacked > keep;

	for (int i = 0; i < sh->nblocks; i++) {
		struct gw_shadow_block *b = &sh->block[i];

		if (sh->ncopied)
			gw_bitmap_clear_all(&b->copied);
		if (!drop)
			continue;
		(void)madvise(b->mem, b->nbytes, MADV_DONTNEED);
		gw_bitmap_clear_all(&b->backed);
	}
	sh->ncopied = 0;
	if (drop)
		sh->nbacked = 0;
}
