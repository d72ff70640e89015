/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libvirt.h - the header in front of the stream in a file that `virsh save`
 * wrote: 16 bytes of magic, 19 words of 32 bits in the byte order of the host
 * that wrote it, then data_len bytes of XML and the like, then the stream.
 *
 *	0   "LibvirtQemudSave", or "...Part" until the save is complete
 *	16  version, data_len, was_running, format, cookie_offset, 14 unused
 *	92  data
 */
#ifndef GW_IMAGE_LIBVIRT_H
#define GW_IMAGE_LIBVIRT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define GW_LIBVIRT_HEADER_SIZE 92u
#define GW_LIBVIRT_MAX_DATA    (16u << 20)

/*
 * Does @len bytes @p at the beginning of a file begin such a header? Return:
 * 1 with *@stream, the offset of the stream from there, 0: something else, or
 * -errno: unfinished, compressed, damaged.
 */
int gw_libvirt_parse(const uint8_t *p, size_t len, uint64_t *stream,
		     struct gw_error *err) GW_MUST_CHECK;

#endif
