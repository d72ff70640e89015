/* SPDX-License-Identifier: BSD-3-Clause */
/* peer.c - what the source and the destination say besides RAM. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "source/protect.h"
#include "wire/checkpoint.h"

static void fill_hello(struct gw_source *s, struct gw_hello *h)
{
	const struct gw_vm *vm = s->c.vm;

	memset(h, 0, sizeof(*h));
	h->source = true;
	snprintf(h->name, sizeof(h->name), "%s", vm->info.name);
	snprintf(h->godwit, sizeof(h->godwit), "%s", GW_VERSION);
	snprintf(h->vmm, sizeof(h->vmm), "%s", vm->info.vmm);
	snprintf(h->machine, sizeof(h->machine), "%s", vm->info.machine);
	snprintf(h->arch, sizeof(h->arch), "%s", vm->info.arch);
	h->running = vm->info.running;
	h->channels = gw_source_channels(s->c.params);
	h->features = GW_FEATURE_VERIFY | GW_FEATURE_XBZRLE |
		      GW_FEATURE_MULTIFD | GW_FEATURE_ZLIB | GW_FEATURE_ZSTD;
	h->features |= GW_FEATURE_FILL;
	if (s->c.params->skip_zero_pages)
		h->features |= GW_FEATURE_SKIP_ZERO;
	if (s->c.params->verify)
		h->required |= GW_FEATURE_VERIFY;
	if (s->c.params->xbzrle)
		h->required |= GW_FEATURE_XBZRLE;
	if (h->channels)
		h->required |= GW_FEATURE_MULTIFD;
	if (!strcmp(s->c.params->compress, "zlib"))
		h->required |= GW_FEATURE_ZLIB;
	else if (strcmp(s->c.params->compress, "none"))
		h->required |= GW_FEATURE_ZSTD;
	h->disks = gw_source_disks_count(s);
	if (vm->ops->disks)
		h->features |= GW_FEATURE_DISKS;
	if (h->disks)
		h->required |= GW_FEATURE_DISKS;
	if (s->protect) {
		h->features |= GW_FEATURE_CHECKPOINT;
		h->required |= GW_FEATURE_CHECKPOINT;
	}
	h->page_bytes = GW_PAGE_SIZE;
	h->ram = vm->ram; /* described only; never freed through here */
}

int gw_source_greet(struct gw_source *s, bool probe, struct gw_hello *theirs,
		    struct gw_error *err)
{
	struct gw_hello mine;
	unsigned int features;
	int r;

	fill_hello(s, &mine);
	mine.probe = probe;
	r = gw_hello_put(&s->out, &mine, err);
	if (r)
		return r;
	s->c.chan->read_timeout_ms =
		s->c.params->connect_timeout_ns / GW_NS_PER_MS;
	r = gw_hello_get(&s->in, theirs);
	s->c.chan->read_timeout_ms =
		s->c.params->idle_timeout_ns / GW_NS_PER_MS;
	if (r) {
		r = gw_read_check(&s->in, err);
		if (r == -ECONNRESET || r == -ETIMEDOUT) {
			err->fault = GW_FAULT_FAILED;
			gw_error_prefix(err,
					"no greeting from %s (is 'godwit receive' listening there? A plain QEMU does not understand this)",
					s->c.chan->peer);
		} else
			gw_error_prefix(err, "%s", s->c.chan->peer);
		return r;
	}
	r = gw_hello_agree(&mine, theirs, &features, err);
	s->verify = (mine.required | theirs->required) & GW_FEATURE_VERIFY;
	s->encode.skip_zeros = !r && features & GW_FEATURE_SKIP_ZERO;
	/* A multifd packet has no place for the byte. */
	s->encode.fill = !r && features & GW_FEATURE_FILL && !mine.channels;
	if (r)
		gw_hello_fini(theirs);
	else
		gw_info("destination is godwit %s, %s, VM '%s'", theirs->godwit,
			theirs->vmm, theirs->name);
	return r;
}

/* The end of a connection is not bad input. Return: @r. */
static int lost(struct gw_source *s, int r, struct gw_error *err)
{
	if (r == -ECONNRESET && err->fault == GW_FAULT_INPUT) {
		err->fault = GW_FAULT_FAILED;
		gw_error_prefix(err, "lost the destination %s",
				s->c.chan->peer);
	}
	return r;
}

/*
 * The next record from the destination, waiting for it. ERROR becomes @err.
 * Optional records of unknown type are skipped.
 */
static int next_record(struct gw_source *s, struct gw_record *rec,
		       struct gw_error *err)
{
	struct gw_error said;
	uint8_t item;

