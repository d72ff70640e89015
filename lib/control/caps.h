/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * caps.h - ONE table of capabilities: every name that a QEMU from 7.2 to 11.1
 * has, and what becomes of it here. All are off at first, as in QEMU.
 *
 *	parameter	a switch of struct godwit_params under QEMU's name
 *	own		looked at by the front ends (session.c, qmp_server.c)
 *	QEMU		handed to QEMU, which writes and loads the device state
 *	no effect	taken as it is: godwit always or never does it
 *	refused		with the reason
 *
 * A set of capabilities is a bit mask over gw_caps[].
 */
#ifndef GW_CONTROL_CAPS_H
#define GW_CONTROL_CAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "godwit.h"

enum gw_cap_kind {
	GW_CAP_PARAM,
	GW_CAP_OWN,
	GW_CAP_QEMU,
	GW_CAP_NO_EFFECT,
	GW_CAP_REFUSED,
};

struct gw_cap {
	const char *name;
	enum gw_cap_kind kind;
	const char *param; /* GW_CAP_PARAM: of gw_params[] */
	const char *needs; /* a capability without which it cannot be on */
	const char *help;  /* what it does; GW_CAP_REFUSED: why not */
};

extern const struct gw_cap gw_caps[];
extern const size_t gw_ncaps; /* at most 64 */

/* Its number, or -ENOENT. */
int gw_cap_find(const char *name);
bool gw_cap_has(uint64_t set, const char *name);

/* Can it be on at all? Return: 0, -ENOTSUP (GW_FAULT_USAGE). */
int gw_cap_check(const struct gw_cap *c, struct gw_error *err) GW_MUST_CHECK;
/* Can all of @set be on together? */
int gw_caps_check(uint64_t set, struct gw_error *err) GW_MUST_CHECK;

/* Put the capabilities that are parameters into @p. */
void gw_caps_apply(uint64_t set, struct godwit_params *p);
/* The set that @p stands for. */
uint64_t gw_caps_of(const struct godwit_params *p);

/* "CAP=on|off" of the command line. Return: 0; -ENOENT: no capability has
 * that name; -errno with @err. */
int gw_cap_assign(struct godwit_params *p, const char *assignment,
		  struct gw_error *err) GW_MUST_CHECK;

#endif
