/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * section.h - framing of a QEMU stream: file header, configuration, section
 * headers and footers, commands, return-path messages. Encode and decode side
 * by side; payloads belong to other files.
 */
#ifndef GW_WIRE_SECTION_H
#define GW_WIRE_SECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/reader.h"
#include "base/writer.h"
#include "wire/qemu.h"

/* START and FULL; PART and END have only the id. */
struct gw_section {
	uint32_t id;
	char idstr[256];
	uint32_t instance_id;
	uint32_t version_id;
};

void gw_section_put_long(struct gw_writer *w, enum gw_item item,
			 const struct gw_section *s);
void gw_section_put_short(struct gw_writer *w, enum gw_item item, uint32_t id);
void gw_section_put_footer(struct gw_writer *w, uint32_t id);

/* After the item byte was read. */
void gw_section_get_long(struct gw_reader *r, struct gw_section *s);
/* The footer that closes section @id, item byte included. */
int gw_section_get_footer(struct gw_reader *r, uint32_t id) GW_MUST_CHECK;

/* File header: magic and version, or an error that says what came instead. */
void gw_stream_put_header(struct gw_writer *w);
int gw_stream_get_header(struct gw_reader *r) GW_MUST_CHECK;

struct gw_configuration {
	char machine[GW_MAX_MACHINE_NAME + 1];
	bool ignore_shared, mapped_ram; /* validated capabilities */
	uint32_t page_bits; /* target-page-bits subsection; 0: not there */
	bool have_uuid;	    /* uuid subsection (validate-uuid) */
	uint8_t uuid[16];
};

/* Item byte included. */
void gw_configuration_put(struct gw_writer *w,
			  const struct gw_configuration *c);
/* "pc-q35-9.2" came with QEMU 9.2. Return: false if the name does not say. */
bool gw_machine_version(const char *machine, unsigned int *major,
			unsigned int *minor);
/* After the item byte; subsections included. */
int gw_configuration_get(struct gw_reader *r,
			 struct gw_configuration *c) GW_MUST_CHECK;

/* "PING"; "?" for a number that is none. */
const char *gw_command_name(unsigned int id);

void gw_command_put(struct gw_writer *w, enum gw_command id);
void gw_command_put_ping(struct gw_writer *w, uint32_t value);

/*
 * A command, whole, after the item byte; id and length are checked. Commands
 * of postcopy are refused by name: what follows them is no precopy stream any
 * more. (ENABLE_COLO comes first of all; behind it is a whole stream, and then
 * something else. Who reads decides.)
 */
struct gw_command_record {
	enum gw_command id;
	uint32_t ping; /* PING */
};
int gw_command_get(struct gw_reader *r,
		   struct gw_command_record *c) GW_MUST_CHECK;

/* Return path. @value: SHUT (0: fine), PONG. */
void gw_rp_put(struct gw_writer *w, enum gw_rp type, uint32_t value);
struct gw_rp_record {
	enum gw_rp type;
	uint32_t value;
};
int gw_rp_get(struct gw_reader *r, struct gw_rp_record *m) GW_MUST_CHECK;

#endif
