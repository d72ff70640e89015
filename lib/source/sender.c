/* SPDX-License-Identifier: BSD-3-Clause */
/* sender.c - see sender.h. */
#include "source/sender.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "page/deflate.h"
#include "source/choice.h"
#include "source/join.h"
#include "source/workers.h"
#include "wire/multifd.h"

#define REFER_PAGES 16 /* fewer are copied faster */

/* Pages of a task that go whole: of one class, if that matters. */
struct batch {
	uint32_t n;
	uint64_t offset[GW_MULTIFD_PAGES];
	const uint8_t *page[GW_MULTIFD_PAGES];
};

/* One channel. All of it is its thread's, but for the counts: atomic. */
struct gw_sender {
	struct gw_chan *chan;
	struct gw_writer out;
	struct gw_deflate *z;
	struct gw_multifd_packet packet;
	bool refer; /* pages go by reference; until that turns out impossible */
	int block;  /* of the task at hand */
	/* what became of a task's pages */
	struct batch whole[GW_PAGE_CLASSES];
	uint64_t zero[GW_MULTIFD_PAGES]; /* offsets */
	uint32_t nzero;
	struct gw_multifd_packet deltas;
	uint8_t len[2 * GW_MULTIFD_PAGES]; /* be16 each */
	uint8_t *copy, *delta; /* room for all pages; NULL without XBZRLE */
	size_t ncopied;
	uint64_t nnormal, nzeros, ncompressed, bytes_in, bytes_out;
};

struct gw_senders {
	/* set once */
	struct gw_source *s; /* channels see its encode only */
	struct gw_ram *ram;
	struct gw_senders_plan plan;
	uint32_t method; /* GW_MULTIFD_ZLIB, _ZSTD, _NOCOMP */
	bool first;	 /* pass; changed between two */
	struct gw_sender *sender;
	struct gw_choice choice; /* has a lock; for plan.choose */
	/* the migration thread's */
	int64_t why_ns; /* when it was last asked */
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

static void put_packet(struct gw_senders *ss, struct gw_sender *c,
		       struct gw_multifd_packet *p)
{
	p->number = __atomic_fetch_add(&ss->number, 1, __ATOMIC_RELAXED);
	gw_multifd_put_packet(&c->out, p);
}

/*
 * @n pages at @p, which is byte @offset of its block. They are the VM's own
 * if they are where that is, and not copied for somebody. Many of them go by
 * reference where a channel can: the peer copies them out of the VM's RAM.
 */
static int put_piece(struct gw_senders *ss, struct gw_sender *c,
		     uint64_t offset, const uint8_t *p, uint32_t n,
		     struct gw_error *err)
{
	const struct gw_ramblock *b = &ss->ram->block[c->block];
	size_t len = (size_t)n * GW_PAGE_SIZE;
	int r = -ENOTSUP;

	if (c->refer && n >= REFER_PAGES && b->fd >= 0 &&
	    p == b->host + offset) {
		r = gw_write_flush(&c->out, err);
		if (!r)
			r = gw_chan_sendfile(c->chan, b->fd,
					     b->fd_offset + offset, len, err);
		c->refer = r != -ENOTSUP;
	}
	if (r != -ENOTSUP)
		return r;
	gw_write_ref(&c->out, p, len);
	return 0;
}

/* The pages as they are, neighbours as one piece. */
static int put_plain(struct gw_senders *ss, struct gw_sender *c,
		     const uint8_t *const *page, uint32_t n,
		     struct gw_error *err)
{
	uint32_t at, len;
	int r = 0;

	c->packet.payload = n * GW_PAGE_SIZE;
	put_packet(ss, c, &c->packet);
	for (at = 0; at < n && !r; at += len) {
		len = 1;
		while (at + len < n &&
		       page[at] + (uint64_t)len * GW_PAGE_SIZE ==
			       page[at + len])
			len++;
		r = put_piece(ss, c, c->packet.offset[at], page[at], len, err);
	}
	return r;
}

static int put_compressed(struct gw_senders *ss, struct gw_sender *c,
			  const uint8_t *const *page, uint32_t n,
			  enum gw_page_class class, struct gw_error *err)
{
	int64_t t0 = gw_now_ns();
	const uint8_t *out = NULL;
	size_t len = 0;
	int r = n ? gw_deflate_pages(c->z, page, n, &out, &len, err) : 0;

	if (r)
		return r;
	c->packet.payload = (uint32_t)len;
	put_packet(ss, c, &c->packet);
	gw_write_ref(&c->out, out, len);
	add(&c->ncompressed, n);
	add(&c->bytes_in, (uint64_t)n * GW_PAGE_SIZE);
	add(&c->bytes_out, len);
	if (ss->plan.choose && n)
		gw_choice_compressed(&ss->choice, class,
				     (uint64_t)n * GW_PAGE_SIZE, len,
				     gw_now_ns() - t0);
	return 0;
}

/* Pages and what else is in the writer are referenced up to here. */
static int flush(struct gw_senders *ss, struct gw_sender *c, bool plain,
		 struct gw_error *err)
{
	uint64_t before = gw_chan_bytes_written(c->chan);
	int64_t t0 = ss->plan.choose ? gw_now_ns() : 0, t1;
	int r = gw_write_flush(&c->out, err);

