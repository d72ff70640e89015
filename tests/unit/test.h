/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test.h - the whole unit-test framework: plain programs, exit 0 passed,
 * 1 failed, 77 skipped (Meson reads it so).
 *
 *	static void bitmap_set_finds_it(void) { CHECK(...); }
 *	int main(void) { RUN(bitmap_set_finds_it); return test_done(); }
 */
#ifndef GW_TEST_H
#define GW_TEST_H

#undef NDEBUG
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static int test_failures, test_checks, test_cases, test_skips;
static const char *test_name = "?";

#define CHECK(cond)                                                         \
	do {                                                                \
		test_checks++;                                              \
		if (!(cond)) {                                              \
			test_failures++;                                    \
			fprintf(stderr, "%s:%d: %s: CHECK(%s) failed\n",    \
				__FILE__, __LINE__, test_name, #cond);      \
		}                                                           \
	} while (0)

/* The same, and give up on this test case (in a function returning void). */
#define REQUIRE(cond)                                                       \
	do {                                                                \
		test_checks++;                                              \
		if (!(cond)) {                                              \
			test_failures++;                                    \
			fprintf(stderr, "%s:%d: %s: REQUIRE(%s) failed\n",  \
				__FILE__, __LINE__, test_name, #cond);      \
			return;                                             \
		}                                                           \
	} while (0)

/* Show a struct gw_error's text when a CHECK on its function failed. */
#define CHECK_OK(call, err)                                                 \
	do {                                                                \
		int check_ok_r_ = (call);                                   \
		test_checks++;                                              \
		if (check_ok_r_ < 0) {                                      \
			test_failures++;                                    \
			fprintf(stderr, "%s:%d: %s: %s: %d, %s\n",          \
				__FILE__, __LINE__, test_name, #call,       \
				check_ok_r_, (err)->msg);                   \
		}                                                           \
	} while (0)

/* This case cannot run here; say why, loudly. The program exits 77 if no
 * case ran at all. */
#define SKIP(...)                                                           \
	do {                                                                \
		test_skips++;                                               \
		printf("SKIP %s: ", test_name);                             \
		printf(__VA_ARGS__);                                        \
		printf("\n");                                               \
		return;                                                     \
	} while (0)

#define RUN(fn)                                                             \
	do {                                                                \
		test_name = #fn;                                            \
		setvbuf(stdout, NULL, _IOLBF, 0);                           \
		test_cases++;                                               \
		fn();                                                       \
	} while (0)

static inline int test_done(void)
{
	printf("%d cases, %d checks, %d failures, %d skipped\n", test_cases,
	       test_checks, test_failures, test_skips);
	if (test_failures)
		return 1;
	return test_skips == test_cases ? 77 : 0;
}

/* A seed: GW_TEST_SEED, or random; printed so that a failure can be rerun. */
static inline uint64_t test_seed(void)
{
	const char *s = getenv("GW_TEST_SEED");
	uint64_t seed = 0;

	if (s)
		seed = strtoull(s, NULL, 0);
	else if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		seed = 1;
	printf("GW_TEST_SEED=0x%" PRIx64 "\n", seed);
	return seed;
}

/* xorshift64*: enough for tests, the same everywhere. */
static inline uint64_t test_rand(uint64_t *s)
{
	uint64_t x = *s ? *s : 88172645463325252ULL;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*s = x;
	return x * 2685821657736338717ULL;
}

#endif
