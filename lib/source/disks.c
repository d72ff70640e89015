/* SPDX-License-Identifier: BSD-3-Clause */
/* disks.c - see disks.h. */
#include "source/disks.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/live.h"
#include "base/pause.h"
#include "base/units.h"
#include "chan/pump.h"
#include "source/internal.h"
#include "source/join.h"
#include "wire/disks.h"

#define STEP_NS	      (50 * GW_NS_PER_MS)  /* between looks at the copies */
#define LOOK_NS	      (500 * GW_NS_PER_MS) /* the same while RAM goes */
#define SIGN_NS	      (1 * GW_NS_PER_S)	   /* the destination hears of it */
#define STALL_NS      (10 * GW_NS_PER_S)   /* nothing less left for so long */
#define SETTLE_NS     (2 * GW_NS_PER_S)	   /* at most, for what is left */
#define COMPLETE_STEP (1 * GW_NS_PER_MS)

struct gw_source_disks {
	struct gw_disks list;
	struct gw_chan *chan[GW_DISKS_MAX]; /* until its pump has it */
	struct gw_pump pump[GW_DISKS_MAX];
	struct gw_vm_disks_now now;
	bool copying;	  /* jobs exist in the VMM */
	bool all_ready;	  /* RAM goes too */
	bool settled;	  /* settle() was tried */
	bool unlimited;	  /* the VM stands, or is about to */
	uint64_t bps;	  /* each one's limit */
	uint64_t charged; /* bytes the limiter knows of */
	int64_t looked_ns, told_ns;
	uint64_t least; /* the least that was left, and when */
	int64_t least_ns;
	uint64_t moved; /* bytes, both ways, and when they changed */
	int64_t moved_ns;
};

static const struct gw_vm_disk_ops *ops_of(struct gw_source *s)
{
	return s->c.vm->ops->disks;
}

uint32_t gw_source_disks_count(const struct gw_source *s)
{
	return s->disks ? s->disks->list.n : 0;
}

int gw_source_disks_list(struct gw_source *s, struct gw_error *err)
{
	const char *how = s->c.params->disks;
	struct gw_source_disks *d;
	int r;

	if (!how || !strcmp(how, "none"))
		return 0;
	if (!ops_of(s))
		return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				  "the disks of this VM cannot be copied");
	d = calloc(1, sizeof(*d));
	if (!d)
		return gw_fail(err, ENOMEM, "no memory to copy disks");
	r = ops_of(s)->list(s->c.vm, !strcmp(how, "incremental"), &d->list,
			    err);
	if (!r && d->list.n) {
		s->disks = d;
		return 0;
	}
	free(d);
	if (!r)
		gw_warn("'%s' has no disk that it can write to: there is none "
			"to copy",
			s->c.vm->info.name);
	return r;
}

int gw_source_disks_join(struct gw_source *s, const uint8_t *session,
			 uint32_t first, struct gw_error *err)
{
	struct gw_source_disks *d = s->disks;
	int64_t ms = s->c.params->connect_timeout_ns / GW_NS_PER_MS;

	for (uint32_t i = 0; d && i < d->list.n; i++) {
		d->chan[i] =
			gw_join_connect(s->c.uri, session, (uint8_t)(first + i),
					ms, s->c.cancel, err);
		if (!d->chan[i])
			return -err->code;
		/* Silence is no failure: the guest may write nothing. */
		d->chan[i]->read_timeout_ms = -1;
		d->chan[i]->write_timeout_ms =
			s->c.params->idle_timeout_ns / GW_NS_PER_MS;
	}
	return 0;
}

/* --- progress ------------------------------------------------------------- */

static uint64_t left(const struct gw_source_disks *d)
{
	return d->now.total > d->now.done ? d->now.total - d->now.done : 0;
}

/* RAM and disks share one limit: what the disks took is not the RAM's. */
static void charge(struct gw_source *s, struct gw_source_disks *d)
{
	uint64_t sent = 0;

	for (uint32_t i = 0; i < d->list.n; i++)
		if (d->pump[i].open)
			sent += gw_chan_bytes_written(d->pump[i].a);
	gw_limit_spend(&s->limit, sent - d->charged);
	d->charged = sent;
	s->now->disk_transferred = sent;
}

/* What QEMU says is "Input/output error"; the connection knows more. */
static int explain(struct gw_source *s, int r, struct gw_error *err)
{
	struct gw_source_disks *d = s->disks;
	struct gw_error why = { 0 };

	for (uint32_t i = 0; i < d->list.n; i++)
		if (gw_pump_check(&d->pump[i], &why)) {
			if (why.fault != GW_FAULT_CANCELLED)
				gw_error_prefix(&why, "copying disk '%s'",
						d->list.disk[i].name);
			*err = why;
			gw_source_peer_reason(s, err);
			return -err->code;
		}
	/* A destination that gave up says why before it closes. */
	if (r && gw_source_peer_check(s, &why))
		*err = why;
	return r ? -err->code : 0;
}

