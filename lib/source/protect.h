/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * protect.h - the primary: after the bulk of a migration (source.c: setup,
 * passes) the VM stays and sends checkpoint after checkpoint. gw_source_config
 * with .protect asks for it: gw_source_run() then returns 0 when the standby
 * took over in an orderly way (status completed) or the protection was
 * cancelled and ended in an orderly way (status cancelled).
 *
 *	speculate	passes over what changed, while it runs: scan, drain,
 *			send
 *	stop		the VM stands
 *	copy		scan; what changed is copied into a shadow of the RAM;
 *			meanwhile the VMM writes its device state
 *	cont		it runs on: the pause is over
 *	send		the shadow, the device state, CHECKPOINT
 *	ACK		it counts; output is released; the next may begin
 *
 * protect.c is the loop, checkpoint.c one turn of it, unprotect.c its ends.
 *
 * The lease (chan/lease.h) says until when the VM may run at all; a process of
 * its own keeps to that (vm.h). The thread of the migration, and the lease's.
 *
 * From the first CHECKPOINT on the standby may take over, so every end needs
 * its promise not to (LEAVE or END on the lease, or BYE), or the VM has to
 * stand.
 */
#ifndef GW_SOURCE_PROTECT_H
#define GW_SOURCE_PROTECT_H

#include <pthread.h>

#include "chan/lease.h"
#include "source/internal.h"
#include "source/pauses.h"

/* Fields belong to the migration thread but where it says otherwise. */
struct gw_protect {
	const struct gw_vm_checkpoint_ops *ops;
	struct gw_lease_holder *lease;
	int64_t timeout_ns, fence_ns; /* the standby's, and ours */
	bool fence;
	/* requested by the lease's thread: nothing more comes from it. Ends
	 * all writes. */
	struct gw_cancel stop;
	struct gw_shadow shadow;
	struct gw_pauses pauses;
	bool begun;	/* ops->begin() was called */
	bool exposed;	/* a CHECKPOINT was sent */
	bool handed;	/* the VM was given up for GO */
	bool running;	/* it ran when the last checkpoint was taken */
	uint64_t seq;	/* of the last checkpoint that was taken */
	bool based;	/* the standby has the state base `generation` */
	uint64_t generation;
	int64_t taken_ns;     /* when the last one was */
	int64_t speculate_ns; /* how long the last speculative pass took */
	uint64_t nspeculated; /* pages sent before the stop */
	uint64_t nbytes;      /* transferred up to the last checkpoint */
	/* what the standby said */
	bool failover, bye;
	uint64_t acked;
	int64_t flush_ns;
	/* guarded by lock */
	pthread_mutex_t lock;
	int64_t until_ns; /* the lease; INT64_MAX: the standby gave it up */
	bool armed;	  /* the VM has to keep to it */
};

/* checkpoint.c: one of them, from stop to ACK. @last: the VM stands after it. */
int gw_protect_checkpoint(struct gw_source *s, bool last,
			  struct gw_error *err);

/* unprotect.c */
/* The standby wants it: the last checkpoint, GO, RUNNING. */
int gw_protect_hand_over(struct gw_source *s, struct gw_error *err);
/* The VM stays here; if that is because of a cancel, for good. Return: the
 * standby will not take over. */
bool gw_protect_settle(struct gw_source *s);
/* It ended with @r and @err. Return: what gw_source_run() does. */
int gw_protect_end(struct gw_source *s, int r, struct gw_error *err);

/* protect.c: why the lease is no use any more. */
int gw_protect_lease_error(struct gw_source *s, struct gw_error *err);
/* Wait up to @ns, less if the standby says something or it is cancelled. */
void gw_protect_rest(struct gw_source *s, int64_t ns);

#endif
