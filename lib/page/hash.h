/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hash.h - the hash of a page for verification: XXH3-64, with 0 reserved for
 * all-zero pages and holes (wire/record.h).
 */
#ifndef GW_PAGE_HASH_H
#define GW_PAGE_HASH_H

#include <stdint.h>

#include "ram/block.h"

/* @page: GW_PAGE_SIZE bytes. */
uint64_t gw_page_hash(const void *page);

/*
 * Hashes of pages [@first, @first + @n) of @b into @hash, reading only what
 * is populated. *@any: whether any hash is not 0.
 */
int gw_page_hash_range(const struct gw_ramblock *b, uint64_t first, uint32_t n,
		       uint64_t *hash, bool *any,
		       struct gw_error *err) GW_MUST_CHECK;

#endif
