/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * info.h - what an image has and what it takes to load it: numbers for
 * `godwit info`. Of a mapped-ram file no page is read.
 */
#ifndef GW_IMAGE_INFO_H
#define GW_IMAGE_INFO_H

#include "image/image.h"

struct gw_image_info {
	/* pages by state; nruns, longest: of pages with data */
	struct gw_image_pages {
		uint64_t npages[3];
		uint64_t nruns, longest;
		bool outside; /* x-ignore-shared: in another file */
	} all, block[GW_MAX_TABLE_BLOCKS];
	/* sum over all sections of RAM */
	struct gw_image_pass records;
	/* bytes of the file: up to the device sections (mapped-ram: with its
	 * holes), those, the description */
	uint64_t ram_bytes, device_bytes, vmdesc_bytes;
	struct gw_tail devices;
	char device_trouble[GW_ERROR_MAX]; /* why they could not be told
					      apart; else "" */
	char trouble[GW_ERROR_MAX]; /* why it is not usable; else "" */
	/* the oldest QEMU that loads it */
	unsigned int qemu_major, qemu_minor;
};

void gw_image_info(struct gw_image *img, struct gw_image_info *info);
void gw_image_info_fini(struct gw_image_info *info);

#endif
