/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cmd_list.c - godwit list: which VMs there are, as a table or as JSON. It
 * asks every QEMU for its state over status.sock and changes nothing.
 */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/units.h"
#include "cli/cli.h"
#include "vm/qemu/qmp.h"
#include "vm/qemu/rundir.h"

#define ASK_MS 500

struct row {
	const struct gw_rundir_vm *vm;
	pid_t pid;
	char state[32]; /* QEMU's, or "starting", "busy", "unreachable" */
	char qemu[64];
	bool has_note, has_standby;
	struct gw_note note;
	struct cli_standby standby; /* whoever keeps it ready here */
};

static const char *why_not(int code)
{
	switch (code) {
	case ENOENT: /* its sockets are made a moment after its start */
	case ECONNREFUSED:
		return "starting";
	case EBUSY:
		return "busy";
	default:
		return "unreachable";
	}
}

static void ask(struct row *row)
{
	const struct gw_rundir_vm *vm = row->vm;
	struct gw_error err = { 0 };
	const struct gw_qmp_version *v;
	json_t *status = NULL;
	struct gw_qmp *q;

	row->pid = vm->pid;
	snprintf(row->qemu, sizeof(row->qemu), "%s", vm->qemu);
	q = gw_qmp_open(vm->path.status, ASK_MS, NULL, &err);
	if (q) {
		v = gw_qmp_version(q);
		snprintf(row->qemu, sizeof(row->qemu), "%d.%d.%d", v->major,
			 v->minor, v->micro);
		if (gw_qmp_peer_pid(q) > 0) /* other than run's: daemonized */
			row->pid = gw_qmp_peer_pid(q);
		status = gw_qmp_cmd(q, ASK_MS, &err, "query-status", NULL);
	}
	if (status)
		snprintf(row->state, sizeof(row->state), "%s",
			 json_string_value(json_object_get(status, "status")) ?:
				 "unknown");
	else
		snprintf(row->state, sizeof(row->state), "%s",
			 why_not(err.code));
	json_decref(status);
	gw_qmp_close(q);
	row->has_note = !gw_rundir_note_read(vm->path.dir, &row->note, NULL);
	row->has_standby = vm->incoming &&
			   !cli_standby_ask(vm->name, &row->standby, &err);
}

static json_t *to_json(const struct row *r)
{
	const struct gw_rundir_vm *vm = r->vm;
	const struct gw_note *n = &r->note;
	json_t *note = NULL, *blocks = json_array();

	for (int i = 0; i < vm->nblocks; i++)
		json_array_append_new(blocks,
				      json_pack("{s:s,s:I}", "id",
						vm->block[i].id, "size",
						(json_int_t)vm->block[i].size));
	if (r->has_note)
		note = json_pack("{s:s,s:s,s:s,s:I,s:s}", "phase", n->phase,
				 "role", n->role, "peer", n->peer, "time",
				 (json_int_t)n->time, "text", n->text);
	return json_pack(
		"{s:s,s:i,s:s,s:b,s:I,s:o,s:s,s:s,s:s,s:I,s:s,s:s,s:s,s:s,s:s,s:o?,s:O?}",
		"name", vm->name, "pid", (int)r->pid, "state", r->state,
		"incoming", vm->incoming, "memory", (json_int_t)vm->memory,
		"blocks", blocks, "qemu", r->qemu, "machine", vm->machine,
		"binary", vm->binary, "created", (json_int_t)vm->created,
		"qmp", vm->path.qmp, "status", vm->path.status, "agent",
		vm->path.agent, "agent-mode", vm->agent, "godwit",
		vm->version, "handover", note, "standby",
		r->has_standby ? r->standby.json : NULL);
}

