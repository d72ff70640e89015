/* SPDX-License-Identifier: BSD-3-Clause */
/* source.c - see source.h: the state machine. */
#include "source/source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/live.h"
#include "base/pause.h"
#include "base/trace.h"
#include "source/internal.h"
#include "source/sender.h"

#define READ_BUFFER 16384

/*
 * The channel may be cancelled in the middle of a record. Then finish the
 * record first, for a second at most, so that the reason can follow it.
 */
static int flush_whole(void *arg, struct iovec *iov, int niov,
		       struct gw_error *err)
{
	struct gw_source *s = arg;
	struct gw_chan *c = s->c.chan;
	struct gw_error ignored;
	int r = gw_chan_writev(c, iov, niov, err);

	if (r != -ECANCELED)
		return r;
	c->cancel = NULL;
	c->write_timeout_ms = 1000;
	if (gw_chan_writev(c, iov, niov, &ignored))
		return r;
	return 0; /* the next peer_check says "cancelled" */
}

static int setup(struct gw_source *s, struct gw_error *err)
{
	struct gw_vm *vm = s->c.vm;
	int r;

	gw_progress_status(s->c.progress, GODWIT_STATUS_SETUP);
	s->now->total = vm->ram.total;
	r = vm->ops->check(vm, true, err);
	if (!r)
		r = gw_ram_map(&vm->ram, false, err);
	if (!r)
		r = s->to->setup(s, err);
	if (!r)
		r = gw_encode_init(&s->encode, s->c.params,
				   gw_source_channels(s->c.params), err);
	if (!r && !s->c.stopped)
		r = vm->ops->track(vm, s->c.params->tracker, &s->track, err);
	if (r)
		return r;
	if (s->track)
		s->now->tracker = s->track->ops->name;
	gw_source_hints_setup(s);
	gw_pause_at(GW_PAUSE_SOURCE_SETUP);
	r = s->to->begin(s, err);
	s->now->setup_ns = gw_now_ns() - s->c.progress->started_ns;
	return r;
}

/* Scan, and judge what it found. */
static int scan_and_decide(struct gw_source *s, enum gw_verdict *v,
			   struct gw_error *err)
{
	int64_t since = s->last_scan_ns;
	struct godwit_stats *n = s->now;
	struct gw_converge_pass p;
	uint64_t was = s->reported;
	int r = gw_source_pass_scan(s, err);

	if (r)
		return r;
	s->reported = s->track->pages_reported;
	n->dirty_pages_rate = (uint64_t)((double)(s->reported - was) * 1e9 /
					 (double)(s->last_scan_ns - since + 1));
	n->expected_downtime_ns =
		gw_converge_estimate(n->remaining, s->ram_rate);
	p = (struct gw_converge_pass){ .pass = n->pass,
				       .sent = s->pass_ram,
				       .remaining = n->remaining,
				       .bandwidth = s->ram_rate,
				       .ns = s->last_scan_ns - since };
	*v = gw_converge_decide(&s->converge, s->c.params, &p);
	gw_source_throttle(s);
	gw_debug("pass %u: %llu of %llu bytes left, %llu bytes/s, throttle %u, verdict %d",
		 n->pass, (unsigned long long)n->remaining,
		 (unsigned long long)p.sent, (unsigned long long)s->bandwidth,
		 s->converge.throttle, (int)*v);
	return 0;
}

static int iterate(struct gw_source *s, struct gw_error *err)
{
	enum gw_verdict verdict;
	int r;

	gw_progress_status(s->c.progress, GODWIT_STATUS_ACTIVE);
	r = gw_source_disks_copy(s, err);
	if (!r)
		r = gw_source_pass_first(s, err);
	gw_pause_at(GW_PAUSE_SOURCE_PASS);
	while (!r) {
		r = gw_source_pass_pace(s, err);
		if (!r)
			r = scan_and_decide(s, &verdict, err);
		if (r)
			break;
		if (verdict == GW_SWITCH_OVER)
			return 0;
		if (verdict == GW_GIVE_UP)
			return gw_source_give_up(s, err);
		s->now->pass++;
		GW_TRACE2(pass, s->now->pass, s->now->remaining);
		r = gw_source_pass_part(s, err);
	}
	return r;
}

/* The VM is to stand while it is copied. */
static int stop_first(struct gw_source *s, struct gw_error *err)
{
	int r = gw_source_stop_vm(s, err);

	return r ? r : gw_source_pass_mark(s, err);
}

/* Say behind the reason what became of the VM. */
static void say_where(struct gw_source *s, struct gw_error *err, int r,
		      const struct gw_error *undo)
{
	char why[GW_ERROR_MAX];

	memcpy(why, err->msg, sizeof(why));
	if (!r)
		gw_fail_as(err, err->fault, err->code, "%.900s; the VM %s",
			   why,
			   s->c.vm->info.running ? "runs on here" :
						   "rests here as before");
	else if (r == -ESRCH)
		gw_fail_as(err, err->fault, err->code, "%.500s; %.400s", why,
			   undo->msg);
	else
		gw_fail_as(err, GW_FAULT_UNCERTAIN, undo->code,
			   "%.400s; and the VM could not be set going again here: %.400s; it runs nowhere, 'godwit resume %s' tries it again",
			   why, undo->msg, s->c.vm->info.name);
}

