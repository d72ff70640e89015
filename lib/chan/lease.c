/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lease.c - see lease.h: two state machines, each with a thread that reads,
 * over what they share (struct line).
 */
#include "chan/lease.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"

#define GW_LOG_MODULE "chan"
#include "base/log.h"

#define MAGIC	  0x47574c53u /* "GWLS" */
#define MESSAGE	  16
#define PINGS	  10 /* per time-out */
#define LINGER_NS (2 * GW_NS_PER_S) /* until the other side has read END */

enum message { PING = 1, PONG = 2, END = 3, LEAVE = 4 };

/* A connection that carries messages. */
struct line {
	struct gw_chan *chan;
	struct gw_cancel stop; /* ends the thread */
	pthread_t thread;
	bool started;
	/* the thread's: what was read of the next message */
	uint8_t in[MESSAGE];
	size_t nin;
	pthread_mutex_t writing; /* one message after the other */
};

struct gw_lease_holder {
	struct line line;
	int64_t period_ns, fence_ns;
	void (*renew)(int64_t until_ns, void *arg);
	void *arg;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum gw_lease_end end;
	int64_t until_ns;   /* 0: nothing was granted yet */
	int64_t sent_ns;    /* the last ping */
	bool granted, lost; /* renew() has returned from saying so */
	/* the thread's */
	bool over; /* no renewal will come any more, and that was said */
};

struct gw_lease_grantor {
	struct line line;
	int64_t timeout_ns;
	int expired_fd; /* readable: `shown` */
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t lost_too;
	int64_t heard_ns;
	bool shown, taken, ended, left, lost;
};

/* --- conditions of gw_now_ns()'s clock ------------------------------------ */

