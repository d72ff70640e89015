/* SPDX-License-Identifier: BSD-3-Clause */
/* sender.c - see sender.h. */
#include "source/sender.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "page/deflate.h"
#include "source/join.h"
#include "source/workers.h"
#include "wire/multifd.h"

/* One channel. All of it is its thread's, but for the counts: atomic. */
struct gw_sender {
	struct gw_chan *chan;
	struct gw_writer out;
	struct gw_deflate *z;
	struct gw_multifd_packet packet;
	/* of a task: what goes whole, what is zero, what is a delta */
	const uint8_t *page[GW_MULTIFD_PAGES];
	uint64_t zero[GW_MULTIFD_PAGES];
	struct gw_multifd_packet deltas;
	uint8_t len[2 * GW_MULTIFD_PAGES]; /* be16 each */
	uint8_t *copy, *delta; /* room for all pages; NULL without XBZRLE */
	size_t ncopied;
	uint64_t nnormal, nzero, ncompressed, bytes_in, bytes_out;
};

struct gw_senders {
	/* set once */
	struct gw_source *s; /* channels see its encode only */
	struct gw_ram *ram;
	struct gw_senders_plan plan;
	uint32_t method; /* GW_MULTIFD_ZLIB, _ZSTD, _NOCOMP */
	struct gw_sender *sender;
	/* atomic */
	uint64_t number; /* of the next packet */
	struct gw_workers workers;
};

static void add(uint64_t *count, uint64_t n)
{
	__atomic_fetch_add(count, n, __ATOMIC_RELAXED);
}

static uint64_t get(const uint64_t *count)
{
	return __atomic_load_n(count, __ATOMIC_RELAXED);
}

/* --- packets -------------------------------------------------------------- */

static int write_packet(struct gw_senders *ss, struct gw_sender *c,
			struct gw_error *err)
{
	c->packet.number = __atomic_fetch_add(&ss->number, 1, __ATOMIC_RELAXED);
	gw_multifd_put_packet(&c->out, &c->packet);
	return gw_write_check(&c->out, err);
}

/* The pages as they are, neighbours as one piece. */
static int write_plain(struct gw_senders *ss, struct gw_sender *c,
		       struct gw_error *err)
{
	uint32_t n = c->packet.normal, at = 0, len;
	int r;

	c->packet.payload = n * GW_PAGE_SIZE;
	r = write_packet(ss, c, err);
	for (; !r && at < n; at += len) {
		len = 1;
		while (at + len < n &&
		       c->page[at] + (uint64_t)len * GW_PAGE_SIZE ==
			       c->page[at + len])
			len++;
		gw_write_ref(&c->out, c->page[at], (size_t)len * GW_PAGE_SIZE);
	}
	return r;
}

static int write_compressed(struct gw_senders *ss, struct gw_sender *c,
			    struct gw_error *err)
{
	uint32_t n = c->packet.normal;
	const uint8_t *out = NULL;
	size_t len = 0;
	int r = n ? gw_deflate_pages(c->z, c->page, n, &out, &len, err) : 0;

	c->packet.payload = (uint32_t)len;
	if (!r)
		r = write_packet(ss, c, err);
	gw_write_ref(&c->out, out, len);
	add(&c->ncompressed, n);
	add(&c->bytes_in, (uint64_t)n * GW_PAGE_SIZE);
	add(&c->bytes_out, len);
	return r;
}

static int write_deltas(struct gw_senders *ss, struct gw_sender *c,
			struct gw_error *err)
{
	struct gw_multifd_packet *p = &c->deltas;

	p->flags = GW_MULTIFD_DELTA;
	p->number = __atomic_fetch_add(&ss->number, 1, __ATOMIC_RELAXED);
	p->payload += 2 * p->normal;
	gw_multifd_put_packet(&c->out, p);
	gw_write_bytes(&c->out, c->len, 2 * p->normal);
	gw_write_ref(&c->out, c->delta, p->payload - 2 * p->normal);
	return gw_write_check(&c->out, err);
}

/* --- sorting out ---------------------------------------------------------- */

static void add_delta(struct gw_sender *c, uint64_t addr, int len)
{
	struct gw_multifd_packet *p = &c->deltas;

	gw_put_be16(c->len + 2 * p->normal, (uint16_t)len);
	p->offset[p->normal++] = addr;
	p->payload += (uint32_t)len;
}

