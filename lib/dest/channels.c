/* SPDX-License-Identifier: BSD-3-Clause */
/* channels.c - see channels.h. */
#include "dest/channels.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"
#include "page/inflate.h"
#include "page/xbzrle.h"

#define TICK_MS	 100  /* progress goes on while the main thread waits */
#define GRACE_MS 1000 /* for a reason behind a lost channel */
#define PAGES	GW_MULTIFD_PAGES

struct gw_channel {
	/* set once */
	struct gw_channels *all;
	struct gw_chan *chan;
	unsigned int id;
	pthread_t thread;
	uint8_t *payload; /* GW_MULTIFD_MAX_PAYLOAD */
	uint8_t *pages;	  /* a packet's, when they cannot be read in place */
	/* its thread's */
	uint8_t head[GW_MULTIFD_PACKET_SIZE];
	size_t nhead; /* bytes of the next header that are there */
	struct gw_multifd_packet p;
	int block; /* of p */
	struct gw_inflate *zlib, *zstd;
	uint8_t *page[PAGES]; /* where p's normal pages go */
	struct iovec iov[PAGES];
	bool lost;  /* its connection, that is why it fails */
	bool moved; /* it had something to say since the last release */
	bool ended; /* in good order */
	bool started; /* the main thread's */
	/* guarded by all->lock */
	bool waiting;
	uint64_t last; /* the highest number of a packet */
	/* atomic: taken away by gw_channels_count() */
	uint64_t normal, zero, deltas, delta_bytes, packed, packed_in,
		packed_out;
	const char *method; /* atomic: of compression */
};

/* --- failures ------------------------------------------------------------ */

static void fail(struct gw_channel *ch, const struct gw_error *err)
{
	struct gw_channels *c = ch->all;
	bool first;

	pthread_mutex_lock(&c->lock);
	first = !c->quit && !c->failed.code;
	if (first) {
		c->failed = *err;
		c->lost = ch->lost;
		__atomic_store_n(&c->broken, true, __ATOMIC_RELEASE);
		pthread_cond_broadcast(&c->released);
		pthread_cond_signal(&c->arrived);
	}
	pthread_mutex_unlock(&c->lock);
	if (first)
		gw_cancel_request(&c->stop);
}

int gw_channels_check(struct gw_channels *c, struct gw_error *err)
{
	if (!__atomic_load_n(&c->broken, __ATOMIC_ACQUIRE))
		return 0;
	*err = c->failed;
	return -err->code;
}

/* --- bytes --------------------------------------------------------------- */

static uint64_t channel_bytes(const struct gw_channels *c)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < c->n; i++)
		sum += gw_chan_bytes_read(c->channel[i].chan);
	return sum;
}

static uint64_t all_bytes(const struct gw_channels *c)
{
	return gw_chan_bytes_read(c->main) + channel_bytes(c);
}

/* Idle is who is idle with all the others. */
static ssize_t readv_any(struct gw_channels *c, struct gw_chan *chan,
			 const struct iovec *iov, int niov,
			 struct gw_error *err)
{
	for (;;) {
		uint64_t before = c->n ? all_bytes(c) : 0;
		ssize_t n = gw_chan_readv(chan, iov, niov, err);

		if (n != -ETIMEDOUT || !c->n || all_bytes(c) == before)
			return n;
		memset(err, 0, sizeof(*err));
	}
}

/* Is there a word from the source on the main connection why a channel broke?
 * Nothing else that comes is of use any more. */
static bool may_explain(struct gw_channels *c)
{
	return c->explains && __atomic_load_n(&c->broken, __ATOMIC_ACQUIRE) &&
	       c->lost;
}

static ssize_t read_reason(struct gw_channels *c, const struct iovec *iov,
			   int niov, struct gw_error *err)
{
	ssize_t n;

	if (!c->grace)
		c->grace = gw_deadline_ms(GRACE_MS);
	c->main->stop = NULL;
	c->main->read_timeout_ms = gw_deadline_left_ms(c->grace);
	n = gw_chan_readv(c->main, iov, niov, err);
	return n > 0 || n == -ECANCELED ? n : gw_channels_check(c, err);
}

