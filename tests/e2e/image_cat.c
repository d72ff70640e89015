/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * image_cat.c - the memory of a stored VM, as lib/image reads it: every block
 * in the order of its table, one after the other, on standard output.
 *
 *	image_cat FILE
 */
#include <stdio.h>

#include "image/image.h"

#define STEP 100u /* pages, so that runs are cut anywhere */

int main(int argc, char **argv)
{
	static uint8_t buf[STEP * GW_PAGE_SIZE];
	struct gw_error err = { 0 };
	struct gw_image *img;

	if (argc != 2)
		return 2;
	img = gw_image_open(argv[1], NULL, &err);
	for (int b = 0; img && b < img->desc.table.n; b++) {
		uint64_t all = gw_image_npages(img, b);

		for (uint64_t p = 0; p < all && !err.code; p += STEP) {
			uint32_t n =
				all - p < STEP ? (uint32_t)(all - p) : STEP;

			if (!gw_image_read(img, b, p, n, buf, &err))
				fwrite(buf, GW_PAGE_SIZE, n, stdout);
		}
	}
	gw_image_close(img);
	if (err.code)
		fprintf(stderr, "%s\n", err.msg);
	return err.code != 0;
}
