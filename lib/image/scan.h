/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * scan.h - go over an image's pages with a few threads: one decides under a
 * lock which pages are next, all of them work on what they were given.
 */
#ifndef GW_IMAGE_SCAN_H
#define GW_IMAGE_SCAN_H

#include "image/image.h"

#define GW_SCAN_PAGES 256u /* at most so many at a time: 1 MiB */
#define GW_SCAN_THREADS_MAX 64u

struct gw_scan {
	/* set by the caller */
	struct gw_image *img;
	unsigned int threads; /* 0: 1 */
	const struct gw_cancel *cancel;
	/* Are pages from @page on to be visited? *@n: of how many (>= 1, at
	 * most @max) that is the answer. Never called by two threads at once. */
	bool (*want)(void *arg, int block, uint64_t page, uint64_t max,
		     uint64_t *n);
	/* Visit; @buf has room for 2 * GW_SCAN_PAGES pages. From any thread. */
	int (*visit)(void *arg, int block, uint64_t page, uint32_t n,
		     uint8_t *buf, struct gw_error *err);
	/* May be NULL; from the calling thread, ten times a second. */
	void (*tick)(uint64_t done, uint64_t all, void *data);
	void *arg, *data;
};

/* The first error ends it. */
int gw_scan(struct gw_scan *s, struct gw_error *err) GW_MUST_CHECK;

#endif
