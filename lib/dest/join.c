/* SPDX-License-Identifier: BSD-3-Clause */
/* join.c - see join.h. */
#include "dest/join.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "wire/multifd.h"

#define GW_LOG_MODULE "dest"
#include "base/log.h"

#define HELLO_MS 5000 /* a stranger that says nothing costs no more */

int gw_join_session(uint8_t session[GW_HELLO_SESSION], struct gw_error *err)
{
	if (getrandom(session, GW_HELLO_SESSION, 0) != GW_HELLO_SESSION)
		return gw_fail_errno(err, errno, "getrandom");
	return 0;
}

/* Exactly the hello: what follows is read by whoever serves the channel. */
static int read_hello(struct gw_chan *chan, const uint8_t *head, size_t have,
		      unsigned int n, struct gw_multifd_hello *h,
		      struct gw_error *err)
{
	uint8_t buf[GW_MULTIFD_HELLO_SIZE];
	struct gw_reader r;

	if (have)
		memcpy(buf, head, have);
	while (have < sizeof(buf)) {
		struct iovec iov = { buf + have, sizeof(buf) - have };
		ssize_t got = gw_chan_readv(chan, &iov, 1, err);

		if (got < 0)
			return (int)got;
		if (!got)
			return gw_fail_as(err, GW_FAULT_INPUT, ECONNRESET,
					  "%s closed after %zu bytes",
					  chan->peer, have);
		have += (size_t)got;
	}
	gw_reader_init_mem(&r, buf, sizeof(buf));
	return gw_multifd_get_hello(&r, n, h) ? gw_read_check(&r, err) : 0;
}

static int admit(const struct gw_join *j, const struct gw_chan *chan,
		 const struct gw_multifd_hello *h, struct gw_error *err)
{
	const uint8_t *session = j->session ? j->session :
				 j->joined  ? j->first :
					      h->uuid;

	if (memcmp(h->uuid, session, sizeof(h->uuid)))
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "%s belongs to another migration",
				  chan->peer);
	if (j->chan[h->id])
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "%s says it is connection %u, which is here already",
				  chan->peer, h->id);
	return 0;
}

int gw_join_take(struct gw_join *j, struct gw_chan *chan, const uint8_t *head,
		 size_t nhead, int64_t timeout_ms, struct gw_error *err)
{
	int64_t limit = chan->read_timeout_ms;
	struct gw_multifd_hello h;
	int r;

	chan->cancel = j->cancel;
	chan->read_timeout_ms = timeout_ms >= 0 && timeout_ms < HELLO_MS ?
					timeout_ms :
					HELLO_MS;
	r = read_hello(chan, head, nhead, j->n, &h, err);
	chan->read_timeout_ms = limit;
	if (!r)
		r = admit(j, chan, &h, err);
	if (r)
		return r;
	memcpy(j->first, h.uuid, sizeof(j->first));
	j->chan[h.id] = chan;
	j->joined++;
	return 0;
}

/* One more, or nobody of ours. @left: ms to wait for it. */
static int take_next(struct gw_join *j, int64_t left, struct gw_error *err)
{
	struct gw_chan *c = gw_listener_accept(j->listener, left, j->cancel,
					       err);
	struct gw_error why = { 0 };
	int r;

	if (!c)
		return -err->code;
	r = gw_join_take(j, c, NULL, 0, left ? left : HELLO_MS, &why);
	if (!r)
		return 0;
	gw_chan_close(c);
	if (r == -ECANCELED)
		*err = why;
	else
		gw_info("not one of ours: %s", why.msg);
	return r == -ECANCELED ? r : 0;
}

int gw_join_wait(struct gw_join *j, int64_t timeout_ms, struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(timeout_ms);

	while (j->joined < j->n) {
		int r = take_next(j, gw_deadline_left_ms(deadline), err);

		if (!r)
			continue;
		gw_error_prefix(err, "%u of %u further connections came",
				j->joined, j->n);
		return r;
	}
	return 0;
}

/* The numbers up to the highest. */
static unsigned int announced(const struct gw_join *j)
{
	unsigned int i = j->n;

	while (i && !j->chan[i - 1])
		i--;
	return i;
}

int gw_join_rest(struct gw_join *j, unsigned int least, int64_t timeout_ms,
		 struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(timeout_ms);
	struct gw_error none = { 0 };
	int r = 0;

	while (!r)
		r = take_next(j, 0, &none);
	if (r != -ETIMEDOUT) {
		*err = none;
		return r;
	}
	while (j->joined < announced(j) || j->joined < least) {
		r = take_next(j, gw_deadline_left_ms(deadline), err);
		if (!r)
			continue;
		gw_error_prefix(err, "%u further connections came, not all",
				j->joined);
		return r;
	}
	j->n = j->joined;
	return 0;
}

void gw_join_close(struct gw_join *j)
{
	for (unsigned int i = 0; i < j->n; i++) {
		gw_chan_close(j->chan[i]);
		j->chan[i] = NULL;
	}
	j->joined = 0;
}
