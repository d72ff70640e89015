/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * operation.c - what the commands that move or store have in common: options from the
 * parameter table, Ctrl-C, progress, the final report.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "control/caps.h"
#include "control/params.h"
#include "control/stats.h"

#define MAX_OPTIONS 96
#define OPT_PARAM   1000 /* + index into gw_params */
#define OPT_NO	    2000 /* the same: --no-NAME */

#define USE_MONITOR (GW_USE_MIGRATE | GW_USE_RECEIVE)

enum { OPT_SET = 256, OPT_JSON, OPT_FORMAT, OPT_QMP };

void cli_json(json_t *j)
{
	json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(j);
}

/* "no-fence": what turns parameter @i off. */
static const char *no_name(int i)
{
	static char names[MAX_OPTIONS][32];

	snprintf(names[i], sizeof(names[i]), "no-%s", gw_params[i].name);
	return names[i];
}

/* Only what is of use for the command: the rest is an unknown option. */
static void build_options(struct option *o, unsigned int use)
{
	int n = 0;

	o[n++] = (struct option){ "set", required_argument, NULL, OPT_SET };
	if (use == USE_MONITOR)
		o[n++] = (struct option){ "qmp", required_argument, NULL,
					  OPT_QMP };
	else
		o[n++] = (struct option){ "json", no_argument, NULL,
					  OPT_JSON };
	o[n++] = (struct option){ "quiet", no_argument, NULL, 'q' };
	if (use == GW_USE_RECEIVE)
		o[n++] = (struct option){ "format", required_argument, NULL,
					  OPT_FORMAT };
	for (int i = 0; i < (int)gw_nparams; i++) {
		const struct gw_param *d = &gw_params[i];
		bool flag = d->type == GW_PARAM_BOOL;

		if (!(d->uses & use))
			continue;
		o[n++] = (struct option){ d->name,
					  flag ? optional_argument :
						 required_argument,
					  NULL, OPT_PARAM + i };
		if (flag)
			o[n++] = (struct option){ no_name(i), no_argument,
						  NULL, OPT_NO + i };
	}
	o[n] = (struct option){ NULL, 0, NULL, 0 };
}

/* A monitor goes on with every capability, as its clients may. */
static int keep_capability(struct cli_operation *o, const char *name,
			   const char *value, struct gw_error *err)
{
	bool on = !strcmp(value, "on");

	if (!on && strcmp(value, "off"))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "capability '%s=%s' is neither on nor off",
				  name, value);
	if (!o->capabilities)
		o->capabilities = json_array();
	json_array_append_new(o->capabilities,
			      json_pack("{s:s, s:b}", "capability", name,
					"state", on));
	return 0;
}

/* --set: of parameters and QEMU's capabilities the parameters come first,
 * some have the same name. */
static int assign(struct cli_operation *o, unsigned int use, const char *text,
		  struct gw_error *err)
{
	size_t n = strcspn(text, "=");
	const struct gw_param *d;
	char name[64];

	snprintf(name, sizeof(name), "%.*s", (int)n, text);
	d = gw_param_find(name);
	if ((d && d->uses & use) || gw_cap_find(name) < 0 ||
	    !(use & USE_MONITOR))
		return gw_param_assign(&o->params, use, text, err);
	if (use == USE_MONITOR)
		return keep_capability(o, name, text + n + (text[n] == '='),
				       err);
	return gw_cap_assign(&o->params, text, err);
}

static int parse_option(struct cli_operation *o, const char *cmd, int c)
{
	const struct gw_param *d;
	struct gw_error err = { 0 };
	int r = 0;

	switch (c) {
	case 'q':
		o->quiet = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	case OPT_FORMAT:
		o->format = optarg;
		return 0;
	case OPT_QMP:
		o->qmp = optarg;
		return 0;
	case OPT_SET:
		r = assign(o, cli_find(cmd)->params, optarg, &err);
		break;
	default:
		d = &gw_params[(c - OPT_PARAM) % (OPT_NO - OPT_PARAM)];
		r = gw_param_set(&o->params, d,
				 c >= OPT_NO ? "off" :
				 optarg	     ? optarg :
					       "on",
				 &err);
	}
	return r ? cli_usage(cmd, "%s", err.msg) : 0;
}

