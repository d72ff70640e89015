/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * agent_test.c - the agent and its client, with a small program in QEMU's
 * place (agent_victim.c). Needs the environment that agent/meson.build gives:
 * GW_TEST_AGENT, the path of godwit-agent.so, and GW_TEST_VICTIM.
 */
#include "vm/qemu/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/protocol.h"
#include "agent_track.h"
#include "base/clock.h"
#include "test.h"

#define NOBODY	   65534
#define VICTIM_RAM (8u << 20) /* bytes per file */

static char dir[64], sock[100], log_path[100];

struct victim {
	pid_t child; /* what we started; with -daemonize not the VM */
	pid_t pid;   /* the VM */
	FILE *in, *out;
	char answer[400];
};

/* ---- the victim ---- */

static const char *tell(struct victim *v, const char *fmt, unsigned long n)
{
	fprintf(v->in, fmt, n);
	fputc('\n', v->in);
	fflush(v->in);
	if (!fgets(v->answer, sizeof(v->answer), v->out))
		v->answer[0] = '\0';
	v->answer[strcspn(v->answer, "\n")] = '\0';
	return v->answer;
}

static unsigned long ask_number(struct victim *v, const char *what)
{
	return strtoul(tell(v, what, 0) + 1, NULL, 10);
}

/* In the child: redirect, set what the agent reads, run @argv. */
static void become(int in, int out, char *const argv[], const char *preload)
{
	int err = open(log_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	dup2(in, 0);
	dup2(out, 1);
	dup2(err, 2);
	for (int fd = 3; fd < 64; fd++)
		close(fd);
	setenv("LD_PRELOAD", preload, 1);
	setenv("GODWIT_AGENT", sock, 1);
	execv(argv[0], argv);
	_exit(127);
}

static bool spawn_argv(struct victim *v, char *const argv[],
		       const char *preload)
{
	int to[2], from[2];

	memset(v, 0, sizeof(*v));
	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		return false;
	fflush(NULL);
	v->child = fork();
	if (v->child == 0)
		become(to[0], from[1], argv, preload);
	close(to[0]);
	close(from[1]);
	v->in = fdopen(to[1], "w");
	v->out = fdopen(from[0], "r");
	v->pid = (pid_t)ask_number(v, "p");
	return v->pid > 0;
}

static bool spawn(struct victim *v, const char *nfiles, const char *option)
{
	char *argv[] = { getenv("GW_TEST_VICTIM"), (char *)nfiles,
			 (char *)option, NULL };

	setenv("GODWIT_AGENT_ANYWHERE", "1", 1);
	return spawn_argv(v, argv, getenv("GW_TEST_AGENT"));
}

static void reap(struct victim *v)
{
	int status;

	/* end of input ends it, also the daemonized one */
	if (v->in)
		fclose(v->in);
	if (v->out) {
		/* until it has gone, so the next may have its socket */
		while (fgets(v->answer, sizeof(v->answer), v->out))
			;
		fclose(v->out);
	}
	kill(v->child, SIGKILL);
	waitpid(v->child, &status, 0);
	if (v->pid > 0 && v->pid != v->child)
		waitpid(v->pid, &status, 0); /* ours: see main() */
	memset(v, 0, sizeof(*v));
}

static struct gw_agent *client(struct gw_error *err)
{
	struct gw_agent *a = NULL;

	err->msg[0] = '\0';
	if (gw_agent_open(sock, 5000, NULL, &a, err) < 0)
		fprintf(stderr, "%s: %s\n", test_name, err->msg);
	return a;
}

static bool have_async(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1);
	int r = fd < 0 ? -1 : at_api(fd, 0, AT_ASYNC);

	if (fd >= 0)
		close(fd);
	return r == 0;
}

#define NEEDS_ROOT()                                             \
	do {                                                     \
		if (geteuid())                                   \
			SKIP("needs root to change its user");   \
	} while (0)
#define NEEDS_ASYNC()                                                       \
	do {                                                                \
		if (!have_async())                                          \
			SKIP("kernel has no asynchronous write-protection"); \
	} while (0)

/* ---- the simple things ---- */

static void hello_tells_who_it_is(void)
{
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;
	struct stat st;

	REQUIRE(spawn(&v, "1", NULL));
	a = client(&err);
	if (a) {
		CHECK(gw_agent_info(a)->pid == v.pid);
		CHECK(gw_agent_info(a)->euid == geteuid());
		CHECK(gw_agent_info(a)->version == GW_AGENT_VERSION);
		CHECK(gw_agent_info(a)->kinds & GW_UFFD_USER_MODE);
		CHECK(gw_agent_info(a)->held == 0);
		CHECK(!strcmp(gw_agent_info(a)->build, GW_VERSION));
	}
	CHECK(a != NULL);
	CHECK(stat(sock, &st) == 0 && (st.st_mode & 07777) == 0600);
	gw_agent_close(a);
	reap(&v);
	CHECK(access(sock, F_OK) != 0); /* removed at exit */
}

