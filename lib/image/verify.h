/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * verify.h - is an image whole? gw_image_open() has found its structure sound
 * to the last byte; this reads every page and takes the device state apart in
 * two ways.
 */
#ifndef GW_IMAGE_VERIFY_H
#define GW_IMAGE_VERIFY_H

#include "image/image.h"

struct gw_image_verify {
	/* set by the caller */
	struct gw_image *img;
	unsigned int threads;
	const struct gw_cancel *cancel;
	void (*tick)(uint64_t done, uint64_t all, void *data);
	void *data;
	/* results */
	uint64_t npages[3];   /* by state */
	uint64_t zero_data;   /* pages with data that is all zero */
	uint64_t hole_pages;  /* mapped-ram: pages marked as there that are
				 holes of the file, so zero */
	uint64_t outside;     /* x-ignore-shared: pages in another file */
	int ndevices;	      /* device sections */
	int64_t ns;	      /* reading the pages */
	/* private: the data of the file found last, offsets */
	uint64_t data_from, data_to;
};

/* Return: 0, or the first fault found, with block, offset and reason. */
int gw_image_verify(struct gw_image_verify *v,
		    struct gw_error *err) GW_MUST_CHECK;

#endif
