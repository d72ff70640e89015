/* SPDX-License-Identifier: BSD-3-Clause */
/* peer_sink.c - see peer_sink.h. */
#include "image/peer_sink.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/reader.h"
#include "image/stream_sink.h"
#include "wire/section.h"

struct peer {
	struct gw_chan *chan;
	struct gw_reader in; /* the return path */
	int64_t handover_ms;
};

/*
 * It is gone, or said no. A QEMU that does not like what it reads exits, with
 * its reasons on stderr; nothing of them travels.
 */
static int gone(struct peer *p, struct gw_error *err)
{
	if (err->code != EPIPE && err->code != ECONNRESET)
		return -err->code;
	return gw_fail_as(err, GW_FAULT_REFUSED, ECONNRESET,
			  "the QEMU at %s closed the connection: it does not take this VM (another machine type, RAM size or set of devices?). Its stderr says why",
			  p->chan->peer);
}

static int flush(void *arg, struct iovec *iov, int niov, struct gw_error *err)
{
	struct peer *p = arg;
	int r = gw_chan_writev(p->chan, iov, niov, err);

	return r ? gone(p, err) : 0;
}

static int get(struct peer *p, struct gw_rp_record *m, struct gw_error *err)
{
	int r;

	if (!gw_rp_get(&p->in, m)) {
		if (m->type != GW_RP_SHUT || !m->value)
			return 0;
		return gw_fail_as(err, GW_FAULT_REFUSED, EREMOTEIO,
				  "the QEMU at %s says that it failed to load the VM (SHUT %u). Its stderr says why",
				  p->chan->peer, m->value);
	}
	r = gw_read_check(&p->in, err);
	return r == -ECONNRESET ? gone(p, err) : r;
}

/* Messages up to @type with @value. */
static int wait_for(struct peer *p, enum gw_rp type, uint32_t value,
		    const char *what, struct gw_error *err)
{
	struct gw_rp_record m;
	int r;

	p->chan->read_timeout_ms = p->handover_ms;
	do {
		r = get(p, &m, err);
		if (r == -ETIMEDOUT)
			return gw_fail(err, ETIMEDOUT,
				       "the QEMU at %s did not %s within %lld ms (--handover-timeout)",
				       p->chan->peer, what,
				       (long long)p->handover_ms);
		if (!r && m.type == GW_RP_SHUT && type != GW_RP_SHUT)
			return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
					  "the QEMU at %s ends the migration too early",
					  p->chan->peer);
	} while (!r && (m.type != type || m.value != value));
	return r;
}

static int ready(void *arg, struct gw_error *err)
{
	struct peer *p = arg;
	int r = wait_for(p, GW_RP_PONG, GW_STREAM_PING_READY,
			 "take the device state in", err);

	if (!r)
		p->chan->cancel = NULL; /* from here on it is too late */
	return r;
}

static int finish(void *arg, int r, struct gw_error *err)
{
	struct peer *p = arg;

	if (!r)
		r = wait_for(p, GW_RP_SHUT, 0, "confirm that it has the VM",
			     err);
	/* SHUT says for certain that it does not run there. */
	if (r && r != -EREMOTEIO)
		err->fault = GW_FAULT_UNCERTAIN;
	return r;
}

static int check(void *arg, struct gw_error *err)
{
	struct peer *p = arg;
	struct gw_rp_record m;
	int r = 0;

	while (!r && (p->in.pos < p->in.end || gw_chan_readable(p->chan))) {
		r = get(p, &m, err);
		if (!r && m.type == GW_RP_SHUT)
			r = gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				       "the QEMU at %s ends the migration too early",
				       p->chan->peer);
	}
	return r;
}

static void close_peer(void *arg)
{
	struct peer *p = arg;

	gw_reader_fini(&p->in);
	gw_chan_close(p->chan);
	free(p);
}

struct gw_sink *gw_sink_peer(struct gw_chan *chan, bool channels,
			     const struct godwit_params *params,
			     const struct gw_cancel *cancel,
			     struct gw_error *err)
{
	const struct gw_stream_out out = { .name = "qemu",
					   .flush = flush,
					   .runs_it = true,
					   .return_path = true,
					   .channels = channels,
					   .ready = ready,
					   .finish = finish,
					   .check = check,
					   .close = close_peer };
	struct peer *p = calloc(1, sizeof(*p));

	if (!p || gw_reader_init(&p->in, gw_chan_refill, chan, 4096, err)) {
		free(p);
		gw_chan_close(chan);
		gw_fail(err, ENOMEM, "no memory for a connection");
		return NULL;
	}
	p->chan = chan;
	p->handover_ms = params->handover_timeout_ns / GW_NS_PER_MS;
	chan->cancel = cancel;
	chan->read_timeout_ms = chan->write_timeout_ms =
		params->idle_timeout_ns / GW_NS_PER_MS;
	return gw_sink_stream(&out, p, err);
}
