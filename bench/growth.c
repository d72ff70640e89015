/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * growth.c - what does a migration cost by the size of the VM, and by how many
 * run at once? Synthetic VMs (vm/synthetic.h) with holes for memory: of GIB
 * each, the first TOUCHED MiB are written, and one thread rewrites some of that
 * all the time. COUNT processes move one each, both sides in it, all at once,
 * and each goes round PASSES times before it may switch over.
 *
 *	build/bench/growth GIB TOUCHED COUNT PASSES
 *
 * Prints a line of JSON: time until the last one has ended, the medians of the
 * source's CPU time in a pass (not the first of a VM) and of the downtimes, and
 * by how much the private memory and the page tables of all processes together
 * grew. Afterwards what arrived is compared, byte by byte.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cancel.h"
#include "base/clock.h"
#include "base/progress.h"
#include "chan/chan.h"
#include "dest/dest.h"
#include "source/source.h"
#include "vm/synthetic.h"

#define MAX_COUNT    256
#define MAX_PASSES   64
#define WRITES_PER_S 5000
#define PATIENCE_NS  (600 * GW_NS_PER_S)

static uint64_t vm_bytes, touched_pages;
static unsigned int want_passes;

/* What one process tells the first one. */
struct result {
	int64_t pass_ns[MAX_PASSES]; /* CPU time; not of the first */
	unsigned int npasses;
	int64_t downtime_ns;
	uint64_t sent, private_kb, tables_kb;
};

struct side {
	struct gw_vm *vm;
	struct gw_vm_ops ops;
	struct gw_chan *chan;
	struct godwit_params params;
	struct gw_cancel cancel;
	struct gw_progress progress;
	struct gw_error err;
	int r;
	/* a source */
	struct result *result;
	int64_t last_ns;
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "growth: %s: %s\n", what, why);
	_exit(1);
}

/* --- a VM whose device state does not grow with its memory --------------- */

static int save_read(struct gw_vm *vm, bool final, gw_vm_sink sink, void *arg,
		     struct gw_error *err)
{
	return final ? sink(arg, "state", 5, err) : 0;
}

static int load_write(struct gw_vm *vm, const void *p, size_t len,
		      struct gw_error *err)
{
	return 0;
}

static int load_finish(struct gw_vm *vm, struct gw_error *err)
{
	vm->info.waiting = false;
	return 0;
}

static void side_init(struct side *s, bool waiting, int fd)
{
	struct gw_synthetic_config c = {
		.name = waiting ? "b" : "a",
		.seed = 42,
		.nbytes = vm_bytes,
		.nblocks = 1,
		.populated = touched_pages,
		.nthreads = waiting ? 0 : 1,
		.pages_per_s = WRITES_PER_S,
		.working_set = touched_pages < 1024 ? touched_pages : 1024,
		.waiting = waiting,
	};

	s->vm = gw_synthetic_open(&c, &s->err);
	if (!s->vm)
		die("VM", s->err.msg);
	s->ops = *s->vm->ops;
	s->ops.save_read = save_read;
	s->ops.load_write = load_write;
	s->ops.load_finish = load_finish;
	s->vm->ops = &s->ops;
	s->chan = gw_chan_from_fd(fd, waiting ? "source" : "destination",
				  &s->err);
	if (!s->chan || gw_cancel_init(&s->cancel, &s->err))
		die("channel", s->err.msg);
	gw_progress_init(&s->progress, NULL, NULL);
	godwit_params_init(&s->params);
	s->params.downtime_limit_ns = 1; /* until there were enough passes */
	s->params.stall_passes = 0;
	s->params.idle_timeout_ns = s->params.handover_timeout_ns = PATIENCE_NS;
}

static void side_fini(struct side *s)
{
	gw_vm_close(s->vm);
	gw_chan_close(s->chan);
	gw_progress_fini(&s->progress);
	gw_cancel_fini(&s->cancel);
}

/* In the source's thread, whose CPU time it takes: passes keep a distance in
 * time from each other, which is no cost. */
