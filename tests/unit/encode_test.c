/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * encode_test.c - what the encoder says of each page, done at a model of the
 * receiver: afterwards it has what the sender had when it was asked.
 */
#include "test.h"

#include <pthread.h>
#include <string.h>

#include "control/params.h"
#include "page/xbzrle.h"
#include "source/encode.h"

#define NPAGES	 512
#define NTHREADS 4

static uint8_t guest[2][NPAGES][GW_PAGE_SIZE];
static uint8_t receiver[2][NPAGES][GW_PAGE_SIZE];
static struct gw_encode e;
static uint64_t counts[GW_ENCODED_WHOLE + 1], wrong; /* by enum gw_encoded; atomic */

static struct godwit_params params(uint64_t cache_size)
{
	struct godwit_params p;

	godwit_params_init(&p);
	p.xbzrle = true;
	p.cache_size = cache_size;
	return p;
}

/* Send the page as it is now. */
static void send(int block, uint64_t page)
{
	uint8_t copy[GW_PAGE_SIZE], delta[GW_PAGE_SIZE];
	uint8_t *host = guest[block][page], *there = receiver[block][page];
	enum gw_encoded what;
	int len = 0;

	what = gw_encode_page(&e, block, page, host, copy, delta, &len);
	__atomic_fetch_add(&counts[what], 1, __ATOMIC_RELAXED);
	switch (what) {
	case GW_ENCODED_ZERO:
		memset(there, 0, GW_PAGE_SIZE);
		break;
	case GW_ENCODED_FILL: /* e.fill is off */
		__atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
		break;
	case GW_ENCODED_SAME:
		break;
	case GW_ENCODED_DELTA:
		if (len <= 0 || len > (int)GW_PAGE_SIZE ||
		    gw_xbzrle_decode(delta, (size_t)len, there))
			__atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
		break;
	case GW_ENCODED_COPY:
	case GW_ENCODED_OVERFLOW:
		memcpy(there, copy, GW_PAGE_SIZE);
		break;
	case GW_ENCODED_WHOLE:
		memcpy(there, host, GW_PAGE_SIZE);
	}
	if (memcmp(host, there, GW_PAGE_SIZE)) {
		printf("block %d page %llu differs after %d\n", block,
		       (unsigned long long)page, (int)what);
		__atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
	}
}

static void change(uint64_t *seed, uint8_t *p)
{
	switch (test_rand(seed) % 8) {
	case 0:
		memset(p, 0, GW_PAGE_SIZE);
		return;
	case 1: /* all of it */
		for (int i = 0; i < (int)GW_PAGE_SIZE; i++)
			p[i] = (uint8_t)test_rand(seed);
		return;
	case 2: /* written, and the same */
		return;
	default:
		for (uint64_t n = test_rand(seed) % 20; n; n--)
			p[test_rand(seed) % GW_PAGE_SIZE]++;
	}
}

static void one_pass(uint64_t *seed, uint64_t first, uint64_t step)
{
	for (uint64_t page = first; page < NPAGES; page += step)
		for (int b = 0; b < 2; b++)
			if (test_rand(seed) % 3) {
				change(seed, guest[b][page]);
				send(b, page);
			}
}

static void begin(const struct godwit_params *p)
{
	memset(guest, 0, sizeof(guest));
	memset(receiver, 0, sizeof(receiver));
	memset(counts, 0, sizeof(counts));
	memset(&e, 0, sizeof(e));
	CHECK(!gw_encode_init(&e, p, NTHREADS, NULL));
}

static void receiver_has_what_was_sent(void)
{
	uint64_t seed = test_seed();

	/* everything fits, half of it, next to nothing */
	for (uint64_t size = 8 << 20; size >= 32768; size /= 16) {
		struct godwit_params p = params(size);
		struct godwit_stats now = { 0 };

		begin(&p);
		one_pass(&seed, 0, 1);
		CHECK(!counts[GW_ENCODED_DELTA] && !counts[GW_ENCODED_COPY]);
		for (int pass = 0; pass < 20; pass++) {
			gw_encode_pass(&e);
			one_pass(&seed, 0, 1);
		}
		gw_encode_stats(&e, &now);
		CHECK(counts[GW_ENCODED_DELTA] && counts[GW_ENCODED_COPY] &&
		      counts[GW_ENCODED_ZERO] && counts[GW_ENCODED_SAME]);
		CHECK(now.xbzrle_same == counts[GW_ENCODED_SAME]);
		CHECK(now.xbzrle_pages == counts[GW_ENCODED_SAME] +
						  counts[GW_ENCODED_DELTA] +
						  now.xbzrle_overflow);
		CHECK(counts[GW_ENCODED_COPY] == now.xbzrle_cache_miss);
		CHECK(counts[GW_ENCODED_OVERFLOW] == now.xbzrle_overflow);
		CHECK(now.xbzrle_bytes > now.xbzrle_overflow * GW_PAGE_SIZE);
		CHECK(now.xbzrle_cache_miss_rate >= 0 &&
		      now.xbzrle_cache_miss_rate <= 1);
		gw_encode_fini(&e);
	}
}

