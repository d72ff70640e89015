/* SPDX-License-Identifier: BSD-3-Clause */
/* checkpoint.c - one turn of protect.h: stop, copy, cont, send, ACK. */
#include <errno.h>

#include "base/live.h"
#include "base/pause.h"
#include "base/trace.h"
#include "source/protect.h"
#include "wire/checkpoint.h"

/* --- while the VM stands -------------------------------------------------- */

/* Scan and copy, while the VMM writes its device state. */
static int copy(struct gw_source *s, struct gw_vm_state *state,
		struct gw_error *err)
{
	struct gw_protect *p = s->protect;
	struct gw_vm *vm = s->c.vm;
	struct gw_error ignored;
	int r = p->ops->state_begin(vm, err), ended;

	if (r)
		return r;
	r = gw_source_pass_scan(s, err);
	if (!r)
		r = gw_source_holes_mark(s, err);
	if (!r)
		r = gw_shadow_copy(&p->shadow, &vm->ram, err);
	/* Also then: the VMM must be done with it before the VM runs on. */
	ended = p->ops->state_end(vm, state, r ? &ignored : err);
	return r ? r : ended;
}

/* Whatever fails, the VM runs on; and so it does unless this is the @last. */
static int take(struct gw_source *s, bool last, struct gw_vm_state *state,
		struct gw_error *err)
{
	struct gw_protect *p = s->protect;
	struct gw_vm *vm = s->c.vm;
	struct gw_error ignored;
	int r = p->ops->stop(vm, err), ran;

	p->running = vm->info.running;
	gw_pause_at(GW_PAUSE_SOURCE_CHECKPOINT_STOPPED);
	if (!r)
		r = copy(s, state, err);
	gw_pause_at(GW_PAUSE_SOURCE_CHECKPOINT_COPIED);
	if (last && !r)
		return 0;
	ran = p->ops->cont(vm, r ? &ignored : err);
	return r ? r : ran;
}

/* --- while it runs -------------------------------------------------------- */

static int send_pages(struct gw_source *s, struct gw_error *err)
{
	struct gw_bitmap *fresh = s->encode.fresh;
	int r;

	s->now->pass++;
	gw_encode_pass(&s->encode);
	/* A copy is not punched out while it is read. */
	s->encode.fresh = NULL;
	s->shadow = &s->protect->shadow;
	r = s->to->pass_begin(s, false, err);
	if (!r)
		r = gw_source_pass_send(s, false, err);
	if (r) /* channels may still read from there */
		return r;
	s->shadow = NULL;
	s->encode.fresh = fresh;
	gw_shadow_done(&s->protect->shadow);
	return 0;
}

static int send_bytes(struct gw_source *s, enum gw_record_type type,
		      const uint8_t *b, size_t len, struct gw_error *err)
{
	int r = 0;

	XXH3_64bits_update(s->device_hash, b, len);
	do {
		uint32_t n = len < GW_RECORD_MAX_DEVICE ? (uint32_t)len
							: GW_RECORD_MAX_DEVICE;

		gw_record_put(&s->out, type, true, n);
		gw_write_ref(&s->out, b, n);
		r = gw_source_flush(s, err);
		b += n;
		len -= n;
	} while (!r && len);
	return r;
}

/* A base that the standby has is not sent again. */
static int send_state(struct gw_source *s, const struct gw_vm_state *st,
		      struct gw_error *err)
{
	struct gw_protect *p = s->protect;
	int r = 0;

	XXH3_64bits_reset(s->device_hash);
	if (p->based && p->generation == st->generation)
		XXH3_64bits_update(s->device_hash, st->base, st->nbase);
	else
		r = send_bytes(s, GW_RECORD_STATE_BASE, st->base, st->nbase,
			       err);
	p->based = true;
	p->generation = st->generation;
	if (!r && st->npart)
		r = send_bytes(s, GW_RECORD_DEVICE, st->part, st->npart, err);
	s->now->device_bytes = st->nbase + st->npart;
	return r;
}

