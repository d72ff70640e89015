/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * copy.c - what `convert` and `dump` have in common: a stored VM goes into a
 * new file, with progress, and what that was is told at the end.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "cli/cli.h"
#include "image/image.h"
#include "ram/block.h"

struct outcome {
	struct gw_copy copy;
	uint64_t nbytes;
	int64_t ns;
};

/* Of the memory of the VM, GB (10^9) per second. */
static double rate(const struct outcome *u)
{
	double bytes = (double)(u->copy.normal + u->copy.duplicate) *
		       GW_PAGE_SIZE;

	return u->ns > 0 ? bytes / (double)u->ns : 0;
}

/* Where OUT is standard output, words go beside it. */
static void print(const struct cli_image *o, const struct outcome *u)
{
	FILE *f = strcmp(o->file[1], "-") ? stdout : stderr;
	char size[32], time[32];

	fprintf(f,
		"%s: %s, %llu pages with data, %llu zero, %s written in %s, %.2f GB/s of memory\n",
		strcmp(o->file[1], "-") ? o->file[1] : "standard output",
		o->format, (unsigned long long)u->copy.normal,
		(unsigned long long)u->copy.duplicate,
		gw_format_size(size, sizeof(size), u->nbytes),
		gw_format_time(time, sizeof(time), u->ns), rate(u));
}

static void print_json(const struct cli_image *o, const struct outcome *u)
{
	cli_json(json_pack("{s:b, s:s, s:I, s:I, s:I, s:f, s:f}", "ok", 1,
			   "format", o->format, "normal",
			   (json_int_t)u->copy.normal, "duplicate",
			   (json_int_t)u->copy.duplicate, "bytes",
			   (json_int_t)u->nbytes, "seconds",
			   (double)u->ns / 1e9, "GB/s", rate(u)));
}

/* The image has all that OUT is to have. */
static int check_image(struct gw_image *img, struct gw_error *err)
{
	int r = gw_image_usable(img, err);

	for (int i = 0; i < img->desc.table.n && !r; i++)
		if (gw_image_is_outside(img, i))
			r = gw_fail_as(
				err, GW_FAULT_INPUT, ENODATA,
				"%s: block '%s' is in a file of its own (x-ignore-shared) and not in this one",
				img->path, img->desc.table.entry[i].idstr);
	return r;
}

static int copy(struct cli_image *o, struct outcome *u, struct gw_error *err)
{
	struct gw_copy *c = &u->copy;
	int64_t start = gw_now_ns();
	int r = gw_image_copy(c, err);

	if (!r) {
		cli_image_say(o, "waiting for the disk ...");
		r = c->sink->ops->ready(c->sink, err);
	}
	if (!r && gw_cancel_requested(c->cancel))
		r = gw_cancel_fail(err);
	if (!r)
		r = c->sink->ops->finish(c->sink, err);
	u->ns = gw_now_ns() - start;
	u->nbytes = gw_sink_nbytes(c->sink);
	cli_image_say(o, "");
	return r;
}

static int copy_open(struct cli_image *o, struct gw_image *img,
		     struct outcome *u, struct gw_error *err)
{
	const struct gw_sink_options so = {
		.channels = o->channels,
		.direct_io = o->direct_io,
		.block = o->block,
		.cancel = cli_cancel(),
	};
	struct gw_sink *sink = gw_sink_file(o->format, o->file[1], &so, err);
	int r;

	if (!sink)
		return -err->code;
	u->copy = (struct gw_copy){ .img = img,
				    .sink = sink,
				    .threads = o->channels,
				    .cancel = so.cancel,
				    .tick = cli_image_tick,
				    .data = o };
	r = copy(o, u, err);
	gw_sink_close(sink);
	return r;
}

int cli_image_copy(struct cli_image *o,
		   int (*check)(struct gw_image *img, struct cli_image *o,
				struct gw_error *err))
{
	struct gw_error err = { 0 };
	struct outcome u = { 0 };
	struct gw_image *img;
	int r;

	img = cli_image_open(o, o->file[0], &err);
	if (!img)
		return cli_image_fail(o, &err);
	r = check_image(img, &err);
	if (!r && check)
		r = check(img, o, &err);
	if (!r)
		r = copy_open(o, img, &u, &err);
	gw_image_close(img);
	if (r)
		return cli_image_fail(o, &err);
	if (o->json)
		print_json(o, &u);
	else if (!o->quiet)
		print(o, &u);
	return 0;
}