static void socket_mode_does_not_depend_on_umask(void)
{
	static const mode_t masks[] = { 0, 077, 0777 };
	struct victim v;
	struct stat st;
	size_t i;

	for (i = 0; i < 3; i++) {
		mode_t old = umask(masks[i]);
		bool ok;

		close(open(log_path, O_WRONLY | O_CREAT, 0600));
		ok = spawn(&v, "1", NULL);
		umask(old);
		REQUIRE(ok);
		CHECK(stat(sock, &st) == 0 && (st.st_mode & 07777) == 0600);
		reap(&v);
	}
}

static void environment_is_cleaned_in_the_vm(void)
{
	char preload[600], expect[700];
	char *argv[] = { getenv("GW_TEST_VICTIM"), (char *)"1", NULL };
	const char *other = "/usr/lib/x86_64-linux-gnu/libm.so.6";
	struct victim v;

	if (access(other, R_OK))
		SKIP("no %s to preload as well", other);
	snprintf(preload, sizeof(preload), "%s %s:%s", other,
		 getenv("GW_TEST_AGENT"), other);
	snprintf(expect, sizeof(expect),
		 "e preload=%s:%s agent=- anywhere=-", other, other);
	setenv("GODWIT_AGENT_ANYWHERE", "1", 1);
	REQUIRE(spawn_argv(&v, argv, preload));
	CHECK(!strcmp(tell(&v, "e", 0), expect));
	reap(&v);
	REQUIRE(spawn(&v, "1", NULL));
	CHECK(!strcmp(tell(&v, "e", 0), "e preload=- agent=- anywhere=-"));
	reap(&v);
}

/* Not QEMU: no socket, no word, environment as it was. */
static void other_programs_are_left_alone(void)
{
	char *argv[] = { getenv("GW_TEST_VICTIM"), (char *)"1", NULL };
	char expect[700];
	struct victim v;
	struct stat st;

	unsetenv("GODWIT_AGENT_ANYWHERE");
	REQUIRE(spawn_argv(&v, argv, getenv("GW_TEST_AGENT")));
	snprintf(expect, sizeof(expect), "e preload=%s agent=%s anywhere=-",
		 getenv("GW_TEST_AGENT"), sock);
	CHECK(!strcmp(tell(&v, "e", 0), expect));
	CHECK(access(sock, F_OK) != 0);
	CHECK(stat(log_path, &st) == 0 && st.st_size == 0);
	reap(&v);
}

/* A small program that is only called like QEMU: a compiled wrapper. */
static void small_namesakes_are_left_alone(void)
{
	char name[120], expect[700];
	char *argv[] = { name, (char *)"1", NULL };
	struct victim v;

	snprintf(name, sizeof(name), "%s/qemu-system-x86_64", dir);
	REQUIRE(symlink(getenv("GW_TEST_VICTIM"), name) == 0);
	unsetenv("GODWIT_AGENT_ANYWHERE");
	CHECK(spawn_argv(&v, argv, getenv("GW_TEST_AGENT")));
	snprintf(expect, sizeof(expect), "e preload=%s agent=%s anywhere=-",
		 getenv("GW_TEST_AGENT"), sock);
	CHECK(!strcmp(tell(&v, "e", 0), expect));
	reap(&v);
	unlink(name);
}

/* sh, env and nice in front of it: the agent gets to the last program. */
static void wrappers_pass_it_on(void)
{
	char script[600];
	char *argv[] = { (char *)"/bin/sh", (char *)"-c", script, NULL };
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;

	/* only what env(1) starts counts as QEMU */
	unsetenv("GODWIT_AGENT_ANYWHERE");
	snprintf(script, sizeof(script),
		 "x=$(echo hello); exec nice -n 0 env GODWIT_AGENT_ANYWHERE=1 '%s' 1",
		 getenv("GW_TEST_VICTIM"));
	REQUIRE(spawn_argv(&v, argv, getenv("GW_TEST_AGENT")));
	a = client(&err);
	CHECK(a && gw_agent_info(a)->pid == v.pid);
	gw_agent_close(a);
	reap(&v);
}

