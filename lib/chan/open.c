/* SPDX-License-Identifier: BSD-3-Clause */
/* open.c - from a uri to a channel or a listener: picks the transport. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "chan/fault.h"
#include "chan/transport.h"

static const struct gw_transport *const transports[GW_URI_NKINDS] = {
	[GW_URI_TCP] = &gw_transport_tcp,   [GW_URI_UNIX] = &gw_transport_unix,
	[GW_URI_FD] = &gw_transport_fd,	    [GW_URI_EXEC] = &gw_transport_exec,
	[GW_URI_FILE] = &gw_transport_file,
};

/* Put fault channel @spec over @c; closes @c when that fails. */
static struct gw_chan *stack_fault(struct gw_chan *c, const char *spec,
				   struct gw_error *err)
{
	struct gw_chan *f = gw_chan_fault(c, spec, err);

	if (!f)
		gw_chan_close(c);
	return f;
}

static struct gw_chan *connect_to(const char *uri, int64_t deadline,
				  const struct gw_cancel *cancel,
				  struct gw_error *err)
{
	struct gw_chan *c;
	struct gw_uri u;

	if (gw_uri_parse(&u, uri, err) ||
	    gw_uri_check_role(&u, GW_URI_CONNECT, err))
		return NULL;
	if (u.scheme->kind == GW_URI_FAULT) {
		if (gw_chan_fault_check(u.fault, err))
			return NULL;
		c = connect_to(u.inner, deadline, cancel, err);
		return c ? stack_fault(c, u.fault, err) : NULL;
	}
	c = transports[u.scheme->kind]->connect(&u, deadline, cancel, err);
	if (c)
		c->cancel = cancel;
	return c;
}

struct gw_chan *gw_chan_connect(const char *uri, int64_t timeout_ms,
				const struct gw_cancel *cancel,
				struct gw_error *err)
{
	if (gw_cancel_requested(cancel)) {
		gw_cancel_fail(err);
		return NULL;
	}
	return connect_to(uri, gw_deadline_ms(timeout_ms), cancel, err);
}

/* Every connection of what @u names inside, with the fault of @u over it. */
static struct gw_listener *listen_fault(const struct gw_uri *u,
					struct gw_error *err)
{
	struct gw_listener *l;
	char *spec;

	if (gw_chan_fault_check(u->fault, err))
		return NULL;
	l = gw_chan_listen(u->inner, err);
	if (!l)
		return NULL;
	spec = strdup(u->fault); /* gw_uri_parse() limits the nesting */
	if (!spec) {
		gw_fail(err, ENOMEM, "no memory to listen at %s", u->shown);
		gw_listener_close(l);
		return NULL;
	}
	l->fault[l->nfaults++] = spec;
	return l;
}

struct gw_listener *gw_chan_listen(const char *uri, struct gw_error *err)
{
	struct gw_listener *l;
	struct gw_uri u;

	if (gw_uri_parse(&u, uri, err) ||
	    gw_uri_check_role(&u, GW_URI_LISTEN, err))
		return NULL;
	if (u.scheme->kind == GW_URI_FAULT)
		return listen_fault(&u, err);
	l = calloc(1, sizeof(*l));
	if (!l) {
		gw_fail(err, ENOMEM, "no memory to listen at %s", u.shown);
		return NULL;
	}
	snprintf(l->uri, sizeof(l->uri), "%s", uri);
	if (transports[u.scheme->kind]->listen(l, &u, err)) {
		gw_listener_close(l);
		return NULL;
	}
	return l;
}

const char *gw_listener_uri(const struct gw_listener *l)
{
	return l->uri;
}

struct gw_chan *gw_listener_accept(struct gw_listener *l, int64_t timeout_ms,
				   const struct gw_cancel *cancel,
				   struct gw_error *err)
{
	struct gw_chan *c;

	if (gw_cancel_requested(cancel)) {
		gw_cancel_fail(err);
		return NULL;
	}
	if (l->ready) {
		c = l->ready;
		l->ready = NULL;
	} else if (l->nfds) {
		c = gw_sock_accept(l, gw_deadline_ms(timeout_ms), cancel, err);
	} else {
		gw_fail_as(
			err, GW_FAULT_USAGE, EINVAL,
			"%s carries one connection, and it was taken already",
			l->uri);
		return NULL;
	}
	if (!c)
		return NULL;
	c->cancel = cancel;
	for (int i = 0; c && i < l->nfaults; i++)
		c = stack_fault(c, l->fault[i], err);
	return c;
}

bool gw_listener_again(const struct gw_listener *l)
{
	return l->ready || l->nfds;
}

void gw_listener_close(struct gw_listener *l)
{
	if (!l)
		return;
	gw_sock_unlink(l);
	for (int i = 0; i < l->nfds; i++)
		close(l->fd[i]);
	gw_chan_close(l->ready);
	for (int i = 0; i < l->nfaults; i++)
		free(l->fault[i]);
	free(l);
}
