/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * devload.h - put together the stream by which a VMM takes in its device
 * state, from what another stream or file had: the same sections, the RAM
 * section rewritten for x-ignore-shared (vm_sink.h has the layout).
 */
#ifndef GW_DEST_DEVLOAD_H
#define GW_DEST_DEVLOAD_H

#include "image/image.h"
#include "image/sink.h"
#include "vm/vm.h"

/* A block outside the VM's RAM; data NULL: it is the VM's. */
struct gw_devload_block {
	uint8_t *data;	/* of its whole length */
	uint8_t *state; /* enum gw_page_state per page; ABSENT: left alone */
};

struct gw_devload {
	struct gw_vm *vm;
	const struct gw_image_desc *d;
	const struct gw_devload_block *block; /* by table index */
	const void *sections; /* FULL sections without EOF */
	size_t len;
	const char *vmdesc; /* NULL: made from the sections' framing */
	size_t vmdesc_len;
	bool ran; /* result: did the VM run when this was made? */
};

/* Between the VM's load_begin and load_finish. */
int gw_devload_write(struct gw_devload *l, struct gw_error *err) GW_MUST_CHECK;

#endif
