/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uffd.c - one userfaultfd per purpose: created early, given out, kept, used
 * again. It never looks at events and registers nothing: the client does.
 *
 * Why kept and used again: a userfaultfd takes UFFDIO_API once, but ranges may
 * be registered on it and unregistered any number of times. After QEMU has
 * dropped its privileges no new full one can be had, so each purpose gets its
 * own while that is possible, and what comes back is replaced by a fresh one
 * only if one of at least the same kind can be had. A VM may therefore be
 * migrated, cancelled and migrated again for ever.
 *
 *	slot:	fd -1 ----prepare---> free ---get---> held by a connection
 *			                ^ ^             | |
 *			                | +---release---+ | connection gone
 *			                +--- SYNC --------+--> orphaned (held
 *			                                by none) ---get---> held
 */
#include "agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Linux 5.11 and 6.1; for older kernel headers. */
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define NOBODY (-1)

struct slot {
	int fd;	       /* our duplicate, or -1 */
	uint32_t kind; /* of fd */
	bool held;     /* given out and not released */
	int holder;    /* connection, or NOBODY: orphaned */
};

static struct slot slots[GW_AGENT_PURPOSES] = {
	{ .fd = -1 }, { .fd = -1 }, { .fd = -1 }, { .fd = -1 },
};

static struct slot *slot_of(unsigned purpose)
{
	if (purpose < 1 || purpose >= GW_AGENT_PURPOSES)
		return NULL;
	return &slots[purpose];
}

/* A new one of @kind, through @dev where that is >= 0. Return: fd or -errno */
static int create(uint32_t kind, int dev)
{
	int flags = O_CLOEXEC | O_NONBLOCK;
	long fd;

	if (kind == GW_AGENT_USER_MODE)
		fd = syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
	else if (dev >= 0)
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, flags);
	else
		fd = syscall(SYS_userfaultfd, flags);
	return fd < 0 ? -errno : (int)fd;
}

/*
 * Put a new userfaultfd into @s in place of the old one, but never a lesser
 * kind: a full one may be the last. Closing the old one unregisters whatever
 * it has and wakes whoever waits on it, unless a client still has it open.
 */
static int refresh(struct slot *s, int dev)
{
	uint32_t kind = GW_AGENT_FULL;
	int fd, old, r;

	fd = create(kind, -1);
	r = fd;
	if (fd < 0 && dev >= 0)
		fd = create(kind, dev);
	if (fd < 0 && !(s->fd >= 0 && s->kind == GW_AGENT_FULL)) {
		kind = GW_AGENT_USER_MODE;
		fd = create(kind, -1);
	}
	if (fd < 0)
		return r;
	old = s->fd;
	s->fd = fd;
	s->kind = kind;
	if (old >= 0)
		close(old);
	return 0;
}

void uffd_prepare(void)
{
	unsigned p;

	for (p = 1; p < GW_AGENT_PURPOSES; p++)
		refresh(&slots[p], -1);
}

/* A userfaultfd without UFFDIO_API cannot be polled (it is O_NONBLOCK). */
static bool initialised(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) >= 0 && !(p.revents & POLLERR);
}

static bool others_held(const struct slot *s)
{
	unsigned p;

	for (p = 1; p < GW_AGENT_PURPOSES; p++) {
		if (&slots[p] != s && slots[p].held)
			return true;
	}
	return false;
}

static bool disarm_one(void *arg, const struct gw_agent_map *map)
{
	struct uffdio_range range = { .start = map->addr, .len = map->length };
	int fd = *(int *)arg;

	/* Both fail where nothing is registered, which is what we want. The
	 * kernel wakes by itself only those who wait for missing pages. */
	ioctl(fd, UFFDIO_UNREGISTER, &range);
	ioctl(fd, UFFDIO_WAKE, &range);
	return true;
}

