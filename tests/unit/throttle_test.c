/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * throttle_test.c - real cpu quotas on the threads of a child process: how
 * much they run, and that nothing is left afterwards, whoever dies.
 */
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "vm/qemu/throttle.h"

#define THREADS 2

/* A process whose threads spin (two of them), and whose first one rests. */
struct spinner {
	pid_t pid, tid[THREADS];
	uint64_t *spun; /* shared with it; each thread's own */
	struct gw_throttle t;
	char cgroup[THREADS][600]; /* its threads' before */
};

static struct gw_error err;
static volatile sig_atomic_t one_ends;

static void on_usr1(int sig)
{
	one_ends = 1;
}

static void *spin(void *arg)
{
	uint64_t *p = arg;

	p[1] = (uint64_t)syscall(SYS_gettid);
	while (p[2] == 0 || !one_ends)
		__atomic_fetch_add(&p[0], 1, __ATOMIC_RELAXED);
	return NULL;
}

/* Where thread @tid is: the lines of cpu and of v2. */
static void read_cgroup(pid_t pid, pid_t tid, char out[600])
{
	char path[64], line[500];
	size_t n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/cgroup", pid, tid);
	f = fopen(path, "r");
	out[0] = '\0';
	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "cpu:") || strstr(line, "cpu,") ||
		    strstr(line, ":cpu") || !strncmp(line, "0::", 3))
			n += (size_t)snprintf(out + n, 600 - n, "%s", line);
	if (f)
		fclose(f);
}

static void start(struct spinner *s)
{
	memset(s, 0, sizeof(*s));
	memset(&err, 0, sizeof(err));
	s->spun = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	s->pid = fork();
	if (s->pid == 0) {
		pthread_t t;

		signal(SIGUSR1, on_usr1);
		for (int i = 0; i < THREADS; i++) {
			s->spun[8 * i + 2] = (uint64_t)i; /* the last may end */
			pthread_create(&t, NULL, spin, &s->spun[8 * i]);
		}
		for (;;)
			pause();
	}
	for (int i = 0; i < THREADS; i++) {
		while (!__atomic_load_n(&s->spun[8 * i + 1], __ATOMIC_RELAXED))
			usleep(1000);
		s->tid[i] = (pid_t)s->spun[8 * i + 1];
		read_cgroup(s->pid, s->tid[i], s->cgroup[i]);
	}
	s->t.pid = s->pid;
}

static void stop(struct spinner *s)
{
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
	munmap(s->spun, 4096);
}

/* CPU time of a thread so far, ns. */
static int64_t cpu_ns(struct spinner *s, int i)
{
	unsigned long long ns = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", s->pid,
		 s->tid[i]);
	f = fopen(path, "r");
	if (f) {
		if (fscanf(f, "%llu", &ns) != 1)
			ns = 0;
		fclose(f);
	}
	return (int64_t)ns;
}

/* What part of the time thread @i runs, percent. */
static double share(struct spinner *s, int i, int ms)
{
	int64_t t0 = gw_now_ns(), c0 = cpu_ns(s, i);

	usleep((useconds_t)ms * 1000);
	return 100.0 * (double)(cpu_ns(s, i) - c0) /
	       (double)(gw_now_ns() - t0);
}

/* Is there a cgroup of ours for this process below @dir? */
static bool has_ours(const char *dir, pid_t pid)
{
	struct dirent *e;
	DIR *d = opendir(dir);
	bool found = false;
	char own[64];

	snprintf(own, sizeof(own), "godwit-%d-", pid);
	while (d && (e = readdir(d)))
		found |= !strncmp(e->d_name, own, strlen(own));
	if (d)
		closedir(d);
	return found;
}

static void check_as_before(struct spinner *s)
{
	for (int i = 0; i < THREADS; i++) {
		char now[600];

		read_cgroup(s->pid, s->tid[i], now);
		CHECK(!strcmp(now, s->cgroup[i]));
	}
	CHECK(!has_ours(s->t.where, s->pid));
}

/* Does it work here at all? A case that needs it skips loudly if not. */
static bool impossible(struct spinner *s)
{
	return gw_throttle_find(&s->t, s->tid[0], &err) ||
	       gw_throttle_set(&s->t, s->tid, THREADS, 20, &err);
}

static void each_thread_gets_its_share_and_no_more(void)
{
	static const unsigned int percent[] = { 50, 80, 95, 99 };
	struct spinner s;

	start(&s);
	if (impossible(&s)) {
		stop(&s);
		SKIP("no cpu quotas here: %s", err.msg);
	}
	for (size_t i = 0; i < 4; i++) {
		double most = 100 - percent[i];

		CHECK_OK(gw_throttle_set(&s.t, s.tid, THREADS, percent[i],
					 &err), &err);
		for (int k = 0; k < THREADS; k++) {
			double got = share(&s, k, 1000);

			/* Ticks are coarse: what is over is a few percent. */
			CHECK(got < most * 1.2 + 5);
			if (got >= most * 1.2 + 5)
				printf("%u percent taken, %.1f left\n",
				       percent[i], got);
		}
	}
	/* The rest of the process is where it was, and not held back. */
	CHECK(has_ours(s.t.where, s.pid));
	gw_throttle_soften(&s.t);
	CHECK(share(&s, 0, 1000) < 20);
	CHECK(gw_throttle_remove(&s.t));
	check_as_before(&s);
	CHECK(!gw_throttle_remove(&s.t));
	stop(&s);
}

