/* SPDX-License-Identifier: BSD-3-Clause */
/* stream_in.c - see stream_in.h: from the connection into the sink. What the
 * two sides say to each other is in stream_rp.c. */
#include "dest/stream_in.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "dest/stream_rp.h"
#include "wire/multifd.h"
#include "wire/vmdesc.h"

#define GW_LOG_MODULE "dest"
#include "base/log.h"

/* --- channels ------------------------------------------------------------ */

static bool is_multifd(struct gw_chan *c)
{
	uint8_t magic[4];
	struct gw_error ignored;
	struct iovec iov = { magic, sizeof(magic) };

	c->read_timeout_ms = 200;
	return gw_chan_readv(c, &iov, 1, &ignored) == sizeof(magic) &&
	       gw_get_be32(magic) == GW_MULTIFD_MAGIC;
}

/*
 * The first sync is here, if there are channels at all: the source has said it
 * on all of them. So all have come, or are on their way.
 */
static int join_channels(struct gw_stream_in *x, bool flush,
			 struct gw_error *err)
{
	int64_t ms = x->c.params->connect_timeout_ns / GW_NS_PER_MS;
	unsigned int n = x->c.params->channels;
	struct gw_join *j = x->c.join;
	int r = 0;

	x->joined = true;
	x->per_round = flush;
	if (!j || !j->listener || !gw_listener_again(j->listener))
		return 0;
	r = gw_join_rest(j, n ? n : flush, ms, err);
	if (!r && n && j->n != n)
		r = gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			       "the source has %u channels of multifd, --channels here says %u",
			       j->n, n);
	if (r || !j->n)
		return r;
	gw_info("%u channels, a sync at %s", j->n,
		flush ? "each round" : "the end of each section");
	return gw_channels_start(&x->channels, j->chan, j->n, err);
}

static int flush(struct gw_stream_in *x, struct gw_error *err);

/* All stand: what came up to here is a pass. */
static int sync_channels(struct gw_stream_in *x, enum gw_item item,
			 struct gw_error *err)
{
	struct gw_sink *s = x->c.sink;
	int r = flush(x, err);

	if (!r)
		r = gw_channels_hold(&x->channels, err);
	gw_channels_count(&x->channels);
	if (!r && (item != GW_ITEM_SECTION_START || x->now->normal))
		r = s->ops->pass(s, false, err);
	if (!r)
		gw_channels_release(&x->channels);
	return r;
}

static int flush_record(struct gw_stream_in *x, enum gw_item item,
			struct gw_error *err)
{
	int r;

	if (!x->begun)
		return 0; /* the end of the section finds the words */
	r = x->joined ? 0 : join_channels(x, true, err);
	if (r)
		return r;
	if (x->channels.n && x->per_round)
		return sync_channels(x, item, err);
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  x->channels.n ?
				  "a FLUSH record, though there was none in the first section" :
				  "the source has capability multifd and sends its pages on connections of their own, which cannot come here: switch multifd off there");
}

/* RAM is complete: nobody may come any more. */
static int end_channels(struct gw_stream_in *x, struct gw_error *err)
{
	struct gw_error none;
	struct gw_join *j = x->c.join;
	int r = gw_channels_finish(&x->channels, err);

	gw_channels_stop(&x->channels);
	while (!r && j && j->listener && gw_listener_again(j->listener)) {
		struct gw_chan *c = gw_listener_accept(j->listener, 0,
						       x->c.cancel, &none);

		if (!c)
			break;
		r = is_multifd(c) ?
			    gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				       "another connection of multifd, from %s, comes when RAM is complete",
				       c->peer) :
			    0;
		if (!r)
			gw_warn("another connection, from %s, is closed",
				c->peer);
		gw_chan_close(c);
	}
	return r;
}

/* --- setup -------------------------------------------------------------- */

