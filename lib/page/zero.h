/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * zero.h - is a page all zero? With the widest registers of this CPU.
 *
 * Any thread; the page may change meanwhile (it is guest memory): the answer
 * then is about some mixture, and the page is dirty and looked at again.
 */
#ifndef GW_PAGE_ZERO_H
#define GW_PAGE_ZERO_H

#include <stdbool.h>
#include <stdint.h>

/* @page: 4096 bytes (GW_PAGE_SIZE), any alignment. */
bool gw_page_is_zero(const void *page);

/* Is every byte of it *@byte? Meant for pages that are not zero: most say no
 * with their first word. */
bool gw_page_is_filled(const void *page, uint8_t *byte);

/* The variants, fastest first, for tests and benches; ends with name NULL. */
struct gw_page_zero_impl {
	const char *name;
	bool (*usable)(void); /* on this CPU */
	bool (*is_zero)(const void *page);
};
extern const struct gw_page_zero_impl gw_page_zero_impls[];

#endif