/* Without a quota it gets more than 99 percent leave it, sometime: the host
 * is shared. */
static bool gets_more(struct spinner *s)
{
	for (int i = 0; i < 120; i++)
		if (share(s, 0, 500) > 10)
			return true;
	return false;
}

static void lifting_gives_all_back(void)
{
	struct spinner s;

	start(&s);
	if (impossible(&s) ||
	    gw_throttle_set(&s.t, s.tid, THREADS, 99, &err)) {
		stop(&s);
		SKIP("no cpu quotas here: %s", err.msg);
	}
	CHECK(share(&s, 0, 1000) < 7);
	gw_throttle_lift(&s.t);
	CHECK(gets_more(&s));
	gw_throttle_remove(&s.t);
	check_as_before(&s);
	CHECK(gets_more(&s));
	stop(&s);
}

/* As a guardian, or the next godwit, does it: all it has is the number. */
static void another_process_takes_it_back(void)
{
	struct gw_throttle other = { 0 };
	struct spinner s;
	int status;
	pid_t pid;

	start(&s);
	pid = fork();
	if (pid == 0) { /* a godwit that dies right after it */
		if (impossible(&s))
			_exit(77);
		raise(SIGKILL);
	}
	waitpid(pid, &status, 0);
	if (WIFEXITED(status)) {
		stop(&s);
		SKIP("no cpu quotas here");
	}
	CHECK(share(&s, 0, 200) < 95);
	other.pid = s.pid;
	CHECK(gw_throttle_remove(&other));
	CHECK(!gw_throttle_find(&s.t, s.tid[0], &err));
	check_as_before(&s);
	stop(&s);
}

static void threads_and_processes_that_end_leave_nothing(void)
{
	pid_t none[1];
	struct spinner s;
	char where[GW_THROTTLE_PATH];

	start(&s);
	if (impossible(&s)) {
		stop(&s);
		SKIP("no cpu quotas here: %s", err.msg);
	}
	strcpy(where, s.t.where);
	kill(s.pid, SIGUSR1);
	usleep(300000); /* its second one ends */
	none[0] = s.tid[1];
	CHECK_OK(gw_throttle_set(&s.t, none, 1, 50, &err), &err);
	CHECK(gw_throttle_remove(&s.t));
	CHECK(!has_ours(where, s.pid));
	CHECK(!gw_throttle_set(&s.t, s.tid, 1, 50, &err));
	stop(&s);
	CHECK(has_ours(where, s.pid));
	CHECK(gw_throttle_remove(&s.t));
	CHECK(!has_ours(where, s.pid));
}

/* Cgroups that are not of that name stay as they are. */
static void cgroups_of_others_stay(void)
{
	char path[GW_THROTTLE_PATH + 64];
	struct spinner s;

	start(&s);
	if (impossible(&s)) {
		stop(&s);
		SKIP("no cpu quotas here: %s", err.msg);
	}
	snprintf(path, sizeof(path), "%s/godwit-%d0-1", s.t.where, s.pid);
	CHECK(!mkdir(path, 0755));
	gw_throttle_remove(&s.t);
	CHECK(!access(path, F_OK));
	rmdir(path);
	stop(&s);
}

static void what_cannot_be_throttled_is_said(void)
{
	struct spinner s;

	start(&s);
	/* A thread of another process: QEMU's numbers are not ours. */
	CHECK(gw_throttle_find(&s.t, getpid(), &err) == -ESRCH);
	CHECK(strstr(err.msg, "has no thread"));
	s.t.pid = 0;
	CHECK(!gw_throttle_remove(&s.t));
	stop(&s);
}

static void without_permission_it_is_said(void)
{
	struct spinner s;
	int status;
	pid_t pid;

	if (geteuid())
		SKIP("only root can make itself powerless for a test");
	start(&s);
	pid = fork();
	if (pid == 0) {
		if (setresuid(65534, 65534, 65534) ||
		    gw_throttle_find(&s.t, s.tid[0], &err))
			_exit(77);
		_exit(gw_throttle_set(&s.t, s.tid, THREADS, 20, &err) &&
				      strstr(err.msg, "no permission") ?
			      0 :
			      1);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		stop(&s);
		SKIP("no cgroups with a cpu controller here");
	}
	CHECK(WEXITSTATUS(status) == 0);
	stop(&s);
}

int main(void)
{
	RUN(each_thread_gets_its_share_and_no_more);
	RUN(lifting_gives_all_back);
	RUN(another_process_takes_it_back);
	RUN(threads_and_processes_that_end_leave_nothing);
	RUN(cgroups_of_others_stay);
	RUN(what_cannot_be_throttled_is_said);
	RUN(without_permission_it_is_said);
	return test_done();
}
