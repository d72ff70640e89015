/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * watch.c - the thread that decides, at once and under the lock, whether the
 * lease is taken, and that carries a cancel into the turn.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"
#include "colo/keeper.h"

#define LAST_WORD_MS 3000 /* for why the lease was given back */

struct gw_watch {
	struct gw_standby *s;
	int kick; /* eventfd */
	bool quit; /* atomic */
	int64_t end_ns; /* the thread's: then the turn ends; 0: it need not */
	pthread_t thread;
};

/* Under the lock. */
static void end_turn(struct gw_standby *s)
{
	if (!s->turn)
		return;
	gw_cancel_request(&s->turn->end);
	gw_cancel_request(&s->turn->wake);
}

/*
 * Without a checkpoint there is nothing to take over, and the primary does
 * well not to wait for our answers.
 */
static void decide(struct gw_watch *w, struct gw_standby *s)
{
	struct pollfd p = { .fd = s->lease_fd, .events = POLLIN };
	int r;

	if (poll(&p, 1, 0) != 1)
		return; /* that was another's, or it was heard meanwhile */
	if (!s->here) {
		gw_lease_renounce(s->lease);
		r = -ECANCELED;
	} else {
		r = gw_lease_take(s->lease);
	}
	if (r == -EAGAIN)
		return;
	s->taken = !r;
	s->released = r;
	if (s->taken || !s->here || gw_lease_left(s->lease))
		end_turn(s);
	else
		w->end_ns = gw_deadline_ms(LAST_WORD_MS);
	pthread_cond_broadcast(&s->changed);
}

/* Who takes over already is not stopped by this. Under the lock. */
static void leave(struct gw_standby *s)
{
	s->leaving = true;
	if (s->lease && !s->taken) {
		gw_lease_renounce(s->lease);
		s->released = true;
	}
	end_turn(s);
	pthread_cond_broadcast(&s->changed);
}

/* What there is to wait for now. */
static int prepare(struct gw_watch *w, struct pollfd p[3])
{
	struct gw_standby *s = w->s;
	GW_LOCKED(&s->lock);

	p[0] = (struct pollfd){ .fd = w->kick, .events = POLLIN };
	p[1] = (struct pollfd){ .fd = s->leaving ? -1 :
						   gw_cancel_fd(s->c->cancel),
				.events = POLLIN };
	p[2] = (struct pollfd){ .fd = -1, .events = POLLIN };
	if (s->lease && !s->taken && !s->released)
		p[2].fd = s->lease_fd;
	if (!s->lease)
		w->end_ns = 0;
	return gw_deadline_left_ms(w->end_ns);
}

static void handle(struct gw_watch *w, const struct pollfd p[3])
{
	struct gw_standby *s = w->s;
	eventfd_t v;
	GW_LOCKED(&s->lock);

	if (p[0].revents)
		(void)eventfd_read(w->kick, &v);
	if (p[1].revents)
		leave(s);
	if (p[2].revents && s->lease && !s->taken && !s->released)
		decide(w, s);
	if (w->end_ns && gw_now_ns() >= w->end_ns) {
		w->end_ns = 0;
		if (s->released)
			end_turn(s);
	}
}

static void *watch(void *arg)
{
	struct gw_watch *w = arg;
	struct pollfd p[3];

	while (!__atomic_load_n(&w->quit, __ATOMIC_ACQUIRE)) {
		int ms = prepare(w, p);

		if (poll(p, 3, ms) >= 0)
			handle(w, p);
	}
	return NULL;
}

void gw_watch_kick(struct gw_standby *s)
{
	(void)eventfd_write(s->watch->kick, 1);
}

int gw_watch_start(struct gw_standby *s, struct gw_error *err)
{
	struct gw_watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return gw_fail(err, ENOMEM, "no memory");
	w->s = s;
	w->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->kick < 0) {
		free(w);
		return gw_fail_errno(err, errno, "eventfd");
	}
	r = gw_thread_start(&w->thread, "gw-watch", watch, w, err);
	if (r) {
		close(w->kick);
		free(w);
		return r;
	}
	s->watch = w;
	return 0;
}

void gw_watch_stop(struct gw_standby *s)
{
	struct gw_watch *w = s->watch;

	if (!w)
		return;
	__atomic_store_n(&w->quit, true, __ATOMIC_RELEASE);
	gw_watch_kick(s);
	pthread_join(w->thread, NULL);
	close(w->kick);
	free(w);
	s->watch = NULL;
}
