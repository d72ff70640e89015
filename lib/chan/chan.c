/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * chan.c - see chan.h: the waits, the counters and the error texts that all
 * channels share. How bytes move is in fd.c, exec.c and fault.c, where a
 * channel comes from in open.c.
 */
#include "chan/chan.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"

int gw_chan_init(struct gw_chan *c, const struct gw_chan_ops *ops,
		 const char *peer, struct gw_error *err)
{
	c->ops = ops;
	c->rfd = c->wfd = -1;
	c->read_timeout_ms = c->write_timeout_ms = -1;
	if ((size_t)snprintf(c->peer, sizeof(c->peer), "%s", peer) >=
	    sizeof(c->peer))
		memcpy(c->peer + sizeof(c->peer) - 4, "...", 4);
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->wake_fd < 0)
		return gw_fail_errno(err, errno, "eventfd for %s", peer);
	return 0;
}

static bool is_down(const struct gw_chan *c)
{
	return __atomic_load_n(&c->down, __ATOMIC_ACQUIRE);
}

static int fail_down(const struct gw_chan *c, struct gw_error *err)
{
	return gw_fail(err, ESHUTDOWN, "connection to %s was shut down",
		       c->peer);
}

/* What an attempt's -@code means to people. */
static int fail_io(struct gw_chan *c, bool writing, int code,
		   struct gw_error *err)
{
	/* Shutting a socket down makes its attempts fail or end: our doing. */
	if (is_down(c))
		return fail_down(c, err);
	if (c->ops->explain && c->ops->explain(c, code, err))
		return -code;
	if (code == EBADF)
		return gw_fail(err, code, "%s cannot be %s", c->peer,
			       writing ? "written, only read" :
					 "read, only written");
	if (code == ENOTSUP)
		return gw_fail(err, code, "%s has no way to say the end",
			       c->peer);
	if (c->storage)
		return gw_fail_errno(err, code, "%s %s",
				     writing ? "writing" : "reading", c->peer);
	return gw_fail_errno(err, code, "connection to %s lost", c->peer);
}

static int fail_idle(const struct gw_chan *c, bool writing, int64_t ms,
		     struct gw_error *err)
{
	const char *verb = writing ? "taken by" : "from";

	if (ms % 1000)
		return gw_fail(err, ETIMEDOUT, "no byte %s %s for %lld ms",
			       verb, c->peer, (long long)ms);
	return gw_fail(err, ETIMEDOUT, "no byte %s %s for %lld s", verb,
		       c->peer, (long long)(ms / 1000));
}

/* The earlier of two points in time, 0 being none. */
static int64_t earlier(int64_t a, int64_t b)
{
	return !a || (b && b < a) ? b : a;
}

/* Until the attempt is worth repeating. Return: 0 or -errno with @err. */
static int wait_turn(struct gw_chan *c, bool writing, int64_t ms,
		     int64_t deadline, struct gw_error *err)
{
	int64_t pause = writing ? c->wpause : c->rpause;
	int64_t until = earlier(deadline, pause);
	struct pollfd p[4] = {
		{ .fd = writing ? c->wfd : c->rfd,
		  .events = writing ? POLLOUT : POLLIN },
		{ .fd = c->wake_fd, .events = POLLIN },
		{ .fd = gw_cancel_fd(c->cancel), .events = POLLIN },
		{ .fd = gw_cancel_fd(c->stop), .events = POLLIN },
	};

	for (;;) {
		int64_t left = until ? until - gw_now_ns() : 0;
		struct timespec ts = { 0 };
		int r;

		if (left > 0) {
			ts.tv_sec = (time_t)(left / GW_NS_PER_S);
			ts.tv_nsec = (long)(left % GW_NS_PER_S);
		}
		r = ppoll(p, 4, until ? &ts : NULL, NULL);
		if (r < 0 && errno != EINTR)
			return gw_fail_errno(err, errno, "waiting for %s",
					     c->peer);
		if (r > 0 && (p[2].revents || p[3].revents))
			return gw_cancel_fail(err);
		if (r > 0 && p[1].revents)
			return fail_down(c, err);
		if (r > 0)
			return 0;
		if (!until || gw_now_ns() < until)
			continue;
		return until == deadline ? fail_idle(c, writing, ms, err) : 0;
	}
}

ssize_t gw_chan_readv(struct gw_chan *c, const struct iovec *iov, int niov,
		      struct gw_error *err)
{
	int64_t deadline = 0;

