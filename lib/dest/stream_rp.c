/* SPDX-License-Identifier: BSD-3-Clause */
/* stream_rp.c - see stream_rp.h; the reasons are in stream_in.h. */
#include "dest/stream_rp.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/pause.h"
#include "base/trace.h"

#define GW_LOG_MODULE "dest"
#include "base/log.h"

#define GOODBYE_MS 3000 /* for a source that is told to run on */

/*
 * A source with capability switchover-ack waits for one ack up to machine
 * types 11.0; newer ones fail when one comes that they did not ask for. The
 * capability is not in the stream.
 */
static bool wants_ack(const struct gw_stream_in *x)
{
	const char *dash = strrchr(x->s.config.machine, '-');
	unsigned int major, minor;

	if (!x->c.params->switchover_ack)
		return false;
	if (!dash || sscanf(dash, "-%u.%u", &major, &minor) != 2)
		return true;
	return major < 11 || (major == 11 && minor == 0);
}

int gw_stream_rp_command(struct gw_stream_in *x,
			 const struct gw_command_record *c,
			 struct gw_error *err)
{
	if (c->id == GW_CMD_OPEN_RETURN_PATH && wants_ack(x))
		gw_rp_put(&x->out, GW_RP_SWITCHOVER_ACK, 0);
	if (c->id == GW_CMD_PING && !x->s.return_path)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "a PING without a return path to answer on");
	if (c->id == GW_CMD_PING)
		gw_rp_put(&x->out, GW_RP_PONG, c->ping);
	return gw_write_flush(&x->out, err);
}

int gw_stream_rp_asked(struct gw_stream_in *x, size_t len, uint32_t ping,
		       struct gw_error *err)
{
	struct gw_sink *s = x->c.sink;
	int r = 0;

	/* A file has taken in what it has read; a VM has to load it. */
	if (s->runs_it && x->ready_at)
		r = gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			       "a second PING within the device state");
	else if (s->runs_it) {
		r = s->ops->device(s, x->tail.buf, len, NULL, 0, err);
		if (!r)
			r = s->ops->ready(s, err);
		x->ready_at = len;
	}
	if (r)
		return r;
	gw_rp_put(&x->out, GW_RP_PONG, ping);
	return gw_write_flush(&x->out, err);
}

/* --- the end of it ------------------------------------------------------ */

/* The end of a connection is not bad input. */
static void lost(struct gw_stream_in *x, struct gw_error *err)
{
	if (err->code != ECONNRESET || err->fault != GW_FAULT_INPUT)
		return;
	err->fault = GW_FAULT_FAILED;
	gw_error_prefix(err, "lost the source %s", x->c.chan->peer);
}

/* A source that waits for SHUT says nothing: whatever can be read is its end,
 * and then it runs the VM on. */
static int still_there(struct gw_stream_in *x, struct gw_error *err)
{
	uint8_t byte;
	struct iovec iov = { &byte, 1 };
	ssize_t n;

	if (!gw_chan_readable(x->c.chan))
		return 0;
	n = gw_chan_readv(x->c.chan, &iov, 1, err);
	if (n < 0)
		return (int)n;
	if (n)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "bytes after the end of the stream");
	return gw_fail(err, ECONNRESET,
		       "the source %s gave up while its VM was being loaded",
		       x->c.chan->peer);
}

static int may_go_on(struct gw_stream_in *x, struct gw_error *err)
{
	if (gw_cancel_requested(x->c.cancel))
		return gw_cancel_fail(err);
	return x->s.return_path ? still_there(x, err) : 0;
}

/* The source read SHUT 0 and closed: it will not run the VM again. */
static int wait_close(struct gw_stream_in *x, struct gw_error *err)
{
	int64_t ms = x->c.params->handover_timeout_ns / GW_NS_PER_MS;
	int64_t deadline = gw_deadline_ms(ms), left;
	struct timespec step = { 0, GW_NS_PER_MS };
	uint8_t byte;
	struct iovec iov = { &byte, 1 };
	ssize_t n;

	x->c.chan->read_timeout_ms = ms;
	n = gw_chan_readv(x->c.chan, &iov, 1, err);
	if (n == -ETIMEDOUT)
		return gw_fail(err, ETIMEDOUT,
			       "it did not close within %lld ms",
			       (long long)ms);
	if (n < 0)
		return (int)n;
	if (n)
		return gw_fail(err, EPROTO, "it sent more after its end");
	/* An end that came before it took the SHUT is not its answer. */
	while ((left = gw_chan_unacked(x->c.chan)) > 0 &&
	       gw_deadline_left_ms(deadline) > 0)
		nanosleep(&step, NULL);
	if (left)
		return gw_fail_errno(err, left < 0 ? (int)-left : ECONNRESET,
				     "it closed without having read it");
	return 0;
}

