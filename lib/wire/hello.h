/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hello.h - the greeting between two godwits, the first bytes in each
 * direction: "GODWIT\r\n", be32 version, be32 length, JSON of that length.
 * A source speaks first; a destination answers with its own even if it is
 * going to refuse, so that both sides can say why.
 */
#ifndef GW_WIRE_HELLO_H
#define GW_WIRE_HELLO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/reader.h"
#include "base/writer.h"
#include "ram/block.h"

#define GW_HELLO_MAGIC	   "GODWIT\r\n"
#define GW_HELLO_MAGIC_LEN 8u
#define GW_HELLO_VERSION   1u
#define GW_HELLO_MAX_JSON  65536u

/* Features: used when both sides have them; bits are ours, names travel. */
#define GW_FEATURE_VERIFY  (1u << 0) /* "verify" */
#define GW_FEATURE_MULTIFD (1u << 1) /* "multifd": channels carry pages */
#define GW_FEATURE_XBZRLE  (1u << 2) /* "xbzrle": records, delta packets */
#define GW_FEATURE_ZLIB	   (1u << 3) /* "zlib": on channels */
#define GW_FEATURE_ZSTD	   (1u << 4) /* "zstd": on channels */
#define GW_FEATURE_DISKS   (1u << 5) /* "disks": copied by NBD */
/* "skip-zero-pages": a destination promises that all of its RAM reads as zero
 * before the first page comes; a source then leaves zero pages out of its
 * first pass */
#define GW_FEATURE_SKIP_ZERO (1u << 6)
/* "fill": a ZERO record may say any byte; QEMU takes 0 only */
#define GW_FEATURE_FILL (1u << 7)
/* "checkpoint": the source stays and sends checkpoints (checkpoint.h). Both
 * sides require it, or neither has it */
#define GW_FEATURE_CHECKPOINT (1u << 8)

#define GW_HELLO_MAX_CONNECTIONS 128u
#define GW_HELLO_MAX_TIMEOUT_MS	 86400000u /* a day */
#define GW_HELLO_SESSION	 16u /* bytes */

struct gw_hello {
	bool source;
	bool probe; /* source: only asks whether it would work (`check`) */
	char name[64], godwit[32], vmm[64], machine[64], arch[32];
	bool running;		  /* source: the VM runs now */
	unsigned int features;	  /* offered */
	unsigned int required;	  /* this side cannot do without */
	uint32_t page_bytes;	  /* GW_PAGE_SIZE */
	struct gw_ram ram;	  /* idstr, used_length, page_size only */
	/* source: further connections it is going to make: channels, then one
	 * per disk (multifd.h: each begins with a hello of session and id);
	 * with GW_FEATURE_CHECKPOINT one more, for the lease (chan/lease.h) */
	uint32_t channels, disks;
	/* standby: it takes over when the primary is silent for so long, ms */
	uint32_t timeout_ms;
	uint8_t session[GW_HELLO_SESSION]; /* destination: random */
};

void gw_hello_fini(struct gw_hello *h);
int gw_hello_put(struct gw_writer *w, const struct gw_hello *h,
		 struct gw_error *err) GW_MUST_CHECK;

/* Sticky errors in @r: not a godwit (says what it looks like), JSON, limits. */
int gw_hello_get(struct gw_reader *r, struct gw_hello *h) GW_MUST_CHECK;

/*
 * Can @source move to @dest? Compares machine type, CPU architecture, page
 * size, RAM blocks, roles, required features; *@features is what both have.
 * Return: 0 or -errno with the first difference (GW_FAULT_REFUSED).
 */
int gw_hello_agree(const struct gw_hello *source, const struct gw_hello *dest,
		   unsigned int *features, struct gw_error *err) GW_MUST_CHECK;

#endif