static void pass_done(const struct gw_pass_count *c, void *arg)
{
	struct side *s = arg;
	struct timespec t;
	int64_t now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	now = t.tv_sec * GW_NS_PER_S + t.tv_nsec;
	if (s->last_ns && s->result->npasses < MAX_PASSES)
		s->result->pass_ns[s->result->npasses++] = now - s->last_ns;
	s->last_ns = now;
	if (s->result->npasses + 1 >= want_passes)
		s->params.downtime_limit_ns = PATIENCE_NS;
}

static void *run_source(void *arg)
{
	struct side *s = arg;
	struct gw_source_config c = { .vm = s->vm,
				      .chan = s->chan,
				      .params = &s->params,
				      .cancel = &s->cancel,
				      .progress = &s->progress,
				      .pass_done = pass_done,
				      .pass_arg = s };

	s->r = gw_source_run(&c, &s->err);
	gw_chan_shutdown(s->chan);
	return NULL;
}

static void *run_dest(void *arg)
{
	struct side *s = arg;
	struct gw_dest_config c = { .vm = s->vm,
				    .chan = s->chan,
				    .params = &s->params,
				    .cancel = &s->cancel,
				    .progress = &s->progress };

	s->r = gw_dest_run(&c, &s->err);
	gw_chan_shutdown(s->chan);
	return NULL;
}

/* --- memory -------------------------------------------------------------- */

struct memory {
	uint64_t private_kb, tables_kb;
};

static struct memory memory_now(void)
{
	struct memory m = { 0 };
	FILE *f = fopen("/proc/self/status", "r");
	char line[256];

	if (!f)
		die("/proc/self/status", strerror(errno));
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "RssAnon:", 8))
			m.private_kb = strtoull(line + 8, NULL, 10);
		else if (!strncmp(line, "VmPTE:", 6))
			m.tables_kb = strtoull(line + 6, NULL, 10);
	}
	fclose(f);
	return m;
}

struct watch {
	pthread_t thread;
	struct memory before, most;
	int over; /* atomic */
};

static void *watch(void *arg)
{
	static const struct timespec ms = { 0, 5 * GW_NS_PER_MS };
	struct watch *w = arg;

	do {
		struct memory m = memory_now();

		if (m.private_kb > w->most.private_kb)
			w->most.private_kb = m.private_kb;
		if (m.tables_kb > w->most.tables_kb)
			w->most.tables_kb = m.tables_kb;
		nanosleep(&ms, NULL);
	} while (!__atomic_load_n(&w->over, __ATOMIC_RELAXED));
	return NULL;
}

/* --- one process --------------------------------------------------------- */

/* Holes stay holes, and what was written is there. */
static void check(const struct gw_vm *a, const struct gw_vm *b)
{
	static uint8_t x[1 << 20], y[1 << 20];
	int fd[2] = { a->ram.block[0].fd, b->ram.block[0].fd };
	uint64_t len = touched_pages * GW_PAGE_SIZE;
	struct stat st;

	for (uint64_t at = 0; at < len; at += sizeof(x)) {
		size_t n = len - at < sizeof(x) ? len - at : sizeof(x);

		if (pread(fd[0], x, n, (off_t)at) != (ssize_t)n ||
		    pread(fd[1], y, n, (off_t)at) != (ssize_t)n)
			die("comparing", strerror(errno));
		if (memcmp(x, y, n))
			die("comparing", "the memory that arrived differs");
	}
	if (fstat(fd[1], &st) || (uint64_t)st.st_blocks * 512 > len + len / 4)
		die("comparing",
		    "the destination has more memory than was used");
}

static void move(struct side *a, struct side *b)
{
	pthread_t ta, tb;

	if (pthread_create(&tb, NULL, run_dest, b) ||
	    pthread_create(&ta, NULL, run_source, a))
		die("thread", strerror(errno));
	pthread_join(ta, NULL);
	pthread_join(tb, NULL);
	if (a->r || b->r)
		die("migration", a->r ? a->err.msg : b->err.msg);
}

/* Tells the first process that it stands ready, waits for it, moves its VM,
 * tells what that was. */
