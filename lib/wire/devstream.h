/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * devstream.h - find the end of the stream in which a QEMU hands out its
 * device state (capability x-ignore-shared: no shared RAM in it), while it
 * arrives, and check its structure. The bytes are never changed and never
 * understood beyond their framing.
 *
 * The stream does not say how long it is: with a return path QEMU keeps the
 * socket open. RAM records are parsed exactly. After the first device section
 * lengths are unknown, until the closing VMDESCRIPTION lists them: the end is
 * a section footer, EOF, VMDESCRIPTION and JSON of the announced length, and
 * the JSON's lengths must then split the sections exactly
 * (docs/internals/stream.md).
 */
#ifndef GW_WIRE_DEVSTREAM_H
#define GW_WIRE_DEVSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "wire/stream.h"

struct gw_devstream {
	/* the bytes so far; grows, at most GW_MAX_DEVICE_STATE */
	uint8_t *buf;
	size_t len, cap;
	bool complete; /* the end was found and everything checked */

	struct gw_stream s; /* config, have_config, ram.table: as they come */
	unsigned int npings; /* PINGs so far, to be answered by PONG */
	uint32_t ping[8];
	int ndevices; /* FULL sections, once complete */
	size_t tail;  /* the first device section begins here, once complete */

	/* private to devstream.c */
	bool in_tail;
	size_t pos;    /* parsed up to here */
	size_t search; /* looked for NUL bytes up to here */
	size_t nul;    /* the tail's last NUL byte, counted from tail */
};

void gw_devstream_init(struct gw_devstream *d);
/* The same for bytes that begin at the first device section: config and the
 * RAM sections were read by somebody else. */
void gw_devstream_init_tail(struct gw_devstream *d);
void gw_devstream_fini(struct gw_devstream *d);

/*
 * Append @len bytes and parse on. Return: 0 (see d->complete) or -errno:
 * malformed, too large, or bytes after the end.
 */
int gw_devstream_feed(struct gw_devstream *d, const void *p, size_t len,
		      struct gw_error *err) GW_MUST_CHECK;

#endif
