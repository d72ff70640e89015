/* SPDX-License-Identifier: BSD-3-Clause */
/* error.c - filling and prefixing struct gw_error. */
#include "base/error.h"

#include <stdio.h>
#include <string.h>

static int fill(struct gw_error *err, enum gw_fault fault, int code,
		const char *fmt, va_list ap)
{
	if (code <= 0)
		code = code < 0 ? -code : 5; /* EIO: a bug, but still an error */
	if (!err)
		return -code;
	err->code = code;
	err->fault = fault;
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	return -code;
}

int gw_fail(struct gw_error *err, int code, const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = fill(err, GW_FAULT_FAILED, code, fmt, ap);
	va_end(ap);
	return r;
}

int gw_fail_as(struct gw_error *err, enum gw_fault fault, int code,
	       const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = fill(err, fault, code, fmt, ap);
	va_end(ap);
	return r;
}

int gw_fail_errno(struct gw_error *err, int code, const char *fmt, ...)
{
	va_list ap;
	size_t n;
	int r;

	va_start(ap, fmt);
	r = fill(err, GW_FAULT_FAILED, code, fmt, ap);
	va_end(ap);
	if (err) {
		n = strlen(err->msg);
		snprintf(err->msg + n, sizeof(err->msg) - n, ": %s",
			 strerror(err->code));
	}
	return r;
}

void gw_error_prefix(struct gw_error *err, const char *fmt, ...)
{
	char old[GW_ERROR_MAX];
	va_list ap;
	int n;

	if (!gw_error_is_set(err))
		return;
	memcpy(old, err->msg, sizeof(old));
	va_start(ap, fmt);
	n = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(err->msg))
		snprintf(err->msg + n, sizeof(err->msg) - (size_t)n, ": %s",
			 old);
}
