/* SPDX-License-Identifier: BSD-3-Clause */
/* accept.c - see accept.h. */
#include "dest/accept.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "dest/dest.h"
#include "dest/stream_in.h"
#include "dest/vm_sink.h"
#include "wire/hello.h"
#include "wire/record.h"

#define GW_LOG_MODULE "dest"
#include "base/log.h"

#define GOODBYE_MS 3000

static int run_stream(struct gw_accept *a, struct gw_chan *chan,
		      struct gw_reader *in, struct gw_error *err)
{
	struct gw_sink_vm_options o = { .paused = a->params->paused };
	struct gw_stream_in_config c = { .sink = a->sink,
					 .name = a->path,
					 .chan = chan,
					 .in = in,
					 .listener = a->listener,
					 .params = a->params,
					 .cancel = a->cancel,
					 .progress = a->progress };

	a->sink = NULL;
	if (a->vm) {
		c.name = a->vm->info.name;
		c.sink = gw_sink_vm(a->vm, &o, err);
	}
	return c.sink ? gw_stream_in_run(&c, err) : -err->code;
}

/*
 * A godwit source hands a VM over to one that runs it. Answer as one that
 * fits, so that it reads the reason; `check` gets it as a difference.
 */
static int refuse_godwit(struct gw_accept *a, struct gw_chan *chan,
			 struct gw_reader *in, struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(GOODBYE_MS);
	struct gw_error ignored;
	struct gw_writer out;
	struct gw_hello h;
	struct iovec iov;
	bool probe;

	if (gw_hello_get(in, &h))
		return gw_read_check(in, err);
	probe = h.probe;
	h.source = h.probe = false;
	h.required = 0;
	snprintf(h.name, sizeof(h.name), "a file");
	snprintf(h.godwit, sizeof(h.godwit), "%s", GW_VERSION);
	if (probe)
		snprintf(h.machine, sizeof(h.machine), "(a file, no VM)");
	gw_fail_as(err, GW_FAULT_REFUSED, ENOTSUP,
		   "a godwit source cannot be stored in '%s': use 'godwit save' there, or 'godwit migrate --to-qemu' to here",
		   a->path);
	gw_writer_init(&out, gw_chan_flush, chan);
	chan->read_timeout_ms = chan->write_timeout_ms = 1000;
	if (!gw_hello_put(&out, &h, &ignored) && !probe) {
		gw_record_put_error(&out, err, true);
		if (!gw_write_flush(&out, &ignored) &&
		    !gw_chan_shutdown_write(chan, &ignored)) {
			iov = (struct iovec){ in->buf, in->cap };
			while (gw_deadline_left_ms(deadline) > 0 &&
			       gw_chan_readv(chan, &iov, 1, &ignored) > 0)
				;
		}
	}
	gw_hello_fini(&h);
	return probe ? -EAGAIN : -err->code;
}

static int run_godwit(struct gw_accept *a, struct gw_chan *chan,
		      struct gw_reader *in, struct gw_error *err)
{
	struct gw_dest_config c = { .vm = a->vm,
				    .chan = chan,
				    .listener = a->listener,
				    .params = a->params,
				    .cancel = a->cancel,
				    .progress = a->progress,
				    .in = in };

	return a->vm ? gw_dest_run(&c, err) : refuse_godwit(a, chan, in, err);
}

int gw_accept_run(struct gw_accept *a, struct gw_chan *chan,
		  struct gw_error *err)
{
	struct gw_reader in;
	const uint8_t *p;
	int r = gw_reader_init(&in, gw_chan_refill, chan, GW_DEST_READ_BUFFER,
			       err);

	if (r)
		return r;
	chan->cancel = a->cancel;
	chan->read_timeout_ms = a->params->idle_timeout_ns / GW_NS_PER_MS;
	p = gw_read_peek(&in, 4);
	if (!p && in.err.code == ECONNRESET && in.pos == in.end &&
	    gw_listener_again(a->listener)) {
		gw_info("%s closed without a word", chan->peer);
		r = -EAGAIN;
	} else if (p && !memcmp(p, "QEVM", 4)) {
		r = run_stream(a, chan, &in, err);
	} else {
		/* Also what nobody knows: it finds the words for that. */
		r = run_godwit(a, chan, &in, err);
	}
	gw_reader_fini(&in);
	return r;
}
