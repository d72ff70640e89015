/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * agent.c - godwit-guest-agent: tells godwit, when asked, which pages of this
 * guest are free (protocol.h). It runs in the guest, as root, and needs no
 * driver but virtio-serial's and nothing but a C library.
 *
 * /proc/kpageflags marks every page of a free block as KPF_BUDDY, tail pages
 * too (Linux >= 4.6). The kernel looks without a lock: while a block is being
 * allocated, the rest of what it takes for one block may be marked wrongly for
 * an instant. So a page counts only if it was marked, and with nothing else,
 * in two readings.
 *
 * A page that the kernel fills while it is free, and looks at when it is not
 * any more, is not free to change: with page poisoning the agent refuses.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "guest-agent/protocol.h"

#define KPF_BUDDY   (UINT64_C(1) << 10)
#define CHUNK	    65536 /* pages looked at before the port is */
#define MAX_RUN     20	  /* bytes of two LEB128 numbers */
#define WRITE_MS    2000  /* without a byte taken: the host is gone */

static int port = -1, flags_fd = -1;
static uint64_t first_look[CHUNK], second_look[CHUNK];

static struct {
	uint8_t bytes[GFP_HEAD + GFP_MAX_PAYLOAD];
	size_t n;	/* payload */
	uint64_t page;	/* where the next run counts from */
} part;

static void sleep_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

/* --- the port -------------------------------------------------------------- */

/* udev makes a link by the port's name; without udev, sysfs knows it. */
static int open_by_sysfs(const char *name)
{
	DIR *d = opendir("/sys/class/virtio-ports");
	struct dirent *e;
	int fd = -1;

	errno = ENOENT;
	while (d && fd < 0 && (e = readdir(d))) {
		char path[300], text[128] = "";
		FILE *f;

		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name",
			 e->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (fscanf(f, "%127s", text) == 1 && !strcmp(text, name)) {
			snprintf(path, sizeof(path), "/dev/%s", e->d_name);
			fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		}
		fclose(f);
	}
	if (d)
		closedir(d);
	return fd;
}

static int open_port(const char *path)
{
	int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 && !strcmp(path, "/dev/virtio-ports/" GFP_PORT))
		fd = open_by_sysfs(GFP_PORT);
	return fd;
}

/* Return: false when nobody takes it. */
static bool write_all(const uint8_t *p, size_t n)
{
	while (n) {
		struct pollfd w = { .fd = port, .events = POLLOUT };
		ssize_t k = write(port, p, n);

		if (k > 0) {
			p += k;
			n -= (size_t)k;
			continue;
		}
		if (k < 0 && errno != EAGAIN && errno != EINTR)
			return false;
		if (poll(&w, 1, WRITE_MS) <= 0 || w.revents & POLLHUP)
			return false;
	}
	return true;
}

static bool say(enum gfp_type type, uint32_t id, const char *text)
{
	uint8_t frame[GFP_HEAD + 256];
	size_t n = text ? strlen(text) : 0;

	if (n > 256)
		n = 256;
	gfp_head(frame, type, id, text, (uint16_t)n);
	memcpy(frame + GFP_HEAD, text ? text : "", n);
	return write_all(frame, GFP_HEAD + n);
}

/*
 * What the host said last, without waiting. Questions that were not answered
 * are forgotten: an answer to them is of no use any more.
 */
static enum gfp_type listen_to_host(uint32_t *id)
{
	static uint8_t in[4096];
	static size_t used;
	enum gfp_type what = 0;
	size_t at = 0;
	ssize_t n;

	while ((n = read(port, in + used, sizeof(in) - used)) > 0) {
		used += (size_t)n;
		for (at = 0; at < used;) {
			int len = gfp_frame(in + at, used - at);

			if (!len)
				break;
			if (len > 0) {
				what = in[at + 5];
				*id = gfp_get32(in + at + 8);
			}
			at += len > 0 ? (size_t)len : 1;
		}
		used -= at;
		memmove(in, in + at, used);
		if (used == sizeof(in)) /* longer than anything it says */
			used = 0;
	}
	return what;
}

/* --- what is free ----------------------------------------------------------- */

