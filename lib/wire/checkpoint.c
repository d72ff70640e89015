/* SPDX-License-Identifier: BSD-3-Clause */
/* checkpoint.c - see checkpoint.h. */
#include "wire/checkpoint.h"

#include <errno.h>

#define CHECKPOINT_BYTES 80u
#define ACK_BYTES	 16u

void gw_record_put_checkpoint(struct gw_writer *w,
			      const struct gw_checkpoint *c)
{
	gw_record_put(w, GW_RECORD_CHECKPOINT, true, CHECKPOINT_BYTES);
	gw_write_be64(w, c->seq);
	gw_write_be64(w, c->npages);
	gw_write_be64(w, c->paused_pages);
	gw_write_be64(w, c->nbytes);
	gw_write_be64(w, (uint64_t)c->pause_ns);
	gw_write_be64(w, (uint64_t)c->interval_ns);
	gw_write_be64(w, c->nbase);
	gw_write_be64(w, c->npart);
	gw_write_be64(w, c->hash);
	gw_write_be32(w, c->flags);
	gw_write_be32(w, c->running);
}

static int bad_length(struct gw_reader *r, const struct gw_record *rec,
		      uint32_t want)
{
	return gw_read_fail(r, EPROTO, "record %u of %u bytes, %u expected",
			    rec->type, rec->len, want);
}

/* A time that is not negative. */
static int64_t get_time(struct gw_reader *r)
{
	uint64_t ns = gw_read_be64(r);

	if (ns > INT64_MAX)
		gw_read_fail(r, EPROTO, "a time of 0x%llx ns in a checkpoint",
			     (unsigned long long)ns);
	return (int64_t)ns;
}

static int check(struct gw_reader *r, const struct gw_checkpoint *c)
{
	if (gw_read_failed(r))
		return -r->err.code;
	if (!c->seq)
		return gw_read_fail(r, EPROTO, "a checkpoint with number 0");
	if (c->nbase > GW_MAX_DEVICE_STATE ||
	    c->npart > GW_MAX_DEVICE_STATE - c->nbase)
		return gw_read_fail(r, EPROTO,
				    "checkpoint %llu has %llu and %llu bytes "
				    "of device state, the limit is %u",
				    (unsigned long long)c->seq,
				    (unsigned long long)c->nbase,
				    (unsigned long long)c->npart,
				    GW_MAX_DEVICE_STATE);
	if (c->flags & ~GW_CHECKPOINT_LAST || c->running > 1)
		return gw_read_fail(
			r, EPROTO,
			"checkpoint %llu has unknown flags 0x%x, state %u",
			(unsigned long long)c->seq, c->flags, c->running);
	return 0;
}

int gw_record_get_checkpoint(struct gw_reader *r, const struct gw_record *rec,
			     struct gw_checkpoint *c)
{
	if (rec->len != CHECKPOINT_BYTES)
		return bad_length(r, rec, CHECKPOINT_BYTES);
	c->seq = gw_read_be64(r);
	c->npages = gw_read_be64(r);
	c->paused_pages = gw_read_be64(r);
	c->nbytes = gw_read_be64(r);
	c->pause_ns = get_time(r);
	c->interval_ns = get_time(r);
	c->nbase = gw_read_be64(r);
	c->npart = gw_read_be64(r);
	c->hash = gw_read_be64(r);
	c->flags = gw_read_be32(r);
	c->running = gw_read_be32(r);
	return check(r, c);
}

void gw_record_put_ack(struct gw_writer *w, uint64_t seq, int64_t flush_ns)
{
	gw_record_put(w, GW_RECORD_ACK, true, ACK_BYTES);
	gw_write_be64(w, seq);
	gw_write_be64(w, (uint64_t)flush_ns);
}

int gw_record_get_ack(struct gw_reader *r, const struct gw_record *rec,
		      uint64_t *seq, int64_t *flush_ns)
{
	if (rec->len != ACK_BYTES)
		return bad_length(r, rec, ACK_BYTES);
	*seq = gw_read_be64(r);
	*flush_ns = get_time(r);
	return -r->err.code;
}
