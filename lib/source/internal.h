/* SPDX-License-Identifier: BSD-3-Clause */
/* internal.h - what the files of source/ share. Not for other folders. */
#ifndef GW_SOURCE_INTERNAL_H
#define GW_SOURCE_INTERNAL_H

#include <xxhash.h>

#include "base/clock.h"
#include "base/reader.h"
#include "base/writer.h"
#include "source/converge.h"
#include "source/limit.h"
#include "source/source.h"
#include "wire/hello.h"
#include "wire/ram.h"
#include "wire/record.h"

#define GW_LOG_MODULE "source"
#include "base/log.h"

/* Every field belongs to the migration thread. */
struct gw_source {
	struct gw_source_config c;
	struct godwit_stats *now; /* = &c.progress->now */
	struct gw_track *track;
	struct gw_writer out;
	struct gw_reader in;
	struct gw_ram_encoder encoder;
	bool verify; /* one of the sides asked for it */
	struct gw_limit limit;
	bool in_section;	/* between a section's header and its EOS */
	bool unlimited;		/* the VM stands: no limiter any more */
	bool complete;		/* all that makes up the VM has left us */
	bool go_sent;		/* GO, the whole of it, left us */
	bool peer_not_here;	/* its last word: the VM is not there */
	int64_t last_scan_ns;
	int64_t stopped_ns;	/* when the VM stood still */
	XXH3_state_t *device_hash;
	/* bytes/s of the last pass that was long enough to tell */
	uint64_t bandwidth;
	/* bytes and time of the current pass */
	uint64_t pass_bytes;
	int64_t pass_ns;
};

/* pass.c */
int gw_source_pass_first(struct gw_source *s, struct gw_error *err);
int gw_source_pass_scan(struct gw_source *s, struct gw_error *err);
int gw_source_pass_part(struct gw_source *s, struct gw_error *err);
int gw_source_pass_send(struct gw_source *s, struct gw_error *err);
int gw_source_pass_holes(struct gw_source *s, struct gw_error *err);
int gw_source_pass_pace(struct gw_source *s, struct gw_error *err);
int gw_source_flush(struct gw_source *s, struct gw_error *err);
int gw_source_flush_question(struct gw_source *s, struct gw_error *err);
int gw_source_section(struct gw_source *s, enum gw_item item,
		      struct gw_error *err);
void gw_source_section_end(struct gw_source *s);
int gw_source_verify(struct gw_source *s, struct gw_error *err);

/* handover.c */
int gw_source_stop_vm(struct gw_source *s, struct gw_error *err);
int gw_source_hand_over(struct gw_source *s, struct gw_error *err);

/* peer.c: what the destination says */
int gw_source_greet(struct gw_source *s, bool probe, struct gw_hello *theirs,
		    struct gw_error *err);
/* Look without waiting; an ERROR or a lost connection is an error here. */
int gw_source_peer_check(struct gw_source *s, struct gw_error *err);
/* Wait for a record of @type and skip its payload; -1: idle time-out only. */
int gw_source_peer_wait(struct gw_source *s, enum gw_record_type type,
			int64_t timeout_ms, const char *what,
			struct gw_error *err);
/* Writing failed with @err: if the peer left a reason, that is the error. */
void gw_source_peer_reason(struct gw_source *s, struct gw_error *err);
void gw_source_peer_tell(struct gw_source *s, const struct gw_error *why);

#endif