static size_t put_number(uint8_t *p, uint64_t v)
{
	size_t n = 0;

	do {
		p[n++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
		v >>= 7;
	} while (v);
	return n;
}

static void part_begin(void)
{
	part.bytes[GFP_HEAD] =
		(uint8_t)__builtin_ctzl((unsigned long)sysconf(_SC_PAGESIZE));
	part.n = 1;
	part.page = 0;
}

static bool part_send(uint32_t id)
{
	bool ok = true;

	if (part.n > 1) {
		gfp_head(part.bytes, GFP_PART, id, part.bytes + GFP_HEAD,
			 (uint16_t)part.n);
		ok = write_all(part.bytes, GFP_HEAD + part.n);
	}
	part_begin();
	return ok;
}

static bool part_add(uint32_t id, uint64_t first, uint64_t n)
{
	uint8_t *p = part.bytes + GFP_HEAD;

	if (part.n + MAX_RUN > GFP_MAX_PAYLOAD && !part_send(id))
		return false;
	part.n += put_number(p + part.n, first - part.page);
	part.n += put_number(p + part.n, n);
	part.page = first + n;
	return true;
}

/* Pages of the chunk at @first. Return: their number, 0 at the end. */
static size_t look(uint64_t first)
{
	off_t at = (off_t)(first * 8);
	ssize_t a = pread(flags_fd, first_look, sizeof(first_look), at);
	ssize_t b = a > 0 ? pread(flags_fd, second_look, (size_t)a, at) : 0;

	return b > 0 ? (size_t)b / 8 : 0;
}

static bool is_free(size_t i)
{
	return first_look[i] == KPF_BUDDY && second_look[i] == KPF_BUDDY;
}

/* Say what is free in the chunk of @n pages at @first. */
static bool report(uint32_t id, uint64_t first, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		size_t from = i;

		while (i < n && is_free(i))
			i++;
		if (i > from && !part_add(id, first + from, i - from))
			return false;
	}
	return part_send(id);
}

/* "page_poison=1" and its like among the words of the command line. */
static bool has_option(const char *cmdline, const char *name)
{
	const char *p = cmdline;
	size_t n = strlen(name);

	while ((p = strstr(p, name))) {
		const char *v = p + n;
		bool begins = p == cmdline || p[-1] == ' ';

		p = v;
		if (begins && *v == '=' &&
		    (v[1] == '1' || v[1] == 'y' || !strncmp(v + 1, "on", 2)))
			return true;
	}
	return false;
}

static const char *why_not(void)
{
	static char cmdline[8192];
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, cmdline, sizeof(cmdline) - 1);

	if (fd >= 0)
		close(fd);
	if (n < 0)
		return "/proc/cmdline cannot be read";
	cmdline[n] = '\0';
	if (has_option(cmdline, "page_poison") ||
	    has_option(cmdline, "debug_pagealloc"))
		return "the kernel keeps a pattern in free pages (page_poison)";
	if (flags_fd < 0)
		flags_fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	return flags_fd < 0 ? "/proc/kpageflags cannot be read (root?)" : NULL;
}

/* Return: what the host said meanwhile, 0: nothing. */
static enum gfp_type answer(uint32_t *id)
{
	const char *no = why_not();
	uint32_t mine = *id;
	enum gfp_type what;
	uint64_t first = 0;
	size_t n;

	if (no) {
		say(GFP_REFUSED, mine, no);
		return 0;
	}
	part_begin();
	while ((n = look(first))) {
		if (!report(mine, first, n))
			return 0;
		first += n;
		what = listen_to_host(id);
		if (what)
			return what;
	}
	say(GFP_END, mine, NULL);
	return 0;
}

/* --- main ------------------------------------------------------------------- */

/*
 * A port whose other end is closed always looks readable. It signals when that
 * changes and when bytes come; the time limit is for a signal that was lost.
 */
static void wait_for_host(const sigset_t *io)
{
	struct timespec t = { .tv_sec = 5 };

	sigtimedwait(io, NULL, &t);
}

static void serve(void)
{
	enum gfp_type what;
	sigset_t io;
	uint32_t id;

	sigemptyset(&io);
	sigaddset(&io, SIGIO);
	sigprocmask(SIG_BLOCK, &io, NULL);
	fcntl(port, F_SETOWN, getpid());
	fcntl(port, F_SETFL, O_RDWR | O_NONBLOCK | O_ASYNC);
	for (;;) {
		what = listen_to_host(&id);
		while (what == GFP_REQUEST)
			what = answer(&id);
		if (!what)
			wait_for_host(&io);
	}
}

int main(int argc, char **argv)
{
	const char *path = "/dev/virtio-ports/" GFP_PORT;
	bool wait = false;
	int c;

	while ((c = getopt(argc, argv, "wh")) != -1) {
		if (c == 'w') {
			wait = true;
			continue;
		}
		fprintf(c == 'h' ? stdout : stderr,
			"usage: godwit-guest-agent [-w] [PORT]\n"
			"Tell godwit on the host which pages of this guest are free, when it asks.\n"
			"  -w    wait for the port to appear\n"
			"  PORT  %s\n",
			path);
		return c == 'h' ? 0 : 2;
	}
	if (optind < argc)
		path = argv[optind];
	while ((port = open_port(path)) < 0 && wait)
		sleep_ms(1000);
	if (port < 0) {
		fprintf(stderr, "godwit-guest-agent: %s: %s\n", path,
			strerror(errno));
		return 1;
	}
	serve();
	return 0;
}