/*
 * Undo. Before GO the VM goes on here; after GO it does so only if the
 * destination vouched that it does not have it.
 */
static void fall_back(struct gw_source *s, struct gw_error *err)
{
	struct gw_vm *vm = s->c.vm;
	struct gw_error undo = { 0 };
	bool cancelled = err->fault == GW_FAULT_CANCELLED;
	int r;

	/* First of all, like the tracker: a guest that waits must go on. */
	gw_source_unthrottle(s);
	if (s->go_sent && !s->peer_not_here) {
		gw_progress_status(s->c.progress, GODWIT_STATUS_FAILED);
		return;
	}
	/* A peer's doubts are not ours: here it is known what happens. */
	if (err->fault == GW_FAULT_UNCERTAIN)
		err->fault = GW_FAULT_FAILED;
	if (cancelled)
		gw_progress_status(s->c.progress, GODWIT_STATUS_CANCELLING);
	if (s->track)
		gw_track_stop(s->track);
	gw_source_disks_cut(s);
	r = vm->ops->save_abort(vm, &undo);
	gw_source_disks_free(s);
	say_where(s, err, r, &undo);
	/*
	 * A destination that is told throws away what it has. Not if that may
	 * be the only whole copy: then it keeps it, paused, and says so.
	 */
	if (!r || !s->complete)
		s->to->tell(s, err);
	gw_progress_status(s->c.progress, cancelled ?
						  GODWIT_STATUS_CANCELLED :
						  GODWIT_STATUS_FAILED);
}

static void free_source(struct gw_source *s)
{
	if (!s)
		return;
	gw_senders_stop(s->senders);
	gw_source_protect_free(s);
	gw_source_image_free(s);
	gw_source_disks_free(s);
	gw_encode_fini(&s->encode);
	free(s->stage);
	gw_source_holes_fini(s);
	gw_reader_fini(&s->in);
	XXH3_freeState(s->device_hash);
	free(s);
}

uint32_t gw_source_channels(const struct godwit_params *p)
{
	return !p->channels && strcmp(p->compress, "none") ? 1 : p->channels;
}

/* What a connection to another godwit needs. */
static int new_peer(struct gw_source *s, struct gw_error *err)
{
	struct gw_chan *c = s->c.chan;
	int r = gw_reader_init(&s->in, gw_chan_refill, c, READ_BUFFER, err);

	s->to = &gw_target_godwit;
	s->device_hash = XXH3_createState();
	if (!r && !s->device_hash)
		r = gw_fail(err, ENOMEM, "no memory to begin a migration");
	if (r)
		return r;
	XXH3_64bits_reset(s->device_hash);
	c->cancel = s->c.cancel;
	c->read_timeout_ms = c->write_timeout_ms =
		s->c.params->idle_timeout_ns / GW_NS_PER_MS;
	gw_writer_init(&s->out, flush_whole, s);
	return 0;
}

static struct gw_source *new_source(const struct gw_source_config *c,
				    struct gw_error *err)
{
	struct gw_source *s = calloc(1, sizeof(*s));

	if (!s) {
		gw_fail(err, ENOMEM, "no memory to begin a migration");
		return NULL;
	}
	s->c = *c;
	s->now = &c->progress->now;
	gw_limit_init(&s->limit, GW_LIVE(c->params->max_bandwidth));
	if (c->sink ? gw_source_image_new(s, err) : new_peer(s, err) ||
	    (c->protect && gw_source_protect_new(s, err))) {
		free_source(s);
		return NULL;
	}
	return s;
}

/* All of the RAM, as it is when the VM stands, and then the VM. */
static int move(struct gw_source *s, struct gw_error *err)
{
	bool stopped = s->c.stopped;
	int r = stopped ? stop_first(s, err) : iterate(s, err);

	if (!r)
		r = gw_source_disks_settle(s, err);
	if (!r && !stopped)
		r = gw_source_stop_vm(s, err);
	return r ? r : s->to->hand_over(s, err);
}

int gw_source_run(const struct gw_source_config *c, struct gw_error *err)
{
	struct gw_error local = { 0 };
	struct gw_source *s;
	bool undo = true;
	int r;

	if (!err)
		err = &local;
	s = new_source(c, err);
	if (!s)
		return -err->code;
	r = setup(s, err);
	if (!r)
		r = c->protect ? gw_source_protect(s, &undo, err) :
				 move(s, err);
	gw_source_hints_end(s);
	if (r && undo && s->protect)
		r = gw_source_protect_explain(s, r, err);
	if (r && undo)
		fall_back(s, err);
	else /* not while it stands: that would be downtime */
		gw_source_unthrottle(s);
	if (s->track)
		gw_track_close(s->track);
	if (!r && !c->protect)
		gw_progress_status(c->progress, GODWIT_STATUS_COMPLETED);
	free_source(s);
	return r;
}

int gw_source_probe(const struct gw_source_config *c, struct gw_hello *theirs,
		    struct gw_error *err)
{
	struct gw_source *s = new_source(c, err);
	int r;

	if (!s)
		return err ? -err->code : -ENOMEM;
	r = gw_source_greet(s, true, theirs, err);
	free_source(s);
	return r;
}