static void failure_is_one_line_and_the_vm_runs(void)
{
	char good[sizeof(sock)], text[500] = "";
	struct victim v;
	FILE *f;

	memcpy(good, sock, sizeof(sock));
	snprintf(sock, sizeof(sock), "%s/none/sock", dir);
	CHECK(spawn(&v, "1", NULL));
	memcpy(sock, good, sizeof(sock));
	CHECK(!strcmp(tell(&v, "w 3", 0), "w 3"));
	f = fopen(log_path, "r");
	REQUIRE(f);
	CHECK(fgets(text, sizeof(text), f) != NULL);
	CHECK(!strncmp(text, "godwit-agent: ", 14) && strstr(text, "none"));
	CHECK(fgets(text, sizeof(text), f) == NULL);
	fclose(f);
	reap(&v);
}

static void stale_socket_is_replaced_a_live_one_is_not(void)
{
	struct gw_agent *a;
	struct gw_error err;
	struct victim v, w;
	struct stat st;
	FILE *f;

	REQUIRE(spawn(&v, "1", NULL));
	kill(v.pid, SIGKILL);
	reap(&v);
	CHECK(access(sock, F_OK) == 0); /* stale now */
	REQUIRE(spawn(&v, "1", NULL));
	REQUIRE(spawn(&w, "1", NULL));
	a = client(&err);
	CHECK(a && gw_agent_info(a)->pid == v.pid);
	gw_agent_close(a);
	CHECK(stat(log_path, &st) == 0 && st.st_size > 0);
	reap(&w);
	CHECK(access(sock, F_OK) == 0); /* w did not remove v's */
	reap(&v);

	/* somebody's file is not touched */
	f = fopen(sock, "w");
	REQUIRE(f);
	fputs("precious", f);
	fclose(f);
	REQUIRE(spawn(&v, "1", NULL));
	CHECK(stat(sock, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 8);
	reap(&v);
	unlink(sock);
}

static void client_errors_name_socket_and_remedy(void)
{
	struct gw_agent *a = NULL;
	struct gw_cancel c;
	struct gw_error err;
	int64_t t = gw_now_ns();

	CHECK(gw_agent_open(sock, 100, NULL, &a, &err) == -ENOENT);
	CHECK(gw_now_ns() - t >= 90 * GW_NS_PER_MS);
	CHECK(strstr(err.msg, sock) && strstr(err.msg, "godwit run"));
	CHECK_OK(gw_cancel_init(&c, &err), &err);
	gw_cancel_request(&c);
	CHECK(gw_agent_open(sock, -1, &c, &a, &err) == -ECANCELED);
	gw_cancel_fini(&c);
	gw_agent_close(NULL);
}

/* ---- RAM ---- */

static void ram_lists_files_with_their_descriptors(void)
{
	struct gw_agent_ram ram;
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;
	unsigned char *p;
	struct stat st;
	unsigned i;

	REQUIRE(spawn(&v, "40", NULL)); /* three pages of the list */
	a = client(&err);
	REQUIRE(a);
	CHECK_OK(gw_agent_ram(a, &ram, &err), &err);
	CHECK(ram.nmaps == 40);
	CHECK(ram.nfds == 40);
	for (i = 0; i < ram.nmaps; i++) {
		const struct gw_agent_mapping *m = &ram.map[i];

		CHECK(m->length == VICTIM_RAM && m->offset == 0);
		CHECK(m->page_size == 4096);
		CHECK(fstat(m->fd, &st) == 0 && st.st_ino == m->ino &&
		      st.st_dev == m->dev);
		CHECK((fcntl(m->fd, F_GETFL) & O_ACCMODE) == O_RDWR);
		CHECK(fcntl(m->fd, F_GETFD) & FD_CLOEXEC);
		p = mmap(NULL, VICTIM_RAM, PROT_READ, MAP_SHARED, m->fd, 0);
		CHECK(p != MAP_FAILED && p[0] == 1);
		munmap(p, VICTIM_RAM);
	}
	gw_agent_ram_fini(&ram);
	CHECK(ram.nmaps == 0);
	gw_agent_close(a);
	reap(&v);
}

/* ---- userfaultfd ---- */

/* The victim's file 0: the one that begins with a split mapping is joined,
 * all are alike; with NFILES 1 there is only one. */
static uint64_t ram_addr(struct gw_agent *a)
{
	struct gw_agent_ram ram;
	struct gw_error err;
	uint64_t addr;

	if (gw_agent_ram(a, &ram, &err) < 0 || ram.nmaps != 1) {
		fprintf(stderr, "%s: RAM not found\n", test_name);
		return 0;
	}
	addr = ram.map[0].addr;
	gw_agent_ram_fini(&ram);
	return addr;
}

/* Register all, write three pages, see exactly these. */
static void check_tracks(struct victim *v, int fd, bool used, uint64_t addr)
{
	CHECK(at_api(fd, used, AT_ASYNC) == 0);
	CHECK(at_register(fd, addr, VICTIM_RAM) == 0);
	at_scan(v->pid, addr, VICTIM_RAM);
	CHECK(at_scan(v->pid, addr, VICTIM_RAM) == 0);
	tell(v, "w 5", 0);
	tell(v, "w 6", 0);
	tell(v, "w 900", 0);
	CHECK(at_scan(v->pid, addr, VICTIM_RAM) == 3);
	CHECK(at_scan(v->pid, addr, VICTIM_RAM) == 0);
}

static void tracking_works_end_to_end(void)
{
	struct gw_uffd_source source;
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;
	bool used = true;
	uint64_t addr;
	int fd, i;

	NEEDS_ASYNC();
	REQUIRE(spawn(&v, "1", NULL));
	a = client(&err);
	REQUIRE(a);
	addr = ram_addr(a);
	source = gw_agent_uffd_source(a);
	for (i = 0; i < 50; i++) { /* released and wanted again, many times */
		CHECK_OK(source.get(source.arg, GW_UFFD_TRACK_ASYNC, &fd,
				    &used, &err), &err);
		CHECK(!used); /* a new one can be had here */
		check_tracks(&v, fd, used, addr);
		CHECK_OK(gw_agent_hello(a, &err), &err);
		CHECK(gw_agent_info(a)->held == 1u << GW_UFFD_TRACK_ASYNC);
		at_unregister(fd, addr, VICTIM_RAM);
		close(fd);
		source.release(source.arg, GW_UFFD_TRACK_ASYNC);
	}
	CHECK_OK(gw_agent_hello(a, &err), &err);
	CHECK(gw_agent_info(a)->held == 0);
	CHECK(gw_agent_release(a, GW_UFFD_TRACK_ASYNC, &err) == -ENOENT);
	gw_agent_close(a);
	reap(&v);
}

static void second_holder_is_refused_by_name(void)
{
	struct gw_agent *a, *b;
	struct gw_error err;
	struct victim v;
	char pid[20];
	int fd;

	REQUIRE(spawn(&v, "1", NULL));
	a = client(&err);
	b = client(&err);
	REQUIRE(a && b);
	CHECK_OK(gw_agent_uffd(a, 1, 3, &fd, NULL, NULL, &err), &err);
	close(fd);
	/* the same client may ask again */
	CHECK_OK(gw_agent_uffd(a, 1, 3, &fd, NULL, NULL, &err), &err);
	close(fd);
	CHECK(gw_agent_uffd(b, 1, 3, &fd, NULL, NULL, &err) == -EBUSY);
	snprintf(pid, sizeof(pid), "process %d ", (int)getpid());
	CHECK(strstr(err.msg, pid));
	CHECK(gw_agent_release(b, 1, &err) == -EBUSY);
	CHECK_OK(gw_agent_release(a, 1, &err), &err);
	CHECK_OK(gw_agent_uffd(b, 1, 3, &fd, NULL, NULL, &err), &err);
	close(fd);
	CHECK(gw_agent_uffd(a, 9, 3, &fd, NULL, NULL, &err) == -EINVAL);
	CHECK(gw_agent_uffd(a, 2, 0, &fd, NULL, NULL, &err) == -EINVAL);
	gw_agent_close(a);
	gw_agent_close(b);
	reap(&v);
}

/*
 * Another process takes a userfaultfd for @purpose, arms all RAM with
 * @features and is killed. Return: did it get that far?
 */
static bool killed_client(unsigned purpose, uint64_t features, uint64_t addr)
{
	struct pollfd p;
	int ready[2];
	pid_t pid;
	bool ok;

	if (pipe2(ready, O_CLOEXEC))
		return false;
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		struct gw_error err;
		struct gw_agent *a = client(&err);
		bool used;
		int fd;

		if (a && gw_agent_uffd(a, purpose, GW_UFFD_FULL, &fd, NULL,
				       &used, &err) == 0 &&
		    at_api(fd, used, features) == 0 &&
		    at_register(fd, addr, VICTIM_RAM) == 0 &&
		    at_protect(fd, addr, VICTIM_RAM, 1) == 0 &&
		    write(ready[1], "x", 1) == 1)
			pause();
		fprintf(stderr, "%s: killed_client: %s\n", test_name, err.msg);
		_exit(1);
	}
	close(ready[1]);
	p = (struct pollfd){ .fd = ready[0], .events = POLLIN };
	ok = poll(&p, 1, 5000) == 1 && (p.revents & POLLIN);
	close(ready[0]);
	poll(NULL, 0, 100); /* let a writer run into it */
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return ok;
}

