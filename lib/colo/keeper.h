/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * keeper.h - what the files of a standby share. Not for other folders.
 *
 * The main thread goes from turn to turn: a turn is one primary, from waiting
 * for it to what became of it. Another thread (watch.c) watches the lease and
 * whoever cancels, a third (control.c) the control socket; they only set what
 * is said below and end waits of the turn. Whether the primary is gone is
 * decided by watch.c at once, whatever the main thread is doing.
 */
#ifndef GW_COLO_KEEPER_H
#define GW_COLO_KEEPER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cancel.h"
#include "chan/lease.h"
#include "colo/standby.h"
#include "colo/store.h"
#include "dest/checkpoint.h"

#define GW_LOG_MODULE "colo"
#include "base/log.h"

enum gw_standby_state {
	GW_STANDBY_LISTENING, /* no primary */
	GW_STANDBY_RECEIVING, /* its first copy comes */
	GW_STANDBY_PROTECTED, /* there is a checkpoint of it */
	GW_STANDBY_LOST,      /* its connection is gone, its lease not yet */
	GW_STANDBY_TAKING,    /* over */
	GW_STANDBY_RUNNING,
};

/* Why the main thread is to leave what it does; reset with every turn. */
struct gw_turn {
	struct gw_cancel end;  /* the turn is over */
	struct gw_cancel wake; /* that, or somebody said failover */
};

/* Where pages of a primary go: its blocks may have another order. */
struct gw_standby_place {
	struct gw_place base;
	struct gw_store *store;
	int block[GW_MAX_TABLE_BLOCKS]; /* of the store, by table index */
};

struct gw_standby {
	/* set once */
	const struct gw_standby_config *c;
	struct gw_store *store;
	/* the main thread's */
	struct gw_standby_place place;
	bool filled;	   /* the VM's RAM is that of the checkpoint */
	bool left;	   /* the last primary said that it ends for good */
	int64_t looked_ns; /* at the VMM */
	struct gw_door *door;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* any of these */
	struct gw_turn *turn;	/* NULL: between two */
	enum gw_standby_state state;
	char primary[160];    /* "": none connected */
	uint64_t seq;	      /* of the checkpoint, 0: none */
	bool here;	      /* it came in this turn */
	int64_t seq_ns;	      /* when; 0: before this process began */
	int64_t interval_ns;
	struct gw_lease_grantor *lease;
	int lease_fd;
	bool taken;	      /* the lease is ours */
	bool released;	      /* we will not take over in this turn */
	bool told;	      /* somebody said failover */
	bool leaving;	      /* cancelled */
	uint64_t attempts;    /* to take over that have ended */
	struct gw_error last; /* what the last one came to; code 0: it runs */
	/* threads */
	struct gw_watch *watch;
	struct gw_control *control;
};

static inline struct gw_vm *gw_standby_vm(const struct gw_standby *s)
{
	return s->c->vm;
}

/* standby.c; the main thread only */
void gw_standby_say(struct gw_standby *s, const char *what, const char *fmt,
		    ...) __attribute__((format(printf, 3, 4)));
void gw_standby_enter(struct gw_standby *s, enum gw_standby_state state);
/* What was kept is worth nothing any more. */
int gw_standby_forget(struct gw_standby *s, struct gw_error *err) GW_MUST_CHECK;

/* session.c: a primary has come. As gw_dest_run(). */
int gw_standby_serve(struct gw_standby *s, struct gw_chan *chan,
		     enum gw_dest_kept *kept,
		     struct gw_error *err) GW_MUST_CHECK;

/* takeover.c */
/* The VM's RAM becomes that of the checkpoint. */
int gw_standby_fill(struct gw_standby *s, struct gw_error *err) GW_MUST_CHECK;
/* Look at the waiting VMM, about once a second; one that ended is replaced,
 * and s->filled is false then. */
int gw_standby_look(struct gw_standby *s, struct gw_error *err) GW_MUST_CHECK;
/*
 * Run the VM from the checkpoint. @ask: the arbiter too. Return: 0; -errno
 * with @err: it does not run (GW_FAULT_UNCERTAIN: it may have), and the
 * checkpoint is still there.
 */
int gw_standby_take_over(struct gw_standby *s, const char *reason, bool ask,
			 struct gw_error *err) GW_MUST_CHECK;

/* watch.c */
int gw_watch_start(struct gw_standby *s, struct gw_error *err) GW_MUST_CHECK;
void gw_watch_kick(struct gw_standby *s); /* there is another lease */
void gw_watch_stop(struct gw_standby *s); /* idempotent */

/* control.c */
int gw_control_start(struct gw_standby *s, struct gw_error *err) GW_MUST_CHECK;
void gw_control_stop(struct gw_standby *s); /* idempotent */

/* door.c: until it is closed, whoever else connects is refused. */
int gw_door_open(struct gw_standby *s, struct gw_error *err) GW_MUST_CHECK;
void gw_door_close(struct gw_standby *s); /* idempotent */

#endif
