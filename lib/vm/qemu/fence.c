/* SPDX-License-Identifier: BSD-3-Clause */
/* fence.c - see fence.h. */
#include "vm/qemu/fence.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/scope.h"
#include "vm/qemu/guardian.h"
#include "vm/qemu/internal.h"

#define CONNECT_MS  10000
#define PATIENCE_MS 300000 /* QEMU's main loop may be busy */
#define WATCH_MS    20
#define LINGER_MS   1000 /* what a dead godwit said may still be on its way */

enum state { OPEN, CONT, FENCED, OVER };

/* What its godwit says. */
enum { DISMISSED, EARLIER };

struct gw_fence_page {
	_Atomic int64_t until;
	_Atomic uint32_t state;
};

/* --- the process --------------------------------------------------------- */

enum word { WORD_NONE, WORD_DISMISSED, WORD_DEAD };

/* Has its godwit said anything, or died? Waits until @deadline (ns,
 * INT64_MAX: none). */
static enum word listen_to(int fd, int64_t deadline)
{
	int64_t left = deadline - gw_now_ns();
	struct timespec t = { left / GW_NS_PER_S, left % GW_NS_PER_S };
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char byte;
	ssize_t n;

	if (left < 0)
		t = (struct timespec){ 0 };
	if (ppoll(&p, 1, deadline == INT64_MAX ? NULL : &t, NULL) <= 0)
		return WORD_NONE;
	n = recv(fd, &byte, 1, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return WORD_NONE;
	if (n <= 0)
		return WORD_DEAD;
	return byte == DISMISSED ? WORD_DISMISSED : WORD_NONE;
}

static void say_fenced(struct gw_qemu *q, pid_t godwit, bool dead)
{
	static const char advice[] =
		"look there: if the VM runs there, end this one; if it does not and will not, 'godwit resume' runs it here";

	gw_qemu_note(q, "fenced", "source",
		     dead ? "godwit (pid %d) died while it protected the VM; stopped here, because the standby takes over: %s" :
			    "godwit (pid %d) had no word of the standby in time; stopped here, because the standby takes over: %s",
		     (int)godwit, advice);
	gw_warn("'%s' was stopped, because the godwit that protected it (pid %d) %s and the standby takes over: %s",
		q->vm.info.name, (int)godwit,
		dead ? "died" : "had no word of the standby in time", advice);
}

/* See to it that it stays stopped while anybody might set it going. */
static void keep_stopped(struct gw_qemu *q, int fd, bool dead)
{
	static const char *const resumed[] = { "RESUME", NULL };
	int64_t end = dead ? gw_deadline_ms(LINGER_MS) : 0;
	enum word word = WORD_NONE;
	struct gw_qmp_event e;
	int r = 0;

	while (!r || r == -ETIMEDOUT || r == -EOVERFLOW) {
		if (end && gw_deadline_left_ms(end) == 0)
			return;
		if (!end)
			word = listen_to(fd, 0);
		if (word == WORD_DISMISSED)
			return;
		if (word == WORD_DEAD && !end)
			end = gw_deadline_ms(LINGER_MS);
		r = gw_qmp_wait_event(q->qmp, resumed, WATCH_MS, &e, NULL);
		if (r == 0)
			gw_qmp_event_fini(&e);
		if (r == 0 || r == -EOVERFLOW)
			r = gw_qmp_do(q->qmp, PATIENCE_MS, NULL, "stop", NULL);
	}
}

/* Return: false when it is over, and the VM its godwit's. */
static bool take(struct gw_fence_page *page)
{
	uint32_t now = atomic_load(&page->state);

	while (now != OVER)
		if (atomic_compare_exchange_weak(&page->state, &now, FENCED))
			return true;
	return false;
}

static void fence(struct gw_qemu *q, int fd, pid_t godwit, bool dead)
{
	struct gw_error err;

	if (!take(q->fence.page))
		return;
	if (gw_qmp_do(q->qmp, PATIENCE_MS, &err, "stop", NULL))
		gw_warn("'%s' could not be stopped: %s", q->vm.info.name,
			err.msg);
	else
		say_fenced(q, godwit, dead);
	keep_stopped(q, fd, dead);
}

/* Return: whether it could; why not is sent. */
static bool get_ready(struct gw_qemu *q, int fd)
{
	struct gw_error err = { 0 };
	char ready = 0;

	q->qmp = gw_qmp_open(q->ref.guard, CONNECT_MS, NULL, &err);
	if (q->qmp)
		return send(fd, &ready, 1, MSG_NOSIGNAL) == 1;
	if (send(fd, err.msg, strlen(err.msg), MSG_NOSIGNAL) < 0)
		gw_debug("%s", err.msg);
	return false;
}

static void watch(struct gw_qemu *q, int fd, pid_t godwit)
{
	struct gw_fence_page *page = q->fence.page;
	enum word word = WORD_NONE;

	if (!get_ready(q, fd))
		return;
	while (word == WORD_NONE && gw_now_ns() < atomic_load(&page->until))
		word = listen_to(fd, atomic_load(&page->until));
	if (word != WORD_DISMISSED)
		fence(q, fd, godwit, word == WORD_DEAD);
}

/* --- its godwit ---------------------------------------------------------- */

void gw_fence_init(struct gw_qemu *q)
{
	pthread_mutex_init(&q->fence.lock, NULL);
	q->fence.fd = -1;
}

int gw_fence_start(struct gw_qemu *q, struct gw_error *err)
{
	struct gw_fence_page *page;
	int r;

	if (!q->ref.guard[0])
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "the process that stops '%s' when its standby takes over needs a QMP connection of its own: name a second monitor, qmp=%s,front=PATH",
				  q->vm.info.name, q->ref.qmp);
	page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return gw_fail_errno(err, errno, "a shared page");
	atomic_store(&page->until, INT64_MAX);
	/* No other thread asks before there is one. */
	q->fence.page = page;
	r = gw_guardian_fork(q, watch, &q->fence.fd, err);
	if (r)
		gw_fence_fini(q);
	return r;
}

