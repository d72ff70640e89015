/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * session.c - one primary: its pages go into the store, and each of its
 * checkpoints into the VM's RAM, so that taking over has nothing to copy.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/pause.h"
#include "base/scope.h"
#include "colo/keeper.h"
#include "dest/dest.h"

/* --- where pages go ------------------------------------------------------ */

static int place_room(struct gw_place *base, int block, uint64_t first,
		      uint32_t n, uint8_t **host, struct gw_error *err)
{
	struct gw_standby_place *p = (struct gw_standby_place *)base;

	int r = gw_store_room(p->store, p->block[block], first, n, host, err);

	gw_pause_at(GW_PAUSE_DEST_BULK);
	return r;
}

static int place_zeros(struct gw_place *base, int block, uint64_t first,
		       uint64_t n, struct gw_error *err)
{
	struct gw_standby_place *p = (struct gw_standby_place *)base;

	return gw_store_zeros(p->store, p->block[block], first, n, err);
}

static const struct gw_place_ops place_ops = { .room = place_room,
					       .zeros = place_zeros };

/* --- what the engine asks for -------------------------------------------- */

static int lease(void *arg, struct gw_chan *chan, struct gw_error *err)
{
	struct gw_standby *s = arg;
	struct gw_lease_grantor *g;
	int fd;

	g = gw_lease_grant(chan, s->c->params->timeout_ns, &fd, err);
	if (!g)
		return -err->code;
	pthread_mutex_lock(&s->lock);
	s->lease = g;
	s->lease_fd = fd;
	pthread_mutex_unlock(&s->lock);
	gw_watch_kick(s);
	return 0;
}

/*
 * A primary that begins anew has the VM running: what was kept of it is older
 * than its disks, and must not be run any more.
 */
static int begin(void *arg, const struct gw_ram_table *t,
		 struct gw_place **place, struct gw_error *err)
{
	struct gw_standby *s = arg;
	struct gw_ram *ram = &gw_standby_vm(s)->ram;
	int r = gw_standby_forget(s, err);

	if (!r)
		r = gw_door_open(s, err);
	if (r)
		return r;
	s->place.base.ops = &place_ops;
	s->place.base.table = t;
	s->place.store = s->store;
	for (int i = 0; i < t->n; i++)
		s->place.block[i] = (int)(gw_ram_find(ram, t->entry[i].idstr) -
					  ram->block);
	*place = &s->place.base;
	gw_standby_enter(s, GW_STANDBY_RECEIVING);
	gw_standby_say(s, "receiving", "%s", s->primary);
	return 0;
}

static int store(struct gw_standby *s, const struct gw_checkpoint *c,
		 const void *base, const void *part, struct gw_error *err)
{
	struct gw_store_commit sc = {
		.seq = c->seq,
		.base = base,
		.part = part,
		.nbase = c->nbase,
		.npart = c->npart,
		.flags = c->running,
		.ram = s->filled ? &gw_standby_vm(s)->ram : NULL,
	};
	int r = gw_store_commit(s->store, &sc, err);

	return r || s->filled ? r : gw_standby_fill(s, err);
}

static bool note(struct gw_standby *s, const struct gw_checkpoint *c)
{
	GW_LOCKED(&s->lock);
	s->seq = c->seq;
	s->seq_ns = gw_now_ns();
	s->interval_ns = c->interval_ns;
	if (s->here)
		return false;
	s->here = true;
	return true;
}

static int commit(void *arg, const struct gw_checkpoint *c, const void *base,
		  const void *part, int64_t *flush_ns, struct gw_error *err)
{
	struct gw_standby *s = arg;
	int64_t t0;
	int r = gw_standby_look(s, err);

	t0 = gw_now_ns();
	if (!r)
		r = store(s, c, base, part, err);
	if (r)
		return r;
	*flush_ns = gw_now_ns() - t0;
	if (!note(s, c))
		return 0;
	gw_standby_enter(s, GW_STANDBY_PROTECTED);
	gw_standby_say(s, "protected", "%s", s->primary);
	return 0;
}

/* It was the primary's own word: nobody has to decide. */
static int go(void *arg, struct gw_error *err)
{
	return gw_standby_take_over(arg, "the primary handed over", false,
				    err);
}

static bool leaving(void *arg)
{
	struct gw_standby *s = arg;

	GW_LOCKED(&s->lock);
	return s->leaving && !s->taken;
}

/* --- all of it ----------------------------------------------------------- */

static void drop_lease(struct gw_standby *s)
{
	struct gw_lease_grantor *g;

	pthread_mutex_lock(&s->lock);
	g = s->lease;
	s->left = g && gw_lease_left(g);
	s->lease = NULL;
	pthread_mutex_unlock(&s->lock);
	gw_watch_kick(s);
	gw_lease_grantor_free(g);
}

/* Without the connection the lease decides alone: that it runs out, or is given
 * back. Before there is a checkpoint, nothing depends on it. */
static void outlive(struct gw_standby *s)
{
	GW_LOCKED(&s->lock);
	if (!s->lease || s->taken || s->released)
		return;
	s->state = GW_STANDBY_LOST;
	while (s->here && !s->taken && !s->released)
		pthread_cond_wait(&s->changed, &s->lock);
	if (!s->here) {
		gw_lease_renounce(s->lease);
		s->released = true;
	}
}

int gw_standby_serve(struct gw_standby *s, struct gw_chan *chan,
		     enum gw_dest_kept *kept, struct gw_error *err)
{
	struct gw_dest_keeper k = {
		.timeout_ms = (uint32_t)(s->c->params->timeout_ns /
					 GW_NS_PER_MS),
		.arg = s,
		.lease = lease,
		.begin = begin,
		.commit = commit,
		.go = go,
		.failover = &s->turn->wake,
		.leaving = leaving,
	};
	struct gw_dest_config dc = {
		.vm = gw_standby_vm(s),
		.chan = chan,
		.listener = s->c->listener,
		.params = s->c->params,
		.cancel = &s->turn->end,
		.progress = s->c->progress,
		.keeper = &k,
		.kept = kept,
	};
	int r;

	snprintf(gw_standby_vm(s)->peer, sizeof(gw_standby_vm(s)->peer), "%s",
		 chan->peer);
	pthread_mutex_lock(&s->lock);
	snprintf(s->primary, sizeof(s->primary), "%s", chan->peer);
	pthread_mutex_unlock(&s->lock);
	r = gw_dest_run(&dc, err);
	gw_chan_close(chan);
	if (*kept == GW_DEST_KEPT_LOST)
		outlive(s);
	drop_lease(s);
	return r;
}
