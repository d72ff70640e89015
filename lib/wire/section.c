/* SPDX-License-Identifier: BSD-3-Clause */
/* section.c - see section.h. */
#include "wire/section.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "ram/block.h"

void gw_section_put_long(struct gw_writer *w, enum gw_item item,
			 const struct gw_section *s)
{
	gw_write_u8(w, (uint8_t)item);
	gw_write_be32(w, s->id);
	gw_write_cstr8(w, s->idstr);
	gw_write_be32(w, s->instance_id);
	gw_write_be32(w, s->version_id);
}

void gw_section_put_short(struct gw_writer *w, enum gw_item item, uint32_t id)
{
	gw_write_u8(w, (uint8_t)item);
	gw_write_be32(w, id);
}

void gw_section_put_footer(struct gw_writer *w, uint32_t id)
{
	gw_write_u8(w, GW_ITEM_SECTION_FOOTER);
	gw_write_be32(w, id);
}

void gw_section_get_long(struct gw_reader *r, struct gw_section *s)
{
	s->id = gw_read_be32(r);
	gw_read_cstr8(r, s->idstr, "a section name");
	s->instance_id = gw_read_be32(r);
	s->version_id = gw_read_be32(r);
}

int gw_section_get_footer(struct gw_reader *r, uint32_t id)
{
	uint8_t item = gw_read_u8(r);
	uint32_t got = gw_read_be32(r);

	if (!gw_read_failed(r) && (item != GW_ITEM_SECTION_FOOTER || got != id))
		return gw_read_fail(r, EPROTO,
				    "section %u ends with byte 0x%02x, id %u instead of its footer",
				    id, item, got);
	return -r->err.code;
}

void gw_stream_put_header(struct gw_writer *w)
{
	gw_write_be32(w, GW_QEMU_MAGIC);
	gw_write_be32(w, GW_QEMU_VERSION);
}

int gw_stream_get_header(struct gw_reader *r)
{
	uint32_t magic = gw_read_be32(r);
	uint32_t version = gw_read_be32(r);

	if (gw_read_failed(r))
		return -r->err.code;
	if (magic != GW_QEMU_MAGIC)
		return gw_read_fail(r, EPROTO,
				    "not a QEMU stream: it begins with 0x%08x, not 0x%08x (\"QEVM\")",
				    magic, GW_QEMU_MAGIC);
	if (version != GW_QEMU_VERSION)
		return gw_read_fail(r, EPROTO,
				    "QEMU stream of version %u, only %u is known",
				    version, GW_QEMU_VERSION);
	return 0;
}

static void put_subsection(struct gw_writer *w, const char *name)
{
	gw_write_u8(w, GW_ITEM_SUBSECTION);
	gw_write_cstr8(w, name);
	gw_write_be32(w, 1);
}

void gw_configuration_put(struct gw_writer *w,
			  const struct gw_configuration *c)
{
	gw_write_u8(w, GW_ITEM_CONFIGURATION);
	gw_write_be32(w, (uint32_t)strlen(c->machine));
	gw_write_bytes(w, c->machine, strlen(c->machine));
	if (c->page_bits) {
		put_subsection(w, "configuration/target-page-bits");
		gw_write_be32(w, c->page_bits);
	}
	if (c->ignore_shared || c->mapped_ram) {
		put_subsection(w, "configuration/capabilities");
		gw_write_be32(w, c->ignore_shared + c->mapped_ram);
		if (c->ignore_shared)
			gw_write_cstr8(w, "x-ignore-shared");
		if (c->mapped_ram)
			gw_write_cstr8(w, "mapped-ram");
	}
	if (c->have_uuid) {
		put_subsection(w, "configuration/uuid");
		gw_write_bytes(w, c->uuid, sizeof(c->uuid));
	}
}

static void get_capabilities(struct gw_reader *r, struct gw_configuration *c)
{
	uint32_t n = gw_read_be32(r);
	char name[256];

	if (n > GW_MAX_CAPABILITIES) {
		gw_read_fail(r, EPROTO, "%u capabilities, the limit is %u", n,
			     GW_MAX_CAPABILITIES);
		return;
	}
	for (uint32_t i = 0; i < n && !gw_read_failed(r); i++) {
		bool *known;

		gw_read_cstr8(r, name, "a capability name");
		known = !strcmp(name, "x-ignore-shared") ? &c->ignore_shared :
			!strcmp(name, "mapped-ram")	 ? &c->mapped_ram :
							   NULL;
		if (!gw_read_failed(r) && !known)
			gw_read_fail(r, ENOTSUP, "unknown capability '%s'",
				     name);
		else if (known && *known)
			gw_read_fail(r, EPROTO, "capability '%s' twice", name);
		else if (known)
			*known = true;
	}
}

static void get_page_bits(struct gw_reader *r, struct gw_configuration *c)
{
	c->page_bits = gw_read_be32(r);
	if (!gw_read_failed(r) && c->page_bits != GW_PAGE_BITS)
		gw_read_fail(r, ENOTSUP,
			     "target pages of 2^%u bytes: only 2^%u (x86) can be read",
			     c->page_bits, GW_PAGE_BITS);
}

static void get_uuid(struct gw_reader *r, struct gw_configuration *c)
{
	gw_read_bytes(r, c->uuid, sizeof(c->uuid));
	c->have_uuid = true;
}