	if (r || !ss->plan.choose)
		return r;
	t1 = gw_now_ns();
	gw_choice_wrote(&ss->choice, plain,
			gw_chan_bytes_written(c->chan) - before, t1 - t0, t1);
	return 0;
}

/* @n pages of @class from its number @at, and whatever is zero. */
static int send_packet(struct gw_senders *ss, struct gw_sender *c,
		       enum gw_page_class class, uint32_t at, uint32_t n,
		       bool compress, struct gw_error *err)
{
	const uint8_t *const *page = c->whole[class].page + at;
	struct gw_multifd_packet *p = &c->packet;
	int r = 0;

	p->flags = compress ? ss->method : GW_MULTIFD_NOCOMP;
	p->normal = n;
	p->zero = c->nzero;
	memcpy(p->offset, c->whole[class].offset + at,
	       n * sizeof(p->offset[0]));
	memcpy(p->offset + n, c->zero, p->zero * sizeof(p->offset[0]));
	c->nzero = 0;
	if (compress)
		r = put_compressed(ss, c, page, n, class, err);
	else
		r = put_plain(ss, c, page, n, err);
	if (!r)
		r = flush(ss, c, !compress, err);
	add(&c->nnormal, n);
	add(&c->nzeros, p->zero);
	return r;
}

static int send_class(struct gw_senders *ss, struct gw_sender *c,
		      enum gw_page_class class, struct gw_error *err)
{
	uint32_t n = c->whole[class].n, sample = 0;
	bool compress = ss->method;
	enum gw_choose choose;
	int r = 0;

	if (!n)
		return 0;
	if (ss->plan.choose) {
		choose = gw_choice_ask(&ss->choice, class, gw_now_ns());
		compress = choose == GW_CHOOSE_COMPRESS;
		if (choose == GW_CHOOSE_SAMPLE)
			sample = n < GW_CHOICE_SAMPLE ? n : GW_CHOICE_SAMPLE;
	}
	if (sample)
		r = send_packet(ss, c, class, 0, sample, true, err);
	if (!r && n > sample)
		r = send_packet(ss, c, class, sample, n - sample, compress,
				err);
	return r;
}

static int send_deltas(struct gw_senders *ss, struct gw_sender *c,
		       struct gw_error *err)
{
	struct gw_multifd_packet *p = &c->deltas;

	p->flags = GW_MULTIFD_DELTA;
	p->payload += 2 * p->normal;
	put_packet(ss, c, p);
	gw_write_bytes(&c->out, c->len, 2 * p->normal);
	gw_write_ref(&c->out, c->delta, p->payload - 2 * p->normal);
	return flush(ss, c, false, err);
}

/* --- sorting out ---------------------------------------------------------- */

static void add_delta(struct gw_sender *c, uint64_t addr, int len)
{
	struct gw_multifd_packet *p = &c->deltas;

	gw_put_be16(c->len + 2 * p->normal, (uint16_t)len);
	p->offset[p->normal++] = addr;
	p->payload += (uint32_t)len;
}

static void add_whole(struct gw_sender *c, enum gw_page_class class,
		      uint64_t addr, const uint8_t *bytes)
{
	struct batch *b = &c->whole[class];

	b->page[b->n] = bytes;
	b->offset[b->n++] = addr;
}

/* Only for a choice: otherwise all go in one packet. */
static enum gw_page_class class_of(const struct gw_senders *ss,
				   enum gw_encoded what)
{
	if (!ss->plan.choose || ss->first)
		return GW_PAGES_FIRST;
	return what == GW_ENCODED_OVERFLOW ? GW_PAGES_OVERFLOW
					   : GW_PAGES_CHANGED;
}

/* A page may change after it was looked at: then it comes again. */
static void sort_page(struct gw_senders *ss, struct gw_sender *c, int block,
		      uint64_t page)
{
	uint64_t addr = page << GW_PAGE_BITS;
	const uint8_t *host = gw_source_host(ss->s, block) + addr;
	uint8_t *copy = c->copy ? c->copy + c->ncopied : NULL;
	uint8_t *delta = c->delta ? c->delta + c->deltas.payload : NULL;
	enum gw_encoded what = GW_ENCODED_WHOLE;
	int len = 0;

	if (ss->plan.encode)
		what = gw_encode_page(&ss->s->encode, block, page, host, copy,
				      delta, &len);
	switch (what) {
	case GW_ENCODED_SAME:
	case GW_ENCODED_FILL: /* never: e->fill is off */
		break;
	case GW_ENCODED_ZERO:
		c->zero[c->nzero++] = addr;
		break;
	case GW_ENCODED_DELTA:
		add_delta(c, addr, len);
		break;
	case GW_ENCODED_COPY:
	case GW_ENCODED_OVERFLOW:
		c->ncopied += GW_PAGE_SIZE;
		host = copy;
		/* fall through */
	case GW_ENCODED_WHOLE:
		add_whole(c, class_of(ss, what), addr, host);
	}
}

static void sort_out(struct gw_senders *ss, struct gw_sender *c,
		     const struct gw_task *t)
{
	for (int i = 0; i < GW_PAGE_CLASSES; i++)
		c->whole[i].n = 0;
	c->deltas.normal = c->deltas.payload = c->nzero = 0;
	c->ncopied = 0;
	for (uint32_t k = 0; k < t->nruns; k++) {
		const struct gw_run *run = &t->run[k];
		uint64_t end = run->first + run->n;

		for (uint64_t page = run->first; page < end; page++)
			if (run->zero)
				c->zero[c->nzero++] = page << GW_PAGE_BITS;
			else
				sort_page(ss, c, t->block, page);
	}
}

/* --- a channel's thread --------------------------------------------------- */

static int send_task(void *arg, unsigned int i, const struct gw_task *t,
		     struct gw_error *err)
{
	struct gw_senders *ss = arg;
	struct gw_sender *c = &ss->sender[i];
	const char *idstr = ss->ram->block[t->block].idstr;
	int r = 0;

