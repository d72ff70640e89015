/* SPDX-License-Identifier: BSD-3-Clause */
/* units.c - see units.h. */
#include "base/units.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"

/* Digits with at most one '.', no sign, exponent, hex or locale. */
static int parse_number(const char *s, long double *v, const char **end)
{
	long double unit = 1;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	for (*v = 0; isdigit((unsigned char)*s); s++)
		*v = *v * 10 + (*s - '0');
	if (*s == '.' && isdigit((unsigned char)s[1]))
		for (s++; isdigit((unsigned char)*s); s++)
			*v += (*s - '0') * (unit /= 10);
	*end = s;
	return 0;
}

int gw_parse_size(const char *what, const char *s, uint64_t *nbytes,
		  struct gw_error *err)
{
	static const char suffixes[] = "kmgt";
	const char *e, *hit;
	long double v;

	if (parse_number(s, &v, &e))
		goto fail;
	if (*e && (hit = strchr(suffixes, tolower((unsigned char)*e)))) {
		v = ldexpl(v, 10 * (int)(hit - suffixes + 1));
		e++;
		if (!strcasecmp(e, "ib") || !strcasecmp(e, "b"))
			e += strlen(e);
	}
	if (*e || v >= 9.2e18L)
		goto fail;
	*nbytes = (uint64_t)v;
	return 0;
fail:
	return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			  "%s '%s' is not a size: a number of bytes, or one with a suffix k, M, G or T",
			  what, s);
}

int gw_parse_time(const char *what, const char *s, int64_t *ns,
		  struct gw_error *err)
{
	static const struct {
		const char *name;
		double ns;
	} unit[] = { { "", 1e6 },  { "ms", 1e6 }, { "us", 1e3 }, { "ns", 1 },
		     { "s", 1e9 }, { "m", 60e9 }, { "h", 3600e9 } };
	const char *e;
	long double v;

	if (!parse_number(s, &v, &e))
		for (size_t i = 0; i < sizeof(unit) / sizeof(*unit); i++)
			if (!strcmp(e, unit[i].name) && v * unit[i].ns < 9e18L) {
				*ns = (int64_t)(v * unit[i].ns);
				return 0;
			}
	return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			  "%s '%s' is not a time: a number with a suffix us, ms, s, m or h",
			  what, s);
}

char *gw_format_size(char *buf, size_t len, uint64_t nbytes)
{
	static const char *const name[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double v = (double)nbytes;
	int i = 0;

	while (v >= 1024 && i < 4) {
		v /= 1024;
		i++;
	}
	snprintf(buf, len, i && v < 10 ? "%.2f %s" : i && v < 100 ? "%.1f %s" :
								    "%.0f %s",
		 v, name[i]);
	return buf;
}

char *gw_format_time(char *buf, size_t len, int64_t ns)
{
	if (ns >= 10 * GW_NS_PER_S)
		snprintf(buf, len, "%.1f s", (double)ns / 1e9);
	else if (ns >= GW_NS_PER_S)
		snprintf(buf, len, "%.2f s", (double)ns / 1e9);
	else if (ns >= GW_NS_PER_MS)
		snprintf(buf, len, "%.1f ms", (double)ns / 1e6);
	else
		snprintf(buf, len, "%lld us", (long long)(ns / 1000));
	return buf;
}
