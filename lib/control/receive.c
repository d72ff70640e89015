/* SPDX-License-Identifier: BSD-3-Clause */
/* receive.c - what godwit.h promises about VMs that arrive. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "chan/chan.h"
#include "control/internal.h"
#include "dest/accept.h"
#include "dest/restore.h"
#include "image/sink.h"

/* Connections one after the other, until one of them was the migration. */
static int accept_loop(struct godwit_op *op, struct gw_accept *a,
		       const char *uri,
		       void (*listening)(const char *uri, void *data),
		       struct gw_error *e)
{
	int r;

	a->params = &op->params;
	a->cancel = &op->cancel;
	a->progress = &op->progress;
	a->listener = gw_chan_listen(uri, e);
	if (!a->listener)
		return -e->code;
	if (listening)
		listening(gw_listener_uri(a->listener), op->progress.data);
	do {
		struct gw_chan *chan = gw_listener_accept(a->listener, -1,
							  &op->cancel, e);

		if (!chan) {
			r = -e->code;
			break;
		}
		r = gw_accept_run(a, chan, e);
	} while (r == -EAGAIN);
	gw_listener_close(a->listener);
	return r;
}

int godwit_receive(struct godwit_op *op, const char *uri,
		   void (*listening)(const char *uri, void *data),
		   struct godwit_error *err)
{
	struct gw_error local, *e = err ? (struct gw_error *)err : &local;
	struct gw_accept a = { .vm = op->vm };
	int r;

	r = gw_api_check_uri(uri, e);
	if (!r)
		r = op->vm->ops->check(op->vm, false, e);
	return r ? r : accept_loop(op, &a, uri, listening, e);
}

static int check_stored_format(const char *format, struct gw_error *err)
{
	for (int i = 0; i < 2; i++)
		if (!strcmp(format, gw_sink_formats[i]))
			return 0;
	return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			  "format '%s' is not possible here, only %s and %s can be read again",
			  format, gw_sink_formats[0], gw_sink_formats[1]);
}

int godwit_receive_file(struct godwit_op *op, const char *uri,
			const char *path, const char *format,
			void (*listening)(const char *uri, void *data),
			struct godwit_error *err)
{
	struct gw_error local, *e = err ? (struct gw_error *)err : &local;
	struct gw_sink_options o = { .cancel = &op->cancel };
	struct gw_accept a = { .path = path };
	int r;

	r = gw_api_check_uri(uri, e);
	if (!r)
		r = check_stored_format(format, e);
	if (r)
		return r;
	/* A file that cannot be made is said before a VM is on its way. */
	a.sink = gw_sink_file(format, path, &o, e);
	if (!a.sink)
		return -e->code;
	r = accept_loop(op, &a, uri, listening, e);
	gw_sink_close(a.sink);
	return r;
}

int godwit_restore(struct godwit_op *op, const char *path,
		   struct godwit_error *err)
{
	struct gw_error local, *e = err ? (struct gw_error *)err : &local;
	struct gw_restore_config c = { .vm = op->vm,
				       .path = path,
				       .params = &op->params,
				       .cancel = &op->cancel,
				       .progress = &op->progress };

	snprintf(op->vm->peer, sizeof(op->vm->peer), "file:%.150s", path);
	return gw_restore_run(&c, e);
}
