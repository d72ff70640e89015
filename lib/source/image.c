/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * image.c - the VM goes into a sink: a file, or a plain QEMU. A whole image is
 * composed of what godwit tracks (the shared RAM) and of what QEMU says itself
 * in its x-ignore-shared stream: the other blocks (ROMs, tables, video memory)
 * and the device state, which are carried unread
 * (docs/internals/stream.md, "Composing").
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/pause.h"
#include "base/scope.h"
#include "base/trace.h"
#include "page/zero.h"
#include "source/sender.h"
#include "source/workers.h"
#include "wire/stream.h"
#include "wire/vmdesc.h"

#define LARGEST_TASK 256u /* pages written at once: 1 MiB */

struct gw_image_source {
	struct gw_image_desc desc;
	int of_ram[GW_RAM_MAX_BLOCKS]; /* vm->ram's index -> the table's */
	bool shared[GW_MAX_TABLE_BLOCKS];
	struct gw_workers workers;
	uint64_t normal, duplicate; /* atomic: what they wrote */
	unsigned int synced; /* of the sink's syncs */
	/* QEMU's own stream */
	uint8_t *device;
	size_t device_len, device_cap;
};

static uint64_t nbytes(struct gw_source *s)
{
	return gw_sink_nbytes(s->c.sink) + gw_senders_nbytes(s->senders);
}

static int check(struct gw_source *s, struct gw_error *err)
{
	struct gw_sink *sink = s->c.sink;

	if (gw_cancel_requested(s->c.cancel))
		return gw_cancel_fail(err);
	return sink->ops->check ? sink->ops->check(sink, err) : 0;
}

/* A channel broke: what does the sink know? Return: -errno of @err. */
static int lost(struct gw_source *s, struct gw_error *err)
{
	struct gw_error why = { 0 };

	if (s->senders && (err->code == EPIPE || err->code == ECONNRESET) &&
	    check(s, &why))
		*err = why;
	return -err->code;
}

/* --- setup ---------------------------------------------------------------- */

static int bind_blocks(struct gw_source *s, struct gw_error *err)
{
	struct gw_image_source *im = s->image;
	struct gw_ram *ram = &s->c.vm->ram;

	for (int i = 0; i < ram->nblocks; i++) {
		const struct gw_ramblock *b = &ram->block[i];
		int t = gw_ram_table_find(&im->desc.table, b->idstr);

		if (t < 0 ||
		    im->desc.table.entry[t].used_length != b->used_length)
			return gw_fail(err, EPROTO,
				       "the VM's RAM block '%s' of %llu bytes is not what QEMU says it migrates",
				       b->idstr,
				       (unsigned long long)b->used_length);
		im->of_ram[i] = t;
		im->shared[t] = true;
	}
	return 0;
}

static int setup(struct gw_source *s, struct gw_error *err)
{
	struct gw_image_desc *d = &s->image->desc;
	int r = s->c.vm->ops->describe(s->c.vm, d, err);

	if (r)
		return r;
	if (s->c.params->xbzrle && !s->c.sink->ops->delta)
		return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				  "xbzrle: a sink '%s' takes whole pages only",
				  s->c.sink->ops->name);
	d->config.ignore_shared = d->config.mapped_ram = false;
	s->now->total = d->table.total;
	return bind_blocks(s, err);
}

/* A worker's task: into the sink, run by run. */
static int write_task(void *arg, unsigned int i, const struct gw_task *t,
		      struct gw_error *err)
{
	struct gw_source *s = arg;
	struct gw_image_source *im = s->image;
	const uint8_t *host = s->c.vm->ram.block[t->block].host;
	uint64_t normal = 0, duplicate = 0;
	int r = 0;

	for (uint32_t k = 0; k < t->nruns && !r; k++)
		r = gw_sink_write(s->c.sink, im->of_ram[t->block],
				  t->run[k].first, t->run[k].n,
				  host + (t->run[k].first << GW_PAGE_BITS),
				  &normal, &duplicate, err);
	__atomic_fetch_add(&im->normal, normal, __ATOMIC_RELAXED);
	__atomic_fetch_add(&im->duplicate, duplicate, __ATOMIC_RELAXED);
	return r;
}

