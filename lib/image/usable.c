/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * usable.c - files that are sound and yet do not have the VM's memory, as far
 * as they are known.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "image/file.h"
#include "page/zero.h"

#define LOOK_PAGES 64u

bool gw_image_is_outside(struct gw_image *img, int block)
{
	uint64_t npages[3];

	if (!img->desc.config.ignore_shared)
		return false;
	if (img->desc.config.mapped_ram)
		return !img->desc.table.entry[block].mapped.pages_offset;
	gw_image_count(img, block, npages);
	return !npages[GW_PAGE_DATA] && !npages[GW_PAGE_ZERO];
}

/* Is anything but zeros in [@from, @to) of the file? Return: 1, 0, -errno. */
static int has_bytes(int fd, uint64_t from, uint64_t to, uint8_t *buf,
		     struct gw_error *err)
{
	uint64_t len;

	while ((len = gw_input_data(fd, from, to, &from))) {
		if (len > LOOK_PAGES * GW_PAGE_SIZE)
			len = LOOK_PAGES * GW_PAGE_SIZE;
		memset(buf, 0, LOOK_PAGES * GW_PAGE_SIZE);
		if (gw_input_read(fd, buf, len, from, err))
			return -err->code;
		for (uint32_t i = 0; i < LOOK_PAGES; i++)
			if (!gw_page_is_zero(buf + i * GW_PAGE_SIZE))
				return 1;
		from += len;
	}
	return 0;
}

/* Has the file pages that no bitmap names? Return: 1, 0, -errno. */
static int has_lost_pages(struct gw_image *img, struct gw_error *err)
{
	gw_autofree uint8_t *buf = malloc(LOOK_PAGES * GW_PAGE_SIZE);
	int r = 0;

	if (!buf)
		return gw_fail(err, ENOMEM, "no memory");
	for (int i = 0; i < img->desc.table.n && !r; i++) {
		const struct gw_ram_entry *e = &img->desc.table.entry[i];

		if (e->mapped.pages_offset)
			r = has_bytes(((struct gw_image_file *)img)->fd,
				      e->mapped.pages_offset,
				      e->mapped.pages_offset + e->used_length,
				      buf, err);
	}
	return r;
}

static int check_mapped(struct gw_image *img, struct gw_error *err)
{
	int lost;

	if (!img->have_end)
		return gw_fail_as(err, GW_FAULT_INPUT, ENODATA,
				  "%s: the section of RAM has no end and no page is marked in the bitmaps: QEMU writes this with mapped-ram and background-snapshot together; it restores all-zero RAM",
				  img->path);
	lost = has_lost_pages(img, err);
	if (lost > 0)
		return gw_fail_as(err, GW_FAULT_INPUT, ENODATA,
				  "%s: no page is marked in the bitmaps although the file has pages: the save was not finished; it restores all-zero RAM",
				  img->path);
	return lost;
}

int gw_image_usable(struct gw_image *img, struct gw_error *err)
{
	struct gw_error local = { 0 };
	uint64_t npages[3];

	err = err ? err : &local;
	gw_image_count(img, -1, npages);
	if (npages[GW_PAGE_DATA])
		return 0;
	if (img->desc.config.mapped_ram)
		return check_mapped(img, err);
	if (!npages[GW_PAGE_ABSENT] || img->desc.config.ignore_shared)
		return 0;
	return gw_fail_as(err, GW_FAULT_INPUT, ENODATA,
			  "%s: %llu pages of RAM never came and none but zero pages did: the main connection of a migration with multifd, whose pages went over other connections?",
			  img->path,
			  (unsigned long long)npages[GW_PAGE_ABSENT]);
}

int gw_image_complete(struct gw_image *img, struct gw_error *err)
{
	int r = gw_image_usable(img, err);

	for (int i = 0; i < img->desc.table.n && !r; i++)
		if (gw_image_is_outside(img, i))
			r = gw_fail_as(err, GW_FAULT_INPUT, ENODATA,
				       "%s: made with capability x-ignore-shared: the memory of block '%s' is in a file of its own and not in here",
				       img->path,
				       img->desc.table.entry[i].idstr);
	return r;
}