/* The agent notices within five seconds that a client is gone. */
static bool wait_orphaned(struct gw_agent *a, unsigned purposes)
{
	struct gw_error err;
	int i;

	for (i = 0; i < 500; i++) {
		if (gw_agent_hello(a, &err))
			return false;
		if (gw_agent_info(a)->orphaned == purposes)
			return true;
		poll(NULL, 0, 10);
	}
	return false;
}

static void async_survives_its_client(void)
{
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;
	bool used = false;
	uint64_t addr;
	int fd;

	NEEDS_ASYNC();
	NEEDS_ROOT();
	REQUIRE(spawn(&v, "1", NULL));
	a = client(&err);
	REQUIRE(a);
	addr = ram_addr(a);
	CHECK(killed_client(GW_UFFD_TRACK_ASYNC, AT_ASYNC, addr));
	tell(&v, "w 77", 0); /* with nobody there */
	CHECK(wait_orphaned(a, 1u << GW_UFFD_TRACK_ASYNC));
	CHECK_OK(gw_agent_uffd(a, GW_UFFD_TRACK_ASYNC, 3, &fd, NULL, &used,
			       &err), &err);
	CHECK(used);
	/* tracked all the time: that write and no other */
	CHECK(at_scan(v.pid, addr, VICTIM_RAM) == 1);
	check_tracks(&v, fd, used, addr);
	close(fd);
	gw_agent_close(a);
	reap(&v);
}

