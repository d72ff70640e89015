/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * checkpoint.h - what a destination does with a primary's checkpoints: the
 * engine (dest.h, load.c) receives, whoever keeps them (colo/standby.h) is
 * behind these.
 */
#ifndef GW_DEST_CHECKPOINT_H
#define GW_DEST_CHECKPOINT_H

#include "chan/chan.h"
#include "dest/place.h"
#include "wire/checkpoint.h"

struct gw_dest_keeper {
	uint32_t timeout_ms; /* said in the greeting */
	void *arg;

	/* The block table is known: where pages of it go. *@place is the
	 * keeper's, valid until the end. */
	int (*begin)(void *arg, const struct gw_ram_table *t,
		     struct gw_place **place, struct gw_error *err);
	/* The connection of the lease came; taken over. */
	int (*lease)(void *arg, struct gw_chan *chan, struct gw_error *err);
	/*
	 * Everything of @c is in place: make it the one that counts. Nothing
	 * arrives meanwhile. Returns when it would survive the death of this
	 * process; *@flush_ns: how long the VM's RAM took.
	 */
	int (*commit)(void *arg, const struct gw_checkpoint *c,
		      const void *base, const void *part, int64_t *flush_ns,
		      struct gw_error *err);
	/* Asked between records and while waiting for one: take over now in
	 * an orderly way? (FAILOVER is said once.) */
	bool (*wants_failover)(void *arg);
	/* -1, or readable when the above may have changed, or the wait is to
	 * end (-ECANCELED from gw_dest_run(); the keeper knows why). */
	int wake_fd;
	bool (*wants_end)(void *arg);
};

/* How gw_dest_run() of a keeper ends. */
enum gw_dest_kept {
	GW_DEST_KEPT_LOST,    /* no connection, or the keeper ended the wait */
	GW_DEST_KEPT_BYE,     /* the primary keeps the VM: no take-over */
	GW_DEST_KEPT_GO,      /* the primary gave the VM up: run it, then
				 gw_dest_keeper says RUNNING */
};

#endif