/* From here on the standby may have it. */
static int send_checkpoint(struct gw_source *s, struct gw_checkpoint *c,
			   const struct gw_vm_state *st, struct gw_error *err)
{
	struct gw_protect *p = s->protect;
	int r = send_pages(s, err);

	if (!r)
		r = send_state(s, st, err);
	/* One that is known to be gone need not be fenced off. */
	if (!r)
		r = s->to->check(s, err);
	if (r)
		return r;
	c->seq = ++p->seq;
	c->nbase = st->nbase;
	c->npart = st->npart;
	c->hash = XXH3_64bits_digest(s->device_hash);
	c->running = p->running;
	c->nbytes = s->to->nbytes(s) - p->nbytes;
	p->exposed = true;
	gw_record_put_checkpoint(&s->out, c);
	r = gw_source_flush_question(s, err);
	gw_pause_at(GW_PAUSE_SOURCE_CHECKPOINT_SENT);
	return r;
}

static int await_ack(struct gw_source *s, struct gw_error *err)
{
	int64_t limit_ms = s->c.params->idle_timeout_ns / GW_NS_PER_MS;
	int64_t deadline = gw_deadline_ms(limit_ms);
	struct gw_protect *p = s->protect;
	int r = s->to->check(s, err);

	while (!r && p->acked != p->seq) {
		if (gw_now_ns() >= deadline)
			return gw_fail(err, ETIMEDOUT,
				       "the standby did not acknowledge "
				       "checkpoint %llu within %lld ms",
				       (unsigned long long)p->seq,
				       (long long)limit_ms);
		gw_protect_rest(s, GW_NS_PER_S);
		r = s->to->check(s, err);
		gw_progress_tick(s->c.progress);
	}
	return r;
}

static void count(struct gw_source *s, const struct gw_checkpoint *c,
		  int64_t stopped_ns)
{
	struct gw_protect *p = s->protect;
	struct godwit_stats *now = s->now;

	now->checkpoint = c->seq;
	now->checkpoint_pages = c->npages;
	now->checkpoint_paused_pages = c->paused_pages;
	now->checkpoint_bytes = s->to->nbytes(s) - p->nbytes;
	now->checkpoint_pause_ns = c->pause_ns;
	now->checkpoint_interval_ns = c->interval_ns;
	now->checkpoint_lag_ns = gw_now_ns() - stopped_ns;
	now->checkpoint_flush_ns = p->flush_ns;
	now->checkpoints_late +=
		now->checkpoint_lag_ns > GW_LIVE(s->c.params->interval_ns);
	p->nbytes = s->to->nbytes(s);
	p->nspeculated = 0;
	gw_pauses_add(&p->pauses, c->pause_ns);
	gw_pauses_stats(&p->pauses, now);
	gw_progress_tick(s->c.progress);
}

int gw_protect_checkpoint(struct gw_source *s, bool last, struct gw_error *err)
{
	struct gw_checkpoint c = { .flags = last ? GW_CHECKPOINT_LAST : 0 };
	struct gw_protect *p = s->protect;
	struct gw_vm_state state;
	int64_t stopped_ns;
	int r = take(s, last, &state, err);

	if (r)
		return r;
	stopped_ns = s->c.vm->stopped_ns;
	c.pause_ns = gw_now_ns() - stopped_ns;
	c.interval_ns = p->taken_ns ? stopped_ns - p->taken_ns : 0;
	p->taken_ns = stopped_ns;
	c.paused_pages = gw_ram_dirty_pages(&s->c.vm->ram);
	c.npages = c.paused_pages + p->nspeculated;
	r = send_checkpoint(s, &c, &state, err);
	if (!r)
		r = await_ack(s, err);
	gw_pause_at(GW_PAUSE_SOURCE_CHECKPOINT_ACKED);
	if (!r)
		r = p->ops->release(s->c.vm, err);
	if (!r)
		count(s, &c, stopped_ns);
	return r;
}
