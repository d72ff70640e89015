/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * carry_test.c - the carrier of native mode between two socket pairs: what it
 * passes, what it notes on the way, and that it never ends or stops reading
 * the VMM's socket by itself.
 */
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "source/carry.h"

/* vmm | ours -- carry -- chan | peer */
struct rig {
	int vmm, ours, peer;
	struct gw_chan *chan;
	struct gw_carry *carry;
	struct gw_error err;
};

static void rig_init(struct rig *r, bool back)
{
	int a[2], b[2];

	memset(r, 0, sizeof(*r));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, a));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b));
	r->vmm = a[0];
	r->ours = a[1];
	r->peer = b[1];
	r->chan = gw_chan_from_fd(b[0], "the peer", &r->err);
	r->carry = gw_carry_start(r->ours, r->chan, back, &r->err);
	CHECK(r->chan && r->carry);
}

static void rig_fini(struct rig *r)
{
	gw_carry_free(r->carry);
	gw_chan_close(r->chan);
	close(r->vmm);
	close(r->ours);
	if (r->peer >= 0)
		close(r->peer);
}

/* Look until @fn is true, for 10 s at most. */
static struct gw_carry_state await(struct rig *r,
				   bool (*fn)(const struct gw_carry_state *))
{
	int64_t deadline = gw_deadline_ms(10000);
	struct timespec step = { 0, GW_NS_PER_MS };
	struct gw_carry_state s;

	for (;;) {
		gw_carry_look(r->carry, &s);
		if (fn(&s) || !gw_deadline_left_ms(deadline))
			return s;
		nanosleep(&step, NULL);
	}
}

static bool idle(const struct gw_carry_state *s)
{
	return s->idle;
}

static bool gone(const struct gw_carry_state *s)
{
	return s->peer != GW_CARRY_OPEN;
}

static bool shut(const struct gw_carry_state *s)
{
	return s->shut && s->shut_passed;
}

static bool ended(const struct gw_carry_state *s)
{
	return s->ended;
}

static bool take(int fd, void *p, size_t n)
{
	return recv(fd, p, n, MSG_WAITALL) == (ssize_t)n;
}

static bool put(int fd, const void *p, size_t n)
{
	return send(fd, p, n, MSG_NOSIGNAL) == (ssize_t)n;
}

static bool at_end(int fd)
{
	char c;

	return recv(fd, &c, 1, 0) == 0;
}

static const uint8_t pong[] = { 0, 2, 0, 4, 0, 0, 0, 1 };
static const uint8_t ack[] = { 0, 7, 0, 0 };
static const uint8_t shut0[] = { 0, 1, 0, 4, 0, 0, 0, 0 };
static const uint8_t shut1[] = { 0, 1, 0, 4, 0, 0, 0, 1 };

static void *write_much(void *arg)
{
	struct rig *r = arg;
	uint32_t buf[16384];

	for (uint32_t i = 0; i < 256; i++) { /* 16 MiB */
		for (uint32_t k = 0; k < 16384; k++)
			buf[k] = i * 16384 + k;
		if (!put(r->vmm, buf, sizeof(buf)))
			return NULL;
	}
	return r;
}

static void passes_a_stream_as_it_is(void)
{
	struct gw_carry_state s;
	uint32_t buf[16384];
	pthread_t t;
	struct rig r;
	void *ok;

	rig_init(&r, true);
	REQUIRE(!pthread_create(&t, NULL, write_much, &r));
	for (uint32_t i = 0; i < 256; i++) {
		CHECK(take(r.peer, buf, sizeof(buf)));
		for (uint32_t k = 0; k < 16384; k++)
			if (buf[k] != i * 16384 + k)
				CHECK(!"the stream is another");
	}
	pthread_join(t, &ok);
	CHECK(ok);
	s = await(&r, idle);
	CHECK(s.forth == 16 << 20 && s.peer == GW_CARRY_OPEN && !s.ended);
	shutdown(r.vmm, SHUT_WR);
	CHECK(at_end(r.peer));
	s = await(&r, ended);
	CHECK(s.ended);
	/* The other half still lives. */
	CHECK(put(r.peer, pong, sizeof(pong)));
	CHECK(take(r.vmm, buf, sizeof(pong)) && !memcmp(buf, pong, 8));
	rig_fini(&r);
}

/* Bytes that are on their way are never called idle. */
static void is_not_idle_with_a_peer_that_takes_nothing(void)
{
	struct gw_carry_state s;
	struct timespec step = { 0, 200 * GW_NS_PER_MS };
	char buf[65536] = "";
	struct rig r;
	int n;

	rig_init(&r, true);
	CHECK(await(&r, idle).idle);
	for (n = 0; n < 200; n++) {
		gw_carry_look(r.carry, &s);
		if (send(r.vmm, buf, sizeof(buf), MSG_DONTWAIT) < 0) {
			nanosleep(&step, NULL);
			if (send(r.vmm, buf, 1, MSG_DONTWAIT) < 0)
				break;
		}
	}
	CHECK(n < 200);
	gw_carry_look(r.carry, &s);
	CHECK(!s.idle && s.peer == GW_CARRY_OPEN);
	rig_fini(&r);
}