	c->block = t->block;
	memcpy(c->packet.idstr, idstr, sizeof(c->packet.idstr));
	memcpy(c->deltas.idstr, idstr, sizeof(c->deltas.idstr));
	sort_out(ss, c, t);
	for (int k = 0; k < GW_PAGE_CLASSES && !r; k++)
		r = send_class(ss, c, (enum gw_page_class)k, err);
	if (!r && c->nzero) /* no other packet took them along */
		r = send_packet(ss, c, GW_PAGES_FIRST, 0, 0,
				ss->method && !ss->plan.choose, err);
	if (!r && c->deltas.normal)
		r = send_deltas(ss, c, err);
	return r;
}

static int send_sync(void *arg, unsigned int i, struct gw_error *err)
{
	struct gw_senders *ss = arg;
	struct gw_sender *c = &ss->sender[i];

	c->packet = (struct gw_multifd_packet){ .flags = GW_MULTIFD_SYNC };
	put_packet(ss, c, &c->packet);
	return gw_write_flush(&c->out, err);
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

		now->normal +=
			__atomic_exchange_n(&c->nnormal, 0, __ATOMIC_RELAXED);
		now->duplicate +=
			__atomic_exchange_n(&c->nzeros, 0, __ATOMIC_RELAXED);
		now->compress_pages += get(&c->ncompressed);
		now->compress_in += get(&c->bytes_in);
		now->compress_out += get(&c->bytes_out);
	}
}

/* The limit may change, and the reasons do. */
static void follow(struct gw_senders *ss)
{
	struct gw_source *s = ss->s;
	int64_t now = gw_now_ns();

	gw_choice_limit(&ss->choice, s->unlimited ? 0 : s->limit.bps, now);
	if (now - ss->why_ns < 100 * GW_NS_PER_MS)
		return;
	ss->why_ns = now;
	gw_choice_why(&ss->choice, ss->plan.method, s->now->compress_why,
		      sizeof(s->now->compress_why));
}

static int tick(void *arg, struct gw_error *err)
{
	struct gw_senders *ss = arg;

	account(ss->s);
	if (ss->plan.choose)
		follow(ss);
	return gw_source_tick(ss->s, err);
}

int gw_senders_add(struct gw_source *s, int block, uint64_t first, uint64_t n,
		   bool zero, struct gw_error *err)
{
	return gw_workers_add(&s->senders->workers, block, first, n, zero, err);
}

int gw_senders_sync(struct gw_source *s, struct gw_error *err)
{
	struct gw_senders *ss = s->senders;
	int r = gw_workers_drain(&ss->workers, err);

	account(s);
	ss->first = false;
	ss->why_ns = 0;
	if (ss->plan.choose)
		follow(ss);
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
	return c->copy && c->delta
		       ? 0
		       : gw_fail(err, ENOMEM, "no memory for a channel");
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
	c->chan->stop = s->c.chan ? s->c.chan->stop : NULL;
	c->chan->write_timeout_ms = p->idle_timeout_ns / GW_NS_PER_MS;
	gw_writer_init(&c->out, gw_chan_flush, c->chan);
	c->refer = ss->plan.refer;
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
	ss->first = true;
	gw_choice_init(&ss->choice, p->n, gw_now_ns());
	ss->method = !p->method			  ? GW_MULTIFD_NOCOMP
		     : !strcmp(p->method, "zlib") ? GW_MULTIFD_ZLIB
						  : GW_MULTIFD_ZSTD;
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
	if (ss->plan.choose)
		gw_info("compress auto: %s", ss->s->now->compress_why);
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
