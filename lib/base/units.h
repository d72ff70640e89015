/* SPDX-License-Identifier: BSD-3-Clause */
/* units.h - sizes and times as people write them. */
#ifndef GW_BASE_UNITS_H
#define GW_BASE_UNITS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/*
 * "4096", "64k", "1.5G": suffixes k M G T (any case, optional B or iB) are
 * powers of 1024, as in QEMU. @what names the value in the error.
 */
int gw_parse_size(const char *what, const char *s, uint64_t *nbytes,
		  struct gw_error *err) GW_MUST_CHECK;

/* "300ms", "2s", "1.5m", "1h", "250us"; a bare number is milliseconds. */
int gw_parse_time(const char *what, const char *s, int64_t *ns,
		  struct gw_error *err) GW_MUST_CHECK;

/* "1.5 GiB", "317 MiB", "12 KiB", "9 B". Return: @buf. */
char *gw_format_size(char *buf, size_t len, uint64_t nbytes);

/* "1.23 s", "45.6 ms", "789 us". Return: @buf. */
char *gw_format_time(char *buf, size_t len, int64_t ns);

#endif
