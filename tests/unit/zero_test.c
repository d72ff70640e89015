/* SPDX-License-Identifier: BSD-3-Clause */
/* zero_test.c - every variant of the zero detector against a slow one. */
#include <pthread.h>
#include <sys/mman.h>

#include "page/zero.h"
#include "test.h"

#define PAGE 4096

static uint64_t seed;
/* The page ends where memory ends: reading one byte more is a fault. */
static uint8_t *page;

static bool slow(const uint8_t *p)
{
	for (int i = 0; i < PAGE; i++)
		if (p[i])
			return false;
	return true;
}

static void one_variant(const char *name, bool (*is_zero)(const void *))
{
	int wrong = 0;

	memset(page, 0, PAGE);
	CHECK(is_zero(page));
	for (int i = 0; i < PAGE; i++) {
		page[i] = (uint8_t)(1u << (i % 8));
		wrong += is_zero(page);
		page[i] = 0xff;
		wrong += is_zero(page);
		page[i] = 0;
	}
	CHECK(is_zero(page));
	if (wrong)
		fprintf(stderr, "%s misses %d single bytes\n", name, wrong);
	CHECK(!wrong);
	/* Random bytes, also ones that cancel out when added or xored. */
	for (int k = 0; k < 2000; k++) {
		int n = (int)(test_rand(&seed) % 5);
		uint8_t v = (uint8_t)test_rand(&seed);

		memset(page, 0, PAGE);
		for (int i = 0; i < n; i++)
			page[test_rand(&seed) % PAGE] =
				(uint8_t)(i % 2 ? v : -v);
		CHECK(is_zero(page) == slow(page));
	}
	/* Any alignment. */
	memset(page - 64, 0, PAGE + 64);
	for (int off = 0; off <= 64; off++) {
		CHECK(is_zero(page - off));
		page[PAGE - 1 - off] = 1;
		CHECK(!is_zero(page - off));
		page[PAGE - 1 - off] = 0;
		page[-off - 1] = 1; /* just before */
		CHECK(is_zero(page - off));
		page[-off - 1] = 0;
	}
}

static void every_variant_agrees_with_a_slow_one(void)
{
	const struct gw_page_zero_impl *i = gw_page_zero_impls;
	int n = 0;

	for (; i->name; i++) {
		if (!i->usable()) {
			printf("SKIP variant %s: not on this CPU\n", i->name);
			continue;
		}
		one_variant(i->name, i->is_zero);
		n++;
	}
	CHECK(n > 0);
	one_variant("chosen", gw_page_is_zero);
}

static void a_page_of_one_byte(void)
{
	uint8_t byte;

	for (int v = 0; v < 256; v++) {
		memset(page, v, PAGE);
		CHECK(gw_page_is_filled(page, &byte) && byte == v);
		for (int i = 0; i < PAGE; i += 1 + v % 7) {
			page[i]++;
			CHECK(!gw_page_is_filled(page, &byte));
			page[i]--;
		}
	}
	for (int i = 0; i < PAGE; i++) /* words alike, bytes not */
		page[i] = (uint8_t)(i % 8);
	CHECK(!gw_page_is_filled(page, &byte));
}

static uint8_t shared_page[PAGE] __attribute__((aligned(PAGE)));
static bool stop;

__attribute__((no_sanitize("thread"))) static void scribble(unsigned int i)
{
	((volatile uint8_t *)shared_page)[i % PAGE] ^= 1;
}

static void *guest(void *arg)
{
	for (unsigned int i = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); i++)
		scribble(i * 97);
	return NULL;
}

static void *asker(void *arg)
{
	uintptr_t n = 0;

	for (int i = 0; i < 20000; i++)
		n += gw_page_is_zero(shared_page);
	return (void *)n;
}

/* Nothing to compare: it must only not crash, nor upset ThreadSanitizer. */
static void page_may_change_meanwhile(void)
{
	pthread_t g, t[3];

	pthread_create(&g, NULL, guest, NULL);
	for (int i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, asker, NULL);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(g, NULL);
	CHECK(gw_page_is_zero(shared_page) == slow(shared_page));
}

int main(void)
{
	uint8_t *m = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (m == MAP_FAILED || mprotect(m + 2 * PAGE, PAGE, PROT_NONE))
		abort();
	page = m + PAGE;
	seed = test_seed();
	RUN(page_may_change_meanwhile); /* first: it races for the choice */
	RUN(a_page_of_one_byte);
	RUN(every_variant_agrees_with_a_slow_one);
	return test_done();
}
