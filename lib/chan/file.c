/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * file.c - the file: transport: a stream in a file, from an offset on. Not
 * mapped-ram, which places pages itself (lib/image).
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/scope.h"
#include "chan/transport.h"

/* O_NONBLOCK: opening a FIFO must not wait for its other side. */
static int open_file(const struct gw_uri *u, int flags, struct stat *st,
		     struct gw_error *err)
{
	gw_autoclose int fd =
		open(u->path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);

	if (fd < 0 || fstat(fd, st) < 0)
		return gw_fail_errno(err, errno, "cannot open %s", u->shown);
	if (S_ISFIFO(st->st_mode) || S_ISSOCK(st->st_mode) ||
	    S_ISDIR(st->st_mode))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "%s is not a file%s", u->shown,
				  S_ISFIFO(st->st_mode) ?
					  "; for a FIFO use fd: or exec:" :
					  "");
	return gw_take_fd(&fd);
}

static struct gw_chan *channel(const struct gw_uri *u, int *fd,
			       struct gw_error *err)
{
	struct gw_chan *c;

	if (u->offset && lseek(*fd, (off_t)u->offset, SEEK_SET) < 0) {
		gw_fail_errno(err, errno, "%s: going to the offset", u->shown);
		return NULL;
	}
	c = gw_chan_from_fd(*fd, u->shown, err);
	if (c)
		*fd = -1;
	return c;
}

/* What is before the offset stays: it is somebody's header (as QEMU does). */
static struct gw_chan *file_connect(const struct gw_uri *u, int64_t deadline,
				    const struct gw_cancel *cancel,
				    struct gw_error *err)
{
	struct stat st;
	gw_autoclose int fd = open_file(u, O_WRONLY | O_CREAT, &st, err);

	if (fd < 0)
		return NULL;
	if (S_ISREG(st.st_mode) && ftruncate(fd, (off_t)u->offset) < 0) {
		gw_fail_errno(err, errno, "%s: truncating to %llu bytes",
			      u->shown, (unsigned long long)u->offset);
		return NULL;
	}
	return channel(u, &fd, err);
}

static int file_listen(struct gw_listener *l, const struct gw_uri *u,
		       struct gw_error *err)
{
	struct stat st;
	gw_autoclose int fd = open_file(u, O_RDONLY, &st, err);

	if (fd < 0)
		return fd;
	if (S_ISREG(st.st_mode) && u->offset > (uint64_t)st.st_size)
		return gw_fail_as(err, GW_FAULT_INPUT, EINVAL,
				  "%s: the file has only %lld bytes", u->shown,
				  (long long)st.st_size);
	l->ready = channel(u, &fd, err);
	return l->ready ? 0 : -EIO;
}

const struct gw_transport gw_transport_file = { file_connect, file_listen };
