/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ram.c - the shared file mappings of this process, from /proc/self/maps, and
 * a descriptor for each, from /proc/self/fd. It does not know which of them
 * is which RAM block of QEMU: the client compares the files.
 */
#include "agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Open all the time: QEMU may leave our /proc behind (-run-with chroot=) and
 * loses the right to look at itself from outside when it drops privileges. */
static int maps_fd = -1, fds_fd = -1;

/*
 * Both stat(2) and fcntl(2) have got new symbol versions in glibc; the system
 * calls have not. godwit-agent.so has to load into older C libraries than the
 * one it was built with.
 */
static int stat_fd(int fd, struct statx *st)
{
	return (int)syscall(SYS_statx, fd, "", AT_EMPTY_PATH,
			    STATX_TYPE | STATX_INO, st);
}

void ram_prepare(void)
{
	maps_fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	fds_fd = open("/proc/self/fd", O_RDONLY | O_CLOEXEC | O_DIRECTORY);
}

void ram_forget(void)
{
	int m = maps_fd, f = fds_fd;

	maps_fd = fds_fd = -1;
	if (m >= 0)
		close(m);
	if (f >= 0)
		close(f);
}

/* /proc/self/maps line by line; what does not fit in @line is left out. */
struct lines {
	char buf[4096];
	ssize_t len, at;
	char line[160];
};

static bool next_line(struct lines *l)
{
	size_t n = 0;

	for (;;) {
		char c;

		if (l->at == l->len) {
			l->at = 0;
			do {
				l->len = read(maps_fd, l->buf, sizeof(l->buf));
			} while (l->len < 0 && errno == EINTR);
			if (l->len <= 0) {
				l->len = 0;
				return false;
			}
		}
		c = l->buf[l->at++];
		if (c == '\n')
			break;
		if (n < sizeof(l->line) - 1)
			l->line[n++] = c;
	}
	l->line[n] = '\0';
	return true;
}

/* strtoull() would do, but is a different symbol in each new C library. */
static uint64_t number(const char **s, unsigned base)
{
	uint64_t v = 0;

	for (;; (*s)++) {
		unsigned char c = (unsigned char)**s;
		unsigned d;

		if (c >= '0' && c <= '9')
			d = c - '0';
		else if (c >= 'a' && c <= 'f')
			d = c - 'a' + 10u;
		else
			return v;
		if (d >= base)
			return v;
		v = v * base + d;
	}
}

/*
 * "7f0000000000-7f0008000000 rw-s 00000000 00:01 1234    /memfd:ram (deleted)"
 * Return: is it a shared mapping of a file?
 */
static bool parse(const char *s, struct gw_agent_map *m)
{
	uint64_t end;

	memset(m, 0, sizeof(*m));
	m->fd_index = -1;
	m->addr = number(&s, 16);
	if (*s++ != '-')
		return false;
	end = number(&s, 16);
	if (strlen(s) < 6 || s[4] != 's' || end <= m->addr)
		return false;
	m->length = end - m->addr;
	s += 6;
	m->offset = number(&s, 16);
	if (*s++ != ' ')
		return false;
	m->dev_major = (uint32_t)number(&s, 16);
	if (*s++ != ':')
		return false;
	m->dev_minor = (uint32_t)number(&s, 16);
	if (*s++ != ' ')
		return false;
	m->ino = number(&s, 10);
	while (*s == ' ')
		s++;
	/* KVM, io_uring, VFIO: they all share one inode, and are not RAM */
	return m->ino && strncmp(s, "anon_inode:", 11);
}

static bool joins(const struct gw_agent_map *a, const struct gw_agent_map *b)
{
	return a->length && a->addr + a->length == b->addr &&
	       a->offset + a->length == b->offset && a->ino == b->ino &&
	       a->dev_major == b->dev_major && a->dev_minor == b->dev_minor;
}

int ram_each(uint64_t from, uint64_t min, ram_fn fn, void *arg)
{
	static struct lines l; /* the agent's thread only */
	struct gw_agent_map m, whole = { .length = 0 };

	if (maps_fd < 0 || lseek(maps_fd, 0, SEEK_SET) < 0)
		return -ENOENT;
	l.len = l.at = 0;
	/* madvise, mbind and userfaultfd split mappings: join them again */
	while (next_line(&l)) {
		if (!parse(l.line, &m))
			continue;
		if (joins(&whole, &m)) {
			whole.length += m.length;
			continue;
		}
		if (whole.length >= min && whole.length &&
		    whole.addr >= from && !fn(arg, &whole))
			return 0;
		whole = m;
	}
	if (whole.length >= min && whole.length && whole.addr >= from)
		fn(arg, &whole);
	return 0;
}

static bool same_file(int fd, const struct gw_agent_map *m)
{
	struct statx st;

	return stat_fd(fd, &st) == 0 && (st.stx_mode & S_IFMT) == S_IFREG &&
	       st.stx_ino == m->ino && st.stx_dev_major == m->dev_major &&
	       st.stx_dev_minor == m->dev_minor;
}

/* As the kernel lays it out; libc's readdir(3) would allocate. */
struct dirent64_raw {
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

/* An fd of QEMU's of that file, one open for writing preferred, or -1. */
static int find_fd(const struct gw_agent_map *m)
{
	static char buf[4096] __attribute__((aligned(8)));
	int found = -1;
	long n, at;

	if (fds_fd < 0 || lseek(fds_fd, 0, SEEK_SET) < 0)
		return -1;
	while ((n = syscall(SYS_getdents64, fds_fd, buf, sizeof(buf))) > 0) {
		for (at = 0; at < n;) {
			const struct dirent64_raw *d = (void *)(buf + at);
			const char *s = d->name;
			int fd;
			long fl;

			at += d->reclen;
			if (*s < '0' || *s > '9')
				continue;
			fd = (int)number(&s, 10);
			if (!same_file(fd, m))
				continue;
			fl = syscall(SYS_fcntl, fd, F_GETFL);
			if (fl < 0 || (fl & O_PATH))
				continue;
			found = fd;
			if ((fl & O_ACCMODE) == O_RDWR)
				return found;
		}
	}
	return found;
}

int ram_open(struct gw_agent_map *map)
{
	struct statfs fs;
	int fd = find_fd(map), copy;

	if (fd < 0)
		return -1;
	copy = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0)
		return -1;
	/* QEMU's other threads close and open files meanwhile */
	if (!same_file(copy, map)) {
		close(copy);
		return -1;
	}
	map->page_size = (uint32_t)sysconf(_SC_PAGESIZE);
	if (fstatfs(copy, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC)
		map->page_size = (uint32_t)fs.f_bsize;
	return copy;
}
