/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * source.h - the side that gives a VM away, or a copy of it.
 *
 *	setup		greeting, tracker, block table
 *	active		passes: scan -> drain -> send, until what is left fits
 *			the downtime limit
 *	pre-switchover	the VM stands: last scan, last pages, verification
 *	device		device state, READY, commit, GO, RUNNING
 *
 * The state machine is source.c, what a pass does is pass.c, when to stop is
 * converge.c, the end is handover.c. Everything runs in the caller's thread.
 * Every failure before GO leaves the VM running where it was.
 */
#ifndef GW_SOURCE_SOURCE_H
#define GW_SOURCE_SOURCE_H

#include "base/cancel.h"
#include "base/error.h"
#include "base/progress.h"
#include "chan/chan.h"
#include "hint/hint.h"
#include "image/sink.h"
#include "vm/vm.h"
#include "wire/hello.h"

/* What became of the pages of a pass: @pages is the sum of the others. */
struct gw_pass_count {
	uint32_t pass;
	uint64_t pages;
	uint64_t normal, duplicate, skipped; /* as in godwit_stats */
	uint64_t deltas; /* XBZRLE's, and what had not changed */
	uint64_t holes;	 /* given back before they were sent: nothing was */
};

struct gw_source_config {
	struct gw_vm *vm;
	/* where it goes: one of the two; both stay the caller's */
	struct gw_chan *chan; /* connected, to a godwit */
	const char *uri; /* where to connect further; may be NULL: nowhere */
	struct gw_sink *sink; /* a file, a plain QEMU */
	/* with a sink that does not run the VM itself */
	bool stopped;  /* copy while the VM stands, not while it runs */
	bool give_up;  /* the VM stays stopped, as after a migration */
	bool protect;  /* the VM stays, checkpoints go (protect.h) */
	/* who gives hints, and who is told to; may be NULL */
	struct gw_hint *hint;
	const struct godwit_params *params;
	const struct gw_cancel *cancel; /* may be NULL */
	struct gw_progress *progress;
	/* optional: a pass has ended */
	void (*pass_done)(const struct gw_pass_count *c, void *arg);
	void *pass_arg;
};

/* Further connections that carry the pages, as the parameters ask for them:
 * compressed pages need one at least. */
uint32_t gw_source_channels(const struct godwit_params *p);

/*
 * Return: 0 when the VM runs at the destination, or is stored and goes on here
 * (unless given up); -errno with @err.
 */
int gw_source_run(const struct gw_source_config *c,
		  struct gw_error *err) GW_MUST_CHECK;

/* Greet the destination and part again: would it take this VM? *@theirs is
 * what it says of itself (gw_hello_fini() it after success). */
int gw_source_probe(const struct gw_source_config *c, struct gw_hello *theirs,
		    struct gw_error *err) GW_MUST_CHECK;

#endif
