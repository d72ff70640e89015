/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * chan.h - one duplex byte channel to a peer: a socket, a pair of pipes, a
 * file, or a channel over another that misbehaves (fault.h).
 *
 * The attempts of a channel never block; gw_chan_readv() and gw_chan_writev()
 * wait, ended by the channel's time limit, by cancel or by gw_chan_shutdown()
 * from any thread. One reader thread and one writer thread at a time;
 * gw_chan_close() after both are gone. Nothing here raises SIGPIPE, and no
 * signal disposition is changed.
 *
 * Cancel ends waits, it does not interrupt data that flows: whoever moves
 * much asks gw_cancel_requested() between calls.
 */
#ifndef GW_CHAN_CHAN_H
#define GW_CHAN_CHAN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/cancel.h"
#include "base/error.h"

struct gw_chan;

/*
 * A channel's five actions; sock and pipe, exec, fault (later tls) have their
 * own. Private data stands behind a struct gw_chan that is the first member.
 */
struct gw_chan_ops {
	/* One attempt, never waits; @niov <= IOV_MAX. Return: bytes > 0, 0 at
	 * the end, -EAGAIN (then rfd/rpause say what to wait for), -EBADF when
	 * that direction does not exist, or -errno. */
	ssize_t (*readv)(struct gw_chan *c, const struct iovec *iov, int niov);
	ssize_t (*writev)(struct gw_chan *c, const struct iovec *iov, int niov);
	/* No more bytes from us; the peer sees the end. Writer thread. */
	int (*shutdown_write)(struct gw_chan *c);
	/* Cut the connection so that the peer notices, where a transport can;
	 * waking and failing is done by gw_chan_shutdown(). Any thread. */
	void (*shutdown)(struct gw_chan *c);
	void (*close)(struct gw_chan *c); /* frees @c */
	/* Optional: say in @err why an attempt returned -@code. Return: true
	 * when it knew more than strerror(). */
	bool (*explain)(struct gw_chan *c, int code, struct gw_error *err);
	/* Optional: at most @len bytes of file @fd from @at on, by reference.
	 * Returns as writev() does; -ENOTSUP: not over this one. */
	ssize_t (*sendfile)(struct gw_chan *c, int fd, uint64_t at, size_t len);
	/* Optional: see gw_chan_unacked(). */
	int64_t (*unacked)(struct gw_chan *c);
};

struct gw_chan {
	/* set once before use */
	const struct gw_chan_ops *ops;
	char peer[160]; /* "tcp:127.0.0.1:4444" for messages */
	bool storage;	/* a file or disk: never blocks, nobody at the end */
	int wake_fd;	/* eventfd, readable once shut down */
	/* Ends every wait; may be NULL. gw_chan_connect() and
	 * gw_listener_accept() put theirs here, so it must outlive the
	 * channel, or be replaced. */
	const struct gw_cancel *cancel;
	/* The same, for whoever has several channels and gives all of them up
	 * when one fails; NULL: nobody. */
	const struct gw_cancel *stop;
	/* owned by the reader resp. writer thread: what to wait for after
	 * -EAGAIN: the descriptor (-1: none) or, if not 0, a point in time of
	 * gw_now_ns(), whichever comes first. The attempt may change both. */
	int rfd, wfd;
	int64_t rpause, wpause;
	/* Give up when nothing moves for so long; ms, < 0 (the default): never.
	 * May be changed between calls by the thread that reads or writes. */
	int64_t read_timeout_ms, write_timeout_ms;
	/* atomic */
	uint64_t bytes_read, bytes_written;
	int down; /* gw_chan_shutdown() was called */
};

/* Fill a zeroed @c; for constructors. gw_chan_close() undoes it. */
int gw_chan_init(struct gw_chan *c, const struct gw_chan_ops *ops,
		 const char *peer, struct gw_error *err) GW_MUST_CHECK;

static inline uint64_t gw_chan_bytes_read(const struct gw_chan *c)
{
	return __atomic_load_n(&c->bytes_read, __ATOMIC_RELAXED);
}

static inline uint64_t gw_chan_bytes_written(const struct gw_chan *c)
{
	return __atomic_load_n(&c->bytes_written, __ATOMIC_RELAXED);
}

/*
 * Read what is there, at least one byte. Return: bytes > 0, 0 when the peer
 * ended, -errno with @err: -ETIMEDOUT, -ECANCELED, -ESHUTDOWN after
 * gw_chan_shutdown(), else the connection is lost. The end of an exec: command
 * that failed is an error with its exit status.
 */
ssize_t gw_chan_readv(struct gw_chan *c, const struct iovec *iov, int niov,
		      struct gw_error *err) GW_MUST_CHECK;

