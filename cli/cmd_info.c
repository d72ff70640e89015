/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cmd_info.c - godwit info FILE: what a stored VM has and what loads it, for
 * people and as JSON.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "cli/cli.h"
#include "image/info.h"

struct view {
	struct cli_image o;
	struct gw_image *img;
	struct gw_image_info info;
};

#define SIZE 32

static const char *size(char buf[SIZE], uint64_t nbytes)
{
	return gw_format_size(buf, SIZE, nbytes);
}

static const char *item_name(enum gw_item item)
{
	switch (item) {
	case GW_ITEM_SECTION_START:
		return "START";
	case GW_ITEM_SECTION_END:
		return "END";
	default:
		return "PART";
	}
}

/* --- what it takes to load it ------------------------------------------- */

#define MAX_LOADS 6

struct loads {
	char line[MAX_LOADS][768];
	int n;
};

static void load(struct loads *l, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void load(struct loads *l, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(l->line[l->n], sizeof(l->line[0]), fmt, ap);
	va_end(ap);
	l->n++;
}

static const char *capabilities(const struct gw_configuration *c)
{
	return c->mapped_ram && c->ignore_shared ?
		       "capabilities mapped-ram and x-ignore-shared" :
	       c->mapped_ram	? "capability mapped-ram" :
	       c->ignore_shared ? "capability x-ignore-shared" :
				  "no capability";
}

/* Offsets of a mapped-ram file count from its beginning: no other way in. */
static void load_qemu(const struct view *v, struct loads *l, const char *path)
{
	const struct gw_image *img = v->img;
	char offset[SIZE] = "";

	if (img->base)
		snprintf(offset, sizeof(offset), ",offset=%llu",
			 (unsigned long long)img->base);
	if (img->desc.config.mapped_ram)
		load(l, "-incoming defer, then migrate-incoming file:%s%s",
		     path, offset);
	else if (img->base)
		load(l, "-incoming \"exec:tail -c +%llu %s\", or from 8.2 on file:%s%s",
		     (unsigned long long)img->base + 1, path, path, offset);
	else
		load(l, "-incoming \"exec:cat %s\", or from 8.2 on file:%s",
		     path, path);
}

static void find_loads(const struct view *v, struct loads *l)
{
	const struct gw_image_info *i = &v->info;
	const struct gw_configuration *c = &v->img->desc.config;
	char path[sizeof(v->img->path)], version[SIZE] = "QEMU 7.2 or later";
	char machine[sizeof(c->machine)];

	l->n = 0;
	if (*i->trouble || *i->device_trouble)
		return;
	if (i->qemu_major * 100 + i->qemu_minor > 702)
		snprintf(version, sizeof(version), "QEMU %u.%u or later",
			 i->qemu_major, i->qemu_minor);
	load(l, "%s, machine type %s, %s%s", version,
	     cli_text(machine, sizeof(machine), c->machine), capabilities(c),
	     c->have_uuid ? ", its UUID" : "");
	if (v->img->colo)
		load(l, "in QEMU after godwit convert, which leaves out what makes it COLO");
	else
		load_qemu(v, l,
		  strcmp(v->o.file[0], "-") ?
			  cli_text(path, sizeof(path), v->img->path) :
			  "FILE");
	if (i->all.outside)
		load(l, "and the file that has the memory of blocks marked 'outside'");
	else
		load(l, "godwit restore");
}

/* --- for people --------------------------------------------------------- */

static void print_file(const struct view *v)
{
	const struct gw_image *img = v->img;
	char a[SIZE], b[SIZE], path[sizeof(img->path)];

	printf("file          %s\n", cli_text(path, sizeof(path), img->path));
	printf("format        %s%s", img->format,
	       img->libvirt ? ", saved by libvirt" : "");
	if (img->base)
		printf(", begins at byte %llu", (unsigned long long)img->base);
	printf("\nsize          %s, %s on disk\n", size(a, img->size),
	       size(b, img->allocated));
}

static void print_config(const struct view *v)
{
	const struct gw_configuration *c = &v->img->desc.config;
	char machine[sizeof(c->machine)], len[SIZE];

	printf("machine       %s\n",
	       cli_text(machine, sizeof(machine), c->machine));
	if (c->have_uuid) {
		printf("uuid          ");
		for (int i = 0; i < 16; i++)
			printf("%s%02x",
			       i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
			       c->uuid[i]);
		printf("\n");
	}
	if (c->page_bits)
		printf("page bits     %u\n", c->page_bits);
	if (c->mapped_ram || c->ignore_shared)
		printf("capabilities %s%s\n",
		       c->ignore_shared ? " x-ignore-shared" : "",
		       c->mapped_ram ? " mapped-ram" : "");
	if (v->img->return_path)
		printf("recorded      from a connection (it asks for a return path)\n");
	if (v->img->colo)
		printf("colo          what a primary of QEMU's COLO sent: its first migration, and %s of checkpoints behind it, not read\n",
		       size(len, v->img->colo_bytes));
}

static void print_block(const struct view *v, int i)
{
	const struct gw_ram_entry *e = &v->img->desc.table.entry[i];
	const struct gw_image_pages *p = &v->info.block[i];
	char name[sizeof(e->idstr)], len[SIZE];

	printf("  %-28s %9s %9llu %9llu %9llu",
	       cli_text(name, sizeof(name), e->idstr),
	       size(len, e->used_length),
	       (unsigned long long)p->npages[GW_PAGE_DATA],
	       (unsigned long long)p->npages[GW_PAGE_ZERO],
	       (unsigned long long)p->npages[GW_PAGE_ABSENT]);
	if (v->img->desc.config.ignore_shared)
		printf("  at 0x%llx%s", (unsigned long long)e->mr_addr,
		       p->outside ? ", outside" : "");
	if (v->o.pages && p->nruns)
		printf("  %llu runs, the longest of %llu",
		       (unsigned long long)p->nruns,
		       (unsigned long long)p->longest);
	printf("\n");
}

static void print_ram(const struct view *v)
{
	const struct gw_ram_table *t = &v->img->desc.table;
	char a[SIZE];

	printf("RAM           %s in %d block%s%s\n", size(a, t->total), t->n,
	       t->n == 1 ? "" : "s",
	       v->img->have_end || !t->n ?
		       "" :
		       ", without an end (background-snapshot)");
	if (!t->n)
		return;
	printf("  %-28s %9s %9s %9s %9s\n", "block", "length", "data", "zero",
	       "absent");
	for (int i = 0; i < t->n; i++)
		print_block(v, i);
}

static void print_pass(const struct gw_image_pass *p)
{
	char a[SIZE];

	printf("%llu pages, %llu zero, %llu deltas, %s\n",
	       (unsigned long long)p->normal, (unsigned long long)p->zero,
	       (unsigned long long)p->delta, size(a, p->nbytes));
}

static void print_sections(const struct view *v)
{
	const struct gw_image *img = v->img;

	printf("sections      %d of RAM", img->npasses);
	if (!img->desc.config.mapped_ram) {
		printf(": ");
		print_pass(&v->info.records);
	} else {
		printf("\n");
	}
	for (int i = 0; v->o.pages && i < img->npasses; i++) {
		printf("  %-5s %5d  ", item_name(img->pass[i].item), i);
		print_pass(&img->pass[i]);
	}
}

static void print_devices(const struct view *v)
{
	const struct gw_image_info *i = &v->info;
	char a[SIZE], b[SIZE], c[SIZE], name[256];

	printf("bytes         RAM %s, devices %s, description %s\n",
	       size(a, i->ram_bytes), size(b, i->device_bytes),
	       size(c, i->vmdesc_bytes));
	if (*i->device_trouble) {
		char text[GW_ERROR_MAX];

		printf("devices       damaged: %s\n",
		       cli_text(text, sizeof(text), i->device_trouble));
		return;
	}
	printf("devices       %d section%s%s\n", i->devices.n,
	       i->devices.n == 1 ? "" : "s",
	       v->img->vmdesc ? "" : ", without a description");
	printf("  %-36s %8s %7s %9s\n", "name", "instance", "version", "bytes");
	for (int k = 0; k < i->devices.n; k++) {
		const struct gw_tail_section *s = &i->devices.section[k];

		printf("  %-36s %8u %7u %9zu\n",
		       cli_text(name, sizeof(name), s->idstr), s->instance_id,
		       s->version_id, s->size);
	}
}

static void print_loads(const struct view *v)
{
	char text[GW_ERROR_MAX];
	struct loads l;

	find_loads(v, &l);
	for (int i = 0; i < l.n; i++)
		printf("%-13s %s\n", i ? "" : "loaded by", l.line[i]);
	if (*v->info.trouble)
		printf("trouble       %s\n",
		       cli_text(text, sizeof(text), v->info.trouble));
}

static void print(const struct view *v)
{
	print_file(v);
	print_config(v);
	print_ram(v);
	print_sections(v);
	print_devices(v);
	print_loads(v);
}

/* --- for programs ------------------------------------------------------- */

static json_t *number(uint64_t v)
{
	return json_integer((json_int_t)v);
}

static json_t *text(const char *s)
{
	char safe[GW_ERROR_MAX];

	return json_string(cli_text(safe, sizeof(safe), s));
}

static json_t *block_json(const struct view *v, int i)
{
	const struct gw_ram_entry *e = &v->img->desc.table.entry[i];
	const struct gw_image_pages *p = &v->info.block[i];
	json_t *j = json_pack("{s:o, s:o, s:o, s:o, s:o}", "name",
			      text(e->idstr), "length", number(e->used_length),
			      "data", number(p->npages[GW_PAGE_DATA]), "zero",
			      number(p->npages[GW_PAGE_ZERO]), "absent",
			      number(p->npages[GW_PAGE_ABSENT]));

	if (v->img->desc.config.ignore_shared) {
		json_object_set_new(j, "mr-addr", number(e->mr_addr));
		json_object_set_new(j, "outside", json_boolean(p->outside));
	}
	if (v->o.pages) {
		json_object_set_new(j, "runs", number(p->nruns));
		json_object_set_new(j, "longest-run", number(p->longest));
	}
	return j;
}

static json_t *pass_json(const struct gw_image_pass *p)
{
	return json_pack("{s:o, s:o, s:o, s:o}", "pages", number(p->normal),
			 "zero", number(p->zero), "deltas", number(p->delta),
			 "bytes", number(p->nbytes));
}

static json_t *device_json(const struct gw_tail_section *s)
{
	return json_pack("{s:o, s:o, s:o, s:o}", "name", text(s->idstr),
			 "instance", number(s->instance_id), "version",
			 number(s->version_id), "bytes", number(s->size));
}

static void add_config(json_t *j, const struct gw_configuration *c)
{
	json_t *caps = json_array();
	char uuid[37];
	int n = 0;

	if (c->ignore_shared)
		json_array_append_new(caps, json_string("x-ignore-shared"));
	if (c->mapped_ram)
		json_array_append_new(caps, json_string("mapped-ram"));
	json_object_set_new(j, "machine", text(c->machine));
	json_object_set_new(j, "capabilities", caps);
	if (c->page_bits)
		json_object_set_new(j, "page-bits", number(c->page_bits));
	for (int i = 0; i < 16; i++)
		n += snprintf(uuid + n, sizeof(uuid) - (size_t)n, "%s%02x",
			      i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
			      c->uuid[i]);
	if (c->have_uuid)
		json_object_set_new(j, "uuid", json_string(uuid));
}

static void add_ram(json_t *j, const struct view *v)
{
	json_t *blocks = json_array(), *passes = json_array();
	const struct gw_image *img = v->img;

	for (int i = 0; i < img->desc.table.n; i++)
		json_array_append_new(blocks, block_json(v, i));
	json_object_set_new(j, "blocks", blocks);
	json_object_set_new(j, "ended", json_boolean(img->have_end));
	json_object_set_new(j, "return-path", json_boolean(img->return_path));
	json_object_set_new(j, "colo", json_boolean(img->colo));
	json_object_set_new(j, "sections", number((uint64_t)img->npasses));
	json_object_set_new(j, "records", pass_json(&v->info.records));
	for (int i = 0; v->o.pages && i < img->npasses; i++) {
		json_t *p = pass_json(&img->pass[i]);

		json_object_set_new(
			p, "section", json_string(item_name(img->pass[i].item)));
		json_array_append_new(passes, p);
	}
	if (v->o.pages)
		json_object_set(j, "passes", passes);
	json_decref(passes);
}

static void add_devices(json_t *j, const struct view *v)
{
	const struct gw_image_info *i = &v->info;
	json_t *devices = json_array(), *loads = json_array();
	struct loads l;

	for (int k = 0; k < i->devices.n; k++)
		json_array_append_new(devices,
				      device_json(&i->devices.section[k]));
	json_object_set_new(j, "bytes",
			    json_pack("{s:o, s:o, s:o}", "ram",
				      number(i->ram_bytes), "devices",
				      number(i->device_bytes), "description",
				      number(i->vmdesc_bytes)));
	if (v->img->colo)
		json_object_set_new(json_object_get(j, "bytes"), "colo",
				    number(v->img->colo_bytes));
	json_object_set_new(j, "devices", devices);
	find_loads(v, &l);
	for (int k = 0; k < l.n; k++)
		json_array_append_new(loads, text(l.line[k]));
	json_object_set_new(j, "loaded-by", loads);
	if (i->qemu_major)
		json_object_set_new(j, "qemu",
				    json_sprintf("%u.%u", i->qemu_major,
						 i->qemu_minor));
	if (*i->device_trouble)
		json_object_set_new(j, "device-trouble",
				    text(i->device_trouble));
	if (*i->trouble)
		json_object_set_new(j, "trouble", text(i->trouble));
}

static void print_json(const struct view *v)
{
	const struct gw_image *img = v->img;
	json_t *j = json_pack("{s:o, s:s, s:o, s:o, s:o, s:b}", "file",
			      text(img->path), "format", img->format, "size",
			      number(img->size), "allocated",
			      number(img->allocated), "offset",
			      number(img->base), "libvirt", img->libvirt);

	add_config(j, &img->desc.config);
	add_ram(j, v);
	add_devices(j, v);
	cli_json(j);
}

int cmd_info(int argc, char **argv)
{
	struct view *v = calloc(1, sizeof(*v));
	struct gw_error err = { 0 };
	int r;

	if (!v)
		return GW_FAULT_FAILED;
	r = cli_image_parse(&v->o, argc, argv, 1);
	if (!r) {
		v->img = cli_image_open(&v->o, v->o.file[0], &err);
		if (!v->img)
			r = cli_image_fail(&v->o, &err);
	}
	if (!r) {
		gw_image_info(v->img, &v->info);
		if (v->o.json)
			print_json(v);
		else
			print(v);
		gw_image_info_fini(&v->info);
	}
	gw_image_close(v->img);
	free(v);
	return r;
}