/*
 * Nobody uses @s any more: nothing may stay registered, nobody may wait. Not
 * by closing alone, because some process may have inherited a duplicate from
 * a client that died. Kernels before 6.17 (or so) let one userfaultfd
 * unregister the ranges of another, so not while another is in use. @clean:
 * the client says that it unregistered everything.
 */
static void retire(struct slot *s, bool clean)
{
	bool alone = !others_held(s);

	s->held = false;
	s->holder = NOBODY;
	if (s->fd < 0 || !initialised(s->fd))
		return;
	if (alone)
		ram_each(0, 0, disarm_one, &s->fd);
	if (refresh(s, -1) == 0 || alone || clean)
		return;
	close(s->fd);
	s->fd = -1;
}

int uffd_get(unsigned purpose, uint32_t kinds, int dev, int conn,
	     uint32_t *kind, bool *used, int *holder)
{
	struct slot *s = slot_of(purpose);
	int r = 0;

	if (!s || !(kinds & (GW_AGENT_FULL | GW_AGENT_USER_MODE)))
		return -EINVAL;
	if (s->held && s->holder != NOBODY && s->holder != conn) {
		*holder = s->holder;
		return -EBUSY;
	}
	/* never replace one that may be armed */
	if (!s->held && (s->fd < 0 || !(s->kind & kinds) ||
			 (s->kind != GW_AGENT_FULL && dev >= 0) ||
			 initialised(s->fd)))
		r = refresh(s, dev);
	if (s->fd < 0)
		return r;
	if (!(s->kind & kinds))
		return r ? r : -EPERM;
	s->held = true;
	s->holder = conn;
	*kind = s->kind;
	*used = initialised(s->fd);
	return s->fd;
}

int uffd_release(unsigned purpose, int conn, int *holder)
{
	struct slot *s = slot_of(purpose);

	if (!s)
		return -EINVAL;
	if (!s->held)
		return -ENOENT;
	if (s->holder != NOBODY && s->holder != conn) {
		*holder = s->holder;
		return -EBUSY;
	}
	retire(s, true);
	return 0;
}

void uffd_conn_gone(int conn)
{
	unsigned p;

	for (p = 1; p < GW_AGENT_PURPOSES; p++) {
		if (!slots[p].held || slots[p].holder != conn)
			continue;
		slots[p].holder = NOBODY;
		/* SYNC: the guest waits for a handler that is no more. Never
		 * armed: nothing to keep. */
		if (p == GW_AGENT_SYNC || !initialised(slots[p].fd))
			retire(&slots[p], false);
	}
}

bool uffd_conn_holds(int conn)
{
	unsigned p;

	for (p = 1; p < GW_AGENT_PURPOSES; p++) {
		if (slots[p].held && slots[p].holder == conn)
			return true;
	}
	return false;
}

void uffd_status(uint32_t *kinds, uint32_t *held, uint32_t *orphaned)
{
	unsigned p;
	int fd;

	*kinds = *held = *orphaned = 0;
	for (p = 1; p < GW_AGENT_PURPOSES; p++) {
		if (slots[p].fd >= 0)
			*kinds |= slots[p].kind;
		if (!slots[p].held)
			continue;
		*held |= 1u << p;
		if (slots[p].holder == NOBODY)
			*orphaned |= 1u << p;
	}
	fd = create(GW_AGENT_FULL, -1);
	if (fd >= 0) {
		*kinds |= GW_AGENT_FULL;
		close(fd);
	}
	fd = create(GW_AGENT_USER_MODE, -1);
	if (fd >= 0) {
		*kinds |= GW_AGENT_USER_MODE;
		close(fd);
	}
}

void uffd_forget(void)
{
	unsigned p;

	for (p = 1; p < GW_AGENT_PURPOSES; p++) {
		int fd = slots[p].fd;

		/* in this order: a child of fork must not close a number that
		 * the agent's thread had just closed in the parent */
		slots[p] = (struct slot){ .fd = -1, .holder = NOBODY };
		if (fd >= 0)
			close(fd);
	}
}