/*
 * Write everything, any @niov. Return: 0 or -errno with @err, as
 * gw_chan_readv(). @iov is left with what was not written, so that after
 * -ECANCELED or -ETIMEDOUT the same call can finish it.
 */
int gw_chan_writev(struct gw_chan *c, struct iovec *iov, int niov,
		   struct gw_error *err) GW_MUST_CHECK;
int gw_chan_write(struct gw_chan *c, const void *p, size_t len,
		  struct gw_error *err) GW_MUST_CHECK;

/*
 * Write @len bytes of file @fd from byte @at on without a copy: what the peer
 * reads is what the file holds *then*. Return: as gw_chan_write(), or -ENOTSUP
 * without @err when nothing was written, for this channel or file cannot.
 */
int gw_chan_sendfile(struct gw_chan *c, int fd, uint64_t at, size_t len,
		     struct gw_error *err) GW_MUST_CHECK;

/* Is there something to read now (data, end or error)? Never waits. */
bool gw_chan_readable(struct gw_chan *c);

/*
 * Bytes written that have not arrived: TCP: not acknowledged by the peer's
 * host, unix: not read. 0: all have, or this transport cannot know. -errno: the
 * connection broke, even where the peer's orderly end could be read before.
 * Writer thread.
 */
int64_t gw_chan_unacked(struct gw_chan *c);

/*
 * No more bytes from us; the peer reads the end. Writer thread; twice is fine.
 * A file: is on disk when this returns. An exec: command's success is known
 * when gw_chan_readv() returns the end after this.
 */
int gw_chan_shutdown_write(struct gw_chan *c,
			   struct gw_error *err) GW_MUST_CHECK;

/* Wake every thread inside and fail all further calls. Any thread, twice is
 * fine; async-signal-safe. The peer of a pipe sees it at gw_chan_close(). */
void gw_chan_shutdown(struct gw_chan *c);

/* Close and free. An exec: command gets 2 s to end by itself, then SIGTERM,
 * then SIGKILL. NULL is fine. */
void gw_chan_close(struct gw_chan *c);

/* Adapters for struct gw_reader and struct gw_writer, @arg a gw_chan. */
ssize_t gw_chan_refill(void *arg, const struct iovec *iov, int niov,
		       struct gw_error *err);
int gw_chan_flush(void *arg, struct iovec *iov, int niov, struct gw_error *err);

/* --- constructors ------------------------------------------------------ */

/*
 * Over an open descriptor (stream socket, pipe, terminal, file), taken over
 * when this succeeds; @peer for messages. A TCP socket is tuned as one of our
 * own; other flags are put back at close, as others may share the descriptor.
 */
struct gw_chan *gw_chan_from_fd(int fd, const char *peer, struct gw_error *err);

/* Over one descriptor per direction (-1: that direction does not exist). */
struct gw_chan *gw_chan_from_fds(int rfd, int wfd, const char *peer,
				 struct gw_error *err);

/*
 * Connect to @uri (uri.h). Waits at most @timeout_ms (< 0: no limit), trying
 * every address a name has; refused by all of them is final. file: creates
 * (mode 0600) or truncates; fd: takes the descriptor over (0 to 2 are replaced
 * by /dev/null); exec: starts the command.
 *
 * TCP: no delay; keep-alive after 30 s idle, every 10 s, 3 times (transport.h).
 */
struct gw_chan *gw_chan_connect(const char *uri, int64_t timeout_ms,
				const struct gw_cancel *cancel,
				struct gw_error *err);

struct gw_listener;

/*
 * Listen at @uri: binds at once, so a busy port is an error here. Also starts
 * the command of exec: and opens fd: and file:, which have one connection only
 * (fd: with a listening socket, as of socket activation, has any number).
 * A unix socket's file has mode 0600; one left behind by a dead process is
 * replaced.
 */
struct gw_listener *gw_chan_listen(const char *uri, struct gw_error *err);

/*
 * Where a peer connects: the uri with the real port where it said 0, e.g.
 * "tcp:127.0.0.1:40123". For unix, fd, exec and file the uri itself; for fault
 * the uri inside.
 */
const char *gw_listener_uri(const struct gw_listener *l);

/* One connection; @timeout_ms < 0: no limit. One thread at a time. */
struct gw_chan *gw_listener_accept(struct gw_listener *l, int64_t timeout_ms,
				   const struct gw_cancel *cancel,
				   struct gw_error *err);

/* Can there be another connection (a socket that accepts)? */
bool gw_listener_again(const struct gw_listener *l);

/* Stops listening; removes the socket of a unix: uri. NULL is fine. */
void gw_listener_close(struct gw_listener *l);

#endif
