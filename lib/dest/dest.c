/* SPDX-License-Identifier: BSD-3-Clause */
/* dest.c - see dest.h: the state machine. */
#include "dest/dest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pause.h"
#include "dest/internal.h"

static void fill_hello(struct gw_dest *d, struct gw_hello *h)
{
	const struct gw_vm *vm = d->c.vm;

	memset(h, 0, sizeof(*h));
	snprintf(h->name, sizeof(h->name), "%s", vm->info.name);
	snprintf(h->godwit, sizeof(h->godwit), "%s", GW_VERSION);
	snprintf(h->vmm, sizeof(h->vmm), "%s", vm->info.vmm);
	snprintf(h->machine, sizeof(h->machine), "%s", vm->info.machine);
	snprintf(h->arch, sizeof(h->arch), "%s", vm->info.arch);
	memcpy(h->session, d->session, sizeof(h->session));
	h->features = GW_FEATURE_XBZRLE | GW_FEATURE_FILL;
	if (d->c.listener && gw_listener_again(d->c.listener))
		h->features |= GW_FEATURE_MULTIFD | GW_FEATURE_ZLIB |
			       GW_FEATURE_ZSTD;
	/* setup() keeps it, before the first page is read, or the keeper */
	if (d->c.params->skip_zero_pages)
		h->features |= GW_FEATURE_SKIP_ZERO;
	if (d->c.keeper) {
		h->features |= GW_FEATURE_CHECKPOINT;
		h->required = GW_FEATURE_CHECKPOINT;
		h->timeout_ms = d->c.keeper->timeout_ms;
	} else {
		h->features |= GW_FEATURE_VERIFY;
		h->required = d->c.params->verify ? GW_FEATURE_VERIFY : 0;
		if (h->features & GW_FEATURE_MULTIFD && vm->ops->disks)
			h->features |= GW_FEATURE_DISKS;
	}
	h->page_bytes = GW_PAGE_SIZE;
	h->ram = vm->ram; /* described only; never freed through here */
}

/* What the source announced must be what both can do. */
static int check_connections(struct gw_dest *d, const struct gw_hello *theirs,
			     struct gw_error *err)
{
	unsigned int n = theirs->channels + theirs->disks + !!d->keep;

	d->nchannels = theirs->channels;
	d->ndisks = theirs->disks;
	if (n > GW_HELLO_MAX_CONNECTIONS)
		return gw_fail_as(err, GW_FAULT_REFUSED, EMSGSIZE,
				  "the source wants %u further connections, %u are possible",
				  n, GW_HELLO_MAX_CONNECTIONS);
	if (theirs->channels && !(d->features & GW_FEATURE_MULTIFD))
		return gw_fail_as(err, GW_FAULT_REFUSED, ENOTSUP,
				  "the source wants %u channels, which were not agreed on",
				  theirs->channels);
	if (theirs->disks && !(d->features & GW_FEATURE_DISKS))
		return gw_fail_as(err, GW_FAULT_REFUSED, ENOTSUP,
				  "the source wants to copy %u disks, which was not agreed on",
				  theirs->disks);
	return 0;
}

static int greet(struct gw_dest *d, struct gw_error *err)
{
	struct gw_hello mine, theirs;
	int r;

	if (gw_hello_get(&d->in, &theirs)) {
		/* Not even the magic number was taken. */
		d->stranger = !d->in.offset;
		r = gw_read_check(&d->in, err);
		gw_error_prefix(err, "%s", d->c.chan->peer);
		return r;
	}
	r = gw_join_session(d->session, err);
	if (r) {
		gw_hello_fini(&theirs);
		return r;
	}
	fill_hello(d, &mine);
	/* Ours goes out in any case: then both sides can say what differs. */
	r = gw_hello_put(&d->out, &mine, err);
	if (!r)
		r = gw_hello_agree(&theirs, &mine, &d->features, err);
	if (!r)
		r = check_connections(d, &theirs, err);
	if (!r)
		gw_info("source is godwit %s, %s, VM '%s'", theirs.godwit,
			theirs.vmm, theirs.name);
	d->ram.fill = d->features & GW_FEATURE_FILL;
	d->probe = theirs.probe;
	d->verify = (mine.required | theirs.required) & GW_FEATURE_VERIFY;
	gw_hello_fini(&theirs);
	return r || !d->probe ? r : -EAGAIN;
}

