/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qmp_server.c - fuzz the QMP server: the input up to the first 0x01 byte is
 * what a client sends, the rest what QEMU's monitor answers (a greeting comes
 * first in any case). Migrations end at once: there is no such VM.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/qmp_server.h"

#define MAX_INPUT (64u << 10) /* what a socket takes without a reader */
#define STEPS	  8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char greeting[] =
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, "
	"\"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n"
	"{\"return\": {}, \"id\": 1}\r\n";

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

static void send_to(int fd, const void *p, size_t len)
{
	if (len && send(fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
		/* too much for the socket: less will do */
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char hello[] = "{\"execute\": \"qmp_capabilities\"}";
	const uint8_t *cut = memchr(data, 1, size);
	size_t n = cut ? (size_t)(cut - data) : size;
	int up[2], client[2];

	if (size > MAX_INPUT ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, up))
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, client)) {
		close(up[0]);
		close(up[1]);
		return 0;
	}
	send_to(up[1], greeting, sizeof(greeting) - 1);
	if (cut)
		send_to(up[1], cut + 1, size - n - 1);
	shutdown(up[1], SHUT_WR); /* who waits for QEMU does not wait long */
	send_to(client[1], hello, sizeof(hello) - 1);
	send_to(client[1], data, n);
	serve(up[0], client[0]);
	close(up[1]);
	close(client[1]);
	return 0;
}
