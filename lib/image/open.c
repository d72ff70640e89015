/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * open.c - from a path to a descriptor that can be read anywhere and the
 * offset of the stream in it; and what a file is that is no stream.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/scope.h"
#include "chan/uri.h"
#include "image/direct.h"
#include "image/file.h"
#include "image/libvirt.h"
#include "wire/hello.h"
#include "wire/multifd.h"
#include "wire/qemu.h"

#define COPY_SIZE (1u << 18)
#define LOOK_SIZE (1u << 20) /* how far a stream is looked for */

/* --- reading ------------------------------------------------------------ */

int gw_input_readv(int fd, struct iovec *iov, int niov, uint64_t offset,
		   struct gw_error *err)
{
	while (niov) {
		ssize_t n = preadv(fd, iov, niov, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return gw_fail_as(err, GW_FAULT_INPUT,
					  n ? errno : ENODATA,
					  "reading at byte %llu of the file: %s",
					  (unsigned long long)offset,
					  n ? strerror(errno) : "it ends there");
		offset += (uint64_t)n;
		while (niov && (size_t)n >= iov->iov_len) {
			n -= (ssize_t)iov->iov_len;
			iov++;
			niov--;
		}
		if (niov) {
			iov->iov_base = (char *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

int gw_input_read(int fd, void *dst, size_t len, uint64_t offset,
		  struct gw_error *err)
{
	struct iovec iov = { dst, len };

	return len ? gw_input_readv(fd, &iov, 1, offset, err) : 0;
}

int gw_input_read_direct(int direct, int fd, void *dst, size_t len,
			 uint64_t offset, struct gw_error *err)
{
	bool fits = gw_direct_fits(direct, dst, len, offset);
	int r = gw_input_read(fits ? direct : fd, dst, len, offset, err);

	return fits && r == -EINVAL ? gw_input_read(fd, dst, len, offset, err) :
				      r;
}

uint64_t gw_input_data(int fd, uint64_t from, uint64_t to, uint64_t *start)
{
	off_t data, hole;

	if (from >= to)
		return 0;
	data = lseek(fd, (off_t)from, SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		return 0;
	if (data < 0) /* a file system without holes */
		data = (off_t)from;
	if ((uint64_t)data >= to)
		return 0;
	hole = lseek(fd, data, SEEK_HOLE);
	if (hole < 0 || (uint64_t)hole > to)
		hole = (off_t)to;
	*start = (uint64_t)data;
	return (uint64_t)hole - *start;
}

/* --- what has no offsets is kept in a file ------------------------------ */

static int temporary(const char **dir, struct gw_error *err)
{
	char name[PATH_MAX];
	int fd;

	*dir = getenv("TMPDIR");
	if (!*dir || !**dir)
		*dir = "/tmp";
	fd = open(*dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0)
		return fd;
	snprintf(name, sizeof(name), "%s/godwit.XXXXXX", *dir);
	fd = mkostemp(name, O_CLOEXEC); /* no O_TMPFILE on this file system */
	if (fd < 0)
		return gw_fail_errno(err, errno,
				     "a temporary file in %s (TMPDIR names another folder)",
				     *dir);
	unlink(name);
	return fd;
}

static bool all_zero(const uint8_t *p, size_t len)
{
	return !len || (!*p && !memcmp(p, p + 1, len - 1));
}

static int put(int fd, const uint8_t *p, size_t len, uint64_t at,
	       const char *dir, struct gw_error *err)
{
	while (len) {
		ssize_t n = pwrite(fd, p, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return gw_fail_errno(err, errno,
					     "keeping standard input in %s, after %llu bytes: set TMPDIR to a folder with more room, or use a file",
					     dir, (unsigned long long)at);
		p += n;
		len -= (size_t)n;
		at += (uint64_t)n;
	}
	return 0;
}

/* Everything from pipe @in; blocks of zeros become holes. */
static int keep(int in, const struct gw_cancel *cancel, struct gw_error *err)
{
	gw_autofree uint8_t *buf = malloc(COPY_SIZE);
	const char *dir;
	gw_autoclose int fd = temporary(&dir, err);
	uint64_t at = 0;
	int r = 0;

	if (fd < 0 || !buf)
		return fd < 0 ? fd : gw_fail(err, ENOMEM, "no memory");
	for (;;) {
		ssize_t n;

		if (gw_wait_fd(in, POLLIN, 0, cancel))
			return gw_cancel_fail(err);
		n = read(in, buf, COPY_SIZE);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return gw_fail_errno(err, errno, "reading the input");
		if (!n)
			break;
		if (!all_zero(buf, (size_t)n))
			r = put(fd, buf, (size_t)n, at, dir, err);
		if (r)
			return r;
		at += (uint64_t)n;
	}
	if (ftruncate(fd, (off_t)at))
		return gw_fail_errno(err, errno, "a temporary file in %s", dir);
	return gw_take_fd(&fd);
}

/* --- opening ------------------------------------------------------------ */

static int open_path(const char *path, const struct gw_cancel *cancel,
		     struct gw_error *err)
{
	gw_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return gw_fail_errno(err, errno, "cannot be opened");
	if (S_ISDIR(st.st_mode))
		return gw_fail_as(err, GW_FAULT_USAGE, EISDIR,
				  "a folder, not a file");
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return keep(fd, cancel, err);
	return gw_take_fd(&fd);
}

static int open_stdin(uint64_t *base, const struct gw_cancel *cancel,
		      struct gw_error *err)
{
	struct stat st;
	off_t at;
	int fd;

	if (fstat(STDIN_FILENO, &st))
		return gw_fail_errno(err, errno, "standard input");
	if (isatty(STDIN_FILENO))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "standard input is a terminal: give it a file or a pipe");
	if (!S_ISREG(st.st_mode))
		return keep(STDIN_FILENO, cancel, err);
	at = lseek(STDIN_FILENO, 0, SEEK_CUR);
	*base = at > 0 ? (uint64_t)at : 0;
	fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
	return fd >= 0 ? fd : gw_fail_errno(err, errno, "standard input");
}

static int open_any(struct gw_input *in, const char *path, char name[256],
		    const struct gw_cancel *cancel, struct gw_error *err)
{
	gw_autofree struct gw_uri *u = NULL;

	if (!strcmp(path, "-")) {
		strcpy(name, "standard input");
		return open_stdin(&in->base, cancel, err);
	}
	name[0] = '\0';
	strncat(name, path, 255);
	if (strncmp(path, "file:", 5))
		return open_path(path, cancel, err);
	u = malloc(sizeof(*u));
	if (!u)
		return gw_fail(err, ENOMEM, "no memory");
	if (gw_uri_parse(u, path, err))
		return -err->code;
	snprintf(name, 256, "%.255s", u->path);
	in->base = u->offset;
	return open_path(u->path, cancel, err);
}

/* --- recognising -------------------------------------------------------- */

static const struct {
	const char *magic;
	size_t len;
	const char *what;
} others[] = {
	{ "\x7f" "ELF", 4, "an ELF file (a core dump?): it has no device state and cannot be read as an image" },
	{ "KDUMP   ", 8, "a kdump core: it has no device state and cannot be read as an image" },
	{ "QFI\xfb", 4, "a qcow2 disk image; a VM state inside it (savevm) is not reached from here" },
	{ "\x1f\x8b", 2, "compressed by gzip: decompress it first (gzip -dc FILE | ... -)" },
	{ "BZh", 3, "compressed by bzip2: decompress it first (bzip2 -dc FILE | ... -)" },
	{ "\xfd" "7zXZ", 5, "compressed by xz: decompress it first (xz -dc FILE | ... -)" },
	{ "\x89" "LZO", 4, "compressed by lzop: decompress it first (lzop -dc FILE | ... -)" },
	{ "\x28\xb5\x2f\xfd", 4, "compressed by zstd: decompress it first (zstd -dc FILE | ... -)" },
	{ "\x04\x22\x4d\x18", 4, "compressed by lz4: decompress it first (lz4 -dc FILE | ... -)" },
	{ GW_HELLO_MAGIC, GW_HELLO_MAGIC_LEN, "a recorded connection between two godwits" },
	{ "\x11\x22\x33\x44", 4, "a recorded channel of multifd: it has pages, the rest went over the main connection" },
	{ "<domain", 7, "libvirt's XML of a domain, not its memory" },
};

static bool is_stream(const uint8_t *p, size_t len)
{
	return len >= 8 && gw_get_be32(p) == GW_QEMU_MAGIC &&
	       gw_get_be32(p + 4) <= GW_QEMU_VERSION;
}

/* Is there a stream further on? Where somebody put a header before it. */
static size_t find_stream(const uint8_t *p, size_t len)
{
	const uint8_t *end = p + len, *at = p;

	while (at < end &&
	       (at = memchr(at, GW_QEMU_MAGIC >> 24, (size_t)(end - at)))) {
		if (is_stream(at, (size_t)(end - at)) && end - at > 8 &&
		    at[8] == GW_ITEM_CONFIGURATION)
			return (size_t)(at - p);
		at++;
	}
	return 0;
}

static int say_what_it_is(const uint8_t *p, size_t len, uint64_t base,
			  struct gw_error *err)
{
	size_t at;

	if (!len)
		return gw_fail_as(err, GW_FAULT_INPUT, ENODATA,
				  base ? "it ends before the offset" :
					 "it is empty");
	for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
		if (len >= others[i].len &&
		    !memcmp(p, others[i].magic, others[i].len))
			return gw_fail_as(err, GW_FAULT_INPUT, EPROTO, "%s",
					  others[i].what);
	at = find_stream(p, len);
	if (at)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "no QEMU stream begins at byte %llu, but one does at byte %llu: use file:PATH,offset=%llu",
				  (unsigned long long)base,
				  (unsigned long long)(base + at),
				  (unsigned long long)(base + at));
	if (len < 8)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "%zu bytes are too few for anything", len);
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "neither a QEMU stream (\"QEVM\") nor a mapped-ram file nor a save of libvirt: it begins with %02x %02x %02x %02x%s",
			  p[0], p[1], p[2], p[3],
			  all_zero(p, len) ? " and goes on with zeros; raw memory or a disk?" :
					     "");
}

/* As much as there is, at most LOOK_SIZE. */
static ssize_t look(int fd, uint8_t *buf, uint64_t at, struct gw_error *err)
{
	size_t len = 0;

	while (len < LOOK_SIZE) {
		ssize_t n = pread(fd, buf + len, LOOK_SIZE - len,
				  (off_t)(at + len));

		if (n < 0)
			return gw_fail_as(err, GW_FAULT_INPUT, errno,
					  "reading at byte %llu: %s",
					  (unsigned long long)(at + len),
					  strerror(errno));
		if (!n)
			break;
		len += (size_t)n;
	}
	return (ssize_t)len;
}

/* Behind libvirt's header, and zeros that align what follows. */
static int skip_libvirt(struct gw_input *in, uint8_t *buf, uint64_t stream,
			struct gw_error *err)
{
	ssize_t len;
	size_t i = 0;

	in->libvirt = true;
	in->base += stream;
	len = look(in->fd, buf, in->base, err);
	if (len < 0)
		return (int)len;
	while (i < (size_t)len && !buf[i])
		i++;
	if (!is_stream(buf + i, (size_t)len - i))
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "no QEMU stream at byte %llu, behind libvirt's save header",
				  (unsigned long long)in->base);
	in->base += i;
	return 0;
}

static int recognise(struct gw_input *in, struct gw_error *err)
{
	gw_autofree uint8_t *buf = malloc(LOOK_SIZE);
	uint64_t stream;
	ssize_t len;
	int r;

	if (!buf)
		return gw_fail(err, ENOMEM, "no memory");
	len = look(in->fd, buf, in->base, err);
	if (len < 0)
		return (int)len;
	if (is_stream(buf, (size_t)len))
		return 0;
	r = gw_libvirt_parse(buf, (size_t)len, &stream, err);
	if (r > 0)
		return skip_libvirt(in, buf, stream, err);
	return r ? r : say_what_it_is(buf, (size_t)len, in->base, err);
}

static int measure(struct gw_input *in, struct gw_error *err)
{
	struct stat st;
	off_t end = lseek(in->fd, 0, SEEK_END); /* also of a disk */

	if (end < 0 || fstat(in->fd, &st))
		return gw_fail_errno(err, errno, "its size");
	in->size = (uint64_t)end;
	in->allocated = (uint64_t)st.st_blocks * 512;
	return 0;
}

int gw_input_open(struct gw_input *in, const char *path, char name[256],
		  const struct gw_cancel *cancel, struct gw_error *err)
{
	struct gw_error local;
	int r;

	err = err ? err : &local;
	memset(in, 0, sizeof(*in));
	in->fd = open_any(in, path, name, cancel, err);
	r = in->fd < 0 ? in->fd : measure(in, err);
	if (!r)
		r = recognise(in, err);
	if (!r)
		return 0;
	if (in->fd >= 0)
		close(in->fd);
	in->fd = -1;
	if (err->fault != GW_FAULT_CANCELLED)
		gw_error_prefix(err, "%s", name);
	return r;
}
