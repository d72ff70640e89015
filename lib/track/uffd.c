/* SPDX-License-Identifier: BSD-3-Clause */
/* uffd.c - see uffd.h. */
#include "track/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GW_LOG_MODULE "track"
#include "base/log.h"
#include "track/uapi.h"

/* An ioctl, again while the kernel only asks for patience. */
static int call(int fd, unsigned long request, void *arg)
{
	int r;

	do {
		r = ioctl(fd, request, arg);
	} while (r && (errno == EINTR || errno == EAGAIN));
	return r ? -errno : 0;
}

static int api(int fd, uint64_t features, uint64_t *all)
{
	struct uffdio_api a = { .api = UFFD_API, .features = features };
	int r = call(fd, UFFDIO_API, &a);

	if (!r && all)
		*all = a.features;
	return r;
}

static int own_fd(void)
{
	int flags = O_CLOEXEC | O_NONBLOCK, dev, fd;

	/* Without UFFD_USER_MODE_ONLY it would need privileges. */
	fd = (int)syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
	if (fd >= 0)
		return fd;
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return -errno;
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, flags);
	if (fd < 0)
		fd = -errno;
	close(dev);
	return fd;
}

int gw_uffd_own(uint64_t features)
{
	int fd = own_fd(), r;

	if (fd < 0)
		return fd;
	r = api(fd, features, NULL);
	if (!r)
		return fd;
	close(fd);
	return r;
}

int gw_uffd_kernel_features(uint64_t *features)
{
	int fd = own_fd(), r;

	if (fd < 0)
		return fd;
	r = api(fd, 0, features);
	close(fd);
	return r;
}

int gw_uffd_check_config(const struct gw_track_config *c, struct gw_error *err)
{
	if (c->pid <= 0 || !c->uffd.get)
		return gw_fail(err, EINVAL,
			       "the VM's process or its agent is not known");
	for (int i = 0; i < c->ram->nblocks; i++) {
		const struct gw_ramblock *b = &c->ram->block[i];

		if (!b->peer_addr || !b->page_size ||
		    b->peer_addr % b->page_size)
			return gw_fail(err, EINVAL,
				       "RAM block '%s' has address 0x%" PRIx64
				       " in the VM's process: not usable with pages of %u bytes",
				       b->idstr, b->peer_addr, b->page_size);
	}
	return 0;
}

