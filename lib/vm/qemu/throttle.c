/* SPDX-License-Identifier: BSD-3-Clause */
/* throttle.c - see throttle.h. */
#include "vm/qemu/throttle.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scope.h"

#define GW_LOG_MODULE "vm"
#include "base/log.h"

#define PERIOD_US    10000
#define LEAST_US     1000 /* the kernel takes no smaller quota */
#define LINE	     4096
#define REMOVE_TRIES 100

/* Where a thread is, as a folder that we can write to. */
struct place {
	bool v2;
	char dir[GW_THROTTLE_PATH];
};

/* --- files ---------------------------------------------------------------- */

/* DIR/NAME into @path. Return: 0 or -ENAMETOOLONG. */
static int join(char path[GW_THROTTLE_PATH], const char *dir, const char *fmt,
		...) __attribute__((format(printf, 3, 4)));
static int join(char path[GW_THROTTLE_PATH], const char *dir, const char *fmt,
		...)
{
	int n = snprintf(path, GW_THROTTLE_PATH, "%s/", dir), m;
	va_list ap;

	if (n >= GW_THROTTLE_PATH)
		return -ENAMETOOLONG;
	va_start(ap, fmt);
	m = vsnprintf(path + n, (size_t)(GW_THROTTLE_PATH - n), fmt, ap);
	va_end(ap);
	return n + m < GW_THROTTLE_PATH ? 0 : -ENAMETOOLONG;
}

/* Return: 0 or -errno, without text. */
static int put(const char *dir, const char *name, const char *value)
{
	char path[GW_THROTTLE_PATH];
	gw_autoclose int fd = -1;

	if (join(path, dir, "%s", name))
		return -ENAMETOOLONG;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		return -errno;
	return 0;
}

static bool has(const char *dir, const char *name)
{
	char path[GW_THROTTLE_PATH];

	return !join(path, dir, "%s", name) && !access(path, F_OK);
}

/* --- where a thread is ---------------------------------------------------- */

/* Is @word one of the words in the comma-separated @list? */
static bool lists(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = list; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (!strncmp(p, word, n) && (!p[n] || p[n] == ','))
			return true;
	}
	return false;
}

/* "NUMBER:CONTROLLERS:PATH". A hierarchy of v1 that has cpu counts before v2,
 * which then has none. Return: 0 or -errno without text. */
static int read_cgroup(pid_t pid, pid_t tid, bool *v2, char path[LINE])
{
	gw_autofree char *line = malloc(LINE);
	char name[64];
	int r = -ENOENT;
	FILE *f;

	if (!line)
		return -ENOMEM;
	snprintf(name, sizeof(name), "/proc/%d/task/%d/cgroup", (int)pid,
		 (int)tid);
	f = fopen(name, "re");
	if (!f)
		return errno == ENOENT ? -ESRCH : -errno;
	while (fgets(line, LINE, f)) {
		char *list = strchr(line, ':');
		char *at = list ? strchr(list + 1, ':') : NULL;
		bool unified;

		if (!at)
			continue;
		unified = at == list + 1;
		*at = '\0';
		if (!unified && !lists(list + 1, "cpu"))
			continue;
		if (unified && !r)
			continue;
		snprintf(path, LINE, "%.*s", (int)strcspn(at + 1, "\n"),
			 at + 1);
		*v2 = unified;
		r = 0;
	}
	fclose(f);
	return r;
}

