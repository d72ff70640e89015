/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cmd_monitor.c - godwit monitor VM: a prompt for people and scripts, or with
 * --qmp a socket for programs.
 */
#include <errno.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "control/caps.h"
#include "control/hmp.h"
#include "control/qmp_server.h"
#include "vm/qemu/rundir.h"

#define LOOK_NS (200 * GW_NS_PER_MS)

struct monitor {
	const struct cli_operation *o;
	struct gw_front front;
	struct cli_lines *lines;
	struct cli_progress progress;
	sigset_t unblocked; /* where it waits, signals come */
	bool tty;
	int code; /* of the last command that failed */
	struct gw_error broken; /* QEMU is gone */
};

static volatile sig_atomic_t interrupted, terminated;

static void on_signal(int sig)
{
	if (sig == SIGINT)
		interrupted = 1;
	else
		terminated = 1;
}

/* --- a VM ----------------------------------------------------------------- */

/* As `godwit migrate` does, it gives a VM that is being started a moment. */
static int find_vm(const char *vm, struct gw_vmref *ref, struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(2000);
	struct timespec step = { 0, 50 * GW_NS_PER_MS };
	int r;

	while ((r = gw_vmref_parse(vm, ref, err)) == -ENOENT &&
	       gw_deadline_left_ms(deadline) > 0)
		nanosleep(&step, NULL);
	while (!r && *ref->front && access(ref->front, F_OK) &&
	       gw_deadline_left_ms(deadline) > 0)
		nanosleep(&step, NULL);
	if (!r && !*ref->front)
		r = gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			       "'%s' names one monitor, which moving it needs: write front=PATH of a second QMP monitor too",
			       vm);
	return r;
}

/* --- waiting -------------------------------------------------------------- */

/*
 * Until standard input (if @input) or the session has something, @timeout_ns
 * is over, or a signal came. What QEMU says meanwhile is read.
 * Return: 1 there is input, 0, -EINTR, or -errno: QEMU is gone.
 */
static int wait_for(struct monitor *m, bool input, int64_t timeout_ns)
{
	struct timespec t = { timeout_ns / GW_NS_PER_S,
			      timeout_ns % GW_NS_PER_S };
	struct pollfd p[3] = {
		gw_upstream_poll(m->front.up),
		{ gw_session_fd(m->front.session), POLLIN, 0 },
		{ input ? STDIN_FILENO : -1, POLLIN, 0 },
	};
	int r;

	if (interrupted || terminated)
		return -EINTR;
	r = ppoll(p, 3, timeout_ns < 0 ? NULL : &t, &m->unblocked);
	if (interrupted || terminated)
		return -EINTR;
	if (r < 0 && errno != EINTR)
		return -errno;
	r = gw_upstream_work(m->front.up, &m->broken);
	return r ? r : p[2].revents != 0;
}

/* For people: what became of the operation. */
static void report_end(struct monitor *m)
{
	struct gw_session_state s;

	gw_session_state(m->front.session, &s);
	cli_progress_end(&m->progress);
	if (!strcmp(s.status, "completed")) {
		if (s.incoming)
			cli_summary_received(&s.stats);
		else
			cli_summary_migrated(&s.stats);
		return;
	}
	gw_hmp_error(stdout, &s.error);
	m->code = s.error.fault ? (int)s.error.fault : GW_FAULT_FAILED;
}

/* What the session says. Return: the kind of the last news, -1: none. @loud:
 * the user waits for it. */
static int news(struct monitor *m, bool loud)
{
	struct gw_session_state s;
	struct gw_event e;
	int last = -1;

	while (gw_session_event(m->front.session, &e)) {
		if (e.kind == GW_EVENT_STATUS || e.kind == GW_EVENT_PASS)
			continue;
		last = e.kind;
		gw_session_state(m->front.session, &s);
		if (e.kind == GW_EVENT_ENDED && loud)
			report_end(m);
		else if (e.kind == GW_EVENT_REFUSED)
			gw_hmp_error(stdout, &s.error);
		if (e.kind != GW_EVENT_STARTED && s.error.code)
			m->code = (int)s.error.fault;
	}
	return last;
}

/* Until the operation has begun, or (@end) has ended; Ctrl-C cancels it. */
static void wait_operation(struct monitor *m, bool end)
{
	struct gw_session_state s;

	for (;;) {
		int last = news(m, end);

		if (last == GW_EVENT_ENDED || last == GW_EVENT_REFUSED ||
		    (last == GW_EVENT_STARTED && !end))
			return;
		gw_session_state(m->front.session, &s);
		if (!s.busy && last < 0)
			return;
		if (end)
			cli_progress_show(&s.stats, &m->progress);
		if (wait_for(m, false, LOOK_NS) != -EINTR)
			continue;
		interrupted = 0;
		gw_session_cancel(m->front.session);
		if (terminated)
			terminated = 2; /* and then leave */
	}
}

/* --- the prompt ----------------------------------------------------------- */

static int wait_input(void *data)
{
	struct monitor *m = data;

	for (;;) {
		int r = wait_for(m, true, -1);

		if (r < 0)
			return r;
		news(m, false);
		if (r)
			return 0;
	}
}