static int uncertain(struct gw_stream_in *x, struct gw_error *err)
{
	const char *name = x->c.name;

	if (x->c.sink->runs_it)
		gw_error_prefix(err,
				"the hand-over of '%s' is uncertain: it is complete here and paused, and the source was told so, but it did not confirm. If the VM does not run at the source and will not, 'godwit resume %s' runs it here; otherwise end the one here",
				name, name);
	else
		gw_error_prefix(err,
				"'%s' is complete, and the source was told so, but it did not confirm: its VM may run on there. Look at it before you run this one",
				name);
	err->fault = GW_FAULT_UNCERTAIN;
	return -err->code;
}

static int say_shut(struct gw_stream_in *x, uint32_t value,
		    struct gw_error *err)
{
	gw_rp_put(&x->out, GW_RP_SHUT, value);
	return gw_write_flush(&x->out, err);
}

static int finish(struct gw_stream_in *x, struct gw_error *err)
{
	struct gw_sink *s = x->c.sink;
	int r = s->ops->finish(s, err);

	/* The source gave it up: here is the only one, wherever it is stuck. */
	if (r && s->runs_it && x->gone)
		err->fault = GW_FAULT_UNCERTAIN;
	return r;
}

/* The source's word decides; a file is complete before it is asked for. */
static int settle(struct gw_stream_in *x, struct gw_error *err)
{
	int r = x->c.sink->runs_it ? 0 : finish(x, err);

	x->c.chan->cancel = NULL; /* from here on the source decides */
	if (!r)
		r = say_shut(x, 0, err);
	if (r)
		return r;
	x->shut = true;
	gw_pause_at(GW_PAUSE_DEST_READY);
	r = wait_close(x, err);
	GW_TRACE1(go, r);
	if (r)
		return uncertain(x, err);
	x->gone = true;
	gw_pause_at(GW_PAUSE_DEST_GO);
	return x->c.sink->runs_it ? finish(x, err) : 0;
}

int gw_stream_rp_hand_over(struct gw_stream_in *x, struct gw_error *err)
{
	struct gw_sink *s = x->c.sink;
	int r = may_go_on(x, err);

	if (!r && !x->ready_at) /* a QEMU loads only once: not for nothing */
		r = s->ops->ready(s, err);
	if (!r)
		r = may_go_on(x, err);
	if (r)
		return r;
	if (x->s.return_path)
		return settle(x, err);
	x->gone = true;
	return finish(x, err);
}

/* --- failures ----------------------------------------------------------- */

/*
 * Say SHUT 1 and read on until the source has closed: closing first would
 * reset the connection, and the word could be lost on its way. (It runs on
 * after that too, but says something less helpful.)
 */
static void tell(struct gw_stream_in *x)
{
	struct gw_chan *c = x->c.chan;
	int64_t deadline = gw_deadline_ms(GOODBYE_MS);
	struct iovec iov = { x->batch, GW_STREAM_IN_BATCH * GW_PAGE_SIZE };
	struct gw_error ignored;

	c->cancel = NULL;
	c->read_timeout_ms = c->write_timeout_ms = 1000;
	if (gw_write_failed(&x->out) || say_shut(x, 1, &ignored) ||
	    gw_chan_shutdown_write(c, &ignored))
		return;
	if (x->c.join) /* who waits for room on them waits no more */
		gw_join_close(x->c.join);
	while (gw_deadline_left_ms(deadline) > 0 &&
	       gw_chan_readv(c, &iov, 1, &ignored) > 0)
		;
}

/* Without a return path nobody can tell the source. */
static void say_where(struct gw_stream_in *x, struct gw_error *err)
{
	char why[GW_ERROR_MAX];

	memcpy(why, err->msg, sizeof(why));
	gw_fail_as(err, err->fault, err->code,
		   "%.600s; %s", why,
		   x->s.return_path ?
			   "the VM is the source's and runs on there" :
		   x->whole ?
			   "the source, which has no return path, took this for done: its VM stands there in state postmigrate, and 'cont' in its monitor runs it on" :
			   "the VM is the source's; should it stand there in state postmigrate (it has no return path), 'cont' in its monitor runs it on");
}

void gw_stream_rp_fail(struct gw_stream_in *x, struct gw_error *err)
{
	struct gw_sink *s = x->c.sink;
	bool stays = x->shut || (x->gone && s->runs_it);

	lost(x, err);
	/* Loaded, and perhaps the only one there is: not a step further. */
	if (stays && s->ops->keep)
		s->ops->keep(s);
	/* Before the source hears of it, so that there is never a second. */
	gw_sink_close(s);
	if (stays)
		return;
	if (x->s.return_path)
		tell(x);
	if (x->s.have_config)
		say_where(x, err);
}
