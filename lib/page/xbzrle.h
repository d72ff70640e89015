/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * xbzrle.h - a page as its difference from what the receiver has, in QEMU's
 * encoding: pairs of (unchanged bytes, changed bytes, the new bytes), both
 * lengths as ULEB128 of at most two bytes (0..16383). Despite the name no XOR
 * is on the wire. A trailing unchanged run is left out.
 */
#ifndef GW_PAGE_XBZRLE_H
#define GW_PAGE_XBZRLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The delta that makes @old into @new (GW_PAGE_SIZE bytes each, any alignment)
 * into @dst of @max bytes, at most GW_PAGE_SIZE. Runs are maximal, so there is
 * one right answer, and it is the one QEMU gives. Return: its length, 0: the
 * pages are equal, or -1: it does not fit. What is in @dst beyond the length,
 * or after -1, is undefined; nothing is written beyond @max.
 *
 * As in QEMU a delta that ends before the page does must leave two bytes of
 * @max unused, or it "does not fit" either.
 *
 * @new must not change meanwhile: guest memory is copied first, and the copy
 * is what is encoded, what is sent when the answer is -1, and what the next
 * delta is against. (With a page that does change the delta is some mixture;
 * no bound is overstepped.)
 */
int gw_xbzrle_encode(const uint8_t *old, const uint8_t *new, uint8_t *dst,
		     size_t max);

/*
 * Apply @len bytes of delta to @page (4096 bytes, GW_PAGE_SIZE). Reads and
 * writes nothing outside, and no byte that is not changed, whatever @delta is.
 * Return: 0, or -EPROTO: a length of more than two bytes, an empty changed
 * run, an empty unchanged run that is not the first, runs beyond the page or
 * beyond the delta. After an error @page has part of the changes.
 */
int gw_xbzrle_decode(const uint8_t *delta, size_t len, uint8_t *page);

/* The encoders, fastest first, for tests and benches; ends with name NULL. */
struct gw_xbzrle_impl {
	const char *name;
	bool (*usable)(void); /* on this CPU */
	int (*encode)(const uint8_t *old, const uint8_t *new, uint8_t *dst,
		      size_t max);
};
extern const struct gw_xbzrle_impl gw_xbzrle_impls[];

#endif
