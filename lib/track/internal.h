/* SPDX-License-Identifier: BSD-3-Clause */
/* internal.h - the variants behind track.h; only for lib/track. */
#ifndef GW_TRACK_INTERNAL_H
#define GW_TRACK_INTERNAL_H

#include "track/track.h"

extern const struct gw_track_ops gw_track_pagemap_scan; /* pagemap_scan.c */
extern const struct gw_track_ops gw_track_uffd_wp;	/* uffd_wp.c */
extern const struct gw_track_ops gw_track_manual;	/* manual.c */

#endif
