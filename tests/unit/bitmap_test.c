/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bitmap_test.c - gw_bitmap against one byte per bit, and with threads: no bit
 * is lost between setters and takers, and none is taken twice.
 */
#include <pthread.h>
#include <sched.h>

#include "base/clock.h"
#include "ram/bitmap.h"
#include "test.h"

static uint64_t seed;

struct model {
	struct gw_bitmap b;
	uint8_t *bit;
	uint64_t n;
};

static void model_init(struct model *m, uint64_t n)
{
	m->n = n;
	m->bit = calloc(n + 1, 1);
	CHECK(gw_bitmap_init(&m->b, n, NULL) == 0);
}

static void model_fini(struct model *m)
{
	gw_bitmap_fini(&m->b);
	free(m->bit);
}

static uint64_t model_count(const struct model *m)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < m->n; i++)
		n += m->bit[i];
	return n;
}

static bool model_equal(const struct model *m)
{
	for (uint64_t i = 0; i < m->n; i++)
		if (gw_bitmap_test(&m->b, i) != m->bit[i])
			return false;
	return gw_bitmap_count(&m->b) == model_count(m);
}

static uint64_t model_next_run(const struct model *m, uint64_t from,
			       uint64_t max, uint64_t *first)
{
	uint64_t n = 0;

	while (from < m->n && !m->bit[from])
		from++;
	*first = from;
	while (from + n < m->n && m->bit[from + n] && n < max)
		n++;
	return n;
}

static uint64_t pick(uint64_t n)
{
	return test_rand(&seed) % n;
}

/* Lengths of ranges: mostly small, sometimes many words. */
static uint64_t pick_len(uint64_t left)
{
	uint64_t n = pick(8) ? pick(130) : pick(20000);

	return n < left ? n : left;
}

static void change(struct model *m)
{
	uint64_t i = pick(m->n), n = pick_len(m->n - i), first, len;

	switch (pick(8)) {
	case 0:
	case 1:
		gw_bitmap_set_range(&m->b, i, n);
		memset(m->bit + i, 1, n);
		break;
	case 2:
		CHECK(gw_bitmap_set(&m->b, i) == m->bit[i]);
		m->bit[i] = 1;
		break;
	case 3:
		CHECK(gw_bitmap_clear(&m->b, i) == m->bit[i]);
		m->bit[i] = 0;
		break;
	case 4:
		if (pick(50))
			break;
		gw_bitmap_clear_all(&m->b);
		memset(m->bit, 0, m->n);
		break;
	default:
		len = gw_bitmap_take_run(&m->b, i, &first);
		n = model_next_run(m, i, 64, &i);
		if (n > 64 - i % 64)
			n = 64 - i % 64;
		CHECK(len == n && (!n || first == i));
		memset(m->bit + i, 0, n);
	}
}

static void behaves_like_an_array(void)
{
	static const uint64_t sizes[] = { 1,	63,   64,    65,    127,
					  4095, 4096, 40000, 262145 };

	for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
		struct model m;

		model_init(&m, sizes[k]);
		for (int i = 0; i < 3000; i++) {
			uint64_t from = pick(m.n + 2), max = 1 + pick(300);
			uint64_t a = 0, b = 0, n;

			change(&m);
			n = gw_bitmap_next_run(&m.b, from, max, &a);
			CHECK(n == model_next_run(&m, from, max, &b));
			CHECK(!n || a == b);
			a = pick(m.n);
			b = pick_len(m.n - a);
			n = gw_bitmap_count_range(&m.b, a, b);
			while (b)
				n -= m.bit[a + --b];
			CHECK(!n);
			if (i % 500 == 0)
				CHECK(model_equal(&m));
		}
		CHECK(model_equal(&m));
		model_fini(&m);
	}
}

static void runs_visit_every_bit_once(void)
{
	struct model m;
	uint64_t first = 0, n, total = 0, count;

	model_init(&m, 100001);
	for (int i = 0; i < 300; i++)
		change(&m);
	count = model_count(&m);
	for (uint64_t at = 0;
	     (n = gw_bitmap_next_run(&m.b, at, UINT64_MAX, &first));
	     at = first + n) {
		CHECK(first >= at);
		total += n;
	}
	CHECK(total == count);
	total = 0;
	for (uint64_t at = 0; (n = gw_bitmap_take_run(&m.b, at, &at)); at += n)
		total += n;
	CHECK(total == count && gw_bitmap_count(&m.b) == 0);
	model_fini(&m);
}