	if (niov > IOV_MAX)
		niov = IOV_MAX;
	for (;;) {
		ssize_t n;
		int r;

		if (is_down(c))
			return fail_down(c, err);
		n = c->ops->readv(c, iov, niov);
		if (n > 0) {
			__atomic_fetch_add(&c->bytes_read, (uint64_t)n,
					   __ATOMIC_RELAXED);
			return n;
		}
		if (n == 0)
			return is_down(c) ? fail_down(c, err) : 0;
		if (n == -EINTR)
			continue;
		if (n != -EAGAIN)
			return fail_io(c, false, (int)-n, err);
		if (!deadline)
			deadline = gw_deadline_ms(c->read_timeout_ms);
		r = wait_turn(c, false, c->read_timeout_ms, deadline, err);
		if (r)
			return r;
	}
}

/* Forget @n written bytes, and what is empty. */
static void advance(struct iovec **iov, int *niov, size_t n)
{
	while (*niov && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		(*iov)->iov_len = 0; /* so that the call can be repeated */
		(*iov)++;
		(*niov)--;
	}
	if (n) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
	}
}

/* An attempt to write returned @n. Return: how much that was, 0 to try again
 * (it may have waited), -errno. */
static ssize_t wrote(struct gw_chan *c, ssize_t n, int64_t *deadline,
		     struct gw_error *err)
{
	if (n > 0) {
		__atomic_fetch_add(&c->bytes_written, (uint64_t)n,
				   __ATOMIC_RELAXED);
		*deadline = 0; /* it moves: the idle time starts anew */
		return n;
	}
	if (n == -EINTR)
		return 0;
	if (n != -EAGAIN)
		return fail_io(c, true, n ? (int)-n : EIO, err);
	if (!*deadline)
		*deadline = gw_deadline_ms(c->write_timeout_ms);
	return wait_turn(c, true, c->write_timeout_ms, *deadline, err);
}

int gw_chan_writev(struct gw_chan *c, struct iovec *iov, int niov,
		   struct gw_error *err)
{
	int64_t deadline = 0;

	advance(&iov, &niov, 0);
	while (niov) {
		ssize_t n;

		if (is_down(c))
			return fail_down(c, err);
		n = c->ops->writev(c, iov, niov > IOV_MAX ? IOV_MAX : niov);
		n = wrote(c, n, &deadline, err);
		if (n < 0)
			return (int)n;
		advance(&iov, &niov, (size_t)n);
	}
	return 0;
}

int gw_chan_sendfile(struct gw_chan *c, int fd, uint64_t at, size_t len,
		     struct gw_error *err)
{
	int64_t deadline = 0;
	size_t done = 0;

	if (!c->ops->sendfile)
		return -ENOTSUP;
	while (done < len) {
		ssize_t n;

		if (is_down(c))
			return fail_down(c, err);
		n = c->ops->sendfile(c, fd, at + done, len - done);
		if (n == -ENOTSUP && !done)
			return -ENOTSUP;
		n = wrote(c, n, &deadline, err);
		if (n < 0)
			return (int)n;
		done += (size_t)n;
	}
	return 0;
}

int gw_chan_write(struct gw_chan *c, const void *p, size_t len,
		  struct gw_error *err)
{
	struct iovec iov = { (void *)(uintptr_t)p, len };

	return gw_chan_writev(c, &iov, 1, err);
}

bool gw_chan_readable(struct gw_chan *c)
{
	struct pollfd p[2] = { { .fd = c->rfd, .events = POLLIN },
			       { .fd = c->wake_fd, .events = POLLIN } };

	return poll(p, 2, 0) > 0 || (c->rpause && gw_now_ns() >= c->rpause);
}

int64_t gw_chan_unacked(struct gw_chan *c)
{
	return c->ops->unacked ? c->ops->unacked(c) : 0;
}

int gw_chan_shutdown_write(struct gw_chan *c, struct gw_error *err)
{
	int r;

	if (is_down(c))
		return fail_down(c, err);
	r = c->ops->shutdown_write(c);
	return r ? fail_io(c, true, -r, err) : 0;
}

void gw_chan_shutdown(struct gw_chan *c)
{
	uint64_t one = 1;
	int saved = errno;

	__atomic_store_n(&c->down, 1, __ATOMIC_RELEASE);
	if (write(c->wake_fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: already readable */
	}
	c->ops->shutdown(c);
	errno = saved;
}

void gw_chan_close(struct gw_chan *c)
{
	if (!c)
		return;
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	c->ops->close(c);
}

ssize_t gw_chan_refill(void *arg, const struct iovec *iov, int niov,
		       struct gw_error *err)
{
	return gw_chan_readv(arg, iov, niov, err);
}

int gw_chan_flush(void *arg, struct iovec *iov, int niov, struct gw_error *err)
{
	return gw_chan_writev(arg, iov, niov, err);
}
