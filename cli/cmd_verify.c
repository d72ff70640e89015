/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_verify.c - godwit verify FILE: is a stored VM whole? */
#include <stdio.h>

#include "base/units.h"
#include "cli/cli.h"
#include "image/verify.h"

static uint64_t bytes_read(const struct gw_image_verify *v)
{
	return (v->npages[GW_PAGE_DATA] - v->hole_pages) * GW_PAGE_SIZE;
}

static double rate(const struct gw_image_verify *v)
{
	return v->ns > 0 ? (double)bytes_read(v) / (double)v->ns : 0; /* GB/s */
}

static void print(const struct gw_image_verify *v, const char *file)
{
	char size[32], time[32];
	uint64_t absent = v->npages[GW_PAGE_ABSENT] - v->outside;

	printf("%s is whole: %s, %llu pages with data, %llu zero, %llu absent, %d device section%s\n",
	       file, v->img->format,
	       (unsigned long long)v->npages[GW_PAGE_DATA],
	       (unsigned long long)v->npages[GW_PAGE_ZERO],
	       (unsigned long long)v->npages[GW_PAGE_ABSENT], v->ndevices,
	       v->ndevices == 1 ? "" : "s");
	printf("read %s in %s, %.2f GB/s\n",
	       gw_format_size(size, sizeof(size), bytes_read(v)),
	       gw_format_time(time, sizeof(time), v->ns), rate(v));
	if (v->outside)
		printf("note: %llu pages are in another file (x-ignore-shared) and were not looked at\n",
		       (unsigned long long)v->outside);
	if (absent && !v->img->desc.config.mapped_ram)
		printf("note: %llu pages never came; they are taken for zero\n",
		       (unsigned long long)absent);
	if (v->hole_pages)
		printf("note: %llu pages are marked in the bitmaps and are holes of the file, so zero\n",
		       (unsigned long long)v->hole_pages);
	if (v->zero_data)
		printf("note: %llu pages are stored though they are zero\n",
		       (unsigned long long)v->zero_data);
	if (!v->img->vmdesc)
		printf("note: without a description the device sections were told apart by their footers only\n");
}

static void print_json(const struct gw_image_verify *v)
{
	cli_json(json_pack(
		"{s:b, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:f}",
		"ok", 1, "format", v->img->format, "data",
		(json_int_t)v->npages[GW_PAGE_DATA], "zero",
		(json_int_t)v->npages[GW_PAGE_ZERO], "absent",
		(json_int_t)v->npages[GW_PAGE_ABSENT], "outside",
		(json_int_t)v->outside, "holes", (json_int_t)v->hole_pages,
		"stored-zero", (json_int_t)v->zero_data, "devices",
		v->ndevices, "bytes", (json_int_t)bytes_read(v), "GB/s",
		rate(v)));
}

int cmd_verify(int argc, char **argv)
{
	struct gw_image_verify v = { 0 };
	struct gw_error err = { 0 };
	char name[256];
	struct cli_image o;
	int r = cli_image_parse(&o, argc, argv, 1);

	if (r)
		return r;
	v.img = cli_image_open(&o, o.file[0], &err);
	if (!v.img)
		return cli_image_fail(&o, &err);
	v.threads = o.channels;
	v.cancel = cli_cancel();
	v.tick = cli_image_tick;
	v.data = &o;
	r = gw_image_verify(&v, &err);
	cli_image_say(&o, "");
	if (r)
		r = cli_image_fail(&o, &err);
	else if (o.json)
		print_json(&v);
	else if (!o.quiet)
		print(&v, cli_text(name, sizeof(name), v.img->path));
	gw_image_close(v.img);
	return r;
}
