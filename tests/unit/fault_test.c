/* SPDX-License-Identifier: BSD-3-Clause */
/* fault_test.c - each way a fault channel misbehaves, byte for byte. */
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "chan/chan.h"
#include "chan/fault.h"

static struct gw_error err;
static uint8_t out[1 << 20], in[1 << 20];

/* @f: a fault channel by @spec; @peer: the other end, well-behaved. */
static void open_pair(const char *spec, struct gw_chan **f,
		      struct gw_chan **peer)
{
	struct gw_chan *c = NULL;
	int sv[2];

	memset(&err, 0, sizeof(err));
	*f = *peer = NULL;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		abort();
	c = gw_chan_from_fd(sv[0], "faulty", &err);
	*peer = gw_chan_from_fd(sv[1], "peer", &err);
	if (!c || !*peer)
		abort();
	c->read_timeout_ms = c->write_timeout_ms = 5000;
	(*peer)->read_timeout_ms = (*peer)->write_timeout_ms = 5000;
	*f = gw_chan_fault(c, spec, &err);
	if (!*f) {
		fprintf(stderr, "%s: %s\n", spec, err.msg);
		abort();
	}
}

static void close_pair(struct gw_chan *a, struct gw_chan *b)
{
	gw_chan_close(a);
	gw_chan_close(b);
}

/* Everything up to the end or @len. Return: bytes, or -errno. */
static ssize_t read_all(struct gw_chan *c, uint8_t *dst, size_t len)
{
	size_t n = 0;

	while (n < len) {
		struct iovec iov = { dst + n, len - n };
		ssize_t r = gw_chan_readv(c, &iov, 1, &err);

		if (r < 0)
			return r;
		if (!r)
			break;
		n += (size_t)r;
	}
	return (ssize_t)n;
}

static void fill(uint64_t seed)
{
	for (size_t i = 0; i < sizeof(out); i += 8) {
		uint64_t v = test_rand(&seed);

		memcpy(out + i, &v, 8);
	}
}

static void cut_write_passes_exactly_so_many_bytes(void)
{
	static const size_t at[] = { 0, 1, 4095, 50000 };

	for (size_t i = 0; i < 4; i++) {
		struct gw_chan *f, *p;
		char spec[64];

		snprintf(spec, sizeof(spec), "cut-write=%zu,short=1-999",
			 at[i]);
		open_pair(spec, &f, &p);
		CHECK(gw_chan_write(f, out, 60000, &err) == -ECONNRESET);
		CHECK(!strcmp(
			err.msg,
			"connection to faulty lost: Connection reset by peer"));
		CHECK(gw_chan_bytes_written(f) == at[i]);
		CHECK(read_all(p, in, sizeof(in)) == (ssize_t)at[i]);
		CHECK(!memcmp(in, out, at[i]));
		/* the other direction is gone as well, on both sides */
		CHECK(read_all(f, in, 1) == -ECONNRESET);
		CHECK(gw_chan_write(p, out, 1, &err) == -EPIPE);
		CHECK(gw_chan_shutdown_write(f, &err) == -ECONNRESET);
		close_pair(f, p);
	}
}

static void cut_read_passes_exactly_so_many_bytes(void)
{
	struct gw_chan *f, *p;

	open_pair("cut-read=55", &f, &p);
	CHECK_OK(gw_chan_write(p, out, 100, &err), &err);
	CHECK(read_all(f, in, 55) == 55 && !memcmp(in, out, 55));
	CHECK(read_all(f, in, 1) == -ECONNRESET);
	CHECK(gw_chan_write(f, out, 1, &err) == -ECONNRESET);
	CHECK(gw_chan_readable(p));
	CHECK(read_all(p, in, 1) <= 0); /* end, or reset: bytes were left */
	close_pair(f, p);

	open_pair("cut-read=0", &f, &p);
	CHECK(read_all(f, in, 1) == -ECONNRESET);
	close_pair(f, p);
}

