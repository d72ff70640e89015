/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * savefile.h - a file that gets its name only when it is finished, mode 0600.
 *
 * Until then it has no name at all (O_TMPFILE), or where the file system
 * cannot do that, the hidden one ".NAME.godwit-XXXXXX" beside it. What had the
 * name before is replaced in one step. A symbolic link is followed. Pipes,
 * devices and "-" (standard output) are written as they are.
 */
#ifndef GW_IMAGE_SAVEFILE_H
#define GW_IMAGE_SAVEFILE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cancel.h"
#include "base/error.h"

enum gw_save_mode {
	GW_SAVE_IN_ORDER, /* every byte after the other */
	GW_SAVE_PLACED,	  /* at offsets, what is not written reads as zero */
};

struct gw_savefile {
	int fd;	     /* to write through; -1: closed */
	int folder;  /* -1: not a file that gets a name */
	bool named;  /* finished */
	char shown[PATH_MAX];	 /* as the user wrote it */
	char name[NAME_MAX + 1]; /* in folder */
	char temp[NAME_MAX + 1]; /* in folder, "": has none */
};

/* @f is closed when this fails. @cancel ends the wait for a FIFO's reader. */
int gw_savefile_open(struct gw_savefile *f, const char *path,
		     enum gw_save_mode mode, const struct gw_cancel *cancel,
		     struct gw_error *err) GW_MUST_CHECK;

/* Another descriptor of it, with O_DIRECT; -1: this file cannot do that. */
int gw_savefile_direct(const struct gw_savefile *f);

/* All of @len bytes through @fd (f->fd or a direct one). Any thread. */
int gw_savefile_pwrite(const struct gw_savefile *f, int fd, const void *p,
		       size_t len, uint64_t offset,
		       struct gw_error *err) GW_MUST_CHECK;

/* Exactly @len bytes back; what is beyond the end reads as zero. */
int gw_savefile_pread(const struct gw_savefile *f, void *p, size_t len,
		      uint64_t offset, struct gw_error *err) GW_MUST_CHECK;

/* It will have @size bytes: refused where a limit makes that impossible. */
int gw_savefile_resize(const struct gw_savefile *f, uint64_t size,
		       struct gw_error *err) GW_MUST_CHECK;

/* Say why @len bytes at @offset were refused with @code. Return: -@code. */
int gw_savefile_full(const struct gw_savefile *f, int code, size_t len,
		     uint64_t offset, struct gw_error *err);

/* Is it all on disk? */
int gw_savefile_sync(const struct gw_savefile *f,
		     struct gw_error *err) GW_MUST_CHECK;
/* The name, on disk too. */
int gw_savefile_finish(struct gw_savefile *f,
		       struct gw_error *err) GW_MUST_CHECK;
/* Without finish nothing remains. */
void gw_savefile_close(struct gw_savefile *f);

#endif
