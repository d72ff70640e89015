/* SPDX-License-Identifier: BSD-3-Clause */
/* standby.c - see standby.h: from turn to turn. */
#include "colo/standby.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scope.h"
#include "colo/keeper.h"

#define LOOK_MS 1000 /* at the VMM, while nobody comes */

/* What a turn came to. */
enum outcome {
	OUTCOME_NEXT, /* wait for the next one */
	OUTCOME_RUNS, /* the VM is ours */
	OUTCOME_OVER, /* the primary ended in good order */
};

void gw_standby_say(struct gw_standby *s, const char *what, const char *fmt,
		    ...)
{
	char detail[GW_ERROR_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(detail, sizeof(detail), fmt, ap);
	va_end(ap);
	gw_info("%s: %s", what, detail);
	if (s->c->event)
		s->c->event(what, detail, s->c->data);
}

void gw_standby_enter(struct gw_standby *s, enum gw_standby_state state)
{
	GW_LOCKED(&s->lock);
	s->state = state;
	pthread_cond_broadcast(&s->changed);
}

int gw_standby_forget(struct gw_standby *s, struct gw_error *err)
{
	pthread_mutex_lock(&s->lock);
	s->seq = 0;
	s->here = false;
	pthread_mutex_unlock(&s->lock);
	s->filled = false;
	return gw_store_reset(s->store, err);
}

/* --- a turn -------------------------------------------------------------- */

static int turn_begin(struct gw_standby *s, struct gw_turn *t,
		      struct gw_error *err)
{
	int r = gw_cancel_init(&t->end, err);

	if (r)
		return r;
	r = gw_cancel_init(&t->wake, err);
	if (r) {
		gw_cancel_fini(&t->end);
		return r;
	}
	GW_LOCKED(&s->lock);
	s->turn = t;
	s->state = GW_STANDBY_LISTENING;
	s->primary[0] = 0;
	s->here = s->taken = s->released = false;
	if (s->leaving)
		gw_cancel_request(&t->end);
	if (s->leaving || s->told)
		gw_cancel_request(&t->wake);
	return 0;
}

static void turn_end(struct gw_standby *s, struct gw_turn *t)
{
	gw_door_close(s);
	pthread_mutex_lock(&s->lock);
	s->turn = NULL;
	pthread_mutex_unlock(&s->lock);
	gw_cancel_fini(&t->wake);
	gw_cancel_fini(&t->end);
}

/* A primary; NULL without @err: somebody woke us up. */
static struct gw_chan *await_primary(struct gw_standby *s,
				     struct gw_error *err)
{
	struct gw_chan *chan = NULL;

	while (!chan) {
		struct gw_error why = { 0 };

		chan = gw_listener_accept(s->c->listener, LOOK_MS,
					  &s->turn->wake, &why);
		if (chan || why.code == ECANCELED)
			break;
		if (why.code != ETIMEDOUT) {
			*err = why;
			break;
		}
		if (gw_standby_look(s, err) ||
		    (s->seq && !s->filled && gw_standby_fill(s, err)))
			break;
	}
	return chan;
}

/* It does not run, which is not the end: the checkpoint is still there. */
static int failed(struct gw_standby *s, const struct gw_error *why,
		  struct gw_error *err)
{
	*err = *why;
	if (why->fault == GW_FAULT_UNCERTAIN)
		return -err->code;
	gw_standby_say(s, "failed", "%.800s; 'godwit failover %s' tries again",
		       why->msg, gw_standby_vm(s)->info.name);
	return 0;
}

/* The lease has run out, or an operator said so: from now on it is us. */
static int take_over(struct gw_standby *s, const char *reason,
		     enum outcome *o, struct gw_error *err)
{
	struct gw_error why = { 0 };

	if (gw_standby_take_over(s, reason, true, &why))
		return failed(s, &why, err);
	*o = OUTCOME_RUNS;
	return 0;
}

/* Nobody has come, but there is something to do. */
static int woken(struct gw_standby *s, enum outcome *o, struct gw_error *err)
{
	bool leaving, told;

	pthread_mutex_lock(&s->lock);
	leaving = s->leaving;
	told = s->told;
	s->told = false;
	pthread_mutex_unlock(&s->lock);
	if (leaving)
		return gw_cancel_fail(err);
	return told ? take_over(s, "an operator said so", o, err) : 0;
}

/* The primary keeps the VM, and runs on past what we have. */
static int kept_there(struct gw_standby *s, const char *what,
		      const struct gw_error *why, struct gw_error *err)
{
	gw_standby_say(s, what, "%s%s%s", s->primary, why->code ? ": " : "",
		       why->msg);
	return gw_standby_forget(s, err);
}

static int after_loss(struct gw_standby *s, const struct gw_error *why,
		      enum outcome *o, struct gw_error *err)
{
	bool here, taken, released, leaving;
	int r;

	pthread_mutex_lock(&s->lock);
	here = s->here;
	taken = s->taken;
	released = s->released;
	leaving = s->leaving;
	pthread_mutex_unlock(&s->lock);
	if (taken)
		return take_over(s, "the primary is silent", o, err);
	if (leaving) {
		r = released ? gw_standby_forget(s, err) : 0;
		return r ? r : gw_cancel_fail(err);
	}
	if (here)
		return kept_there(s, "given back", why, err);
	gw_standby_say(s, released ? "incomplete" : "refused",
		       released ?
			       "%s: nothing to take over: the first copy was not complete: %s" :
			       "%s: %s",
		       s->primary, why->msg);
	return 0;
}

static int serve(struct gw_standby *s, struct gw_chan *chan, enum outcome *o,
		 struct gw_error *err)
{
	enum gw_dest_kept kept = GW_DEST_KEPT_LOST;
	struct gw_error why = { 0 };
	int r = gw_standby_serve(s, chan, &kept, &why);

	if (r == -EAGAIN && !why.code)
		return 0; /* it only asked */
	if (kept == GW_DEST_KEPT_GO)
		return r ? failed(s, &why, err) : (*o = OUTCOME_RUNS, 0);
	if (kept == GW_DEST_KEPT_LOST && !s->left)
		return after_loss(s, &why, o, err);
	if (!r || s->left) {
		*o = OUTCOME_OVER;
		why.code = 0; /* of what was on its way when it left */
	}
	return kept_there(s, "ended", &why, err);
}

static int turn(struct gw_standby *s, enum outcome *o, struct gw_error *err)
{
	struct gw_turn t;
	struct gw_chan *chan;
	int r = turn_begin(s, &t, err);

	if (r)
		return r;
	memset(err, 0, sizeof(*err));
	chan = await_primary(s, err);
	if (chan)
		r = serve(s, chan, o, err);
	else
		r = err->code ? -err->code : woken(s, o, err);
	turn_end(s, &t);
	return r;
}

/* --- all of it ----------------------------------------------------------- */

static unsigned int threads(const struct godwit_params *p)
{
	long n = p->flush_threads ? (long)p->flush_threads :
				    sysconf(_SC_NPROCESSORS_ONLN);

	return n > 0 ? (unsigned int)n : 1;
}

/*
 * With a checkpoint from before nobody knows whether its primary lives: it
 * takes an operator, or that primary, which then begins anew.
 */
static int open_store(struct gw_standby *s, struct gw_error *err)
{
	struct gw_vm *vm = gw_standby_vm(s);
	const char *path = s->c->params->cache;
	struct gw_store_config sc = { .path = path && path[0] ? path : NULL,
				      .name = vm->info.name,
				      .machine = vm->info.machine,
				      .ram = &vm->ram,
				      .threads = threads(s->c->params),
				      .sync = s->c->params->cache_sync };

	s->store = gw_store_open(&sc, err);
	if (!s->store)
		return -err->code;
	s->seq = s->c->progress->now.checkpoint = gw_store_seq(s->store);
	if (!s->seq)
		return 0;
	gw_standby_say(s, "restored",
		       "checkpoint %llu from %s; whether its primary lives is not known: 'godwit failover %s' runs it",
		       (unsigned long long)s->seq, path, vm->info.name);
	return gw_standby_fill(s, err);
}

static int start(struct gw_standby *s, struct gw_error *err)
{
	struct gw_vm *vm = gw_standby_vm(s);
	int r = vm->ops->check(vm, false, err);

	s->looked_ns = gw_now_ns();
	if (!r && !gw_listener_again(s->c->listener))
		r = gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
			       "'%s' takes one connection, a primary makes several: use tcp: or unix:",
			       gw_listener_uri(s->c->listener));
	if (!r)
		r = gw_ram_map(&vm->ram, true, err);
	if (!r)
		r = open_store(s, err);
	if (!r)
		r = gw_watch_start(s, err);
	if (!r && s->c->control)
		r = gw_control_start(s, err);
	return r;
}

