/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * copy.h - copy pages that are cold, to where nobody looks soon: with stores
 * that go past the caches, if this CPU has them.
 */
#ifndef GW_PAGE_COPY_H
#define GW_PAGE_COPY_H

#include <stdbool.h>
#include <stdint.h>

/* @dst, @src: GW_PAGE_SIZE bytes, aligned to that. What another thread is to
 * see of it must be handed over by a lock or the like. */
void gw_page_copy(void *dst, const void *src);

/* The variants, fastest first, for tests and benches; ends with name NULL. */
struct gw_page_copy_impl {
	const char *name;
	bool (*usable)(void); /* on this CPU */
	void (*copy)(void *dst, const void *src);
};
extern const struct gw_page_copy_impl gw_page_copy_impls[];

#endif
