/* SPDX-License-Identifier: BSD-3-Clause */
/* devload.c - see devload.h. */
#include "dest/devload.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "base/writer.h"
#include "wire/ram.h"
#include "wire/section.h"
#include "wire/vmdesc.h"

#define RAM_ID 1u /* as QEMU has it; any would do */

static int flush_to_vm(void *arg, struct iovec *iov, int niov,
		       struct gw_error *err)
{
	struct gw_vm *vm = arg;
	int r = 0;

	for (int i = 0; i < niov && !r; i++)
		if (iov[i].iov_len)
			r = vm->ops->load_write(vm, iov[i].iov_base,
						iov[i].iov_len, err);
	return r;
}

static void put_table(struct gw_writer *w, const struct gw_image_desc *d)
{
	struct gw_section s = { .id = RAM_ID,
				.idstr = "ram",
				.version_id = GW_RAM_VERSION };

	gw_section_put_long(w, GW_ITEM_SECTION_START, &s);
	gw_ram_put_total(w, d->table.total);
	for (int i = 0; i < d->table.n; i++) {
		const struct gw_ram_entry *e = &d->table.entry[i];

		/* QEMU looks only at those of shared blocks. */
		gw_ram_put_entry(w, e->idstr, e->used_length, &e->mr_addr);
	}
	gw_ram_put_eos(w);
	gw_section_put_footer(w, RAM_ID);
}

static void put_block(struct gw_writer *w, struct gw_ram_encoder *e,
		      const struct gw_ram_entry *entry,
		      const struct gw_devload_block *b)
{
	for (uint64_t i = 0; i < entry->used_length >> GW_PAGE_BITS; i++) {
		uint64_t addr = i << GW_PAGE_BITS;

		if (b->state[i] == GW_PAGE_DATA)
			gw_ram_put_page(w, e, entry->idstr, addr,
					b->data + addr);
		else if (b->state[i] == GW_PAGE_ZERO)
			gw_ram_put_zero(w, e, entry->idstr, addr);
	}
}

static void put_head(struct gw_writer *w, const struct gw_devload *l)
{
	struct gw_configuration c = l->d->config;
	struct gw_ram_encoder e = { NULL };

	c.ignore_shared = true;
	c.mapped_ram = false;
	gw_stream_put_header(w);
	gw_configuration_put(w, &c);
	/* On it QEMU says whether it took the state. */
	gw_command_put(w, GW_CMD_OPEN_RETURN_PATH);
	put_table(w, l->d);
	gw_section_put_short(w, GW_ITEM_SECTION_END, RAM_ID);
	for (int i = 0; i < l->d->table.n; i++)
		if (l->block[i].data)
			put_block(w, &e, &l->d->table.entry[i], &l->block[i]);
	gw_ram_put_eos(w);
	gw_section_put_footer(w, RAM_ID);
}

/*
 * "running" and "suspended" are states of a VM that ran; without the section
 * QEMU takes it for running as well.
 */
static bool did_run(const struct gw_devload *l, const struct gw_tail *t)
{
	const uint8_t *p = l->sections;
	char state[33] = "";

	for (int i = 0; i < t->n; i++) {
		const struct gw_tail_section *s = &t->section[i];

		if (strcmp(s->idstr, "globalstate") || s->size < 4 + 32)
			continue;
		memcpy(state, p + s->payload + 4, 32);
		return !strcmp(state, "running") || !strcmp(state, "suspended");
	}
	return true;
}

/* The end of the state is found by its description: without one, the least
 * that says how long each section is. */
static char *describe(const struct gw_tail *t)
{
	json_t *devices = json_array();
	json_t *j;
	char *text;

	for (int i = 0; i < t->n; i++) {
		const struct gw_tail_section *s = &t->section[i];
		json_int_t size = (json_int_t)s->size;

		json_array_append_new(
			devices,
			json_pack("{s:s, s:I, s:I, s:[{s:s, s:I, s:s}]}",
				  "name", s->idstr, "instance_id",
				  (json_int_t)s->instance_id, "size", size,
				  "fields", "name", "data", "size", size,
				  "type", "buffer"));
	}
	j = json_pack("{s:i, s:o}", "page_size", (int)GW_PAGE_SIZE, "devices",
		      devices);
	text = j ? json_dumps(j, 0) : NULL;
	json_decref(j);
	return text;
}

int gw_devload_write(struct gw_devload *l, struct gw_error *err)
{
	const char *vmdesc = l->vmdesc;
	size_t vmdesc_len = l->vmdesc_len;
	gw_autofree char *made = NULL;
	struct gw_tail t = { 0 };
	struct gw_writer w;
	int r = vmdesc ? gw_tail_split(&t, l->sections, l->len, vmdesc,
				       vmdesc_len, err) :
			 gw_tail_scan(&t, l->sections, l->len, err);

	if (!r && !vmdesc) {
		vmdesc = made = describe(&t);
		if (!made)
			r = gw_fail(err, ENOMEM,
				    "no memory to describe the device state");
		vmdesc_len = made ? strlen(made) : 0;
	}
	if (!r) {
		l->ran = did_run(l, &t);
		gw_writer_init(&w, flush_to_vm, l->vm);
		put_head(&w, l);
		gw_write_ref(&w, l->sections, l->len);
		gw_write_u8(&w, GW_ITEM_EOF);
		gw_write_u8(&w, GW_ITEM_VMDESCRIPTION);
		gw_write_be32(&w, (uint32_t)vmdesc_len);
		gw_write_ref(&w, vmdesc, vmdesc_len);
		r = gw_write_flush(&w, err);
	}
	gw_tail_fini(&t);
	return r;
}
