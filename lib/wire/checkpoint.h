/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * checkpoint.h - what a primary and its standby say to each other.
 *
 * After greeting (both require "checkpoint") and block table the primary sends,
 * again and again: `ram` sections (PART, never END) with the pages that
 * changed, first while the VM runs, then what was copied while it stood;
 * STATE_BASE records with the first part of the device state, if that is
 * another one than before; DEVICE records with the second part; and
 *
 *	CHECKPOINT	all of it is here: number, lengths, hash
 *
 * The standby answers ACK when it would survive its own death with it. Until
 * then none of it counts. The next CHECKPOINT comes after the ACK, pages of it
 * may come before.
 *
 *	FAILOVER	standby: I was told to take over; make a last one
 *	CHECKPOINT with GW_CHECKPOINT_LAST	the VM will not go on here
 *	GO, RUNNING	as in a migration (record.h): it may run; it runs
 *	BYE		primary: it is over, the VM stays here (the lease's
 *			connection, which says the same, is lost). The standby
 *			answers BYE. Or the standby: it ends, do without it
 *	ERROR		as in a migration; from the primary: the VM stays
 */
#ifndef GW_WIRE_CHECKPOINT_H
#define GW_WIRE_CHECKPOINT_H

#include <stdint.h>

#include "wire/record.h"

#define GW_CHECKPOINT_LAST 1u /* the VM stands and is given up after the ACK */

struct gw_checkpoint {
	uint64_t seq; /* from 1, by 1 */
	uint64_t npages, paused_pages, nbytes; /* for the standby's status */
	int64_t pause_ns;
	int64_t interval_ns;
	/* bytes of device state, GW_MAX_DEVICE_STATE together; the base may be
	 * that of an earlier checkpoint */
	uint64_t nbase, npart;
	uint64_t hash; /* XXH3-64 of base and part, one behind the other */
	uint32_t flags;
	uint32_t running; /* 1: run it on failover; 0: it was paused */
};

/* Source: the record with its payload, all big-endian u64 and u32. */
void gw_record_put_checkpoint(struct gw_writer *w,
			      const struct gw_checkpoint *c);
int gw_record_get_checkpoint(struct gw_reader *r, const struct gw_record *rec,
			     struct gw_checkpoint *c) GW_MUST_CHECK;

/* Destination: ACK is be64 seq, be64 ns that flushing took. */
void gw_record_put_ack(struct gw_writer *w, uint64_t seq, int64_t flush_ns);
int gw_record_get_ack(struct gw_reader *r, const struct gw_record *rec,
		      uint64_t *seq, int64_t *flush_ns) GW_MUST_CHECK;

#endif