int cli_operation_parse(struct cli_operation *o, int argc, char **argv,
			const char *const names[2])
{
	struct option options[MAX_OPTIONS];
	struct gw_error err = { 0 };
	int c, r, n = 0;

	memset(o, 0, sizeof(*o));
	godwit_params_init(&o->params);
	build_options(options, cli_find(argv[0])->params);
	optind = 0;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":q", options, NULL)) >= 0) {
		if (c == ':')
			return cli_usage(argv[0], "%s needs a value",
					 argv[optind - 1]);
		if (c == '?')
			return cli_usage(argv[0], "unknown option %s",
					 argv[optind - 1]);
		r = parse_option(o, argv[0], c);
		if (r)
			return r;
	}
	if (gw_params_check(&o->params, &err))
		return cli_usage(argv[0], "%s", err.msg);
	for (; optind < argc; optind++) {
		if (n == 2 || !names[n])
			return cli_usage(argv[0], "'%s' is one argument too many",
					 argv[optind]);
		o->positional[n++] = argv[optind];
	}
	if (n < 2 && names[n])
		return cli_usage(argv[0], "the %s is missing", names[n]);
	return 0;
}

static struct godwit_op *current; /* for the signal handler only */

static void on_signal(int sig)
{
	struct godwit_op *op = __atomic_load_n(&current, __ATOMIC_SEQ_CST);

	if (op)
		godwit_op_cancel(op);
}

static void set_signals(struct godwit_op *op)
{
	struct sigaction sa = { .sa_handler = op ? on_signal : SIG_DFL };

	if (op)
		__atomic_store_n(&current, op, __ATOMIC_SEQ_CST);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	__atomic_store_n(&current, op, __ATOMIC_SEQ_CST);
}

static void report(struct cli_operation *o, const struct godwit_stats *s,
		   void (*summary)(const struct godwit_stats *s),
		   const struct gw_error *err)
{
	if (o->json) {
		json_t *j = gw_stats_json(s, err);

		json_object_set_new(j, "event",
				    json_string(err->code ? "failed" :
							    "completed"));
		if (o->took_over)
			json_object_set_new(j, "took-over",
					    json_boolean(*o->took_over));
		cli_json(j);
		return;
	}
	if (!err->code && !o->quiet)
		summary(s);
}

/*
 * A script that starts `godwit run` in the background comes here before the
 * VM has a name: give it a moment. The agent's socket is waited for anyway.
 */
static struct godwit_vm *open_vm(const char *vm, struct godwit_error *err)
{
	int64_t deadline = gw_deadline_ms(2000);
	struct timespec step = { 0, 50 * GW_NS_PER_MS };
	struct godwit_vm *v;

	while (!(v = godwit_vm_open(vm, err)) && err->code == ENOENT &&
	       gw_deadline_left_ms(deadline) > 0)
		nanosleep(&step, NULL);
	return v;
}

int cli_operation_run(struct cli_operation *o, const char *vm,
		      void (*summary)(const struct godwit_stats *s),
		      int (*fn)(struct godwit_op *op, void *data,
				struct godwit_error *err),
		      void *data)
{
	struct godwit_error err = { 0 };
	struct godwit_stats stats = { 0 };
	struct cli_progress progress;
	struct godwit_op *op = NULL;
	struct godwit_vm *v = NULL;
	int r = -1;

	cli_progress_init(&progress, o->json, o->quiet);
	if (vm)
		v = open_vm(vm, &err);
	if (v || !vm)
		op = godwit_op_new(v, &o->params, cli_progress_show, &progress,
				   &err);
	if (op) {
		set_signals(op);
		r = fn(op, data, &err);
		set_signals(NULL);
		godwit_op_stats(op, &stats);
	}
	cli_progress_end(&progress);
	if (r && !stats.status)
		stats.status = GODWIT_STATUS_FAILED;
	if (!r) /* whatever was tried on the way: it worked */
		err.code = 0;
	report(o, &stats, summary, (struct gw_error *)&err);
	godwit_op_free(op);
	godwit_vm_close(v);
	return r ? cli_report((struct gw_error *)&err) : 0;
}
