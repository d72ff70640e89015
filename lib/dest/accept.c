/* SPDX-License-Identifier: BSD-3-Clause */
/* accept.c - see accept.h. */
#include "dest/accept.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "dest/dest.h"
#include "dest/join.h"
#include "dest/refuse.h"
#include "dest/stream_in.h"
#include "dest/vm_sink.h"
#include "wire/multifd.h"

#define GW_LOG_MODULE "dest"
#include "base/log.h"

static int run_stream(struct gw_accept *a, struct gw_chan *chan,
		      struct gw_reader *in, struct gw_join *join,
		      struct gw_error *err)
{
	struct gw_sink_vm_options o = { .paused = a->params->paused };
	struct gw_stream_in_config c = { .sink = a->sink,
					 .name = a->path,
					 .chan = chan,
					 .in = in,
					 .join = join,
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

/* A godwit source hands a VM over to one that runs it. */
static int refuse_godwit(struct gw_accept *a, struct gw_chan *chan,
			 struct gw_reader *in, struct gw_error *err)
{
	struct gw_error why;
	bool probe;
	int r;

	gw_fail_as(&why, GW_FAULT_REFUSED, ENOTSUP,
		   "a godwit source cannot be stored in '%s': use 'godwit save' there, or 'godwit migrate --to-qemu' to here",
		   a->path);
	r = gw_refuse(chan, in, "a file", "(a file, no VM)", &why, &probe,
		      err);
	if (r || probe)
		return r ? r : -EAGAIN;
	*err = why;
	return -why.code;
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

/* --- the first bytes ----------------------------------------------------- */

#define LOOK 4u

/* Not one byte more: what follows may be read by somebody else. Return: how
 * many came; fewer: the end, or @err. */
static size_t look(struct gw_accept *a, struct gw_chan *chan,
		   uint8_t first[LOOK], struct gw_error *err)
{
	size_t have = 0;

	chan->cancel = a->cancel;
	chan->read_timeout_ms = a->params->idle_timeout_ns / GW_NS_PER_MS;
	while (have < LOOK) {
		struct iovec iov = { first + have, LOOK - have };
		ssize_t n = gw_chan_readv(chan, &iov, 1, err);

		if (n <= 0)
			break;
		have += (size_t)n;
	}
	return have;
}

/* Who it is that said so. */
static int run_main(struct gw_accept *a, struct gw_chan *chan,
		    const uint8_t *first, size_t have, struct gw_join *join,
		    const struct gw_error *why, struct gw_error *err)
{
	struct gw_reader in;
	int r;

	if (!have && !why->code && gw_listener_again(a->listener)) {
		gw_info("%s closed without a word", chan->peer);
		return -EAGAIN;
	}
	r = gw_reader_init(&in, gw_chan_refill, chan, GW_DEST_READ_BUFFER, err);
	if (r)
		return r;
	memcpy(in.buf, first, have);
	in.end = have;
	in.err = *why;
	if (a->vm)
		snprintf(a->vm->peer, sizeof(a->vm->peer), "%s", chan->peer);
	if (have == LOOK && !memcmp(first, "QEVM", LOOK))
		r = run_stream(a, chan, &in, join, err);
	else /* also what nobody knows: it finds the words for that */
		r = run_godwit(a, chan, &in, err);
	gw_reader_fini(&in);
	return r;
}

/* A channel came before its main connection: keep it, wait for the next one.
 * NULL with @err, also when that does not come. */
static struct gw_chan *next(struct gw_accept *a, struct gw_join *join,
			    struct gw_chan *chan, const uint8_t *first,
			    struct gw_error *err)
{
	int64_t ms = a->params->connect_timeout_ns / GW_NS_PER_MS;
	struct gw_error why = { 0 };

	if (gw_join_take(join, chan, first, LOOK, ms, &why)) {
		gw_info("not one of ours: %s", why.msg);
		gw_chan_close(chan);
	}
	chan = gw_listener_accept(a->listener, ms, a->cancel, err);
	if (!chan)
		gw_error_prefix(err,
				"%u connections of multifd came, but not the main one",
				join->joined);
	return chan;
}

int gw_accept_run(struct gw_accept *a, struct gw_chan *chan,
		  struct gw_error *err)
{
	struct gw_join join = { .listener = a->listener,
				.n = GW_HELLO_MAX_CONNECTIONS,
				.cancel = a->cancel };
	int r = -1;

	while (chan && r == -1) {
		struct gw_error why = { 0 };
		uint8_t first[LOOK] = { 0 };
		size_t have = look(a, chan, first, &why);

		if (have == LOOK && gw_get_be32(first) == GW_MULTIFD_MAGIC &&
		    gw_listener_again(a->listener)) {
			chan = next(a, &join, chan, first, err);
			continue;
		}
		r = run_main(a, chan, first, have, &join, &why, err);
		gw_chan_close(chan);
	}
	gw_join_close(&join);
	return chan ? r : -err->code;
}