static int refuse_config(struct gw_stream_in *x, struct gw_error *err)
{
	const struct gw_configuration *c = &x->s.config;

	if (c->mapped_ram)
		return gw_fail_as(err, GW_FAULT_REFUSED, ENOTSUP,
				  "this is a mapped-ram file, whose pages have fixed places: 'godwit restore' reads it");
	/* A VM finds out what did not come; of a file nobody would know. */
	if (c->ignore_shared && !x->c.sink->runs_it)
		return gw_fail_as(err, GW_FAULT_REFUSED, ENOTSUP,
				  "the source has capability x-ignore-shared, which leaves shared RAM out: switch it off there");
	gw_info("source is a plain QEMU, machine '%s'", c->machine);
	return 0;
}

/* The stream itself is an ordinary one, but its primary goes on behind it, in a
 * way that is not godwit's, and would wait for answers to that. */
static int refuse_colo(struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_REFUSED, ENOTSUP,
			  "the source has capability x-colo: it is the primary of QEMU's own COLO, whose checkpoints are not godwit's; switch x-colo off there, or protect its VM with 'godwit protect'");
}

static int begin(struct gw_stream_in *x, struct gw_error *err)
{
	int r;

	x->desc.config = x->s.config;
	x->desc.table = x->s.ram.table;
	x->now->total = x->desc.table.total;
	x->begun = true;
	gw_place_sink_init(&x->place, &x->desc.table, x->c.sink);
	r = x->c.sink->ops->begin(x->c.sink, &x->desc, err);
	if (r)
		return r;
	x->now->setup_ns = gw_now_ns() - x->c.progress->started_ns;
	gw_progress_status(x->c.progress, GODWIT_STATUS_ACTIVE);
	return 0;
}

/* --- pages -------------------------------------------------------------- */

/* One of the two batches is empty at any time: the order of pages is kept. */
static int flush(struct gw_stream_in *x, struct gw_error *err)
{
	struct gw_place *p = &x->place.base;
	uint64_t n = x->nbatch;

	x->nbatch = 0;
	if (!n)
		return 0;
	return x->batch_zero ? p->ops->zeros(p, x->batch_block, x->batch_first,
					     n, err) :
			       p->ops->pages(p, x->batch_block, x->batch_first,
					     (uint32_t)n, x->batch, err);
}

/* Make room for page @page of @block behind those of its kind. */
static int join(struct gw_stream_in *x, bool zero, int block, uint64_t page,
		struct gw_error *err)
{
	int r = 0;

	if (x->batch_zero != zero || x->batch_block != block ||
	    x->batch_first + x->nbatch != page ||
	    (!zero && x->nbatch == GW_STREAM_IN_BATCH))
		r = flush(x, err);
	if (r)
		return r;
	if (!x->nbatch) {
		x->batch_zero = zero;
		x->batch_block = block;
		x->batch_first = page;
	}
	x->nbatch++;
	return 0;
}

static int page(struct gw_stream_in *x, const struct gw_stream_event *ev,
		struct gw_error *err)
{
	int r = join(x, false, ev->block, ev->addr >> GW_PAGE_BITS, err);

	x->now->normal++;
	if (r)
		return r;
	gw_read_bytes(x->c.in, x->batch + (x->nbatch - 1) * GW_PAGE_SIZE,
		      GW_PAGE_SIZE);
	return gw_read_check(x->c.in, err);
}

static int delta(struct gw_stream_in *x, const struct gw_stream_event *ev,
		 struct gw_error *err)
{
	int r = flush(x, err);

	x->now->normal++;
	return r ? r :
		   gw_place_sink_delta(&x->place, ev->block,
				       ev->addr >> GW_PAGE_BITS, ev->delta,
				       ev->delta_len, err);
}

/* --- between the pages -------------------------------------------------- */

/* The records of a section end. */
static int eos(struct gw_stream_in *x, enum gw_item item, struct gw_error *err)
{
	int r;

	if (!x->begun)
		return 0;
	r = flush(x, err);
	if (!r && !x->joined)
		r = join_channels(x, false, err);
	if (!r && x->channels.n && !x->per_round)
		r = sync_channels(x, item, err);
	return r;
}

static int section_end(struct gw_stream_in *x, enum gw_item item,
		       struct gw_error *err)
{
	bool first = item == GW_ITEM_SECTION_START;
	struct gw_sink *s = x->c.sink;
	int r = s->ops->check ? s->ops->check(s, err) : 0;

