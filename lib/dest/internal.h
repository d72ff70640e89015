/* SPDX-License-Identifier: BSD-3-Clause */
/* internal.h - what the files of dest/ share. Not for other folders. */
#ifndef GW_DEST_INTERNAL_H
#define GW_DEST_INTERNAL_H

#include "base/clock.h"
#include "base/reader.h"
#include "base/writer.h"
#include "dest/batch.h"
#include "dest/channels.h"
#include "dest/dest.h"
#include "dest/disks.h"
#include "dest/empty.h"
#include "dest/join.h"
#include "wire/hello.h"
#include "wire/ram.h"
#include "wire/record.h"
#include "wire/section.h"

#define GW_LOG_MODULE "dest"
#include "base/log.h"
#include "base/moment.h"

/* What may come next; only ever goes up. */
enum gw_dest_phase {
	GW_DEST_TABLE,	/* START with the block table */
	GW_DEST_RAM,	/* PARTs, then END */
	GW_DEST_DEVICE, /* RAM is final: hashes, device state */
	GW_DEST_LOADED, /* READY was said */
};

/* Bytes that come in pieces. */
struct gw_dest_bytes {
	uint8_t *p;
	size_t len, cap;
};

/* Every field belongs to the migration thread; `place` is also used by the
 * threads of the channels. */
struct gw_dest {
	struct gw_dest_config c;
	struct godwit_stats *now; /* = &c.progress->now */
	struct gw_reader in;
	struct gw_writer out;
	struct gw_ram_decoder ram;
	struct gw_place_ram place_ram;
	struct gw_place *place; /* where pages go: that, or the keeper's */
	struct gw_batch batch;	/* of the main connection */
	unsigned int features; /* what both have */
	unsigned int nchannels;
	uint8_t session[GW_HELLO_SESSION];
	struct gw_join join;
	struct gw_channels channels;
	enum gw_dest_phase phase;
	uint32_t section_id;
	bool punched;	  /* RAM was made ours: empty it again on failure */
	bool probe;	  /* it only asked */
	bool flushed;	  /* this section has a sync of the channels */
	bool verify;	  /* one of the sides asked for it */
	bool stranger;	  /* not a godwit: close without a word */
	bool loading;	  /* load_begin was called */
	bool run;	  /* GO says: run it, not: leave it paused */
	bool uncertain;	  /* READY was said and nobody answered */
	bool source_owns; /* the source said that it keeps the VM */
	uint64_t verified[GW_RAM_MAX_BLOCKS]; /* pages compared, per block */
	uint32_t ndisks; /* their connections follow those of channels */
	struct gw_dest_disks *disks; /* NULL: none yet */
	/* device state */
	struct gw_dest_bytes device;
	struct gw_extent *extents; /* [GW_RECORD_MAX_EXTENTS] */
	struct gw_dest_keep *keep; /* keep.c; NULL: a migration */
};

/* dest.c: the end of a connection is not bad input */
void gw_dest_lost(struct gw_dest *d, struct gw_error *err);

/* dest.c: the last word: ERROR because of @why, or BYE; reads until the source
 * has closed. @not_here: the VM does not run here and will not. */
void gw_dest_tell(struct gw_dest *d, enum gw_record_type type,
		  const struct gw_error *why, bool not_here);

/* load.c: everything up to a complete VM image */
int gw_dest_receive(struct gw_dest *d, struct gw_error *err);
int gw_dest_ram_section(struct gw_dest *d, uint8_t item, struct gw_error *err);
int gw_dest_extents(struct gw_dest *d, const struct gw_record *rec,
		    struct gw_error *err);
/* DEVICE or STATE_BASE behind what is in @to; @others: bytes that count
 * towards the same limit. */
int gw_dest_collect(struct gw_dest *d, const struct gw_record *rec,
		    struct gw_dest_bytes *to, size_t others,
		    struct gw_error *err);
int gw_dest_out_of_order(struct gw_dest *d, uint8_t item,
			 struct gw_error *err);
/* The next item is a record: its header, an ERROR from the source as @err. */
int gw_dest_record(struct gw_dest *d, struct gw_record *rec,
		   struct gw_error *err);

/* keep.c: a primary's checkpoints, up to the end of the connection */
int gw_dest_keep_init(struct gw_dest *d);
/* All connections have come: the last one is the lease's. */
int gw_dest_keep_setup(struct gw_dest *d, struct gw_error *err);
int gw_dest_keep(struct gw_dest *d, struct gw_error *err);
/* It failed: tell the primary what it is to know. */
void gw_dest_keep_failed(struct gw_dest *d, struct gw_error *err);
void gw_dest_keep_free(struct gw_dest *d);

/* verify.c */
int gw_dest_verify(struct gw_dest *d, const struct gw_record *rec,
		   struct gw_error *err);
int gw_dest_verify_end(struct gw_dest *d, struct gw_error *err);

/* handover.c */
/* RAM is complete: get ready to load while the source asks its VMM for the
 * device state. */
int gw_dest_load_begin(struct gw_dest *d, struct gw_error *err);
int gw_dest_hand_over(struct gw_dest *d, struct gw_error *err);

#endif
