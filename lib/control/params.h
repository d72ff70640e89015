/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * params.h - ONE table of parameters. Defaults, ranges, `--set NAME=VALUE`,
 * the options of the command line, help and the man page come from it.
 */
#ifndef GW_CONTROL_PARAMS_H
#define GW_CONTROL_PARAMS_H

#include <stddef.h>

#include "base/error.h"
#include "godwit.h"

enum gw_param_type {
	GW_PARAM_SIZE, /* uint64_t bytes, "64M" */
	GW_PARAM_RATE, /* uint64_t bytes per second, "1G" */
	GW_PARAM_TIME, /* int64_t ns, "300ms" */
	GW_PARAM_COUNT, /* uint32_t */
	GW_PARAM_BOOL, /* bool, "on", "off" */
	GW_PARAM_NAME, /* const char *, one of a list */
	/* "NAME[:LEVEL]": const char *, one of a list, and directly behind it
	 * a uint32_t, 0 without a level */
	GW_PARAM_METHOD,
	GW_PARAM_TEXT, /* const char *, any; the caller's, who keeps it */
};

/* The operations that look at a parameter. */
enum gw_use {
	GW_USE_MIGRATE = 1,
	GW_USE_RECEIVE = 2,
	GW_USE_SAVE = 4,
	GW_USE_RESTORE = 8,
	GW_USE_SEND = 16,
	GW_USE_ALL = 31,
	/* not an operation: godwit_op_set() may change it while one runs */
	GW_USE_NOW = 32,
	GW_USE_PROTECT = 64,
	GW_USE_STANDBY = 128,
};

struct gw_param {
	const char *name; /* also the long option */
	enum gw_param_type type;
	size_t offset; /* in struct godwit_params */
	const char *fallback; /* default, as a user would write it */
	const char *min, *max; /* NULL: none */
	const char *const *names; /* GW_PARAM_NAME, GW_PARAM_METHOD */
	unsigned int uses; /* enum gw_use */
	const char *help;
};

extern const struct gw_param gw_params[];
extern const size_t gw_nparams;

const struct gw_param *gw_param_find(const char *name);

/* Parse @value into @p. A name is not copied: it points into the table; a
 * text points to @value. */
int gw_param_set(struct godwit_params *p, const struct gw_param *d,
		 const char *value, struct gw_error *err) GW_MUST_CHECK;

/* Put the value of @d from @from into @to, which an engine reads: an atomic
 * store. Only of a number, and so of every parameter that is live. */
void gw_param_store(struct godwit_params *to, const struct godwit_params *from,
		    const struct gw_param *d);

/* The value of a number in its unit (bytes, ns, a count), or of a bool. */
int64_t gw_param_number(const struct godwit_params *p,
			const struct gw_param *d);
/* The value of GW_PARAM_NAME, _METHOD and _TEXT, as gw_param_set() takes it,
 * in @buf (a long text is cut). */
const char *gw_param_text(const struct godwit_params *p,
			  const struct gw_param *d, char buf[64]);

/* What one parameter alone cannot tell: max-cpu-throttle is not below
 * cpu-throttle-initial. */
int gw_params_check(const struct godwit_params *p,
		    struct gw_error *err) GW_MUST_CHECK;

/* "NAME=VALUE", of a parameter that is of use for @use. */
int gw_param_assign(struct godwit_params *p, unsigned int use,
		    const char *assignment,
		    struct gw_error *err) GW_MUST_CHECK;

#endif
