/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * keep.c - a primary's checkpoints arrive: sections as in a migration, then
 * the device state and CHECKPOINT, again and again (wire/checkpoint.h). What
 * counts and what becomes of it is the keeper's (checkpoint.h).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/pause.h"
#include "dest/internal.h"

struct gw_dest_keep {
	const struct gw_dest_keeper *k;
	struct gw_dest_bytes base, part;
	bool base_ended;    /* another STATE_BASE begins a new one */
	bool failover_said;
	bool given_up;	    /* the last checkpoint is kept: GO may come */
	uint64_t seq;
	XXH3_state_t *hash;
};

static enum gw_dest_kept ended(struct gw_dest *d, enum gw_dest_kept how)
{
	return *d->c.kept = how;
}

/* --- bytes --------------------------------------------------------------- */

static int say(struct gw_dest *d, enum gw_record_type type,
	       struct gw_error *err)
{
	gw_record_put(&d->out, type, true, 0);
	return gw_write_flush(&d->out, err);
}

static bool asked_for(const struct gw_dest *d)
{
	const struct gw_dest_keep *p = d->keep;

	return p->seq && !p->failover_said &&
	       gw_cancel_requested(p->k->failover) &&
	       !gw_cancel_requested(d->c.cancel);
}

/* Before the first checkpoint there is nothing that could be the last. */
static int say_failover(struct gw_dest *d, struct gw_error *err)
{
	if (!asked_for(d))
		return 0;
	d->keep->failover_said = true;
	return say(d, GW_RECORD_FAILOVER, err);
}

/* A wait for bytes ends for FAILOVER too, and then goes on. */
static ssize_t refill(void *arg, const struct iovec *iov, int niov,
		      struct gw_error *err)
{
	struct gw_dest *d = arg;
	struct gw_chan *chan = d->c.chan;
	ssize_t n;

	for (;;) {
		bool listen = d->keep->seq && !d->keep->failover_said;

		chan->cancel = listen ? d->keep->k->failover : d->c.cancel;
		n = gw_channels_refill(&d->channels, iov, niov, err);
		chan->cancel = d->c.cancel;
		if (n != -ECANCELED || !asked_for(d))
			return n;
		memset(err, 0, sizeof(*err));
		if (say_failover(d, err))
			return -err->code;
	}
}

/* --- setup and end ------------------------------------------------------- */

int gw_dest_keep_init(struct gw_dest *d)
{
	struct gw_dest_keep *p = calloc(1, sizeof(*p));

	d->keep = p;
	if (!p)
		return -ENOMEM;
	p->k = d->c.keeper;
	p->hash = XXH3_createState();
	d->in.refill = refill;
	d->in.arg = d;
	ended(d, GW_DEST_KEPT_LOST);
	return p->hash ? 0 : -ENOMEM;
}

void gw_dest_keep_free(struct gw_dest *d)
{
	if (!d->keep)
		return;
	XXH3_freeState(d->keep->hash);
	free(d->keep->base.p);
	free(d->keep->part.p);
	free(d->keep);
}

int gw_dest_keep_setup(struct gw_dest *d, struct gw_error *err)
{
	struct gw_chan *lease = d->join.chan[d->nchannels];

	/* Checkpoints may be far apart; the lease notices who is gone. */
	d->c.chan->read_timeout_ms = -1;
	d->channels.idle_ms = -1;
	d->join.chan[d->nchannels] = NULL;
	return d->keep->k->lease(d->keep->k->arg, lease, err);
}

void gw_dest_keep_failed(struct gw_dest *d, struct gw_error *err)
{
	const struct gw_dest_keeper *k = d->keep->k;

	gw_dest_lost(d, err);
	if (d->stranger)
		return;
	if (d->source_owns)
		ended(d, GW_DEST_KEPT_BYE);
	else if (!gw_cancel_requested(d->c.cancel))
		gw_dest_tell(d, GW_RECORD_ERROR, err, false);
	else if (k->leaving(k->arg))
		gw_dest_tell(d, GW_RECORD_BYE, NULL, true);
}

/* --- checkpoints --------------------------------------------------------- */

static int state_base(struct gw_dest *d, const struct gw_record *rec,
		      struct gw_error *err)
{
	struct gw_dest_keep *p = d->keep;

	if (p->base_ended)
		p->base.len = 0;
	p->base_ended = false;
	return gw_dest_collect(d, rec, &p->base, p->part.len, err);
}

/* Are the pages and the state that came those of @c? */
static int check(struct gw_dest *d, const struct gw_checkpoint *c,
		 struct gw_error *err)
{
	struct gw_dest_keep *p = d->keep;
	unsigned long long seq = c->seq;

	if (d->phase != GW_DEST_RAM)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "checkpoint %llu comes before any memory",
				  seq);
	if (c->seq != p->seq + 1)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "checkpoint %llu comes after %llu", seq,
				  (unsigned long long)p->seq);
	if (d->nchannels && !d->flushed)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "checkpoint %llu is complete, but its %u channels were not waited for",
				  seq, d->nchannels);
	if (c->nbase != p->base.len || c->npart != p->part.len ||
	    !(c->nbase + c->npart))
		return gw_fail_as(err, GW_FAULT_INPUT, EBADMSG,
				  "the device state of checkpoint %llu is damaged: %zu and %zu bytes came, %llu and %llu were sent",
				  seq, p->base.len, p->part.len,
				  (unsigned long long)c->nbase,
				  (unsigned long long)c->npart);
	XXH3_64bits_reset(p->hash);
	XXH3_64bits_update(p->hash, p->base.p, p->base.len);
	XXH3_64bits_update(p->hash, p->part.p, p->part.len);
	if (c->hash != XXH3_64bits_digest(p->hash))
		return gw_fail_as(err, GW_FAULT_INPUT, EBADMSG,
				  "the device state of checkpoint %llu is damaged: its hash differs",
				  seq);
	return 0;
}

