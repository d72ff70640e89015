/* SPDX-License-Identifier: BSD-3-Clause */
/* store.c - what godwit.h promises about VMs in files. */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "chan/chan.h"
#include "control/internal.h"
#include "image/image.h"
#include "image/peer_sink.h"
#include "source/source.h"

int godwit_save(struct godwit_op *op, const char *path,
		struct godwit_error *err)
{
	const struct godwit_params *p = &op->params;
	struct gw_sink_options o = { .channels = gw_sink_threads(p->channels),
				     .direct_io = p->direct_io,
				     .cancel = &op->cancel };
	struct gw_source_config c = { .vm = op->vm,
				      .params = p,
				      .cancel = &op->cancel,
				      .progress = &op->progress,
				      .stopped = !p->live,
				      .give_up = p->stop || p->quit };
	struct gw_error local, *e = err ? (struct gw_error *)err : &local;
	int r = op->vm->ops->check(op->vm, true, e);

	if (r)
		return r;
	c.sink = gw_sink_file(p->format, path, &o, e);
	if (!c.sink)
		return -e->code;
	r = gw_source_run(&c, e);
	gw_sink_close(c.sink);
	return !r && p->quit ? op->vm->ops->quit(op->vm, e) : r;
}

static void sent_so_far(uint64_t done, uint64_t all, void *data)
{
	struct gw_progress *p = data;

	p->now.remaining = (all - done) * GW_PAGE_SIZE;
	gw_progress_tick(p);
}

static int send_image(struct godwit_op *op, struct gw_image *img,
		      struct gw_sink *sink, struct gw_error *err)
{
	struct godwit_stats *now = &op->progress.now;
	struct gw_copy c = { .img = img,
			     .sink = sink,
			     .threads = 1,
			     .cancel = &op->cancel,
			     .tick = sent_so_far,
			     .data = &op->progress };
	int r;

	now->total = img->desc.table.total;
	now->device_bytes = img->tail_len;
	gw_progress_status(&op->progress, GODWIT_STATUS_ACTIVE);
	r = gw_image_copy(&c, err);
	now->normal = c.normal;
	now->duplicate = c.duplicate;
	gw_progress_status(&op->progress, GODWIT_STATUS_DEVICE);
	if (!r)
		r = sink->ops->ready(sink, err);
	if (!r)
		r = sink->ops->finish(sink, err);
	now->transferred = gw_sink_nbytes(sink);
	gw_progress_status(&op->progress,
			   !r ? GODWIT_STATUS_COMPLETED :
			   r == -ECANCELED ? GODWIT_STATUS_CANCELLED :
					     GODWIT_STATUS_FAILED);
	return r;
}

/* After EOF the peer may run it: whether it does, nobody here can find out. */
static int sent_or_not(int r, const char *path, struct gw_error *err)
{
	if (r && err->fault == GW_FAULT_UNCERTAIN)
		gw_error_prefix(err,
				"the hand-over of %s is uncertain: all of it was sent and the destination did not confirm. Look at the destination: if the VM does not run there, send it again",
				path);
	return r;
}

int godwit_send(struct godwit_op *op, const char *path, const char *uri,
		struct godwit_error *err)
{
	struct gw_error local, *e = err ? (struct gw_error *)err : &local;
	struct gw_sink *sink = NULL;
	struct gw_image *img;
	struct gw_chan *chan;
	int r = gw_api_check_uri(uri, e);

	if (r)
		return r;
	gw_progress_status(&op->progress, GODWIT_STATUS_SETUP);
	img = gw_image_open(path, &op->cancel, e);
	if (!img)
		return -e->code;
	chan = gw_chan_connect(uri,
			       op->params.connect_timeout_ns / GW_NS_PER_MS,
			       &op->cancel, e);
	if (chan)
		sink = gw_sink_peer(chan, false, &op->params, &op->cancel, e);
	r = sink ? send_image(op, img, sink, e) : -e->code;
	gw_sink_close(sink);
	gw_image_close(img);
	return sent_or_not(r, path, e);
}
