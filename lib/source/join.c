/* SPDX-License-Identifier: BSD-3-Clause */
/* join.c - see join.h. */
#include "source/join.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "chan/uri.h"
#include "wire/multifd.h"

int gw_join_possible(const char *uri, const char *what, struct gw_error *err)
{
	gw_autofree struct gw_uri *u = malloc(sizeof(*u));
	int r = u ? gw_uri_parse(u, uri, err) :
		    gw_fail(err, ENOMEM, "no memory for a URI");

	if (r || u->can & GW_URI_MULTI)
		return r;
	return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
			  "%s: '%s' is one connection, more are needed: use tcp: or unix:",
			  what, uri);
}

struct gw_chan *gw_join_connect(const char *uri, const uint8_t *session,
				uint8_t id, int64_t timeout_ms,
				const struct gw_cancel *cancel,
				struct gw_error *err)
{
	struct gw_multifd_hello h = { .id = id };
	struct gw_chan *c = gw_chan_connect(uri, timeout_ms, cancel, err);
	struct gw_writer w;

	if (!c)
		return NULL;
	if (session)
		memcpy(h.uuid, session, sizeof(h.uuid));
	c->write_timeout_ms = timeout_ms;
	gw_writer_init(&w, gw_chan_flush, c);
	gw_multifd_put_hello(&w, &h);
	if (gw_write_flush(&w, err)) {
		gw_chan_close(c);
		return NULL;
	}
	return c;
}
