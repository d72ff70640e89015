/* SPDX-License-Identifier: BSD-3-Clause */
/* internal.h - what the files of source/ share. Not for other folders. */
#ifndef GW_SOURCE_INTERNAL_H
#define GW_SOURCE_INTERNAL_H

#include <xxhash.h>

#include "base/clock.h"
#include "base/reader.h"
#include "base/writer.h"
#include "source/converge.h"
#include "source/disks.h"
#include "source/encode.h"
#include "source/limit.h"
#include "source/shadow.h"
#include "source/source.h"
#include "wire/hello.h"
#include "wire/ram.h"
#include "wire/record.h"

#define GW_LOG_MODULE "source"
#include "base/log.h"
#include "base/moment.h"

/* Between two scans while the VM runs: each makes the guest fault again. */
#define GW_SOURCE_SCAN_PERIOD_NS (50 * GW_NS_PER_MS)

/* A part of RAM of which the last scan is older than this is looked at again
 * before it is sent. */
#define GW_SOURCE_RESCAN_NS (5 * GW_NS_PER_MS)

struct gw_source;
struct gw_source_disks;
struct gw_senders;
struct gw_protect;

/*
 * Where the VM goes: another godwit (godwit.c) or an image sink (image.c).
 * Called in this order, from the migration thread; `block` is an index into
 * vm->ram. The state machine does not know which it is.
 */
struct gw_target_ops {
	/* Is somebody there who can take it? Then (tracker ready) what comes
	 * first. */
	int (*setup)(struct gw_source *s, struct gw_error *err);
	int (*begin)(struct gw_source *s, struct gw_error *err);
	/* A pass: hole() and extents() only before the first. pages() may turn
	 * out zero. */
	int (*extents)(struct gw_source *s, int block,
		       const struct gw_extent *e, uint32_t n,
		       struct gw_error *err);
	int (*hole)(struct gw_source *s, int block, uint64_t first, uint64_t n,
		    struct gw_error *err);
	int (*pass_begin)(struct gw_source *s, bool last,
			  struct gw_error *err);
	int (*pages)(struct gw_source *s, int block, uint64_t first,
		     uint32_t n, struct gw_error *err);
	int (*zeros)(struct gw_source *s, int block, uint64_t first,
		     uint64_t n, struct gw_error *err);
	int (*pass_end)(struct gw_source *s, bool last, struct gw_error *err);
	/* Has the other side, or the user, given up? Never waits. */
	int (*check)(struct gw_source *s, struct gw_error *err);
	/* Device state as it comes; a gw_vm_sink, @arg the gw_source. */
	gw_vm_sink device;
	/* The VM stands: the rest. */
	int (*hand_over)(struct gw_source *s, struct gw_error *err);
	/* It failed: say why, if somebody listens. */
	void (*tell)(struct gw_source *s, const struct gw_error *why);
	uint64_t (*nbytes)(struct gw_source *s); /* written so far */
};
extern const struct gw_target_ops gw_target_godwit, gw_target_image;

/* Every field belongs to the migration thread. */
struct gw_source {
	struct gw_source_config c;
	const struct gw_target_ops *to;
	struct godwit_stats *now; /* = &c.progress->now */
	struct gw_track *track;
	struct gw_writer out;
	struct gw_reader in;
	struct gw_ram_encoder encoder;
	struct gw_encode encode;
	uint8_t *stage; /* godwit.c: pages and deltas until the next flush */
	size_t staged;
	bool verify; /* one of the sides asked for it */
	struct gw_limit limit;
	struct gw_converge converge;
	char throttle_why[256]; /* why the vCPUs cannot be slowed, or "" */
	struct gw_source_disks *disks; /* NULL: none are copied */
	bool asks_guest;	/* hints.c: vm->ops->hint_ask() is possible */
	bool hinting;		/* hints.c: the window is open */
	bool holes;		/* say what became a hole since it was sent */
	struct gw_protect *protect; /* protect.c; NULL: a migration */
	/* What is being sent was copied here: changed by the migration thread
	 * while nobody sends. NULL: it is sent from the VM's own memory. */
	struct gw_shadow *shadow;
	struct gw_image_source *image; /* owned by image.c */
	struct gw_senders *senders; /* sender.h; NULL: no channels */
	unsigned int features;	/* of godwit's greeting: both sides have them */
	bool in_section;	/* between a section's header and its EOS */
	bool unlimited;		/* the VM is to stand: no limiter any more */
	bool complete;		/* all that makes up the VM has left us */
	bool go_sent;		/* GO, the whole of it, left us */
	bool peer_not_here;	/* its last word: the VM is not there */
	int64_t last_scan_ns;
	uint64_t reported; /* pages, by the tracker up to the last scan */
	int64_t stopped_ns;	/* when the VM stood still */
	XXH3_state_t *device_hash;
	/* bytes/s of the last pass that was long enough to tell */
	uint64_t bandwidth;
	uint64_t ram_rate; /* and of guest memory, shrunk or not */
	/* the pages of the current pass, and the numbers before it */
	struct gw_pass_count count;
	struct godwit_stats counted;
	/* holes.c: pages read since the last look, and when something was last
	 * taken out of each file */
	struct gw_bitmap fresh[GW_RAM_MAX_BLOCKS];
	struct timespec punched[GW_RAM_MAX_BLOCKS];
	/* bytes and time of the current pass */
	uint64_t pass_bytes;
	int64_t pass_ns;
	int64_t tick_ns; /* up to when other threads' work was accounted for */
	uint64_t pass_ram; /* of guest memory that it had to send */
};

