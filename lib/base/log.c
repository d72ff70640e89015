/* SPDX-License-Identifier: BSD-3-Clause */
/* log.c - level filter per module and one callback. */
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MAX_RULES 16

struct filter {
	enum gw_log_level level;
	int nrules;
	struct {
		char module[16];
		enum gw_log_level level;
	} rules[MAX_RULES];
};

static struct {
	gw_log_fn fn;
	void *data;
	struct filter filter;
} state = { .filter.level = GW_LOG_WARN };

static const char *const level_names[] = {
	[GW_LOG_NONE] = "none",	  [GW_LOG_ERROR] = "error",
	[GW_LOG_WARN] = "warn",	  [GW_LOG_INFO] = "info",
	[GW_LOG_DEBUG] = "debug", [GW_LOG_TRACE] = "trace",
};

void gw_log_set(gw_log_fn fn, void *data)
{
	state.fn = fn;
	state.data = data;
}

static int parse_level(const char *s, size_t n)
{
	for (int i = 0; i <= GW_LOG_TRACE; i++)
		if (strlen(level_names[i]) == n && !memcmp(s, level_names[i], n))
			return i;
	return -1;
}

int gw_log_configure(const char *spec, struct gw_error *err)
{
	struct filter f = { .level = state.filter.level };

	for (const char *p = spec; *p;) {
		size_t n = strcspn(p, ",");
		const char *eq = memchr(p, '=', n);
		const char *v = eq ? eq + 1 : p;
		size_t name = eq ? (size_t)(eq - p) : 0;
		int l = parse_level(v, n - (size_t)(v - p));

		if (l < 0 || (eq && (!name || f.nrules == MAX_RULES ||
				     name >= sizeof(f.rules[0].module))))
			return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
					  "log filter '%.*s' is not LEVEL or MODULE=LEVEL with LEVEL none, error, warn, info, debug or trace",
					  (int)n, p);
		if (eq) {
			memcpy(f.rules[f.nrules].module, p, name);
			f.rules[f.nrules++].level = (enum gw_log_level)l;
		} else {
			f.level = (enum gw_log_level)l;
		}
		p += n + (p[n] == ',');
	}
	state.filter = f;
	return 0;
}

int gw_log_enabled(enum gw_log_level level, const char *module)
{
	if (!state.fn)
		return 0;
	for (int i = 0; i < state.filter.nrules; i++)
		if (!strcmp(state.filter.rules[i].module, module))
			return level <= state.filter.rules[i].level;
	return level <= state.filter.level;
}

void gw_log_emit(enum gw_log_level level, const char *module, const char *fmt,
		 ...)
{
	char msg[GW_ERROR_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	state.fn(level, module, msg, state.data);
}