	for (;;) {
		item = gw_read_u8(&s->in);
		if (!gw_read_failed(&s->in) && item != GW_ITEM_RECORD)
			gw_read_fail(&s->in, EPROTO,
				     "byte 0x%02x where a record should begin",
				     item);
		if (gw_read_failed(&s->in) || gw_record_get(&s->in, rec))
			goto bad;
		if (rec->type == GW_RECORD_ERROR) {
			if (gw_record_get_error(&s->in, rec, "the destination",
						&said, &s->peer_not_here))
				goto bad;
			if (err)
				*err = said;
			return -said.code;
		}
		if (s->protect && rec->type >= GW_RECORD_ACK &&
		    rec->type <= GW_RECORD_BYE)
			return 0;
		if (rec->type == GW_RECORD_READY ||
		    rec->type == GW_RECORD_RUNNING ||
		    rec->type == GW_RECORD_VERIFY_END ||
		    rec->type == GW_RECORD_DISKS_READY)
			return 0;
		if (rec->mandatory) {
			gw_read_fail(&s->in, ENOTSUP,
				     "unknown record %u from the destination",
				     rec->type);
			goto bad;
		}
		gw_read_skip(&s->in, rec->len);
	}
bad:
	return lost(s, gw_read_check(&s->in, err), err);
}

static int acknowledged(struct gw_source *s, const struct gw_record *rec,
			struct gw_error *err)
{
	struct gw_protect *p = s->protect;
	uint64_t seq;

	if (gw_record_get_ack(&s->in, rec, &seq, &p->flush_ns))
		return gw_read_check(&s->in, err);
	if (seq != p->acked + 1 || seq != p->seq)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "the standby acknowledged checkpoint %llu, the last one was %llu",
				  (unsigned long long)seq,
				  (unsigned long long)p->seq);
	p->acked = seq;
	return 0;
}

/* What was not waited for: from a standby that may be right. */
static int heard(struct gw_source *s, const struct gw_record *rec,
		 struct gw_error *err)
{
	switch (s->protect ? rec->type : 0) {
	case GW_RECORD_ACK:
		return acknowledged(s, rec, err);
	case GW_RECORD_FAILOVER:
		s->protect->failover = true;
		break;
	case GW_RECORD_BYE:
		s->protect->bye = true;
		break;
	default:
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "the destination sent record %u too early",
				  rec->type);
	}
	gw_read_skip(&s->in, rec->len);
	return gw_read_check(&s->in, err);
}

int gw_source_peer_hear(struct gw_source *s, struct gw_error *err)
{
	struct gw_record rec;
	int r = next_record(s, &rec, err);

	return r ? r : heard(s, &rec, err);
}

int gw_source_peer_check(struct gw_source *s, struct gw_error *err)
{

	if (gw_cancel_requested(s->c.cancel))
		return gw_cancel_fail(err);
	if (s->in.pos == s->in.end && !gw_chan_readable(s->c.chan))
		return 0;
	return gw_source_peer_hear(s, err);
}

int gw_source_peer_wait(struct gw_source *s, enum gw_record_type type,
			int64_t timeout_ms, const char *what,
			struct gw_error *err)
{
	struct gw_record rec;
	int r;

	if (timeout_ms >= 0)
		s->c.chan->read_timeout_ms = timeout_ms;
	r = next_record(s, &rec, err);
	if (r == -ETIMEDOUT)
		r = gw_fail(err, ETIMEDOUT,
			    "the destination did not %s within %lld ms", what,
			    (long long)s->c.chan->read_timeout_ms);
	s->c.chan->read_timeout_ms =
		s->c.params->idle_timeout_ns / GW_NS_PER_MS;
	if (r)
		return r;
	gw_read_skip(&s->in, rec.len);
	if (rec.type != (uint16_t)type)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "the destination sent record %u, %u was expected",
				  rec.type, type);
	return gw_read_check(&s->in, err);
}

void gw_source_peer_reason(struct gw_source *s, struct gw_error *err)
{
	struct gw_error said = { 0 };
	struct gw_record rec;

	if (err->code != EPIPE && err->code != ECONNRESET)
		return;
	/* It closed on us: what it said before waits in our buffer. */
	s->c.chan->read_timeout_ms = 1000;
	if (next_record(s, &rec, &said) && said.fault != GW_FAULT_NONE &&
	    said.code != ECONNRESET && said.code != EPIPE &&
	    said.code != ETIMEDOUT)
		*err = said;
}

void gw_source_peer_tell(struct gw_source *s, const struct gw_error *why)
{
	struct gw_error ignored;

	if (gw_write_failed(&s->out))
		return; /* mid-record or gone: closing says it */
	s->c.chan->write_timeout_ms = 1000;
	s->c.chan->cancel = NULL;
	if (s->in_section) /* a record begins between sections */
		gw_source_section_end(s);
	gw_record_put_error(&s->out, why, false);
	if (gw_write_flush(&s->out, &ignored))
		return;
	if (gw_chan_shutdown_write(s->c.chan, &ignored))
		return;
}
