/* SPDX-License-Identifier: BSD-3-Clause */
/* session.c - see session.h. */
#include "control/session.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"
#include "control/internal.h"

#define MAX_EVENTS 256
#define MAX_PASSES 64 /* events for passes that went by between two looks */

struct gw_session {
	/* set once */
	char *vm;
	int wake; /* eventfd */
	/* owned by the front end */
	pthread_t thread;
	bool joinable;
	/* set before the thread runs */
	struct gw_session_plan plan;
	char *uri;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t go_on;
	struct godwit_op *op; /* NULL: none */
	bool busy, cancelled, held;
	struct gw_session_state state;
	struct gw_event event[MAX_EVENTS];
	unsigned int first, nevents;
};

static int64_t realtime_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* With the lock held. Nobody looks any more: the oldest goes. */
static void post(struct gw_session *s, struct gw_event e)
{
	uint64_t one = 1;

	e.realtime_us = realtime_us();
	if (s->nevents == MAX_EVENTS) {
		s->first = (s->first + 1) % MAX_EVENTS;
		s->nevents--;
	}
	s->event[(s->first + s->nevents++) % MAX_EVENTS] = e;
	if (write(s->wake, &one, sizeof(one)) < 0) {
		/* EAGAIN: it is readable as it is */
	}
}

/* With the lock held. */
static void set_status(struct gw_session *s, const char *status)
{
	struct gw_event e = { .kind = GW_EVENT_STATUS };

	if (!strcmp(s->state.status, status))
		return;
	snprintf(s->state.status, sizeof(s->state.status), "%s", status);
	snprintf(e.status, sizeof(e.status), "%s", status);
	post(s, e);
}

/* --- in the operation's thread ------------------------------------------- */

/* The states that a client sees on the way. The last one comes when the VM is
 * free again (finish()). */
static const char *shown(const struct gw_session *s, enum godwit_status now)
{
	switch (now) {
	case GODWIT_STATUS_ACTIVE:
		return "active";
	case GODWIT_STATUS_PRE_SWITCHOVER:
		return s->plan.incoming ? NULL :
		       s->plan.pause	? "pre-switchover" :
					  "device";
	case GODWIT_STATUS_DEVICE:
		return s->plan.incoming ? NULL : "device";
	default:
		return NULL;
	}
}

static void post_passes(struct gw_session *s, uint32_t from, uint32_t to)
{
	if (to - from > MAX_PASSES)
		from = to - MAX_PASSES;
	while (from < to)
		post(s, (struct gw_event){ .kind = GW_EVENT_PASS,
					   .pass = ++from });
}

static void on_progress(const struct godwit_stats *stats, void *data)
{
	struct gw_session *s = data;
	const char *status = shown(s, stats->status);
	bool hold = s->plan.pause &&
		    stats->status == GODWIT_STATUS_PRE_SWITCHOVER;

	GW_LOCKED(&s->lock);
	if (!s->plan.incoming && stats->pass > s->state.stats.pass)
		post_passes(s, s->state.stats.pass, stats->pass);
	s->state.stats = *stats;
	if (status && !s->cancelled)
		set_status(s, status);
	/* Here the VM stands, and the engine is in this call. */
	while (hold && s->held && !s->cancelled)
		pthread_cond_wait(&s->go_on, &s->lock);
	if (hold)
		s->held = false;
}

static void on_listening(const char *uri, void *data)
{
	struct gw_session *s = data;

	GW_LOCKED(&s->lock);
	snprintf(s->state.listening, sizeof(s->state.listening), "%s", uri);
	set_status(s, "setup");
	post(s, (struct gw_event){ .kind = GW_EVENT_STARTED });
}

static void refuse(struct gw_session *s, const struct gw_error *err)
{
	GW_LOCKED(&s->lock);
	s->state.error = *err;
	s->busy = false;
	post(s, (struct gw_event){ .kind = GW_EVENT_REFUSED });
}

static void finish(struct gw_session *s, int r, const struct gw_error *err,
		   const struct godwit_stats *stats)
{
	GW_LOCKED(&s->lock);
	s->state.stats = *stats;
	s->state.listening[0] = '\0';
	if (r)
		s->state.error = *err;
	set_status(s, !r ? "completed" :
		      err->fault == GW_FAULT_CANCELLED ? "cancelled" :
							 "failed");
	s->busy = false;
	post(s, (struct gw_event){ .kind = GW_EVENT_ENDED });
}

static struct godwit_op *open_op(struct gw_session *s, struct godwit_vm **vm,
				 struct gw_error *err)
{
	struct godwit_error *e = (struct godwit_error *)err;

	*vm = godwit_vm_open(s->vm, e);
	return *vm ? godwit_op_new(*vm, &s->plan.params, on_progress, s, e) :
		     NULL;
}

static int run_op(struct gw_session *s, struct godwit_op *op,
		  struct gw_error *err)
{
	struct godwit_error *e = (struct godwit_error *)err;

	if (s->plan.incoming)
		return godwit_receive(op, s->uri, on_listening, e);
	return godwit_migrate(op, s->uri, e);
}

/* What can be told before a peer is spoken to. A destination's own start is
 * that it listens (on_listening()). */
static int check_op(struct gw_session *s, struct godwit_op *op,
		    struct gw_error *err)
{
	int r = s->plan.incoming ? 0 : gw_api_check_migrate(op, s->uri, err);