static void hang_is_ended_by_time_limits_only(void)
{
	struct gw_chan *f, *p;

	open_pair("hang-write=1k,hang-read=10", &f, &p);
	f->write_timeout_ms = f->read_timeout_ms = 50;
	CHECK(gw_chan_write(f, out, 2000, &err) == -ETIMEDOUT);
	CHECK(!strcmp(err.msg, "no byte taken by faulty for 50 ms"));
	CHECK(read_all(p, in, 1024) == 1024);
	CHECK(!gw_chan_readable(p));
	CHECK_OK(gw_chan_shutdown_write(f, &err), &err);
	CHECK(!gw_chan_readable(p)); /* the end did not pass either */

	CHECK_OK(gw_chan_write(p, out, 20, &err), &err);
	CHECK(read_all(f, in, 10) == 10);
	CHECK(!gw_chan_readable(f));
	CHECK(read_all(f, in, 1) == -ETIMEDOUT);
	gw_chan_shutdown(f);
	CHECK(read_all(f, in, 1) == -ESHUTDOWN);
	close_pair(f, p);

	open_pair("hang-read=0", &f, &p);
	CHECK_OK(gw_chan_write(p, out, 20, &err), &err);
	CHECK(!gw_chan_readable(f));
	close_pair(f, p);
}

static void *shut_soon(void *arg)
{
	usleep(50000);
	gw_chan_shutdown(arg);
	return NULL;
}

static void hang_is_ended_by_shutdown_and_cancel(void)
{
	struct gw_chan *f, *p;
	struct gw_cancel cancel;
	pthread_t t;

	open_pair("hang-read=0", &f, &p);
	f->read_timeout_ms = -1;
	REQUIRE(!pthread_create(&t, NULL, shut_soon, f));
	CHECK(read_all(f, in, 1) == -ESHUTDOWN);
	pthread_join(t, NULL);
	close_pair(f, p);

	open_pair("hang-write=0", &f, &p);
	REQUIRE(!gw_cancel_init(&cancel, &err));
	f->write_timeout_ms = -1;
	f->cancel = &cancel;
	gw_cancel_request(&cancel);
	CHECK(gw_chan_write(f, out, 1, &err) == -ECANCELED);
	CHECK(err.fault == GW_FAULT_CANCELLED);
	close_pair(f, p);
	gw_cancel_fini(&cancel);
}

static void expect_one_flip(size_t at, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		int bits = __builtin_popcount((unsigned)(in[i] ^ out[i]));

		CHECK(bits == (i == at));
	}
}

static void corrupt_flips_one_bit(void)
{
	static const size_t at[] = { 0, 4, 99, 5000 };
	unsigned seen = 0;

	for (size_t i = 0; i < 4; i++)
		for (int seed = 0; seed < 8; seed++) {
			struct gw_chan *f, *p;
			struct iovec iov[3] = { { out, 5 },
						{ out + 5, 95 },
						{ out + 100, 5900 } };
			char spec[64];

			snprintf(spec, sizeof(spec),
				 "corrupt-write=%zu,seed=%d,short=77", at[i],
				 seed);
			open_pair(spec, &f, &p);
			CHECK_OK(gw_chan_writev(f, iov, 3, &err), &err);
			CHECK(read_all(p, in, 6000) == 6000);
			expect_one_flip(at[i], 6000);
			seen |= (unsigned)(in[at[i]] ^ out[at[i]]);
			close_pair(f, p);

			snprintf(spec, sizeof(spec), "corrupt-read=%zu,seed=%d",
				 at[i], seed);
			open_pair(spec, &f, &p);
			CHECK_OK(gw_chan_write(p, out, 6000, &err), &err);
			CHECK(read_all(f, in, 6000) == 6000);
			expect_one_flip(at[i], 6000);
			close_pair(f, p);
		}
	CHECK(__builtin_popcount(seen) > 2); /* seeds choose different bits */
}

/* The sizes in which @n bytes arrive. */
static size_t read_sizes(const char *spec, size_t n, size_t *sizes)
{
	struct gw_chan *f, *p;
	size_t got = 0, k = 0;

	open_pair(spec, &f, &p);
	CHECK_OK(gw_chan_write(p, out, n, &err), &err);
	while (got < n) {
		struct iovec iov = { in + got, n - got };
		ssize_t r = gw_chan_readv(f, &iov, 1, &err);

		if (r <= 0)
			break;
		sizes[k++] = (size_t)r;
		got += (size_t)r;
	}
	CHECK(got == n && !memcmp(in, out, n));
	close_pair(f, p);
	return k;
}

