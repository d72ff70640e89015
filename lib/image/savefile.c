/* SPDX-License-Identifier: BSD-3-Clause */
/* savefile.c - see savefile.h. */
#include "image/savefile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/scope.h"
#include "base/units.h"
#include "image/direct.h"

#define TEMP_TRIES 100

/* ".NAME.godwit-XXXXXX", a long NAME cut. */
static int make_temp_name(struct gw_savefile *f, struct gw_error *err)
{
	static const char digits[] = "0123456789abcdefghijklmnopqrstuv";
	uint8_t random[6];
	char suffix[sizeof(random) + 1] = "";

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return gw_fail_errno(err, errno, "getrandom");
	for (size_t i = 0; i < sizeof(random); i++)
		suffix[i] = digits[random[i] % 32];
	snprintf(f->temp, sizeof(f->temp), ".%.200s.godwit-%s", f->name,
		 suffix);
	return 0;
}

/* Split the path into an open folder and a name in it. */
static int open_folder(struct gw_savefile *f, const char *path,
		       struct gw_error *err)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	gw_autofree char *folder =
		slash ? strndup(path, (size_t)(slash - path) + 1) :
			strdup(".");

	if (!folder)
		return gw_fail(err, ENOMEM, "no memory for a path");
	if (!*name || strlen(name) > NAME_MAX)
		return gw_fail_as(err, GW_FAULT_USAGE,
				  *name ? ENAMETOOLONG : EISDIR,
				  *name ? "%s: the name is too long" :
					  "%s: a file name is missing",
				  path);
	strcpy(f->name, name);
	f->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->folder < 0)
		return gw_fail_errno(err, errno, "%s: opening the folder %s",
				     f->shown, folder);
	return 0;
}

