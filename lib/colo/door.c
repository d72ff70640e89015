/* SPDX-License-Identifier: BSD-3-Clause */
/* door.c - while one primary is served, others hear that at once, and why. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"
#include "colo/keeper.h"
#include "dest/dest.h"
#include "dest/refuse.h"

#define PATIENCE_MS 2000 /* with one that says nothing */

struct gw_door {
	struct gw_standby *s;
	struct gw_cancel stop;
	pthread_t thread;
};

static void reason(struct gw_standby *s, struct gw_error *why)
{
	const char *name = gw_standby_vm(s)->info.name;
	GW_LOCKED(&s->lock);

	if (s->state == GW_STANDBY_TAKING || s->state == GW_STANDBY_RUNNING)
		gw_fail_as(why, GW_FAULT_REFUSED, EBUSY,
			   "the standby of '%s' takes over from %s: the VM "
			   "runs there, or is about to",
			   name, s->primary);
	else
		gw_fail_as(why, GW_FAULT_REFUSED, EBUSY,
			   "the standby of '%s' protects the VM of %s already",
			   name, s->primary);
}

static void refuse(struct gw_door *d, struct gw_chan *chan)
{
	struct gw_error why, err;
	struct gw_reader in;
	bool probe;

	chan->cancel = &d->stop;
	chan->read_timeout_ms = chan->write_timeout_ms = PATIENCE_MS;
	reason(d->s, &why);
	gw_info("%s: %s", chan->peer, why.msg);
	if (gw_reader_init(&in, gw_chan_refill, chan, GW_DEST_READ_BUFFER,
			   &err))
		return;
	if (gw_refuse(chan, &in, gw_standby_vm(d->s)->info.name,
		      "(a standby that has a primary)", &why, &probe, &err))
		gw_info("%s: %s", chan->peer, err.msg);
	gw_reader_fini(&in);
}

static void *keep(void *arg)
{
	struct gw_door *d = arg;

	for (;;) {
		struct gw_error ignored;
		struct gw_chan *chan = gw_listener_accept(d->s->c->listener, -1,
							  &d->stop, &ignored);

		if (chan)
			refuse(d, chan);
		/* Out of descriptors, say: no reason to spin. */
		else if (gw_wait_fd(-1, 0, gw_deadline_ms(PATIENCE_MS),
				    &d->stop) == -ECANCELED)
			return NULL;
		gw_chan_close(chan);
	}
}

int gw_door_open(struct gw_standby *s, struct gw_error *err)
{
	struct gw_door *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return gw_fail(err, ENOMEM, "no memory");
	d->s = s;
	r = gw_cancel_init(&d->stop, err);
	if (r) {
		free(d);
		return r;
	}
	r = gw_thread_start(&d->thread, "gw-door", keep, d, err);
	if (r) {
		gw_cancel_fini(&d->stop);
		free(d);
		return r;
	}
	s->door = d;
	return 0;
}

void gw_door_close(struct gw_standby *s)
{
	struct gw_door *d = s->door;

	if (!d)
		return;
	gw_cancel_request(&d->stop);
	pthread_join(d->thread, NULL);
	gw_cancel_fini(&d->stop);
	free(d);
	s->door = NULL;
}
