/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * agent.c - how godwit-agent.so gets into QEMU, and stays out of everything
 * else. What it does there is in serve.c.
 *
 * Two ways in:
 * - LD_PRELOAD, with GODWIT_AGENT=PATH of the socket to make. Also programs
 *   that start QEMU (shells, env, nice, ld.so) load us then: in those nothing
 *   is done and the environment is left alone. In QEMU both variables are
 *   taken out of the environment again, so its helpers do not load us.
 * - -plugin godwit-agent.so,socket=PATH, in QEMU 7.2 to 11.1.
 *
 * What is QEMU? A program that exports `qemu_init` (a system emulator built
 * with modules, as the distributions do); one called qemu-system-*, qemu-kvm
 * or kvm that exports the plugin API; one so called that is larger than any
 * wrapper, 4 MiB in memory. GODWIT_AGENT_ANYWHERE set: any program.
 *
 * -daemonize forks twice, before the VM exists. A userfaultfd belongs to one
 * address space and threads do not survive fork, so everything but the
 * listening socket is made anew in the child, and the parent withdraws. A
 * client that connects early simply waits in the socket's queue. All other
 * forks are of helpers: their copies of our descriptors are closed at once.
 */
#include "agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/*
 * One object has to load into the C libraries of several distributions, also
 * older than the one it was built with. glibc 2.34 gave these new versions.
 */
#if defined(__GLIBC__) && defined(__x86_64__) && defined(__LP64__)
#define OLD_SYMBOL(f) __asm__(".symver " #f "," #f "@GLIBC_2.2.5")
OLD_SYMBOL(pthread_create);
OLD_SYMBOL(pthread_detach);
OLD_SYMBOL(pthread_attr_setstacksize);
#endif

/*
 * QEMU reads this after our constructor ran, and refuses what it does not
 * know: 7.2 takes 1 only, 10.0 2 to 4, 11.1 7 only.
 */
EXPORT int qemu_plugin_version = 2;
EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc,
			       char **argv);

/* Symbols of the program we are in: NULL where it has none. */
extern const char qemu_init[] __attribute__((weak));
extern const char qemu_plugin_register_vcpu_init_cb[] __attribute__((weak));
extern const char qemu_plugin_scoreboard_new[] __attribute__((weak));
extern const char qemu_plugin_register_vcpu_syscall_filter_cb[]
	__attribute__((weak));

#define STACK_SIZE	  (256 * 1024) /* bytes; libc's own share included */
#define DAEMON_PATIENCE_MS 10000       /* for a fork that should come */
#define DAEMON_FORKS	  2

static struct {
	bool started;	  /* a socket exists, its path is ours */
	bool atfork;	  /* handlers are registered */
	bool daemonize;	  /* on the command line */
	int forks;	  /* of -daemonize, seen so far */
	bool fork_is_vm;  /* this fork's child will be the VM */
	pid_t owner;	  /* process that may remove the socket */
	int wake;	  /* eventfd to the thread */
	volatile int quit; /* thread: end; set before wake is written */
	volatile int settled; /* thread: no fork came, we serve here */
} life = { .wake = -1 };

void agent_say(const char *fmt, ...)
{
	char line[400];
	va_list ap;
	int n, k;

	n = snprintf(line, sizeof(line), "godwit-agent: ");
	va_start(ap, fmt);
	k = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	n += k;
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	if (write(2, line, (size_t)n) < 0) {
		/* nowhere to complain */
	}
}

/* ---- the thread ---- */

/* Does the fork of -daemonize that we expect come? Then we are not the VM. */
static bool settle(void)
{
	struct pollfd p = { .fd = life.wake, .events = POLLIN };

	if (life.daemonize && life.forks < DAEMON_FORKS)
		poll(&p, 1, DAEMON_PATIENCE_MS);
	if (life.quit)
		return false;
	life.settled = 1;
	return true;
}

static void forget_all(void)
{
	uffd_forget();
	ram_forget();
	serve_forget();
}

static void *agent_main(void *arg)
{
	prctl(PR_SET_NAME, "godwit-agent");
	if (settle())
		serve_loop(life.wake, &life.quit);
	forget_all();
	return NULL;
}

/*
 * All signals blocked: they are QEMU's. sigfillset(3) leaves out the two that
 * libc needs; without them setuid(2) in QEMU would wait for us for ever.
 */
static int spawn(void)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t t;
	int r;

	life.quit = life.settled = 0;
	life.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (life.wake < 0)
		return errno;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	/* small, because of mlockall(2); too small for this QEMU's thread
	 * local storage: then the default */
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	r = pthread_create(&t, &attr, agent_main, NULL);
	if (r)
		r = pthread_create(&t, NULL, agent_main, NULL);
	pthread_attr_destroy(&attr);
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (!r)
		pthread_detach(t);
	return r;
}

/* In the process that (probably) is the VM: all that belongs to it alone. */
static void set_up(void)
{
	int r;

	life.owner = getpid();
	ram_prepare();
	uffd_prepare();
	r = spawn();
	if (r) {
		agent_say("no thread: %s", strerror(r));
		forget_all();
	}
}

/* ---- fork ---- */

static void before_fork(void)
{
	serve_lock();
	life.fork_is_vm = life.daemonize && life.owner == getpid() &&
			  (life.forks == 0 ||
			   (life.forks < DAEMON_FORKS && !life.settled));
}

