/* SPDX-License-Identifier: BSD-3-Clause */
/* internal.h - what the files behind godwit.h share. Not for other folders. */
#ifndef GW_CONTROL_INTERNAL_H
#define GW_CONTROL_INTERNAL_H

#include "base/cancel.h"
#include "base/progress.h"
#include "godwit.h"
#include "hint/hint.h"
#include "vm/vm.h"

struct godwit_op {
	struct gw_vm *vm;
	struct godwit_params params;
	struct gw_cancel cancel;
	struct gw_progress progress;
	struct gw_hint hint;
};

/* Does it make sense where both sides talk? A file has nobody at its end. */
int gw_api_check_uri(const char *uri, struct gw_error *err);

#endif