static void one(int to_parent, int from_parent)
{
	struct result result = { 0 };
	struct side a = { .result = &result }, b = { 0 };
	struct watch w = { 0 };
	int fd[2];
	char c = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd))
		die("sockets", strerror(errno));
	side_init(&a, false, fd[0]);
	side_init(&b, true, fd[1]);
	w.before = w.most = memory_now();
	if (write(to_parent, &c, 1) != 1 || read(from_parent, &c, 1) != 0)
		die("waiting", strerror(errno));
	if (pthread_create(&w.thread, NULL, watch, &w))
		die("thread", strerror(errno));
	move(&a, &b);
	__atomic_store_n(&w.over, 1, __ATOMIC_RELAXED);
	pthread_join(w.thread, NULL);
	result.downtime_ns = a.progress.now.downtime_ns;
	result.sent = a.progress.now.transferred;
	result.private_kb = w.most.private_kb - w.before.private_kb;
	result.tables_kb = w.most.tables_kb - w.before.tables_kb;
	/* shorter than PIPE_BUF: whole, whoever else writes */
	if (write(to_parent, &result, sizeof(result)) != sizeof(result))
		die("telling", strerror(errno));
	check(a.vm, b.vm);
	side_fini(&a);
	side_fini(&b);
	_exit(0);
}

/* --- all of them --------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

static double median_ms(int64_t *v, size_t n)
{
	qsort(v, n, sizeof(*v), by_value);
	return n ? (double)v[n / 2] / 1e6 : 0;
}

static void print(const struct result *r, int count, int64_t total_ns)
{
	static int64_t pass[MAX_COUNT * MAX_PASSES], down[MAX_COUNT];
	uint64_t private_kb = 0, tables_kb = 0, sent = 0;
	size_t npasses = 0;

	for (int i = 0; i < count; i++) {
		for (unsigned int k = 0; k < r[i].npasses; k++)
			pass[npasses++] = r[i].pass_ns[k];
		down[i] = r[i].downtime_ns;
		private_kb += r[i].private_kb;
		tables_kb += r[i].tables_kb;
		sent += r[i].sent;
	}
	printf("{\"total-ms\": %.3f, \"pass-ms\": %.3f, \"downtime-ms\": %.3f, "
	       "\"private-kib\": %llu, \"tables-kib\": %llu, \"sent-bytes\": "
	       "%llu}\n",
	       (double)total_ns / 1e6, median_ms(pass, npasses),
	       median_ms(down, (size_t)count), (unsigned long long)private_kb,
	       (unsigned long long)tables_kb, (unsigned long long)sent);
}

static void take(int fd, void *p, size_t len)
{
	if (read(fd, p, len) != (ssize_t)len)
		die("a migration", "ended early");
}

static int all(int count)
{
	static struct result result[MAX_COUNT];
	int up[2], down[2], status, bad = 0;
	int64_t t0;
	char c;

	if (pipe(up) || pipe(down))
		die("pipe", strerror(errno));
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork", strerror(errno));
		if (!pid) {
			close(down[1]);
			close(up[0]);
			one(up[1], down[0]);
		}
	}
	close(up[1]); /* so that we read an end when they die */
	for (int i = 0; i < count; i++)
		take(up[0], &c, 1);
	t0 = gw_now_ns();
	close(down[1]); /* go */
	for (int i = 0; i < count; i++)
		take(up[0], &result[i], sizeof(result[i]));
	t0 = gw_now_ns() - t0;
	for (int i = 0; i < count; i++)
		bad |= wait(&status) < 0 || status;
	if (!bad)
		print(result, count, t0);
	return bad;
}

static uint64_t number(const char *s, uint64_t most)
{
	char *end;
	uint64_t n = strtoull(s, &end, 10);

	return *end || n > most ? 0 : n;
}

int main(int argc, char **argv)
{
	uint64_t gib = argc == 5 ? number(argv[1], 1 << 14) : 0, mib, count;

	if (!gib || !(mib = number(argv[2], gib << 10)) ||
	    !(count = number(argv[3], MAX_COUNT)) ||
	    !(want_passes = (unsigned int)number(argv[4], MAX_PASSES))) {
		fprintf(stderr, "usage: growth GIB TOUCHED-MIB COUNT PASSES\n");
		return 2;
	}
	vm_bytes = gib << 30;
	touched_pages = mib << (20 - GW_PAGE_BITS);
	return all((int)count);
}
