/* SPDX-License-Identifier: BSD-3-Clause */
/* cancel.c - see cancel.h. */
#include "base/cancel.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"

int gw_cancel_init(struct gw_cancel *c, struct gw_error *err)
{
	c->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->fd < 0)
		return gw_fail_errno(err, errno, "eventfd");
	return 0;
}

void gw_cancel_fini(struct gw_cancel *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

void gw_cancel_request(struct gw_cancel *c)
{
	uint64_t one = 1;
	int saved = errno;

	if (write(c->fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: already cancelled 2^64 times */
	}
	errno = saved;
}

bool gw_cancel_requested(const struct gw_cancel *c)
{
	struct pollfd p = { .fd = gw_cancel_fd(c), .events = POLLIN };

	return p.fd >= 0 && poll(&p, 1, 0) == 1;
}

int gw_cancel_fd(const struct gw_cancel *c)
{
	return c ? c->fd : -1;
}

int gw_cancel_fail(struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_CANCELLED, ECANCELED, "cancelled");
}

int gw_wait_fd(int fd, short events, int64_t deadline,
	       const struct gw_cancel *c)
{
	struct pollfd p[2] = { { .fd = fd, .events = events },
			       { .fd = gw_cancel_fd(c), .events = POLLIN } };

	for (;;) {
		int r = poll(p, 2, gw_deadline_left_ms(deadline));

		if (r < 0 && errno != EINTR)
			return -errno;
		if (r <= 0) {
			if (deadline && gw_deadline_left_ms(deadline) == 0)
				return -ETIMEDOUT;
			continue;
		}
		if (p[1].revents)
			return -ECANCELED;
		return 0;
	}
}