static int too_late(struct gw_qemu *q, struct gw_error *err)
{
	return gw_fail(err, EPERM,
		       "'%s' was stopped, because there was no word of the standby in time, and does not run on: the standby may run it. Look there; if it does not and will not, 'godwit resume %s' runs it here",
		       q->vm.info.name, q->vm.info.name);
}

bool gw_fence_closed(const struct gw_qemu *q)
{
	return q->fence.page && atomic_load(&q->fence.page->state) == FENCED;
}

/* It says nothing; if its end is closed, it was killed, or QEMU is gone. A
 * reset is that, too: it had not read all that it was told. */
static bool lives(struct gw_qemu *q)
{
	char byte;

	return recv(q->fence.fd, &byte, 1, MSG_DONTWAIT) < 0 &&
	       (errno == EAGAIN || errno == EINTR);
}

int gw_fence_lease(struct gw_qemu *q, int64_t until_ns, struct gw_error *err)
{
	struct gw_fence_page *page;
	char byte = EARLIER;
	GW_LOCKED(&q->fence.lock);

	page = q->fence.page;
	if (!page)
		return 0;
	/* It sleeps until the time it knows; only an earlier one is news. */
	if (atomic_exchange(&page->until, until_ns) > until_ns &&
	    send(q->fence.fd, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1)
		gw_debug("the fence cannot be told");
	if (gw_fence_closed(q))
		return too_late(q, err);
	return lives(q) ? 0 :
			  gw_fail(err, EPIPE,
				  "the process that stops '%s' when its standby takes over has ended: protect it anew",
				  q->vm.info.name);
}

/* @from to @to, unless it was closed. */
static int turn(struct gw_qemu *q, uint32_t from, uint32_t to,
		struct gw_error *err)
{
	if (!q->fence.page ||
	    atomic_compare_exchange_strong(&q->fence.page->state, &from, to))
		return 0;
	return too_late(q, err);
}

int gw_fence_enter(struct gw_qemu *q, struct gw_error *err)
{
	/* It may not have been awake yet. */
	if (q->fence.page &&
	    gw_now_ns() >= atomic_load(&q->fence.page->until))
		atomic_store(&q->fence.page->state, FENCED);
	return turn(q, OPEN, CONT, err);
}

int gw_fence_leave(struct gw_qemu *q, struct gw_error *err)
{
	return turn(q, CONT, OPEN, err);
}

static void dismiss(struct gw_qemu *q)
{
	char byte = DISMISSED;

	if (q->fence.fd >= 0 &&
	    send(q->fence.fd, &byte, 1, MSG_NOSIGNAL) != 1)
		gw_debug("the fence was killed");
}

/* What it told QEMU is told, when it has ended. */
static int wait_ended(struct gw_qemu *q, struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(PATIENCE_MS);

	while (lives(q))
		if (gw_wait_fd(q->fence.fd, POLLIN, deadline, NULL))
			return gw_fail(err, ETIMEDOUT,
				       "the process that stops '%s' has not ended in %d s: its QEMU does not answer",
				       q->vm.info.name, PATIENCE_MS / 1000);
	return 0;
}

int gw_fence_end(struct gw_qemu *q, bool *stopped, struct gw_error *err)
{
	int r;

	*stopped = false;
	if (!q->fence.page)
		return 0;
	*stopped = atomic_exchange(&q->fence.page->state, OVER) == FENCED;
	dismiss(q);
	r = wait_ended(q, err);
	if (!r)
		gw_fence_fini(q);
	return r;
}

void gw_fence_dismiss(struct gw_qemu *q)
{
	dismiss(q);
	gw_fence_fini(q);
}

void gw_fence_fini(struct gw_qemu *q)
{
	GW_LOCKED(&q->fence.lock);

	if (q->fence.fd >= 0)
		close(q->fence.fd);
	if (q->fence.page)
		munmap(q->fence.page, sizeof(*q->fence.page));
	q->fence.page = NULL;
	q->fence.fd = -1;
}