/* The source makes them when it has read our greeting. */
static int await_connections(struct gw_dest *d, struct gw_error *err)
{
	d->join.listener = d->c.listener;
	d->join.session = d->session;
	d->join.cancel = d->c.cancel;
	d->join.n = d->nchannels + d->ndisks + !!d->keep; /* the lease */
	return gw_join_wait(&d->join,
			    d->c.params->connect_timeout_ns / GW_NS_PER_MS,
			    err);
}

/* What is placed goes straight into the VM's memory. */
static int setup_ram(struct gw_dest *d, struct gw_error *err)
{
	d->punched = true;
	return gw_dest_empty_ram(&d->c.vm->ram, err);
}

static int setup(struct gw_dest *d, struct gw_error *err)
{
	struct gw_vm *vm = d->c.vm;
	int r;

	gw_progress_status(d->c.progress, GODWIT_STATUS_SETUP);
	d->now->total = vm->ram.total;
	r = vm->ops->check(vm, false, err);
	if (!r)
		r = gw_ram_map(&vm->ram, true, err);
	if (!r)
		r = greet(d, err);
	if (!r)
		r = await_connections(d, err);
	if (r)
		return r;
	gw_pause_at(GW_PAUSE_DEST_SETUP);
	r = d->keep ? gw_dest_keep_setup(d, err) : setup_ram(d, err);
	d->now->setup_ns = gw_now_ns() - d->c.progress->started_ns;
	return r;
}

/* Closing first would reset the connection and could destroy what was said on
 * its way. */
static void await_end(struct gw_dest *d)
{
	struct gw_chan *c = d->c.chan;
	int64_t deadline = gw_deadline_ms(3000);
	struct iovec iov = { d->in.buf, d->in.cap };
	struct gw_error ignored;

	if (gw_chan_shutdown_write(c, &ignored))
		return;
	gw_join_close(&d->join); /* who waits for room on them waits no more */
	while (gw_deadline_left_ms(deadline) > 0 &&
	       gw_chan_readv(c, &iov, 1, &ignored) > 0)
		;
}

void gw_dest_tell(struct gw_dest *d, enum gw_record_type type,
		  const struct gw_error *why, bool not_here)
{
	struct gw_chan *c = d->c.chan;
	struct gw_error ignored;

	c->cancel = NULL;
	c->write_timeout_ms = c->read_timeout_ms = 1000;
	if (type == GW_RECORD_ERROR)
		gw_record_put_error(&d->out, why, not_here);
	else
		gw_record_put(&d->out, type, true, 0);
	if (!gw_write_flush(&d->out, &ignored))
		await_end(d);
}

void gw_dest_lost(struct gw_dest *d, struct gw_error *err)
{
	if (err->code != ECONNRESET || err->fault != GW_FAULT_INPUT)
		return;
	err->fault = GW_FAULT_FAILED;
	gw_error_prefix(err, "lost the source %s", d->c.chan->peer);
}

/* Say behind the reason what became of the VM. */
static void say_where(struct gw_dest *d, struct gw_error *err, bool not_here)
{
	char why[GW_ERROR_MAX];

	if (err->fault == GW_FAULT_UNCERTAIN)
		return;
	memcpy(why, err->msg, sizeof(why));
	gw_fail_as(err, not_here ? err->fault : GW_FAULT_UNCERTAIN, err->code,
		   "%.700s; the VM is the source's%s%s", why,
		   gw_dest_disks_touched(d) ?
			   " and what its disks hold here is worth nothing" :
			   "",
		   !not_here  ? " unless the QEMU here runs it: end that" :
		   d->c.vm->info.waiting ?
				", the QEMU here waits for another migration" :
				", end the QEMU here");
}

