/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vm_sink.h - a waiting VM as a sink: an image that comes from something else
 * than a godwit source (a plain QEMU's stream, a stored file) goes into it.
 *
 * The VM's RAM blocks are emptied at begin and then written in place. Other
 * blocks of the image (ROMs, video memory: they are private to the VMM) are
 * kept, at most GW_SINK_VM_MAX_KEPT bytes, and given to the VMM together with
 * the device state, as one stream with x-ignore-shared:
 *
 *	header, configuration, OPEN_RETURN_PATH, START ram {table, EOS},
 *	END ram {pages and zero pages of the other blocks, EOS}, device
 *	sections, EOF, VMDESC
 *
 * ready: loaded and paused; finish: runs, if it ran when the image was made.
 * Nothing is placed after RAM was declared final: loading reads guest memory
 * and may write it. close without finish: the VMM waits as before if it was
 * not fed yet, and in any case has no RAM any more.
 */
#ifndef GW_DEST_VM_SINK_H
#define GW_DEST_VM_SINK_H

#include "image/sink.h"
#include "vm/vm.h"

/* The VMM's device stream is limited (GW_MAX_DEVICE_STATE), and has room for
 * device sections besides. */
#define GW_SINK_VM_MAX_KEPT (192ULL << 20)
/* Longer blocks that the VM does not have are somebody's RAM. */
#define GW_SINK_VM_MAX_OTHER (1ULL << 30)

struct gw_sink_vm_options {
	bool paused; /* finish() leaves it paused in any case */
};

/* @vm stays the caller's and must outlive the sink. NULL with @err. */
struct gw_sink *gw_sink_vm(struct gw_vm *vm,
			   const struct gw_sink_vm_options *o,
			   struct gw_error *err);

/* After finish(): was the VM set running? */
bool gw_sink_vm_runs(const struct gw_sink *s);

#endif