static void passes_answers_whole_and_notes_shut(void)
{
	struct gw_carry_state s;
	uint8_t buf[32];
	struct rig r;
	int unread;

	rig_init(&r, true);
	CHECK(put(r.peer, ack, sizeof(ack)) && put(r.peer, pong, 5));
	CHECK(take(r.vmm, buf, sizeof(ack)) && !memcmp(buf, ack, 4));
	/* Half a message waits for its other half. */
	usleep(100000);
	CHECK(!ioctl(r.vmm, FIONREAD, &unread) && unread == 0);
	CHECK(put(r.peer, pong + 5, 3) && put(r.peer, shut0, sizeof(shut0)));
	CHECK(take(r.vmm, buf, 16) && !memcmp(buf, pong, 8) &&
	      !memcmp(buf + 8, shut0, 8));
	s = await(&r, shut);
	CHECK(s.shut && s.shut_passed && s.shut_value == 0 && s.shut_ns > 0);
	CHECK(s.back == 20 && s.peer == GW_CARRY_OPEN);
	close(r.peer);
	r.peer = -1;
	s = await(&r, gone);
	CHECK(s.peer == GW_CARRY_ENDED && s.shut);
	rig_fini(&r);
}

static void notes_a_refusal_before_the_end(void)
{
	struct gw_carry_state s;
	struct rig r;

	rig_init(&r, true);
	CHECK(put(r.peer, shut1, sizeof(shut1)));
	close(r.peer);
	r.peer = -1;
	s = await(&r, gone);
	CHECK(s.shut && s.shut_value == 1 && s.peer == GW_CARRY_ENDED);
	rig_fini(&r);
}

/* A peer that is gone: the VMM is not told, and can write on. */
static void goes_on_reading_without_a_peer(void)
{
	struct gw_carry_state s;
	pthread_t t;
	struct rig r;
	void *ok;
	char c;

	rig_init(&r, true);
	close(r.peer);
	r.peer = -1;
	s = await(&r, gone);
	CHECK(s.peer == GW_CARRY_ENDED && s.why.code);
	REQUIRE(!pthread_create(&t, NULL, write_much, &r));
	pthread_join(t, &ok);
	CHECK(ok);
	CHECK(recv(r.vmm, &c, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	gw_carry_look(r.carry, &s);
	CHECK(!s.idle && !s.ended); /* nothing of it was carried */
	gw_carry_hang_up(r.carry);
	CHECK(at_end(r.vmm));
	rig_fini(&r);
}

static void a_silent_peer_is_lost_and_not_ended(void)
{
	struct gw_carry_state s;
	pthread_t t;
	struct rig r;
	void *ok;

	rig_init(&r, true);
	r.chan->write_timeout_ms = 200;
	REQUIRE(!pthread_create(&t, NULL, write_much, &r));
	s = await(&r, gone);
	CHECK(s.peer == GW_CARRY_LOST && s.why.code == ETIMEDOUT);
	pthread_join(t, &ok);
	CHECK(ok);
	rig_fini(&r);
}

static void tells_what_is_no_return_path(const void *p, size_t n, bool godwit)
{
	struct gw_carry_state s;
	struct rig r;
	char c;

	rig_init(&r, true);
	CHECK(put(r.peer, p, n));
	s = await(&r, gone);
	CHECK(s.peer == GW_CARRY_LOST && s.why.code == EPROTO);
	CHECK(s.why.fault == GW_FAULT_INPUT && s.godwit == godwit);
	/* Nothing of it reached the VMM. */
	CHECK(recv(r.vmm, &c, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	rig_fini(&r);
}

static void takes_no_garbage_for_answers(void)
{
	static const uint8_t zero[4], large[4] = { 0, 2, 2, 1 };

	tells_what_is_no_return_path("GODWIT\r\n", 8, true);
	tells_what_is_no_return_path("HTTP/1.1", 8, false);
	tells_what_is_no_return_path(zero, 4, false);
	tells_what_is_no_return_path(large, 4, false);
}

/* After the cut a word of the peer changes nothing, and ours gets through. */
static void speaks_for_a_peer_that_was_cut_off(void)
{
	struct gw_carry_state s;
	uint8_t buf[8];
	pthread_t t;
	struct rig r;
	void *ok;

	rig_init(&r, true);
	CHECK(put(r.peer, shut0, 3));
	gw_carry_cut(r.carry);
	CHECK(send(r.peer, shut0 + 3, 5, MSG_NOSIGNAL) < 0);
	gw_carry_look(r.carry, &s);
	CHECK(!s.shut && s.peer == GW_CARRY_OPEN);
	REQUIRE(!pthread_create(&t, NULL, write_much, &r));
	pthread_join(t, &ok); /* thrown away */
	CHECK(ok);
	CHECK_OK(gw_carry_say_shut(r.carry, 0, &r.err), &r.err);
	CHECK(take(r.vmm, buf, 8) && !memcmp(buf, shut0, 8));
	rig_fini(&r);
}

/* Without a way back nobody looks for answers. */
static void carries_one_way(void)
{
	struct gw_carry_state s;
	struct rig r;
	char c;

	rig_init(&r, false);
	CHECK(put(r.peer, shut0, 8) && put(r.vmm, "x", 1));
	CHECK(take(r.peer, &c, 1) && c == 'x');
	CHECK(recv(r.vmm, &c, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	gw_carry_look(r.carry, &s);
	CHECK(!s.shut && s.back == 0);
	close(r.vmm);
	r.vmm = dup(r.ours);
	CHECK(await(&r, ended).ended && at_end(r.peer));
	rig_fini(&r);
}

int main(void)
{
	RUN(passes_a_stream_as_it_is);
	RUN(is_not_idle_with_a_peer_that_takes_nothing);
	RUN(passes_answers_whole_and_notes_shut);
	RUN(notes_a_refusal_before_the_end);
	RUN(goes_on_reading_without_a_peer);
	RUN(a_silent_peer_is_lost_and_not_ended);
	RUN(takes_no_garbage_for_answers);
	RUN(speaks_for_a_peer_that_was_cut_off);
	RUN(carries_one_way);
	return test_done();
}
