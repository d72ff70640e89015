/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * file.h - what the readers of this folder share: the input (a file, standard
 * input, something behind libvirt's header) and the two ways of finding a
 * page in it.
 */
#ifndef GW_IMAGE_FILE_H
#define GW_IMAGE_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cancel.h"
#include "base/error.h"
#include "image/image.h"
#include "wire/stream.h"

/* --- open.c: the bytes -------------------------------------------------- */

struct gw_input {
	int fd;		/* owned; seekable, only read by offset */
	uint64_t base;	/* where the stream begins */
	uint64_t size, allocated;
	bool libvirt;
};

/* Find the stream that @path (see gw_image_open()) means; @name gets what it
 * is called in messages. */
int gw_input_open(struct gw_input *in, const char *path, char name[256],
		  const struct gw_cancel *cancel,
		  struct gw_error *err) GW_MUST_CHECK;

/* Fill @iov (which is changed) from @offset; an end of the file or an error
 * of the disk is GW_FAULT_INPUT. Any thread. */
int gw_input_readv(int fd, struct iovec *iov, int niov, uint64_t offset,
		   struct gw_error *err) GW_MUST_CHECK;
int gw_input_read(int fd, void *dst, size_t len, uint64_t offset,
		  struct gw_error *err) GW_MUST_CHECK;

/* The same, past the page cache where @direct (-1: none) can. */
int gw_input_read_direct(int direct, int fd, void *dst, size_t len,
			 uint64_t offset, struct gw_error *err) GW_MUST_CHECK;

/* The next part of the file in [@from, @to) that is no hole. Return: its
 * length (0: none), its start in *@start. */
uint64_t gw_input_data(int fd, uint64_t from, uint64_t to, uint64_t *start);

/* --- stream_file.c, mapped_file.c: where the pages are ------------------ */

struct gw_image_file {
	struct gw_image img; /* first: an image is one of these */
	int fd;		     /* owned */
	int direct;	     /* the same with O_DIRECT, owned; -1: none */
};

struct gw_image_kind {
	struct gw_image_ops ops;
	const char *format;
	/* An empty one, all zero but for the struct's size. */
	struct gw_image_file *(*new)(void);
	/* img.desc is complete. */
	int (*table)(struct gw_image_file *f, struct gw_error *err);
	/* A page record; its page or delta begins at file offset @at. */
	int (*record)(struct gw_image_file *f,
		      const struct gw_stream_event *ev, uint64_t at,
		      struct gw_error *err);
};

extern const struct gw_image_kind gw_image_stream, gw_image_mapped;

/* Memory that costs nothing until it is written; reads as zero. NULL. */
void *gw_lazy_alloc(uint64_t size);
void gw_lazy_free(void *p, uint64_t size);

/* The value of bit @first of @word, and in *@n how many bits from there on,
 * at most @max, have it. */
bool gw_bits_run(const uint64_t *word, uint64_t first, uint64_t max,
		 uint64_t *n);

#endif
