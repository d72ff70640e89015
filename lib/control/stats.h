/* SPDX-License-Identifier: BSD-3-Clause */
/* stats.h - the numbers of an operation as JSON, QEMU's names where it has
 * them (query-migrate), and as the lines of `info migrate`. */
#ifndef GW_CONTROL_STATS_H
#define GW_CONTROL_STATS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "godwit.h"

/* Times in milliseconds, sizes in bytes, as query-migrate has them. @err adds
 * error-desc. A new reference, NULL without memory. */
json_t *gw_stats_json(const struct godwit_stats *s, const struct gw_error *err);

/*
 * The same as the answer to query-migrate in state @status ("active", ...):
 * with those members that QEMU has in this state, and godwit's own. A
 * destination (not @source) has only its state.
 */
json_t *gw_stats_query(const struct godwit_stats *s, const char *status,
		       bool source, const struct gw_error *err);

/* An answer to query-migrate, line by line, as `info migrate` prints it. */
void gw_stats_print(const json_t *query, FILE *out);
/* What was not sent, against sending every page of the RAM whole once: bytes,
 * and how long they would have taken at the rate the others did. */
void gw_stats_saved(const struct godwit_stats *s, uint64_t *nbytes,
		    int64_t *ns);

#endif
