/* SPDX-License-Identifier: BSD-3-Clause */
/* carry.c - see carry.h. */
#include "source/carry.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"
#include "wire/qemu.h"
#include "wire/record.h"

#define BUFFER	  (256u << 10)
#define RP_HEADER 4u
/* A peer that takes no more bytes says why, or ends, within this. */
#define LAST_WORDS_MS 2000

struct gw_carry {
	/* set once before start */
	int fd;
	struct gw_chan *chan;
	bool has_back;
	int wake; /* eventfd, readable once both threads are to end */
	uint8_t *buf;
	pthread_t forth, back;
	bool forth_runs, back_runs;
	/* owned by the thread `back` */
	uint8_t held[RP_HEADER + GW_RP_MAX_LEN]; /* of a message, so far */
	size_t nheld;
	/* guarded by lock */
	pthread_mutex_t lock;
	struct gw_carry_state at;
	bool busy;	    /* read, and not yet written */
	int64_t refused_ns; /* the peer takes nothing since; 0: it does */
};

/* The first reason stays. Under the lock. */
static void peer_is(struct gw_carry *c, enum gw_carry_peer peer,
		    const struct gw_error *why)
{
	if (c->at.peer != GW_CARRY_OPEN)
		return;
	c->at.peer = peer;
	c->at.why = *why;
}

/* Return: false when the threads are to end. */
static bool wait_vmm(struct gw_carry *c, short events)
{
	struct pollfd p[2] = { { .fd = c->fd, .events = events },
			       { .fd = c->wake, .events = POLLIN } };

	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	return !p[1].revents;
}

/* --- forth: the stream -------------------------------------------------- */

/*
 * A peer that closed has perhaps said why before, and only the thread that
 * reads can know. One that just takes nothing may hold the VM.
 */
static void refused(struct gw_carry *c, const struct gw_error *why)
{
	bool closed = why->code == EPIPE || why->code == ECONNRESET;
	GW_LOCKED(&c->lock);

	c->refused_ns = gw_now_ns();
	if (why->code == ESHUTDOWN)
		return; /* gw_carry_cut() */
	if (closed && c->has_back)
		c->at.why = *why; /* of use if nothing better comes */
	else
		peer_is(c, closed ? GW_CARRY_ENDED : GW_CARRY_LOST, why);
}

static void pass_stream(struct gw_carry *c, size_t n)
{
	struct gw_error err = { 0 };

	if (c->refused_ns) /* written by this thread only */
		return;
	if (gw_chan_write(c->chan, c->buf, n, &err)) {
		refused(c, &err);
		return;
	}
	GW_LOCKED(&c->lock);
	c->at.forth += n;
}

static void pass_end(struct gw_carry *c)
{
	struct gw_error err = { 0 };
	int r = 0;

	if (!c->refused_ns)
		r = gw_chan_shutdown_write(c->chan, &err);
	if (r && r != -ENOTSUP)
		refused(c, &err);
	GW_LOCKED(&c->lock);
	c->at.ended = !c->refused_ns;
}

static void set_busy(struct gw_carry *c, bool busy)
{
	GW_LOCKED(&c->lock);
	c->busy = busy;
}

static void *forth(void *arg)
{
	struct gw_carry *c = arg;
	ssize_t n = 1;

	while (n && wait_vmm(c, POLLIN)) {
		/* Before the bytes leave the socket: see gw_carry_look(). */
		set_busy(c, true);
		n = recv(c->fd, c->buf, BUFFER, MSG_DONTWAIT);
		if (n > 0)
			pass_stream(c, (size_t)n);
		else if (n < 0 && errno != EAGAIN && errno != EINTR)
			n = 0; /* QEMU died with answers unread */
		if (!n)
			pass_end(c);
		set_busy(c, false);
	}
	return NULL;
}

/* --- back: the answers -------------------------------------------------- */

