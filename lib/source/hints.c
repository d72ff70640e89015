/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hints.c - pages the guest says are free are left out of the bulk pass. The
 * rules are hint/hint.h's; here is when its window opens and closes, and who
 * is told. A migration never waits for hints and never fails for want of them.
 */
#include <string.h>

#include "source/internal.h"

/* Is somebody there who might give hints? */
static bool wanted(const struct gw_source *s)
{
	const struct gw_hint *h = s->c.hint;

	return h && (h->wanted || s->asks_guest);
}

void gw_source_hints_setup(struct gw_source *s)
{
	struct gw_vm *vm = s->c.vm;
	struct gw_error err = { 0 };

	if (!s->c.hint || !s->track || !vm->info.running ||
	    strcmp(s->c.params->free_page_hint, "agent"))
		return;
	if (!vm->ops->hint_begin)
		gw_warn("no free page hints: a VM of kind '%s' has no agent",
			vm->ops->kind);
	else if (vm->ops->hint_begin(vm, s->c.hint, &err))
		gw_warn("no free page hints: %s", err.msg);
	else
		s->asks_guest = true;
}

/* The tracker runs and what is populated is marked. */
void gw_source_hints_open(struct gw_source *s)
{
	struct gw_hint *h = s->c.hint;
	struct gw_error err = { 0 };
	uint32_t id;

	if (!wanted(s))
		return;
	if (gw_hint_open(h, &s->c.vm->ram, &id, &err)) {
		gw_warn("no free page hints: %s", err.msg);
		return;
	}
	s->now->hint_asked = true;
	s->hinting = true;
	if (s->asks_guest)
		s->c.vm->ops->hint_ask(s->c.vm, id);
	if (h->wanted)
		h->wanted(id, h->data);
}

/* What hints took out since the last time is not to be sent any more. */
void gw_source_hints_account(struct gw_source *s)
{
	struct godwit_stats *n = s->now;
	struct gw_hint_stats h;
	uint64_t gone;

	if (!n->hint_asked)
		return;
	gw_hint_get_stats(s->c.hint, &h);
	gone = (h.accepted - n->hinted) * GW_PAGE_SIZE;
	n->remaining -= gone < n->remaining ? gone : n->remaining;
	n->hinted = h.accepted;
	n->hinted_late = h.late;
	n->hinted_stale = h.stale;
	n->hinted_refused = h.refused;
}

/* Runs of absent pages are as good as holes: say so where it must be said. */
static int say_absent(struct gw_source *s, int block, struct gw_error *err)
{
	const struct gw_bitmap *absent = &s->c.hint->absent[block];
	uint64_t at = 0, first, n;
	int r = 0;

	while (!r && (n = gw_bitmap_next_run(absent, at, 1 << 20, &first))) {
		r = s->to->hole(s, block, first, n, err);
		at = first + n;
	}
	return r;
}

static void shut(struct gw_source *s)
{
	struct gw_hint *h = s->c.hint;

	s->hinting = false;
	gw_hint_close(h);
	if (s->asks_guest)
		s->c.vm->ops->hint_ask(s->c.vm, 0);
	if (h->wanted)
		h->wanted(0, h->data);
	gw_source_hints_account(s);
}

int gw_source_hints_close(struct gw_source *s, struct gw_error *err)
{
	struct gw_hint *h = s->c.hint;
	int r = 0;

	if (!s->hinting)
		return 0;
	shut(s);
	gw_info("free page hints: %llu pages not sent, %llu too late, %llu to another question, %llu ranges refused",
		(unsigned long long)s->now->hinted,
		(unsigned long long)s->now->hinted_late,
		(unsigned long long)s->now->hinted_stale,
		(unsigned long long)s->now->hinted_refused);
	for (int i = 0; i < h->nabsent && !r && s->now->hinted; i++)
		r = say_absent(s, i, err);
	return r;
}

void gw_source_hints_end(struct gw_source *s)
{
	if (s->hinting) /* it failed in the window */
		shut(s);
	if (s->asks_guest)
		s->c.vm->ops->hint_end(s->c.vm);
	s->asks_guest = false;
	if (s->c.hint)
		gw_hint_end(s->c.hint);
}

void gw_source_hints_hide(struct gw_source *s, int block, uint64_t first,
			  uint32_t n, uint64_t *hash, bool *any)
{
	if (!s->now->hinted)
		return;
	*any = false;
	for (uint32_t i = 0; i < n; i++) {
		if (gw_hint_absent(s->c.hint, block, first + i))
			hash[i] = 0;
		*any |= hash[i] != 0;
	}
}
