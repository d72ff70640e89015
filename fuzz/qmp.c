/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qmp.c - fuzz the QMP client: the input is all that a monitor sends, up to
 * the end of the connection. The client asks two things and then looks at
 * the events; whatever comes, it must end with an error or a value.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vm/qemu/qmp.h"

#define MAX_INPUT (128u << 10) /* what a socket takes without a reader */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void talk(int fd)
{
	struct gw_error err = { 0 };
	struct gw_qmp_event e;
	struct gw_qmp *q = gw_qmp_open_fd(fd, "fuzz", 1000, NULL, &err);

	if (!q)
		return;
	json_decref(gw_qmp_cmd(q, 1000, &err, "query-status", NULL));
	json_decref(gw_qmp_cmd(q, 1000, &err, "query-migrate", NULL));
	while (gw_qmp_poll(q, &err) > 0 &&
	       !gw_qmp_wait_event(q, NULL, 0, &e, &err))
		gw_qmp_event_fini(&e);
	gw_qmp_close(q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int pair[2];

	if (size > MAX_INPUT ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return 0;
	if (send(pair[1], data, size, MSG_NOSIGNAL | MSG_DONTWAIT) ==
	    (ssize_t)size) {
		/* the client's commands go nowhere, and then comes the end */
		shutdown(pair[1], SHUT_WR);
		talk(pair[0]);
	} else {
		close(pair[0]);
	}
	close(pair[1]);
	return 0;
}