ssize_t gw_channels_refill(void *arg, const struct iovec *iov, int niov,
			   struct gw_error *err)
{
	struct gw_channels *c = arg;
	struct gw_error why;
	ssize_t n;

	if (may_explain(c))
		return read_reason(c, iov, niov, err);
	if (gw_channels_check(c, err))
		return -err->code;
	n = readv_any(c, c->main, iov, niov, err);
	/* A read that a failing channel ended has nothing to say itself. */
	if (n != -ECANCELED || !gw_channels_check(c, &why))
		return n;
	memset(err, 0, sizeof(*err));
	if (may_explain(c))
		return read_reason(c, iov, niov, err);
	*err = why;
	return -why.code;
}

static ssize_t read_some(struct gw_channel *ch, const struct iovec *iov,
			 int niov, struct gw_error *err)
{
	ssize_t n = readv_any(ch->all, ch->chan, iov, niov, err);

	ch->lost = n <= 0;
	return n;
}

/* A header, also one that was begun before. Return: 0; 1: the end, where a
 * packet could begin; -errno. */
static int read_head(struct gw_channel *ch, struct gw_error *err)
{
	while (ch->nhead < sizeof(ch->head)) {
		struct iovec iov = { ch->head + ch->nhead,
				     sizeof(ch->head) - ch->nhead };
		ssize_t n = read_some(ch, &iov, 1, err);

		if (n < 0)
			return (int)n;
		if (!n && !ch->nhead)
			return 1;
		if (!n)
			return gw_fail(err, ECONNRESET,
				       "the connection ends within a header");
		ch->nhead += (size_t)n;
	}
	ch->nhead = 0;
	return 0;
}