/* The kernel writes blanks and the like as \ooo. */
static void unescape(char *s)
{
	char *to = s;

	while (*s) {
		if (*s == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
			*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 |
				       (s[3] - '0'));
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = '\0';
}

/* Behind @root in @path, or NULL. */
static const char *below(const char *path, const char *root)
{
	size_t n = strlen(root);

	if (!strcmp(root, "/"))
		return path;
	return !strncmp(path, root, n) && (!path[n] || path[n] == '/') ?
		       path + n :
		       NULL;
}

/* "36 35 98:0 ROOT MOUNTPOINT rw,noatime ... - TYPE SOURCE OPTIONS" */
static bool is_mount(char *line, bool v2, char **root, char **point)
{
	char *dash = strstr(line, " - "), *save, *type, *options;
	char *word = strtok_r(line, " ", &save);

	for (int i = 1; word && i < 4; i++)
		word = strtok_r(NULL, " ", &save);
	*root = word;
	*point = strtok_r(NULL, " ", &save);
	if (!dash || !*root || !*point)
		return false;
	type = strtok_r(dash + 3, " \n", &save);
	strtok_r(NULL, " \n", &save);
	options = strtok_r(NULL, " \n", &save);
	if (!type || strcmp(type, v2 ? "cgroup2" : "cgroup"))
		return false;
	unescape(*root);
	unescape(*point);
	return v2 || (options && lists(options, "cpu"));
}

/* Where @path of the hierarchy is mounted. Return: 0 or -errno without text. */
static int find_mount(struct place *p, const char *path)
{
	gw_autofree char *line = malloc(LINE);
	int r = -ENODEV;
	FILE *f;

	if (!line)
		return -ENOMEM;
	f = fopen("/proc/self/mountinfo", "re");
	if (!f)
		return -errno;
	while (r == -ENODEV && fgets(line, LINE, f)) {
		char *root, *point;
		const char *rest;

		if (!is_mount(line, p->v2, &root, &point))
			continue;
		rest = below(path, root);
		if (!rest)
			continue;
		r = snprintf(p->dir, sizeof(p->dir), "%s%s", point,
			     strcmp(rest, "/") ? rest : "");
		r = r < (int)sizeof(p->dir) ? 0 : -ENAMETOOLONG;
	}
	fclose(f);
	return r;
}

static int find(pid_t pid, pid_t tid, struct place *p, struct gw_error *err)
{
	gw_autofree char *path = malloc(LINE);
	int r = path ? read_cgroup(pid, tid, &p->v2, path) : -ENOMEM;

	if (r == -ENOENT)
		return gw_fail(err, ENOTSUP,
			       "this kernel has no cgroups with a cpu controller");
	if (r)
		return gw_fail_errno(err, -r, "thread %d of process %d",
				     (int)tid, (int)pid);
	if (!strncmp(path, "/..", 3))
		return gw_fail(err, ENOTSUP,
			       "thread %d of process %d is in a cgroup (%.200s) outside of what this godwit can see: run godwit outside of that container",
			       (int)tid, (int)pid, path);
	r = find_mount(p, path);
	if (r == -ENODEV)
		return gw_fail(err, ENOTSUP,
			       "cgroup %.200s of thread %d is not mounted here (cgroup %s, controller cpu)",
			       path, (int)tid, p->v2 ? "v2" : "v1");
	return r ? gw_fail_errno(err, -r, "cgroup %.200s", path) : 0;
}

/* --- ours ----------------------------------------------------------------- */

static void own_name(char name[64], pid_t pid, pid_t tid)
{
	snprintf(name, 64, "godwit-%d-%d", (int)pid, (int)tid);
}

/* Is thread @tid in a cgroup that we made for it? Then @p is that one. */
static bool is_ours(pid_t pid, pid_t tid, struct place *p)
{
	struct gw_error ignored;
	const char *slash;
	char name[64];

	if (find(pid, tid, p, &ignored))
		return false;
	own_name(name, pid, tid);
	slash = strrchr(p->dir, '/');
	return slash && !strcmp(slash + 1, name);
}

static void parent_of(struct place *p)
{
	*strrchr(p->dir, '/') = '\0';
}

/* For every thread that is in one of ours. Return: how many. */
static int for_each(pid_t pid, void (*fn)(pid_t pid, pid_t tid, struct place *p))
{
	struct place p;
	char name[64];
	struct dirent *e;
	DIR *d;
	int n = 0;

	snprintf(name, sizeof(name), "/proc/%d/task", (int)pid);
	d = opendir(name);
	while (d && (e = readdir(d))) {
		pid_t tid = (pid_t)atoi(e->d_name);

		if (tid > 0 && is_ours(pid, tid, &p)) {
			fn(pid, tid, &p);
			n++;
		}
	}
	if (d)
		closedir(d);
	return n;
}

/* --- quotas --------------------------------------------------------------- */

static int set_unlimited(const struct place *p)
{
	return p->v2 ? put(p->dir, "cpu.max", "max") :
		       put(p->dir, "cpu.cfs_quota_us", "-1");
}

static int set_quota(const struct place *p, unsigned int percent)
{
	unsigned int left = 100 - percent, period = PERIOD_US;
	unsigned int quota = period / 100 * left;
	char text[64], period_text[32];
	int r;

	if (quota < LEAST_US) {
		quota = LEAST_US;
		period = LEAST_US * 100 / left;
	}
	if (p->v2) {
		snprintf(text, sizeof(text), "%u %u", quota, period);
		return put(p->dir, "cpu.max", text);
	}
	snprintf(text, sizeof(text), "%u", quota);
	snprintf(period_text, sizeof(period_text), "%u", period);
	/* No pair of old and new in between that is more than above allows. */
	r = set_unlimited(p);
	if (!r)
		r = put(p->dir, "cpu.cfs_period_us", period_text);
	if (!r)
		r = put(p->dir, "cpu.cfs_quota_us", text);
	/* v1 refuses what a cgroup above does not allow: that takes more. */
	return r == -EINVAL ? 0 : r;
}

static void soften(pid_t pid, pid_t tid, struct place *p)
{
	int r = set_quota(p, GW_THROTTLE_FINE);

	if (r)
		gw_debug("%s: %s", p->dir, strerror(-r));
}

void gw_throttle_soften(const struct gw_throttle *t)
{
	if (t->pid)
		for_each(t->pid, soften);
}

static void lift(pid_t pid, pid_t tid, struct place *p)
{
	int r = set_unlimited(p);

	if (r && r != -ENOENT && r != -ENODEV)
		gw_warn("thread %d stays throttled: %s: %s", (int)tid, p->dir,
			strerror(-r));
}

void gw_throttle_lift(const struct gw_throttle *t)
{
	if (t->pid)
		for_each(t->pid, lift);
}

/* --- into a cgroup, and back ---------------------------------------------- */

static const char *thread_file(const struct place *p)
{
	return p->v2 ? "cgroup.threads" : "tasks";
}

/* v2: may children of @p have quotas? Switch it on, and leave word that it
 * was us (before, so that no death of ours comes between). */
static int enable_cpu(const struct place *p, const char *child, pid_t pid)
{
	char mark[GW_THROTTLE_PATH];
	int r;

	if (has(child, "cpu.max"))
		return 0;
	r = join(mark, p->dir, "godwit-%d-cpu", (int)pid);
	if (r)
		return r;
	if (mkdir(mark, 0755) && errno != EEXIST)
		return -errno;
	r = put(p->dir, "cgroup.subtree_control", "+cpu");
	if (r == -ENOENT || (!r && !has(child, "cpu.max")))
		r = -ENOTSUP; /* @p has no such controller to give */
	if (r)
		rmdir(mark);
	return r;
}

/* @p becomes the new cgroup. Return: 0 or -errno without text. */
static int make(struct place *p, pid_t pid, pid_t tid)
{
	char child[GW_THROTTLE_PATH], name[64];
	int r;

	own_name(name, pid, tid);
	r = join(child, p->dir, "%s", name);
	if (r)
		return r;
	if (mkdir(child, 0755) && errno != EEXIST)
		return -errno;
	if (p->v2) {
		r = put(child, "cgroup.type", "threaded");
		if (!r)
			r = enable_cpu(p, child, pid);
	} else if (!has(child, "cpu.cfs_quota_us")) {
		r = -ENOTSUP;
	}
	memcpy(p->dir, child, sizeof(child));
	return r;
}

static void remove_dir(const char *dir)
{
	struct timespec step = { 0, 2 * GW_NS_PER_MS };

	/* A thread that ends leaves a moment later than it says. */
	for (int i = 0; i < REMOVE_TRIES; i++) {
		if (!rmdir(dir) || errno != EBUSY)
			return;
		nanosleep(&step, NULL);
	}
	gw_warn("cgroup %s cannot be removed: %s", dir, strerror(EBUSY));
}

/* v2: nobody below @dir needs the cpu controller for us any more. */
static bool unmark(const char *dir, pid_t pid)
{
	char path[GW_THROTTLE_PATH];

	if (join(path, dir, "godwit-%d-cpu", (int)pid) || access(path, F_OK))
		return false;
	if (put(dir, "cgroup.subtree_control", "-cpu"))
		gw_debug("%s: the cpu controller stays on", dir);
	remove_dir(path);
	return true;
}

static void move_back(pid_t pid, pid_t tid, struct place *p)
{
	struct place up = *p;
	char text[32];
	int r;

	lift(pid, tid, p);
	parent_of(&up);
	snprintf(text, sizeof(text), "%d", (int)tid);
	r = put(up.dir, thread_file(&up), text);
	if (r && r != -ESRCH) {
		gw_warn("thread %d stays in cgroup %s: %s", (int)tid, p->dir,
			strerror(-r));
		return;
	}
	remove_dir(p->dir);
	unmark(up.dir, pid);
}

/* What is left in @dir that bears the name of @pid: cgroups of threads that
 * have ended, and the mark. */
static bool tidy(const char *dir, pid_t pid)
{
	char own[64], mark[64], path[GW_THROTTLE_PATH];
	DIR *d = opendir(dir);
	struct dirent *e;
	bool any = false;

	snprintf(own, sizeof(own), "godwit-%d-", (int)pid);
	snprintf(mark, sizeof(mark), "godwit-%d-cpu", (int)pid);
	while (d && (e = readdir(d)))
		if (!strncmp(e->d_name, own, strlen(own)) &&
		    strcmp(e->d_name, mark) &&
		    !join(path, dir, "%s", e->d_name)) {
			any = true;
			remove_dir(path);
		}
	if (d)
		closedir(d);
	return unmark(dir, pid) || any;
}

bool gw_throttle_remove(const struct gw_throttle *t)
{
	struct gw_error ignored;
	struct place p;
	bool any;

	if (!t->pid)
		return false;
	any = for_each(t->pid, move_back) > 0;
	if (!find(t->pid, t->pid, &p, &ignored))
		any |= tidy(p.dir, t->pid);
	if (t->where[0])
		any |= tidy(t->where, t->pid);
	return any;
}

/* --- throttling ----------------------------------------------------------- */

int gw_throttle_find(struct gw_throttle *t, pid_t tid, struct gw_error *err)
{
	struct place p;
	int policy, r;

	r = find(t->pid, tid, &p, err);
	if (r == -ESRCH)
		return gw_fail(err, ESRCH,
			       "process %d has no thread %d: QEMU's threads have other numbers here (a container's), or it has just ended",
			       (int)t->pid, (int)tid);
	if (r)
		return r;
	policy = sched_getscheduler(tid);
	if (policy == SCHED_FIFO || policy == SCHED_RR)
		return gw_fail(err, ENOTSUP,
			       "thread %d has a real-time scheduling policy, which no cpu quota holds back",
			       (int)tid);
	if (is_ours(t->pid, tid, &p))
		parent_of(&p);
	memcpy(t->where, p.dir, sizeof(t->where));
	return 0;
}

static int throttle_one(pid_t pid, pid_t tid, unsigned int percent,
			struct gw_error *err)
{
	struct place p;
	char text[32];
	int r;

	if (is_ours(pid, tid, &p)) {
		r = set_quota(&p, percent);
		return r ? gw_fail_errno(err, -r, "setting the cpu quota of %s",
					 p.dir) :
			   0;
	}
	r = find(pid, tid, &p, err);
	if (r)
		return r;
	r = make(&p, pid, tid);
	if (!r)
		r = set_quota(&p, percent);
	snprintf(text, sizeof(text), "%d", (int)tid);
	if (!r)
		r = put(p.dir, thread_file(&p), text);
	if (!r)
		return 0;
	if (r == -EACCES || r == -EPERM || r == -EROFS)
		return gw_fail(err, -r,
			       "no permission to make a cgroup for thread %d below %s: run godwit as root, or give it that cgroup (%s)",
			       (int)tid, p.dir, strerror(-r));
	if (r == -ENOTSUP || r == -EOPNOTSUPP)
		return gw_fail(err, -r,
			       "cgroup %s gives its children no cpu quota%s",
			       p.dir,
			       p.v2 ? " (the cpu controller is not delegated to it, or it has children that are not threaded)" :
				      " (the kernel was built without CONFIG_CFS_BANDWIDTH)");
	return gw_fail_errno(err, -r, "cgroup %s for thread %d", p.dir,
			     (int)tid);
}

int gw_throttle_set(struct gw_throttle *t, const pid_t *tid, int n,
		    unsigned int percent, struct gw_error *err)
{
	int r = 0;

	for (int i = 0; i < n && !r; i++) {
		r = throttle_one(t->pid, tid[i], percent, err);
		if (r == -ESRCH) /* unplugged meanwhile */
			r = 0;
	}
	if (r)
		gw_throttle_remove(t);
	return r;
}
