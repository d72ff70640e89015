/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * image.h - a stored VM, read page by page on demand: a stream file (normal,
 * zero and XBZRLE pages, any number of passes) or a mapped-ram file, alone or
 * behind libvirt's save header, or a stream from standard input.
 *
 * Opening reads what is needed to know where everything is: all of a stream
 * once (an index of 8 bytes per page), of a mapped-ram file its bitmaps. Then
 * pages may be read by any number of threads.
 */
#ifndef GW_IMAGE_IMAGE_H
#define GW_IMAGE_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cancel.h"
#include "base/error.h"
#include "image/sink.h"
#include "wire/vmdesc.h"

enum gw_page_state {
	GW_PAGE_ABSENT, /* never in the file: zero where RAM begins as zero */
	GW_PAGE_ZERO,	/* said to be zero */
	GW_PAGE_DATA,
};

/* What the records of one section (START, PART, END) were. */
struct gw_image_pass {
	enum gw_item item;
	uint64_t normal, zero, delta, nbytes;
};

struct gw_image {
	/* set by gw_image_open() */
	const struct gw_image_ops *ops;
	const char *format; /* "stream", "mapped-ram" */
	char path[256];	    /* for messages, perhaps cut */
	struct gw_image_desc desc;
	uint64_t size;	    /* of the file, bytes */
	uint64_t allocated; /* of it on disk, bytes */
	uint64_t base;	    /* where the stream begins in the file */
	bool libvirt;	    /* behind libvirt's save header */
	bool have_end;	    /* RAM was ended (background-snapshot: not) */
	bool return_path;   /* the stream asks for one */
	bool switchover;    /* SWITCHOVER_START: only QEMU >= 10.0 loads it */
	bool colo;	    /* what a primary of QEMU's COLO sent: here is its
			       first migration */
	uint64_t colo_bytes; /* of checkpoints behind that, which nobody reads */
	/* the device state: FULL sections, EOF, VMDESC */
	uint8_t *tail; /* owned; sections begin at 0 */
	size_t tail_len, eof; /* eof: offset of the EOF byte in tail */
	const char *vmdesc;   /* JSON inside tail, NULL: none */
	size_t vmdesc_len;
	/* streams: what came in which section */
	struct gw_image_pass *pass; /* owned */
	int npasses;
};

struct gw_image_ops {
	/* The state of page @page and of how many pages from there (>= 1, in
	 * the block, at most @max) are in the same state. */
	enum gw_page_state (*state)(struct gw_image *img, int block,
				    uint64_t page, uint64_t max, uint64_t *n);
	/* @n pages that are GW_PAGE_DATA into @dst. */
	int (*read)(struct gw_image *img, int block, uint64_t page, uint32_t n,
		    void *dst, struct gw_error *err);
	void (*close)(struct gw_image *img);
};

/*
 * @path: a file, "-" for standard input (which is kept in an unnamed temporary
 * file when it is not a file itself), or file:PATH[,offset=N] where a stream
 * does not begin at the start. Return: NULL with @err: GW_FAULT_INPUT with
 * section, block and byte offset for anything that is not a sound image.
 */
struct gw_image *gw_image_open(const char *path,
			       const struct gw_cancel *cancel,
			       struct gw_error *err);
void gw_image_close(struct gw_image *img); /* NULL is fine */

static inline uint64_t gw_image_npages(const struct gw_image *img, int block)
{
	return img->desc.table.entry[block].used_length / GW_PAGE_SIZE;
}

/* Pages [@page, @page + @n) of @block into @dst, whatever their state. */
int gw_image_read(struct gw_image *img, int block, uint64_t page, uint32_t n,
		  void *dst, struct gw_error *err) GW_MUST_CHECK;

/* From here on read runs of 64 KiB and more past the page cache (O_DIRECT),
 * where format and file system can: mapped-ram. Before other threads read. */
void gw_image_read_direct(struct gw_image *img);

/* Pages by state, over all blocks or one (@block >= 0). */
void gw_image_count(struct gw_image *img, int block, uint64_t npages[3]);

/* With x-ignore-shared: is @block's memory in a file of its own, not here? */
bool gw_image_is_outside(struct gw_image *img, int block);

/*
 * A file can be sound and yet not have the VM's memory: what QEMU leaves of
 * mapped-ram with background-snapshot or of an unfinished save, and the main
 * connection of a multifd migration. Return: 0, or -ENODATA, GW_FAULT_INPUT,
 * naming which.
 */
int gw_image_usable(struct gw_image *img,
		    struct gw_error *err) GW_MUST_CHECK;

/* And is all of its memory in here? gw_image_copy() asks before it begins. */
int gw_image_complete(struct gw_image *img,
		      struct gw_error *err) GW_MUST_CHECK;

/*
 * Everything of @img into @sink, from begin to device (not ready and finish),
 * read by @threads threads where the sink can take that. @tick (may be NULL)
 * is called now and then from the calling thread with pages done and all.
 */
struct gw_copy {
	struct gw_image *img;
	struct gw_sink *sink;
	unsigned int threads;
	const struct gw_cancel *cancel;
	void (*tick)(uint64_t done, uint64_t all, void *data);
	void *data;
	/* results */
	uint64_t normal, duplicate; /* pages */
};
int gw_image_copy(struct gw_copy *c, struct gw_error *err) GW_MUST_CHECK;

#endif