/* Return: whether to go on. */
static bool run_line(struct monitor *m, const char *line)
{
	enum gw_hmp_next next;

	if (gw_hmp_run(&m->front, line, false, stdout, &next))
		m->code = GW_FAULT_FAILED;
	if (next == GW_HMP_BEGUN || next == GW_HMP_BEGUN_WAIT) {
		cli_progress_init(&m->progress, false, m->o->quiet);
		wait_operation(m, next == GW_HMP_BEGUN_WAIT);
	}
	fflush(stdout);
	return next != GW_HMP_QUIT && !terminated;
}

static void prompt(struct monitor *m)
{
	const char *line;
	int why = 0;

	do {
		line = cli_lines_next(m->lines, &why);
		if (line) {
			if (!run_line(m, line))
				return;
			continue;
		}
		if (why == -EINTR && interrupted && m->tty)
			putchar('\n'); /* Ctrl-C: another line */
		if (why != -EINTR || terminated || !m->tty)
			break;
		interrupted = 0;
	} while (true);
	if (m->tty && !m->broken.code)
		putchar('\n');
	if (why == -EMSGSIZE)
		fprintf(stderr, "godwit: a line is too long\n");
}

/* Whoever leaves does not leave a migration behind. */
static void leave(struct monitor *m)
{
	if (interrupted || terminated)
		gw_session_cancel(m->front.session);
	interrupted = 0;
	if (!gw_session_busy(m->front.session)) {
		news(m, false);
		return;
	}
	if (!m->o->quiet)
		fprintf(stderr, "godwit: waiting for the migration under way, Ctrl-C cancels it\n");
	cli_progress_init(&m->progress, false, m->o->quiet);
	wait_operation(m, true);
}

static void catch_signals(struct monitor *m)
{
	struct sigaction sa = { .sa_handler = on_signal };
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	sigset_t block;

	sigemptyset(&block);
	for (int i = 0; i < 3; i++) {
		sigaction(signals[i], &sa, NULL);
		sigaddset(&block, signals[i]);
	}
	sigprocmask(SIG_BLOCK, &block, &m->unblocked);
	for (int i = 0; i < 3; i++)
		sigdelset(&m->unblocked, signals[i]);
}

static int open_front(struct monitor *m, const struct gw_vmref *ref,
		      struct gw_error *err)
{
	const struct cli_operation *o = m->o;
	int r;

	m->front.params = o->params;
	m->front.caps = gw_caps_of(&o->params);
	m->front.session = gw_session_new(o->positional[0], err);
	m->front.up = m->front.session ?
			      gw_upstream_open(ref->front, NULL, NULL, err) :
			      NULL;
	if (!m->front.up)
		return -err->code;
	r = o->capabilities ?
		    gw_front_set_caps(&m->front, o->capabilities, err) :
		    0;
	return r;
}

static int run_prompt(const struct cli_operation *o,
		      const struct gw_vmref *ref)
{
	struct monitor m = { .o = o, .tty = isatty(STDIN_FILENO) };
	struct gw_error err = { 0 };
	int r = open_front(&m, ref, &err);

	if (!r) {
		setlocale(LC_CTYPE, "");
		catch_signals(&m);
		m.lines = cli_lines_open("(godwit) ", wait_input, &m);
	}
	if (!r && !m.lines)
		r = gw_fail(&err, ENOMEM, "no memory");
	if (!r) {
		prompt(&m);
		leave(&m);
		r = terminated ? GW_FAULT_CANCELLED : m.tty ? 0 : m.code;
	} else {
		r = cli_report(&err);
	}
	if (m.broken.code && m.broken.code != ECONNRESET)
		r = cli_report(&m.broken);
	else if (m.broken.code && !o->quiet)
		fprintf(stderr, "godwit: QEMU has ended\n");
	cli_lines_close(m.lines);
	gw_session_free(m.front.session);
	gw_upstream_close(m.front.up);
	return r;
}

/* --- QMP ------------------------------------------------------------------ */

static int run_qmp(const struct cli_operation *o, const struct gw_vmref *ref)
{
	struct gw_qmp_server_config c = { .vm = o->positional[0],
					  .front = ref->front,
					  .params = o->params,
					  .capabilities = o->capabilities };
	const struct gw_cancel *cancel = cli_cancel();
	struct gw_error err = { 0 };
	struct gw_qmp_server *s;
	int r;

	if (strncmp(o->qmp, "unix:", 5) || !o->qmp[5])
		return cli_usage("monitor", "--qmp %s is not unix:PATH",
				 o->qmp);
	s = gw_qmp_server_new(&c, &err);
	r = s ? gw_qmp_server_listen(s, o->qmp + 5, &err) : -err.code;
	if (!r && !o->quiet) {
		printf("listening on %s\n", o->qmp);
		fflush(stdout);
	}
	if (!r)
		r = gw_qmp_server_run(s, cancel, &err);
	gw_qmp_server_free(s);
	return r ? cli_report(&err) : 0;
}

int cmd_monitor(int argc, char **argv)
{
	static const char *const names[2] = { "VM", NULL };
	struct gw_error err = { 0 };
	struct cli_operation o;
	struct gw_vmref ref;
	int r = cli_operation_parse(&o, argc, argv, names);

	if (!r && find_vm(o.positional[0], &ref, &err))
		r = cli_report(&err);
	else if (!r)
		r = o.qmp ? run_qmp(&o, &ref) : run_prompt(&o, &ref);
	json_decref(o.capabilities);
	return r;
}
