/* SPDX-License-Identifier: BSD-3-Clause */
/* hints.c - the QEMU driver asks the guest which pages are free. */
#include <errno.h>

#include "vm/qemu/internal.h"

int gw_qemu_hint_begin(struct gw_vm *vm, struct gw_hint *h,
		       struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct gw_memmap map;
	char path[108];
	int r = gw_hintagent_find(q->qmp, GW_QMP_TIMEOUT_MS, path, err);

	gw_qemu_hint_end(vm);
	if (!r)
		r = gw_memmap_read(&map, &vm->ram, q->qmp, GW_QMP_TIMEOUT_MS,
				   err);
	if (r)
		return r;
	q->hintagent = gw_hintagent_open(path, h, &map, err);
	return q->hintagent ? 0 : -EIO;
}

void gw_qemu_hint_ask(struct gw_vm *vm, uint32_t id)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct gw_error err;

	if (q->hintagent && !id)
		gw_hintagent_stop(q->hintagent);
	else if (q->hintagent && gw_hintagent_ask(q->hintagent, id, &err))
		gw_warn("%s", err.msg);
}

void gw_qemu_hint_end(struct gw_vm *vm)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	gw_hintagent_close(q->hintagent);
	q->hintagent = NULL;
}