/* What was kept of a VM that runs here must not be run again. */
static void stop(struct gw_standby *s, bool runs)
{
	struct gw_error err;

	gw_control_stop(s);
	gw_watch_stop(s);
	if (runs && gw_standby_forget(s, &err))
		gw_warn("%s", err.msg);
	gw_store_close(s->store);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
}

int gw_standby_run(const struct gw_standby_config *c, bool *took_over,
		   struct gw_error *err)
{
	struct gw_standby s = { .c = c, .lease_fd = -1 };
	enum outcome o = OUTCOME_NEXT;
	struct gw_error local;
	int r;

	err = err ? err : &local;
	pthread_mutex_init(&s.lock, NULL);
	pthread_cond_init(&s.changed, NULL);
	r = start(&s, err);
	if (!r)
		gw_standby_say(&s, "listening", "%s",
			       gw_listener_uri(c->listener));
	while (!r && o == OUTCOME_NEXT)
		r = turn(&s, &o, err);
	*took_over = o == OUTCOME_RUNS;
	stop(&s, *took_over);
	if (!r && !*took_over)
		gw_progress_status(c->progress, GODWIT_STATUS_COMPLETED);
	else if (r)
		gw_progress_status(c->progress,
				   err->fault == GW_FAULT_CANCELLED ?
					   GODWIT_STATUS_CANCELLED :
					   GODWIT_STATUS_FAILED);
	return r;
}