static void empty_and_full(void)
{
	struct gw_bitmap b;
	uint64_t first;

	CHECK(gw_bitmap_init(&b, 0, NULL) == 0);
	CHECK(gw_bitmap_count(&b) == 0);
	CHECK(gw_bitmap_next_run(&b, 0, 64, &first) == 0);
	CHECK(gw_bitmap_take_run(&b, 0, &first) == 0);
	gw_bitmap_set_range(&b, 0, 0);
	gw_bitmap_clear_all(&b);
	gw_bitmap_fini(&b);
	gw_bitmap_fini(&b);

	CHECK(gw_bitmap_init(&b, 8192, NULL) == 0);
	gw_bitmap_set_range(&b, 0, 8192);
	CHECK(gw_bitmap_count(&b) == 8192);
	CHECK(gw_bitmap_next_run(&b, 0, UINT64_MAX, &first) == 8192);
	CHECK(gw_bitmap_next_run(&b, 100, 5000, &first) == 5000 &&
	      first == 100);
	CHECK(gw_bitmap_take_run(&b, 70, &first) == 58 && first == 70);
	CHECK(gw_bitmap_next_run(&b, 8192, 1, &first) == 0);
	gw_bitmap_clear_all(&b);
	CHECK(gw_bitmap_count(&b) == 0);
	gw_bitmap_fini(&b);
}

static void move_is_or_and_clear(void)
{
	struct model a, b;

	model_init(&a, 70007);
	model_init(&b, 70007);
	for (int i = 0; i < 200; i++) {
		change(&a);
		change(&b);
	}
	gw_bitmap_move(&a.b, &b.b);
	for (uint64_t i = 0; i < a.n; i++) {
		a.bit[i] |= b.bit[i];
		b.bit[i] = 0;
	}
	CHECK(model_equal(&a));
	CHECK(model_equal(&b));
	model_fini(&a);
	model_fini(&b);
}

static void ranges_move_and_sets_subtract(void)
{
	struct model a, b;

	model_init(&a, 70007);
	model_init(&b, 70007);
	for (int i = 0; i < 300; i++) {
		uint64_t first = test_rand(&seed) % a.n, moved = 0;
		uint64_t n = test_rand(&seed) % (a.n - first + 1);

		if (i & 1)
			n %= 200;
		change(&a);
		change(&b);
		for (uint64_t k = first; k < first + n; k++) {
			moved += b.bit[k];
			a.bit[k] |= b.bit[k];
			b.bit[k] = 0;
		}
		CHECK(gw_bitmap_move_range(&a.b, &b.b, first, n) == moved);
		CHECK(model_equal(&a));
		CHECK(model_equal(&b));
		change(&b);
		for (uint64_t k = 0; k < a.n; k++)
			a.bit[k] &= !b.bit[k];
		gw_bitmap_subtract(&a.b, &b.b);
		CHECK(model_equal(&a));
	}
	model_fini(&a);
	model_fini(&b);
}

static uint64_t model_word(const struct model *m, uint64_t w)
{
	uint64_t v = 0;

	for (uint64_t i = w * 64; i < m->n && i < w * 64 + 64; i++)
		v |= (uint64_t)m->bit[i] << (i % 64);
	return v;
}

static void words_are_those_of_the_bits(void)
{
	struct model m;

	model_init(&m, 40007);
	for (int i = 0; i < 400; i++) {
		uint64_t words = gw_bitmap_words(&m.b), v = 0;
		uint64_t w = pick(words + 1), end = w + pick(words - w + 1);
		uint64_t at = w, want = w;

		change(&m);
		while (want < end && !(v = model_word(&m, want)))
			want++;
		CHECK(gw_bitmap_next_word(&m.b, &at, end) == v && at == want);
		w = pick(words - 1);
		v = test_rand(&seed) & test_rand(&seed);
		if (pick(2)) {
			gw_bitmap_set_word(&m.b, w, v);
			v |= model_word(&m, w);
		} else {
			gw_bitmap_clear_word(&m.b, w);
			v = 0;
		}
		CHECK(gw_bitmap_word(&m.b, w) == v);
		for (uint64_t k = 0; k < 64; k++)
			m.bit[w * 64 + k] = v >> k & 1;
		CHECK(model_equal(&m));
	}
	model_fini(&m);
}