/*
 * Bytes per second for each of them; 0: no limit. While RAM goes too, half of
 * what is allowed in all: RAM has what they leave (charge()).
 */
static uint64_t share(const struct gw_source *s)
{
	unsigned int parts = s->disks->list.n * (s->disks->all_ready ? 2 : 1);
	uint64_t all = GW_LIVE(s->c.params->max_bandwidth);

	return all && all < parts ? 1 : all / parts;
}

/* The job's speed keeps little on its way, so that QEMU drains fast; what the
 * guest writes in step with the destination only the pump can hold up. */
static int apply_limit(struct gw_source *s, struct gw_error *err)
{
	struct gw_source_disks *d = s->disks;
	uint64_t bps = d->unlimited ? 0 : share(s);

	if (d->bps == bps)
		return 0;
	d->bps = bps;
	for (uint32_t i = 0; i < d->list.n; i++)
		if (d->pump[i].open)
			gw_pump_limit(&d->pump[i], bps);
	return ops_of(s)->speed(s->c.vm, bps, err);
}

static int look(struct gw_source *s, struct gw_error *err)
{
	struct gw_source_disks *d = s->disks;
	int r = ops_of(s)->poll(s->c.vm, &d->now, err);

	d->looked_ns = gw_now_ns();
	r = explain(s, r, err);
	if (r)
		return r;
	charge(s, d);
	s->now->disk_total = d->now.total;
	s->now->disk_done = d->now.done;
	gw_progress_tick(s->c.progress);
	return apply_limit(s, err);
}

int gw_source_disks_check(struct gw_source *s, struct gw_error *err)
{
	struct gw_source_disks *d = s->disks;

	if (!d || !d->copying || gw_now_ns() < d->looked_ns + LOOK_NS)
		return 0;
	return look(s, err);
}

/* --- copying -------------------------------------------------------------- */

/*
 * The destination connects to its QEMU's server when it reads our byte, so
 * that a handshake which has to wait for others does not time out there.
 */
static int start(struct gw_source *s, uint32_t i, struct gw_error *err)
{
	struct gw_source_disks *d = s->disks;
	static const uint8_t now = GW_DISKS_NOW;
	struct gw_chan *local;
	int r = gw_chan_write(d->chan[i], &now, 1, err), fd;

	if (r)
		return r;
	d->copying = true;
	fd = ops_of(s)->open(s->c.vm, i, err);
	if (fd < 0)
		return -err->code;
	local = gw_chan_from_fd(fd, "the source QEMU", err);
	if (!local) {
		close(fd);
		return -err->code;
	}
	local->cancel = s->c.cancel;
	r = gw_pump_start(&d->pump[i], d->chan[i], local, err);
	if (r) {
		gw_chan_close(local);
		return r;
	}
	d->chan[i] = NULL;
	d->bps = share(s);
	gw_pump_limit(&d->pump[i], d->bps);
	r = ops_of(s)->copy(s->c.vm, i, d->bps, err);
	return r ? explain(s, r, err) : 0;
}

/* The destination waits with a time limit for our next word. */
static int tell_progress(struct gw_source *s, struct gw_error *err)
{
	struct gw_source_disks *d = s->disks;

	if (gw_now_ns() < d->told_ns + SIGN_NS)
		return 0;
	d->told_ns = gw_now_ns();
	gw_disks_put_progress(&s->out, d->now.done, d->now.total);
	return gw_source_flush_question(s, err);
}

static void settle(struct gw_source *s)
{
	struct gw_error why;

	if (s->disks->settled)
		return;
	s->disks->settled = true;
	if (ops_of(s)->settle(s->c.vm, &why))
		gw_info("the guest's writes are not slowed down while its "
			"disks are copied: %s",
			why.msg);
}

/* A guest that writes faster than the connection takes never gets there. */
static void watch_stall(struct gw_source *s)
{
	struct gw_source_disks *d = s->disks;
	int64_t now = gw_now_ns();
	char rest[32];

	if (!d->least_ns || left(d) < d->least - d->least / 100) {
		d->least = left(d);
		d->least_ns = now;
	}
	if (now < d->least_ns + STALL_NS || d->settled)
		return;
	gw_warn("the guest writes to its disks as fast as they are copied (%s "
		"left): from now on its writes wait for the destination",
		gw_format_size(rest, sizeof(rest), left(d)));
	settle(s);
}

/* Copies that are not ready wait for answers all the time. */
static int watch_silence(struct gw_source *s, struct gw_error *err)
{
	struct gw_source_disks *d = s->disks;
	uint64_t moved = d->charged;

	for (uint32_t i = 0; i < d->list.n; i++)
		moved += gw_chan_bytes_read(d->pump[i].a);
	if (moved != d->moved || !d->moved_ns) {
		d->moved = moved;
		d->moved_ns = gw_now_ns();
	}
	if (gw_now_ns() - d->moved_ns <= s->c.params->idle_timeout_ns)
		return 0;
	return gw_fail(err, ETIMEDOUT,
		       "no byte of the disks from or to %s for %lld s",
		       s->c.chan->peer,
		       (long long)(s->c.params->idle_timeout_ns / GW_NS_PER_S));
}

