/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * control.c - the control socket of a standby: a line comes, "status" or
 * "failover", and a line of JSON goes back. Several threads take turns at
 * accepting, so that somebody who waits for a take-over, or says nothing,
 * keeps nobody from asking.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"
#include "colo/keeper.h"

#define THREADS	    3
#define PATIENCE_MS 1000 /* with who says nothing */
#define LINE_MAX_   64	 /* of a command */
#define ANSWER_MAX  (64u << 10)

struct gw_control {
	struct gw_standby *s;
	struct gw_listener *listener;
	struct gw_cancel stop;
	pthread_mutex_t turn; /* to accept */
	pthread_t thread[THREADS];
	unsigned int nthreads;
};

/* --- answers ------------------------------------------------------------- */

static const char *state_name(enum gw_standby_state state)
{
	static const char *const name[] = {
		[GW_STANDBY_LISTENING] = "listening",
		[GW_STANDBY_RECEIVING] = "receiving",
		[GW_STANDBY_PROTECTED] = "protected",
		[GW_STANDBY_LOST] = "lost",
		[GW_STANDBY_TAKING] = "taking over",
		[GW_STANDBY_RUNNING] = "running",
	};

	return name[state];
}

static json_t *status(struct gw_standby *s)
{
	int64_t now = gw_now_ns();
	json_t *j;
	GW_LOCKED(&s->lock);

	j = json_pack("{s:s, s:s, s:I, s:s, s:I}", "vm",
		      gw_standby_vm(s)->info.name, "state",
		      state_name(s->state), "checkpoint", (json_int_t)s->seq,
		      "primary", s->primary, "timeout_ms",
		      (json_int_t)(s->c->params->timeout_ns / GW_NS_PER_MS));
	if (s->seq && s->seq_ns) {
		json_object_set_new(
			j, "age_ms",
			json_integer((now - s->seq_ns) / GW_NS_PER_MS));
		json_object_set_new(
			j, "interval_ms",
			json_integer(s->interval_ns / GW_NS_PER_MS));
	}
	if (s->lease)
		json_object_set_new(
			j, "heard_ms",
			json_integer((now - gw_lease_heard(s->lease)) /
				     GW_NS_PER_MS));
	return j;
}

/* Under the lock: is there something to wait for? Return: 1, 0, -errno. */
static int pending(struct gw_standby *s, uint64_t attempts, int64_t deadline,
		   struct gw_error *err)
{
	if (s->attempts != attempts) {
		*err = s->last;
		return -err->code;
	}
	if (s->state == GW_STANDBY_RUNNING)
		return 0;
	if (s->state == GW_STANDBY_TAKING)
		return 1;
	if (!s->seq)
		return gw_fail(err, ENODATA,
			       "there is nothing to take over: no checkpoint "
			       "is complete");
	if (s->leaving)
		return gw_fail(err, ECANCELED, "the standby ends");
	if (gw_now_ns() < deadline)
		return 1;
	return gw_fail(err, ETIMEDOUT,
		       "the primary %s is alive, but did not hand the VM over "
		       "in time; it may still do so. When it is silent for "
		       "%lld ms the VM runs here",
		       s->primary,
		       (long long)(s->c->params->timeout_ns / GW_NS_PER_MS));
}

static int failover(struct gw_standby *s, struct gw_error *err)
{
	int64_t deadline = gw_now_ns() + s->c->params->handover_timeout_ns;
	uint64_t attempts;
	int r;
	GW_LOCKED(&s->lock);

	attempts = s->attempts;
	s->told = s->seq;
	if (s->told && s->turn)
		gw_cancel_request(&s->turn->wake);
	while ((r = pending(s, attempts, deadline, err)) > 0) {
		int64_t until = gw_now_ns() + PATIENCE_MS * GW_NS_PER_MS / 10;
		struct timespec ts = { until / GW_NS_PER_S,
				       until % GW_NS_PER_S };

		pthread_cond_clockwait(&s->changed, &s->lock, CLOCK_MONOTONIC,
				       &ts);
	}
	s->told = false;
	return r;
}

static json_t *answer(struct gw_standby *s, const char *command)
{
	struct gw_error err = { 0 };
	json_t *j;

	if (!strcmp(command, "failover"))
		failover(s, &err);
	else if (strcmp(command, "status"))
		gw_fail(&err, EINVAL,
			"unknown command; there are status and failover");
	j = status(s);
	if (err.code) {
		json_object_set_new(j, "error", json_string(err.msg));
		json_object_set_new(j, "fault", json_integer(err.fault));
	}
	return j;
}

/* --- the socket ---------------------------------------------------------- */

/* A line, its end cut off. Return: 0 or -errno with @err. */
static int get_line(struct gw_chan *chan, char *line, size_t cap,
		    struct gw_error *err)
{
	size_t len = 0;
	char *end;