bool gw_machine_version(const char *machine, unsigned int *major,
			unsigned int *minor)
{
	const char *dash = strrchr(machine, '-');
	char end;

	return dash && dash[1] >= '0' && dash[1] <= '9' &&
	       sscanf(dash + 1, "%3u.%3u%c", major, minor, &end) == 2;
}

int gw_configuration_get(struct gw_reader *r, struct gw_configuration *c)
{
	static const char parent[] = "configuration/";
	char name[256];
	uint32_t n;

	memset(c, 0, sizeof(*c));
	n = gw_read_len32(r, GW_MAX_MACHINE_NAME, "the machine name");
	gw_read_bytes(r, c->machine, n);
	if (!gw_read_failed(r) && strlen(c->machine) != n)
		return gw_read_fail(r, EPROTO,
				    "a NUL inside the machine name");
	for (;;) {
		const uint8_t *next = gw_read_peek(r, 1);

		if (!next || *next != GW_ITEM_SUBSECTION)
			return -r->err.code;
		gw_read_u8(r);
		gw_read_cstr8(r, name, "a configuration subsection's name");
		gw_read_be32(r); /* version_id, 1 for all of them */
		if (!strcmp(name, "configuration/capabilities"))
			get_capabilities(r, c);
		else if (!strcmp(name, "configuration/target-page-bits"))
			get_page_bits(r, c);
		else if (!strcmp(name, "configuration/uuid"))
			get_uuid(r, c);
		else
			return gw_read_fail(r, ENOTSUP,
					    "unknown configuration subsection '%s' (known are %scapabilities, target-page-bits, uuid)",
					    name, parent);
		if (gw_read_failed(r))
			return -r->err.code;
	}
}

/* Commands by number: the length they must have, -1: refused here. */
static const struct {
	const char *name;
	int len;
} commands[GW_CMD_MAX + 1] = {
	[0] = { "INVALID", -1 },
	[GW_CMD_OPEN_RETURN_PATH] = { "OPEN_RETURN_PATH", 0 },
	[GW_CMD_PING] = { "PING", 4 },
	[GW_CMD_POSTCOPY_ADVISE] = { "POSTCOPY_ADVISE", -1 },
	[GW_CMD_POSTCOPY_LISTEN] = { "POSTCOPY_LISTEN", -1 },
	[GW_CMD_POSTCOPY_RUN] = { "POSTCOPY_RUN", -1 },
	[GW_CMD_POSTCOPY_RAM_DISCARD] = { "POSTCOPY_RAM_DISCARD", -1 },
	[GW_CMD_PACKAGED] = { "PACKAGED", -1 },
	[GW_CMD_ENABLE_COLO] = { "ENABLE_COLO", 0 },
	[GW_CMD_POSTCOPY_RESUME] = { "POSTCOPY_RESUME", -1 },
	[GW_CMD_RECV_BITMAP] = { "RECV_BITMAP", -1 },
	[GW_CMD_SWITCHOVER_START] = { "SWITCHOVER_START", 0 },
};

const char *gw_command_name(unsigned int id)
{
	return id <= GW_CMD_MAX ? commands[id].name : "?";
}

void gw_command_put(struct gw_writer *w, enum gw_command id)
{
	gw_write_u8(w, GW_ITEM_COMMAND);
	gw_write_be16(w, (uint16_t)id);
	gw_write_be16(w, 0);
}

void gw_command_put_ping(struct gw_writer *w, uint32_t value)
{
	gw_write_u8(w, GW_ITEM_COMMAND);
	gw_write_be16(w, GW_CMD_PING);
	gw_write_be16(w, 4);
	gw_write_be32(w, value);
}

int gw_command_get(struct gw_reader *r, struct gw_command_record *c)
{
	uint16_t id = gw_read_be16(r), len = gw_read_be16(r);

	if (gw_read_failed(r))
		return -r->err.code;
	if (id > GW_CMD_MAX || commands[id].len < 0)
		return gw_read_fail(r, ENOTSUP,
				    "command %u (%s) is not part of a precopy stream: switch postcopy-ram off at the source",
				    id, gw_command_name(id));
	if (len != commands[id].len)
		return gw_read_fail(r, EPROTO,
				    "command %u (%s) has %u bytes instead of %d",
				    id, commands[id].name, len,
				    commands[id].len);
	c->id = (enum gw_command)id;
	c->ping = len ? gw_read_be32(r) : 0;
	return -r->err.code;
}

void gw_rp_put(struct gw_writer *w, enum gw_rp type, uint32_t value)
{
	gw_write_be16(w, (uint16_t)type);
	if (type == GW_RP_SWITCHOVER_ACK) {
		gw_write_be16(w, 0);
		return;
	}
	gw_write_be16(w, 4);
	gw_write_be32(w, value);
}

int gw_rp_get(struct gw_reader *r, struct gw_rp_record *m)
{
	uint16_t type = gw_read_be16(r), len = gw_read_be16(r);
	uint16_t want = type == GW_RP_SWITCHOVER_ACK ? 0 : 4;

	if (gw_read_failed(r))
		return -r->err.code;
	if (type != GW_RP_SHUT && type != GW_RP_PONG &&
	    type != GW_RP_SWITCHOVER_ACK)
		return gw_read_fail(r, EPROTO,
				    "unexpected return-path message %u", type);
	if (len != want)
		return gw_read_fail(r, EPROTO,
				    "return-path message %u has %u bytes instead of %u",
				    type, len, want);
	m->type = (enum gw_rp)type;
	m->value = want ? gw_read_be32(r) : 0;
	return -r->err.code;
}
