/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cancel.h - one flag that ends every wait of an operation.
 *
 * gw_cancel_request() is async-signal-safe and may be called from any thread.
 * Whatever waits polls gw_cancel_fd() beside its own descriptor and returns
 * gw_cancel_fail() when it is readable; the flag is never reset.
 */
#ifndef GW_BASE_CANCEL_H
#define GW_BASE_CANCEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct gw_cancel {
	int fd; /* eventfd; readable once cancelled */
};

int gw_cancel_init(struct gw_cancel *c, struct gw_error *err) GW_MUST_CHECK;
void gw_cancel_fini(struct gw_cancel *c);
void gw_cancel_request(struct gw_cancel *c);

/* @c may be NULL: never cancelled. */
bool gw_cancel_requested(const struct gw_cancel *c);
int gw_cancel_fd(const struct gw_cancel *c);

/* Return: -ECANCELED, with "cancelled" in @err. */
int gw_cancel_fail(struct gw_error *err);

/*
 * Wait until @fd has one of the poll(2) @events, a deadline of gw_now_ns()
 * passes (0: none) or @c (may be NULL) is cancelled.
 * Return: 0 when ready (also on error and hang-up: the next call on @fd
 * tells), -ETIMEDOUT or -ECANCELED without text: the caller knows what for.
 */
int gw_wait_fd(int fd, short events, int64_t deadline,
	       const struct gw_cancel *c) GW_MUST_CHECK;

#endif