/* A -> zero -> B: the difference of B is from zeros, however they were sent. */
static void zeros_leave_nothing_stale(void)
{
	for (int seen = 0; seen < 2; seen++) {
		struct godwit_params p = params(1 << 20);

		begin(&p);
		gw_encode_pass(&e);
		memset(guest[0][7], 'A', GW_PAGE_SIZE);
		send(0, 7);
		gw_encode_pass(&e);
		memset(guest[0][7], 0, GW_PAGE_SIZE);
		if (seen) {
			send(0, 7);
		} else { /* a hole: it is not even looked at */
			gw_encode_zeros(&e, 0, 6, 3);
			memset(receiver[0][7], 0, GW_PAGE_SIZE);
		}
		gw_encode_pass(&e);
		guest[0][7][100] = 'B';
		send(0, 7);
		CHECK(counts[GW_ENCODED_DELTA] == 1);
		gw_encode_fini(&e);
	}
}

/* XBZRLE has deltas as long as the page, and in a packet that length means the
 * page itself: three equal bytes and then none; two of every eight. */
static void no_delta_is_as_long_as_a_page(void)
{
	struct godwit_params p = params(1 << 20);
	uint8_t *page = guest[0][9], delta[GW_PAGE_SIZE], old[GW_PAGE_SIZE];

	for (int kind = 0; kind < 2; kind++) {
		begin(&p);
		memset(page, 1, GW_PAGE_SIZE);
		gw_encode_pass(&e);
		send(0, 9);
		memcpy(old, page, GW_PAGE_SIZE);
		for (unsigned int i = 0; i < GW_PAGE_SIZE; i++)
			if (kind ? i % 8 > 1 : i > 2)
				page[i] = 2;
		CHECK(gw_xbzrle_encode(old, page, delta, GW_PAGE_SIZE) ==
		      (int)GW_PAGE_SIZE);
		gw_encode_pass(&e);
		send(0, 9);
		CHECK(counts[GW_ENCODED_OVERFLOW] == 1 &&
		      !counts[GW_ENCODED_DELTA]);
		gw_encode_fini(&e);
	}
}

struct job {
	uint64_t seed, first;
};

static void *sender(void *arg)
{
	struct job *j = arg;

	one_pass(&j->seed, j->first, NTHREADS);
	return NULL;
}

static void threads_and_a_changing_size(void)
{
	struct godwit_params p = params(1 << 20);
	uint64_t seed = test_seed();
	pthread_t t[NTHREADS];
	struct job j[NTHREADS];

	begin(&p);
	for (int pass = 0; pass < 30; pass++) {
		gw_encode_pass(&e);
		for (int i = 0; i < NTHREADS; i++) {
			j[i] = (struct job){ test_rand(&seed), (uint64_t)i };
			CHECK(!pthread_create(&t[i], NULL, sender, &j[i]));
		}
		/* as godwit_op_set() does, while they work */
		__atomic_store_n(&p.cache_size,
				 32768 * (1 + test_rand(&seed) % 64),
				 __ATOMIC_RELAXED);
		gw_encode_tune(&e);
		for (int i = 0; i < NTHREADS; i++)
			pthread_join(t[i], NULL);
	}
	CHECK(counts[GW_ENCODED_DELTA] > 100);
	gw_encode_fini(&e);
}

static void off_it_only_finds_zeros(void)
{
	struct godwit_params p = params(1 << 20);

	p.xbzrle = false;
	begin(&p);
	gw_encode_pass(&e);
	guest[1][3][4095] = 1;
	send(1, 3);
	send(1, 4);
	send(1, 3);
	CHECK(counts[GW_ENCODED_WHOLE] == 2 && counts[GW_ENCODED_ZERO] == 1);
	gw_encode_fini(&e);
}

int main(void)
{
	RUN(receiver_has_what_was_sent);
	RUN(zeros_leave_nothing_stale);
	RUN(no_delta_is_as_long_as_a_page);
	RUN(threads_and_a_changing_size);
	RUN(off_it_only_finds_zeros);
	CHECK(!wrong);
	return test_done();
}
