/* SPDX-License-Identifier: BSD-3-Clause */
/* info.c - see info.h. */
#include "image/info.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void count(struct gw_image *img, int block, struct gw_image_pages *p)
{
	uint64_t all = gw_image_npages(img, block), n;

	for (uint64_t page = 0; page < all; page += n) {
		enum gw_page_state s =
			img->ops->state(img, block, page, all - page, &n);

		p->npages[s] += n;
		if (s != GW_PAGE_DATA)
			continue;
		p->nruns++;
		if (n > p->longest)
			p->longest = n;
	}
	p->outside = gw_image_is_outside(img, block);
}

static void add(struct gw_image_pages *to, const struct gw_image_pages *p)
{
	for (int s = 0; s < 3; s++)
		to->npages[s] += p->npages[s];
	to->nruns += p->nruns;
	if (p->longest > to->longest)
		to->longest = p->longest;
	to->outside |= p->outside;
}

static void at_least(struct gw_image_info *i, unsigned int major,
		     unsigned int minor)
{
	if (major < i->qemu_major ||
	    (major == i->qemu_major && minor <= i->qemu_minor))
		return;
	i->qemu_major = major;
	i->qemu_minor = minor;
}

static void oldest_qemu(struct gw_image *img, struct gw_image_info *i)
{
	const struct gw_configuration *c = &img->desc.config;
	unsigned int major, minor;

	if (gw_machine_version(c->machine, &major, &minor))
		at_least(i, major, minor);
	if (img->switchover)
		at_least(i, 10, 0);
	if (c->mapped_ram)
		at_least(i, 9, 0);
	if (c->mapped_ram && c->ignore_shared)
		at_least(i, 11, 0);
}

static void devices(struct gw_image *img, struct gw_image_info *i)
{
	struct gw_error e = { 0 };
	int r;

	if (img->vmdesc)
		r = gw_tail_check(&i->devices, img->tail, img->eof,
				  img->vmdesc, img->vmdesc_len, &e);
	else
		r = gw_tail_scan(&i->devices, img->tail, img->eof, &e);
	if (r)
		snprintf(i->device_trouble, sizeof(i->device_trouble), "%s",
			 e.msg);
}

void gw_image_info(struct gw_image *img, struct gw_image_info *info)
{
	struct gw_error e = { 0 };

	memset(info, 0, sizeof(*info));
	for (int i = 0; i < img->desc.table.n; i++) {
		count(img, i, &info->block[i]);
		add(&info->all, &info->block[i]);
	}
	for (int i = 0; i < img->npasses; i++) {
		info->records.normal += img->pass[i].normal;
		info->records.zero += img->pass[i].zero;
		info->records.delta += img->pass[i].delta;
		info->records.nbytes += img->pass[i].nbytes;
	}
	info->ram_bytes =
		img->size - img->base - img->tail_len - img->colo_bytes;
	info->device_bytes = img->eof;
	info->vmdesc_bytes = img->tail_len - img->eof;
	oldest_qemu(img, info);
	devices(img, info);
	if (gw_image_usable(img, &e))
		snprintf(info->trouble, sizeof(info->trouble), "%s", e.msg);
}

void gw_image_info_fini(struct gw_image_info *info)
{
	gw_tail_fini(&info->devices);
}