static void fall_back(struct gw_dest *d, struct gw_error *err)
{
	struct gw_vm *vm = d->c.vm;
	struct gw_error undo = { 0 };
	bool not_here = err->fault != GW_FAULT_UNCERTAIN;

	gw_channels_stop(&d->channels);
	if (d->keep) {
		gw_dest_keep_failed(d, err);
		return;
	}
	if (d->uncertain) {
		gw_progress_status(d->c.progress, GODWIT_STATUS_FAILED);
		return;
	}
	gw_dest_lost(d, err);
	if (d->loading && not_here && vm->ops->load_abort(vm, &undo)) {
		not_here = false;
		gw_error_prefix(err, "%s", undo.msg);
	}
	/* Give the memory back; a VMM that only waited has touched nothing. */
	if (d->punched && not_here && gw_dest_empty_ram(&vm->ram, &undo))
		gw_warn("%s", undo.msg);
	/* A plain QEMU that could send on would think it has migrated. */
	if (!d->source_owns && !d->stranger)
		gw_dest_tell(d, GW_RECORD_ERROR, err, not_here);
	say_where(d, err, not_here);
	gw_dest_disks_free(d);
	gw_progress_status(d->c.progress, err->fault == GW_FAULT_CANCELLED ?
						  GODWIT_STATUS_CANCELLED :
						  GODWIT_STATUS_FAILED);
}

static void free_dest(struct gw_dest *d)
{
	if (!d)
		return;
	gw_channels_stop(&d->channels);
	gw_join_close(&d->join);
	gw_dest_disks_free(d);
	gw_reader_fini(&d->in);
	gw_dest_keep_free(d);
	gw_batch_fini(&d->batch);
	free(d->device.p);
	free(d->extents);
	free(d);
}

/* Somebody may have looked at the first bytes: go on with that reader. */
static int init_reader(struct gw_dest *d)
{
	if (!d->c.in)
		return gw_reader_init(&d->in, gw_channels_refill, &d->channels,
				      GW_DEST_READ_BUFFER, NULL);
	d->in = *d->c.in;
	d->in.refill = gw_channels_refill;
	d->in.arg = &d->channels;
	d->c.in->own = false;
	gw_reader_fini(d->c.in);
	return 0;
}

static void init_channels(struct gw_dest *d)
{
	struct gw_channels *c = &d->channels;

	gw_place_ram_init(&d->place_ram, &d->ram.table);
	d->place = &d->place_ram.base;
	c->main = d->c.chan;
	c->place = d->place;
	c->progress = d->c.progress;
	c->cancel = d->c.cancel;
	c->idle_ms = d->c.params->idle_timeout_ns / GW_NS_PER_MS;
	c->explains = true;
}

static struct gw_dest *new_dest(const struct gw_dest_config *c)
{
	struct gw_dest *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->c = *c;
	d->now = &c->progress->now;
	init_channels(d);
	d->extents = calloc(GW_RECORD_MAX_EXTENTS, sizeof(*d->extents));
	if (!d->extents || init_reader(d) ||
	    (c->keeper && gw_dest_keep_init(d))) {
		free_dest(d);
		return NULL;
	}
	gw_ram_decoder_init(&d->ram, false);
	gw_writer_init(&d->out, gw_chan_flush, c->chan);
	c->chan->cancel = c->cancel;
	c->chan->read_timeout_ms = c->chan->write_timeout_ms =
		c->params->idle_timeout_ns / GW_NS_PER_MS;
	return d;
}

int gw_dest_run(const struct gw_dest_config *c, struct gw_error *err)
{
	struct gw_error local = { 0 };
	struct gw_dest *d = new_dest(c);
	int r;

	if (!err)
		err = &local;
	if (!d)
		return gw_fail(err, ENOMEM, "no memory to receive a migration");
	r = setup(d, err);
	if (!r && d->keep)
		r = gw_dest_keep(d, err);
	else if (!r)
		r = gw_dest_receive(d, err);
	if (!r && !d->keep)
		r = gw_dest_hand_over(d, err);
	gw_channels_count(&d->channels);
	if (d->probe)
		r = -EAGAIN;
	else if (r)
		fall_back(d, err);
	else if (!d->keep)
		gw_progress_status(c->progress, GODWIT_STATUS_COMPLETED);
	free_dest(d);
	return r;
}
