/* SPDX-License-Identifier: BSD-3-Clause */
/* pump.c - see pump.h. */
#include "chan/pump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"

#define BUFFER	 (256u << 10)
#define SMALLEST 4096u
#define STEP_NS	 (20 * GW_NS_PER_MS) /* between looks at the limit */

/* @n bytes have gone. Time that was not used is lost, but for a moment. */
static void pace(struct gw_pump_way *w, size_t n)
{
	int64_t now = gw_now_ns(), left;
	uint64_t limit;

	if (w->paid_ns < now - STEP_NS)
		w->paid_ns = now - STEP_NS;
	limit = __atomic_load_n(&w->limit, __ATOMIC_RELAXED);
	if (limit)
		w->paid_ns += (int64_t)((double)n / (double)limit * 1e9);
	while ((left = w->paid_ns - gw_now_ns()) > 0 &&
	       __atomic_load_n(&w->limit, __ATOMIC_RELAXED) &&
	       !__atomic_load_n(&w->to->down, __ATOMIC_RELAXED)) {
		struct timespec t = { 0, left < STEP_NS ? left : STEP_NS };

		nanosleep(&t, NULL);
	}
}

/* So that a low limit lets something go several times a second. */
static size_t piece(const struct gw_pump_way *w)
{
	uint64_t n = __atomic_load_n(&w->limit, __ATOMIC_RELAXED) / 10;

	if (!n || n > BUFFER)
		return BUFFER;
	return n < SMALLEST ? SMALLEST : (size_t)n;
}

static int carry(struct gw_pump_way *w, struct gw_error *err)
{
	for (;;) {
		struct iovec iov = { w->buf, piece(w) };
		ssize_t n = gw_chan_readv(w->from, &iov, 1, err);
		int r;

		if (n < 0)
			return (int)n;
		if (!n)
			break;
		r = gw_chan_write(w->to, w->buf, (size_t)n, err);
		if (r)
			return r;
		pace(w, (size_t)n);
	}
	return gw_chan_shutdown_write(w->to, err);
}

static void *run(void *arg)
{
	struct gw_pump_way *w = arg;
	struct gw_pump *p = w->pump;
	struct gw_error err = { 0 };
	int r = carry(w, &err);

	pthread_mutex_lock(&p->lock);
	/* What fails because of a failure says nothing new. */
	if (r && !p->err.code)
		p->err = err;
	pthread_mutex_unlock(&p->lock);
	if (r)
		gw_pump_cut(p);
	GW_LOCKED(&p->lock);
	if (!--p->running) {
		gw_chan_close(p->b);
		p->b = NULL;
	}
	pthread_cond_broadcast(&p->ended);
	return NULL;
}

static int start_way(struct gw_pump *p, struct gw_pump_way *w,
		     struct gw_chan *from, struct gw_chan *to,
		     struct gw_error *err)
{
	int r;

	w->pump = p;
	w->from = from;
	w->to = to;
	w->buf = malloc(BUFFER);
	if (!w->buf)
		return gw_fail(err, ENOMEM, "no memory to carry a disk");
	p->running++; /* before there is anybody else */
	r = gw_thread_start(&w->thread, "gw-pump", run, w, err);
	w->started = !r;
	return r;
}

static void free_pump(struct gw_pump *p)
{
	free(p->way[0].buf);
	free(p->way[1].buf);
	pthread_cond_destroy(&p->ended);
	pthread_mutex_destroy(&p->lock);
	memset(p, 0, sizeof(*p));
}

int gw_pump_start(struct gw_pump *p, struct gw_chan *a, struct gw_chan *b,
		  struct gw_error *err)
{
	pthread_condattr_t attr;
	int r;

	p->a = a;
	p->b = b;
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->ended, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_lock(&p->lock);
	r = start_way(p, &p->way[0], a, b, err);
	if (!r)
		r = start_way(p, &p->way[1], b, a, err);
	pthread_mutex_unlock(&p->lock);
	p->open = !r;
	if (!r)
		return 0;
	gw_chan_shutdown(a);
	gw_chan_shutdown(b);
	if (p->way[0].started)
		pthread_join(p->way[0].thread, NULL);
	free_pump(p);
	return r;
}

static int failure(struct gw_pump *p, struct gw_error *err)
{
	if (p->err.code && err)
		*err = p->err;
	return -p->err.code;
}

int gw_pump_check(struct gw_pump *p, struct gw_error *err)
{
	if (!p->open)
		return 0;
	GW_LOCKED(&p->lock);
	return failure(p, err);
}

int gw_pump_wait(struct gw_pump *p, int64_t timeout_ms, struct gw_error *err)
{
	int64_t end = gw_now_ns() + timeout_ms * GW_NS_PER_MS;
	struct timespec t = { end / GW_NS_PER_S, end % GW_NS_PER_S };
	GW_LOCKED(&p->lock);

	while (p->running)
		if (pthread_cond_timedwait(&p->ended, &p->lock, &t))
			return gw_fail(err, ETIMEDOUT,
				       "the connection from %s did not end "
				       "within %lld ms",
				       p->a->peer, (long long)timeout_ms);
	return failure(p, err);
}

void gw_pump_limit(struct gw_pump *p, uint64_t bytes_per_s)
{
	__atomic_store_n(&p->way[1].limit, bytes_per_s, __ATOMIC_RELAXED);
}

void gw_pump_cut(struct gw_pump *p)
{
	GW_LOCKED(&p->lock);
	gw_chan_shutdown(p->a);
	if (p->b)
		gw_chan_shutdown(p->b);
}

void gw_pump_stop(struct gw_pump *p)
{
	if (!p->open)
		return;
	gw_pump_cut(p);
	pthread_join(p->way[0].thread, NULL);
	pthread_join(p->way[1].thread, NULL);
	gw_chan_close(p->a);
	gw_chan_close(p->b);
	free_pump(p);
}
