/* SPDX-License-Identifier: BSD-3-Clause */
/* launch.c - see launch.h. */
#include "vm/qemu/launch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scope.h"
#include "base/units.h"
#include "vm/qemu/memory.h"
#include "vm/qemu/qmp.h"

#ifndef GW_AGENT_PATH
#define GW_AGENT_PATH "/usr/local/lib/godwit/godwit-agent.so"
#endif

#ifndef SYS_close_range /* Linux 5.9; the same number on every machine */
#define SYS_close_range 436
#endif

#define PROBE_TIMEOUT_MS 20000
#define FIRST_MEMFD	 128 /* wrapper scripts use small numbers */

extern char **environ;

/* --- what is this binary? ------------------------------------------------- */

struct child {
	pid_t pid;
	int qmp_fd;    /* our end of its stdin and stdout */
	int stderr_fd; /* a memfd: what it had to say */
};

static int spawn(const char *program, int stdio, int log, pid_t *pid)
{
	char *const argv[] = { (char *)(uintptr_t)program,
			       (char[]){ "-machine" },
			       (char[]){ "none,accel=tcg:kvm" },
			       (char[]){ "-S" },
			       (char[]){ "-no-user-config" },
			       (char[]){ "-nodefaults" },
			       (char[]){ "-display" },
			       (char[]){ "none" },
			       (char[]){ "-qmp" },
			       (char[]){ "stdio" },
			       NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	int r;

	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, stdio, 0);
	posix_spawn_file_actions_adddup2(&files, stdio, 1);
	posix_spawn_file_actions_adddup2(&files, log, 2);
	/* a group of its own: a wrapper script's children end with it */
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP);
	r = posix_spawnp(pid, program, &files, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return -r;
}

static int start_child(const char *program, struct child *c,
		       struct gw_error *err)
{
	gw_autoclose int theirs = -1;
	int pair[2], r;

	c->stderr_fd = memfd_create("godwit-probe", MFD_CLOEXEC);
	if (c->stderr_fd < 0)
		return gw_fail_errno(err, errno, "memfd_create");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		close(c->stderr_fd);
		return gw_fail_errno(err, errno, "socketpair");
	}
	c->qmp_fd = pair[0];
	theirs = pair[1];
	r = spawn(program, theirs, c->stderr_fd, &c->pid);
	if (!r)
		return 0;
	close(c->qmp_fd);
	close(c->stderr_fd);
	return gw_fail_errno(err, -r, "cannot run '%s'", program);
}

/* It was asked to quit, or is of no use: wait a moment, then end it. */
static void end_child(struct child *c)
{
	int64_t deadline = gw_deadline_ms(1000);
	struct timespec pause = { .tv_nsec = 2 * 1000 * 1000 };

	while (waitpid(c->pid, NULL, WNOHANG) == 0) {
		if (gw_deadline_left_ms(deadline) == 0) {
			kill(-c->pid, SIGKILL);
			waitpid(c->pid, NULL, 0);
			break;
		}
		nanosleep(&pause, NULL);
	}
	close(c->stderr_fd);
}

