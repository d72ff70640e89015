/* SPDX-License-Identifier: BSD-3-Clause */
/* channels.c - see channels.h: the threads, their syncs, and how one failure
 * ends all of them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"
#include "dest/channel.h"
#include "page/inflate.h"

#define TICK_MS	 100  /* progress goes on while the main thread waits */
#define GRACE_MS 1000 /* for a reason behind a lost channel */

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

ssize_t gw_channels_readv(struct gw_channels *c, struct gw_chan *chan,
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
	n = gw_channels_readv(c, c->main, iov, niov, err);
	/* A read that a failing channel ended has nothing to say itself. */
	if (n != -ECANCELED || !gw_channels_check(c, &why))
		return n;
	memset(err, 0, sizeof(*err));
	if (may_explain(c))
		return read_reason(c, iov, niov, err);
	*err = why;
	return -why.code;
}

/* --- a channel ----------------------------------------------------------- */

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
	int r = gw_cancel_requested(ch->all->cancel) ? gw_cancel_fail(err)
						     : gw_channel_get(ch, err);

	have = !r;
	if (have && !gw_channel_empty(ch))
		__atomic_store_n(&ch->moved, true, __ATOMIC_RELEASE);
	if (r == 1)
		r = end_of(ch, err);
	if (!r && ch->p.normal + ch->p.zero)
		r = gw_channel_place(ch, err);
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
	bool aside = c->place->ops->pages;

	ch->all = c;
	ch->chan = chan;
	ch->id = (unsigned int)(ch - c->channel);
	ch->block = -1;
	ch->payload = malloc(GW_MULTIFD_MAX_PAYLOAD);
	if (aside)
		ch->pages = malloc((size_t)GW_MULTIFD_PAGES * GW_PAGE_SIZE);
	if (!ch->payload || (aside && !ch->pages))
		return gw_fail(err, ENOMEM, "no memory for channel %u", ch->id);
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
			       "%u of %u channels ended before they came to "
			       "the end of this pass",
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
	return gw_fail_as(
		err, GW_FAULT_INPUT, EPROTO,
		"the first packet of one of %u channels has number %llu: there "
		"are more channels, say with --channels how many",
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
	for (unsigned int i = 0; i < c->n; i++) {
		c->channel[i].waiting = false;
		__atomic_store_n(&c->channel[i].moved, false,
				 __ATOMIC_RELEASE);
	}
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

int gw_channels_rest(struct gw_channels *c, struct gw_error *err)
{
	for (unsigned int i = 0; i < c->n; i++)
		if (__atomic_load_n(&c->channel[i].moved, __ATOMIC_ACQUIRE))
			return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
					  "channel %u goes on where it was to wait",
					  i);
	return 0;
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
		int r = gw_channel_get(ch, &ignored);

		if (r || !gw_channel_empty(ch))
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

		if (ch->waiting || ch->moved || (!ch->ended && has_more(ch)))
			return gw_fail_as(
				err, GW_FAULT_INPUT, EPROTO,
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
			now->compress =
				__atomic_load_n(&ch->method, __ATOMIC_RELAXED);
	}
	now->multifd_bytes = c->past + channel_bytes(c);
	now->transferred = gw_chan_bytes_read(c->main) + now->multifd_bytes;
}