static void count(struct gw_dest *d, const struct gw_checkpoint *c,
		  int64_t flush_ns)
{
	struct godwit_stats *now = d->now;

	now->checkpoint = c->seq;
	now->checkpoint_pages = c->npages;
	now->checkpoint_paused_pages = c->paused_pages;
	now->checkpoint_bytes = c->nbytes;
	now->checkpoint_pause_ns = c->pause_ns;
	now->checkpoint_interval_ns = c->interval_ns;
	now->checkpoint_flush_ns = flush_ns;
	now->device_bytes = c->nbase + c->npart;
	gw_channels_count(&d->channels);
	if (now->status != GODWIT_STATUS_COLO)
		gw_progress_status(d->c.progress, GODWIT_STATUS_COLO);
	else
		gw_progress_tick(d->c.progress);
}

static int checkpoint(struct gw_dest *d, const struct gw_record *rec,
		      struct gw_error *err)
{
	struct gw_dest_keep *p = d->keep;
	struct gw_checkpoint c;
	int64_t flush_ns = 0;
	int r;

	if (gw_record_get_checkpoint(&d->in, rec, &c))
		return gw_read_check(&d->in, err);
	r = check(d, &c, err);
	/* Its channels wait for the ACK. */
	if (!r)
		r = gw_channels_rest(&d->channels, err);
	if (!r)
		r = p->k->commit(p->k->arg, &c, p->base.p, p->part.p,
				 &flush_ns, err);
	if (r)
		return r;
	p->seq = c.seq;
	p->given_up = c.flags & GW_CHECKPOINT_LAST;
	p->part.len = 0;
	p->base_ended = true;
	gw_record_put_ack(&d->out, c.seq, flush_ns);
	r = gw_write_flush(&d->out, err);
	count(d, &c, flush_ns);
	return r;
}

/* --- the end ------------------------------------------------------------- */

/* Return: 1, -errno. */
static int go(struct gw_dest *d, const struct gw_record *rec,
	      struct gw_error *err)
{
	const struct gw_dest_keeper *k = d->keep->k;
	struct gw_error ignored;
	int r;

	if (!d->keep->given_up || rec->len != 1)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "GO without a last checkpoint");
	gw_read_skip(&d->in, rec->len); /* the checkpoint says it too */
	r = gw_read_check(&d->in, err);
	if (r)
		return r;
	ended(d, GW_DEST_KEPT_GO);
	gw_pause_at(GW_PAUSE_DEST_GO);
	r = k->go(k->arg, err);
	if (r)
		return r;
	if (say(d, GW_RECORD_RUNNING, &ignored))
		gw_warn("the VM runs here, but the primary could not be told: %s",
			ignored.msg);
	return 1;
}

static int bye(struct gw_dest *d, const struct gw_record *rec,
	       struct gw_error *err)
{
	struct gw_error ignored;
	int r;

	gw_read_skip(&d->in, rec->len);
	r = gw_read_check(&d->in, err);
	if (r)
		return r;
	ended(d, GW_DEST_KEPT_BYE);
	if (say(d, GW_RECORD_BYE, &ignored))
		gw_info("the primary did not wait for BYE: %s", ignored.msg);
	return 1;
}

/* Return: 1 when it is over, 0 to go on, -errno. */
static int record(struct gw_dest *d, struct gw_error *err)
{
	struct gw_dest_keep *p = d->keep;
	struct gw_record rec;
	int r = gw_dest_record(d, &rec, err);

	if (r)
		return r;
	switch (rec.type) {
	case GW_RECORD_BYE:
		return bye(d, &rec, err);
	case GW_RECORD_GO:
		return go(d, &rec, err);
	}
	if (p->given_up && rec.mandatory)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "record %u where GO should be", rec.type);
	switch (rec.type) {
	case GW_RECORD_STATE_BASE:
		return state_base(d, &rec, err);
	case GW_RECORD_DEVICE:
		return gw_dest_collect(d, &rec, &p->part, p->base.len, err);
	case GW_RECORD_CHECKPOINT:
		return checkpoint(d, &rec, err);
	case GW_RECORD_EXTENTS:
		return gw_dest_extents(d, &rec, err);
	}
	if (rec.mandatory)
		return gw_fail_as(err, GW_FAULT_INPUT, ENOTSUP,
				  "record %u has no place between checkpoints",
				  rec.type);
	gw_read_skip(&d->in, rec.len);
	return gw_read_check(&d->in, err);
}

static int section(struct gw_dest *d, uint8_t item, struct gw_error *err)
{
	if (d->keep->given_up)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "more memory comes after the last checkpoint");
	return gw_dest_ram_section(d, item, err);
}

int gw_dest_keep(struct gw_dest *d, struct gw_error *err)
{
	int r = 0;

	while (!r) {
		uint8_t item = gw_read_u8(&d->in);

		r = gw_read_check(&d->in, err);
		if (r)
			break;
		if (item == GW_ITEM_RECORD)
			r = record(d, err);
		else if (item == GW_ITEM_SECTION_START ||
			 item == GW_ITEM_SECTION_PART)
			r = section(d, item, err);
		else
			r = gw_dest_out_of_order(d, item, err);
		if (!r)
			r = say_failover(d, err);
	}
	return r < 0 ? r : 0;
}
