/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * agent_victim.c - a program that plays QEMU for agent_test.c: some shared
 * memory, and one-letter commands on fd 0, answers on fd 1. The agent gets in
 * as it does into QEMU, by LD_PRELOAD. Not a test by itself.
 *
 *	agent_victim NFILES [-daemonize]
 *	w PAGE\n   write a byte into a page of file 0	-> "w NUMBER\n"
 *	t PAGE\n   begin to write it for ever, in a thread
 *	c\n	   how often the thread has written	-> "c COUNT\n"
 *	d UID\n	   give up privileges as -run-with user does
 *	f\n	   fork a helper that sleeps and keeps descriptors -> "f PID\n"
 *	e\n	   what is left in the environment	-> "e VALUES\n"
 *	p\n						-> "p PID\n"
 */
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE	4096u
#define FILE_SIZE (8u << 20) /* bytes of each; page aligned */

static unsigned char *ram;
static volatile unsigned long count;
static unsigned long thread_page;

static void *writer(void *arg)
{
	for (;;) {
		ram[thread_page * PAGE] = (unsigned char)(count + 1);
		count++;
		usleep(200);
	}
	return NULL;
}

static void make_ram(int nfiles)
{
	int i;

	for (i = 0; i < nfiles; i++) {
		int fd = memfd_create("victim", MFD_CLOEXEC);
		unsigned char *p;

		if (fd < 0 || ftruncate(fd, FILE_SIZE))
			exit(3);
		p = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			 fd, 0);
		if (p == MAP_FAILED)
			exit(3);
		p[0] = 1;
		/* two mappings in /proc/self/maps, one to everybody else */
		if (i == 0) {
			ram = p;
			madvise(p, FILE_SIZE / 2, MADV_DONTFORK);
		}
	}
	/* is not RAM: small, or private */
	mmap(NULL, PAGE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	mmap(NULL, FILE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* As QEMU does it: the process that stays is a grandchild. */
static void daemonize(void)
{
	if (fork())
		exit(0);
	setsid();
	if (fork())
		exit(0);
}

static void helper(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		sleep(60);
		_exit(0);
	}
	printf("f %d\n", (int)pid);
}

static void drop(unsigned uid)
{
	if (setgroups(0, NULL) || setgid(uid) || setuid(uid))
		printf("d failed\n");
	else
		printf("d %u\n", (unsigned)getuid());
}

static const char *env(const char *name)
{
	const char *v = getenv(name);

	return v ? v : "-";
}

static void command(const char *line)
{
	unsigned long n = strtoul(line + 1, NULL, 10);
	pthread_t t;

	switch (line[0]) {
	case 'w':
		ram[n * PAGE]++;
		printf("w %lu\n", n);
		break;
	case 't':
		thread_page = n;
		pthread_create(&t, NULL, writer, NULL);
		printf("t %lu\n", n);
		break;
	case 'c':
		printf("c %lu\n", count);
		break;
	case 'd':
		drop((unsigned)n);
		break;
	case 'f':
		helper();
		break;
	case 'e':
		printf("e preload=%s agent=%s anywhere=%s\n", env("LD_PRELOAD"),
		       env("GODWIT_AGENT"), env("GODWIT_AGENT_ANYWHERE"));
		break;
	default:
		printf("p %d\n", (int)getpid());
	}
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[100];

	if (argc < 2)
		return 2;
	if (argc > 2 && !strcmp(argv[2], "-daemonize"))
		daemonize();
	make_ram(atoi(argv[1]));
	while (fgets(line, sizeof(line), stdin))
		command(line);
	return 0;
}
