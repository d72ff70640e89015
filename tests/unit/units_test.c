/* SPDX-License-Identifier: BSD-3-Clause */
/* units_test.c - sizes and times as people write them. */
#include <errno.h>
#include <locale.h>

#include "base/units.h"
#include "test.h"

static void sizes(void)
{
	static const struct {
		const char *s;
		uint64_t n;
	} good[] = {
		{ "0", 0 },
		{ "1", 1 },
		{ "4096", 4096 },
		{ "64k", 65536 },
		{ "64K", 65536 },
		{ "64KiB", 65536 },
		{ "64kb", 65536 },
		{ "1M", 1 << 20 },
		{ "1.5G", 3ull << 29 },
		{ "0.5k", 512 },
		{ "2T", 2ull << 40 },
		{ "007", 7 },
		{ "9007199254740993", 9007199254740993ull }, /* 2^53 + 1 */
		{ "9223372036854775", 9223372036854775ull },
		{ "8000000T", 8000000ull << 40 },
	};
	static const char *const bad[] = {
		"",	"k",   "-1",   "+1",   " 1",   "1 ",   "1x",   "0x10",
		"1kk",	"1e3", "1.",   "1.k",  ".5",   "1.2.3", "inf", "nan",
		"1iB",	"1B",  "1KiBs", "9223372036854775807T", "1,5G",
		"99999999999999999999999999999999999999", "8388608T",
	};
	struct gw_error err = { 0 };
	uint64_t n;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		CHECK_OK(gw_parse_size("x", good[i].s, &n, &err), &err);
		CHECK(n == good[i].n);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memset(&err, 0, sizeof(err));
		n = 77;
		if (gw_parse_size("cache size", bad[i], &n, &err) != -EINVAL)
			fprintf(stderr, "'%s' is accepted\n", bad[i]);
		CHECK(err.code == EINVAL && err.fault == GW_FAULT_USAGE);
		CHECK(strstr(err.msg, "cache size") && n == 77);
	}
}

static void times(void)
{
	static const struct {
		const char *s;
		int64_t ns;
	} good[] = {
		{ "0", 0 },	     { "300", 300000000 },
		{ "300ms", 300000000 }, { "2s", 2000000000 },
		{ "1.5m", 90000000000 }, { "1h", 3600000000000 },
		{ "250us", 250000 }, { "17ns", 17 },
	};
	static const char *const bad[] = {
		"", "s", "-1s", "1S", "1 s", "1sec", "1e3", "1d",
		"99999999999h", "0x1s",
	};
	struct gw_error err = { 0 };
	int64_t ns;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		CHECK_OK(gw_parse_time("x", good[i].s, &ns, &err), &err);
		CHECK(ns == good[i].ns);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memset(&err, 0, sizeof(err));
		CHECK(gw_parse_time("limit", bad[i], &ns, &err) == -EINVAL);
		CHECK(err.fault == GW_FAULT_USAGE && strstr(err.msg, "limit"));
	}
	CHECK(gw_parse_time("limit", "1d", &ns, NULL) == -EINVAL);
}

/* An embedder's locale with a decimal comma must not change the format. */
static void locale_does_not_matter(void)
{
	uint64_t n = 0;

	if (!setlocale(LC_NUMERIC, "de_DE.UTF-8"))
		SKIP("no locale de_DE.UTF-8 on this machine");
	CHECK(gw_parse_size("x", "1.5G", &n, NULL) == 0 && n == 3ull << 29);
	CHECK(gw_parse_size("x", "1,5G", &n, NULL) == -EINVAL);
	setlocale(LC_NUMERIC, "C");
}

static bool size_is(uint64_t n, const char *s)
{
	char buf[32];

	if (!strcmp(gw_format_size(buf, sizeof(buf), n), s))
		return true;
	fprintf(stderr, "%" PRIu64 " -> '%s', not '%s'\n", n, buf, s);
	return false;
}

static bool time_is(int64_t ns, const char *s)
{
	char buf[32];

	if (!strcmp(gw_format_time(buf, sizeof(buf), ns), s))
		return true;
	fprintf(stderr, "%" PRId64 " -> '%s', not '%s'\n", ns, buf, s);
	return false;
}

static void formats(void)
{
	char tiny[4];

	CHECK(size_is(0, "0 B"));
	CHECK(size_is(9, "9 B"));
	CHECK(size_is(1023, "1023 B"));
	CHECK(size_is(1024, "1.00 KiB"));
	CHECK(size_is(12 << 10, "12.0 KiB"));
	CHECK(size_is(317 << 20, "317 MiB"));
	CHECK(size_is(3ull << 29, "1.50 GiB"));
	CHECK(size_is(UINT64_MAX, "16777216 TiB"));
	CHECK(time_is(0, "0 us"));
	CHECK(time_is(789000, "789 us"));
	CHECK(time_is(45600000, "45.6 ms"));
	CHECK(time_is(1230000000, "1.23 s"));
	CHECK(time_is(75000000000, "75.0 s"));
	gw_format_size(tiny, sizeof(tiny), 317 << 20);
	CHECK(strlen(tiny) == 3);
}

int main(void)
{
	RUN(sizes);
	RUN(times);
	RUN(locale_does_not_matter);
	RUN(formats);
	return test_done();
}