static void init_cond(pthread_cond_t *c)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(c, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

static bool wait_cond(pthread_cond_t *c, pthread_mutex_t *m, int64_t deadline)
{
	struct timespec t = { deadline / GW_NS_PER_S, deadline % GW_NS_PER_S };

	return !pthread_cond_timedwait(c, m, &t);
}

/* --- the line ------------------------------------------------------------ */

static int line_init(struct line *l, struct gw_chan *chan, int64_t timeout_ns,
		     struct gw_error *err)
{
	l->chan = chan;
	pthread_mutex_init(&l->writing, NULL);
	l->stop.fd = -1;
	if (gw_cancel_init(&l->stop, err))
		return -err->code;
	chan->cancel = &l->stop;
	chan->write_timeout_ms = timeout_ns / GW_NS_PER_MS;
	return 0;
}

static void line_fini(struct line *l)
{
	if (l->started) {
		gw_cancel_request(&l->stop);
		pthread_join(l->thread, NULL);
	}
	gw_chan_close(l->chan);
	if (l->stop.fd >= 0)
		gw_cancel_fini(&l->stop);
	pthread_mutex_destroy(&l->writing);
}

static int line_start(struct line *l, void *(*fn)(void *), void *arg,
		      struct gw_error *err)
{
	int r = gw_thread_start(&l->thread, "gw-lease", fn, arg, err);

	l->started = !r;
	return r;
}

static int say(struct line *l, enum message type, uint64_t value)
{
	uint8_t m[MESSAGE];
	struct gw_error why;

	GW_LOCKED(&l->writing);
	gw_put_be32(m, MAGIC);
	gw_put_be32(m + 4, type);
	gw_put_be64(m + 8, value);
	return gw_chan_write(l->chan, m, sizeof(m), &why);
}

static int understand(const struct line *l, enum message *type, uint64_t *value)
{
	uint32_t t = gw_get_be32(l->in + 4);

	*type = (enum message)t;
	*value = gw_get_be64(l->in + 8);
	/* No single bit makes an END or a LEAVE of another message. */
	if (gw_get_be32(l->in) == MAGIC && t >= PING && t <= LEAVE &&
	    !*value == (t >= END))
		return 0;
	gw_warn("no message of a lease from %s", l->chan->peer);
	return -EPROTO;
}

/*
 * The next message, waiting for it until @until_ns. Return: 0, -ETIMEDOUT (what
 * was there by then has been looked at), -ECANCELED, or the line is lost.
 */
static int hear(struct line *l, int64_t until_ns, enum message *type,
		uint64_t *value)
{
	while (l->nin < MESSAGE) {
		struct iovec iov = { l->in + l->nin, MESSAGE - l->nin };
		int64_t left = until_ns - gw_now_ns();
		struct gw_error why;
		ssize_t n;

		l->chan->read_timeout_ms =
			left > 0 ? (left + GW_NS_PER_MS - 1) / GW_NS_PER_MS : 0;
		n = gw_chan_readv(l->chan, &iov, 1, &why);
		if (n <= 0)
			return n ? (int)n : -ECONNRESET;
		l->nin += (size_t)n;
	}
	l->nin = 0;
	return understand(l, type, value);
}

/* --- the holder's thread -------------------------------------------------- */

/* Under the lock: notice that nobody answered in time, for ever. */
static enum gw_lease_end look(struct gw_lease_holder *h)
{
	if (h->end == GW_LEASE_HELD && h->until_ns &&
	    gw_now_ns() >= h->until_ns)
		h->end = GW_LEASE_EXPIRED;
	return h->end;
}

static void set(struct gw_lease_holder *h, bool *flag)
{
	GW_LOCKED(&h->lock);
	*flag = true;
	pthread_cond_broadcast(&h->changed);
}

/* Take in what is granted until @until_ns. Return: whether it is news. */
static bool extend(struct gw_lease_holder *h, int64_t until_ns)
{
	GW_LOCKED(&h->lock);
	if (look(h) != GW_LEASE_HELD || until_ns <= h->until_ns)
		return false;
	h->until_ns = until_ns;
	return look(h) == GW_LEASE_HELD; /* or it came too late */
}

/* An answer to the ping sent at @sent_ns. Return: 0, or it is none. */
static int answered(struct gw_lease_holder *h, int64_t sent_ns)
{
	int64_t last_ns;

	{
		GW_LOCKED(&h->lock);
		last_ns = h->sent_ns;
	}
	if (sent_ns <= 0 || sent_ns > last_ns)
		return -EPROTO;
	if (extend(h, sent_ns + h->fence_ns))
		h->renew(sent_ns + h->fence_ns, h->arg);
	set(h, &h->granted);
	return 0;
}

/* Also when it had run out: now nobody else takes the VM. */
static void set_ended(struct gw_lease_holder *h)
{
	if (gw_lease_held(h) == GW_LEASE_ENDED)
		return;
	h->renew(INT64_MAX, h->arg);
	GW_LOCKED(&h->lock);
	h->end = GW_LEASE_ENDED;
	pthread_cond_broadcast(&h->changed);
}

/* Once: no answer will come any more, or none will count. */
static void set_over(struct gw_lease_holder *h)
{
	if (!h->over)
		h->renew(INT64_MIN, h->arg);
	h->over = true;
}

/* One that has run out asks for nothing any more. */
static int ping(struct gw_lease_holder *h)
{
	int64_t now = gw_now_ns();
	bool expired;

	{
		GW_LOCKED(&h->lock);
		if (look(h) == GW_LEASE_HELD)
			h->sent_ns = now;
		if (h->end == GW_LEASE_ENDED)
			return 0;
		expired = h->end == GW_LEASE_EXPIRED;
	}
	if (expired) {
		set_over(h);
		return 0;
	}
	return say(&h->line, PING, (uint64_t)now);
}

/* What comes until the next ping is due. */
static int hold_until(struct gw_lease_holder *h, int64_t next_ns)
{
	enum message type;
	uint64_t value;
	int r = hear(&h->line, next_ns, &type, &value);

	if (r == -ETIMEDOUT)
		return 0;
	if (!r && type == PONG)
		return answered(h, (int64_t)value);
	if (!r && type == END)
		set_ended(h);
	if (!r && type == LEAVE) /* that is for us to say */
		return -EPROTO;
	return r;
}

static void *hold(void *arg)
{
	struct gw_lease_holder *h = arg;
	int64_t next = gw_now_ns();
	int r = 0;

	while (!r) {
		if (gw_now_ns() >= next) {
			r = ping(h);
			next = gw_now_ns() + h->period_ns;
		}
		if (!r)
			r = hold_until(h, next);
	}
	if (r != -ECANCELED) {
		set_over(h);
		set(h, &h->lost);
	}
	return NULL;
}

/* --- the holder ----------------------------------------------------------- */

struct gw_lease_holder *gw_lease_hold(struct gw_chan *chan, int64_t timeout_ns,
				      int64_t fence_ns,
				      void (*renew)(int64_t until_ns,
						    void *arg),
				      void *arg, struct gw_error *err)
{
	struct gw_lease_holder *h = calloc(1, sizeof(*h));

	if (!h) {
		gw_chan_close(chan);
		gw_fail(err, ENOMEM, "no memory for a lease");
		return NULL;
	}
	pthread_mutex_init(&h->lock, NULL);
	init_cond(&h->changed);
	h->period_ns = timeout_ns / PINGS;
	h->fence_ns = fence_ns;
	h->renew = renew;
	h->arg = arg;
	if (line_init(&h->line, chan, timeout_ns, err) ||
	    line_start(&h->line, hold, h, err)) {
		gw_lease_holder_free(h);
		return NULL;
	}
	return h;
}

enum gw_lease_end gw_lease_held(struct gw_lease_holder *h)
{
	GW_LOCKED(&h->lock);
	return look(h);
}

/* Under the lock: until something changed or @deadline. */
static bool wait_changed(struct gw_lease_holder *h, int64_t deadline)
{
	return wait_cond(&h->changed, &h->lock, deadline);
}

int gw_lease_first(struct gw_lease_holder *h, int64_t timeout_ms,
		   struct gw_error *err)
{
	int64_t deadline = gw_now_ns() + timeout_ms * GW_NS_PER_MS;

	GW_LOCKED(&h->lock);
	while (!h->granted && !h->lost && h->end != GW_LEASE_ENDED)
		if (!wait_changed(h, deadline))
			break;
	if (h->granted && h->end != GW_LEASE_ENDED)
		return 0;
	if (h->lost || h->end == GW_LEASE_ENDED)
		return gw_fail(err, ECONNRESET,
			       "the standby ended the connection of the lease");
	return gw_fail(err, ETIMEDOUT,
		       "the standby did not answer on the connection of the "
		       "lease within %lld ms",
		       (long long)timeout_ms);
}

bool gw_lease_give_back(struct gw_lease_holder *h, bool leave,
			int64_t timeout_ms)
{
	int64_t deadline = gw_now_ns() + timeout_ms * GW_NS_PER_MS;
	bool lost;

	{
		GW_LOCKED(&h->lock);
		lost = h->lost;
	}
	if (!lost && say(&h->line, leave ? LEAVE : END, 0))
		lost = true;
	GW_LOCKED(&h->lock);
	while (h->end != GW_LEASE_ENDED && !h->lost && !lost)
		if (!wait_changed(h, deadline))
			break;
	return h->end == GW_LEASE_ENDED;
}

void gw_lease_holder_free(struct gw_lease_holder *h)
{
	if (!h)
		return;
	line_fini(&h->line);
	pthread_cond_destroy(&h->changed);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

/* --- the grantor's thread ------------------------------------------------- */

/* Under the lock. */
static void show(struct gw_lease_grantor *g, bool shown)
{
	eventfd_t v;

	if (shown == g->shown)
		return;
	g->shown = shown;
	if (shown)
		(void)eventfd_write(g->expired_fd, 1);
	else
		(void)eventfd_read(g->expired_fd, &v);
}

static bool is_silent(const struct gw_lease_grantor *g)
{
	return gw_now_ns() - g->heard_ns >= g->timeout_ns;
}

/* Return: whether it may be answered. */
static bool heard(struct gw_lease_grantor *g)
{
	GW_LOCKED(&g->lock);
	if (g->taken)
		return false;
	g->heard_ns = gw_now_ns();
	if (!g->ended)
		show(g, false);
	return true;
}

/* Nobody takes over any more. Return: whether that is answered. */
static bool given_back(struct gw_lease_grantor *g, bool left)
{
	GW_LOCKED(&g->lock);
	if (g->taken)
		return false;
	g->ended = true;
	g->left |= left;
	show(g, true);
	return true;
}

/* When to look whether the holder has been silent for too long. */
static int64_t next_look(struct gw_lease_grantor *g)
{
	GW_LOCKED(&g->lock);
	if (!g->ended && is_silent(g))
		show(g, true);
	return g->shown ? gw_now_ns() + g->timeout_ns
			: g->heard_ns + g->timeout_ns;
}

/* Nothing will come any more, and the time runs on. */
static void wait_alone(struct gw_lease_grantor *g)
{
	{
		GW_LOCKED(&g->lock);
		g->lost = true;
		pthread_cond_broadcast(&g->lost_too);
	}
	while (gw_wait_fd(g->line.stop.fd, POLLIN, next_look(g), NULL))
		;
}

static void *grant(void *arg)
{
	struct gw_lease_grantor *g = arg;
	int64_t look_ns = next_look(g);
	enum message type;
	uint64_t value;
	int r = 0;

	while (!r) {
		r = hear(&g->line, look_ns, &type, &value);
		if (r == -ETIMEDOUT)
			r = 0;
		else if (!r && type == PING && heard(g))
			r = say(&g->line, PONG, value);
		else if (!r && type >= END && given_back(g, type == LEAVE))
			r = say(&g->line, END, 0);
		look_ns = next_look(g);
	}
	if (r != -ECANCELED)
		wait_alone(g);
	return NULL;
}

/* --- the grantor ---------------------------------------------------------- */

struct gw_lease_grantor *gw_lease_grant(struct gw_chan *chan,
					int64_t timeout_ns, int *expired_fd,
					struct gw_error *err)
{
	struct gw_lease_grantor *g = calloc(1, sizeof(*g));

	if (!g) {
		gw_chan_close(chan);
		gw_fail(err, ENOMEM, "no memory for a lease");
		return NULL;
	}
	pthread_mutex_init(&g->lock, NULL);
	init_cond(&g->lost_too);
	g->timeout_ns = timeout_ns;
	g->heard_ns = gw_now_ns();
	g->expired_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->expired_fd < 0)
		gw_fail_errno(err, errno, "eventfd for a lease");
	*expired_fd = g->expired_fd;
	if (line_init(&g->line, chan, timeout_ns, err) || g->expired_fd < 0 ||
	    line_start(&g->line, grant, g, err)) {
		gw_lease_grantor_free(g);
		return NULL;
	}
	return g;
}

int64_t gw_lease_heard(struct gw_lease_grantor *g)
{
	GW_LOCKED(&g->lock);
	return g->heard_ns;
}

int gw_lease_take(struct gw_lease_grantor *g)
{
	GW_LOCKED(&g->lock);
	if (g->ended)
		return -ECANCELED;
	if (!g->taken && !is_silent(g))
		return -EAGAIN;
	g->taken = true;
	return 0;
}

bool gw_lease_left(struct gw_lease_grantor *g)
{
	GW_LOCKED(&g->lock);
	return g->left;
}

void gw_lease_renounce(struct gw_lease_grantor *g)
{
	if (given_back(g, false))
		(void)say(&g->line, END, 0);
}

/*
 * To close a socket with pings unread in it would reset the connection, and
 * END could be lost with it: let the holder close first.
 */
static void linger(struct gw_lease_grantor *g)
{
	int64_t deadline = gw_now_ns() + LINGER_NS;
	GW_LOCKED(&g->lock);

	while (g->ended && g->line.started && !g->lost)
		if (!wait_cond(&g->lost_too, &g->lock, deadline))
			return;
}

void gw_lease_grantor_free(struct gw_lease_grantor *g)
{
	if (!g)
		return;
	linger(g);
	line_fini(&g->line);
	pthread_cond_destroy(&g->lost_too);
	if (g->expired_fd >= 0)
		close(g->expired_fd);
	pthread_mutex_destroy(&g->lock);
	free(g);
}