static void short_reads_depend_on_the_seed_only(void)
{
	static size_t a[20000], b[20000], c[20000];
	size_t na = read_sizes("short=3-40,seed=7", 20000, a);
	size_t nb = read_sizes("short=3-40,seed=7", 20000, b);
	size_t nc = read_sizes("short=3-40,seed=8", 20000, c);

	CHECK(na == nb && !memcmp(a, b, na * sizeof(*a)));
	CHECK(na != nc || memcmp(a, c, na * sizeof(*a)));
	for (size_t i = 0; i + 1 < na; i++)
		CHECK(a[i] >= 3 && a[i] <= 40);
	CHECK(read_sizes("short=1", 500, a) == 500);
	CHECK(read_sizes("short=500-500", 1000, a) == 2);
}

struct both {
	struct gw_chan *c;
	ssize_t n;
};

static void *drain(void *arg)
{
	struct both *b = arg;
	struct gw_error e;
	size_t n = 0;

	while (n < sizeof(in)) {
		struct iovec iov = { in + n, sizeof(in) - n };
		ssize_t r = gw_chan_readv(b->c, &iov, 1, &e);

		if (r <= 0)
			break;
		n += (size_t)r;
	}
	b->n = (ssize_t)n;
	return NULL;
}

static void short_keeps_the_bytes(void)
{
	static struct iovec iov[4000];
	uint64_t seed = test_seed();
	struct gw_chan *f, *p;
	struct both b;
	pthread_t t;
	size_t pos = 0;
	int n = 0;

	fill(seed);
	while (pos < sizeof(out) && n < 4000) {
		size_t k = test_rand(&seed) % 600;

		if (k > sizeof(out) - pos || n == 3999)
			k = sizeof(out) - pos;
		iov[n++] = (struct iovec){ out + pos, k };
		pos += k;
	}
	open_pair("short=1-20000,seed=3", &f, &p);
	b.c = p;
	REQUIRE(!pthread_create(&t, NULL, drain, &b));
	CHECK_OK(gw_chan_writev(f, iov, n, &err), &err);
	CHECK_OK(gw_chan_shutdown_write(f, &err), &err);
	pthread_join(t, NULL);
	CHECK(b.n == (ssize_t)sizeof(out) && !memcmp(in, out, sizeof(out)));
	close_pair(f, p);
}

static void rate_and_delay_take_their_time(void)
{
	struct gw_chan *f, *p;
	int64_t t0;

	open_pair("rate=500k", &f, &p);
	t0 = gw_now_ns();
	CHECK_OK(gw_chan_write(f, out, 100 << 10, &err), &err);
	t0 = gw_now_ns() - t0; /* 200 ms, less what it may catch up */
	CHECK(t0 > 150 * GW_NS_PER_MS && t0 < 3 * GW_NS_PER_S);
	close_pair(f, p);

	open_pair("delay-write=30ms,delay-read=60ms", &f, &p);
	f->read_timeout_ms = f->write_timeout_ms = 3000;
	t0 = gw_now_ns();
	CHECK_OK(gw_chan_write(f, out, 10, &err), &err);
	CHECK_OK(gw_chan_write(f, out, 10, &err), &err);
	CHECK(gw_now_ns() - t0 >= 60 * GW_NS_PER_MS);
	CHECK_OK(gw_chan_write(p, out, 10, &err), &err);
	t0 = gw_now_ns();
	CHECK(read_all(f, in, 10) == 10);
	CHECK(gw_now_ns() - t0 >= 60 * GW_NS_PER_MS);
	close_pair(f, p);

	/* a delay longer than the limit is a time-out */
	open_pair("delay-write=2s", &f, &p);
	f->write_timeout_ms = 20;
	CHECK(gw_chan_write(f, out, 10, &err) == -ETIMEDOUT);
	close_pair(f, p);
}