/* All of @iov, which is used up. */
static int read_payload(struct gw_channel *ch, struct iovec *iov, int niov,
			struct gw_error *err)
{
	while (niov) {
		ssize_t n = read_some(ch, iov, niov, err);

		if (n < 0)
			return (int)n;
		if (!n)
			return gw_fail(err, ECONNRESET,
				       "the connection ends within a packet");
		while (niov && (size_t)n >= iov->iov_len) {
			n -= (ssize_t)iov->iov_len;
			iov++;
			niov--;
		}
		if (n) {
			iov->iov_base = (uint8_t *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

/* --- the pages of a packet ----------------------------------------------- */

/* Normal or zero pages from the @i-th on that follow each other. */
static uint32_t run_at(const struct gw_multifd_packet *p, uint32_t i,
		       uint32_t end)
{
	uint32_t n = 1;

	while (i + n < end &&
	       p->offset[i + n] == p->offset[i] + (uint64_t)n * GW_PAGE_SIZE)
		n++;
	return n;
}

/* Which block; are all pages within it? */
static int check_pages(struct gw_channel *ch, struct gw_error *err)
{
	const struct gw_ram_table *t = ch->all->place->table;
	const struct gw_multifd_packet *p = &ch->p;

	if (ch->block < 0 || strcmp(t->entry[ch->block].idstr, p->idstr))
		ch->block = gw_ram_table_find(t, p->idstr);
	if (ch->block < 0)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "there is no such block");
	for (uint32_t i = 0; i < p->normal + p->zero; i++)
		if (p->offset[i] >= t->entry[ch->block].used_length)
			return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
					  "a page at 0x%llx of a block with 0x%llx bytes",
					  (unsigned long long)p->offset[i],
					  (unsigned long long)t->entry[ch->block]
						  .used_length);
	return 0;
}

/* Where the normal pages go: in place, or at first into ch->pages. @iov and
 * *@niov have the same, in as few pieces as possible. */
static int make_room(struct gw_channel *ch, int *niov, struct gw_error *err)
{
	struct gw_place *place = ch->all->place;
	const struct gw_multifd_packet *p = &ch->p;
	uint32_t n;

	*niov = 0;
	for (uint32_t i = 0; i < p->normal; i += n) {
		uint8_t *host = ch->pages + (size_t)i * GW_PAGE_SIZE;

		n = place->ops->room ? run_at(p, i, p->normal) : p->normal;
		if (place->ops->room &&
		    place->ops->room(place, ch->block,
				     p->offset[i] >> GW_PAGE_BITS, n, &host,
				     err))
			return -err->code;
		ch->iov[(*niov)++] = (struct iovec){ host, (size_t)n *
								   GW_PAGE_SIZE };
		for (uint32_t k = 0; k < n; k++)
			ch->page[i + k] = host + (size_t)k * GW_PAGE_SIZE;
	}
	return 0;
}

static int inflate_pages(struct gw_channel *ch, struct gw_error *err)
{
	const struct gw_multifd_packet *p = &ch->p;
	bool zstd = p->flags & GW_MULTIFD_ZSTD;
	struct gw_inflate **z = zstd ? &ch->zstd : &ch->zlib;

	/* Which method comes is not known before. */
	if (!*z)
		*z = gw_inflate_new(zstd ? "zstd" : "zlib", err);
	if (!*z || gw_inflate_pages(*z, ch->payload, p->payload, ch->page,
				    p->normal, err))
		return -err->code;
	__atomic_store_n(&ch->method, zstd ? "zstd" : "zlib",
			 __ATOMIC_RELAXED);
	__atomic_fetch_add(&ch->packed, p->normal, __ATOMIC_RELAXED);
	__atomic_fetch_add(&ch->packed_in, (uint64_t)p->normal * GW_PAGE_SIZE,
			   __ATOMIC_RELAXED);
	__atomic_fetch_add(&ch->packed_out, p->payload, __ATOMIC_RELAXED);
	return 0;
}

/* One be16 per page, then so many bytes for each. */
static int apply_deltas(struct gw_channel *ch, struct gw_error *err)
{
	const struct gw_multifd_packet *p = &ch->p;
	const uint8_t *at = ch->payload + 2 * (size_t)p->normal;
	const uint8_t *end = ch->payload + p->payload;

	for (uint32_t i = 0; i < p->normal; i++) {
		uint16_t len = gw_get_be16(ch->payload + 2 * (size_t)i);

		if (!len || len > GW_PAGE_SIZE || len > end - at)
			return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
					  "a delta of %u bytes for the page at 0x%llx where %td are left",
					  len, (unsigned long long)p->offset[i],
					  end - at);
		if (len == GW_PAGE_SIZE)
			memcpy(ch->page[i], at, len);
		else if (gw_xbzrle_decode(at, len, ch->page[i]))
			return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
					  "the delta of %u bytes for the page at 0x%llx is damaged",
					  len, (unsigned long long)p->offset[i]);
		at += len;
		if (len == GW_PAGE_SIZE)
			continue;
		__atomic_fetch_add(&ch->deltas, 1, __ATOMIC_RELAXED);
		__atomic_fetch_add(&ch->delta_bytes, len, __ATOMIC_RELAXED);
	}
	if (at != end)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "%td bytes behind the last delta", end - at);
	return 0;
}

/* Read what belongs to the normal pages and make it pages. */
static int get_pages(struct gw_channel *ch, struct gw_error *err)
{
	const struct gw_multifd_packet *p = &ch->p;
	struct iovec whole = { ch->payload, p->payload };
	int niov, r = make_room(ch, &niov, err);

	if (r)
		return r;
	if (!(p->flags & (GW_MULTIFD_COMPRESSION | GW_MULTIFD_DELTA)))
		return read_payload(ch, ch->iov, niov, err);
	r = read_payload(ch, &whole, 1, err);
	if (r)
		return r;
	return p->flags & GW_MULTIFD_DELTA ? apply_deltas(ch, err) :
					     inflate_pages(ch, err);
}

static int put_pages(struct gw_channel *ch, struct gw_error *err)
{
	struct gw_place *place = ch->all->place;
	const struct gw_multifd_packet *p = &ch->p;
	uint32_t n;
	int r = 0;

	for (uint32_t i = 0; i < p->normal && !r; i += n) {
		n = run_at(p, i, p->normal);
		r = place->ops->pages(place, ch->block,
				      p->offset[i] >> GW_PAGE_BITS, n,
				      ch->page[i], err);
	}
	return r;
}