static int tick(void *arg, struct gw_error *err)
{
	struct gw_source *s = arg;
	struct gw_image_source *im = s->image;

	s->now->normal += __atomic_exchange_n(&im->normal, 0, __ATOMIC_RELAXED);
	s->now->duplicate +=
		__atomic_exchange_n(&im->duplicate, 0, __ATOMIC_RELAXED);
	return gw_source_tick(s, err);
}

static int start_workers(struct gw_source *s, struct gw_error *err)
{
	static const struct gw_worker_ops ops = { .thread = "gw-write",
						  .task = write_task,
						  .tick = tick };
	unsigned int n = gw_sink_threads(s->c.params->channels);

	if (!s->c.sink->parallel || n < 2)
		n = 0;
	return gw_workers_start(&s->image->workers, &ops, s, n, LARGEST_TASK,
				GW_WORKERS_QUEUE, err);
}

/* The receiver waits for a SYNC of every channel wherever the sink said so. */
static int sync_channels(struct gw_source *s, struct gw_error *err)
{
	int r = 0;

	for (; !r && s->image->synced < s->c.sink->syncs; s->image->synced++)
		r = gw_senders_sync(s, err);
	return r;
}

static int start_channels(struct gw_source *s, struct gw_error *err)
{
	const struct godwit_params *p = s->c.params;
	struct gw_senders_plan plan = { .n = gw_source_channels(p),
					.session = s->c.vm->info.uuid,
					.level = p->compress_level,
					.encode = s->c.sink->channel_zeros };
	int r;

	if (strcmp(p->compress, "none"))
		plan.method = p->compress;
	r = gw_senders_start(s, &plan, err);
	return r ? r : sync_channels(s, err);
}

static int begin(struct gw_source *s, struct gw_error *err)
{
	struct gw_sink *sink = s->c.sink;
	int r = sink->ops->begin(sink, &s->image->desc, err);

	if (r)
		return r;
	return sink->channels ? start_channels(s, err) : start_workers(s, err);
}

/* --- pages ---------------------------------------------------------------- */

/* Once there is something to compare with: page by page, in this thread. */
static int encoded(struct gw_source *s, int block, uint64_t page,
		   struct gw_error *err)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
	uint8_t copy[GW_PAGE_SIZE], delta[GW_PAGE_SIZE];
	struct gw_sink *sink = s->c.sink;
	int t = s->image->of_ram[block], len;

	switch (gw_encode_page(&s->encode, block, page,
			       b->host + (page << GW_PAGE_BITS), copy, delta,
			       &len)) {
	case GW_ENCODED_SAME:
		return 0;
	case GW_ENCODED_ZERO:
		s->now->duplicate++;
		return sink->ops->zeros(sink, t, page, 1, err);
	case GW_ENCODED_DELTA:
		return sink->ops->delta(sink, t, page, delta, (uint16_t)len,
					err);
	default:
		s->now->normal++;
		return sink->ops->pages(sink, t, page, 1, copy, err);
	}
}

static int encoded_pages(struct gw_source *s, int block, uint64_t first,
			 uint32_t n, struct gw_error *err)
{
	int64_t t0 = gw_now_ns();
	int r = 0;

	for (uint32_t i = 0; i < n && !r; i++)
		r = encoded(s, block, first + i, err);
	return r ? r : gw_source_moved(s, t0, err);
}

/*
 * On channels to a plain QEMU. One that cannot have zero pages in packets gets
 * them as records, and they are looked for here.
 */