static void faults_stack_and_inner_faults_win(void)
{
	struct gw_chan *f, *p, *g;

	open_pair("cut-write=100", &f, &p);
	g = gw_chan_fault(f, "short=7,corrupt-write=3", &err);
	REQUIRE(g);
	CHECK(gw_chan_write(g, out, 200, &err) == -ECONNRESET);
	CHECK(read_all(p, in, 200) == 100);
	expect_one_flip(3, 100);
	close_pair(g, p);
}

static void uri_form_works_on_both_sides(void)
{
	struct gw_listener *l;
	struct gw_chan *a, *b;
	char uri[256];

	l = gw_chan_listen("fault:cut-read=5+fault:short=2+tcp:127.0.0.1:0",
			   &err);
	REQUIRE(l);
	CHECK(!strncmp(gw_listener_uri(l), "tcp:127.0.0.1:", 14));
	snprintf(uri, sizeof(uri), "fault:corrupt-write=1+%s",
		 gw_listener_uri(l));
	a = gw_chan_connect(uri, 5000, NULL, &err);
	REQUIRE(a);
	b = gw_listener_accept(l, 5000, NULL, &err);
	REQUIRE(b);
	CHECK_OK(gw_chan_write(a, out, 10, &err), &err);
	CHECK(read_all(b, in, 5) == 5);
	expect_one_flip(1, 5);
	CHECK(read_all(b, in, 1) == -ECONNRESET);
	close_pair(a, b);
	gw_listener_close(l);
	CHECK(!gw_chan_connect("fault:bogus=1+fd:99999", 0, NULL, &err));
	CHECK(strstr(err.msg, "unknown key 'bogus'"));
	CHECK(!gw_chan_listen("fault:bogus=1+tcp::0", &err));
}

static void cut_of_an_exec_ends_the_command(void)
{
	struct gw_chan *c =
		gw_chan_connect("fault:cut-write=6+exec:cat", 5000, NULL, &err);

	REQUIRE(c);
	CHECK(gw_chan_write(c, out, 10, &err) == -ECONNRESET);
	gw_chan_close(c); /* quickly: cat has read its end */
}

static void bad_specifications_are_named(void)
{
	static const struct {
		const char *spec, *says;
	} t[] = {
		{ "bogus=1",
		  "unknown key 'bogus'; possible are cut-read, cut-write" },
		{ "cut-write", "cut-write wants a value" },
		{ "cut-write=", "not a size" },
		{ "cut-write=x", "not a size" },
		{ "cut-write=-1", "not a size" },
		{ "delay-read=5x", "not a time" },
		{ "short=0", "not a range" },
		{ "short=0-4", "not a range" },
		{ "short=9-3", "not a range" },
		{ "short=3-", "not a size" },
		{ "short=a-b", "not a size" },
		{ "rate=1M,nonsense", "unknown key 'nonsense'" },
	};
	static char big[600];

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		CHECK(gw_chan_fault_check(t[i].spec, &err) == -EINVAL);
		if (!strstr(err.msg, t[i].says))
			fprintf(stderr, "%s: got \"%s\"\n", t[i].spec, err.msg);
		CHECK(strstr(err.msg, t[i].says));
		CHECK(err.fault == GW_FAULT_USAGE);
	}
	memset(big, ',', sizeof(big) - 1);
	CHECK(gw_chan_fault_check(big, &err) == -ENAMETOOLONG);
	CHECK_OK(gw_chan_fault_check("", &err), &err);
}

int main(void)
{
	fill(1);
	RUN(cut_write_passes_exactly_so_many_bytes);
	RUN(cut_read_passes_exactly_so_many_bytes);
	RUN(hang_is_ended_by_time_limits_only);
	RUN(hang_is_ended_by_shutdown_and_cancel);
	RUN(corrupt_flips_one_bit);
	RUN(short_reads_depend_on_the_seed_only);
	RUN(short_keeps_the_bytes);
	RUN(rate_and_delay_take_their_time);
	RUN(faults_stack_and_inner_faults_win);
	RUN(uri_form_works_on_both_sides);
	RUN(cut_of_an_exec_ends_the_command);
	RUN(bad_specifications_are_named);
	return test_done();
}