	x->last_pass = item == GW_ITEM_SECTION_END;
	if (!r && x->last_pass)
		r = end_channels(x, err);
	/* With channels it was a pass at their sync. */
	if (!r && (x->last_pass ||
		   (!x->channels.n && (!first || x->now->normal))))
		r = s->ops->pass(s, x->last_pass, err);
	return r;
}

static int event(struct gw_stream_in *x, const struct gw_stream_event *ev,
		 struct gw_error *err)
{
	switch (ev->kind) {
	case GW_STREAM_CONFIG:
		return refuse_config(x, err);
	case GW_STREAM_COMMAND:
		return ev->command.id == GW_CMD_ENABLE_COLO ?
			       refuse_colo(err) :
			       gw_stream_rp_command(x, &ev->command, err);
	case GW_STREAM_TABLE:
		return begin(x, err);
	case GW_STREAM_PAGE:
		return page(x, ev, err);
	case GW_STREAM_ZERO:
		x->now->duplicate++;
		return join(x, true, ev->block, ev->addr >> GW_PAGE_BITS, err);
	case GW_STREAM_DELTA:
		return delta(x, ev, err);
	case GW_STREAM_FLUSH:
		return flush_record(x, ev->item, err);
	case GW_STREAM_EOS:
		return eos(x, ev->item, err);
	case GW_STREAM_SECTION_END:
		return section_end(x, ev->item, err);
	case GW_STREAM_SECTION:
	case GW_STREAM_TAIL:
		break;
	}
	return 0;
}

static int receive_ram(struct gw_stream_in *x, struct gw_error *err)
{
	struct gw_stream_event *ev = &x->ev;
	unsigned int n = 0;
	int r = 0;

	ev->kind = GW_STREAM_CONFIG;
	while (!r && ev->kind != GW_STREAM_TAIL) {
		if (gw_stream_next(&x->s, ev))
			return gw_read_check(x->c.in, err);
		r = event(x, ev, err);
		gw_channels_count(&x->channels);
		gw_progress_tick(x->c.progress);
		if (!r && ++n % 1024 == 0 && gw_cancel_requested(x->c.cancel))
			r = gw_cancel_fail(err);
	}
	if (!r && !x->begun)
		r = gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			       "the device state comes without any RAM");
	if (!r && !x->last_pass) /* background-snapshot has no END */
		r = end_channels(x, err);
	if (!r && !x->last_pass)
		r = x->c.sink->ops->pass(x->c.sink, true, err);
	return r;
}

/* --- device state ------------------------------------------------------- */

/* footer(5) COMMAND(1) PING(2) length(2) value(4) */
#define PING_SIZE 9u

/*
 * Does what came end with a PING behind a whole device section? Who asks waits
 * for the answer, so nothing follows it. The sections so far have to make sense
 * without a description; a wrong guess shows when more of them come.
 */
static int answer(struct gw_stream_in *x, struct gw_error *err)
{
	static const uint8_t head[] = { GW_ITEM_COMMAND, 0, GW_CMD_PING, 0, 4 };
	struct gw_devstream *d = &x->tail;
	struct gw_tail t = { 0 };
	const uint8_t *p = d->buf + d->len - PING_SIZE;
	int r;

	if (!x->s.return_path || d->complete || d->len < 5 + PING_SIZE ||
	    memcmp(p, head, sizeof(head)) || p[-5] != GW_ITEM_SECTION_FOOTER)
		return 0;
	r = gw_tail_scan(&t, d->buf, d->len - PING_SIZE, NULL);
	gw_tail_fini(&t);
	if (r)
		return 0;
	d->len -= PING_SIZE; /* it is no part of the state */
	if (d->search > d->len)
		d->search = d->len;
	return gw_stream_rp_asked(x, d->len, gw_get_be32(p + sizeof(head)),
				  err);
}

/*
 * Up to its end, which is found by the closing description: the source may
 * keep the connection open. A source that writes none has to close.
 */
