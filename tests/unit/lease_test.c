/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lease_test.c - a holder and a grantor over a socket pair that delays, cuts
 * and falls silent. What must hold never depends on when a thread is
 * scheduled: whoever was told that it may run until T is not taken over from
 * before T. How long something takes is not tested.
 */
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/scope.h"
#include "chan/fault.h"
#include "chan/lease.h"

#define LONG_MS 20000 /* nothing here takes so long, on any machine */

static uint64_t seed;

/* What the holder was told. */
struct told {
	pthread_mutex_t lock;
	pthread_cond_t news;
	int64_t until;	  /* the last time, not INT64_MAX or _MIN */
	unsigned int n;	  /* times */
	unsigned int ends, losses, backwards;
};

static void renew(int64_t until_ns, void *arg)
{
	struct told *t = arg;

	GW_LOCKED(&t->lock);
	if (until_ns == INT64_MAX) {
		t->ends++;
	} else if (until_ns == INT64_MIN) {
		t->losses++;
	} else {
		t->backwards += until_ns <= t->until;
		t->until = until_ns;
		t->n++;
	}
	pthread_cond_broadcast(&t->news);
}

/* What it was told so far. */
static struct told now_of(struct told *t)
{
	GW_LOCKED(&t->lock);
	return (struct told){ .until = t->until,
			      .n = t->n,
			      .ends = t->ends,
			      .losses = t->losses };
}

struct pair {
	struct told told;
	struct gw_lease_holder *h;
	struct gw_lease_grantor *g;
	int expired_fd;
	int64_t timeout_ns;
	struct gw_error err;
};

static struct gw_chan *channel(int fd, const char *fault)
{
	struct gw_error err = { 0 };
	struct gw_chan *c = gw_chan_from_fd(fd, "the other side", &err);

	if (c && fault)
		c = gw_chan_fault(c, fault, &err);
	if (!c)
		printf("%s: %s\n", fault, err.msg);
	return c;
}

static void told_init(struct told *t)
{
	memset(t, 0, sizeof(*t));
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->news, NULL);
}

static void pair_init(struct pair *p, int64_t timeout_ns, int64_t fence_ns,
		      const char *holder_fault, const char *grantor_fault)
{
	int fd[2];

	memset(p, 0, sizeof(*p));
	told_init(&p->told);
	p->timeout_ns = timeout_ns;
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd));
	p->g = gw_lease_grant(channel(fd[1], grantor_fault), timeout_ns,
			      &p->expired_fd, &p->err);
	p->h = gw_lease_hold(channel(fd[0], holder_fault), timeout_ns,
			     fence_ns, renew, &p->told, &p->err);
	CHECK(p->h && p->g);
}

static void pair_fini(struct pair *p)
{
	gw_lease_holder_free(p->h);
	gw_lease_grantor_free(p->g);
	CHECK(!p->told.backwards && p->told.losses <= 1 && p->told.ends <= 1);
}

