/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hugepage.h - memory in transparent huge pages, and memory that is there
 * before it is touched. Any thread.
 */
#ifndef GW_BASE_HUGEPAGE_H
#define GW_BASE_HUGEPAGE_H

#include <stddef.h>

#include "base/error.h"

#define GW_HUGE_PAGE (2u << 20) /* bytes, of x86-64 */

/*
 * @len bytes of zeros, a multiple of GW_PAGE_SIZE, at a multiple of
 * GW_HUGE_PAGE; in huge pages if there are any, not populated. NULL with
 * errno. munmap() it, in parts if need be.
 */
void *gw_huge_alloc(size_t len) GW_MUST_CHECK;

/*
 * Allocate what of [@p, @p + @len) is not there yet, so that touching it is no
 * SIGBUS. Kernels before 5.14 cannot: there it is allocated when touched.
 * Return: 0; -ENOMEM, also of a file system that is full; another -errno.
 */
int gw_populate(void *p, size_t len) GW_MUST_CHECK;

#endif
