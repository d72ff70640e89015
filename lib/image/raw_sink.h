/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * raw_sink.h - memory as a file, without the machine around it: raw, or an ELF
 * core whose headers come first.
 */
#ifndef GW_IMAGE_RAW_SINK_H
#define GW_IMAGE_RAW_SINK_H

#include "image/physmem.h"
#include "image/sink.h"

/* What stands before the memory: an ELF header, its program headers, notes. */
#define GW_ELF_HEADER_SIZE 4096u

/* @m begins behind the headers at that offset, its parts packed. */
void gw_elf_put_header(uint8_t header[GW_ELF_HEADER_SIZE],
		       const struct gw_physmem *m);

#endif