/* The writer goes on counting within five seconds. */
static bool goes_on(struct victim *v)
{
	unsigned long first = ask_number(v, "c"), n = first;
	int i;

	for (i = 0; i < 50 && n < first + 3; i++) {
		poll(NULL, 0, 100);
		n = ask_number(v, "c");
	}
	return n >= first + 3;
}

static void sync_ends_with_its_client(void)
{
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;
	uint64_t addr;
	bool used;
	int i, fd;

	NEEDS_ROOT();
	REQUIRE(spawn(&v, "1", NULL));
	a = client(&err);
	REQUIRE(a);
	addr = ram_addr(a);
	tell(&v, "t 9", 0);
	for (i = 0; i < 3; i++) {
		CHECK(killed_client(GW_UFFD_TRACK_SYNC, AT_SYNC, addr));
		CHECK(goes_on(&v));
	}
	CHECK_OK(gw_agent_hello(a, &err), &err);
	CHECK(gw_agent_info(a)->held == 0);
	CHECK_OK(gw_agent_uffd(a, GW_UFFD_TRACK_SYNC, GW_UFFD_FULL, &fd, NULL,
			       &used, &err), &err);
	CHECK(!used);
	close(fd);
	gw_agent_close(a);
	reap(&v);
}

/* Without the privilege to make another: reuse, disarm by hand. */
static void dropped_privileges_leave_enough(void)
{
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;
	uint64_t addr;
	bool used;
	int i, fd;

	NEEDS_ROOT();
	NEEDS_ASYNC();
	REQUIRE(spawn(&v, "1", NULL));
	CHECK(!strcmp(tell(&v, "d 65534", 0), "d 65534"));
	a = client(&err);
	REQUIRE(a);
	CHECK(gw_agent_info(a)->euid == NOBODY);
	CHECK(gw_agent_info(a)->kinds == (GW_UFFD_FULL | GW_UFFD_USER_MODE));
	addr = ram_addr(a);
	tell(&v, "t 9", 0);
	for (i = 0; i < 3; i++) {
		CHECK(killed_client(GW_UFFD_TRACK_SYNC, AT_SYNC, addr));
		CHECK(goes_on(&v));
	}
	/* what page 9's thread does must not be counted below */
	reap(&v);
	gw_agent_close(a);

	REQUIRE(spawn(&v, "1", NULL));
	CHECK(!strcmp(tell(&v, "d 65534", 0), "d 65534"));
	a = client(&err);
	REQUIRE(a);
	addr = ram_addr(a);
	for (i = 0; i < 5; i++) {
		CHECK_OK(gw_agent_uffd(a, 1, 3, &fd, NULL, &used, &err), &err);
		check_tracks(&v, fd, used, addr);
		at_unregister(fd, addr, VICTIM_RAM);
		close(fd);
		CHECK_OK(gw_agent_release(a, 1, &err), &err);
	}
	gw_agent_close(a);
	reap(&v);
}

