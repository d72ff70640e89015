/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rundir_test.c - claiming names (races included), finding and removing what
 * ended VMs left, notes, and VM arguments. Runs in a folder of its own.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm/qemu/rundir.h"

static char base[64];
static struct gw_error err;

static void use_base(const char *dir)
{
	memset(&err, 0, sizeof(err));
	setenv("GODWIT_RUNTIME_DIR", dir, 1);
}

static const char *in(const char *path)
{
	static char buf[2][300];
	static int i;

	i = !i;
	snprintf(buf[i], sizeof(buf[i]), "%s/%s", base, path);
	return buf[i];
}

static bool exists(const char *path)
{
	return access(in(path), F_OK) == 0;
}

static void touch(const char *path)
{
	close(open(in(path), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

static struct gw_rundir_vm *example(const char *name)
{
	struct gw_rundir_vm *vm = calloc(1, sizeof(*vm));

	snprintf(vm->name, sizeof(vm->name), "%s", name);
	vm->created = 1700000000;
	vm->pid = 4711;
	strcpy(vm->binary, "/usr/bin/qemu");
	strcpy(vm->machine, "pc-q35-10.0");
	strcpy(vm->qemu, "10.0.2");
	strcpy(vm->agent, "preload");
	vm->argv = json_pack("[s,s]", "qemu", "-m \"1\"");
	vm->command = json_pack("[s,s,s]", "qemu", "-m", "1");
	strcpy(vm->cwd, "/home/x");
	strcpy(vm->hugepages, "transparent");
	vm->memory_option = 5;
	vm->memory = 1ULL << 40;
	vm->nblocks = 2;
	strcpy(vm->block[0].id, "pc.ram");
	vm->block[0].size = 1ULL << 40;
	strcpy(vm->block[1].id, "d0");
	vm->incoming = true;
	return vm;
}

static int write_example(const struct gw_rundir_claim *c, const char *name)
{
	struct gw_rundir_vm *vm = example(name);
	int r = gw_rundir_write_vm(c, vm, &err);

	gw_rundir_vm_fini(vm);
	free(vm);
	return r;
}

static void names(void)
{
	static const char *const ok[] = { "a", "vm-1", "A_b.c", "0",
		"123456789012345678901234567890123456789012345678" };
	static const char *const bad[] = { "", ".a", "-a", "a/b", "a b", "ä",
		"..", "1234567890123456789012345678901234567890123456789",
		"a\nb", "a=b" };

	for (size_t i = 0; i < sizeof(ok) / sizeof(*ok); i++)
		CHECK_OK(gw_rundir_check_name(ok[i], &err), &err);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		CHECK(gw_rundir_check_name(bad[i], &err) == -EINVAL);
		CHECK(err.fault == GW_FAULT_USAGE);
	}
}

static void where_the_base_is(void)
{
	char b[PATH_MAX], sub[100], cwd[PATH_MAX];

	unsetenv("GODWIT_RUNTIME_DIR");
	setenv("XDG_RUNTIME_DIR", base, 1);
	CHECK(gw_rundir_base(b, false, &err) == -ENOENT);
	CHECK_OK(gw_rundir_base(b, true, &err), &err);
	CHECK(!strcmp(b, in("godwit")));
	CHECK(rmdir(b) == 0);
	unsetenv("XDG_RUNTIME_DIR");

	snprintf(sub, sizeof(sub), "%s/open//", base);
	use_base(sub);
	CHECK_OK(gw_rundir_base(b, true, &err), &err);
	CHECK(!strcmp(b, in("open")));
	CHECK(chmod(b, 0750) == 0);
	CHECK(gw_rundir_base(b, true, &err) == -EPERM);
	CHECK(strstr(err.msg, "chmod 700"));
	CHECK(chmod(b, 0700) == 0);
	if (geteuid() == 0) {
		CHECK(chown(b, 1, 0) == 0);
		CHECK(gw_rundir_base(b, true, &err) == -EPERM);
		CHECK(strstr(err.msg, "belongs to user 1"));
	}
	CHECK(rmdir(b) == 0);
	touch("file");
	use_base(in("file"));
	CHECK(gw_rundir_base(b, true, &err) == -ENOTDIR);
	use_base(in("no/where"));
	CHECK(gw_rundir_base(b, true, &err) == -ENOENT);
	CHECK(strstr(err.msg, "GODWIT_RUNTIME_DIR"));
	unlink(in("file"));

	use_base("relative");
	CHECK(getcwd(cwd, sizeof(cwd)) && chdir(base) == 0);
	CHECK_OK(gw_rundir_base(b, true, &err), &err);
	CHECK(!strcmp(b, in("relative")) && rmdir(b) == 0);
	CHECK(chdir(cwd) == 0);
	use_base(base);
}

static void socket_paths_have_a_limit(void)
{
	char longer[120] = "/";
	struct gw_rundir_paths p;

	memset(longer + 1, 'a', 91);
	longer[92] = '\0';
	use_base(longer); /* 92 + "/" + "x" + "/standby.sock" = 107 */
	CHECK_OK(gw_rundir_paths("x", &p, &err), &err);
	CHECK(strlen(p.dir) + strlen("/standby.sock") == GW_SUN_PATH_SIZE - 1);
	CHECK(gw_rundir_paths("xy", &p, &err) == -ENAMETOOLONG);
	CHECK(strstr(err.msg, "shorter") && err.fault == GW_FAULT_USAGE);
	use_base(base);
}

static void claim_write_open_release(void)
{
	struct gw_rundir_claim c, c2;
	struct gw_rundir_vm *vm = calloc(1, sizeof(*vm)), *all;
	struct stat st;

	CHECK_OK(gw_rundir_claim("one", &c, &err), &err);
	CHECK(!stat(in("one"), &st) && (st.st_mode & 0777) == 0700);
	CHECK(gw_rundir_alive(c.path.dir));
	/* being started: neither listed nor removed */
	CHECK(gw_rundir_list(&all, &err) == 0);
	gw_rundir_free(all, 0);
	CHECK(exists("one/lock"));
	CHECK(gw_rundir_claim("one", &c2, &err) == -EEXIST);
	CHECK(strstr(err.msg, "'one' is already running"));

	CHECK_OK(write_example(&c, "one"), &err);
	CHECK_OK(gw_rundir_open("one", vm, &err), &err);
	CHECK(vm->created == 1700000000 && vm->pid == 4711);
	CHECK(!strcmp(vm->binary, "/usr/bin/qemu"));
	CHECK(!strcmp(vm->version, GW_VERSION));
	CHECK(vm->memory == 1ULL << 40 && vm->incoming && vm->nblocks == 2);
	CHECK(!strcmp(vm->block[0].id, "pc.ram"));
	CHECK(vm->block[0].size == 1ULL << 40 && vm->block[1].size == 0);
	CHECK(json_array_size(vm->argv) == 2);
	CHECK(json_array_size(vm->command) == 3);
	CHECK(!strcmp(vm->cwd, "/home/x") && vm->memory_option == 5);
	CHECK(!strcmp(vm->hugepages, "transparent") && !vm->free_page_agent);
	CHECK(!strcmp(vm->path.qmp, in("one/qmp.sock")));
	CHECK(!strcmp(vm->path.status, in("one/status.sock")));
	CHECK(!strcmp(vm->path.agent, in("one/agent.sock")));
	gw_rundir_vm_fini(vm);
	CHECK(gw_rundir_open("two", vm, &err) == -ENOENT);
	CHECK(strstr(err.msg, "no VM named 'two'"));
	CHECK(strstr(err.msg, "there are: one"));

	gw_rundir_release(&c);
	gw_rundir_release(&c);
	CHECK(!exists("one"));
	CHECK(gw_rundir_open("one", vm, &err) == -ENOENT);
	CHECK(strstr(err.msg, "'godwit run' starts one"));
	free(vm);
}

/* A VM is a process that inherited the lock; here a sleeping child. */
static pid_t start_vm(const char *name)
{
	struct gw_rundir_claim c;
	int ready[2];
	pid_t pid;
	char x;

	if (pipe(ready))
		abort();
	pid = fork();
	if (pid == 0) {
		if (gw_rundir_claim(name, &c, &err) ||
		    write_example(&c, name) || gw_rundir_inherit(&c, &err))
			_exit(1);
		if (fork() == 0) { /* as -daemonize does it */
			if (write(ready[1], "x", 1) == 1)
				execlp("sleep", "sleep", "100", (char *)NULL);
			_exit(1);
		}
		_exit(0);
	}
	close(ready[1]);
	waitpid(pid, NULL, 0);
	if (read(ready[0], &x, 1) != 1)
		abort();
	close(ready[0]);
	return pid;
}

/* The grandchild's pid, from whoever has the lock file open. */
static void end_vm(const char *name)
{
	char cmd[400];

	snprintf(cmd, sizeof(cmd),
		 "for p in /proc/[0-9]*; do for f in $p/fd/*; do "
		 "[ \"$(readlink $f)\" = %s/lock ] && kill ${p#/proc/} && break; "
		 "done; done 2>/dev/null",
		 in(name));
	if (system(cmd) < 0)
		abort();
	for (int i = 0; i < 500 && gw_rundir_alive(in(name)); i++)
		usleep(10000);
}

static void the_lock_lives_with_the_process(void)
{
	struct gw_rundir_vm *vms;
	struct gw_rundir_claim c;
	int n;

	start_vm("b");
	start_vm("a");
	n = gw_rundir_list(&vms, &err);
	CHECK(n == 2);
	if (n == 2)
		CHECK(!strcmp(vms[0].name, "a") && !strcmp(vms[1].name, "b"));
	gw_rundir_free(vms, n);
	CHECK(gw_rundir_claim("a", &c, &err) == -EEXIST);

	touch("a/qmp.sock");
	touch("a/handover.json");
	touch("a/vm.json.123.tmp");
	end_vm("a");
	CHECK(exists("a/vm.json"));
	n = gw_rundir_list(&vms, &err);
	CHECK(n == 1);
	gw_rundir_free(vms, n);
	CHECK(!exists("a"));

	end_vm("b"); /* and the name can be had at once */
	CHECK_OK(gw_rundir_claim("b", &c, &err), &err);
	CHECK(!exists("b/vm.json"));
	gw_rundir_release(&c);
}

static void folders_of_others_are_not_touched(void)
{
	struct gw_rundir_vm *vms;
	struct gw_rundir_claim c;

	CHECK(mkdir(in("docs"), 0700) == 0 && mkdir(in("empty"), 0700) == 0);
	touch("docs/thesis.tex");
	touch("docs/vm.json");
	CHECK(gw_rundir_list(&vms, &err) == 0);
	gw_rundir_free(vms, 0);
	CHECK(exists("docs/thesis.tex") && exists("docs/vm.json"));
	CHECK(!exists("empty")); /* made by a claim that got no further */
	/* not even when it is claimed and released */
	CHECK_OK(gw_rundir_claim("docs", &c, &err), &err);
	gw_rundir_release(&c);
	CHECK(exists("docs/thesis.tex") && !exists("docs/lock"));
	unlink(in("docs/thesis.tex"));
	rmdir(in("docs"));
}

static void who_moves_keeps_the_folder(void)
{
	struct gw_rundir_vm *vms;
	struct gw_rundir_claim c;
	char want[100];
	int fd;

	start_vm("m");
	fd = gw_rundir_move_lock(in("m"), "m", &err);
	CHECK_OK(fd, &err);
	CHECK(gw_rundir_move_lock(in("m"), "m", &err) == -EBUSY);
	snprintf(want, sizeof(want),
		 "VM 'm' is being moved by another godwit, pid %d", getpid());
	CHECK(!strcmp(err.msg, want));
	end_vm("m");
	CHECK(gw_rundir_list(&vms, &err) == 0);
	gw_rundir_free(vms, 0);
	CHECK(exists("m/vm.json"));
	CHECK(gw_rundir_claim("m", &c, &err) == -EEXIST);
	CHECK(strstr(err.msg, "still works on it"));
	close(fd);
	CHECK(gw_rundir_list(&vms, &err) == 0);
	gw_rundir_free(vms, 0);
	CHECK(!exists("m"));
	CHECK(gw_rundir_move_lock(in("m"), "m", &err) == -ENOENT);
}

/* Whoever works on it may start it again; what is its own stays. */
static void a_mover_claims_it_again(void)
{
	struct gw_rundir_vm *vm = calloc(1, sizeof(*vm));
	struct gw_rundir_claim c;
	int fd;

	start_vm("again");
	fd = gw_rundir_move_lock(in("again"), "again", &err);
	CHECK_OK(fd, &err);
	CHECK(gw_rundir_reclaim("again", &c, &err) == -EEXIST); /* it lives */
	touch("again/standby.sock");
	touch("again/qmp.sock");
	touch("again/handover.json");
	end_vm("again");
	CHECK(gw_rundir_open("again", vm, &err) == -ENOENT);
	CHECK_OK(gw_rundir_reopen("again", vm, &err), &err);
	CHECK(vm->pid == 4711);
	gw_rundir_vm_fini(vm);
	CHECK_OK(gw_rundir_reclaim("again", &c, &err), &err);
	CHECK(exists("again/standby.sock") && exists("again/move.lock"));
	CHECK(!exists("again/qmp.sock") && !exists("again/vm.json"));
	CHECK(!exists("again/handover.json"));
	CHECK(gw_rundir_reopen("again", vm, &err) == -ENOENT);
	CHECK(gw_rundir_move_lock(in("again"), "again", &err) == -EBUSY);
	gw_rundir_release(&c);
	CHECK(!exists("again"));
	close(fd);
	free(vm);
}

static void notes(void)
{
	struct gw_note n = { .phase = "committing", .role = "source",
			     .peer = "tcp:h:1", .text = "a \"b\"" }, m;
	struct gw_rundir_claim c;

	CHECK_OK(gw_rundir_claim("n", &c, &err), &err);
	CHECK(gw_rundir_note_read(c.path.dir, &m, &err) == -ENOENT);
	CHECK_OK(gw_rundir_note_write(c.path.dir, &n, &err), &err);
	CHECK(n.time > 1700000000);
	CHECK_OK(gw_rundir_note_read(c.path.dir, &m, &err), &err);
	CHECK(!strcmp(m.phase, n.phase) && !strcmp(m.role, n.role));
	CHECK(!strcmp(m.peer, n.peer) && !strcmp(m.text, n.text));
	CHECK(m.time == n.time);
	gw_rundir_note_clear(c.path.dir);
	CHECK(gw_rundir_note_read(c.path.dir, &m, &err) == -ENOENT);
	touch("n/handover.json");
	CHECK(gw_rundir_note_read(c.path.dir, &m, &err) == -EINVAL);
	CHECK(strstr(err.msg, "is damaged"));
	memset(n.text, 'x', sizeof(n.text) - 1);
	n.text[0] = '\xff';
	CHECK(gw_rundir_note_write(c.path.dir, &n, &err) == -EINVAL);
	gw_rundir_release(&c);
}

static void vm_arguments(void)
{
	static const char *const bad[] = { "agent=/a", "qmp=", "x=1", "qmp=/a,b=c",
					   "nope", "a/b", "" };
	struct gw_rundir_claim c;
	struct gw_vmref ref;

	CHECK_OK(gw_vmref_parse("qmp=/a,,b,agent=/c", &ref, &err), &err);
	CHECK(!*ref.name && !*ref.dir);
	CHECK(!strcmp(ref.qmp, "/a,b") && !strcmp(ref.agent, "/c"));
	CHECK_OK(gw_vmref_parse("qmp=/x", &ref, &err), &err);
	CHECK(!*ref.agent);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		CHECK(gw_vmref_parse(bad[i], &ref, &err) < 0);
		CHECK(err.fault == GW_FAULT_USAGE);
	}
	CHECK_OK(gw_rundir_claim("v", &c, &err), &err);
	CHECK_OK(write_example(&c, "v"), &err);
	CHECK_OK(gw_vmref_parse("v", &ref, &err), &err);
	CHECK(!strcmp(ref.name, "v") && !strcmp(ref.dir, in("v")));
	CHECK(!strcmp(ref.qmp, in("v/qmp.sock")));
	gw_rundir_release(&c);
}

/* --- races ------------------------------------------------------------------ */

#define RACERS 6

static pthread_barrier_t barrier;
static int winners, losers, rounds_left;

static void *race(void *arg)
{
	struct gw_rundir_claim *c = arg;
	struct gw_error e;
	int r;

	pthread_barrier_wait(&barrier);
	r = gw_rundir_claim("race", c, &e);
	if (!r)
		__atomic_fetch_add(&winners, 1, __ATOMIC_SEQ_CST);
	else if (r == -EEXIST)
		__atomic_fetch_add(&losers, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Half of the time a folder of an ended VM is in the way. */
static void of_many_claims_one_wins(void)
{
	for (int round = 0; round < 10; round++) {
		struct gw_rundir_claim c[RACERS];
		pthread_t t[RACERS];

		if (round % 2) {
			CHECK(mkdir(in("race"), 0700) == 0);
			touch("race/lock");
			touch("race/vm.json");
		}
		winners = losers = 0;
		pthread_barrier_init(&barrier, NULL, RACERS);
		for (int i = 0; i < RACERS; i++)
			if (pthread_create(&t[i], NULL, race, &c[i]))
				abort();
		for (int i = 0; i < RACERS; i++)
			pthread_join(t[i], NULL);
		pthread_barrier_destroy(&barrier);
		CHECK(winners == 1 && losers == RACERS - 1);
		for (int i = 0; i < RACERS; i++)
			gw_rundir_release(&c[i]);
		CHECK(!exists("race"));
	}
}

static void *sweep(void *arg)
{
	struct gw_rundir_vm *vms;
	int n;

	while (__atomic_load_n(&rounds_left, __ATOMIC_SEQ_CST)) {
		n = gw_rundir_list(&vms, NULL);
		gw_rundir_free(vms, n < 0 ? 0 : n);
	}
	return NULL;
}

/* Removing stale folders must never take one from under a claim. */
static void sweepers_do_not_hurt_claims(void)
{
	struct gw_rundir_vm *vms = NULL;
	pthread_t t[2];

	rounds_left = 300;
	for (int i = 0; i < 2; i++)
		if (pthread_create(&t[i], NULL, sweep, NULL))
			abort();
	while (rounds_left > 0) {
		struct gw_rundir_claim c;

		CHECK_OK(gw_rundir_claim("s", &c, &err), &err);
		CHECK(exists("s/lock") && gw_rundir_alive(c.path.dir));
		CHECK_OK(write_example(&c, "s"), &err);
		CHECK(exists("s/vm.json"));
		if (rounds_left % 2)
			close(c.lock_fd); /* it ends without cleaning up */
		else
			gw_rundir_release(&c);
		__atomic_fetch_sub(&rounds_left, 1, __ATOMIC_SEQ_CST);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	/* the last claim ended without cleaning up, perhaps after the sweepers
	 * looked for the last time */
	int n = gw_rundir_list(&vms, &err);

	CHECK(n == 0);
	gw_rundir_free(vms, n < 0 ? 0 : n);
	CHECK(!exists("s"));
}

int main(void)
{
	snprintf(base, sizeof(base), "/tmp/gw-rundir-XXXXXX");
	if (!mkdtemp(base))
		return 1;
	use_base(base);
	RUN(names);
	RUN(where_the_base_is);
	RUN(socket_paths_have_a_limit);
	RUN(claim_write_open_release);
	RUN(the_lock_lives_with_the_process);
	RUN(folders_of_others_are_not_touched);
	RUN(who_moves_keeps_the_folder);
	RUN(a_mover_claims_it_again);
	RUN(notes);
	RUN(vm_arguments);
	RUN(of_many_claims_one_wins);
	RUN(sweepers_do_not_hurt_claims);
	if (rmdir(base) && !test_failures)
		CHECK(!"the folder is empty at the end");
	return test_done();
}
