/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * limit.c - how fast can this machine carry a guest's pages at all? A bare
 * sender writes 1 MiB buffers of shared memory, full of random bytes, into one
 * or several sockets, and a bare receiver, a process of its own, reads them
 * into shared memory that was allocated and mapped before. No page is looked
 * at, nothing is checked. A migration that copies pages into sockets is not
 * faster; one that sends them by reference (docs/decisions/0031) may be.
 *
 *	build/bench/limit [--tcp] [--channels N] [--mib N]
 *
 * Prints bytes per second. One thread per channel on both sides.
 */
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

#define BUFFER	     (1u << 20)
#define MAX_CHANNELS 16

struct part {
	pthread_t thread;
	int fd;
	uint8_t *mem;
	size_t at, end;
	bool sends;
};

static void die(const char *what)
{
	fprintf(stderr, "limit: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint8_t *shared(size_t len)
{
	int fd = memfd_create("limit", MFD_CLOEXEC);
	void *p;

	if (fd < 0 || ftruncate(fd, (off_t)len))
		die("memory file");
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		 fd, 0);
	if (p == MAP_FAILED)
		die("memory");
	close(fd);
	return p;
}

static void fill(uint8_t *p, size_t len)
{
	uint64_t x = 0x853c49e6748fea9b;

	for (size_t i = 0; i < len; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(p + i, &x, 8);
	}
}

static size_t transfer(const struct part *p, uint8_t *at, size_t n)
{
	ssize_t r = p->sends ? send(p->fd, at, n, 0) : recv(p->fd, at, n, 0);

	if (r <= 0)
		die(p->sends ? "send" : "receive");
	return (size_t)r;
}

/* By the buffer. */
static void *carry(void *arg)
{
	struct part *p = arg;

	while (p->at < p->end) {
		size_t n = p->end - p->at < BUFFER ? p->end - p->at : BUFFER;

		for (size_t had = 0; had < n;)
			had += transfer(p, p->mem + p->at + had, n - had);
		p->at += n;
	}
	return NULL;
}

/* Each socket carries its share of @mem. */
static void carry_all(const int *fd, int n, uint8_t *mem, size_t len,
		      bool sends)
{
	struct part part[MAX_CHANNELS];
	size_t share = len / (size_t)n;

	for (int i = 0; i < n; i++) {
		part[i] = (struct part){ .fd = fd[i],
					 .mem = mem,
					 .at = share * (size_t)i,
					 .end = share * (size_t)(i + 1),
					 .sends = sends };
		errno = pthread_create(&part[i].thread, NULL, carry, &part[i]);
		if (errno)
			die("thread");
	}
	for (int i = 0; i < n; i++)
		pthread_join(part[i].thread, NULL);
}

static void connect_tcp(int fd[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	if (l < 0 || bind(l, (struct sockaddr *)&a, len) || listen(l, 1) ||
	    getsockname(l, (struct sockaddr *)&a, &len))
		die("listen");
	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (fd[0] < 0 || connect(fd[0], (struct sockaddr *)&a, len))
		die("connect");
	fd[1] = accept(l, NULL, NULL);
	if (fd[1] < 0)
		die("accept");
	close(l);
}

/* A byte each way: both stand ready, and then the last one has arrived. */
static void meet(int fd)
{
	char c = 0;

	if (write(fd, &c, 1) != 1 || read(fd, &c, 1) != 1)
		die("meet");
}

static double measure(bool tcp, int channels, size_t len)
{
	int in[MAX_CHANNELS], out[MAX_CHANNELS], pair[2], sync[2], status;
	uint8_t *mem = shared(len);
	int64_t t0;
	pid_t pid;

	for (int i = 0; i < channels; i++) {
		if (tcp)
			connect_tcp(pair);
		else if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
			die("sockets");
		out[i] = pair[0];
		in[i] = pair[1];
	}
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sync))
		die("sockets");
	fill(mem, len);
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		uint8_t *to = shared(len);

		close(sync[0]); /* so that we notice when the sender dies */
		meet(sync[1]);
		carry_all(in, channels, to, len, false);
		meet(sync[1]);
		_exit(0);
	}
	close(sync[1]);
	meet(sync[0]);
	t0 = gw_now_ns();
	carry_all(out, channels, mem, len, true);
	meet(sync[0]);
	t0 = gw_now_ns() - t0;
	if (waitpid(pid, &status, 0) != pid || status)
		exit(1);
	return (double)len * 1e9 / (double)t0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "tcp", no_argument, NULL, 't' },
		{ "channels", required_argument, NULL, 'c' },
		{ "mib", required_argument, NULL, 'm' },
		{ 0 }
	};
	int channels = 1, mib = 1536, o;
	bool tcp = false, bad = false;

	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (o == 't')
			tcp = true;
		else if (o == 'c')
			channels = atoi(optarg);
		else if (o == 'm')
			mib = atoi(optarg);
		else
			bad = true;
	}
	if (bad || optind < argc || channels < 1 || channels > MAX_CHANNELS ||
	    mib < channels) {
		fprintf(stderr,
			"usage: limit [--tcp] [--channels 1...%d] [--mib N]\n",
			MAX_CHANNELS);
		return 2;
	}
	printf("%.0f\n", measure(tcp, channels, (size_t)mib << 20));
	return 0;
}