/* The first line it wrote to its standard error, "" if none. */
static void first_complaint(const struct child *c, char *buf, size_t size)
{
	ssize_t n = pread(c->stderr_fd, buf, size - 1, 0);

	buf[n > 0 ? n : 0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
}

static void text(const json_t *j, const char *key, char *to, size_t size)
{
	const char *s = json_string_value(json_object_get(j, key));

	snprintf(to, size, "%s", s ? s : "");
}

static int read_machines(struct gw_qemu_probe *p, const json_t *list,
			 struct gw_error *err)
{
	const json_t *j;
	size_t i;

	p->machine = calloc(json_array_size(list) + 1, sizeof(*p->machine));
	if (!p->machine)
		return gw_fail(err, ENOMEM, "no memory for machine types");
	json_array_foreach(list, i, j) {
		struct gw_qemu_machine *m = &p->machine[p->nmachines++];

		text(j, "name", m->name, sizeof(m->name));
		text(j, "alias", m->alias, sizeof(m->alias));
		text(j, "default-ram-id", m->ram_id, sizeof(m->ram_id));
		m->is_default = json_is_true(json_object_get(j, "is-default"));
		m->deprecated = json_is_true(json_object_get(j, "deprecated"));
		if (!strcmp(m->name, "none"))
			m->ram_id[0] = '\0'; /* it has an id, but no RAM */
	}
	return 0;
}

static int ask(struct gw_qmp *q, int timeout_ms, struct gw_qemu_probe *p,
	       struct gw_error *err)
{
	const struct gw_qmp_version *v = gw_qmp_version(q);
	json_t *j;
	int r;

	p->major = v->major;
	p->minor = v->minor;
	p->micro = v->micro;
	snprintf(p->package, sizeof(p->package), "%s", v->package);
	j = gw_qmp_cmd(q, timeout_ms, err, "query-target", NULL);
	if (!j)
		return -EPROTO;
	text(j, "arch", p->arch, sizeof(p->arch));
	json_decref(j);
	j = gw_qmp_cmd(q, timeout_ms, err, "query-machines", NULL);
	if (!j)
		return -EPROTO;
	r = read_machines(p, j, err);
	json_decref(j);
	return r ? r : gw_qmp_do(q, timeout_ms, err, "quit", NULL);
}

int gw_launch_probe(const char *program, int timeout_ms,
		    struct gw_qemu_probe *p, struct gw_error *err)
{
	char complaint[300];
	struct child c;
	struct gw_qmp *q;
	int r;

	memset(p, 0, sizeof(*p));
	r = start_child(program, &c, err);
	if (r)
		return r;
	q = gw_qmp_open_fd(c.qmp_fd, "(probe)", timeout_ms, NULL, err);
	r = q ? ask(q, timeout_ms, p, err) : -ENOEXEC;
	gw_qmp_close(q);
	if (r)
		kill(-c.pid, SIGKILL);
	first_complaint(&c, complaint, sizeof(complaint));
	end_child(&c);
	if (!r)
		return 0;
	gw_qemu_probe_fini(p);
	return gw_fail_as(err, GW_FAULT_USAGE, -r,
			  "'%s' does not answer as QEMU does%s%s (the first word after -- is QEMU's own program; put others, such as taskset, before godwit)",
			  program, *complaint ? ": " : "", complaint);
}

/* --- the agent ------------------------------------------------------------ */

int gw_launch_find_agent(char path[PATH_MAX], struct gw_error *err)
{
	static const char *const beside[] = { "godwit-agent.so",
					      "agent/godwit-agent.so",
					      "../agent/godwit-agent.so" };
	char self[PATH_MAX], try[PATH_MAX + 32];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	for (size_t i = 0; slash && i < sizeof(beside) / sizeof(*beside);
	     i++) {
		snprintf(try, sizeof(try), "%.*s/%s", (int)(slash - self),
			 self, beside[i]);
		if (!access(try, R_OK) && realpath(try, path))
			return 0;
	}
	snprintf(path, PATH_MAX, "%s", GW_AGENT_PATH);
	if (!access(path, R_OK))
		return 0;
	return gw_fail(err, ENOENT,
		       "godwit-agent.so is neither beside %s nor at %s: install godwit, or build it with its agent",
		       *self ? self : "this program", path);
}

/* --- preparing ------------------------------------------------------------ */

/* Descriptors from here on are not in use. */
static int first_free_fd(void)
{
	DIR *d = opendir("/proc/self/fd");
	int max = FIRST_MEMFD - 1;
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (atoi(e->d_name) > max)
			max = atoi(e->d_name);
	if (d)
		closedir(d);
	return max + 1;
}

/* (Why not is what asking for them by name says.) */
static enum gw_hugepages possible_pages(enum gw_hugepages wanted)
{
	return wanted != GW_HUGEPAGES_AUTO || gw_memory_can_be_transparent() ?
		       wanted :
		       GW_HUGEPAGES_NONE;
}

int gw_launch_prepare(struct gw_launch *l, const struct gw_launch_request *req,
		      struct gw_error *err)
{
	struct gw_cmdline_request cr = {
		.incoming = req->incoming,
		.hugepages = possible_pages(req->hugepages),
		.free_page_agent = req->free_page_agent,
		.memory = req->memory,
		.agent = req->agent,
		.agent_path = l->agent_path,
		.preload = getenv("LD_PRELOAD"),
		.first_fd = first_free_fd(),
		.probe = &l->probe,
		.dir = l->path.dir,
	};
	int r;

	memset(l, 0, sizeof(*l));
	l->req = req;
	r = gw_rundir_paths(req->name, &l->path, err);
	if (!r)
		r = gw_launch_find_agent(l->agent_path, err);
	if (!r)
		r = gw_launch_probe(req->argv[0], PROBE_TIMEOUT_MS, &l->probe,
				    err);
	if (!r)
		r = gw_cmdline_rewrite(req->argv, &cr, &l->cmdline, err);
	return r;
}

void gw_launch_fini(struct gw_launch *l)
{
	gw_cmdline_fini(&l->cmdline);
	gw_qemu_probe_fini(&l->probe);
}

/* --- exec ----------------------------------------------------------------- */

static int write_monitors(const struct gw_launch *l, struct gw_error *err)
{
	char path[GW_SUN_PATH_SIZE + 16];
	FILE *f;

	snprintf(path, sizeof(path), "%s/monitors.cfg", l->path.dir);
	f = fopen(path, "we");
	if (!f || fputs(l->cmdline.monitors, f) < 0 || fclose(f))
		return gw_fail_errno(err, errno, "%s", path);
	return 0;
}

/* PATH's entry of @program, or @program itself. */
static void find_binary(const char *program, char *to, size_t size)
{
	const char *path = getenv("PATH");

	snprintf(to, size, "%s", program);
	while (!strchr(program, '/') && path && *path) {
		size_t n = strcspn(path, ":");

		snprintf(to, size, "%.*s/%s", (int)n, path, program);
		if (!access(to, X_OK))
			return;
		path += n + (path[n] == ':');
	}
}

static int describe(const struct gw_launch *l, const struct gw_rundir_claim *c,
		    struct gw_error *err)
{
	const struct gw_cmdline *cl = &l->cmdline;
	const struct gw_qemu_probe *p = &l->probe;
	gw_autofree struct gw_rundir_vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return gw_fail(err, ENOMEM, "no memory");
	snprintf(vm->name, sizeof(vm->name), "%s", l->req->name);
	vm->created = time(NULL);
	vm->pid = getpid();
	find_binary(cl->argv[0], vm->binary, sizeof(vm->binary));
	vm->argv = json_array();
	for (int i = 0; i < cl->argc; i++)
		json_array_append_new(vm->argv, json_string(cl->argv[i]));
	snprintf(vm->machine, sizeof(vm->machine), "%s", cl->machine);
	snprintf(vm->qemu, sizeof(vm->qemu), "%d.%d.%d", p->major, p->minor,
		 p->micro);
	vm->command = json_array();
	for (int i = 0; l->req->argv[i]; i++)
		json_array_append_new(vm->command,
				      json_string(l->req->argv[i]));
	if (!getcwd(vm->cwd, sizeof(vm->cwd)))
		vm->cwd[0] = '\0';
	strcpy(vm->hugepages, gw_hugepages_kinds[l->req->hugepages].name);
	vm->free_page_agent = l->req->free_page_agent;
	vm->memory_option = l->req->memory;
	strcpy(vm->agent, l->req->agent == GW_AGENT_PLUGIN ? "plugin" :
							     "preload");
	vm->memory = cl->memory;
	vm->incoming = cl->incoming;
	for (int i = 0; i < cl->nblocks; i++) {
		strcpy(vm->block[i].id, cl->block[i].id);
		vm->block[i].size = cl->block[i].size;
	}
	vm->nblocks = cl->nblocks;
	r = gw_rundir_write_vm(c, vm, err);
	gw_rundir_vm_fini(vm);
	return r;
}

static int set_environment(const struct gw_launch *l, struct gw_error *err)
{
	for (int i = 0; i < 2; i++)
		if (l->cmdline.env[i] && putenv(l->cmdline.env[i]))
			return gw_fail_errno(err, errno, "environment");
	return 0;
}

/* putenv() does not copy: take our strings out again. */
static void reset_environment(const char *preload)
{
	unsetenv("GODWIT_AGENT");
	if (preload)
		setenv("LD_PRELOAD", preload, 1);
	else
		unsetenv("LD_PRELOAD");
}

int gw_launch_exec(struct gw_launch *l, struct gw_error *err)
{
	const char *env = getenv("LD_PRELOAD");
	gw_autofree char *preload = env ? strdup(env) : NULL;
	struct gw_rundir_claim claim;
	int r = l->req->again ? gw_rundir_reclaim(l->req->name, &claim, err) :
				gw_rundir_claim(l->req->name, &claim, err);

	if (r)
		return r;
	r = gw_memory_make(&l->cmdline, err);
	if (!r)
		r = write_monitors(l, err);
	if (!r)
		r = describe(l, &claim, err);
	if (!r)
		r = gw_rundir_inherit(&claim, err);
	if (!r)
		r = set_environment(l, err);
	if (!r) {
		execvp(l->cmdline.argv[0], l->cmdline.argv);
		r = gw_fail_errno(err, errno, "cannot run '%s'",
				  l->cmdline.argv[0]);
	}
	reset_environment(preload);
	gw_rundir_release(&claim);
	return r;
}

/* --- once more ------------------------------------------------------------ */

#define REPORT_FD 3

static char **copy_command(const json_t *command)
{
	size_t n = json_array_size(command);
	char **argv = calloc(n + 1, sizeof(*argv));

	for (size_t i = 0; argv && i < n; i++)
		argv[i] = (char *)(uintptr_t)json_string_value(
			json_array_get(command, i));
	return argv;
}

static int exec_again(const struct gw_rundir_vm *vm, struct gw_error *err)
{
	gw_autofree char **argv = copy_command(vm->command);
	struct gw_launch_request req = {
		.name = vm->name,
		.argv = argv,
		.incoming = true,
		.hugepages = gw_hugepages_find(vm->hugepages),
		.free_page_agent = vm->free_page_agent,
		.memory = vm->memory_option,
		.agent = strcmp(vm->agent, "plugin") ? GW_AGENT_PRELOAD :
						       GW_AGENT_PLUGIN,
		.again = true,
	};
	gw_autofree struct gw_launch *l = calloc(1, sizeof(*l));
	int r;

	if (!argv || !l)
		return gw_fail(err, ENOMEM, "no memory");
	if (vm->cwd[0] && chdir(vm->cwd))
		return gw_fail_errno(err, errno, "chdir %s", vm->cwd);
	r = gw_launch_prepare(l, &req, err);
	if (!r)
		r = gw_launch_exec(l, err);
	gw_launch_fini(l);
	return r;
}

/* Nothing of the process it comes from but stderr; @report goes with exec. */
static bool leave_behind(int report)
{
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	return null >= 0 && dup2(null, 0) == 0 && dup2(null, 1) == 1 &&
	       (report == REPORT_FD || dup2(report, REPORT_FD) == REPORT_FD) &&
	       fcntl(REPORT_FD, F_SETFD, FD_CLOEXEC) == 0 &&
	       syscall(SYS_close_range, REPORT_FD + 1u, ~0u, 0u) == 0;
}

static _Noreturn void run_again(const struct gw_rundir_vm *vm, int report)
{
	struct gw_error err = { 0 };

	if (!leave_behind(report))
		_exit(1);
	exec_again(vm, &err);
	if (write(REPORT_FD, &err, sizeof(err)) < 0)
		_exit(2);
	_exit(1);
}

/* What the child had to say; nothing: it was exec'd. */
static int read_report(int fd, struct gw_error *err)
{
	struct gw_error why = { 0 };
	ssize_t n;

	do
		n = read(fd, &why, sizeof(why));
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return 0;
	if (n != sizeof(why))
		return gw_fail(err, EIO, "QEMU could not be started again");
	if (err)
		*err = why;
	return -why.code;
}

int gw_launch_again(const struct gw_rundir_vm *vm, struct gw_error *err)
{
	gw_autoclose int report = -1;
	int end[2];
	pid_t pid;

	if (!json_array_size(vm->command))
		return gw_fail(err, ENOTSUP,
			       "how '%s' was started is not on record (by an older godwit?): start it by hand, godwit run %s --incoming -- ...",
			       vm->name, vm->name);
	if (pipe2(end, O_CLOEXEC))
		return gw_fail_errno(err, errno, "pipe");
	report = end[0];
	pid = fork();
	if (pid == 0) {
		if (fork() == 0)
			run_again(vm, end[1]);
		_exit(0);
	}
	close(end[1]);
	if (pid < 0)
		return gw_fail_errno(err, errno, "fork");
	waitpid(pid, NULL, 0);
	return read_report(report, err);
}
