/* SPDX-License-Identifier: BSD-3-Clause */
/* restore.c - see restore.h. */
#include "dest/restore.h"

#include <errno.h>

#include "base/clock.h"
#include "dest/vm_sink.h"
#include "image/image.h"

#define GW_LOG_MODULE "dest"
#include "base/log.h"

struct restore {
	struct gw_restore_config c;
	struct gw_image *img;
	struct gw_copy copy;
};

static void tick(uint64_t done, uint64_t all, void *data)
{
	struct restore *x = data;
	struct godwit_stats *now = &x->c.progress->now;

	now->transferred = gw_sink_nbytes(x->copy.sink);
	now->remaining = (all - done) * GW_PAGE_SIZE;
	gw_progress_tick(x->c.progress);
}

/* The VM can be restored again: the file has it all. */
static void say_where(struct restore *x, struct gw_error *err)
{
	if (err->fault != GW_FAULT_UNCERTAIN && err->code != ECANCELED)
		gw_error_prefix(err, "restoring '%s' from %s",
				x->c.vm->info.name, x->c.path);
}

/* Without a page cache nobody reads ahead: one thread waits for the disk while
 * another's pages are put. */
static unsigned int threads(const struct godwit_params *p)
{
	unsigned int n = gw_sink_threads(p->channels);

	return p->direct_io ? 2 * n : n;
}

static int load(struct restore *x, struct gw_error *err)
{
	struct gw_sink_vm_options o = { .paused = x->c.params->paused };
	struct gw_sink *sink = gw_sink_vm(x->c.vm, &o, err);
	struct godwit_stats *now = &x->c.progress->now;
	int r;

	if (!sink)
		return -err->code;
	now->total = x->img->desc.table.total;
	x->copy = (struct gw_copy){ .img = x->img,
				    .sink = sink,
				    .threads = threads(x->c.params),
				    .cancel = x->c.cancel,
				    .tick = tick,
				    .data = x };
	now->setup_ns = gw_now_ns() - x->c.progress->started_ns;
	gw_progress_status(x->c.progress, GODWIT_STATUS_ACTIVE);
	r = gw_image_copy(&x->copy, err);
	now->normal = x->copy.normal;
	now->duplicate = x->copy.duplicate;
	now->transferred = gw_sink_nbytes(sink);
	now->device_bytes = x->img->tail_len;
	if (!r)
		gw_progress_status(x->c.progress, GODWIT_STATUS_DEVICE);
	if (!r && gw_cancel_requested(x->c.cancel))
		r = gw_cancel_fail(err);
	if (!r)
		r = sink->ops->ready(sink, err);
	if (!r)
		r = sink->ops->finish(sink, err);
	gw_sink_close(sink);
	return r;
}

int gw_restore_run(const struct gw_restore_config *c, struct gw_error *err)
{
	struct restore x = { .c = *c };
	int r;

	gw_progress_status(c->progress, GODWIT_STATUS_SETUP);
	/* First the VM, which is quick, then the file, which may be large. */
	r = c->vm->ops->check(c->vm, false, err);
	if (!r) {
		x.img = gw_image_open(c->path, c->cancel, err);
		if (x.img && c->params->direct_io)
			gw_image_read_direct(x.img);
		r = x.img ? load(&x, err) : -err->code;
		if (r)
			say_where(&x, err);
	}
	gw_image_close(x.img);
	gw_progress_status(c->progress,
			   !r ? GODWIT_STATUS_COMPLETED :
			   err->fault == GW_FAULT_CANCELLED ?
				GODWIT_STATUS_CANCELLED :
				GODWIT_STATUS_FAILED);
	return r;
}