/* --- threads ----------------------------------------------------------- */

#define SETTERS 3
#define TAKERS	3
#define NBITS	(64 * 64 * 3 + 77ul)

struct party {
	struct gw_bitmap bits, side;
	uint64_t set, taken; /* atomic; bits that changed */
	uint8_t *pending;    /* atomic; per bit: set and not yet taken */
	bool done;	     /* atomic */
	uint64_t span;	     /* setters stay below: contention */
};

static void *setter(void *arg)
{
	struct party *p = arg;
	uint64_t s = (uintptr_t)&s ^ seed, n = 0;

	for (int i = 0; i < 25000; i++) {
		uint64_t bit = test_rand(&s) % p->span;

		/* pending goes up before the bit, so a taker finds it so. */
		__atomic_fetch_add(&p->pending[bit], 1, __ATOMIC_SEQ_CST);
		if (gw_bitmap_set(&p->bits, bit))
			__atomic_fetch_sub(&p->pending[bit], 1,
					   __ATOMIC_SEQ_CST);
		else
			n++;
		if (i % 256 == 0)
			sched_yield();
	}
	__atomic_fetch_add(&p->set, n, __ATOMIC_SEQ_CST);
	return NULL;
}

static uint64_t take_all(struct party *p, uint64_t from)
{
	uint64_t first = from, n, total = 0;

	while ((n = gw_bitmap_take_run(&p->bits, first, &first))) {
		for (uint64_t i = first; i < first + n; i++)
			__atomic_fetch_sub(&p->pending[i], 1, __ATOMIC_SEQ_CST);
		total += n;
		first += n;
	}
	return total;
}

