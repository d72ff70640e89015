/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sink.h - where a VM image goes: a QEMU stream (to a file or a peer), a
 * mapped-ram file, raw memory, an ELF core, a waiting VM. Any source (a live
 * VM, a stream that arrives, a stored image) fills any sink.
 *
 *	begin  ( pages | zeros | delta )*  pass ...  pass(last)  device
 *	ready  finish, or close at any point: then nothing remains of it
 *	       (but for keep())
 *
 * A page may come any number of times, the last one counts. Within a pass a
 * page comes once; a pass ends when all of it has been written. pages() and
 * zeros() may be called from several threads when `parallel` is set, all else
 * from one; `data` may be guest memory that changes meanwhile: then the page
 * comes again in a later pass.
 */
#ifndef GW_IMAGE_SINK_H
#define GW_IMAGE_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cancel.h"
#include "base/error.h"
#include "wire/ram.h"
#include "wire/section.h"

/* What a VM image is made of, besides its pages. */
struct gw_image_desc {
	struct gw_configuration config;
	struct gw_ram_table table;
};

struct gw_sink;

struct gw_sink_ops {
	const char *name; /* "stream", "mapped-ram", "raw", "elf", "vm" */

	/* @d stays valid until close. */
	int (*begin)(struct gw_sink *s, const struct gw_image_desc *d,
		     struct gw_error *err);

	/* @n pages of block @block (index into d->table) from page @first,
	 * none of them known to be zero. */
	int (*pages)(struct gw_sink *s, int block, uint64_t first, uint32_t n,
		     const void *data, struct gw_error *err);

	/* @n pages that are zero (or never existed). */
	int (*zeros)(struct gw_sink *s, int block, uint64_t first, uint64_t n,
		     struct gw_error *err);

	/* An XBZRLE delta against what the sink has of the page. */
	int (*delta)(struct gw_sink *s, int block, uint64_t page,
		     const void *delta, uint16_t len, struct gw_error *err);

	/* Everything of this pass is out; @last: RAM is final. */
	int (*pass)(struct gw_sink *s, bool last, struct gw_error *err);

	/* @sections: FULL sections without EOF; @vmdesc: JSON, or NULL. */
	int (*device)(struct gw_sink *s, const void *sections, size_t len,
		      const char *vmdesc, size_t vmdesc_len,
		      struct gw_error *err);

	/* All of it is there and safe (on disk; accepted by the peer), only
	 * the last word is missing. */
	int (*ready)(struct gw_sink *s, struct gw_error *err);

	/* The last word: the file gets its name, the peer runs the VM.
	 * GW_FAULT_UNCERTAIN: it may have been heard. */
	int (*finish)(struct gw_sink *s, struct gw_error *err);

	/* Optional, any time between begin and finish: has the other side
	 * given up? Never waits. */
	int (*check)(struct gw_sink *s, struct gw_error *err);

	/* Optional, after ready: nobody knows whether finish() is due. What is
	 * there stays as it is when @s is closed. */
	void (*keep)(struct gw_sink *s);

	void (*close)(struct gw_sink *s); /* frees @s */
};

struct gw_sink {
	const struct gw_sink_ops *ops;
	bool parallel;	 /* pages() and zeros() from several threads */
	bool runs_it;	 /* finish() makes somebody run the VM: whoever had it
			    must have given it up before */
	bool keeps_holes; /* zeros() of pages that never came is free and need
			     not be called */
	/* Pages of shared RAM go past the sink, on channels (a plain QEMU's
	 * multifd). begin() says whether zero pages may too; else zeros(). */
	bool channels, channel_zeros;
	/* With channels: how often so far the stream came to a place where the
	 * receiver waits for a SYNC of every channel. After begin() and pass(). */
	unsigned int syncs;
	uint64_t nbytes; /* atomic: written so far, for limits and progress */
};

static inline uint64_t gw_sink_nbytes(const struct gw_sink *s)
{
	return __atomic_load_n(&s->nbytes, __ATOMIC_RELAXED);
}

static inline void gw_sink_close(struct gw_sink *s)
{
	if (s)
		s->ops->close(s);
}

/*
 * May a page of block @block be left out because it is zero? A destination's
 * RAM begins as zeros, its ROMs, tables and video memory need not: their zero
 * pages are always written. Only the largest block and blocks of more than
 * 64 MiB are taken for RAM.
 */
bool gw_image_is_ram(const struct gw_image_desc *d, int block);

/*
 * @n pages at @host: those that are zero go to zeros(), the others to
 * pages(), in runs. Counts are added to *@normal and *@duplicate.
 */
int gw_sink_write(struct gw_sink *s, int block, uint64_t first, uint32_t n,
		  const void *host, uint64_t *normal, uint64_t *duplicate,
		  struct gw_error *err) GW_MUST_CHECK;

/* --- the sinks of this folder ------------------------------------------ */

/* Threads for a file, when the user asked for @channels of them (0: any). */
static inline unsigned int gw_sink_threads(uint32_t channels)
{
	return channels ? channels : 2;
}

/* Options of files; zero: the defaults. */
struct gw_sink_options {
	unsigned int channels; /* threads that will call pages(), 0: 1 */
	bool direct_io;	       /* O_DIRECT for pages, where the file can */
	const char *block;     /* raw: only this block, flat; NULL: physical
				  memory */
	const struct gw_cancel *cancel; /* may be NULL */
};

/*
 * A sink of @format ("stream", "mapped-ram", "raw", "elf") that writes @path
 * ("-": standard output, stream only). The file appears under its name only
 * when finish() succeeds, replacing what was there; until then it has a
 * temporary name beside it, or none. NULL with @err.
 */
struct gw_sink *gw_sink_file(const char *format, const char *path,
			     const struct gw_sink_options *o,
			     struct gw_error *err);

/* The formats, NULL-terminated; the first two can be read again. */
extern const char *const gw_sink_formats[];

#endif
