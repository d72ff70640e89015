/* SPDX-License-Identifier: BSD-3-Clause */
/* xbzrle.c - see xbzrle.h. */
#include "page/xbzrle.h"

#include <errno.h>
#include <string.h>

#include "ram/block.h"

/*
 * A run's length at @p, where at least two bytes must be left: no valid delta
 * ends earlier, because the last run has a byte of content. Return: bytes
 * taken, 0: there is no length.
 */
static size_t get_run(const uint8_t *p, const uint8_t *end, size_t *run)
{
	if (end - p < 2)
		return 0;
	*run = p[0] & 0x7f;
	if (p[0] < 0x80)
		return 1;
	if (p[1] >= 0x80)
		return 0;
	*run |= (size_t)p[1] << 7;
	return 2;
}

int gw_xbzrle_decode(const uint8_t *delta, size_t len, uint8_t *page)
{
	const uint8_t *p = delta, *end = delta + len;
	size_t at = 0, run, n;

	while (p < end) {
		n = get_run(p, end, &run);
		if (!n || (!run && p != delta) || run > GW_PAGE_SIZE - at)
			return -EPROTO;
		p += n;
		at += run;
		n = get_run(p, end, &run);
		if (!n || !run || run > GW_PAGE_SIZE - at)
			return -EPROTO;
		p += n;
		if (run > (size_t)(end - p))
			return -EPROTO;
		memcpy(page + at, p, run);
		p += run;
		at += run;
	}
	return 0;
}