	do {
		struct iovec iov = { line + len, cap - 1 - len };
		ssize_t n = len < cap - 1
				    ? gw_chan_readv(chan, &iov, 1, err)
				    : gw_fail(err, EMSGSIZE,
					      "a line of more than %zu bytes",
					      cap - 2);

		if (n < 0)
			return (int)n;
		if (!n)
			return gw_fail(err, ECONNRESET, "%s says nothing",
				       chan->peer);
		len += (size_t)n;
		line[len] = 0;
		end = memchr(line, '\n', len);
	} while (!end);
	*end = 0;
	return 0;
}

static int put_line(struct gw_chan *chan, const json_t *j, struct gw_error *err)
{
	gw_autofree char *text = json_dumps(j, JSON_COMPACT);
	struct iovec iov[2] = { { text, text ? strlen(text) : 0 },
				{ (void *)(uintptr_t) "\n", 1 } };

	return text ? gw_chan_writev(chan, iov, 2, err)
		    : gw_fail(err, ENOMEM, "no memory for an answer");
}

static void serve(struct gw_control *c, struct gw_chan *chan)
{
	struct gw_error err = { 0 };
	char line[LINE_MAX_];
	json_t *j;

	chan->cancel = &c->stop;
	chan->read_timeout_ms = chan->write_timeout_ms = PATIENCE_MS;
	if (get_line(chan, line, sizeof(line), &err)) {
		gw_debug("%s", err.msg);
		return;
	}
	j = answer(c->s, line);
	chan->cancel = NULL; /* also while everything ends */
	if (put_line(chan, j, &err))
		gw_debug("%s", err.msg);
	json_decref(j);
}

static struct gw_chan *take(struct gw_control *c)
{
	struct gw_error ignored;
	GW_LOCKED(&c->turn);

	return gw_listener_accept(c->listener, -1, &c->stop, &ignored);
}

static void *work(void *arg)
{
	struct gw_control *c = arg;

	for (;;) {
		struct gw_chan *chan = take(c);

		if (chan)
			serve(c, chan);
		/* Out of descriptors, say: no reason to spin. */
		else if (gw_wait_fd(-1, 0, gw_deadline_ms(PATIENCE_MS),
				    &c->stop) == -ECANCELED)
			return NULL;
		gw_chan_close(chan);
	}
}

int gw_control_start(struct gw_standby *s, struct gw_error *err)
{
	struct gw_control *c = calloc(1, sizeof(*c));
	char uri[160];
	int r;

	if (!c)
		return gw_fail(err, ENOMEM, "no memory");
	c->s = s;
	r = gw_cancel_init(&c->stop, err);
	if (r) {
		free(c);
		return r;
	}
	pthread_mutex_init(&c->turn, NULL);
	s->control = c;
	snprintf(uri, sizeof(uri), "unix:%s", s->c->control);
	c->listener = gw_chan_listen(uri, err);
	if (!c->listener && err->code == EADDRINUSE)
		return gw_fail(err, EBUSY,
			       "another standby of '%s' is there: it has %s",
			       gw_standby_vm(s)->info.name, s->c->control);
	if (!c->listener)
		return -err->code;
	for (; c->nthreads < THREADS && !r; c->nthreads += !r)
		r = gw_thread_start(&c->thread[c->nthreads], "gw-control", work,
				    c, err);
	return r;
}

void gw_control_stop(struct gw_standby *s)
{
	struct gw_control *c = s->control;

	if (!c)
		return;
	gw_cancel_request(&c->stop);
	while (c->nthreads)
		pthread_join(c->thread[--c->nthreads], NULL);
	gw_listener_close(c->listener);
	pthread_mutex_destroy(&c->turn);
	gw_cancel_fini(&c->stop);
	free(c);
	s->control = NULL;
}

/* --- the other end ------------------------------------------------------- */

char *gw_standby_ask(const char *path, const char *command, int64_t timeout_ms,
		     struct gw_error *err)
{
	struct gw_chan *chan;
	char uri[160], *line;
	int r;

	snprintf(uri, sizeof(uri), "unix:%s", path);
	chan = gw_chan_connect(uri, timeout_ms, NULL, err);
	if (!chan)
		return NULL;
	chan->read_timeout_ms = chan->write_timeout_ms = timeout_ms;
	line = malloc(ANSWER_MAX);
	r = line ? gw_chan_write(chan, command, strlen(command), err)
		 : gw_fail(err, ENOMEM, "no memory for an answer");
	if (!r)
		r = gw_chan_write(chan, "\n", 1, err);
	if (!r)
		r = get_line(chan, line, ANSWER_MAX, err);
	gw_chan_close(chan);
	if (!r)
		return line;
	free(line);
	return NULL;
}
