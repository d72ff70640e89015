/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * direct.h - past the page cache (O_DIRECT), for long runs of pages alone.
 *
 * Short runs wait for the disk one by one that way; in the page cache they
 * grow together (docs/decisions/0016-threads-not-io-uring.md).
 */
#ifndef GW_IMAGE_DIRECT_H
#define GW_IMAGE_DIRECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* File @fd once more; @mode: O_RDONLY or O_RDWR. -1: its file system has no
 * such thing. */
int gw_direct_open(int fd, int mode);

/* Is @direct (-1: none) for these bytes? Memory and place have to be aligned,
 * as QEMU's RAM and our buffers are. A disk may want more: -EINVAL. */
bool gw_direct_fits(int direct, const void *p, size_t len, uint64_t offset);

#endif
