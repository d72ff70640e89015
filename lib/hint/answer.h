/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * answer.h - what the guest agent says (guest-agent/protocol.h), out of bytes
 * that a guest wrote: any bytes. It allocates nothing and never fails: what is
 * no frame is skipped and counted. Who writes too much of that is not listened
 * to any more: looking for a frame in it costs more than writing it.
 */
#ifndef GW_HINT_ANSWER_H
#define GW_HINT_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest-agent/protocol.h"

#define GW_ANSWER_TEXT	  120
#define GW_ANSWER_SKIPPED (1u << 20) /* bytes; a cut frame has 32 KiB */
#define GW_ANSWER_BROKEN  16	     /* frames with a wrong checksum */

struct gw_answer_ops {
	/* Guest physical [@addr, @addr + @len) is free, says @id. */
	void (*range)(void *arg, uint32_t id, uint64_t addr, uint64_t len);
	/* All was said; or, with @refused, nothing will be. */
	void (*end)(void *arg, uint32_t id, const char *refused);
};

struct gw_answer {
	const struct gw_answer_ops *ops;
	void *arg;
	uint64_t skipped; /* bytes that were no frame */
	uint64_t frames;
	uint64_t broken;  /* marks without a frame behind them */
	uint64_t bad;	  /* frames whose payload makes no sense */
	size_t used;
	uint8_t buf[GFP_HEAD + GFP_MAX_PAYLOAD];
};

void gw_answer_init(struct gw_answer *a, const struct gw_answer_ops *ops,
		    void *arg);

/* It wrote too much nonsense. */
bool gw_answer_deaf(const struct gw_answer *a);

/* Bytes as they come, in pieces of any size. */
void gw_answer_feed(struct gw_answer *a, const void *p, size_t n);

#endif