static void add_whole(struct gw_sender *c, uint64_t addr, const uint8_t *bytes)
{
	c->page[c->packet.normal] = bytes;
	c->packet.offset[c->packet.normal++] = addr;
}

/* A page may change after it was looked at: then it comes again. */
static void sort_page(struct gw_senders *ss, struct gw_sender *c, int block,
		      uint64_t page)
{
	struct gw_ramblock *b = &ss->ram->block[block];
	uint64_t addr = page << GW_PAGE_BITS;
	const uint8_t *host = b->host + addr;
	uint8_t *copy = c->copy ? c->copy + c->ncopied : NULL;
	uint8_t *delta = c->delta ? c->delta + c->deltas.payload : NULL;
	enum gw_encoded what = GW_ENCODED_WHOLE;
	int len = 0;

	if (ss->plan.encode)
		what = gw_encode_page(&ss->s->encode, block, page, host, copy,
				      delta, &len);
	if (ss->plan.placed && what != GW_ENCODED_ZERO)
		gw_bitmap_set(&b->placed, page);
	if (what == GW_ENCODED_ZERO)
		c->zero[c->packet.zero++] = addr;
	else if (what == GW_ENCODED_DELTA)
		add_delta(c, addr, len);
	else if (what != GW_ENCODED_SAME)
		add_whole(c, addr, what == GW_ENCODED_COPY ? copy : host);
	if (what == GW_ENCODED_COPY)
		c->ncopied += GW_PAGE_SIZE;
}

static void sort_out(struct gw_senders *ss, struct gw_sender *c,
		     const struct gw_task *t)
{
	struct gw_multifd_packet *p = &c->packet;

	p->normal = p->zero = 0;
	c->deltas.normal = c->deltas.payload = 0;
	c->ncopied = 0;
	for (uint32_t k = 0; k < t->nruns; k++) {
		const struct gw_run *run = &t->run[k];
		uint64_t end = run->first + run->n;

		for (uint64_t page = run->first; page < end; page++)
			if (run->zero)
				c->zero[p->zero++] = page << GW_PAGE_BITS;
			else
				sort_page(ss, c, t->block, page);
	}
	memcpy(p->offset + p->normal, c->zero, p->zero * sizeof(c->zero[0]));
}

/* --- a channel's thread --------------------------------------------------- */

static int send_task(void *arg, unsigned int i, const struct gw_task *t,
		     struct gw_error *err)
{
	struct gw_senders *ss = arg;
	struct gw_sender *c = &ss->sender[i];
	struct gw_multifd_packet *p = &c->packet;
	const char *idstr = ss->ram->block[t->block].idstr;
	int r = 0;

	p->flags = ss->method;
	memcpy(p->idstr, idstr, sizeof(p->idstr));
	memcpy(c->deltas.idstr, idstr, sizeof(p->idstr));
	sort_out(ss, c, t);
	if (p->normal + p->zero)
		r = ss->method ? write_compressed(ss, c, err) :
				 write_plain(ss, c, err);
	if (!r && c->deltas.normal)
		r = write_deltas(ss, c, err);
	/* The pages are referenced up to here. */
	if (!r)
		r = gw_write_flush(&c->out, err);
	add(&c->nnormal, p->normal);
	add(&c->nzero, p->zero);
	return r;
}

static int send_sync(void *arg, unsigned int i, struct gw_error *err)
{
	struct gw_senders *ss = arg;
	struct gw_sender *c = &ss->sender[i];
	int r;

	c->packet = (struct gw_multifd_packet){ .flags = GW_MULTIFD_SYNC };
	r = write_packet(ss, c, err);
	return r ? r : gw_write_flush(&c->out, err);
}

/* --- the migration thread ------------------------------------------------- */

uint64_t gw_senders_nbytes(const struct gw_senders *ss)
{
	uint64_t n = 0;

	for (unsigned int i = 0; ss && i < ss->plan.n; i++)
		if (ss->sender[i].chan)
			n += gw_chan_bytes_written(ss->sender[i].chan);
	return n;
}

/* What the channels counted since the last time. */
static void account(struct gw_source *s)
{
	struct gw_senders *ss = s->senders;
	struct godwit_stats *now = s->now;

	now->multifd_bytes = gw_senders_nbytes(ss);
	now->compress_pages = now->compress_in = now->compress_out = 0;
	for (unsigned int i = 0; i < ss->plan.n; i++) {
		struct gw_sender *c = &ss->sender[i];

		now->normal += __atomic_exchange_n(&c->nnormal, 0,
						   __ATOMIC_RELAXED);
		now->duplicate +=
			__atomic_exchange_n(&c->nzero, 0, __ATOMIC_RELAXED);
		now->compress_pages += get(&c->ncompressed);
		now->compress_in += get(&c->bytes_in);
		now->compress_out += get(&c->bytes_out);
	}
}