/* QEMU has no privileges from the start; the client brings the device. */
static void device_fd_of_the_client_is_used(void)
{
	char script[600];
	char *argv[] = { (char *)"/usr/bin/setpriv", (char *)"--reuid=65534",
			 (char *)"--regid=65534", (char *)"--clear-groups",
			 (char *)"/bin/sh", (char *)"-c", script, NULL };
	unsigned kind = 0;
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;
	bool used;
	int fd;

	NEEDS_ROOT();
	NEEDS_ASYNC();
	if (access(argv[0], X_OK) || access("/dev/userfaultfd", R_OK | W_OK))
		SKIP("no setpriv or no /dev/userfaultfd");
	CHECK(chmod(dir, 0777) == 0);
	unlink(sock); /* one that a VM without privileges had to leave */
	unsetenv("GODWIT_AGENT_ANYWHERE");
	unlink(log_path);
	snprintf(script, sizeof(script),
		 "GODWIT_AGENT_ANYWHERE=1 exec '%s' 1",
		 getenv("GW_TEST_VICTIM"));
	REQUIRE(spawn_argv(&v, argv, getenv("GW_TEST_AGENT")));
	a = client(&err);
	REQUIRE(a);
	CHECK(gw_agent_info(a)->euid == NOBODY);
	CHECK_OK(gw_agent_uffd(a, GW_UFFD_TRACK_SYNC, GW_UFFD_FULL, &fd,
			       &kind, &used, &err), &err);
	CHECK(kind == GW_UFFD_FULL);
	close(fd);
	CHECK_OK(gw_agent_uffd(a, GW_UFFD_TRACK_ASYNC, 3, &fd, &kind, &used,
			       &err), &err);
	check_tracks(&v, fd, used, ram_addr(a));
	close(fd);
	gw_agent_close(a);
	reap(&v);
	chmod(dir, 0700);
}

/* ---- fork ---- */

static void daemonized_vm_has_its_own(void)
{
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;
	bool used;
	int fd, i;

	NEEDS_ASYNC();
	for (i = 0; i < 5; i++) {
		REQUIRE(spawn(&v, "1", "-daemonize"));
		CHECK(v.pid != v.child);
		a = client(&err);
		REQUIRE(a);
		CHECK(gw_agent_info(a)->pid == v.pid);
		CHECK_OK(gw_agent_uffd(a, 1, 3, &fd, NULL, &used, &err), &err);
		check_tracks(&v, fd, used, ram_addr(a));
		close(fd);
		gw_agent_close(a);
		reap(&v);
	}
	CHECK(access(sock, F_OK) != 0);
}

/* Does @pid have a descriptor of the agent's? */
static bool keeps_something(pid_t pid)
{
	char link[64], target[128];
	int i;

	for (i = 3; i < 40; i++) {
		ssize_t n;

		snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)pid, i);
		n = readlink(link, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = '\0';
		if (strstr(target, "userfaultfd") || strstr(target, "socket:"))
			return true;
	}
	return false;
}

/* A forked helper answers nothing and keeps nothing open. */
static void helpers_do_not_keep_it(void)
{
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;
	char path[64];
	pid_t helper;
	int fd, i;

	REQUIRE(spawn(&v, "1", NULL));
	a = client(&err);
	REQUIRE(a);
	CHECK_OK(gw_agent_uffd(a, 1, 3, &fd, NULL, NULL, &err), &err);
	helper = (pid_t)ask_number(&v, "f");
	/* It closes them in its first steps, which may take a while to come. */
	for (i = 0; i < 500 && keeps_something(helper); i++)
		poll(NULL, 0, 10);
	CHECK(!keeps_something(helper));
	snprintf(path, sizeof(path), "/proc/%d/task", (int)helper);
	CHECK(access(path, F_OK) == 0);
	CHECK_OK(gw_agent_hello(a, &err), &err);
	CHECK(gw_agent_info(a)->pid == v.pid);
	kill(helper, SIGKILL);
	close(fd);
	gw_agent_close(a);
	reap(&v);
}

/* ---- what the agent must not fall over ---- */

static int raw_connect(void)
{
	struct sockaddr_un u = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(u.sun_path, sizeof(u.sun_path), "%s", sock);
	if (connect(fd, (struct sockaddr *)&u, sizeof(u)) == 0)
		return fd;
	close(fd);
	return -1;
}

/* Send @len bytes; return the status of the answer, -1: none. */
static int raw_ask(int fd, const void *p, size_t len)
{
	struct pollfd w = { .fd = fd, .events = POLLIN };
	struct gw_agent_ram_reply r;

	if (send(fd, p, len, MSG_NOSIGNAL) != (ssize_t)len ||
	    poll(&w, 1, 5000) != 1 ||
	    recv(fd, &r, sizeof(r), 0) < (ssize_t)sizeof(r.head))
		return -1;
	CHECK(r.head.magic == GW_AGENT_MAGIC);
	CHECK(r.head.version == GW_AGENT_VERSION);
	return r.head.status;
}

