/* SPDX-License-Identifier: BSD-3-Clause */
/* hugepage.c - see hugepage.h. */
#include "base/hugepage.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif

void *gw_huge_alloc(size_t len)
{
	uint8_t *p = mmap(NULL, len + GW_HUGE_PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t before;

	if (p == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)p & (GW_HUGE_PAGE - 1);
	if (before)
		munmap(p, before);
	munmap(p + before + len, GW_HUGE_PAGE - before);
	(void)madvise(p + before, len, MADV_HUGEPAGE); /* only a wish */
	return p + before;
}

int gw_populate(void *p, size_t len)
{
	int r;

	do {
		r = madvise(p, len, MADV_POPULATE_WRITE);
	} while (r && errno == EINTR);
	if (!r || errno == EINVAL)
		return 0;
	return errno == EFAULT ? -ENOMEM : -errno;
}