static int register_range(const struct gw_uffd *u, const struct gw_ramblock *b)
{
	struct uffdio_register r = {
		.range = { b->peer_addr, gw_uffd_length(b) },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return call(u->fd, UFFDIO_REGISTER, &r);
}

static void wake(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_range r = { addr, len };

	(void)call(fd, UFFDIO_WAKE, &r);
}

/*
 * Unprotect and unregister, then wake: the kernel does the latter by itself
 * for missing pages only (Linux 6.18 fs/userfaultfd.c), and a thread that
 * waits for write permission would wait forever. In this order nobody is
 * missed: the kernel queues waiters under the lock that unregistering takes.
 */
static int unregister_range(int fd, const struct gw_ramblock *b)
{
	struct uffdio_range r = { b->peer_addr, gw_uffd_length(b) };
	int ret = call(fd, UFFDIO_UNREGISTER, &r);

	wake(fd, b->peer_addr, gw_uffd_length(b));
	return ret;
}

int gw_uffd_protect(const struct gw_uffd *u, uint64_t addr, uint64_t len,
		    bool protect)
{
	struct uffdio_writeprotect w = {
		.range = { addr, len },
		.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return call(u->fd, UFFDIO_WRITEPROTECT, &w);
}

void gw_uffd_wake(const struct gw_uffd *u, uint64_t addr, uint64_t len)
{
	wake(u->fd, addr, len);
}

void gw_uffd_unwatch(const struct gw_uffd *u)
{
	const struct gw_ram *ram = u->config->ram;

	for (int i = 0; i < ram->nblocks; i++) {
		const struct gw_ramblock *b = &ram->block[i];
		uint64_t len = gw_uffd_length(b);

		if (!unregister_range(u->fd, b))
			continue;
		/* Part of it is unmapped, or the VM is gone: what we can. */
		if (gw_uffd_protect(u, b->peer_addr, len, false))
			gw_debug("RAM block '%s' could not be released",
				 b->idstr);
	}
}

int gw_uffd_open(struct gw_uffd *u, const struct gw_track_config *c,
		 enum gw_uffd_purpose purpose, uint64_t features,
		 const char *needs, struct gw_error *err)
{
	bool used = false;
	int r;

	*u = (struct gw_uffd){ .config = c, .purpose = purpose, .fd = -1 };
	r = c->uffd.get(c->uffd.arg, purpose, &u->fd, &used, err);
	if (r) {
		u->fd = -1;
		return r;
	}
	/* poll(2) reports an error on a userfaultfd that would block. */
	if (fcntl(u->fd, F_SETFL, O_NONBLOCK)) {
		r = gw_fail_errno(err, errno, "O_NONBLOCK on a userfaultfd");
	} else if (used) {
		gw_info("taking over the userfaultfd of an earlier tracker");
		gw_uffd_unwatch(u);
		return 0;
	} else {
		r = api(u->fd, features, NULL);
		if (r == -EINVAL)
			gw_fail(err, EINVAL,
				"the kernel refuses the userfaultfd features 0x%" PRIx64
				": %s",
				features, needs);
		else if (r)
			gw_fail_errno(err, -r, "UFFDIO_API");
	}
	if (r)
		gw_uffd_close(u);
	return r;
}

/*
 * Somebody else's userfaultfd has this block. If it is the one for our other
 * purpose, left with the agent by a godwit that died, nobody serves it: clear
 * it. Return: true when it is worth another try.
 */
static bool evict(const struct gw_uffd *u)
{
	const struct gw_uffd_source *s = &u->config->uffd;
	const struct gw_ram *ram = u->config->ram;
	enum gw_uffd_purpose other = u->purpose == GW_UFFD_TRACK_ASYNC ?
					     GW_UFFD_TRACK_SYNC :
					     GW_UFFD_TRACK_ASYNC;
	bool used = false;
	int fd = -1;

	if (s->get(s->arg, other, &fd, &used, NULL))
		return false;
	for (int i = 0; used && i < ram->nblocks; i++)
		if (unregister_range(fd, &ram->block[i]))
			gw_debug("RAM block '%s' stays registered elsewhere",
				 ram->block[i].idstr);
	if (s->release)
		s->release(s->arg, other);
	close(fd);
	return used;
}

static int fail_register(const struct gw_ramblock *b, int r,
			 struct gw_error *err)
{
	const char *why = "";

	if (r == -EBUSY)
		why = ": another userfaultfd watches this memory already (a second godwit, or a background snapshot or postcopy of QEMU)";
	else if (r == -EINVAL)
		why = ": nothing is mapped there, or memory that cannot be watched (it must be on tmpfs, hugetlbfs or anonymous)";
	else if (r == -EPERM)
		why = ": the mapping is read-only";
	else if (r == -ENOMEM || r == -ESRCH)
		why = ": the VM's process has ended";
	return gw_fail(err, -r,
		       "watching RAM block '%s' at 0x%" PRIx64
		       ", %" PRIu64 " bytes: %s%s",
		       b->idstr, b->peer_addr, gw_uffd_length(b), strerror(-r),
		       why);
}

static int watch_block(const struct gw_uffd *u, const struct gw_ramblock *b,
		       struct gw_error *err)
{
	int r = register_range(u, b);

	if (r == -EBUSY && evict(u))
		r = register_range(u, b);
	return r ? fail_register(b, r, err) : 0;
}

int gw_uffd_watch(struct gw_uffd *u, struct gw_error *err)
{
	const struct gw_ram *ram = u->config->ram;
	int r = 0;

	for (int i = 0; i < ram->nblocks && !r; i++)
		r = watch_block(u, &ram->block[i], err);
	return r;
}

void gw_uffd_close(struct gw_uffd *u)
{
	const struct gw_uffd_source *s;

	if (u->fd < 0)
		return;
	s = &u->config->uffd;
	gw_uffd_unwatch(u);
	if (s->release)
		s->release(s->arg, u->purpose);
	close(u->fd);
	u->fd = -1;
}
