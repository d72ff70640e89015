/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hintagent.h - ask the agent in the guest which pages are free
 * (guest-agent/protocol.h), through the unix socket behind a virtio-serial
 * port of QEMU. What it answers are hints (hint/hint.h) and bytes of a guest.
 *
 * A thread reads the answer; nobody waits for it. It ends with the answer, the
 * limits below, or gw_hintagent_close().
 */
#ifndef GW_VM_QEMU_HINTAGENT_H
#define GW_VM_QEMU_HINTAGENT_H

#include <stdbool.h>

#include "hint/hint.h"
#include "vm/qemu/memmap.h"

#define GW_HINTAGENT_MAX_BYTES	(64u << 20) /* of one answer */
#define GW_HINTAGENT_TIMEOUT_MS 30000

struct gw_hintagent;

/* Where the port's socket is, which QEMU @q has under GFP_PORT's name.
 * -ENOENT: there is no such port; -ENOTCONN: nobody in the guest has it open;
 * -ENOTSUP: it is no unix socket that QEMU listens at. */
int gw_hintagent_find(struct gw_qmp *q, int timeout_ms, char path[108],
		      struct gw_error *err) GW_MUST_CHECK;

/* Connect to @path. @map is copied. NULL with @err. */
struct gw_hintagent *gw_hintagent_open(const char *path, struct gw_hint *h,
				       const struct gw_memmap *map,
				       struct gw_error *err);

/* Ask, as window @id of the hints. Return: 0 or -errno: it was not asked. */
int gw_hintagent_ask(struct gw_hintagent *a, uint32_t id,
		     struct gw_error *err) GW_MUST_CHECK;

/* Tell it that it is too late, once. */
void gw_hintagent_stop(struct gw_hintagent *a);

/* Has the answer come to its end? */
bool gw_hintagent_answered(struct gw_hintagent *a);

void gw_hintagent_close(struct gw_hintagent *a); /* NULL is fine */

#endif