static void garbage_is_answered_no(void)
{
	struct gw_agent_request q = { .magic = GW_AGENT_MAGIC,
				      .version = GW_AGENT_VERSION,
				      .op = GW_AGENT_HELLO };
	uint64_t seed = test_seed();
	char big[60000] = "";
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;
	int fd, i;

	REQUIRE(spawn(&v, "1", NULL));
	a = client(&err);
	fd = raw_connect();
	REQUIRE(a && fd >= 0);
	CHECK(raw_ask(fd, &q, sizeof(q)) == 0);
	CHECK(raw_ask(fd, &q, sizeof(q) - 1) == EPROTO);
	CHECK(raw_ask(fd, &q, 1) == EPROTO);
	memcpy(big, &q, sizeof(q));
	CHECK(raw_ask(fd, big, sizeof(q) + 1) == EPROTO);
	CHECK(raw_ask(fd, big, sizeof(big)) == EPROTO);
	q.version = 0;
	CHECK(raw_ask(fd, &q, sizeof(q)) == EPROTONOSUPPORT);
	q.version = 99; /* hello: they agree on the lower */
	CHECK(raw_ask(fd, &q, sizeof(q)) == 0);
	q.op = GW_AGENT_UFFD;
	CHECK(raw_ask(fd, &q, sizeof(q)) == EPROTONOSUPPORT);
	q.version = GW_AGENT_VERSION;
	CHECK(raw_ask(fd, &q, sizeof(q)) == EINVAL);
	q.op = 1000;
	CHECK(raw_ask(fd, &q, sizeof(q)) == ENOSYS);
	q.magic ^= 1;
	CHECK(raw_ask(fd, &q, sizeof(q)) == EPROTO);
	for (i = 0; i < 500; i++) {
		uint64_t junk[4] = { test_rand(&seed), test_rand(&seed),
				     test_rand(&seed), test_rand(&seed) };

		CHECK(raw_ask(fd, junk, 1 + test_rand(&seed) % 32) > 0);
	}
	close(fd);
	for (i = 0; i < 50; i++) { /* asks, and goes away */
		fd = raw_connect();
		q.magic = GW_AGENT_MAGIC;
		q.op = GW_AGENT_RAM;
		send(fd, &q, sizeof(q), MSG_NOSIGNAL);
		close(fd);
	}
	CHECK_OK(gw_agent_hello(a, &err), &err);
	CHECK(!strcmp(tell(&v, "w 1", 0), "w 1"));
	gw_agent_close(a);
	reap(&v);
}

/* A client that never reads must not stop the others. */
static void reader_that_sleeps_is_dropped(void)
{
	struct gw_agent_request q = { .magic = GW_AGENT_MAGIC,
				      .version = GW_AGENT_VERSION,
				      .op = GW_AGENT_RAM };
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;
	int fd, i;

	REQUIRE(spawn(&v, "16", NULL));
	a = client(&err);
	fd = raw_connect();
	REQUIRE(a && fd >= 0);
	for (i = 0; i < 5000; i++) {
		if (send(fd, &q, sizeof(q), MSG_NOSIGNAL | MSG_DONTWAIT) < 0 &&
		    errno != EAGAIN)
			break;
		if (i % 100 == 0) {
			CHECK_OK(gw_agent_hello(a, &err), &err);
			poll(NULL, 0, 10); /* for the agent to answer some */
		}
	}
	CHECK(i < 5000);
	close(fd);
	gw_agent_close(a);
	reap(&v);
}

/* Passed descriptors are not piled up in QEMU. */
static int count_fds(pid_t pid)
{
	char path[64];
	int i, n = 0;

	for (i = 0; i < 256; i++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, i);
		n += readlink(path, (char[64]){ 0 }, 64) >= 0;
	}
	return n;
}

static void sent_descriptors_are_closed(void)
{
	struct gw_agent_request q = { .magic = GW_AGENT_MAGIC,
				      .version = GW_AGENT_VERSION,
				      .op = GW_AGENT_HELLO };
	union {
		char buf[CMSG_SPACE(20 * sizeof(int))];
		struct cmsghdr h;
	} c = { .buf = "" };
	struct iovec io = { .iov_base = &q, .iov_len = sizeof(q) };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1,
			    .msg_control = &c, .msg_controllen = sizeof(c) };
	struct victim v;
	int fd, i, n, before, fds[20];

	REQUIRE(spawn(&v, "1", NULL));
	fd = raw_connect();
	REQUIRE(fd >= 0);
	CHECK(raw_ask(fd, &q, sizeof(q)) == 0);
	before = count_fds(v.pid);
	for (n = 0; n < 20; n++)
		fds[n] = 0;
	c.h.cmsg_level = SOL_SOCKET;
	c.h.cmsg_type = SCM_RIGHTS;
	c.h.cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(&c.h), fds, sizeof(fds));
	for (i = 0; i < 20; i++) {
		CHECK(sendmsg(fd, &m, MSG_NOSIGNAL) == sizeof(q));
		recv(fd, (char[200]){ 0 }, 200, 0);
	}
	CHECK(raw_ask(fd, &q, sizeof(q)) == 0);
	CHECK(count_fds(v.pid) == before);
	close(fd);
	reap(&v);
}

