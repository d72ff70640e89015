/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * agent_probe.c - ask the agent in a running QEMU for everything it has, try
 * whether tracking works, print what came as one JSON object. For
 * test_agent.py; not a product.
 *
 *	agent_probe SOCKET [--memory BYTES] [--sync] [--wait MS] [--hold WHAT]
 *
 * With --memory the file mapping of that length is registered, and "first"
 * and "then" are the numbers of pages written before and during --wait. With
 * --sync only a full userfaultfd for SYNC is fetched. --hold sync or async
 * protects all of --memory, prints {"held": 1} and waits to be killed.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent_track.h"
#include "vm/qemu/agent.h"

static const struct gw_agent_mapping *find(const struct gw_agent_ram *ram,
					   uint64_t length)
{
	unsigned i;

	for (i = 0; i < ram->nmaps; i++) {
		if (ram->map[i].length == length)
			return &ram->map[i];
	}
	return NULL;
}

static int fail(const char *what, int code, const struct gw_error *err)
{
	printf("\"error\": \"%s: %d %s\"}\n", what, code, err ? err->msg : "");
	return 1;
}

static int track(struct gw_agent *a, const struct gw_agent_mapping *m, int ms)
{
	const struct gw_agent_info *i = gw_agent_info(a);
	struct gw_error err;
	unsigned kind;
	long first, then;
	bool used;
	int fd, r;

	r = gw_agent_uffd(a, GW_UFFD_TRACK_ASYNC, 3, &fd, &kind, &used, &err);
	if (r < 0)
		return fail("uffd", r, &err);
	r = at_api(fd, used, AT_ASYNC);
	if (r < 0)
		return fail("UFFDIO_API", r, NULL);
	r = at_register(fd, m->addr, m->length);
	if (r < 0)
		return fail("UFFDIO_REGISTER", r, NULL);
	first = at_scan(i->pid, m->addr, m->length);
	poll(NULL, 0, ms);
	then = at_scan(i->pid, m->addr, m->length);
	if (first < 0 || then < 0)
		return fail("PAGEMAP_SCAN", (int)first, NULL);
	printf("\"first\": %ld, \"then\": %ld, \"kind\": %u, \"used\": %d, ",
	       first, then, kind, used);
	at_unregister(fd, m->addr, m->length);
	close(fd);
	r = gw_agent_release(a, GW_UFFD_TRACK_ASYNC, &err);
	return r < 0 ? fail("release", r, &err) : 0;
}

static int track_sync(struct gw_agent *a)
{
	struct gw_error err;
	bool used;
	int fd, r;

	r = gw_agent_uffd(a, GW_UFFD_TRACK_SYNC, GW_UFFD_FULL, &fd, NULL,
			  &used, &err);
	if (r < 0)
		return fail("sync uffd", r, &err);
	r = at_api(fd, used, AT_SYNC);
	if (r < 0)
		return fail("sync UFFDIO_API", r, NULL);
	close(fd);
	r = gw_agent_release(a, GW_UFFD_TRACK_SYNC, &err);
	if (r < 0)
		return fail("sync release", r, &err);
	printf("\"sync\": true, ");
	return 0;
}

static int hold(struct gw_agent *a, const struct gw_agent_mapping *m,
		const char *what)
{
	bool sync = !strcmp(what, "sync"), used;
	struct gw_error err;
	int fd, r;

	r = gw_agent_uffd(a, sync ? GW_UFFD_TRACK_SYNC : GW_UFFD_TRACK_ASYNC,
			  GW_UFFD_FULL, &fd, NULL, &used, &err);
	if (r < 0)
		return fail("uffd", r, &err);
	r = at_api(fd, used, sync ? AT_SYNC : AT_ASYNC);
	if (r == 0)
		r = at_register(fd, m->addr, m->length);
	if (r == 0)
		r = at_protect(fd, m->addr, m->length, 1);
	if (r < 0)
		return fail("protect", r, NULL);
	printf("\"held\": 1}\n");
	fflush(stdout);
	pause();
	return 1;
}

int main(int argc, char **argv)
{
	const char *what = NULL;
	const struct gw_agent_mapping *m;
	const struct gw_agent_info *i;
	uint64_t memory = 0;
	struct gw_agent_ram ram;
	bool sync = false;
	int k, r, ms = 500;
	struct gw_agent *a;
	struct gw_error err;
	struct stat st;

	for (k = 2; k < argc; k++) {
		if (!strcmp(argv[k], "--sync"))
			sync = true;
		else if (k + 1 < argc && !strcmp(argv[k], "--memory"))
			memory = strtoull(argv[++k], NULL, 0);
		else if (k + 1 < argc && !strcmp(argv[k], "--wait"))
			ms = atoi(argv[++k]);
		else if (k + 1 < argc && !strcmp(argv[k], "--hold"))
			what = argv[++k];
	}
	printf("{");
	r = gw_agent_open(argc > 1 ? argv[1] : "", 20000, NULL, &a, &err);
	if (r < 0)
		return fail("open", r, &err);
	i = gw_agent_info(a);
	printf("\"pid\": %d, \"euid\": %u, \"kinds\": %u, \"held\": %u, ",
	       (int)i->pid, (unsigned)i->euid, i->kinds, i->held);
	r = gw_agent_ram(a, &ram, &err);
	if (r < 0)
		return fail("ram", r, &err);
	printf("\"nmaps\": %u, ", ram.nmaps);
	m = find(&ram, memory);
	if (memory && !m)
		return fail("no such mapping", 0, NULL);
	if (m && m->fd >= 0 && fstat(m->fd, &st) == 0)
		printf("\"ino\": %" PRIu64 ", \"offset\": %" PRIu64
		       ", \"page_size\": %u, \"same\": %s, ",
		       (uint64_t)st.st_ino, m->offset, m->page_size,
		       st.st_ino == m->ino && st.st_dev == m->dev ? "true" :
								    "false");
	if (m && what)
		return hold(a, m, what);
	if (m && track(a, m, ms))
		return 1;
	if (sync && track_sync(a))
		return 1;
	gw_agent_ram_fini(&ram);
	gw_agent_close(a);
	printf("\"ok\": true}\n");
	return 0;
}
