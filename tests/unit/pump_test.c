/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pump_test.c - bytes between two channels: all of them, both ways at once,
 * also when one way stands still; ends are passed on, failures end both.
 */
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "chan/pump.h"

/* left | a -- pump -- b | right */
struct rig {
	int left, right;
	struct gw_pump pump;
	struct gw_error err;
};

static void rig_init(struct rig *r)
{
	int a[2], b[2];
	struct gw_chan *ca, *cb;

	memset(r, 0, sizeof(*r));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, a));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b));
	r->left = a[0];
	r->right = b[0];
	ca = gw_chan_from_fd(a[1], "left", &r->err);
	cb = gw_chan_from_fd(b[1], "right", &r->err);
	CHECK(ca && cb);
	CHECK_OK(gw_pump_start(&r->pump, ca, cb, &r->err), &r->err);
}

static void rig_fini(struct rig *r)
{
	gw_pump_stop(&r->pump);
	gw_pump_stop(&r->pump); /* idempotent */
	close(r->left);
	close(r->right);
}

#define BYTES (8u << 20)

struct flow {
	int fd;
	uint8_t seed;
	bool ok;
};

static void *feed(void *arg)
{
	struct flow *f = arg;
	uint8_t buf[4096];
	size_t at = 0;

	while (at < BYTES) {
		size_t n = 1 + at % sizeof(buf);

		if (n > BYTES - at)
			n = BYTES - at;
		for (size_t i = 0; i < n; i++)
			buf[i] = (uint8_t)((at + i) * 7 + f->seed);
		for (size_t k = 0; k < n;) {
			ssize_t w = send(f->fd, buf + k, n - k, MSG_NOSIGNAL);

			if (w < 0)
				return NULL;
			k += (size_t)w;
		}
		at += n;
	}
	f->ok = !shutdown(f->fd, SHUT_WR);
	return NULL;
}

static void *eat(void *arg)
{
	struct flow *f = arg;
	uint8_t buf[5000];
	size_t at = 0;
	ssize_t n;

	f->ok = true;
	while ((n = recv(f->fd, buf, sizeof(buf), 0)) > 0)
		for (ssize_t i = 0; i < n; i++, at++)
			if (buf[i] != (uint8_t)(at * 7 + f->seed))
				f->ok = false;
	f->ok = f->ok && n == 0 && at == BYTES;
	return NULL;
}

static void both_ways_at_once(void)
{
	struct flow f[4];
	pthread_t t[4];
	struct rig r;

	rig_init(&r);
	f[0] = (struct flow){ r.left, 1, false };
	f[1] = (struct flow){ r.right, 1, false };
	f[2] = (struct flow){ r.right, 9, false };
	f[3] = (struct flow){ r.left, 9, false };
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_create(&t[i], NULL, i % 2 ? eat : feed, &f[i]));
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		CHECK(f[i].ok);
	}
	/* Both ends were passed on: that is how it ends. */
	CHECK_OK(gw_pump_wait(&r.pump, 60000, &r.err), &r.err);
	CHECK(gw_chan_bytes_read(r.pump.a) == BYTES &&
	      gw_chan_bytes_written(r.pump.a) == BYTES);
	rig_fini(&r);
}

/* Nobody reads on the right, until its direction is full. The other one is
 * not held up. */
static void a_full_direction_does_not_stop_the_other(void)
{
	static char buf[65536];
	struct rig r;

	rig_init(&r);
	for (int idle = 0; idle < 20;) {
		ssize_t n = send(r.left, buf, sizeof(buf), MSG_DONTWAIT);

		idle = n < 0 ? idle + 1 : 0;
		if (n < 0)
			usleep(10000);
	}
	CHECK(send(r.right, "hello", 5, 0) == 5);
	CHECK(recv(r.left, buf, 5, MSG_WAITALL) == 5 &&
	      !memcmp(buf, "hello", 5));
	CHECK(gw_pump_wait(&r.pump, 50, &r.err) == -ETIMEDOUT);
	rig_fini(&r);
}

static void one_end_leaves_the_other_direction(void)
{
	char c = 0;
	struct rig r;

	rig_init(&r);
	CHECK(!shutdown(r.left, SHUT_WR));
	CHECK(recv(r.right, &c, 1, 0) == 0);
	CHECK(send(r.right, "x", 1, 0) == 1);
	CHECK(recv(r.left, &c, 1, 0) == 1 && c == 'x');
	CHECK(gw_pump_check(&r.pump, &r.err) == 0);
	CHECK(!shutdown(r.right, SHUT_WR));
	CHECK_OK(gw_pump_wait(&r.pump, 60000, &r.err), &r.err);
	rig_fini(&r);
}