static int wait_ready(struct gw_source *s, struct gw_error *err)
{
	struct pollfd p = { .fd = gw_cancel_fd(s->c.cancel), .events = POLLIN };
	struct timespec step = { 0, STEP_NS };
	int r;

	for (;;) {
		r = gw_source_peer_check(s, err);
		if (!r)
			r = look(s, err);
		if (r || s->disks->now.ready)
			return r;
		r = tell_progress(s, err);
		if (!r)
			r = watch_silence(s, err);
		if (r)
			return r;
		watch_stall(s);
		ppoll(&p, 1, &step, NULL);
	}
}

int gw_source_disks_copy(struct gw_source *s, struct gw_error *err)
{
	struct gw_source_disks *d = s->disks;
	int r;

	if (!d)
		return 0;
	gw_disks_put(&s->out, &d->list);
	r = gw_source_flush_question(s, err);
	if (!r)
		r = gw_source_peer_wait(s, GW_RECORD_DISKS_READY, -1,
					"get its disks ready", err);
	for (uint32_t i = 0; i < d->list.n && !r; i++)
		r = start(s, i, err);
	if (r)
		return r;
	gw_pause_at(GW_PAUSE_SOURCE_DISKS);
	r = wait_ready(s, err);
	d->all_ready = true;
	return r ? r : apply_limit(s, err);
}

/* --- the end -------------------------------------------------------------- */

int gw_source_disks_settle(struct gw_source *s, struct gw_error *err)
{
	struct timespec step = { 0, STEP_NS / 10 };
	int64_t end = gw_now_ns() + SETTLE_NS;
	int r = 0;

	if (!s->disks)
		return 0;
	settle(s);
	while (!r) {
		r = s->to->check(s, err);
		if (!r)
			r = look(s, err);
		if (r || !left(s->disks) || gw_now_ns() > end)
			break;
		nanosleep(&step, NULL);
	}
	/* Stopping the VM waits for what it has written: no limit any more. */
	s->disks->unlimited = true;
	return r ? r : apply_limit(s, err);
}

int gw_source_disks_complete(struct gw_source *s, struct gw_error *err)
{
	int r;

	if (!s->disks)
		return 0;
	gw_pause_at(GW_PAUSE_SOURCE_DISKS_STOPPED);
	r = ops_of(s)->complete(s->c.vm, err);
	return r ? explain(s, r, err) : 0;
}

/* Until all are whole, as long as they get on. */
static int wait_ended(struct gw_source *s, struct gw_error *err)
{
	struct gw_source_disks *d = s->disks;
	struct timespec step = { 0, COMPLETE_STEP };
	int64_t moved_ns = gw_now_ns();
	uint64_t sent = 0;
	int r;

	for (;;) {
		r = look(s, err);
		if (r || d->now.ended)
			return r;
		r = gw_source_peer_check(s, err);
		if (r)
			return r;
		if (sent != d->charged) {
			sent = d->charged;
			moved_ns = gw_now_ns();
		}
		if (gw_now_ns() - moved_ns > s->c.params->idle_timeout_ns)
			return gw_fail(err, ETIMEDOUT,
				       "the rest of the disks (%llu bytes) is "
				       "not taken",
				       (unsigned long long)left(d));
		nanosleep(&step, NULL);
	}
}

int gw_source_disks_end(struct gw_source *s, struct gw_error *err)
{
	struct gw_source_disks *d = s->disks;
	int64_t ms = s->c.params->idle_timeout_ns / GW_NS_PER_MS;
	int64_t since = gw_now_ns();
	int r;

	if (!d)
		return 0;
	r = wait_ended(s, err);
	if (!r)
		r = ops_of(s)->end(s->c.vm, err);
	d->copying = d->copying && r;
	for (uint32_t i = 0; i < d->list.n && !r; i++)
		r = gw_pump_wait(&d->pump[i], ms, err);
	if (r)
		return r;
	charge(s, d);
	s->now->disk_done = s->now->disk_total;
	gw_debug("the disks took %lld ms of the time that the VM stands",
		 (long long)((gw_now_ns() - since) / GW_NS_PER_MS));
	gw_record_put(&s->out, GW_RECORD_DISKS_END, true, 0);
	return gw_source_flush(s, err);
}

void gw_source_disks_cut(struct gw_source *s)
{
	for (uint32_t i = 0; s->disks && i < s->disks->list.n; i++)
		if (s->disks->pump[i].open)
			gw_pump_cut(&s->disks->pump[i]);
}

void gw_source_disks_free(struct gw_source *s)
{
	struct gw_source_disks *d = s->disks;

	if (!d)
		return;
	gw_source_disks_cut(s);
	if (d->copying)
		ops_of(s)->abort(s->c.vm);
	for (uint32_t i = 0; i < d->list.n; i++) {
		gw_pump_stop(&d->pump[i]);
		gw_chan_close(d->chan[i]);
	}
	free(d);
	s->disks = NULL;
}