static void *taker(void *arg)
{
	struct party *p = arg;
	uint64_t s = (uintptr_t)&s, total = 0;

	while (!__atomic_load_n(&p->done, __ATOMIC_ACQUIRE)) {
		total += take_all(p, test_rand(&s) % p->span);
		total += take_all(p, 0);
		sched_yield();
	}
	__atomic_fetch_add(&p->taken, total, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Takes by whole words instead. */
static void *mover(void *arg)
{
	struct party *p = arg;

	while (!__atomic_load_n(&p->done, __ATOMIC_ACQUIRE)) {
		gw_bitmap_move(&p->side, &p->bits);
		gw_bitmap_count(&p->bits);
		sched_yield();
	}
	return NULL;
}

static bool nothing_pending(const struct party *p)
{
	for (uint64_t i = 0; i < NBITS; i++)
		if (p->pending[i])
			return false;
	return true;
}

static void no_bit_is_lost_or_taken_twice(void)
{
	static const uint64_t spans[] = { 50, 64 * 3, 64 * 70, NBITS };
	pthread_t th[SETTERS + TAKERS];

	for (size_t k = 0; k < sizeof(spans) / sizeof(spans[0]); k++) {
		struct party p = { .span = spans[k] };

		CHECK(gw_bitmap_init(&p.bits, NBITS, NULL) == 0);
		p.pending = calloc(NBITS, 1);
		for (int i = 0; i < TAKERS; i++)
			pthread_create(&th[SETTERS + i], NULL, taker, &p);
		for (int i = 0; i < SETTERS; i++)
			pthread_create(&th[i], NULL, setter, &p);
		for (int i = 0; i < SETTERS; i++)
			pthread_join(th[i], NULL);
		__atomic_store_n(&p.done, true, __ATOMIC_RELEASE);
		for (int i = 0; i < TAKERS; i++)
			pthread_join(th[SETTERS + i], NULL);
		p.taken += take_all(&p, 0);
		CHECK(p.taken == p.set);
		CHECK(nothing_pending(&p));
		CHECK(gw_bitmap_count(&p.bits) == 0);
		for (uint64_t i = 0; i < NBITS; i++)
			CHECK(!gw_bitmap_test(&p.bits, i));
		gw_bitmap_fini(&p.bits);
		free(p.pending);
	}
}

static void no_bit_is_lost_by_moving(void)
{
	struct party p = { .span = 64 * 5 };
	pthread_t th[SETTERS + 1];
	uint64_t s;

	CHECK(gw_bitmap_init(&p.bits, NBITS, NULL) == 0);
	CHECK(gw_bitmap_init(&p.side, NBITS, NULL) == 0);
	p.pending = calloc(NBITS, 1);
	pthread_create(&th[SETTERS], NULL, mover, &p);
	for (int i = 0; i < SETTERS; i++)
		pthread_create(&th[i], NULL, setter, &p);
	for (int i = 0; i < SETTERS; i++)
		pthread_join(th[i], NULL);
	__atomic_store_n(&p.done, true, __ATOMIC_RELEASE);
	pthread_join(th[SETTERS], NULL);
	gw_bitmap_move(&p.side, &p.bits);
	for (s = 0; s < p.span; s++) /* each was set at least once */
		CHECK(gw_bitmap_test(&p.side, s));
	CHECK(gw_bitmap_count(&p.side) == p.span);
	CHECK(gw_bitmap_count(&p.bits) == 0);
	gw_bitmap_fini(&p.bits);
	gw_bitmap_fini(&p.side);
	free(p.pending);
}

/*
 * Two threads meet at one word, again and again, and every time all that was
 * set must be found afterwards: a lost summary bit would be hidden by the next
 * setter otherwise.
 */
#define DUEL (64 * 5) /* a word that only the summary leads to */

struct duel {
	struct gw_bitmap b;
	uint64_t go, done; /* atomic: rounds */
	uint64_t bits;	   /* to set in this round; published by go */
};

static void wait_for(const uint64_t *p, uint64_t round)
{
	for (int i = 0; __atomic_load_n(p, __ATOMIC_ACQUIRE) < round; i++)
		if (i > 2000)
			sched_yield();
}

static void *duel_setter(void *arg)
{
	struct duel *d = arg;

	for (uint64_t round = 1;; round++) {
		wait_for(&d->go, round);
		if (!d->bits)
			return NULL;
		for (uint64_t m = d->bits; m; m &= m - 1)
			gw_bitmap_set(&d->b,
				      DUEL + (uint64_t)__builtin_ctzll(m));
		__atomic_store_n(&d->done, round, __ATOMIC_RELEASE);
	}
}

static void take_bits(struct gw_bitmap *b, uint64_t *got)
{
	uint64_t first = 0, n;

	while ((n = gw_bitmap_take_run(b, 0, &first)))
		*got |= (n == 64 ? ~0ULL : (1ULL << n) - 1) << (first - DUEL);
}

static void summary_survives_races(void)
{
	struct duel d = { .go = 0 };
	int64_t end = gw_deadline_ms(400);
	struct gw_bitmap other;
	uint64_t rounds = 0, lost = 0, got;
	pthread_t th;

	CHECK(gw_bitmap_init(&d.b, DUEL + 64, NULL) == 0);
	CHECK(gw_bitmap_init(&other, DUEL + 64, NULL) == 0);
	pthread_create(&th, NULL, duel_setter, &d);
	while (rounds % 64 || gw_now_ns() < end) {
		got = 0;
		d.bits = test_rand(&seed) & test_rand(&seed);
		__atomic_store_n(&d.go, ++rounds, __ATOMIC_RELEASE);
		for (uint64_t i = pick(100); i; i--)
			__asm__ volatile("" ::: "memory");
		for (int i = 0;
		     __atomic_load_n(&d.done, __ATOMIC_ACQUIRE) < rounds; i++) {
			if (rounds % 4)
				take_bits(&d.b, &got);
			else
				gw_bitmap_move(&other, &d.b);
			if (i > 2000) /* it has no CPU to run on */
				sched_yield();
		}
		take_bits(&d.b, &got);
		take_bits(&other, &got);
		lost += got != d.bits;
	}
	d.bits = 0;
	__atomic_store_n(&d.go, rounds + 1, __ATOMIC_RELEASE);
	pthread_join(th, NULL);
	CHECK(rounds > 0 && lost == 0);
	gw_bitmap_fini(&d.b);
	gw_bitmap_fini(&other);
}

int main(void)
{
	seed = test_seed();
	RUN(empty_and_full);
	RUN(behaves_like_an_array);
	RUN(runs_visit_every_bit_once);
	RUN(move_is_or_and_clear);
	RUN(ranges_move_and_sets_subtract);
	RUN(words_are_those_of_the_bits);
	RUN(no_bit_is_lost_or_taken_twice);
	RUN(no_bit_is_lost_by_moving);
	RUN(summary_survives_races);
	return test_done();
}
