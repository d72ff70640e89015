/* SPDX-License-Identifier: BSD-3-Clause */
/* internal.h - what the files behind godwit.h share. Not for other folders. */
#ifndef GW_CONTROL_INTERNAL_H
#define GW_CONTROL_INTERNAL_H

#include <pthread.h>

#include "base/cancel.h"
#include "base/progress.h"
#include "chan/chan.h"
#include "godwit.h"
#include "hint/hint.h"
#include "vm/vm.h"

struct godwit_op {
	struct gw_vm *vm;
	struct godwit_params params; /* those that are live: atomic */
	pthread_mutex_t set_lock;    /* who changes them */
	struct gw_cancel cancel;
	struct gw_progress progress;
	struct gw_hint hint;
};

/* Does it make sense where both sides talk? A file has nobody at its end. */
int gw_api_check_uri(const char *uri, struct gw_error *err);

/* Connect to @uri, and name the peer in op->vm. NULL with @err. */
struct gw_chan *gw_api_connect(struct godwit_op *op, const char *uri,
			       struct gw_error *err);

/* Can it be moved at all? Before a peer is bothered. */
int gw_api_check_migrate(struct godwit_op *op, const char *uri,
			 struct gw_error *err);

#endif
