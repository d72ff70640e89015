/* SPDX-License-Identifier: BSD-3-Clause */
/* pauses.h - how long the VM stood for each of the last checkpoints. One
 * thread. */
#ifndef GW_SOURCE_PAUSES_H
#define GW_SOURCE_PAUSES_H

#include <stdint.h>

#include "godwit.h"

#define GW_PAUSES 4096

struct gw_pauses {
	int64_t ring[GW_PAUSES];
	uint64_t n; /* all there were */
	int64_t told_ns;
};

void gw_pauses_add(struct gw_pauses *p, int64_t ns);

/* Percentiles and maximum into @now; sorted ten times a second at most. */
void gw_pauses_stats(struct gw_pauses *p, struct godwit_stats *now);

#endif
