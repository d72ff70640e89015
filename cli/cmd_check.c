/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cmd_check.c - godwit check VM [URI]: will it work? One line per question,
 * the first "no" ends it. Nothing moves.
 */
#include <getopt.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cli/cli.h"
#include "ram/extents.h"
#include "vm/qemu/vm.h"

struct check {
	const char *vm, *uri;
	bool json;
	struct gw_vm *v;
	json_t *results;
};

static void say(struct check *c, bool ok, const char *what, const char *fmt,
		...) __attribute__((format(printf, 4, 5)));

static void say(struct check *c, bool ok, const char *what, const char *fmt,
		...)
{
	char text[GW_ERROR_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (c->json)
		json_array_append_new(c->results,
				      json_pack("{s:s, s:b, s:s}", "check",
						what, "ok", ok, "text", text));
	else
		printf("%-4s %-8s %s\n", ok ? "ok" : "no", what, text);
}

static int check_vm(struct check *c, struct gw_error *err)
{
	struct gw_vmref ref;

	if (gw_vmref_parse(c->vm, &ref, err))
		return -1;
	c->v = gw_qemu_open(&ref, NULL, err);
	if (!c->v)
		return -1;
	say(c, true, "vm", "'%s': %s, machine %s, %s, %s", c->v->info.name,
	    c->v->info.vmm, c->v->info.machine, c->v->info.arch,
	    c->v->info.waiting ? "waits for a migration" :
	    c->v->info.running ? "running" :
				 "paused");
	return 0;
}

static int check_ram(struct check *c, struct gw_error *err)
{
	char a[32], b[32];

	for (int i = 0; i < c->v->ram.nblocks; i++) {
		const struct gw_ramblock *block = &c->v->ram.block[i];
		uint64_t populated;

		if (gw_extent_total(block, &populated, err))
			return -1;
		say(c, true, "ram", "'%s': %s, %s of it in use, pages of %u bytes",
		    block->idstr,
		    gw_format_size(a, sizeof(a), block->used_length),
		    gw_format_size(b, sizeof(b), populated),
		    block->page_size);
	}
	return 0;
}

static int check_devices(struct check *c, struct gw_error *err)
{
	if (c->v->ops->check(c->v, !c->v->info.waiting, err))
		return -1;
	say(c, true, "devices", "nothing in the way%s",
	    c->v->info.direct_io ?
		    "; disks with direct I/O are drained in every pass" :
		    "");
	return 0;
}

/* Nobody here can know whether the other host sees them too. */
static int check_disks(struct check *c, struct gw_error *err)
{
	const struct gw_vm_disk_ops *ops = c->v->ops->disks;
	char list[256] = "";
	struct gw_disks d;
	size_t n = 0;

	if (c->v->info.waiting || !ops)
		return 0;
	if (ops->list(c->v, false, &d, err))
		return -1;
	for (uint32_t i = 0; i < d.n && n < sizeof(list) - 64; i++)
		n += (size_t)snprintf(list + n, sizeof(list) - n, "%s'%.48s'",
				      i ? ", " : "", d.disk[i].name);
	if (d.n)
		say(c, true, "disks",
		    "%s: to be shared with the destination, or copied with --disks",
		    list);
	else
		say(c, true, "disks", "none that the guest writes to");
	return 0;
}

static int check_tracker(struct check *c, struct gw_error *err)
{
	struct gw_track *t;

	if (c->v->info.waiting)
		return 0;
	if (c->v->ops->track(c->v, "auto", &t, err))
		return -1;
	say(c, true, "tracker", "%s", t->ops->name);
	gw_track_close(t);
	return 0;
}

/* No reason not to move it: a "no" here ends nothing. */
static int check_protect(struct check *c, struct gw_error *err)
{
	say(c, true, "protect", "%s",
	    c->v->info.waiting	       ? "it can be a standby" :
	    c->v->ops->checkpoint ? "checkpoints of it can be taken" :
				    "not possible: no checkpoints of it can be taken");
	return 0;
}

static int check_peer(struct check *c, struct gw_error *err)
{
	struct godwit_error *e = (struct godwit_error *)err;
	struct godwit_peer peer;
	struct godwit_op *op;
	int r;

	if (!c->uri)
		return 0;
	op = godwit_op_new((struct godwit_vm *)c->v, NULL, NULL, NULL, e);
	r = op ? godwit_probe(op, c->uri, &peer, e) : -1;
	godwit_op_free(op);
	if (!r)
		say(c, true, "peer", "%s: godwit %s, %s, '%s' would take it",
		    c->uri, peer.godwit, peer.vmm, peer.name);
	return r;
}

static int parse(struct check *c, int argc, char **argv)
{
	static const struct option options[] = { { "json", 0, NULL, 'j' },
						 { NULL, 0, NULL, 0 } };
	int o;

	optind = 0;
	opterr = 0;
	while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (o != 'j')
			return cli_usage("check", "unknown option %s",
					 argv[optind - 1]);
		c->json = true;
	}
	if (optind == argc)
		return cli_usage("check", "the VM is missing");
	c->vm = argv[optind++];
	c->uri = optind < argc ? argv[optind++] : NULL;
	if (optind < argc)
		return cli_usage("check", "'%s' is one argument too many",
				 argv[optind]);
	return 0;
}

int cmd_check(int argc, char **argv)
{
	static const struct {
		const char *what;
		int (*fn)(struct check *c, struct gw_error *err);
	} steps[] = { { "vm", check_vm },	    { "ram", check_ram },
		      { "devices", check_devices }, { "disks", check_disks },
		      { "tracker", check_tracker }, { "protect", check_protect },
		      { "peer", check_peer } };
	struct check c = { 0 };
	struct gw_error err = { 0 };
	int r = parse(&c, argc, argv);

	if (r)
		return r;
	c.results = json_array();
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps) && !r; i++) {
		r = steps[i].fn(&c, &err);
		if (r)
			say(&c, false, steps[i].what, "%s", err.msg);
	}
	gw_vm_close(c.v);
	if (c.json)
		cli_json(json_pack("{s:b, s:O}", "ok", !r, "checks",
				   c.results));
	json_decref(c.results);
	return r ? (err.fault ? (int)err.fault : 1) : 0;
}