	if (r)
		return r;
	GW_LOCKED(&s->lock);
	s->op = op;
	if (s->cancelled) /* before there was anything to cancel */
		godwit_op_cancel(op);
	if (s->plan.incoming)
		return 0;
	set_status(s, "setup");
	post(s, (struct gw_event){ .kind = GW_EVENT_STARTED });
	return 0;
}

/* Did it fail before it was under way? */
static bool never_began(struct gw_session *s)
{
	GW_LOCKED(&s->lock);
	return s->plan.incoming && !s->state.listening[0];
}

static void *thread_main(void *arg)
{
	struct gw_session *s = arg;
	struct godwit_stats stats = { 0 };
	struct gw_error err = { 0 };
	struct godwit_vm *vm = NULL;
	struct godwit_op *op = open_op(s, &vm, &err);
	int r = op ? check_op(s, op, &err) : -err.code;
	bool began = !r;

	if (began) {
		r = run_op(s, op, &err);
		godwit_op_stats(op, &stats);
		began = !r || !never_began(s);
	}
	{
		GW_LOCKED(&s->lock);
		s->op = NULL;
	}
	godwit_op_free(op);
	godwit_vm_close(vm);
	if (began)
		finish(s, r, &err, &stats);
	else
		refuse(s, &err);
	return NULL;
}

/* --- in the front end's thread -------------------------------------------- */

struct gw_session *gw_session_new(const char *vm, struct gw_error *err)
{
	struct gw_session *s = calloc(1, sizeof(*s));

	if (s)
		s->vm = strdup(vm);
	if (!s || !s->vm) {
		free(s);
		gw_fail(err, ENOMEM, "no memory");
		return NULL;
	}
	s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake < 0) {
		gw_fail_errno(err, errno, "eventfd");
		free(s->vm);
		free(s);
		return NULL;
	}
	strcpy(s->state.status, "none");
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->go_on, NULL);
	return s;
}

static void join(struct gw_session *s)
{
	if (s->joinable)
		pthread_join(s->thread, NULL);
	s->joinable = false;
	free(s->uri);
	s->uri = NULL;
}

void gw_session_free(struct gw_session *s)
{
	if (!s)
		return;
	gw_session_cancel(s);
	join(s);
	pthread_cond_destroy(&s->go_on);
	pthread_mutex_destroy(&s->lock);
	close(s->wake);
	free(s->vm);
	free(s);
}

int gw_session_fd(const struct gw_session *s)
{
	return s->wake;
}

bool gw_session_event(struct gw_session *s, struct gw_event *e)
{
	uint64_t n;

	GW_LOCKED(&s->lock);
	if (!s->nevents) {
		if (read(s->wake, &n, sizeof(n)) < 0) {
			/* EAGAIN: it was empty */
		}
		return false;
	}
	*e = s->event[s->first];
	s->first = (s->first + 1) % MAX_EVENTS;
	s->nevents--;
	return true;
}

bool gw_session_busy(struct gw_session *s)
{
	GW_LOCKED(&s->lock);
	return s->busy;
}

int gw_session_begin(struct gw_session *s, const struct gw_session_plan *plan,
		     struct gw_error *err)
{
	int r;

	if (gw_session_busy(s))
		return gw_fail_as(err, GW_FAULT_USAGE, EBUSY,
				  "There's a migration process in progress");
	join(s);
	s->plan = *plan;
	s->uri = strdup(plan->uri);
	if (!s->uri)
		return gw_fail(err, ENOMEM, "no memory");
	s->plan.uri = s->uri;
	{
		GW_LOCKED(&s->lock);
		s->state.incoming = plan->incoming;
		s->state.xbzrle = plan->params.xbzrle;
		s->state.listening[0] = '\0';
		s->state.error.code = 0;
		memset(&s->state.stats, 0, sizeof(s->state.stats));
		s->state.stats.expected_downtime_ns = -1;
		s->state.stats.eta_ns = -1;
		s->busy = s->held = true;
		s->cancelled = false;
	}
	r = gw_thread_start(&s->thread, "gw-operation", thread_main, s, err);
	s->joinable = !r;
	if (r) {
		GW_LOCKED(&s->lock);
		s->busy = false;
	}
	return r;
}

void gw_session_cancel(struct gw_session *s)
{
	GW_LOCKED(&s->lock);
	if (!s->busy)
		return;
	/* In state device it may be too late; then it completes. */
	if (strcmp(s->state.status, "device") &&
	    strcmp(s->state.status, "none") && s->op && !s->plan.incoming)
		set_status(s, "cancelling");
	s->cancelled = true;
	pthread_cond_signal(&s->go_on);
	if (s->op)
		godwit_op_cancel(s->op);
}

int gw_session_continue(struct gw_session *s, const char *state,
			struct gw_error *err)
{
	GW_LOCKED(&s->lock);
	if (strcmp(s->state.status, state) ||
	    strcmp(s->state.status, "pre-switchover"))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "Migration not in expected state: %s",
				  s->state.status);
	s->held = false;
	pthread_cond_signal(&s->go_on);
	return 0;
}

int gw_session_set(struct gw_session *s, const char *name, const char *value,
		   struct gw_error *err)
{
	GW_LOCKED(&s->lock);
	return s->op ? godwit_op_set(s->op, name, value,
				     (struct godwit_error *)err) :
		       0;
}

void gw_session_state(struct gw_session *s, struct gw_session_state *out)
{
	GW_LOCKED(&s->lock);
	*out = s->state;
	out->busy = s->busy;
}
