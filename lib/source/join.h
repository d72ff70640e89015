/* SPDX-License-Identifier: BSD-3-Clause */
/* join.h - open the further connections of a migration (dest/join.h). */
#ifndef GW_SOURCE_JOIN_H
#define GW_SOURCE_JOIN_H

#include "base/cancel.h"
#include "base/error.h"
#include "chan/chan.h"
#include "wire/hello.h"

/*
 * Can a peer at @uri be connected to again: tcp: and unix:, also inside
 * fault:. Return: 0, or -ENOTSUP with @err, which names @what.
 */
int gw_join_possible(const char *uri, const char *what,
		     struct gw_error *err) GW_MUST_CHECK;

/* Connection number @id of @session (NULL: sixteen zeros, for a plain QEMU
 * without a UUID), its hello sent. NULL with @err. */
struct gw_chan *gw_join_connect(const char *uri, const uint8_t *session,
				uint8_t id, int64_t timeout_ms,
				const struct gw_cancel *cancel,
				struct gw_error *err);

#endif