static void too_many_connections_cost_the_idle(void)
{
	struct gw_agent *a, *b;
	int fd[40], i, uffd;
	struct gw_error err;
	struct victim v;

	REQUIRE(spawn(&v, "1", NULL));
	a = client(&err); /* holds: is never given up */
	b = client(&err); /* idle: is, and finds its way back */
	REQUIRE(a && b);
	CHECK_OK(gw_agent_uffd(a, 1, 3, &uffd, NULL, NULL, &err), &err);
	close(uffd);
	for (i = 0; i < 40; i++) {
		struct gw_agent_request q = { .magic = GW_AGENT_MAGIC,
					      .version = GW_AGENT_VERSION,
					      .op = GW_AGENT_HELLO };

		fd[i] = raw_connect();
		CHECK(fd[i] >= 0);
		CHECK(raw_ask(fd[i], &q, sizeof(q)) == 0);
	}
	CHECK_OK(gw_agent_release(a, 1, &err), &err);
	CHECK_OK(gw_agent_hello(b, &err), &err);
	CHECK(gw_agent_info(b)->held == 0);
	for (i = 0; i < 40; i++)
		close(fd[i]);
	gw_agent_close(a);
	gw_agent_close(b);
	reap(&v);
}

static void wrong_user_is_refused(void)
{
	struct gw_agent *a;
	struct gw_error err;
	struct victim v;
	int status;
	pid_t pid;

	NEEDS_ROOT();
	REQUIRE(spawn(&v, "1", NULL));
	/* let everybody through the file system, so the agent has to judge */
	CHECK(chmod(dir, 0777) == 0 && chmod(sock, 0666) == 0);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		if (setgid(NOBODY) || setuid(NOBODY))
			_exit(2);
		if (gw_agent_open(sock, 2000, NULL, &a, &err) != -EACCES ||
		    err.fault != GW_FAULT_REFUSED ||
		    !strstr(err.msg, "refuses uid 65534"))
			_exit(3);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	chmod(dir, 0700);
	/* once QEMU itself runs as that user, it may */
	tell(&v, "d 65534", 0);
	chmod(dir, 0777);
	pid = fork();
	if (pid == 0) {
		if (setgid(NOBODY) || setuid(NOBODY))
			_exit(2);
		_exit(gw_agent_open(sock, 2000, NULL, &a, &err) ? 3 : 0);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	chmod(dir, 0700);
	reap(&v);
}

int main(void)
{
	if (!getenv("GW_TEST_AGENT") || !getenv("GW_TEST_VICTIM")) {
		printf("SKIP: run by meson test (GW_TEST_AGENT not set)\n");
		return 77;
	}
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1); /* of what daemonizes */
	snprintf(dir, sizeof(dir), "/tmp/gw-agent-test.XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	snprintf(sock, sizeof(sock), "%s/agent", dir);
	snprintf(log_path, sizeof(log_path), "%s/log", dir);

	RUN(hello_tells_who_it_is);
	RUN(socket_mode_does_not_depend_on_umask);
	RUN(environment_is_cleaned_in_the_vm);
	RUN(other_programs_are_left_alone);
	RUN(small_namesakes_are_left_alone);
	RUN(wrappers_pass_it_on);
	RUN(failure_is_one_line_and_the_vm_runs);
	RUN(stale_socket_is_replaced_a_live_one_is_not);
	RUN(client_errors_name_socket_and_remedy);
	RUN(ram_lists_files_with_their_descriptors);
	RUN(tracking_works_end_to_end);
	RUN(second_holder_is_refused_by_name);
	RUN(async_survives_its_client);
	RUN(sync_ends_with_its_client);
	RUN(dropped_privileges_leave_enough);
	RUN(device_fd_of_the_client_is_used);
	RUN(daemonized_vm_has_its_own);
	RUN(helpers_do_not_keep_it);
	RUN(garbage_is_answered_no);
	RUN(reader_that_sleeps_is_dropped);
	RUN(sent_descriptors_are_closed);
	RUN(too_many_connections_cost_the_idle);
	RUN(wrong_user_is_refused);

	unlink(sock);
	unlink(log_path);
	rmdir(dir);
	return test_done();
}