static int put_zeros(struct gw_channel *ch, struct gw_error *err)
{
	struct gw_place *place = ch->all->place;
	const struct gw_multifd_packet *p = &ch->p;
	uint32_t end = p->normal + p->zero, n;
	int r = 0;

	for (uint32_t i = p->normal; i < end && !r; i += n) {
		n = run_at(p, i, end);
		r = place->ops->zeros(place, ch->block,
				      p->offset[i] >> GW_PAGE_BITS, n, err);
	}
	return r;
}

static int place_packet(struct gw_channel *ch, struct gw_error *err)
{
	const struct gw_multifd_packet *p = &ch->p;
	int r;

	if (p->flags & GW_MULTIFD_DELTA &&
	    (!ch->all->deltas || !ch->all->place->ops->room))
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "deltas were not agreed on");
	r = check_pages(ch, err);
	if (!r && p->normal)
		r = get_pages(ch, err);
	if (!r && p->normal && ch->all->place->ops->pages)
		r = put_pages(ch, err);
	if (!r && p->zero)
		r = put_zeros(ch, err);
	if (r)
		return r;
	__atomic_fetch_add(&ch->normal, p->normal, __ATOMIC_RELAXED);
	__atomic_fetch_add(&ch->zero, p->zero, __ATOMIC_RELAXED);
	return 0;
}

/* --- a channel ----------------------------------------------------------- */

static int get_packet(struct gw_channel *ch, struct gw_error *err)
{
	struct gw_reader in;
	int r = read_head(ch, err);

	if (r)
		return r;
	gw_reader_init_mem(&in, ch->head, sizeof(ch->head));
	return gw_multifd_get_packet(&in, &ch->p) ? gw_read_check(&in, err) : 0;
}

/* QEMU before 9.0 also sends packets with nothing at all. */
static bool is_empty(const struct gw_multifd_packet *p)
{
	return !(p->flags & GW_MULTIFD_SYNC) && !(p->normal + p->zero);
}

static void note_packet(struct gw_channel *ch)
{
	GW_LOCKED(&ch->all->lock);

	if (ch->p.number > ch->last)
		ch->last = ch->p.number;
}

/* SYNC was read. Return: 0 to go on, 1 to end. */
static int wait_release(struct gw_channel *ch)
{
	struct gw_channels *c = ch->all;
	uint64_t round;
	GW_LOCKED(&c->lock);

	round = c->round;
	ch->waiting = true;
	c->nwaiting++;
	pthread_cond_signal(&c->arrived);
	while (c->round == round && !c->quit && !c->failed.code)
		pthread_cond_wait(&c->released, &c->lock);
	ch->moved = false;
	return c->round == round;
}

/* The end where a packet could begin. It may be the end of all. */
static int end_of(struct gw_channel *ch, struct gw_error *err)
{
	struct gw_channels *c = ch->all;

	if (ch->moved)
		return gw_fail(err, ECONNRESET,
			       "the connection ends in the middle of a pass");
	GW_LOCKED(&c->lock);
	ch->ended = true;
	c->nended++;
	pthread_cond_signal(&c->arrived);
	return 1;
}

static void name_packet(const struct gw_channel *ch, bool have,
			struct gw_error *err)
{
	const struct gw_multifd_packet *p = &ch->p;

	if (!have)
		gw_error_prefix(err, "channel %u", ch->id);
	else if (p->idstr[0])
		gw_error_prefix(err, "channel %u, packet %llu, block '%s'",
				ch->id, (unsigned long long)p->number,
				p->idstr);
	else
		gw_error_prefix(err, "channel %u, packet %llu", ch->id,
				(unsigned long long)p->number);
}

/* Return: 0 for the next one, 1 at the end, -errno. */
static int next_packet(struct gw_channel *ch, struct gw_error *err)
{
	bool have;
	int r = gw_cancel_requested(ch->all->cancel) ? gw_cancel_fail(err) :
						       get_packet(ch, err);

	have = !r;
	if (have && !is_empty(&ch->p))
		ch->moved = true;
	if (r == 1)
		r = end_of(ch, err);
	if (!r && ch->p.normal + ch->p.zero)
		r = place_packet(ch, err);
	if (r < 0 && r != -ECANCELED)
		name_packet(ch, have, err);
	if (r)
		return r;
	note_packet(ch);
	return ch->p.flags & GW_MULTIFD_SYNC ? wait_release(ch) : 0;
}

