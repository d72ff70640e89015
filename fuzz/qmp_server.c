/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qmp_server.c - fuzz the QMP server: the input up to the first 0x01 byte is
 * what a client sends, the rest what QEMU's monitor says, behind its greeting
 * and up to its end. A thread plays QEMU, and without such a rest it has an
 * empty answer to everything.
 * Migrations end at once: there is no such VM.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/qmp_server.h"

#define MAX_INPUT (64u << 10) /* what a socket takes without a reader */
#define STEPS	  8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char greeting[] =
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, "
	"\"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n";

static void send_to(int fd, const void *p, size_t len)
{
	if (len && send(fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
		/* too much for the socket: less will do */
	}
}

struct qemu {
	int fd;
	const uint8_t *says;
	size_t len;
};

/* Commands come one per line, and begin with {"id": N. */
static void *play_qemu(void *arg)
{
	struct qemu *q = arg;
	FILE *in = fdopen(q->fd, "r");
	char *line = NULL, answer[80];
	size_t cap = 0;

	send_to(q->fd, greeting, sizeof(greeting) - 1);
	while (in && getline(&line, &cap, in) > 0) {
		int n = snprintf(answer, sizeof(answer),
				 "{\"return\": {}, \"id\": %lu}\r\n",
				 strncmp(line, "{\"id\": ", 7) ?
					 0 :
					 strtoul(line + 7, NULL, 10));

		send_to(q->fd, answer, (size_t)n);
		send_to(q->fd, q->says, q->len);
		/* Half a message: nobody waits for the rest. */
		if (q->len)
			shutdown(q->fd, SHUT_WR);
	}
	free(line);
	if (in)
		fclose(in);
	return NULL;
}

static void serve(int upstream, int client)
{
	struct gw_qmp_server_config c = { .vm = "nobody" };
	struct gw_error err = { 0 };
	struct gw_qmp_server *s;
	int r = 0;

	godwit_params_init(&c.params);
	s = gw_qmp_server_new_fd(&c, upstream, &err);
	if (!s) {
		close(client);
		return;
	}
	gw_qmp_server_add(s, client);
	for (int i = 0; !r && i < STEPS; i++)
		r = gw_qmp_server_step(s, 0, NULL, &err);
	gw_qmp_server_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char hello[] = "{\"execute\": \"qmp_capabilities\"}";
	const uint8_t *cut = memchr(data, 1, size);
	size_t n = cut ? (size_t)(cut - data) : size;
	int up[2], client[2];
	struct qemu q;
	pthread_t thread;

	if (size > MAX_INPUT ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, up))
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, client)) {
		close(up[0]);
		close(up[1]);
		return 0;
	}
	q = (struct qemu){ up[1], cut ? cut + 1 : data,
			   cut ? size - n - 1 : 0 };
	if (pthread_create(&thread, NULL, play_qemu, &q))
		abort();
	send_to(client[1], hello, sizeof(hello) - 1);
	send_to(client[1], data, n);
	serve(up[0], client[0]);
	pthread_join(thread, NULL);
	close(client[1]);
	return 0;
}
