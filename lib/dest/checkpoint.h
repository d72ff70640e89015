/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * checkpoint.h - what a destination does with a primary's checkpoints: the
 * engine (dest.h, keep.c) receives, whoever keeps them (colo/standby.h) is
 * behind these. The VM's RAM is the keeper's alone: the engine neither empties
 * nor writes it.
 *
 * Whether the primary is gone is decided by the lease, not by the connection:
 * no silence of it is too long. What ends a wait is the cancel of struct
 * gw_dest_config.
 */
#ifndef GW_DEST_CHECKPOINT_H
#define GW_DEST_CHECKPOINT_H

#include <stdbool.h>

#include "base/cancel.h"
#include "chan/chan.h"
#include "dest/place.h"
#include "wire/checkpoint.h"

struct gw_dest_keeper {
	uint32_t timeout_ms; /* said in the greeting */
	void *arg;

	/* The connection of the lease came; taken over, also on failure. The
	 * first call. */
	int (*lease)(void *arg, struct gw_chan *chan, struct gw_error *err);
	/* The block table is known, nothing came yet: where pages of it go.
	 * All of it reads as zero. *@place is the keeper's, valid until the
	 * end. */
	int (*begin)(void *arg, const struct gw_ram_table *t,
		     struct gw_place **place, struct gw_error *err);
	/*
	 * Everything of @c is in place: make it the one that counts. Nothing
	 * arrives meanwhile. Returns when it would survive the death of this
	 * process; *@flush_ns: how long the VM's RAM took.
	 */
	int (*commit)(void *arg, const struct gw_checkpoint *c,
		      const void *base, const void *part, int64_t *flush_ns,
		      struct gw_error *err);
	/* GO came: the primary gave the VM up after the checkpoint that was
	 * the last. Run it; RUNNING is said when this returns 0. */
	int (*go)(void *arg, struct gw_error *err);
	/* Requested when the keeper wants to take over in an orderly way:
	 * FAILOVER is said, once. Whoever requests the cancel of
	 * gw_dest_config requests this one too. */
	const struct gw_cancel *failover;
	/* After that cancel: does the keeper end for good? Then BYE is said,
	 * otherwise nothing. */
	bool (*leaving)(void *arg);
};

/* How gw_dest_run() with a keeper ends. */
enum gw_dest_kept {
	GW_DEST_KEPT_LOST, /* no connection any more; @err says why */
	GW_DEST_KEPT_BYE,  /* the primary keeps the VM: no take-over. With an
			      error: and that is why */
	GW_DEST_KEPT_GO,   /* it gave the VM up; with an error: and it does not
			      run here */
};

#endif
