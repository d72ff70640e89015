/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * converge.h - when to stop iterating, and when to slow the guest down. Pure:
 * numbers in, verdict out.
 *
 *	fits downtime-limit	switch over, unless another pass would still
 *				lower what is left by a quarter, and that is
 *				more than goes in GW_CONVERGE_SHORT_NS
 *	auto-converge		a pass after which more than
 *				throttle-trigger-threshold percent of what it
 *				sent is dirty again is a bad one. Every second
 *				bad pass raises c->throttle: initial, then by
 *				increment, up to max. (QEMU's rule; as there
 *				it is not lowered while the VM moves.) One
 *				that took long is several bad ones.
 *	stalled			`stall_passes` passes in a row, at this
 *				throttle, did not lower the least that was left
 *				by 5 %. Throttle more if there is more; else
 *	max-downtime		switch over as soon as what is left is near the
 *				least of the recent passes, if that fits
 *	nothing helps		give up
 *
 * The percentage is of guest memory, not of bytes on the wire: dirtied again
 * over worked off is the factor by which passes shrink, however pages are
 * encoded.
 */
#ifndef GW_SOURCE_CONVERGE_H
#define GW_SOURCE_CONVERGE_H

#include <stdbool.h>
#include <stdint.h>

#include "godwit.h"

#define GW_CONVERGE_RECENT 8 /* passes whose least is waited for */
/* What goes in that time is not worth another pass. */
#define GW_CONVERGE_SHORT_NS 2000000

enum gw_verdict { GW_GO_ON, GW_SWITCH_OVER, GW_GIVE_UP };

/* A pass, and the scan that followed it. */
struct gw_converge_pass {
	unsigned int pass;  /* 1... */
	uint64_t sent;	    /* bytes of guest memory that were worked off */
	uint64_t remaining; /* bytes that are dirty now */
	uint64_t bandwidth; /* guest memory, bytes/s; 0: unknown */
	int64_t ns;	    /* since the scan before */
};

/* All zero to begin with. */
struct gw_converge {
	uint64_t last, best;   /* bytes left at the last pass, least so far */
	unsigned int stalled;  /* passes since best was lowered */
	unsigned int polished; /* passes within the limit */
	/* auto-converge */
	unsigned int bad;      /* passes, since the last step */
	uint32_t throttle;     /* percent to take from the vCPUs now */
	bool cannot_throttle;  /* set by the caller: no more steps */
	/* what was left after the recent passes, a ring */
	uint64_t recent[GW_CONVERGE_RECENT];
	unsigned int nrecent;
};

/* Time to send @nbytes at @bandwidth bytes/s; -1 when unknown. */
int64_t gw_converge_estimate(uint64_t nbytes, uint64_t bandwidth);

enum gw_verdict gw_converge_decide(struct gw_converge *c,
				   const struct godwit_params *params,
				   const struct gw_converge_pass *p);

/* The least that was left after one of the recent passes. */
uint64_t gw_converge_least(const struct gw_converge *c);

#endif
