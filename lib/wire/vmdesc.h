/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vmdesc.h - the closing VMDESCRIPTION of a stream: a JSON text that lists the
 * device sections (FULL) in stream order with the sizes of their fields, and
 * what it makes possible: splitting the device state, whose sections carry no
 * length, exactly.
 *
 *	size(section) = sum of its fields' size * (array_len or 1)
 *		      + sum over subsections of 6 + strlen(vmsd_name) + size
 *
 * The tail is split in a second way too, without the JSON: a footer with the
 * section's id, followed by what can begin another section or by the end. It
 * is a heuristic, good for cross-checking and for streams without a
 * description.
 */
#ifndef GW_WIRE_VMDESC_H
#define GW_WIRE_VMDESC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define GW_TAIL_MAX_SECTIONS 65536 /* three per vCPU, a few hundred more */

/* One device section of a tail. Offsets count from the tail's first byte. */
struct gw_tail_section {
	char idstr[256];
	uint32_t id, instance_id, version_id;
	size_t offset;	/* of the item byte */
	size_t payload; /* of the first payload byte */
	size_t size;	/* payload bytes */
};

struct gw_tail {
	struct gw_tail_section *section; /* owned */
	int n;
};

void gw_tail_fini(struct gw_tail *t);

/*
 * Split @len bytes of FULL sections (from the first item byte up to and
 * without EOF) by the description @json of @json_len bytes. Return: 0, or
 * -EPROTO (GW_FAULT_INPUT) naming the section and offset where the two
 * disagree; -ENOMEM. After an error @t is empty.
 */
int gw_tail_split(struct gw_tail *t, const void *tail, size_t len,
		  const char *json, size_t json_len,
		  struct gw_error *err) GW_MUST_CHECK;

/* The same by footers alone. */
int gw_tail_scan(struct gw_tail *t, const void *tail, size_t len,
		 struct gw_error *err) GW_MUST_CHECK;

/* Both, and do they agree? @t gets the exact one. A guest can write a footer
 * into its own device state, so that they need not. */
int gw_tail_check(struct gw_tail *t, const void *tail, size_t len,
		  const char *json, size_t json_len,
		  struct gw_error *err) GW_MUST_CHECK;

/*
 * Where EOF and VMDESCRIPTION are at the end of a complete tail (sections,
 * EOF, VMDESCRIPTION, JSON; nothing behind it). *@eof: offset of the EOF byte,
 * *@json, *@json_len: the text. A tail without description (it ends with EOF):
 * *@json NULL. Return: 0 or -EPROTO.
 */
int gw_tail_find_end(const void *tail, size_t len, size_t *eof,
		     const char **json, size_t *json_len,
		     struct gw_error *err) GW_MUST_CHECK;

/*
 * How long is the first complete tail of these @len bytes, with something else
 * behind it? It has a description, which agrees with its sections; a guest can
 * put what looks like one into its own device state. 0: there is none.
 */
size_t gw_tail_length(const void *tail, size_t len);

/*
 * The same as gw_tail_find_end() while a tail arrives: do these @len bytes end
 * with a description, by their shape? @nul: offset of the last NUL byte among
 * them. Constant time.
 */
bool gw_tail_ends(const void *tail, size_t len, size_t nul, size_t *eof);

#endif
