/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ram.c - the VM's RAM blocks: names and sizes from QMP (query-memdev), files
 * and addresses from the agent, matched by the file behind mem-path.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <fcntl.h>

#include "vm/qemu/internal.h"

/* A property of object @id. NULL without @err: it has none such. */
static json_t *property(struct gw_qemu *q, const char *id, const char *name,
			struct gw_error *err)
{
	return gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err, "qom-get",
			  "{s:s+, s:s}", "path", "/objects/", id, "property",
			  name);
}

/* The file @id's memory is in, seen from QEMU's process. */
static int stat_backend(struct gw_qemu *q, const char *id, struct stat *st)
{
	static const char self[] = "/proc/self/fd/";
	json_t *v = property(q, id, "mem-path", NULL);
	const char *p = json_string_value(v);
	char path[PATH_MAX + 64];
	int r = -1;

	if (p && !strncmp(p, self, strlen(self)))
		snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)q->pid,
			 p + strlen(self));
	else
		snprintf(path, sizeof(path), "/proc/%d/root%s", (int)q->pid,
			 p ? p : "");
	if (p && *p)
		r = stat(path, st);
	json_decref(v);
	return r;
}

/* QEMU names the block by the object's id, or /objects/id before 4.0. */
static void block_name(struct gw_qemu *q, const char *id, char *idstr)
{
	json_t *v = property(q, id, "x-use-canonical-path-for-ramblock-id",
			     NULL);

	snprintf(idstr, GW_IDSTR_MAX + 1, "%s%s",
		 json_is_true(v) ? "/objects/" : "", id);
	json_decref(v);
}

/*
 * The mapping of backend @id: of the same file, else (a path that is gone or
 * seen from another root) the only one of its size.
 */
static const struct gw_agent_mapping *
find_mapping(struct gw_qemu *q, const struct gw_agent_ram *maps,
	     const char *id, uint64_t size)
{
	const struct gw_agent_mapping *hit = NULL;
	struct stat st;
	bool known = !stat_backend(q, id, &st);

	for (unsigned int i = 0; i < maps->nmaps; i++) {
		const struct gw_agent_mapping *m = &maps->map[i];

		if (m->length < size || m->fd < 0)
			continue;
		if (known && m->dev == st.st_dev && m->ino == st.st_ino)
			return m;
		if (!known && m->length == size) {
			if (hit)
				return NULL; /* ambiguous */
			hit = m;
		}
	}
	return hit;
}

static int add_backend(struct gw_qemu *q, const struct gw_agent_ram *maps,
		       const char *id, uint64_t size, bool keep,
		       struct gw_error *err)
{
	const struct gw_agent_mapping *m = find_mapping(q, maps, id, size);
	char idstr[GW_IDSTR_MAX + 1];
	struct gw_ramblock *b;
	int fd;

	if (!m)
		return gw_fail(err, ENOENT,
			       "the memory of backend '%s' is not a file that QEMU shares (share=on on memory-backend-file): start the VM with 'godwit run'",
			       id);
	fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return gw_fail_errno(err, errno, "descriptor of backend '%s'",
				     id);
	block_name(q, id, idstr);
	b = gw_ram_add(&q->vm.ram, idstr, size,
		       m->page_size ? m->page_size : GW_PAGE_SIZE, fd,
		       m->offset, err);
	if (!b)
		return -EINVAL;
	b->peer_addr = m->addr;
	b->keep = keep;
	gw_info("RAM block '%s': %llu bytes at 0x%llx in QEMU", idstr,
		(unsigned long long)size, (unsigned long long)m->addr);
	return 0;
}

/* -overcommit mem-lock=on. */
static bool is_locked(struct gw_qemu *q)
{
	char path[64], line[128];
	unsigned long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)q->pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmLck: %lu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib > 0;
}

static int add_all(struct gw_qemu *q, const struct gw_agent_ram *maps,
		   json_t *memdevs, struct gw_error *err)
{
	bool locked = is_locked(q);
	json_t *v;
	size_t i;
	int r = 0;

	json_array_foreach(memdevs, i, v) {
		const char *id = NULL;
		json_int_t size = 0;
		int share = 0, prealloc = 0;

		if (json_unpack(v, "{s?s, s:I, s?b, s?b}", "id", &id, "size",
				&size, "share", &share, "prealloc",
				&prealloc) || !id || size <= 0)
			return gw_fail(err, EPROTO,
				       "query-memdev lists a backend without id or size");
		if (!share)
			return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
					  "RAM backend '%s' (%lld bytes) is private to QEMU, so it cannot be moved from outside: start the VM with 'godwit run', which shares it",
					  id, (long long)size);
		r = add_backend(q, maps, id, (uint64_t)size,
				locked || prealloc, err);
		if (r)
			return r;
	}
	if (!q->vm.ram.nblocks)
		return gw_fail_as(err, GW_FAULT_USAGE, ENOENT,
				  "this QEMU has no shared RAM backend: start the VM with 'godwit run'");
	return 0;
}

int gw_qemu_find_ram(struct gw_qemu *q, struct gw_error *err)
{
	struct gw_agent_ram maps;
	json_t *memdevs;
	int r = gw_agent_ram(q->agent, &maps, err);

	if (r)
		return r;
	memdevs = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err, "query-memdev",
			     NULL);
	r = memdevs ? add_all(q, &maps, memdevs, err) : -EREMOTEIO;
	json_decref(memdevs);
	gw_agent_ram_fini(&maps);
	return r;
}