static int tick(void *arg, struct gw_error *err)
{
	struct gw_senders *ss = arg;

	account(ss->s);
	return gw_source_tick(ss->s, err);
}

int gw_senders_add(struct gw_source *s, int block, uint64_t first, uint64_t n,
		   bool zero, struct gw_error *err)
{
	return gw_workers_add(&s->senders->workers, block, first, n, zero, err);
}

int gw_senders_sync(struct gw_source *s, struct gw_error *err)
{
	int r = gw_workers_drain(&s->senders->workers, err);

	account(s);
	return r;
}

/* --- beginning and end ---------------------------------------------------- */

static int new_buffers(struct gw_senders *ss, struct gw_sender *c,
		       struct gw_error *err)
{
	const size_t pages = GW_MULTIFD_PAGES * GW_PAGE_SIZE;

	if (ss->plan.method) {
		c->z = gw_deflate_new(ss->plan.method, ss->plan.level,
				      GW_MULTIFD_PAGES, err);
		if (!c->z)
			return -err->code;
	}
	if (!ss->s->c.params->xbzrle)
		return 0;
	c->copy = malloc(pages);
	c->delta = malloc(pages);
	return c->copy && c->delta ? 0 :
				     gw_fail(err, ENOMEM,
					     "no memory for a channel");
}

static int connect_one(struct gw_source *s, unsigned int i,
		       struct gw_error *err)
{
	const struct godwit_params *p = s->c.params;
	struct gw_senders *ss = s->senders;
	struct gw_sender *c = &ss->sender[i];
	int r = new_buffers(ss, c, err);

	if (r)
		return r;
	c->chan = gw_join_connect(s->c.uri, ss->plan.session, (uint8_t)i,
				  p->connect_timeout_ns / GW_NS_PER_MS,
				  s->c.cancel, err);
	if (!c->chan) {
		gw_error_prefix(err, "channel %u", i);
		return -err->code;
	}
	c->chan->cancel = s->c.cancel;
	c->chan->write_timeout_ms = p->idle_timeout_ns / GW_NS_PER_MS;
	gw_writer_init(&c->out, gw_chan_flush, c->chan);
	s->now->channels = i + 1;
	return 0;
}

int gw_senders_start(struct gw_source *s, const struct gw_senders_plan *p,
		     struct gw_error *err)
{
	static const struct gw_worker_ops ops = { .thread = "gw-send",
						  .task = send_task,
						  .sync = send_sync,
						  .tick = tick };
	struct gw_senders *ss = s->senders = calloc(1, sizeof(*ss));
	int r = 0;

	if (ss)
		ss->sender = calloc(p->n, sizeof(*ss->sender));
	if (!ss || !ss->sender)
		return gw_fail(err, ENOMEM, "no memory for %u channels", p->n);
	ss->s = s;
	ss->plan = *p;
	ss->ram = &s->c.vm->ram;
	ss->method = !p->method		       ? GW_MULTIFD_NOCOMP :
		     !strcmp(p->method, "zlib") ? GW_MULTIFD_ZLIB :
						  GW_MULTIFD_ZSTD;
	s->now->compress = p->method;
	for (unsigned int i = 0; i < p->n && !r; i++)
		r = connect_one(s, i, err);
	if (r)
		return r;
	/* Not more waiting than being written: a limit is kept, and a pass
	 * ends soon after its last page was found. */
	return gw_workers_start(&ss->workers, &ops, ss, p->n, GW_MULTIFD_PAGES,
				p->n, err);
}

void gw_senders_stop(struct gw_senders *ss)
{
	if (!ss)
		return;
	for (unsigned int i = 0; ss->sender && i < ss->plan.n; i++)
		if (ss->sender[i].chan)
			gw_chan_shutdown(ss->sender[i].chan);
	gw_workers_stop(&ss->workers);
	for (unsigned int i = 0; ss->sender && i < ss->plan.n; i++) {
		gw_chan_close(ss->sender[i].chan);
		gw_deflate_free(ss->sender[i].z);
		free(ss->sender[i].copy);
		free(ss->sender[i].delta);
	}
	free(ss->sender);
	free(ss);
}