static void a_failure_ends_both_and_says_the_first_reason(void)
{
	struct rig r;
	char c;

	rig_init(&r);
	close(r.right);
	r.right = dup(r.left);		    /* something to close */
	CHECK(recv(r.left, &c, 1, 0) == 0); /* the end was passed on */
	CHECK(send(r.left, "lost", 4, MSG_NOSIGNAL) == 4);
	CHECK(gw_pump_wait(&r.pump, 60000, &r.err) == -EPIPE);
	CHECK(strstr(r.err.msg, "right"));
	CHECK(send(r.left, "x", 1, MSG_NOSIGNAL) < 0);
	rig_fini(&r);
}

static void cut_wakes_everybody(void)
{
	struct rig r;
	char c;

	rig_init(&r);
	gw_pump_cut(&r.pump);
	CHECK(gw_pump_wait(&r.pump, 60000, &r.err) == -ESHUTDOWN);
	CHECK(gw_pump_check(&r.pump, &r.err) == -ESHUTDOWN);
	CHECK(recv(r.left, &c, 1, 0) <= 0 && recv(r.right, &c, 1, 0) <= 0);
	rig_fini(&r);
}

/* As a VMM that is full and waits for room, and for nothing else. */
static void a_full_near_side_hears_of_the_end(void)
{
	static char buf[65536];
	struct pollfd p;
	struct rig r;

	rig_init(&r);
	p = (struct pollfd){ .fd = r.right, .events = POLLOUT };
	/* Nobody reads on the left: everything fills up. */
	for (int idle = 0; idle < 20;) {
		ssize_t n = send(r.right, buf, sizeof(buf), MSG_DONTWAIT);

		idle = n < 0 ? idle + 1 : 0;
		if (n < 0)
			usleep(10000);
	}
	gw_pump_cut(&r.pump);
	CHECK(gw_pump_wait(&r.pump, 60000, &r.err) == -ESHUTDOWN);
	CHECK(poll(&p, 1, 60000) == 1 && p.revents & POLLOUT);
	CHECK(send(r.right, buf, 1, MSG_NOSIGNAL) < 0);
	rig_fini(&r);
}

static void keeps_to_a_limit(void)
{
	static char buf[1 << 20];
	int64_t t0 = gw_now_ns();
	size_t got = 0;
	struct rig r;

	rig_init(&r);
	gw_pump_limit(&r.pump, 4 << 20);
	for (size_t sent = 0; got < sizeof(buf);) {
		ssize_t n =
			send(r.right, buf, sizeof(buf) - sent, MSG_DONTWAIT);

		sent += n > 0 ? (size_t)n : 0;
		n = recv(r.left, buf, sizeof(buf), MSG_DONTWAIT);
		got += n > 0 ? (size_t)n : 0;
		if (n <= 0)
			usleep(1000);
	}
	/* 250 ms, but for the last piece and a moment at the start. */
	CHECK(gw_now_ns() - t0 > 150 * GW_NS_PER_MS);
	/* The other way has none, and taking it off is heard of. */
	CHECK(send(r.right, "x", 1, 0) == 1);
	gw_pump_limit(&r.pump, 0);
	CHECK(recv(r.left, buf, 1, 0) == 1);
	rig_fini(&r);
}

static void cancel_ends_it(void)
{
	struct gw_cancel cancel;
	struct gw_chan *ca, *cb;
	struct rig r = { 0 };
	int a[2], b[2];

	CHECK(!gw_cancel_init(&cancel, &r.err));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, a));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b));
	r.left = a[0];
	r.right = b[0];
	ca = gw_chan_from_fd(a[1], "left", &r.err);
	cb = gw_chan_from_fd(b[1], "right", &r.err);
	ca->cancel = &cancel;
	CHECK_OK(gw_pump_start(&r.pump, ca, cb, &r.err), &r.err);
	gw_cancel_request(&cancel);
	CHECK(gw_pump_wait(&r.pump, 60000, &r.err) == -ECANCELED);
	rig_fini(&r);
	gw_cancel_fini(&cancel);
}

int main(void)
{
	RUN(both_ways_at_once);
	RUN(a_full_direction_does_not_stop_the_other);
	RUN(one_end_leaves_the_other_direction);
	RUN(a_failure_ends_both_and_says_the_first_reason);
	RUN(cut_wakes_everybody);
	RUN(a_full_near_side_hears_of_the_end);
	RUN(keeps_to_a_limit);
	RUN(cancel_ends_it);
	return test_done();
}
