/* SPDX-License-Identifier: BSD-3-Clause */
/* caps.c - see caps.h. */
#include "control/caps.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/params.h"

/* The channels that capability multifd stands for without a number. */
#define MULTIFD_CHANNELS 2

const struct gw_cap gw_caps[] = {
	{ "xbzrle", GW_CAP_PARAM, "xbzrle", NULL,
	  "pages sent before go as differences; also together with multifd" },
	{ "rdma-pin-all", GW_CAP_NO_EFFECT, NULL, NULL,
	  "there is no RDMA transport" },
	{ "auto-converge", GW_CAP_PARAM, "auto-converge", NULL,
	  "slow the vCPUs down while passes do not get smaller" },
	{ "zero-blocks", GW_CAP_NO_EFFECT, NULL, NULL, "no effect in QEMU" },
	{ "compress", GW_CAP_REFUSED, NULL, NULL,
	  "QEMU removed it in 9.1: switch multifd on and set multifd-compression" },
	{ "events", GW_CAP_OWN, NULL, NULL,
	  "events MIGRATION and MIGRATION_PASS" },
	{ "postcopy-ram", GW_CAP_REFUSED, NULL, NULL,
	  "the VM would live on both sides for a while; use auto-converge, xbzrle or max-downtime" },
	{ "x-colo", GW_CAP_REFUSED, NULL, NULL,
	  "QEMU's COLO would run beside godwit's memory" },
	{ "release-ram", GW_CAP_NO_EFFECT, NULL, NULL,
	  "of postcopy, which is refused" },
	{ "block", GW_CAP_REFUSED, NULL, NULL,
	  "QEMU removed it in 9.1: set parameter disks to full" },
	{ "return-path", GW_CAP_NO_EFFECT, NULL, NULL,
	  "the destination always answers" },
	{ "pause-before-switchover", GW_CAP_OWN, NULL, NULL,
	  "wait for migrate-continue when the VM stands" },
	{ "multifd", GW_CAP_OWN, NULL, NULL,
	  "as many connections as parameter multifd-channels says" },
	{ "dirty-bitmaps", GW_CAP_QEMU, NULL, NULL,
	  "bitmaps of disks go with the device state" },
	{ "postcopy-blocktime", GW_CAP_NO_EFFECT, NULL, NULL,
	  "of postcopy, which is refused" },
	{ "late-block-activate", GW_CAP_QEMU, NULL, NULL,
	  "the destination takes its disks when it runs" },
	{ "x-ignore-shared", GW_CAP_REFUSED, NULL, NULL,
	  "the destination's memory is its own: two VMs on the same file would destroy each other's" },
	{ "validate-uuid", GW_CAP_QEMU, NULL, NULL,
	  "QEMU compares the UUIDs of both VMs" },
	{ "background-snapshot", GW_CAP_REFUSED, NULL, NULL,
	  "it writes a file: use godwit save --live" },
	{ "zero-copy-send", GW_CAP_NO_EFFECT, NULL, "multifd",
	  "pages are sent as suits" },
	{ "postcopy-preempt", GW_CAP_REFUSED, NULL, NULL,
	  "of postcopy, which is refused" },
	{ "switchover-ack", GW_CAP_PARAM, "switchover-ack", "return-path",
	  "the plain QEMU that sends waits for it; between godwits the destination is always asked" },
	{ "dirty-limit", GW_CAP_REFUSED, NULL, NULL,
	  "QEMU's dirty ring sees nothing of godwit's passes: use auto-converge" },
	{ "mapped-ram", GW_CAP_REFUSED, NULL, NULL,
	  "it writes a file: use godwit save" },
};
const size_t gw_ncaps = sizeof(gw_caps) / sizeof(gw_caps[0]);

int gw_cap_find(const char *name)
{
	for (size_t i = 0; i < gw_ncaps; i++)
		if (!strcmp(gw_caps[i].name, name))
			return (int)i;
	return -ENOENT;
}

bool gw_cap_has(uint64_t set, const char *name)
{
	int i = gw_cap_find(name);

	return i >= 0 && set >> i & 1;
}

int gw_cap_check(const struct gw_cap *c, struct gw_error *err)
{
	if (c->kind != GW_CAP_REFUSED)
		return 0;
	return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
			  "Capability '%s' is not possible here: %s", c->name,
			  c->help);
}

int gw_caps_check(uint64_t set, struct gw_error *err)
{
	for (size_t i = 0; i < gw_ncaps; i++) {
		const struct gw_cap *c = &gw_caps[i];

		if (!(set >> i & 1))
			continue;
		if (gw_cap_check(c, err))
			return -ENOTSUP;
		if (c->needs && !gw_cap_has(set, c->needs))
			return gw_fail_as(
				err, GW_FAULT_USAGE, EINVAL,
				"Capability '%s' requires capability '%s'",
				c->name, c->needs);
	}
	return 0;
}

static bool *switch_of(const struct gw_cap *c, struct godwit_params *p)
{
	return (bool *)((char *)p + gw_param_find(c->param)->offset);
}

void gw_caps_apply(uint64_t set, struct godwit_params *p)
{
	for (size_t i = 0; i < gw_ncaps; i++)
		if (gw_caps[i].kind == GW_CAP_PARAM)
			*switch_of(&gw_caps[i], p) = set >> i & 1;
}

uint64_t gw_caps_of(const struct godwit_params *p)
{
	struct godwit_params copy = *p;
	uint64_t set = 0;

	for (size_t i = 0; i < gw_ncaps; i++)
		if (gw_caps[i].kind == GW_CAP_PARAM &&
		    *switch_of(&gw_caps[i], &copy))
			set |= 1ULL << i;
	if (p->channels)
		set |= 1ULL << gw_cap_find("multifd");
	if (p->switchover_ack)
		set |= 1ULL << gw_cap_find("return-path");
	return set;
}

int gw_cap_assign(struct godwit_params *p, const char *assignment,
		  struct gw_error *err)
{
	size_t n = strcspn(assignment, "=");
	const char *value = assignment + n + (assignment[n] == '=');
	const struct gw_cap *c;
	bool on = !strcmp(value, "on");
	char name[64];
	int i, r;

	snprintf(name, sizeof(name), "%.*s", (int)n, assignment);
	i = gw_cap_find(name);
	if (i < 0)
		return i;
	c = &gw_caps[i];
	if (!on && strcmp(value, "off"))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "capability '%s' is neither on nor off",
				  assignment);
	r = on ? gw_cap_check(c, err) : 0;
	if (!r && on && (c->kind == GW_CAP_QEMU ||
			 !strcmp(name, "pause-before-switchover")))
		r = gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
			       "capability '%s' needs somebody who goes on with it: use godwit monitor",
			       name);
	if (r)
		return r;
	if (c->kind == GW_CAP_PARAM)
		*switch_of(c, p) = on;
	else if (!strcmp(name, "multifd") && on != !!p->channels)
		p->channels = on ? MULTIFD_CHANNELS : 0;
	return 0;
}
