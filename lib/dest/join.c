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
static int read_hello(struct gw_chan *chan, unsigned int n,
		      struct gw_multifd_hello *h, struct gw_error *err)
{
	uint8_t buf[GW_MULTIFD_HELLO_SIZE];
	struct gw_reader r;
	size_t have = 0;

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

int gw_join_take(struct gw_join *j, struct gw_chan *chan, int64_t timeout_ms,
		 struct gw_error *err)
{
	int64_t limit = chan->read_timeout_ms;
	struct gw_multifd_hello h;
	int r;

	chan->cancel = j->cancel;
	chan->read_timeout_ms = timeout_ms;
	r = read_hello(chan, j->n, &h, err);
	chan->read_timeout_ms = limit;
	if (!r && j->session && memcmp(h.uuid, j->session, sizeof(h.uuid)))
		r = gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			       "%s belongs to another migration", chan->peer);
	if (!r && j->chan[h.id])
		r = gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			       "%s says it is connection %u, which is here already",
			       chan->peer, h.id);
	if (r)
		return r;
	j->chan[h.id] = chan;
	j->joined++;
	return 0;
}

int gw_join_wait(struct gw_join *j, int64_t timeout_ms, struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(timeout_ms);

	while (j->joined < j->n) {
		struct gw_error why = { 0 };
		int64_t left = gw_deadline_left_ms(deadline);
		struct gw_chan *c = gw_listener_accept(j->listener, left,
						       j->cancel, err);
		int r;

		if (!c) {
			gw_error_prefix(err, "%u of %u connections came",
					j->joined, j->n);
			return -err->code;
		}
		r = gw_join_take(j, c, left >= 0 && left < HELLO_MS ? left :
								      HELLO_MS,
				 &why);
		if (!r)
			continue;
		gw_chan_close(c);
		if (r == -ECANCELED) {
			*err = why;
			return r;
		}
		gw_info("not one of ours: %s", why.msg);
	}
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
