/* SPDX-License-Identifier: BSD-3-Clause */
/* verify.c - see verify.h. */
#include "image/verify.h"

#include "base/clock.h"
#include "image/file.h"
#include "image/scan.h"
#include "page/zero.h"

/*
 * mapped-ram: holes read as zeros, so there is nothing to read. Return: whether
 * pages from @page on are stored, and in *@n of how many that is the answer.
 * The end of a run of data is asked for once: tmpfs walks all of it to tell.
 */
static bool stored(struct gw_image_verify *v, int block, uint64_t page,
		   uint64_t *n)
{
	struct gw_image *img = v->img;
	uint64_t from = img->desc.table.entry[block].mapped.pages_offset +
			page * GW_PAGE_SIZE;
	uint64_t to = from + *n * GW_PAGE_SIZE, len;

	if (from < v->data_from || from >= v->data_to) {
		len = gw_input_data(((struct gw_image_file *)img)->fd, from,
				    img->size, &v->data_from);
		v->data_to = len ? v->data_from + len : 0;
		if (!len || v->data_from >= to)
			return false;
	}
	if (v->data_from >= from + GW_PAGE_SIZE) {
		*n = (v->data_from - from) / GW_PAGE_SIZE;
		return false;
	}
	if (to > v->data_to)
		*n = (v->data_to - from + GW_PAGE_SIZE - 1) / GW_PAGE_SIZE;
	return true;
}

static bool want(void *arg, int block, uint64_t page, uint64_t max,
		 uint64_t *n)
{
	struct gw_image_verify *v = arg;
	enum gw_page_state s =
		v->img->ops->state(v->img, block, page, max, n);
	bool hole = s == GW_PAGE_DATA && v->img->desc.config.mapped_ram &&
		    !stored(v, block, page, n);

	if (hole)
		v->hole_pages += *n;
	else if (s == GW_PAGE_DATA && *n > GW_SCAN_PAGES)
		*n = GW_SCAN_PAGES; /* as much as is visited, and counted */
	v->npages[s] += *n;
	return s == GW_PAGE_DATA && !hole;
}

static int visit(void *arg, int block, uint64_t page, uint32_t n, uint8_t *buf,
		 struct gw_error *err)
{
	struct gw_image_verify *v = arg;
	uint64_t zero = 0;
	int r = gw_image_read(v->img, block, page, n, buf, err);

	for (uint32_t i = 0; i < n && !r; i++)
		zero += gw_page_is_zero(buf + (size_t)i * GW_PAGE_SIZE);
	__atomic_fetch_add(&v->zero_data, zero, __ATOMIC_RELAXED);
	return r;
}

static int devices(struct gw_image_verify *v, struct gw_error *err)
{
	struct gw_image *img = v->img;
	struct gw_tail t = { 0 };
	int r;

	if (img->vmdesc)
		r = gw_tail_check(&t, img->tail, img->eof, img->vmdesc,
				  img->vmdesc_len, err);
	else
		r = gw_tail_scan(&t, img->tail, img->eof, err);
	v->ndevices = t.n;
	gw_tail_fini(&t);
	if (r)
		gw_error_prefix(err, "%s: device state, from byte %llu",
				img->path,
				(unsigned long long)(img->size -
						     img->tail_len -
						     img->colo_bytes));
	return r;
}

int gw_image_verify(struct gw_image_verify *v, struct gw_error *err)
{
	struct gw_scan scan = {
		.img = v->img,	   .threads = v->threads, .cancel = v->cancel,
		.want = want,	   .visit = visit,	  .tick = v->tick,
		.arg = v,	   .data = v->data,
	};
	int64_t started = gw_now_ns();
	int r = devices(v, err);

	if (!r)
		r = gw_image_usable(v->img, err);
	if (r)
		return r;
	for (int i = 0; i < v->img->desc.table.n; i++)
		if (gw_image_is_outside(v->img, i))
			v->outside += gw_image_npages(v->img, i);
	r = gw_scan(&scan, err);
	v->ns = gw_now_ns() - started;
	return r;
}