static int channel_pages(struct gw_source *s, int block, uint64_t first,
			 uint32_t n, struct gw_error *err)
{
	const uint8_t *host = s->c.vm->ram.block[block].host;
	struct gw_sink *sink = s->c.sink;
	int r = 0;

	if (sink->channel_zeros)
		return gw_senders_add(s, block, first, n, false, err);
	for (uint64_t page = first; page < first + n && !r; page++) {
		if (!gw_page_is_zero(host + (page << GW_PAGE_BITS))) {
			r = gw_senders_add(s, block, page, 1, false, err);
			continue;
		}
		r = sink->ops->zeros(sink, s->image->of_ram[block], page, 1,
				     err);
		s->now->duplicate++;
	}
	return r;
}

static int pages(struct gw_source *s, int block, uint64_t first, uint32_t n,
		 struct gw_error *err)
{
	int r;

	if (s->encode.active)
		return encoded_pages(s, block, first, n, err);
	/* Also those that turn out zero: then they are looked at in vain. */
	gw_bitmap_set_range(&s->fresh[block], first, n);
	r = s->senders ? channel_pages(s, block, first, n, err) :
			 gw_workers_add(&s->image->workers, block, first, n,
					false, err);
	gw_pause_at(GW_PAUSE_SOURCE_BULK);
	return r ? lost(s, err) : 0;
}

/* All that was given to threads is written, but for a sync of channels. */
static int drain(struct gw_source *s, struct gw_error *err)
{
	int r = s->senders ? 0 : gw_workers_drain(&s->image->workers, err);

	return r ? r : tick(s, err);
}

static int zeros(struct gw_source *s, int block, uint64_t first, uint64_t n,
		 struct gw_error *err)
{
	struct gw_sink *sink = s->c.sink;
	/* The same page may be on its way. On channels it is not: it would be
	 * in this pass only once. */
	int r = drain(s, err);

	if (!r)
		r = sink->ops->zeros(sink, s->image->of_ram[block], first, n,
				     err);
	s->now->duplicate += n;
	return r;
}

/* In steps, so that limit, peer and Ctrl-C are looked at. */
static int hole(struct gw_source *s, int block, uint64_t first, uint64_t n,
		struct gw_error *err)
{
	struct gw_sink *sink = s->c.sink;
	int t = s->image->of_ram[block], r = 0;

	if (sink->keeps_holes && gw_image_is_ram(&s->image->desc, t))
		return 0;
	while (n && !r) {
		uint64_t step = n < 16384 ? n : 16384;
		int64_t t0 = gw_now_ns();

		r = sink->ops->zeros(sink, t, first, step, err);
		if (!r)
			r = gw_source_moved(s, t0, err);
		first += step;
		n -= step;
	}
	return r;
}

static int extents(struct gw_source *s, int block, const struct gw_extent *e,
		   uint32_t n, struct gw_error *err)
{
	return 0;
}

static int pass_begin(struct gw_source *s, bool last, struct gw_error *err)
{
	return 0;
}

/* What this pass wrote is written, and said to be. */
static int end_pass(struct gw_source *s, bool last, struct gw_error *err)
{
	struct gw_sink *sink = s->c.sink;
	int r = sink->ops->pass(sink, last, err);

	if (!r && s->senders)
		r = sync_channels(s, err);
	return r ? lost(s, err) : 0;
}

/* The last one ends when QEMU's own pages are in: put_device(). */
static int pass_end(struct gw_source *s, bool last, struct gw_error *err)
{
	int r = drain(s, err);

	if (!r && !last)
		r = end_pass(s, false, err);
	return r ? r : tick(s, err);
}

/* --- QEMU's own stream ---------------------------------------------------- */

static int device(void *arg, const void *p, size_t len, struct gw_error *err)
{
	struct gw_source *s = arg;
	struct gw_image_source *im = s->image;

	if (im->device_len + len > im->device_cap) {
		size_t cap = (im->device_len + len) * 2;
		void *n = realloc(im->device, cap);

		if (!n)
			return gw_fail(err, ENOMEM,
				       "no memory for %zu bytes of device state",
				       cap);
		im->device = n;
		im->device_cap = cap;
	}
	memcpy(im->device + im->device_len, p, len);
	im->device_len += len;
	s->now->device_bytes = im->device_len;
	return 0;
}