static void after_fork_parent(void)
{
	uint64_t one = 1;

	serve_unlock();
	if (!life.fork_is_vm)
		return;
	life.owner = 0;
	life.quit = 1;
	if (write(life.wake, &one, sizeof(one)) < 0) {
		/* cannot be: the counter was 0 */
	}
}

static void after_fork_child(void)
{
	int wake = life.wake;

	serve_unlock();
	life.owner = 0;
	life.wake = -1;
	if (wake >= 0)
		close(wake);
	uffd_forget();
	ram_forget();
	if (!life.fork_is_vm) {
		serve_forget();
		return;
	}
	life.forks++;
	set_up();
}

/* ---- start ---- */

static void start(const char *path, bool daemonize)
{
	if (life.started) {
		agent_say("already loaded, %s is not made", path);
		return;
	}
	life.daemonize = daemonize;
	if (serve_listen(path))
		return;
	life.started = true;
	if (!life.atfork)
		pthread_atfork(before_fork, after_fork_parent,
			       after_fork_child);
	life.atfork = true;
	set_up();
}

/* Does the command line of this process have one of these words? */
static bool asked_to_daemonize(void)
{
	static const char opt[] = "-daemonize";
	char buf[1024], word[sizeof(opt) + 1];
	size_t n = 0;
	bool found = false;
	ssize_t len, i;
	int fd;

	fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	while (!found && (len = read(fd, buf, sizeof(buf))) > 0) {
		for (i = 0; i < len && !found; i++) {
			if (n < sizeof(word))
				word[n++] = buf[i];
			if (buf[i])
				continue;
			word[sizeof(word) - 1] = '\0';
			/* QEMU takes its options with one dash or two */
			found = !strcmp(word, opt) ||
				(word[0] == '-' && !strcmp(word + 1, opt));
			n = 0;
		}
	}
	close(fd);
	return found;
}

struct object {
	char name[256];	  /* file of ours; "" if unknown */
	size_t main_size; /* bytes in memory of the program */
	bool first;
};

static int look_at_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct object *o = arg;
	uintptr_t me = (uintptr_t)&look_at_object;
	int i;

	for (i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t at = info->dlpi_addr + ph->p_vaddr;

		if (ph->p_type != PT_LOAD)
			continue;
		if (!o->first) /* the program itself comes first */
			o->main_size += ph->p_memsz;
		if (me >= at && me - at < ph->p_memsz)
			snprintf(o->name, sizeof(o->name), "%s",
				 info->dlpi_name);
	}
	o->first = true;
	return 0;
}

static bool is_qemu(const struct object *o)
{
	const char *name = program_invocation_short_name;

	if (getenv(AGENT_ENV_ANYWHERE) || qemu_init)
		return true;
	if (strncmp(name, "qemu-system-", 12) && strcmp(name, "qemu-kvm") &&
	    strcmp(name, "kvm"))
		return false;
	return qemu_plugin_register_vcpu_init_cb || o->main_size >= 4u << 20;
}

static bool is_our_entry(const char *s, size_t len, const char *own)
{
	const char *base = strrchr(own, '/');
	size_t n = strlen(own);

	if (n == len && !memcmp(s, own, len))
		return true;
	/* the same file under another spelling: compare the last part */
	base = base ? base + 1 : own;
	n = strlen(base);
	return n && len >= n && !memcmp(s + len - n, base, n) &&
	       (len == n || s[len - n - 1] == '/');
}

/* Take our entry, and no other, out of LD_PRELOAD. */
static void clean_preload(const char *own)
{
	const char *old = getenv("LD_PRELOAD");
	size_t len, used = 0;
	char *left;

	if (!old || !*own)
		return;
	left = malloc(strlen(old) + 1);
	if (!left)
		return;
	while (*old) {
		old += strspn(old, ": ");
		len = strcspn(old, ": ");
		if (len && !is_our_entry(old, len, own)) {
			if (used)
				left[used++] = ':';
			memcpy(left + used, old, len);
			used += len;
		}
		old += len;
	}
	left[used] = '\0';
	if (used)
		setenv("LD_PRELOAD", left, 1);
	else
		unsetenv("LD_PRELOAD");
	free(left);
}

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc,
			       char **argv)
{
	const char *path = NULL;
	int i;

	for (i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "socket=", 7))
			path = argv[i] + 7;
		else
			agent_say("unknown option %s", argv[i]);
	}
	/* Plugins are loaded after -daemonize's forks. A VM without an agent
	 * is better than no VM: never fail. */
	if (path && *path)
		start(path, false);
	else
		agent_say("-plugin ...,socket=PATH is missing");
	return 0;
}

static void pick_plugin_version(void)
{
	if (!qemu_plugin_scoreboard_new)
		qemu_plugin_version = 1;
	else if (qemu_plugin_register_vcpu_syscall_filter_cb)
		qemu_plugin_version = 7;
	else
		qemu_plugin_version = 2;
}

__attribute__((constructor)) static void agent_loaded(void)
{
	struct object o = { .name = "" };
	char path[256];
	const char *env;

	pick_plugin_version();
	env = getenv(GW_AGENT_ENV);
	if (!env || !*env)
		return;
	dl_iterate_phdr(look_at_object, &o);
	if (!is_qemu(&o))
		return;
	snprintf(path, sizeof(path), "%s", env);
	clean_preload(o.name);
	unsetenv(GW_AGENT_ENV);
	unsetenv(AGENT_ENV_ANYWHERE);
	start(path, asked_to_daemonize());
}

__attribute__((destructor)) static void agent_unloaded(void)
{
	if (life.started && life.owner == getpid())
		serve_unlink();
}
