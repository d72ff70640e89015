/* SPDX-License-Identifier: BSD-3-Clause */
/* empty.h - make the RAM of a waiting VM read as zero. */
#ifndef GW_DEST_EMPTY_H
#define GW_DEST_EMPTY_H

#include "base/error.h"
#include "ram/block.h"

/* All of it reads as zero and takes no memory, unless it has to; it is mapped
 * writable. */
int gw_dest_empty_ram(struct gw_ram *ram, struct gw_error *err) GW_MUST_CHECK;

#endif
