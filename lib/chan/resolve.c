/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * resolve.c - names to addresses. getaddrinfo() knows neither deadline nor
 * cancel, so a name is looked up by a thread of its own which, when nobody
 * waits for it any more, ends by itself. Numbers need no thread.
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"
#include "chan/transport.h"

struct lookup {
	/* set once before the thread starts */
	char host[GW_URI_HOST_MAX + 1], port[33];
	struct addrinfo hints;
	int done_fd;	  /* eventfd; written when the answer is there */
	pthread_t thread; /* of who waits: joined or, when given up, detached */
	/* written by the thread before done_fd */
	int gai, sys_errno;
	struct addrinfo *res;
	int refs; /* atomic: the thread and who waits */
};

static void lookup_put(struct lookup *l)
{
	if (__atomic_sub_fetch(&l->refs, 1, __ATOMIC_ACQ_REL))
		return;
	if (l->res)
		freeaddrinfo(l->res);
	close(l->done_fd);
	free(l);
}

static void *lookup_main(void *arg)
{
	struct lookup *l = arg;

	l->gai = getaddrinfo(l->host, l->port, &l->hints, &l->res);
	l->sys_errno = errno;
	if (l->gai)
		l->res = NULL;
	if (eventfd_write(l->done_fd, 1) < 0) {
		/* cannot happen: the counter was 0 */
	}
	lookup_put(l);
	return NULL;
}

static struct lookup *lookup_start(const char *host, const char *port,
				   const struct addrinfo *hints,
				   struct gw_error *err)
{
	struct lookup *l = calloc(1, sizeof(*l));

	if (!l) {
		gw_fail(err, ENOMEM, "no memory to look up '%s'", host);
		return NULL;
	}
	snprintf(l->host, sizeof(l->host), "%s", host);
	snprintf(l->port, sizeof(l->port), "%s", port);
	l->hints = *hints;
	l->refs = 2;
	l->done_fd = eventfd(0, EFD_CLOEXEC);
	if (l->done_fd < 0) {
		gw_fail_errno(err, errno, "eventfd");
		free(l);
		return NULL;
	}
	if (gw_thread_start(&l->thread, "gw-resolve", lookup_main, l, err)) {
		close(l->done_fd);
		free(l);
		return NULL;
	}
	return l;
}

static int fail_gai(const char *host, const char *port, int gai, int sys_errno,
		    struct gw_error *err)
{
	if (gai == EAI_SYSTEM)
		return gw_fail_errno(err, sys_errno, "looking up host '%s'",
				     host);
	if (gai == EAI_SERVICE)
		return gw_fail(err, EINVAL, "there is no port named '%s'",
			       port);
	return gw_fail(err, EHOSTUNREACH, "looking up host '%s': %s", host,
		       gai_strerror(gai));
}

static int lookup_name(const char *host, const char *port,
		       const struct addrinfo *hints, int64_t deadline,
		       const struct gw_cancel *cancel, struct addrinfo **res,
		       struct gw_error *err)
{
	struct lookup *l = lookup_start(host, port, hints, err);
	eventfd_t done;
	int r;

	if (!l)
		return -EIO;
	r = gw_wait_fd(l->done_fd, POLLIN, deadline, cancel);
	if (r)
		pthread_detach(l->thread);
	else
		pthread_join(l->thread, NULL); /* it has nothing left to do */
	if (r == -ECANCELED)
		gw_cancel_fail(err);
	else if (r == -ETIMEDOUT)
		gw_fail(err, ETIMEDOUT,
			"looking up host '%s': no answer in time", host);
	else if (r || eventfd_read(l->done_fd, &done) < 0)
		r = gw_fail_errno(err, r ? -r : errno, "looking up host '%s'",
				  host);
	else if (l->gai)
		r = fail_gai(host, port, l->gai, l->sys_errno, err);
	if (!r) {
		*res = l->res;
		l->res = NULL;
	}
	lookup_put(l);
	return r;
}

int gw_resolve(const char *host, const char *port, int family, bool passive,
	       int64_t deadline, const struct gw_cancel *cancel,
	       struct addrinfo **res, struct gw_error *err)
{
	struct addrinfo hints = { .ai_family = family,
				  .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_NUMERICHOST |
					      (passive ? AI_PASSIVE : 0) };
	int gai = getaddrinfo(host, port, &hints, res);

	if (!gai)
		return 0;
	if (!host || (gai != EAI_NONAME && gai != EAI_ADDRFAMILY))
		return fail_gai(host ? host : "", port, gai, errno, err);
	hints.ai_flags &= ~AI_NUMERICHOST;
	return lookup_name(host, port, &hints, deadline, cancel, res, err);
}
