/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * front.h - what QMP and HMP have in common: the client's capabilities and
 * parameters under QEMU's names, and what is done with them. Values are JSON
 * as QMP has them; errors are what QEMU calls GenericError.
 *
 * Capabilities (caps.h) and the parameters that godwit has are kept here, and
 * never seen by QEMU, whose own are set by the engines for their purposes.
 * Everything else among QEMU's parameters is kept by QEMU, which checks it.
 */
#ifndef GW_CONTROL_FRONT_H
#define GW_CONTROL_FRONT_H

#include <jansson.h>
#include <stdint.h>

#include "base/error.h"
#include "control/session.h"
#include "control/upstream.h"
#include "godwit.h"

struct gw_front {
	struct gw_upstream *up;
	struct gw_session *session;
	uint64_t caps; /* the client's, caps.h */
	struct godwit_params params;
};

enum gw_unit { GW_UNIT_BYTES, GW_UNIT_MS, GW_UNIT_NUMBER };

/* QEMU's view of a parameter. */
struct gw_qmp_param {
	const char *qmp; /* QEMU's name */
	const char *ours; /* of gw_params[]; NULL: QEMU keeps it */
	enum gw_unit unit;
	const char *const *possible; /* NULL: any */
	const char *why; /* nothing else is */
};
extern const struct gw_qmp_param gw_qmp_params[];
const struct gw_qmp_param *gw_qmp_param_find(const char *qmp);
/* A parameter that QEMU does not have, under godwit's name; NULL: none. */
struct gw_param;
const struct gw_param *gw_front_own_param(const char *name);

/* @list: [{"capability", "state"}...], of the right types. */
int gw_front_set_caps(struct gw_front *f, const json_t *list,
		      struct gw_error *err) GW_MUST_CHECK;
/* The answers to query-migrate-capabilities, query-migrate-parameters and
 * query-migrate; NULL with @err. */
json_t *gw_front_caps(struct gw_front *f, struct gw_error *err);
json_t *gw_front_params(struct gw_front *f, struct gw_error *err);
json_t *gw_front_query(struct gw_front *f, struct gw_error *err);

/* @params: {"NAME": value...}; all of them or none. Also while a migration
 * runs: what cannot change any more is for the next. */
int gw_front_set_params(struct gw_front *f, const json_t *params,
			struct gw_error *err) GW_MUST_CHECK;
/* One that godwit has, from text as its command line takes it. */
int gw_front_set_own(struct gw_front *f, const struct gw_param *d,
		     const char *value, struct gw_error *err) GW_MUST_CHECK;

/* Of one migration alone. */
struct gw_front_extra {
	bool xbzrle;
	const char *disks; /* of parameter disks, NULL: as it is set */
};

/* Begin a migration (gw_session_begin()). @extra may be NULL. */
int gw_front_migrate(struct gw_front *f, const char *uri,
		     const struct gw_front_extra *extra,
		     struct gw_error *err) GW_MUST_CHECK;
int gw_front_incoming(struct gw_front *f, const char *uri,
		      struct gw_error *err) GW_MUST_CHECK;

#endif