static int send_vmm(struct gw_carry *c, const uint8_t *p, size_t n)
{
	while (n) {
		ssize_t sent = send(c->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent > 0) {
			p += sent;
			n -= (size_t)sent;
		} else if (errno == EAGAIN) {
			if (!wait_vmm(c, POLLOUT))
				return -ESHUTDOWN;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

/* A whole message is in held. */
static int pass_message(struct gw_carry *c)
{
	bool shut = gw_get_be16(c->held) == GW_RP_SHUT && c->nheld >= 8;
	int r;

	/* Noted first: who hears of it from the VMM finds it here. */
	if (shut) {
		GW_LOCKED(&c->lock);
		c->at.shut = true;
		c->at.shut_ns = gw_now_ns();
		c->at.shut_value = gw_get_be32(c->held + RP_HEADER);
	}
	r = send_vmm(c, c->held, c->nheld);
	if (shut && !r) {
		GW_LOCKED(&c->lock);
		c->at.shut_passed = true;
	}
	c->nheld = 0;
	return 0; /* a VMM that is gone is noticed elsewhere */
}

static int no_return_path(struct gw_carry *c, struct gw_error *err)
{
	if (c->held[0] == GW_ITEM_RECORD) { /* and GW_HELLO_MAGIC */
		GW_LOCKED(&c->lock);
		c->at.godwit = true;
	}
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "what %s answers (%02x %02x %02x %02x) is no return "
			  "path of QEMU",
			  c->chan->peer, c->held[0], c->held[1], c->held[2],
			  c->held[3]);
}

/* Messages are be16 type, be16 length, payload; whole ones pass. */
static int feed(struct gw_carry *c, const uint8_t *p, size_t n,
		struct gw_error *err)
{
	while (n) {
		bool head = c->nheld < RP_HEADER;
		size_t want =
			head ? RP_HEADER : RP_HEADER + gw_get_be16(c->held + 2);
		size_t take = want - c->nheld < n ? want - c->nheld : n;

		memcpy(c->held + c->nheld, p, take);
		c->nheld += take;
		p += take;
		n -= take;
		if (head && c->nheld == RP_HEADER) {
			want += gw_get_be16(c->held + 2);
			if (want > sizeof(c->held) || !gw_get_be16(c->held))
				return no_return_path(c, err);
		}
		if (c->nheld >= RP_HEADER && c->nheld == want)
			pass_message(c);
	}
	return 0;
}

/* The reading has ended. A reset is a socket's way of dying with something
 * unread; a command that failed (EPIPE) says nothing of who it spoke to. */
static void peer_ended(struct gw_carry *c, ssize_t n, struct gw_error *err)
{
	GW_LOCKED(&c->lock);

	if (n == 0)
		gw_fail(err, ECONNRESET, "%s closed the connection",
			c->chan->peer);
	if (err->code != ESHUTDOWN)
		peer_is(c,
			err->code == ECONNRESET ? GW_CARRY_ENDED
						: GW_CARRY_LOST,
			err);
}

static void *back(void *arg)
{
	struct gw_carry *c = arg;
	struct gw_error err = { 0 };
	uint8_t buf[4096];
	struct iovec iov = { buf, sizeof(buf) };
	ssize_t n;

	while ((n = gw_chan_readv(c->chan, &iov, 1, &err)) > 0) {
		{
			GW_LOCKED(&c->lock);
			c->at.back += (uint64_t)n;
		}
		n = feed(c, buf, (size_t)n, &err);
		if (n)
			break;
	}
	peer_ended(c, n, &err);
	return NULL;
}

/* --- the outside -------------------------------------------------------- */

struct gw_carry *gw_carry_start(int fd, struct gw_chan *chan, bool has_back,
				struct gw_error *err)
{
	struct gw_carry *c = calloc(1, sizeof(*c));

	if (!c || !(c->buf = malloc(BUFFER))) {
		free(c);
		gw_fail(err, ENOMEM, "no memory to carry a stream");
		return NULL;
	}
	c->fd = fd;
	c->chan = chan;
	c->has_back = has_back;
	pthread_mutex_init(&c->lock, NULL);
	c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->wake < 0) {
		gw_fail_errno(err, errno, "eventfd");
		goto fail;
	}
	if (gw_thread_start(&c->forth, "gw-carry", forth, c, err))
		goto fail;
	c->forth_runs = true;
	if (has_back &&
	    gw_thread_start(&c->back, "gw-carry-back", back, c, err))
		goto fail;
	c->back_runs = has_back;
	return c;
fail:
	gw_carry_free(c);
	return NULL;
}

/*
 * Idle: the thread is between two reads, and the socket is empty. It says that
 * it is busy before it reads and under the lock, so bytes are either still in
 * the socket or it is busy.
 */
void gw_carry_look(struct gw_carry *c, struct gw_carry_state *out)
{
	int64_t late = LAST_WORDS_MS * GW_NS_PER_MS;
	int unread = 0;
	GW_LOCKED(&c->lock);

	if (c->refused_ns && gw_now_ns() - c->refused_ns > late &&
	    c->at.peer == GW_CARRY_OPEN && c->at.why.code)
		c->at.peer = GW_CARRY_LOST; /* it reads not, nor does it end */
	c->at.idle = !c->busy && !c->refused_ns &&
		     !ioctl(c->fd, FIONREAD, &unread) && !unread;
	*out = c->at;
}

static void join_back(struct gw_carry *c)
{
	if (c->back_runs)
		pthread_join(c->back, NULL);
	c->back_runs = false;
}

void gw_carry_cut(struct gw_carry *c)
{
	gw_chan_shutdown(c->chan);
	join_back(c);
}

int gw_carry_say_shut(struct gw_carry *c, uint32_t value, struct gw_error *err)
{
	uint8_t msg[8];
	int r;

	gw_put_be16(msg, GW_RP_SHUT);
	gw_put_be16(msg + 2, 4);
	gw_put_be32(msg + 4, value);
	r = send_vmm(c, msg, sizeof(msg));
	return r ? gw_fail_errno(err, -r, "QEMU's return path") : 0;
}

void gw_carry_hang_up(struct gw_carry *c)
{
	shutdown(c->fd, SHUT_RDWR);
}

void gw_carry_free(struct gw_carry *c)
{
	uint64_t one = 1;

	if (!c)
		return;
	if (c->wake >= 0 && write(c->wake, &one, sizeof(one)) < 0) {
		/* EAGAIN: already readable */
	}
	if (c->forth_runs || c->back_runs)
		gw_chan_shutdown(c->chan);
	join_back(c);
	if (c->forth_runs)
		pthread_join(c->forth, NULL);
	if (c->wake >= 0)
		close(c->wake);
	pthread_mutex_destroy(&c->lock);
	free(c->buf);
	free(c);
}
