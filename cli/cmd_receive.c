/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_receive.c - godwit receive URI VM, godwit receive URI FILE. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "vm/qemu/rundir.h"

struct receive {
	const char *uri, *path, *format;
};

/* Scripts wait for this line before they start the source. */
static void listening(const char *uri, void *data)
{
	struct cli_progress *p = data;

	if (p->json) {
		cli_json(json_pack("{s:s, s:s}", "event", "listening", "uri",
				   uri));
	} else if (!p->quiet) {
		printf("listening on %s\n", uri);
		fflush(stdout);
	}
}

static int into_vm(struct godwit_op *op, void *data, struct godwit_error *err)
{
	const struct receive *c = data;

	return godwit_receive(op, c->uri, listening, err);
}

static int into_file(struct godwit_op *op, void *data,
		     struct godwit_error *err)
{
	const struct receive *c = data;

	return godwit_receive_file(op, c->uri, c->path, c->format, listening,
				   err);
}

/*
 * A mistyped VM must not become a file: without --format only what looks like
 * a path is one. The VMs there are come first, their names may have dots.
 */
static bool is_file(const struct cli_operation *o)
{
	const char *to = o->positional[1];
	struct gw_rundir_vm vm;

	if (o->format)
		return true;
	if (!strncmp(to, "qmp=", 4))
		return false;
	if (strchr(to, '/'))
		return true;
	if (!gw_rundir_open(to, &vm, NULL)) {
		gw_rundir_vm_fini(&vm);
		return false;
	}
	return strchr(to, '.');
}

int cmd_receive(int argc, char **argv)
{
	static const char *const names[2] = { "URI", "VM" };
	struct cli_operation o;
	struct receive c;
	int r = cli_operation_parse(&o, argc, argv, names);

	if (r)
		return r;
	c = (struct receive){ o.positional[0], o.positional[1],
			      o.format ? o.format : "stream" };
	if (is_file(&o))
		return cli_operation_run(&o, NULL, cli_summary_stored,
					 into_file, &c);
	return cli_operation_run(&o, c.path, cli_summary_received, into_vm,
				 &c);
}
