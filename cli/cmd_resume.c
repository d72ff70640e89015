/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cmd_resume.c - godwit resume VM: run a VM that an uncertain hand-over left
 * stopped. Says what is known first, and asks.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "vm/qemu/hold.h"
#include "vm/qemu/qmp.h"
#include "vm/qemu/resume.h"
#include "vm/qemu/rundir.h"
#include "vm/qemu/throttle.h"

#define TIMEOUT_MS 10000

/* Return: whether it can be run at all. */
static bool tell_note(const struct gw_vmref *ref)
{
	struct gw_error err;
	struct gw_note n;
	char when[64];
	time_t t;

	if (!ref->dir[0] || gw_rundir_note_read(ref->dir, &n, &err)) {
		printf("No move of this VM is on record.\n");
		return true;
	}
	t = (time_t)n.time;
	strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", localtime(&t));
	printf("On record since %s, as %s of a move, peer %s: %s.\n", when,
	       n.role, n.peer, n.text);
	/* Its memory was given back when that failed (dest/dest.c). */
	if (strcmp(n.phase, "failed"))
		return true;
	fprintf(stderr, "godwit resume: there is no VM in '%s' to run\n",
		ref->name);
	return false;
}

/* Only a person may say yes; without a terminal --yes has to. */
static int ask(bool yes)
{
	char line[16] = "";

	if (yes)
		return 0;
	if (!isatty(STDIN_FILENO)) {
		fprintf(stderr,
			"godwit resume: not asked on a terminal; --yes says that the VM runs nowhere else\n");
		return GW_FAULT_USAGE;
	}
	printf("Two running copies destroy its disks. Does the VM run nowhere else, and shall it run here? [y/N] ");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin) ||
	    (line[0] != 'y' && line[0] != 'Y'))
		return GW_FAULT_CANCELLED;
	return 0;
}

/* Exit code in @r when there is nothing to run. */
static bool nothing_to_do(const struct gw_vmref *ref, const char *status,
			  int *r)
{
	const char *name = ref->name[0] ? ref->name : ref->qmp;

	printf("VM '%s' is in state '%s'.\n", name, status);
	if (!strcmp(status, "running")) {
		printf("It runs: nothing to do.\n");
		*r = 0;
		return true;
	}
	if (!strcmp(status, "inmigrate")) {
		fprintf(stderr,
			"godwit resume: '%s' still waits for a migration: there is no VM in it\n",
			name);
		*r = GW_FAULT_FAILED;
		return true;
	}
	return false;
}

/* A godwit and its guardian that were killed may have left its vCPUs slow. */
static void lift_throttle(struct gw_qmp *q)
{
	struct gw_throttle t = { .pid = gw_qmp_peer_pid(q) };

	gw_throttle_remove(&t);
}

static int resume(const struct gw_vmref *ref, bool yes, struct gw_error *err)
{
	struct gw_qmp *q = gw_qmp_open(ref->qmp, TIMEOUT_MS, NULL, err);
	char status[32];
	int r = 0;

	if (!q || gw_qemu_query_status(q, status, err)) {
		gw_qmp_close(q);
		return cli_report(err);
	}
	lift_throttle(q);
	if (!nothing_to_do(ref, status, &r)) {
		r = tell_note(ref) ? ask(yes) : GW_FAULT_FAILED;
		if (!r && (gw_qemu_end_migration(q, TIMEOUT_MS, err) ||
			   gw_qemu_cont(q, err) || gw_hold_end(q, err)))
			r = cli_report(err);
		else if (!r) {
			gw_qemu_settings_clean(q);
			printf("VM '%s' is in state 'running' now.\n",
			       ref->name[0] ? ref->name : ref->qmp);
			if (ref->dir[0])
				gw_rundir_note_clear(ref->dir);
		}
	}
	gw_qmp_close(q);
	return r;
}

int cmd_resume(int argc, char **argv)
{
	static const struct option options[] = { { "yes", 0, NULL, 'y' },
						 { NULL, 0, NULL, 0 } };
	struct gw_error err = { 0 };
	struct gw_vmref ref;
	bool yes = false;
	int o, lock = -1, r;

	optind = 0;
	opterr = 0;
	while ((o = getopt_long(argc, argv, "y", options, NULL)) >= 0) {
		if (o != 'y')
			return cli_usage("resume", "unknown option %s",
					 argv[optind - 1]);
		yes = true;
	}
	if (optind + 1 != argc)
		return cli_usage("resume", optind == argc ?
						   "the VM is missing" :
						   "one VM at a time");
	if (gw_vmref_parse(argv[optind], &ref, &err))
		return cli_report(&err);
	if (ref.dir[0]) {
		lock = gw_rundir_move_lock(ref.dir, ref.name, &err);
		if (lock < 0)
			return cli_report(&err);
	}
	r = resume(&ref, yes, &err);
	if (lock >= 0)
		close(lock);
	return r;
}
