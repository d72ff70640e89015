/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * diff.h - how two images differ: RAM by block and page, device state by
 * section. How a page is stored makes no difference, only what it reads as.
 */
#ifndef GW_IMAGE_DIFF_H
#define GW_IMAGE_DIFF_H

#include "image/image.h"

/* A page that differs by at most so many bytes of XBZRLE changed a little. */
#define GW_DIFF_LITTLE 2048u

enum gw_diff_page {
	GW_DIFF_EQUAL,
	GW_DIFF_ZEROED,	   /* had data, is zero */
	GW_DIFF_FILLED,	   /* was zero, has data */
	GW_DIFF_CHANGED,   /* a little */
	GW_DIFF_REWRITTEN, /* more than that */
	GW_DIFF_NPAGES,
};

struct gw_image_diff {
	/* set by the caller */
	struct gw_image *a, *b;
	unsigned int threads;
	const struct gw_cancel *cancel;
	void (*tick)(uint64_t done, uint64_t all, void *data);
	void *data;
	/* results; by a's blocks, then those that only b has */
	struct gw_diff_block {
		const char *idstr;
		int in_a, in_b; /* index there, -1: it has none */
		uint64_t length_a, length_b; /* bytes, 0: it has none */
		bool outside; /* memory is in another file of one of them */
		uint64_t npages[GW_DIFF_NPAGES]; /* of what both have */
		uint64_t delta; /* bytes of XBZRLE, of those CHANGED */
	} block[2 * GW_MAX_TABLE_BLOCKS];
	int nblocks;
	bool machine, uuid; /* differ */
	/* device sections that differ; owned */
	struct gw_diff_section {
		char idstr[256];
		uint32_t instance_id;
		const char *how;
	} *section;
	int nsections; /* that differ */
	int nequal;    /* sections that do not */
	bool different; /* anything at all */
};

int gw_image_diff(struct gw_image_diff *d, struct gw_error *err) GW_MUST_CHECK;
void gw_image_diff_fini(struct gw_image_diff *d);

/* Bytes of XBZRLE that turn page @a into page @b. */
uint32_t gw_diff_delta(const uint8_t *a, const uint8_t *b);

#endif