static void *serve(void *arg)
{
	struct gw_channel *ch = arg;
	struct gw_error err = { 0 };
	int r;

	do
		r = next_packet(ch, &err);
	while (!r && !__atomic_load_n(&ch->all->quit, __ATOMIC_RELAXED));
	if (r < 0)
		fail(ch, &err);
	return NULL;
}

/* --- all of them --------------------------------------------------------- */

static void free_channels(struct gw_channels *c)
{
	for (unsigned int i = 0; i < c->n; i++) {
		struct gw_channel *ch = &c->channel[i];

		gw_inflate_free(ch->zlib);
		gw_inflate_free(ch->zstd);
		free(ch->payload);
		free(ch->pages);
	}
	free(c->channel);
	c->channel = NULL;
	c->n = 0;
	pthread_cond_destroy(&c->released);
	pthread_cond_destroy(&c->arrived);
	pthread_mutex_destroy(&c->lock);
	gw_cancel_fini(&c->stop);
}

static int init_one(struct gw_channel *ch, struct gw_channels *c,
		    struct gw_chan *chan, struct gw_error *err)
{
	bool in_place = c->place->ops->room;

	ch->all = c;
	ch->chan = chan;
	ch->id = (unsigned int)(ch - c->channel);
	ch->block = -1;
	ch->payload = malloc(GW_MULTIFD_MAX_PAYLOAD);
	if (!in_place)
		ch->pages = malloc((size_t)PAGES * GW_PAGE_SIZE);
	if (!ch->payload || (!in_place && !ch->pages))
		return gw_fail(err, ENOMEM, "no memory for channel %u",
			       ch->id);
	chan->cancel = c->cancel;
	chan->stop = &c->stop;
	chan->read_timeout_ms = c->idle_ms;
	return 0;
}

int gw_channels_start(struct gw_channels *c, struct gw_chan *const *chan,
		      unsigned int n, struct gw_error *err)
{
	int r = gw_cancel_init(&c->stop, err);

	if (r)
		return r;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->arrived, NULL);
	pthread_cond_init(&c->released, NULL);
	c->channel = calloc(n, sizeof(*c->channel));
	if (!c->channel)
		r = gw_fail(err, ENOMEM, "no memory for %u channels", n);
	else
		c->n = n; /* before the first thread looks */
	for (unsigned int i = 0; i < n && !r; i++)
		r = init_one(&c->channel[i], c, chan[i], err);
	c->main->stop = &c->stop;
	for (unsigned int i = 0; i < n && !r; i++) {
		struct gw_channel *ch = &c->channel[i];

		r = gw_thread_start(&ch->thread, "gw-channel", serve, ch, err);
		ch->started = !r;
	}
	if (r)
		gw_channels_stop(c);
	else
		c->progress->now.channels = n;
	return r;
}

/* Return: 0 when all stand at their SYNC, -EAGAIN when it is time for another
 * look at the clock. */
static int wait_all(struct gw_channels *c, struct gw_error *err)
{
	int64_t until = gw_now_ns() + TICK_MS * GW_NS_PER_MS;
	struct timespec ts = { until / GW_NS_PER_S, until % GW_NS_PER_S };
	int r = 0;
	GW_LOCKED(&c->lock);

	while (c->nwaiting < c->n && !c->nended && !c->failed.code && !r)
		r = pthread_cond_clockwait(&c->arrived, &c->lock,
					   CLOCK_MONOTONIC, &ts);
	if (c->failed.code) {
		if (!c->explains || !c->lost)
			*err = c->failed;
		return -c->failed.code;
	}
	if (c->nended)
		return gw_fail(err, ECONNRESET,
			       "%u of %u channels ended before they came to the end of this pass",
			       c->nended, c->n);
	return c->nwaiting == c->n ? 0 : -EAGAIN;
}

/* The first sync is the first packet of every channel, so they are numbered 0
 * to the number of channels. (Later QEMU before 9.0 leaves numbers out.) */