/* Where the pages of a block are that are about to be sent. */
static inline const uint8_t *gw_source_host(const struct gw_source *s,
					    int block)
{
	return s->shadow ? s->shadow->block[block].mem :
			   s->c.vm->ram.block[block].host;
}

/* pass.c */
int gw_source_pass_first(struct gw_source *s, struct gw_error *err);
/* Mark all that is populated as dirty. */
int gw_source_pass_mark(struct gw_source *s, struct gw_error *err);
int gw_source_pass_scan(struct gw_source *s, struct gw_error *err);
int gw_source_pass_part(struct gw_source *s, struct gw_error *err);
int gw_source_pass_send(struct gw_source *s, bool last, struct gw_error *err);
/* [@first, @first + @n) is a hole: what was sent of it becomes zeros. */
int gw_source_send_hole(struct gw_source *s, int block, uint64_t first,
			uint64_t n, struct gw_error *err);
int gw_source_pass_pace(struct gw_source *s, struct gw_error *err);
/* A target wrote something, busy since @since_ns: account for it, keep to the
 * limit, look at the peer. */
int gw_source_moved(struct gw_source *s, int64_t since_ns,
		    struct gw_error *err);
/* The same while other threads write: all time since the last call counts. */
int gw_source_tick(struct gw_source *s, struct gw_error *err);

/* throttle.c: as s->converge has it, or not at all; no failure of the
 * migration */
void gw_source_throttle(struct gw_source *s);
void gw_source_unthrottle(struct gw_source *s);

/* advice.c: it does not converge; why, and what would help */
int gw_source_give_up(struct gw_source *s, struct gw_error *err);

/* holes.c: pages that the VM gives back meanwhile */
int gw_source_holes_init(struct gw_source *s, struct gw_error *err);
void gw_source_holes_fini(struct gw_source *s);
int gw_source_holes(struct gw_source *s, bool last, struct gw_error *err);
int gw_source_holes_mark(struct gw_source *s, struct gw_error *err);

/* hints.c, in the order of a migration; none does anything without hints */
void gw_source_hints_setup(struct gw_source *s);
void gw_source_hints_open(struct gw_source *s);
void gw_source_hints_account(struct gw_source *s);
int gw_source_hints_close(struct gw_source *s, struct gw_error *err);
/* Pages hinted free and not written since are zero at the destination: their
 * hashes become 0, *@any is set again. */
void gw_source_hints_hide(struct gw_source *s, int block, uint64_t first,
			  uint32_t n, uint64_t *hash, bool *any);
void gw_source_hints_end(struct gw_source *s);

/* protect.c */
int gw_source_protect_new(struct gw_source *s, struct gw_error *err);
void gw_source_protect_free(struct gw_source *s);
int gw_source_protect_setup(struct gw_source *s, struct gw_error *err);
/* Has the standby, or its lease, ended? */
int gw_source_protect_check(struct gw_source *s, struct gw_error *err);
/* Setup: the connection of the lease, which @theirs is about. */
int gw_source_protect_join(struct gw_source *s, const struct gw_hello *theirs,
			   struct gw_error *err);
/* All of it, after setup. *@undo: it failed before checkpoints began, nobody
 * else can have the VM; otherwise it is over, and what became of the VM is in
 * @err. */
int gw_source_protect(struct gw_source *s, bool *undo, struct gw_error *err);
/* unprotect.c: a write that the end of the lease cut short, or a VM that was
 * fenced, only knows that it was: then why. Return: @r, or what came of it. */
int gw_source_protect_explain(struct gw_source *s, int r, struct gw_error *err);

/* godwit.c */
int gw_source_flush(struct gw_source *s, struct gw_error *err);
int gw_source_flush_question(struct gw_source *s, struct gw_error *err);
void gw_source_section_end(struct gw_source *s);
int gw_source_verify(struct gw_source *s, struct gw_error *err);

/* image.c: for a source with a sink */
int gw_source_image_new(struct gw_source *s, struct gw_error *err);
void gw_source_image_free(struct gw_source *s);

/* handover.c */
int gw_source_stop_vm(struct gw_source *s, struct gw_error *err);
int gw_source_last_scan(struct gw_source *s, struct gw_error *err);
int gw_source_hand_over(struct gw_source *s, struct gw_error *err);
/* The VM was given up here: the destination is to run it, if it ran. */
int gw_source_say_go(struct gw_source *s, bool run, struct gw_error *err);
/* The destination was told to run it and did not confirm: @err says so. */
int gw_source_uncertain(struct gw_source *s, struct gw_error *err);

/* peer.c: what the destination says */
int gw_source_greet(struct gw_source *s, bool probe, struct gw_hello *theirs,
		    struct gw_error *err);
/* Look without waiting; an ERROR or a lost connection is an error here. */
int gw_source_peer_check(struct gw_source *s, struct gw_error *err);
/* Wait for a record of @type and skip its payload; -1: idle time-out only. */
int gw_source_peer_wait(struct gw_source *s, enum gw_record_type type,
			int64_t timeout_ms, const char *what,
			struct gw_error *err);
/* Wait for what a standby says next, and note it in s->protect. */
int gw_source_peer_hear(struct gw_source *s, struct gw_error *err);
/* Writing failed with @err: if the peer left a reason, that is the error. */
void gw_source_peer_reason(struct gw_source *s, struct gw_error *err);
void gw_source_peer_tell(struct gw_source *s, const struct gw_error *why);

#endif