static int same_table(const struct gw_ram_table *was,
		      const struct gw_ram_table *is, struct gw_error *err)
{
	for (int i = 0; i < was->n && i < is->n; i++) {
		const struct gw_ram_entry *a = &was->entry[i];
		const struct gw_ram_entry *b = &is->entry[i];

		if (strcmp(a->idstr, b->idstr) ||
		    a->used_length != b->used_length)
			return gw_fail(
				err, EBUSY,
				"RAM block '%s' of %llu bytes became '%s' of %llu bytes meanwhile (memory was plugged in, or the firmware resized a table): try again",
				a->idstr, (unsigned long long)a->used_length,
				b->idstr, (unsigned long long)b->used_length);
	}
	if (was->n != is->n)
		return gw_fail(err, EBUSY,
			       "the VM has %d RAM blocks now and had %d before (memory was plugged in): try again",
			       is->n, was->n);
	return 0;
}

static int own_page(struct gw_source *s, struct gw_stream *in,
		    const struct gw_stream_event *ev, struct gw_error *err)
{
	struct gw_sink *sink = s->c.sink;
	const uint8_t *p = NULL;
	int r;

	if (s->image->shared[ev->block])
		return gw_fail(err, EPROTO,
			       "QEMU sends pages of RAM block '%s' itself, though it is shared",
			       in->ram.table.entry[ev->block].idstr);
	if (ev->kind == GW_STREAM_ZERO) {
		s->now->duplicate++;
		return sink->ops->zeros(sink, ev->block,
					ev->addr >> GW_PAGE_BITS, 1, err);
	}
	p = gw_read_peek(in->r, GW_PAGE_SIZE);
	if (!p)
		return gw_read_check(in->r, err);
	r = sink->ops->pages(sink, ev->block, ev->addr >> GW_PAGE_BITS, 1, p,
			     err);
	gw_read_skip(in->r, GW_PAGE_SIZE);
	s->now->normal++;
	return r;
}

/* Up to the device sections: the pages of the blocks that are not shared. */
static int put_own_pages(struct gw_source *s, struct gw_reader *r,
			 struct gw_error *err)
{
	gw_autofree struct gw_stream *in = malloc(sizeof(*in));
	struct gw_stream_event ev;
	int ret = 0;

	if (!in)
		return gw_fail(err, ENOMEM, "no memory");
	gw_stream_init(in, r, 0);
	do {
		if (gw_stream_next(in, &ev))
			return gw_read_check(r, err);
		if (ev.kind == GW_STREAM_TABLE)
			ret = same_table(&s->image->desc.table,
					 &in->ram.table, err);
		else if (ev.kind == GW_STREAM_PAGE ||
			 ev.kind == GW_STREAM_ZERO)
			ret = own_page(s, in, &ev, err);
		else if (ev.kind == GW_STREAM_DELTA)
			ret = gw_fail(err, EPROTO,
				      "a compressed page in QEMU's own stream");
	} while (!ret && ev.kind != GW_STREAM_TAIL);
	return ret;
}

static int put_device(struct gw_source *s, struct gw_error *err)
{
	struct gw_image_source *im = s->image;
	struct gw_sink *sink = s->c.sink;
	size_t eof, json_len;
	struct gw_reader r;
	const char *json;
	const uint8_t *tail;
	int ret;

	gw_reader_init_mem(&r, im->device, im->device_len);
	ret = put_own_pages(s, &r, err);
	if (!ret)
		ret = end_pass(s, true, err);
	if (ret)
		return ret;
	tail = im->device + r.offset;
	ret = gw_tail_find_end(tail, im->device_len - r.offset, &eof, &json,
			       &json_len, err);
	if (!ret)
		ret = sink->ops->device(sink, tail, eof, json, json_len, err);
	s->now->transferred = nbytes(s);
	return ret;
}

/* --- the end -------------------------------------------------------------- */

