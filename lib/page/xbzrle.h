/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * xbzrle.h - a page as its difference from what the receiver has, in QEMU's
 * encoding: pairs of (unchanged bytes, changed bytes, the new bytes), both
 * lengths as ULEB128 of at most two bytes (0..16383). Despite the name no XOR
 * is on the wire. A trailing unchanged run is left out.
 */
#ifndef GW_PAGE_XBZRLE_H
#define GW_PAGE_XBZRLE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Apply @len bytes of delta to @page (4096 bytes, GW_PAGE_SIZE). Reads and
 * writes nothing outside, whatever @delta is. Return: 0, or -EPROTO: a length
 * of more than two bytes, an empty changed run, an empty unchanged run that is
 * not the first, runs beyond the page or beyond the delta. After an error
 * @page has part of the changes.
 */
int gw_xbzrle_decode(const uint8_t *delta, size_t len, uint8_t *page);

#endif
