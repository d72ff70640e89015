/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cmd_diff.c - godwit diff FILE FILE: how two stored VMs differ. Exits as
 * diff(1) does: 0 equal, 1 different.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "cli/cli.h"
#include "image/diff.h"

#define DIFFERENT 1

static const char *const kinds[GW_DIFF_NPAGES] = {
	[GW_DIFF_EQUAL] = "equal",	   [GW_DIFF_ZEROED] = "zeroed",
	[GW_DIFF_FILLED] = "filled",	   [GW_DIFF_CHANGED] = "changed",
	[GW_DIFF_REWRITTEN] = "rewritten",
};

/* What is to be said of a block besides its pages; "": nothing. */
static const char *note(const struct gw_diff_block *b, char *buf, size_t len)
{
	char a[32], c[32];

	*buf = '\0';
	if (b->in_b < 0 || b->in_a < 0)
		snprintf(buf, len, "only in the %s, %s",
			 b->in_a < 0 ? "second" : "first",
			 gw_format_size(a, sizeof(a),
					b->length_a + b->length_b));
	else if (b->outside)
		snprintf(buf, len,
			 "not compared: its memory is in another file");
	else if (b->length_a != b->length_b)
		snprintf(buf, len, "%s in the first, %s in the second",
			 gw_format_size(a, sizeof(a), b->length_a),
			 gw_format_size(c, sizeof(c), b->length_b));
	return buf;
}

static void print_block(const struct gw_diff_block *b)
{
	char name[256], text[128], a[32];

	printf("  %-28s", cli_text(name, sizeof(name), b->idstr));
	for (int k = 0; k < GW_DIFF_NPAGES; k++)
		printf(" %10llu", (unsigned long long)b->npages[k]);
	if (b->npages[GW_DIFF_CHANGED])
		printf("  %s of deltas",
		       gw_format_size(a, sizeof(a), b->delta));
	if (*note(b, text, sizeof(text)))
		printf("  %s", text);
	printf("\n");
}

static void print(const struct gw_image_diff *d)
{
	char a[256], b[256];

	if (d->machine)
		printf("machine: %s in the first, %s in the second\n",
		       cli_text(a, sizeof(a), d->a->desc.config.machine),
		       cli_text(b, sizeof(b), d->b->desc.config.machine));
	if (d->uuid)
		printf("uuid: another\n");
	if (d->nblocks) {
		printf("RAM, pages by block\n  %-28s", "");
		for (int k = 0; k < GW_DIFF_NPAGES; k++)
			printf(" %10s", kinds[k]);
		printf("\n");
	}
	for (int i = 0; i < d->nblocks; i++)
		print_block(&d->block[i]);
	printf("device state: %d section%s equal, %d different\n", d->nequal,
	       d->nequal == 1 ? "" : "s", d->nsections);
	for (int i = 0; i < d->nsections; i++)
		printf("  %-36s %3u  %s\n",
		       cli_text(a, sizeof(a), d->section[i].idstr),
		       d->section[i].instance_id, d->section[i].how);
	printf("%s\n", d->different ? "different" : "equal");
}

static json_t *block_json(const struct gw_diff_block *b)
{
	char name[256], text[128];
	json_t *j = json_pack("{s:s, s:I, s:I, s:b, s:I}", "name",
			      cli_text(name, sizeof(name), b->idstr),
			      "length-first", (json_int_t)b->length_a,
			      "length-second", (json_int_t)b->length_b,
			      "compared",
			      b->in_a >= 0 && b->in_b >= 0 && !b->outside,
			      "delta-bytes", (json_int_t)b->delta);

	for (int k = 0; k < GW_DIFF_NPAGES; k++)
		json_object_set_new(j, kinds[k],
				    json_integer((json_int_t)b->npages[k]));
	if (*note(b, text, sizeof(text)))
		json_object_set_new(j, "note", json_string(text));
	return j;
}

static void print_json(const struct gw_image_diff *d)
{
	json_t *blocks = json_array(), *sections = json_array();
	char name[256];

	for (int i = 0; i < d->nblocks; i++)
		json_array_append_new(blocks, block_json(&d->block[i]));
	for (int i = 0; i < d->nsections; i++)
		json_array_append_new(
			sections,
			json_pack("{s:s, s:I, s:s}", "name",
				  cli_text(name, sizeof(name),
					   d->section[i].idstr),
				  "instance",
				  (json_int_t)d->section[i].instance_id, "how",
				  d->section[i].how));
	cli_json(json_pack("{s:b, s:b, s:b, s:o, s:i, s:o}", "equal",
			   !d->different, "same-machine", !d->machine,
			   "same-uuid", !d->uuid, "blocks", blocks,
			   "equal-devices", d->nequal, "different-devices",
			   sections));
}

static int diff(struct cli_image *o, struct gw_image_diff *d,
		struct gw_error *err)
{
	d->a = cli_image_open(o, o->file[0], err);
	if (d->a)
		d->b = cli_image_open(o, o->file[1], err);
	if (!d->b)
		return -1;
	d->threads = o->channels;
	d->cancel = cli_cancel();
	d->tick = cli_image_tick;
	d->data = o;
	return gw_image_diff(d, err);
}

int cmd_diff(int argc, char **argv)
{
	struct gw_image_diff *d = calloc(1, sizeof(*d));
	struct gw_error err = { 0 };
	struct cli_image o;
	int r = cli_image_parse(&o, argc, argv, 2);

	if (!d || r) {
		free(d);
		return r ? r : GW_FAULT_FAILED;
	}
	r = diff(&o, d, &err);
	cli_image_say(&o, "");
	if (r) {
		r = cli_image_fail(&o, &err);
		if (r == DIFFERENT) /* a file that is not there, say */
			r = GW_FAULT_INPUT;
	} else {
		if (o.json)
			print_json(d);
		else if (!o.quiet)
			print(d);
		r = d->different ? DIFFERENT : 0;
	}
	gw_image_diff_fini(d);
	gw_image_close(d->a);
	gw_image_close(d->b);
	free(d);
	return r;
}