static int collect_tail(struct gw_stream_in *x, struct gw_error *err)
{
	struct gw_reader *in = x->c.in;

	while (!x->tail.complete) {
		const uint8_t *p;
		size_t n;
		int r;

		if (!gw_read_more(in))
			return gw_read_check(in, err);
		n = in->end - in->pos;
		p = gw_read_peek(in, n);
		r = p ? gw_devstream_feed(&x->tail, p, n, err) : -EPROTO;
		if (r)
			return r;
		gw_read_skip(in, n);
		gw_channels_count(&x->channels);
		r = answer(x, err);
		if (r)
			return r;
		x->now->device_bytes = x->tail.len;
	}
	return 0;
}

static int receive_device(struct gw_stream_in *x, struct gw_error *err)
{
	struct gw_sink *s = x->c.sink;
	const char *json = NULL;
	size_t eof = 0, json_len = 0;
	int r;

	gw_progress_status(x->c.progress, GODWIT_STATUS_DEVICE);
	gw_devstream_init_tail(&x->tail);
	r = collect_tail(x, err);
	if (r)
		return r;
	r = gw_tail_find_end(x->tail.buf, x->tail.len, &eof, &json, &json_len,
			     err);
	if (r) { /* the connection ended: that is not bad input */
		gw_error_prefix(err,
				"lost the source %s: the device state (%zu bytes) has no end",
				x->c.chan->peer, x->tail.len);
		err->fault = GW_FAULT_FAILED;
		return r;
	}
	x->whole = true;
	if (x->ready_at)
		return x->ready_at == eof ?
			       0 :
			       gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
					  "%zu bytes of device state come after the source had asked whether all of it is loaded",
					  eof - x->ready_at);
	return s->ops->device(s, x->tail.buf, eof, json, json_len, err);
}

/* --- the whole ---------------------------------------------------------- */

static void free_stream_in(struct gw_stream_in *x)
{
	x->c.in->refill = NULL; /* it was this one's */
	if (x->begun)
		gw_place_sink_fini(&x->place);
	gw_devstream_fini(&x->tail);
	free(x->batch);
	free(x);
}

static struct gw_stream_in *new_stream_in(const struct gw_stream_in_config *c)
{
	struct gw_stream_in *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->c = *c;
	x->now = &c->progress->now;
	x->batch = malloc((size_t)GW_STREAM_IN_BATCH * GW_PAGE_SIZE);
	if (!x->batch) {
		free(x);
		return NULL;
	}
	gw_stream_init(&x->s, c->in, 0);
	c->in->refill = gw_channels_refill;
	c->in->arg = &x->channels;
	x->channels.main = c->chan;
	x->channels.place = &x->place.base;
	x->channels.progress = c->progress;
	x->channels.cancel = c->cancel;
	x->channels.idle_ms = c->params->idle_timeout_ns / GW_NS_PER_MS;
	x->channels.numbered = true;
	gw_writer_init(&x->out, gw_chan_flush, c->chan);
	c->chan->cancel = c->cancel;
	c->chan->read_timeout_ms = c->chan->write_timeout_ms =
		c->params->idle_timeout_ns / GW_NS_PER_MS;
	return x;
}

int gw_stream_in_run(const struct gw_stream_in_config *c, struct gw_error *err)
{
	struct gw_error local = { 0 };
	struct gw_stream_in *x = new_stream_in(c);
	int r;

	if (!err)
		err = &local;
	if (!x) {
		gw_sink_close(c->sink);
		return gw_fail(err, ENOMEM, "no memory to receive a migration");
	}
	gw_progress_status(c->progress, GODWIT_STATUS_SETUP);
	r = receive_ram(x, err);
	if (!r)
		r = receive_device(x, err);
	if (!r)
		r = gw_stream_rp_hand_over(x, err);
	gw_channels_stop(&x->channels);
	gw_channels_count(&x->channels);
	if (r)
		gw_stream_rp_fail(x, err);
	else
		gw_sink_close(x->c.sink);
	gw_progress_status(c->progress,
			   !r ? GODWIT_STATUS_COMPLETED :
			   err->fault == GW_FAULT_CANCELLED ?
				GODWIT_STATUS_CANCELLED :
				GODWIT_STATUS_FAILED);
	free_stream_in(x);
	return r ? -err->code : 0;
}