/* It is stored; the VM goes on here and need not wait for the disk. */
static int go_on(struct gw_source *s, struct gw_error *err)
{
	struct gw_sink *sink = s->c.sink;
	int r;

	if (s->track)
		gw_track_stop(s->track);
	r = s->c.vm->ops->save_abort(s->c.vm, err);
	s->now->downtime_ns = gw_now_ns() - s->stopped_ns;
	if (!r)
		r = sink->ops->ready(sink, err);
	if (!r)
		r = sink->ops->finish(sink, err);
	s->now->transferred = nbytes(s);
	return r;
}

/* It is stored; the VM here is given up. */
static int give_up(struct gw_source *s, struct gw_error *err)
{
	struct gw_sink *sink = s->c.sink;
	struct gw_vm *vm = s->c.vm;
	int r = sink->ops->ready(sink, err);

	if (!r)
		r = sink->ops->finish(sink, err);
	s->now->transferred = nbytes(s);
	if (!r)
		r = vm->ops->save_commit(vm, err);
	if (r)
		return r;
	vm->ops->save_release(vm);
	vm->ops->save_done(vm);
	return 0;
}

/*
 * Somebody else will run it. Like GO between two godwits: our VMM gives the VM
 * up before the last word is said; after it, nobody guesses.
 */
static int pass_on(struct gw_source *s, struct gw_error *err)
{
	struct gw_sink *sink = s->c.sink;
	struct gw_vm *vm = s->c.vm;
	int r;

	s->complete = true;
	r = sink->ops->ready(sink, err);
	gw_pause_at(GW_PAUSE_SOURCE_READY);
	if (!r)
		r = s->to->check(s, err);
	if (!r)
		r = vm->ops->save_commit(vm, err);
	if (r)
		return r;
	gw_pause_at(GW_PAUSE_SOURCE_COMMITTED);
	r = s->to->check(s, err);
	if (r)
		return r;
	vm->ops->save_release(vm);
	s->go_sent = true;
	GW_TRACE1(go, r);
	r = sink->ops->finish(sink, err);
	s->now->transferred = nbytes(s);
	if (r && err->fault == GW_FAULT_UNCERTAIN)
		return gw_source_uncertain(s, err);
	s->peer_not_here = r; /* it said no: the VM goes on here */
	if (r)
		return r;
	s->now->downtime_ns = gw_now_ns() - s->stopped_ns;
	vm->ops->save_done(vm);
	return 0;
}

static int hand_over(struct gw_source *s, struct gw_error *err)
{
	struct gw_vm *vm = s->c.vm;
	int r = gw_source_last_scan(s, err);

	if (!r)
		r = gw_source_pass_send(s, true, err);
	if (r)
		return r;
	gw_progress_status(s->c.progress, GODWIT_STATUS_DEVICE);
	r = vm->ops->save_read(vm, true, device, s, err);
	if (!r)
		r = put_device(s, err);
	if (r)
		return r;
	gw_pause_at(GW_PAUSE_SOURCE_DEVICE);
	return s->c.sink->runs_it ? pass_on(s, err) :
	       s->c.give_up	  ? give_up(s, err) :
				    go_on(s, err);
}

/* Closing the sink says it. */
static void tell(struct gw_source *s, const struct gw_error *why)
{
}

const struct gw_target_ops gw_target_image = {
	.setup = setup,
	.begin = begin,
	.pass_begin = pass_begin,
	.pages = pages,
	.zeros = zeros,
	.extents = extents,
	.hole = hole,
	.pass_end = pass_end,
	.check = check,
	.device = device,
	.hand_over = hand_over,
	.tell = tell,
	.nbytes = nbytes,
};

int gw_source_image_new(struct gw_source *s, struct gw_error *err)
{
	s->to = &gw_target_image;
	s->image = calloc(1, sizeof(*s->image));
	return s->image ? 0 :
			  gw_fail(err, ENOMEM, "no memory to begin a save");
}

void gw_source_image_free(struct gw_source *s)
{
	if (!s->image)
		return;
	gw_workers_stop(&s->image->workers);
	free(s->image->device);
	free(s->image);
}