static void print_json(const struct row *rows, int n)
{
	json_t *list = json_array();

	for (int i = 0; i < n; i++)
		json_array_append_new(list, to_json(&rows[i]));
	json_dumpf(list, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(list);
}

enum { NAME, PID, STATE, RAM, QEMU, INCOMING, FOLDER, NCOLUMNS };

static void cell(char *to, size_t size, const struct row *r, int column)
{
	switch (column) {
	case NAME:
		snprintf(to, size, "%s", r->vm->name);
		break;
	case PID:
		snprintf(to, size, "%d", (int)r->pid);
		break;
	case STATE:
		snprintf(to, size, "%s", r->state);
		break;
	case RAM:
		gw_format_size(to, size, r->vm->memory);
		break;
	case QEMU:
		snprintf(to, size, "%s", r->qemu);
		break;
	case INCOMING:
		snprintf(to, size, "%s", r->vm->incoming ? "yes" : "no");
		break;
	case FOLDER:
		snprintf(to, size, "%s", r->vm->path.dir);
		break;
	}
}

/* Phases that are no move's: what they are called, and the peer's part. */
static const struct {
	const char *phase, *text, *peer;
} colo[] = {
	{ "protecting", "protected", " to " },
	{ "fenced", "fenced", ", standby " },
	{ "standby", "standby, which does not run", ", at " },
	{ "taken over", "taken over", " from " },
};

static void print_note(const struct gw_note *n)
{
	char when[32] = "";
	time_t t = (time_t)n->time;
	struct tm tm;
	int i = 0;

	if (localtime_r(&t, &tm))
		strftime(when, sizeof(when), "%F %T", &tm);
	while (i < 4 && strcmp(n->phase, colo[i].phase))
		i++;
	if (i < 4)
		printf("  %s%s%s", colo[i].text, *n->peer ? colo[i].peer : "",
		       n->peer);
	else
		printf("  hand-over: %s, %s%s%s", n->phase, n->role,
		       *n->peer ? " with " : "", n->peer);
	printf(", %s%s%s\n", when, *n->text ? ": " : "", n->text);
}

/* A standby that lives knows more than what it left on record. */
static void print_more(const struct row *r)
{
	char text[256];

	if (r->has_standby)
		printf("  %s\n",
		       cli_standby_text(&r->standby, text, sizeof(text)));
	else if (r->has_note)
		print_note(&r->note);
}

static void print_table(const struct row *rows, int n)
{
	static const char *const title[NCOLUMNS] = {
		"NAME", "PID", "STATE", "RAM", "QEMU", "INCOMING", "FOLDER"
	};
	int width[NCOLUMNS];
	char text[GW_SUN_PATH_SIZE];

	for (int c = 0; c < NCOLUMNS; c++) {
		width[c] = (int)strlen(title[c]);
		for (int i = 0; i < n; i++) {
			cell(text, sizeof(text), &rows[i], c);
			if ((int)strlen(text) > width[c])
				width[c] = (int)strlen(text);
		}
	}
	for (int i = -1; i < n; i++) {
		for (int c = 0; c < NCOLUMNS; c++) {
			snprintf(text, sizeof(text), "%s", title[c]);
			if (i >= 0)
				cell(text, sizeof(text), &rows[i], c);
			if (c == NCOLUMNS - 1)
				printf("%s\n", text);
			else
				printf("%-*s  ", width[c], text);
		}
		if (i >= 0)
			print_more(&rows[i]);
	}
}

static int list(bool json)
{
	struct gw_error err = { 0 };
	struct gw_rundir_vm *vms;
	struct row *rows;
	int n = gw_rundir_list(&vms, &err);

	if (n < 0)
		return cli_report(&err);
	rows = calloc((size_t)n + 1, sizeof(*rows));
	for (int i = 0; rows && i < n; i++) {
		rows[i].vm = &vms[i];
		ask(&rows[i]);
	}
	if (rows && json)
		print_json(rows, n);
	else if (rows && n)
		print_table(rows, n);
	else if (rows)
		printf("No VMs are running; 'godwit run' starts one.\n");
	for (int i = 0; rows && i < n; i++)
		if (rows[i].has_standby)
			json_decref(rows[i].standby.json);
	free(rows);
	gw_rundir_free(vms, n);
	return 0;
}

int cmd_list(int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "json", no_argument, NULL, 'j' },
		{ NULL, 0, NULL, 0 },
	};
	bool json = false;
	int c;

	optind = 0;
	opterr = 0;
	while ((c = getopt_long(argc, argv, "+", longopts, NULL)) != -1) {
		if (c != 'j')
			return cli_usage("list", "unknown option %s",
					 argv[optind - 1]);
		json = true;
	}
	if (optind < argc)
		return cli_usage("list", "'%s': list takes no arguments",
				 argv[optind]);
	return list(json);
}