static bool can_link(int fd)
{
	char proc[64];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return faccessat(AT_FDCWD, proc, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int open_unnamed(struct gw_savefile *f)
{
	f->fd = openat(f->folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (f->fd >= 0 && !can_link(f->fd)) {
		close(f->fd);
		f->fd = -1;
	}
	return f->fd;
}

/* A file that will get its name in f->folder. */
static int open_new(struct gw_savefile *f, struct gw_error *err)
{
	if (open_unnamed(f) >= 0)
		return 0;
	for (int i = 0; i < TEMP_TRIES; i++) {
		if (make_temp_name(f, err))
			return -err->code;
		f->fd = openat(f->folder, f->temp,
			       O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (f->fd >= 0)
			return 0;
		if (errno != EEXIST)
			break;
	}
	f->temp[0] = '\0';
	return gw_fail_errno(err, errno,
			     "%s: cannot create a file in its folder",
			     f->shown);
}

static int open_as_is(struct gw_savefile *f, const char *path,
		      enum gw_save_mode mode, const struct stat *st,
		      const struct gw_cancel *cancel, struct gw_error *err)
{
	bool null = S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3);

	if (mode == GW_SAVE_PLACED && !null)
		return gw_fail_as(err, GW_FAULT_USAGE, ESPIPE,
				  "%s is not a file, which this format needs: only a stream can go there",
				  f->shown);
	do { /* of a FIFO this waits for the reader */
		if (gw_cancel_requested(cancel))
			return gw_cancel_fail(err);
		f->fd = open(path, (null ? O_RDWR : O_WRONLY) | O_CLOEXEC |
					   O_NOCTTY);
	} while (f->fd < 0 && errno == EINTR);
	return f->fd < 0 ? gw_fail_errno(err, errno, "cannot open %s",
					 f->shown) :
			   0;
}

static int open_stdout(struct gw_savefile *f, enum gw_save_mode mode,
		       struct gw_error *err)
{
	strcpy(f->shown, "standard output");
	if (mode == GW_SAVE_PLACED)
		return gw_fail_as(err, GW_FAULT_USAGE, ESPIPE,
				  "this format needs a file: only a stream can go to standard output");
	if (isatty(STDOUT_FILENO))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "standard output is a terminal: send it to a file or a command");
	f->fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	return f->fd < 0 ? gw_fail_errno(err, errno, "standard output") : 0;
}

static int open_path(struct gw_savefile *f, const char *path,
		     enum gw_save_mode mode, const struct gw_cancel *cancel,
		     struct gw_error *err)
{
	gw_autofree char *real = realpath(path, NULL);
	struct stat st;
	int r;

	if (real)
		path = real;
	if (stat(path, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			return gw_fail_as(err, GW_FAULT_USAGE, EISDIR,
					  "%s is a directory", f->shown);
		if (!S_ISREG(st.st_mode))
			return open_as_is(f, path, mode, &st, cancel, err);
		if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) < 0)
			return gw_fail_errno(err, errno, "cannot replace %s",
					     f->shown);
	} else if (errno != ENOENT) {
		return gw_fail_errno(err, errno, "%s", f->shown);
	}
	r = open_folder(f, path, err);
	return r ? r : open_new(f, err);
}

int gw_savefile_open(struct gw_savefile *f, const char *path,
		     enum gw_save_mode mode, const struct gw_cancel *cancel,
		     struct gw_error *err)
{
	struct gw_error why = { 0 };
	int r;

	memset(f, 0, sizeof(*f));
	f->fd = f->folder = -1;
	if (strlen(path) >= sizeof(f->shown))
		return gw_fail_as(err, GW_FAULT_USAGE, ENAMETOOLONG,
				  "a path of %zu bytes", strlen(path));
	strcpy(f->shown, path);
	r = strcmp(path, "-") ? open_path(f, path, mode, cancel, &why) :
				open_stdout(f, mode, &why);
	if (r)
		gw_savefile_close(f);
	if (r && err)
		*err = why;
	return r;
}

int gw_savefile_direct(const struct gw_savefile *f)
{
	return f->folder < 0 ? -1 : gw_direct_open(f->fd, O_RDWR);
}

int gw_savefile_full(const struct gw_savefile *f, int code, size_t len,
		     uint64_t offset, struct gw_error *err)
{
	struct statvfs fs;
	char left[32];

	if (code == EFBIG)
		return gw_fail_errno(err, code,
				     "%s: writing %zu bytes at %llu (ulimit -f?)",
				     f->shown, len, (unsigned long long)offset);
	if ((code != ENOSPC && code != EDQUOT) || fstatvfs(f->fd, &fs) < 0)
		return gw_fail_errno(err, code,
				     "%s: writing %zu bytes at %llu", f->shown,
				     len, (unsigned long long)offset);
	gw_format_size(left, sizeof(left),
		       (uint64_t)fs.f_bavail * fs.f_frsize);
	return gw_fail_errno(
		err, code,
		"%s: no room for %zu bytes at %llu, %s left on its file system",
		f->shown, len, (unsigned long long)offset, left);
}

int gw_savefile_pwrite(const struct gw_savefile *f, int fd, const void *p,
		       size_t len, uint64_t offset, struct gw_error *err)
{
	const uint8_t *s = p;

	while (len) {
		ssize_t n = pwrite(fd, s, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return gw_savefile_full(f, n < 0 ? errno : EIO, len,
						offset, err);
		s += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int gw_savefile_pread(const struct gw_savefile *f, void *p, size_t len,
		      uint64_t offset, struct gw_error *err)
{
	uint8_t *d = p;

	while (len) {
		ssize_t n = pread(f->fd, d, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return gw_fail_errno(err, errno,
					     "%s: reading %zu bytes back from %llu",
					     f->shown, len,
					     (unsigned long long)offset);
		if (n == 0) {
			memset(d, 0, len);
			return 0;
		}
		d += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int gw_savefile_resize(const struct gw_savefile *f, uint64_t size,
		       struct gw_error *err)
{
	struct rlimit limit;

	if (f->folder < 0)
		return 0;
	/* Going beyond it would be a signal that ends the process. */
	if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && size > limit.rlim_cur)
		return gw_fail(err, EFBIG,
			       "%s would have %llu bytes, and this process may write files of %llu: ulimit -f",
			       f->shown, (unsigned long long)size,
			       (unsigned long long)limit.rlim_cur);
	if (ftruncate(f->fd, (off_t)size) < 0)
		return gw_fail_errno(err, errno, "%s: a file of %llu bytes",
				     f->shown, (unsigned long long)size);
	return 0;
}

int gw_savefile_sync(const struct gw_savefile *f, struct gw_error *err)
{
	/* EINVAL, EROFS: pipes and devices have nothing to sync. */
	if (fsync(f->fd) < 0 && (f->folder >= 0 || (errno != EINVAL &&
						    errno != EROFS)))
		return gw_fail_errno(err, errno, "%s: fsync", f->shown);
	return 0;
}

static int link_as(const struct gw_savefile *f, const char *name)
{
	char proc[64];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", f->fd);
	return linkat(AT_FDCWD, proc, f->folder, name, AT_SYMLINK_FOLLOW);
}

/*
 * A file without a name gets it at once where it is free. A name that is taken
 * can only be replaced by rename(), which needs one to rename: should we be
 * killed between the two calls, that one stays.
 */
static int give_name(struct gw_savefile *f, struct gw_error *err)
{
	if (!f->temp[0]) {
		if (link_as(f, f->name) == 0)
			return 0;
		for (int i = 0; i < TEMP_TRIES && errno == EEXIST; i++) {
			if (make_temp_name(f, err))
				return -err->code;
			if (link_as(f, f->temp) == 0)
				break;
			f->temp[0] = '\0';
		}
		if (!f->temp[0])
			return gw_fail_errno(err, errno,
					     "%s: giving the file its name",
					     f->shown);
	}
	if (renameat(f->folder, f->temp, f->folder, f->name) < 0)
		return gw_fail_errno(err, errno, "%s: renaming %s", f->shown,
				     f->temp);
	f->temp[0] = '\0';
	return 0;
}

int gw_savefile_finish(struct gw_savefile *f, struct gw_error *err)
{
	struct gw_error why = { 0 };

	if (f->folder < 0) {
		close(f->fd); /* whoever reads a pipe sees the end */
		f->fd = -1;
		return 0;
	}
	if (give_name(f, &why)) {
		if (err)
			*err = why;
		return -why.code;
	}
	f->named = true;
	if (fsync(f->folder) < 0 && errno != EINVAL)
		return gw_fail_errno(err, errno,
				     "%s is complete, but its name may not survive a power cut: fsync of its folder",
				     f->shown);
	return 0;
}

void gw_savefile_close(struct gw_savefile *f)
{
	if (f->temp[0] && f->folder >= 0)
		unlinkat(f->folder, f->temp, 0);
	if (f->fd >= 0)
		close(f->fd);
	if (f->folder >= 0)
		close(f->folder);
	f->fd = f->folder = -1;
	f->temp[0] = '\0';
}
