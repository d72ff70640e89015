/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log.h - messages for whoever embeds the library. Silent by default: the
 * library itself never prints. Every file that logs defines GW_LOG_MODULE to
 * the name of its folder before it includes this header.
 */
#ifndef GW_BASE_LOG_H
#define GW_BASE_LOG_H

#include "base/error.h"

enum gw_log_level {
	GW_LOG_NONE = 0,
	GW_LOG_ERROR = 1,
	GW_LOG_WARN = 2,
	GW_LOG_INFO = 3,
	GW_LOG_DEBUG = 4,
	GW_LOG_TRACE = 5,
};

/* Called from any thread; @msg is one line without a newline. */
typedef void (*gw_log_fn)(enum gw_log_level level, const char *module,
			  const char *msg, void *data);

/* Set before other threads exist; @fn NULL silences. */
void gw_log_set(gw_log_fn fn, void *data);

/*
 * "LEVEL" or "LEVEL,module=LEVEL,..." with LEVEL error, warn, info, debug,
 * trace or none, e.g. "info,track=trace". Return: 0 or -EINVAL with the
 * offending word in @err.
 */
int gw_log_configure(const char *spec, struct gw_error *err) GW_MUST_CHECK;

int gw_log_enabled(enum gw_log_level level, const char *module);
void gw_log_emit(enum gw_log_level level, const char *module, const char *fmt,
		 ...) __attribute__((format(printf, 3, 4)));

#define gw_log_at(level, ...)                                               \
	do {                                                                \
		if (gw_log_enabled(level, GW_LOG_MODULE))                   \
			gw_log_emit(level, GW_LOG_MODULE, __VA_ARGS__);     \
	} while (0)
#define gw_warn(...)	gw_log_at(GW_LOG_WARN, __VA_ARGS__)
#define gw_info(...)	gw_log_at(GW_LOG_INFO, __VA_ARGS__)
#define gw_debug(...)	gw_log_at(GW_LOG_DEBUG, __VA_ARGS__)

#endif