static bool expired(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

static void nap_ms(int64_t ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

/* Until the holder was told @n times, lost or ended. */
static bool wait_told(struct told *t, unsigned int n)
{
	int64_t until = gw_now_ns() + LONG_MS * GW_NS_PER_MS;

	while (gw_now_ns() < until) {
		{
			GW_LOCKED(&t->lock);
			if (t->n >= n || t->losses || t->ends)
				return t->n >= n;
		}
		nap_ms(1);
	}
	return false;
}

static void renews_and_is_not_taken(void)
{
	struct gw_error err = { 0 };
	struct pair p;

	pair_init(&p, 10 * GW_NS_PER_S, 6 * GW_NS_PER_S, NULL, NULL);
	CHECK_OK(gw_lease_first(p.h, LONG_MS, &err), &err);
	CHECK(wait_told(&p.told, 3));
	CHECK(gw_lease_held(p.h) == GW_LEASE_HELD);
	CHECK(gw_lease_take(p.g) == -EAGAIN);
	CHECK(gw_lease_heard(p.g) > 0 && !expired(p.expired_fd, 0));
	pair_fini(&p);
}

/* The holder dies: its lease is taken, and not before its time. */
static void a_dead_holder_is_taken_over_from(void)
{
	struct gw_error err = { 0 };
	struct pair p;

	pair_init(&p, 300 * GW_NS_PER_MS, 180 * GW_NS_PER_MS, NULL, NULL);
	/* (on a machine that stands still the lease may run out first) */
	if (!gw_lease_first(p.h, LONG_MS, &err))
		CHECK(now_of(&p.told).n || gw_lease_held(p.h) == GW_LEASE_EXPIRED);
	gw_lease_holder_free(p.h);
	p.h = NULL;
	CHECK(expired(p.expired_fd, LONG_MS));
	CHECK(!gw_lease_take(p.g) && gw_now_ns() > now_of(&p.told).until);
	CHECK(!gw_lease_take(p.g)); /* and stays taken */
	pair_fini(&p);
}

/* A grantor that says nothing: the lease runs out, for ever. */
static void a_silent_grantor_lets_it_run_out(void)
{
	struct pair p;

	pair_init(&p, 300 * GW_NS_PER_MS, 100 * GW_NS_PER_MS,
		  "hang-read=16", NULL);
	CHECK(wait_told(&p.told, 1) ||
	      gw_lease_held(p.h) == GW_LEASE_EXPIRED);
	while (gw_lease_held(p.h) == GW_LEASE_HELD)
		nap_ms(1);
	CHECK(gw_lease_held(p.h) == GW_LEASE_EXPIRED);
	CHECK(now_of(&p.told).n <= 1);
	CHECK(gw_now_ns() >= now_of(&p.told).until);
	/* It pings no more, so it is taken over from. */
	CHECK(expired(p.expired_fd, LONG_MS) && !gw_lease_take(p.g));
	CHECK(!gw_lease_give_back(p.h, false, 50));
	pair_fini(&p);
}

static void nobody_answers_at_first(void)
{
	struct gw_error err = { 0 };
	struct pair p;

	pair_init(&p, 10 * GW_NS_PER_S, GW_NS_PER_S, "hang-read=0", NULL);
	CHECK(gw_lease_first(p.h, 20, &err) == -ETIMEDOUT);
	CHECK(strstr(err.msg, "within 20 ms"));
	CHECK(gw_lease_held(p.h) == GW_LEASE_HELD && !now_of(&p.told).n);
	pair_fini(&p);
	pair_init(&p, 10 * GW_NS_PER_S, GW_NS_PER_S, "cut-read=0", NULL);
	CHECK(gw_lease_first(p.h, LONG_MS, &err) == -ECONNRESET);
	CHECK(now_of(&p.told).losses == 1);
	pair_fini(&p);
}

static void is_given_back(void)
{
	struct gw_error err = { 0 };
	struct pair p;

	pair_init(&p, 10 * GW_NS_PER_S, 6 * GW_NS_PER_S, NULL, NULL);
	CHECK_OK(gw_lease_first(p.h, LONG_MS, &err), &err);
	CHECK(gw_lease_give_back(p.h, false, LONG_MS));
	CHECK(gw_lease_held(p.h) == GW_LEASE_ENDED && now_of(&p.told).ends == 1);
	CHECK(expired(p.expired_fd, LONG_MS) && !gw_lease_left(p.g));
	CHECK(gw_lease_take(p.g) == -ECANCELED);
	CHECK(gw_lease_give_back(p.h, false, LONG_MS)); /* twice is fine */
	pair_fini(&p);
}

static void is_left(void)
{
	struct gw_error err = { 0 };
	struct pair p;

	pair_init(&p, 10 * GW_NS_PER_S, 6 * GW_NS_PER_S, NULL, NULL);
	CHECK_OK(gw_lease_first(p.h, LONG_MS, &err), &err);
	CHECK(!gw_lease_left(p.g));
	CHECK(gw_lease_give_back(p.h, true, LONG_MS));
	CHECK(gw_lease_held(p.h) == GW_LEASE_ENDED && gw_lease_left(p.g));
	CHECK(gw_lease_take(p.g) == -ECANCELED);
	pair_fini(&p);
}

/* Given back after it ran out, but before it was taken: nobody takes it. */
static void is_given_back_late(void)
{
	struct pair p;

	pair_init(&p, 60 * GW_NS_PER_S, 1, NULL, NULL);
	while (gw_lease_held(p.h) == GW_LEASE_HELD)
		nap_ms(1);
	CHECK(gw_lease_held(p.h) == GW_LEASE_EXPIRED && !now_of(&p.told).n);
	CHECK(gw_lease_give_back(p.h, false, LONG_MS));
	CHECK(gw_lease_take(p.g) == -ECANCELED && now_of(&p.told).ends == 1);
	pair_fini(&p);
}

static void is_renounced(void)
{
	struct gw_error err = { 0 };
	struct pair p;

	pair_init(&p, 10 * GW_NS_PER_S, 6 * GW_NS_PER_S, NULL, NULL);
	CHECK_OK(gw_lease_first(p.h, LONG_MS, &err), &err);
	gw_lease_renounce(p.g);
	gw_lease_renounce(p.g);
	CHECK(gw_lease_take(p.g) == -ECANCELED);
	for (int i = 0; i < LONG_MS && gw_lease_held(p.h) == GW_LEASE_HELD; i++)
		nap_ms(1);
	CHECK(gw_lease_held(p.h) == GW_LEASE_ENDED && now_of(&p.told).ends == 1);
	CHECK(gw_lease_first(p.h, LONG_MS, &err) == -ECONNRESET);
	pair_fini(&p);
}

/* After a take-over neither END nor pings are answered. */
static void what_is_taken_is_not_given_back(void)
{
	struct pair p;

	pair_init(&p, 100 * GW_NS_PER_MS, 60 * GW_NS_PER_MS,
		  "hang-write=40", NULL);
	CHECK(expired(p.expired_fd, LONG_MS));
	CHECK(!gw_lease_take(p.g));
	gw_lease_renounce(p.g);
	CHECK(!gw_lease_take(p.g));
	CHECK(!gw_lease_give_back(p.h, true, 50) && !now_of(&p.told).ends &&
	      !gw_lease_left(p.g));
	pair_fini(&p);
}

/* --- other ends ----------------------------------------------------------- */

static void put(uint8_t *m, uint32_t magic, uint32_t type, uint64_t value)
{
	gw_put_be32(m, magic);
	gw_put_be32(m + 4, type);
	gw_put_be64(m + 8, value);
}

/* Answers that nobody could have given are no answers. */
static void false_answers_grant_nothing(void)
{
	const struct {
		uint32_t magic, type;
		uint64_t value;
	} bad[] = { { 0x47574c53, 2, INT64_MAX / 2 },
		    { 0x47574c53, 2, UINT64_MAX },
		    { 0x47574c53, 2, 0 },
		    { 0x47574c53, 3, 1 },
		    { 0x47574c53, 4, 0 },
		    { 0x47574c53, 4, 1 },
		    { 0x47574c53, 5, 0 },
		    { 0x47574c53, 0, 0 },
		    { 0x47574c54, 2, 1 } };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct gw_error err = { 0 };
		struct gw_lease_holder *h;
		struct told told;
		uint8_t m[16];
		int fd[2];

		told_init(&told);
		CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
		h = gw_lease_hold(channel(fd[0], NULL), 10 * GW_NS_PER_S,
				  GW_NS_PER_S, renew, &told, &err);
		put(m, bad[i].magic, bad[i].type, bad[i].value);
		CHECK(write(fd[1], m, sizeof(m)) == sizeof(m));
		CHECK(gw_lease_first(h, LONG_MS, &err) == -ECONNRESET);
		gw_lease_holder_free(h);
		CHECK(!told.n && told.losses == 1);
		close(fd[1]);
	}
}

/* Bytes that are no message end the line, not the time. */
static void a_stranger_does_not_hasten_it(void)
{
	struct gw_error err = { 0 };
	struct gw_lease_grantor *g;
	int fd[2], expired_fd;
	uint8_t m[16];
	int64_t t0;

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
	t0 = gw_now_ns();
	g = gw_lease_grant(channel(fd[1], NULL), 200 * GW_NS_PER_MS,
			   &expired_fd, &err);
	put(m, 0x12345678, 1, 1);
	CHECK(write(fd[0], m, sizeof(m)) == sizeof(m));
	CHECK(expired(expired_fd, LONG_MS));
	CHECK(gw_now_ns() - t0 >= 200 * GW_NS_PER_MS && !gw_lease_take(g));
	gw_lease_grantor_free(g);
	close(fd[0]);
}

/* A ping after the time ran out, before it was taken: not yet. */
static void a_late_ping_counts(void)
{
	struct gw_error err = { 0 };
	struct gw_lease_grantor *g;
	int fd[2], expired_fd;
	uint8_t m[16], back[16];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
	g = gw_lease_grant(channel(fd[1], NULL), 2 * GW_NS_PER_S, &expired_fd,
			   &err);
	CHECK(expired(expired_fd, LONG_MS));
	put(m, 0x47574c53, 1, 4711);
	CHECK(write(fd[0], m, 7) == 7); /* in two pieces */
	nap_ms(1);
	CHECK(write(fd[0], m + 7, 9) == 9);
	CHECK(read(fd[0], back, 16) == 16 && gw_get_be32(back + 4) == 2);
	CHECK(gw_get_be64(back + 8) == 4711);
	CHECK(gw_lease_take(g) == -EAGAIN && !expired(expired_fd, 0));
	CHECK(expired(expired_fd, LONG_MS)); /* again */
	CHECK(!gw_lease_take(g));
	CHECK(write(fd[0], m, 16) == 16);
	CHECK(!expired(fd[0], 100)); /* no answer */
	gw_lease_grantor_free(g);
	close(fd[0]);
}

/* --- the one thing that matters ------------------------------------------- */

struct taker {
	struct pair *p;
	int64_t taken_ns; /* 0: given back or renounced, or it is well */
};

/*
 * Take as soon as it can be taken, asking all the time. Some faults do no
 * harm: a wrong byte may make a ping of an earlier one.
 */
static void *taker(void *arg)
{
	struct taker *t = arg;
	int64_t enough = gw_now_ns() + 2 * GW_NS_PER_S;
	int r;

	while ((r = gw_lease_take(t->p->g)) == -EAGAIN && gw_now_ns() < enough)
		nap_ms(1);
	t->taken_ns = r ? 0 : gw_now_ns();
	return NULL;
}

static void random_fault(char *spec, size_t cap, unsigned int *kinds)
{
	uint64_t x = test_rand(&seed), bytes = x % 400;
	static const char *const kind[] = { "hang-read",  "hang-write",
					    "cut-read",	  "cut-write",
					    "corrupt-read", "corrupt-write" };
	unsigned int k = (unsigned int)(x >> 16) % 6;

	*kinds |= 1u << k;
	snprintf(spec, cap,
		 "%s=%" PRIu64 ",delay-read=%uus,delay-write=%uus,short=1-16,seed=%u",
		 kind[k], bytes, (unsigned int)(x >> 24) % 3000,
		 (unsigned int)(x >> 40) % 3000, (unsigned int)(x >> 50));
}

/*
 * Faults of every kind, on either side, and time-outs so short that some
 * leases run out by themselves: never is it taken while the holder may run.
 */
static void nobody_runs_twice(void)
{
	unsigned int kinds = 0, taken = 0, given = 0, granted = 0;

	for (int i = 0; i < 120; i++) {
		int64_t ms = 10 + (int64_t)(test_rand(&seed) % 60);
		int64_t fence = ms * GW_NS_PER_MS *
				(int64_t)(40 + test_rand(&seed) % 59) / 100;
		char fh[128], fg[128];
		bool back = false;
		pthread_t thread;
		struct taker t;
		struct pair p;

		random_fault(fh, sizeof(fh), &kinds);
		random_fault(fg, sizeof(fg), &kinds);
		pair_init(&p, ms * GW_NS_PER_MS, fence, i % 3 ? fh : NULL,
			  i % 3 != 1 ? fg : NULL);
		t = (struct taker){ .p = &p };
		CHECK(!pthread_create(&thread, NULL, taker, &t));
		if (i % 4 == 0) {
			nap_ms((int64_t)(test_rand(&seed) % 50));
			back = gw_lease_give_back(p.h, i % 8, 100);
		}
		pthread_join(thread, NULL);
		{ /* it may be told of an earlier answer, not of a later */
			GW_LOCKED(&p.told.lock);
			CHECK(!t.taken_ns || p.told.until < t.taken_ns);
			CHECK(!t.taken_ns || (!back && !p.told.ends));
			granted += !!p.told.n;
		}
		taken += !!t.taken_ns;
		given += back;
		nap_ms(5);
		gw_lease_holder_free(p.h);
		p.h = NULL;
		CHECK(!t.taken_ns || p.told.until < t.taken_ns);
		pair_fini(&p);
	}
	printf("%u taken, %u given back, %u were granted at all\n", taken,
	       given, granted);
	CHECK(kinds == 0x3f && taken && granted);
}

int main(void)
{
	seed = test_seed();
	RUN(renews_and_is_not_taken);
	RUN(a_dead_holder_is_taken_over_from);
	RUN(a_silent_grantor_lets_it_run_out);
	RUN(nobody_answers_at_first);
	RUN(is_given_back);
	RUN(is_left);
	RUN(is_given_back_late);
	RUN(is_renounced);
	RUN(what_is_taken_is_not_given_back);
	RUN(false_answers_grant_nothing);
	RUN(a_stranger_does_not_hasten_it);
	RUN(a_late_ping_counts);
	RUN(nobody_runs_twice);
	return test_done();
}
