/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * error.h - one way to report errors.
 *
 * A fallible function returns 0 or -errno and, when it meets the outside
 * world, takes a caller-owned struct gw_error as its last parameter (NULL is
 * allowed). The error is written once, where it is detected, with the values
 * that matter; callers may only put context in front of it. Who returns an
 * error does not log it: the owner at the top reports it.
 */
#ifndef GW_BASE_ERROR_H
#define GW_BASE_ERROR_H

#include <stdarg.h>

/*
 * What an error means to whoever started the operation. The numbers are the
 * exit codes of the command line (docs/man/godwit.1.scd) and travel between
 * two godwits: never renumber.
 */
enum gw_fault {
	GW_FAULT_NONE = 0,
	GW_FAULT_FAILED = 1,	/* the VM still runs (or rests) where it was */
	GW_FAULT_USAGE = 2,	/* the caller asked for something impossible */
	GW_FAULT_INPUT = 3,	/* bad or damaged input */
	GW_FAULT_VERIFY = 4,	/* source and destination RAM differ */
	GW_FAULT_CONVERGE = 5,	/* dirtied faster than it can be sent */
	GW_FAULT_REFUSED = 6,	/* the peer said no */
	GW_FAULT_CANCELLED = 7,
	GW_FAULT_UNCERTAIN = 8,	/* hand-over uncertain: an operator decides */
};

#define GW_ERROR_MAX 1024

struct gw_error {
	int code;		/* errno value, > 0 once set */
	enum gw_fault fault;
	char msg[GW_ERROR_MAX];	/* one line, no newline at the end */
};

#define GW_MUST_CHECK __attribute__((warn_unused_result))

/* Fill @err (may be NULL) with GW_FAULT_FAILED. Return: -@code. */
int gw_fail(struct gw_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The same with an explicit fault. Return: -@code. */
int gw_fail_as(struct gw_error *err, enum gw_fault fault, int code,
	       const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* gw_fail() with ": " and the text of errno value @code appended. */
int gw_fail_errno(struct gw_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Put "context: " in front of what is there. No-op when @err is not set. */
void gw_error_prefix(struct gw_error *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static inline int gw_error_is_set(const struct gw_error *err)
{
	return err && err->code != 0;
}

#endif
