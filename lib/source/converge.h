/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * converge.h - when to stop iterating. Pure: numbers in, verdict out.
 *
 * What is left can be sent within the downtime limit: switch over, unless
 * another pass would still lower it by a quarter. It cannot: go on as long as
 * some pass out of the last `stall_passes` lowered the best seen by 5 %, else
 * give up.
 */
#ifndef GW_SOURCE_CONVERGE_H
#define GW_SOURCE_CONVERGE_H

#include <stdint.h>

#include "godwit.h"

enum gw_verdict { GW_GO_ON, GW_SWITCH_OVER, GW_GIVE_UP };

struct gw_converge {
	uint64_t last, best;   /* bytes left at the last pass, least so far */
	unsigned int stalled;  /* passes since best was lowered */
	unsigned int polished; /* passes within the limit */
};

/* Time to send @nbytes at @bandwidth bytes/s; -1 when unknown. */
int64_t gw_converge_estimate(uint64_t nbytes, uint64_t bandwidth);

/* @remaining: dirty bytes after the scan that follows pass @pass (1...). */
enum gw_verdict gw_converge_decide(struct gw_converge *c,
				   const struct godwit_params *params,
				   unsigned int pass, uint64_t remaining,
				   uint64_t bandwidth);

#endif
