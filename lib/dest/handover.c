/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * handover.c - the image is complete: load it, say READY, wait for GO, run.
 * After READY only the source's word (GO, or ERROR: it keeps the VM) decides;
 * without one the VM stays paused here and an operator decides
 * (docs/internals/hand-over.md).
 */
#include <errno.h>

#include "base/pause.h"
#include "base/trace.h"
#include "dest/internal.h"

int gw_dest_load_begin(struct gw_dest *d, struct gw_error *err)
{
	int r;

	d->loading = true;
	gw_moment("load begins");
	r = d->c.vm->ops->load_begin(d->c.vm, err);
	gw_moment("load begun");
	return r;
}

static int load(struct gw_dest *d, struct gw_error *err)
{
	struct gw_vm *vm = d->c.vm;
	int r;

	gw_progress_status(d->c.progress, GODWIT_STATUS_DEVICE);
	/* Only checked here, the VMM does not see it yet. */
	r = vm->ops->load_write(vm, d->device.p, d->device.len, err);
	gw_moment("device state checked");
	if (!r)
		r = vm->ops->load_finish(vm, err);
	return r;
}

static int uncertain(struct gw_dest *d, struct gw_error *err)
{
	const char *name = d->c.vm->info.name;

	d->uncertain = true;
	gw_dest_lost(d, err);
	gw_error_prefix(err,
			"the hand-over of '%s' is uncertain: it is complete here and paused, but the source did not say whether to run it. If the VM does not run at the source and will not, 'godwit resume %s' runs it here; otherwise end the one here",
			name, name);
	err->fault = GW_FAULT_UNCERTAIN;
	return -err->code;
}

static int wait_go(struct gw_dest *d, struct gw_error *err)
{
	struct gw_record rec;
	uint8_t item;
	int r;

	for (;;) {
		item = gw_read_u8(&d->in);
		if (!gw_read_failed(&d->in) && item != GW_ITEM_RECORD)
			gw_read_fail(&d->in, EPROTO,
				     "item 0x%02x after the device state",
				     item);
		r = gw_read_check(&d->in, err);
		if (!r)
			r = gw_dest_record(d, &rec, err);
		if (r)
			return d->source_owns ? r : uncertain(d, err);
		if (rec.type == GW_RECORD_GO && rec.len == 1) {
			d->run = gw_read_u8(&d->in) != 0;
			r = gw_read_check(&d->in, err);
			return r ? uncertain(d, err) : 0;
		}
		if (rec.mandatory) {
			gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				   "record %u where GO should be", rec.type);
			return uncertain(d, err);
		}
		gw_read_skip(&d->in, rec.len);
	}
}

int gw_dest_hand_over(struct gw_dest *d, struct gw_error *err)
{
	struct gw_vm *vm = d->c.vm;
	struct gw_error ignored;
	int r = load(d, err);
	bool run;

	if (r)
		return r;
	gw_moment("loaded");
	d->phase = GW_DEST_LOADED;
	gw_pause_at(GW_PAUSE_DEST_LOADED);
	d->c.chan->cancel = NULL; /* from here on the source decides */
	gw_record_put(&d->out, GW_RECORD_READY, true, 0);
	if (gw_write_flush(&d->out, err))
		return uncertain(d, err);
	gw_moment("READY sent");
	gw_pause_at(GW_PAUSE_DEST_READY);
	r = wait_go(d, err);
	run = d->run && !d->c.params->paused;
	GW_TRACE1(go, r);
	gw_moment("GO read");
	if (!r)
		gw_pause_at(GW_PAUSE_DEST_GO);
	if (!r && run)
		r = vm->ops->run(vm, err);
	if (r)
		return r;
	gw_moment("runs");
	gw_record_put(&d->out, GW_RECORD_RUNNING, true, 0);
	if (gw_write_flush(&d->out, &ignored))
		gw_warn("the VM runs here, but the source could not be told: %s",
			ignored.msg);
	if (run) /* paused, it is to be known by its note */
		gw_vm_stay(vm);
	return 0;
}
