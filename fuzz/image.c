/* SPDX-License-Identifier: BSD-3-Clause */
/* Fuzz target: stored VMs: recognised, opened, counted, read, verified. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "image/info.h"
#include "image/verify.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define READ_PAGES 64u

/* The beginning of every block, whatever it is said to be. */
static void read_some(struct gw_image *img)
{
	static uint8_t buf[READ_PAGES * GW_PAGE_SIZE];
	struct gw_error err = { 0 };

	for (int b = 0; b < img->desc.table.n; b++) {
		uint64_t n = gw_image_npages(img, b);

		if (n > READ_PAGES)
			n = READ_PAGES;
		if (gw_image_read(img, b, 0, (uint32_t)n, buf, &err))
			return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct gw_image_info info;
	struct gw_image_verify v = { .threads = 1 };
	struct gw_error err = { 0 };
	char path[32];
	int fd = memfd_create("image", MFD_CLOEXEC);

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	v.img = gw_image_open(path, NULL, &err);
	if (v.img) {
		gw_image_info(v.img, &info);
		gw_image_info_fini(&info);
		read_some(v.img);
		if (gw_image_verify(&v, &err) && err.fault != GW_FAULT_INPUT)
			abort();
		gw_image_close(v.img);
	} else if (!err.code) {
		abort();
	}
	close(fd);
	return 0;
}