static int check_numbers(struct gw_channels *c, struct gw_error *err)
{
	uint64_t highest = 0;
	GW_LOCKED(&c->lock);

	for (unsigned int i = 0; i < c->n; i++)
		if (c->channel[i].last > highest)
			highest = c->channel[i].last;
	if (c->round || highest < c->n)
		return 0;
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "the first packet of one of %u channels has number %llu: there are more channels, say with --channels how many",
			  c->n, (unsigned long long)highest);
}

int gw_channels_hold(struct gw_channels *c, struct gw_error *err)
{
	int r;

	if (!c->n)
		return 0;
	while ((r = wait_all(c, err)) == -EAGAIN) {
		gw_channels_count(c);
		gw_progress_tick(c->progress);
	}
	/* Read on, for the reason: gw_channels_finish() fails in any case. */
	if (r && may_explain(c))
		return 0;
	return r || !c->numbered ? r : check_numbers(c, err);
}

void gw_channels_release(struct gw_channels *c)
{
	if (!c->n)
		return;
	GW_LOCKED(&c->lock);
	for (unsigned int i = 0; i < c->n; i++)
		c->channel[i].waiting = false;
	c->nwaiting = 0;
	c->round++;
	pthread_cond_broadcast(&c->released);
}

int gw_channels_sync(struct gw_channels *c, struct gw_error *err)
{
	int r = gw_channels_hold(c, err);

	if (!r)
		gw_channels_release(c);
	return r;
}

static void end_threads(struct gw_channels *c)
{
	pthread_mutex_lock(&c->lock);
	__atomic_store_n(&c->quit, true, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&c->released);
	pthread_mutex_unlock(&c->lock);
	c->main->stop = NULL;
	gw_cancel_request(&c->stop);
	for (unsigned int i = 0; i < c->n; i++) {
		struct gw_channel *ch = &c->channel[i];

		if (ch->started)
			pthread_join(ch->thread, NULL);
		ch->started = false;
		ch->chan->stop = NULL;
	}
}

/* Is there anything but the end, or empty packets? */
static bool has_more(struct gw_channel *ch)
{
	struct gw_error ignored = { 0 };

	ch->chan->read_timeout_ms = GRACE_MS;
	while (ch->nhead || gw_chan_readable(ch->chan)) {
		int r = get_packet(ch, &ignored);

		if (r || !is_empty(&ch->p))
			return r != 1;
	}
	return false;
}

int gw_channels_finish(struct gw_channels *c, struct gw_error *err)
{
	if (!c->n)
		return 0;
	end_threads(c);
	gw_channels_count(c);
	if (gw_channels_check(c, err))
		return -err->code;
	for (unsigned int i = 0; i < c->n; i++) {
		struct gw_channel *ch = &c->channel[i];

		if (ch->waiting || ch->moved ||
		    (!ch->ended && has_more(ch)))
			return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
					  "channel %u goes on after RAM was complete",
					  ch->id);
	}
	return 0;
}

void gw_channels_stop(struct gw_channels *c)
{
	if (!c->channel)
		return;
	end_threads(c);
	gw_channels_count(c);
	c->past += channel_bytes(c);
	free_channels(c);
}

static uint64_t take(uint64_t *n)
{
	return __atomic_exchange_n(n, 0, __ATOMIC_RELAXED);
}

void gw_channels_count(struct gw_channels *c)
{
	struct godwit_stats *now = &c->progress->now;

	for (unsigned int i = 0; i < c->n; i++) {
		struct gw_channel *ch = &c->channel[i];
		uint64_t packed = take(&ch->packed);

		now->normal += take(&ch->normal);
		now->duplicate += take(&ch->zero);
		now->xbzrle_pages += take(&ch->deltas);
		now->xbzrle_bytes += take(&ch->delta_bytes);
		now->compress_in += take(&ch->packed_in);
		now->compress_out += take(&ch->packed_out);
		now->compress_pages += packed;
		if (packed)
			now->compress = __atomic_load_n(&ch->method,
							__ATOMIC_RELAXED);
	}
	now->multifd_bytes = c->past + channel_bytes(c);
	now->transferred = gw_chan_bytes_read(c->main) + now->multifd_bytes;
}
