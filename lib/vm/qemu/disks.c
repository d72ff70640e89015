/* SPDX-License-Identifier: BSD-3-Clause */
/* disks.c - see disks.h. */
#include "vm/qemu/disks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/scope.h"
#include "vm/qemu/internal.h"

#define OURS	       "godwit-disk"
#define CANCEL_MS      20000 /* a job that is told to end at once */
#define CANCEL_STEP_NS (5 * GW_NS_PER_MS)
#define BACKLOG	       GW_DISKS_MAX

static struct gw_qemu_disks *disks_of(struct gw_vm *vm)
{
	return &gw_qemu_of(vm)->disks;
}

/* Of a job, node, export or passed socket. */
static const char *our_name(char buf[32], uint32_t i)
{
	snprintf(buf, 32, OURS "%u", i);
	return buf;
}

static bool is_ours(const char *name)
{
	unsigned int i;
	int end = 0;

	return name && sscanf(name, OURS "%u%n", &i, &end) == 1 && !name[end];
}

static const char *text(const json_t *v, const char *key)
{
	const char *s = json_string_value(json_object_get(v, key));

	return s ? s : "";
}

/* --- which disks there are ------------------------------------------------ */

/*
 * What both sides call it: the id of -drive, else that of -device, else where
 * the device is in the machine.
 */
static void disk_name(const json_t *b, char name[GW_DISK_NAME_MAX + 1])
{
	const char *device = text(b, "device"), *qdev = text(b, "qdev");
	char id[GW_DISK_NAME_MAX + 1];

	if (device[0])
		snprintf(name, GW_DISK_NAME_MAX + 1, "%s", device);
	else if (sscanf(qdev, "/machine/peripheral/%255[^/]", id) == 1)
		snprintf(name, GW_DISK_NAME_MAX + 1, "%s", id);
	else
		snprintf(name, GW_DISK_NAME_MAX + 1, "%s", qdev);
}

static json_t *query_block(struct gw_qemu *q, struct gw_error *err)
{
	return gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err, "query-block", NULL);
}

/* The medium of a device that the guest can write to; NULL: there is none. */
static const json_t *writable(const json_t *b)
{
	const json_t *m = json_object_get(b, "inserted");
	char name[GW_DISK_NAME_MAX + 1];

	disk_name(b, name);
	return m && name[0] && !json_is_true(json_object_get(m, "ro")) ? m
								       : NULL;
}

static uint64_t size_of(const json_t *medium)
{
	return (uint64_t)json_integer_value(json_object_get(
		json_object_get(medium, "image"), "virtual-size"));
}

static bool has_backing(const json_t *medium)
{
	return json_integer_value(
		       json_object_get(medium, "backing_file_depth")) > 0;
}

static int add_disk(struct gw_qemu_disks *d, const json_t *b,
		    struct gw_error *err)
{
	const json_t *medium = writable(b);
	struct gw_disk *disk = &d->list.disk[d->list.n];

	if (!medium)
		return 0;
	if (d->list.n == GW_DISKS_MAX)
		return gw_fail_as(err, GW_FAULT_USAGE, E2BIG,
				  "more than %u disks that can be written, no "
				  "more can be copied in one migration",
				  GW_DISKS_MAX);
	disk_name(b, disk->name);
	disk->size = size_of(medium);
	disk->backing = d->incremental && has_backing(medium);
	snprintf(d->node[d->list.n], sizeof(d->node[0]), "%s",
		 text(medium, "node-name"));
	/* An empty one has nothing to copy, and QEMU's mirror no use for it. */
	if (disk->size)
		d->list.n++;
	return 0;
}

static int op_list(struct gw_vm *vm, bool incremental, struct gw_disks *list,
		   struct gw_error *err)
{
	struct gw_qemu_disks *d = disks_of(vm);
	json_t *all = query_block(gw_qemu_of(vm), err), *b;
	int r = all ? 0 : -err->code;
	size_t i;

	d->list.n = 0;
	d->incremental = incremental;
	d->completing = false;
	json_array_foreach(all, i, b) if (!r) r = add_disk(d, b, err);
	json_decref(all);
	*list = d->list;
	return r;
}

/* --- source: one job per disk --------------------------------------------- */

static int op_open(struct gw_vm *vm, uint32_t i, struct gw_error *err)
{
	char name[32];

	return gw_qemu_pass_socket(gw_qemu_of(vm), our_name(name, i), 0, err);
}

/* Say of which disk. */
static int of_disk(struct gw_qemu_disks *d, uint32_t i, struct gw_error *err)
{
	gw_error_prefix(err, "disk '%s'", d->list.disk[i].name);
	return -err->code;
}

/*
 * The node that the copy is written to. The image there may be larger: `raw`
 * in front cuts it to what the guest sees. Zeroes travel as such.
 */
static int add_node(struct gw_qemu *q, uint32_t i, struct gw_error *err)
{
	char name[32], nbd[40];

	our_name(name, i);
	snprintf(nbd, sizeof(nbd), "%s-nbd", name);
	return gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "blockdev-add",
			 "{s:s, s:s, s:I, s:s, s:s, s:{s:s, s:s, s:s, s:s, "
			 "s:{s:s, s:s}}}",
			 "driver", "raw", "node-name", name, "size",
			 (json_int_t)q->disks.list.disk[i].size, "discard",
			 "unmap", "detect-zeroes", "unmap", "file", "driver",
			 "nbd", "node-name", nbd, "export", name, "discard",
			 "unmap", "server", "type", "fd", "str", name);
}

static int op_copy(struct gw_vm *vm, uint32_t i, uint64_t speed,
		   struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct gw_qemu_disks *d = &q->disks;
	char name[32];
	int r;

	d->started = i + 1;
	r = add_node(q, i, err);
	/* Dismissed by us: until then QEMU remembers how it ended. */
	if (!r)
		r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "blockdev-mirror",
			      "{s:s, s:s, s:s, s:s, s:I, s:s, s:s, s:b}",
			      "job-id", our_name(name, i), "device", d->node[i],
			      "target", name, "sync",
			      d->incremental ? "top" : "full", "speed",
			      (json_int_t)speed, "on-source-error", "report",
			      "on-target-error", "report", "auto-dismiss", 0);
	return r ? of_disk(d, i, err) : 0;
}

static json_t *query_jobs(struct gw_qemu *q, struct gw_error *err)
{
	return gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err, "query-jobs", NULL);
}

static const json_t *find_job(const json_t *jobs, uint32_t i)
{
	const json_t *j;
	char name[32];
	size_t k;

	our_name(name, i);
	json_array_foreach(jobs, k,
			   j) if (!strcmp(text(j, "id"), name)) return j;
	return NULL;
}

/* One job's part of @now. */
static int look(struct gw_qemu_disks *d, uint32_t i, const json_t *job,
		struct gw_vm_disks_now *now, struct gw_error *err)
{
	const char *status = text(job, "status"), *why = text(job, "error");
	bool over =
		!job || !strcmp(status, "concluded") || !strcmp(status, "null");

	if (why[0] || (over && !d->completing))
		return gw_fail(
			err, EIO, "copying disk '%s': %s", d->list.disk[i].name,
			why[0] ? why : "QEMU's job was ended by somebody");
	now->done += (uint64_t)json_integer_value(
		json_object_get(job, "current-progress"));
	now->total += (uint64_t)json_integer_value(
		json_object_get(job, "total-progress"));
	now->ended = now->ended && over;
	/* standby: ready, and paused for a moment. */
	now->ready = now->ready && (over || !strcmp(status, "ready") ||
				    !strcmp(status, "standby"));
	return 0;
}

static int op_poll(struct gw_vm *vm, struct gw_vm_disks_now *now,
		   struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	json_t *jobs = query_jobs(q, err);
	int r = jobs ? 0 : -err->code;

	*now = (struct gw_vm_disks_now){ .ready = true, .ended = true };
	for (uint32_t i = 0; i < q->disks.list.n && !r; i++)
		r = look(&q->disks, i, find_job(jobs, i), now, err);
	json_decref(jobs);
	return r;
}

static int op_speed(struct gw_vm *vm, uint64_t speed, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	char name[32];
	int r = 0;

	for (uint32_t i = 0; i < q->disks.list.n && !r; i++)
		r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err,
			      "block-job-set-speed", "{s:s, s:I}", "device",
			      our_name(name, i), "speed", (json_int_t)speed);
	return r;
}

static int op_settle(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	char name[32];
	int r = 0;

	for (uint32_t i = 0; i < q->disks.list.n && !r; i++)
		r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err,
			      "block-job-change", "{s:s, s:s, s:s}", "id",
			      our_name(name, i), "type", "mirror", "copy-mode",
			      "write-blocking");
	return r;
}

/* A mirror that is cancelled when it is ready copies the rest and stays what
 * it is: a copy. (block-job-complete would move the source's VM over to it.) */
static int op_complete(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	char name[32];
	int r = 0;

	q->disks.completing = true;
	for (uint32_t i = 0; i < q->disks.list.n && !r; i++) {
		r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err,
			      "block-job-cancel", "{s:s}", "device",
			      our_name(name, i));
		if (r)
			of_disk(&q->disks, i, err);
	}
	return r;
}

static int op_end(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	char name[32];
	int r = 0;

	for (uint32_t i = 0; i < q->disks.list.n && !r; i++) {
		our_name(name, i);
		r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "job-dismiss",
			      "{s:s}", "id", name);
		if (!r)
			r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err,
				      "blockdev-del", "{s:s}", "node-name",
				      name);
	}
	if (!r)
		q->disks.started = 0;
	return r;
}

/* --- taking down ---------------------------------------------------------- */

/* A failure here is of something that ended by itself meanwhile. */
static void try_cmd(struct gw_qemu *q, const char *command, const char *key,
		    const char *name)
{
	struct gw_error why;

	if (gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, &why, command, "{s:s}", key,
		      name))
		gw_debug("%s", why.msg);
}

static void force_cancel(struct gw_qemu *q, const char *name)
{
	struct gw_error why;

	if (gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, &why, "block-job-cancel",
		      "{s:s, s:b}", "device", name, "force", 1))
		gw_debug("%s", why.msg);
}

/* End our jobs. Return: how many are not over yet, -errno. */
static int end_jobs(struct gw_qemu *q, bool cancel, struct gw_error *err)
{
	json_t *jobs = query_jobs(q, err), *j;
	int left = jobs ? 0 : -err->code;
	size_t i;

	json_array_foreach(jobs, i, j)
	{
		const char *id = text(j, "id");

		if (!is_ours(id))
			continue;
		if (!strcmp(text(j, "status"), "concluded")) {
			try_cmd(q, "job-dismiss", "id", id);
			continue;
		}
		left++;
		if (cancel)
			force_cancel(q, id);
	}
	json_decref(jobs);
	return left;
}

static int delete_nodes(struct gw_qemu *q, struct gw_error *err)
{
	json_t *nodes =
		gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err,
			   "query-named-block-nodes", "{s:b}", "flat", 1);
	int r = nodes ? 0 : -err->code;
	json_t *n;
	size_t i;

	json_array_foreach(nodes, i, n) if (is_ours(text(n, "node-name")))
		try_cmd(q, "blockdev-del", "node-name", text(n, "node-name"));
	json_decref(nodes);
	return r;
}

static int clean_source(struct gw_qemu *q, struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(CANCEL_MS);
	struct timespec step = { 0, CANCEL_STEP_NS };
	int left = end_jobs(q, true, err);

	while (left > 0 && gw_deadline_left_ms(deadline) > 0) {
		nanosleep(&step, NULL);
		left = end_jobs(q, false, err);
	}
	if (left > 0)
		return gw_fail(err, ETIMEDOUT,
			       "%d jobs that copied disks of '%s' do not end",
			       left, q->vm.info.name);
	return left < 0 ? left : delete_nodes(q, err);
}

static void op_abort(struct gw_vm *vm)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct gw_error why = { 0 };
	char name[32];

	if (!q->disks.list.n || gw_qemu_dead(q))
		return;
	for (uint32_t i = 0; i < q->disks.list.n; i++)
		try_cmd(q, "closefd", "fdname", our_name(name, i));
	if (q->disks.started && clean_source(q, &why))
		gw_warn("%s; the VM does not need them", why.msg);
	q->disks.started = 0;
}

/* --- destination: a server ------------------------------------------------ */

static void socket_path(struct gw_qemu *q, char path[GW_SUN_PATH_SIZE])
{
	snprintf(path, GW_SUN_PATH_SIZE, "%.98s/nbd.sock",
		 q->ref.dir[0] ? q->ref.dir : q->disks.folder);
}

static void remove_socket(struct gw_qemu *q)
{
	if (q->disks.path[0])
		unlink(q->disks.path);
	if (q->disks.folder[0])
		rmdir(q->disks.folder);
	q->disks.path[0] = q->disks.folder[0] = '\0';
}

/* In a folder that only its owner can enter. -1 with @err. */
static int listen_nbd(struct gw_qemu *q, struct gw_error *err)
{
	struct gw_qemu_disks *d = &q->disks;
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	gw_autoclose int fd = -1;

	if (!q->ref.dir[0]) {
		snprintf(d->folder, sizeof(d->folder), "/tmp/godwit-XXXXXX");
		if (!mkdtemp(d->folder)) {
			gw_fail_errno(err, errno, "%s", d->folder);
			d->folder[0] = '\0';
			return -1;
		}
	}
	socket_path(q, d->path);
	memcpy(sun.sun_path, d->path, sizeof(sun.sun_path));
	unlink(d->path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sun, sizeof(sun)) ||
	    chmod(d->path, 0600) || listen(fd, BACKLOG)) {
		gw_fail_errno(err, errno, "%s", d->path);
		return -1;
	}
	return gw_take_fd(&fd);
}

/* QEMU gets the socket itself: it needs no access to the folder. */
static int start_server(struct gw_qemu *q, struct gw_error *err)
{
	gw_autoclose int fd = listen_nbd(q, err);
	json_t *args, *v;
	int r;

	if (fd < 0)
		return -err->code;
	args = json_pack("{s:s}", "fdname", OURS "s");
	v = gw_qmp_cmd_json(q->qmp, GW_QMP_TIMEOUT_MS, fd, "getfd", args, err);
	json_decref(args);
	if (!v)
		return -err->code;
	json_decref(v);
	r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "nbd-server-start",
		      "{s:{s:s, s:{s:s}}}", "addr", "type", "fd", "data", "str",
		      OURS "s");
	if (!r) {
		q->disks.serving = true;
		return 0;
	}
	try_cmd(q, "closefd", "fdname", OURS "s");
	gw_error_prefix(err,
			"the disks cannot be taken in (a NBD server of your "
			"own has to be stopped first, by nbd-server-stop)");
	err->fault = GW_FAULT_REFUSED;
	return r;
}

/* "a, b" of what there is, for a message. */
static void name_all(const json_t *all, char list[256])
{
	char name[GW_DISK_NAME_MAX + 1];
	const json_t *b;
	size_t i, n = 0;

	snprintf(list, 256, "none");
	json_array_foreach(all, i, b)
	{
		if (!writable(b) || n >= 200)
			continue;
		disk_name(b, name);
		n += (size_t)snprintf(list + n, 256 - n, "%s%.48s",
				      n ? ", " : "", name);
	}
}

static const json_t *find_disk(const json_t *all, const char *want)
{
	char name[GW_DISK_NAME_MAX + 1];
	const json_t *b;
	size_t i;

	json_array_foreach(all, i, b)
	{
		disk_name(b, name);
		if (!strcmp(name, want) && writable(b))
			return writable(b);
	}
	return NULL;
}

static int fits(const json_t *all, const struct gw_disk *d,
		const json_t *medium, struct gw_error *err)
{
	char list[256];

	if (!medium) {
		name_all(all, list);
		return gw_fail_as(
			err, GW_FAULT_REFUSED, ENOENT,
			"disk '%s' is not here, those that can be written "
			"here: %s. Start the destination with the source's ids "
			"and an image of at least %llu bytes",
			d->name, list, (unsigned long long)d->size);
	}
	if (size_of(medium) < d->size)
		return gw_fail_as(
			err, GW_FAULT_REFUSED, ENOSPC,
			"disk '%s' has %llu bytes here and %llu at the source: "
			"make its image at least as large",
			d->name, (unsigned long long)size_of(medium),
			(unsigned long long)d->size);
	if (d->backing && !has_backing(medium))
		return gw_fail_as(err, GW_FAULT_REFUSED, ENOENT,
				  "disk '%s' has no backing file here, and an "
				  "incremental copy leaves out what is in the "
				  "source's: give the image one (qemu-img "
				  "create -b), or copy with --disks full",
				  d->name);
	return 0;
}

static int export_disk(struct gw_qemu *q, const json_t *all, uint32_t i,
		       struct gw_error *err)
{
	const struct gw_disk *d = &q->disks.list.disk[i];
	const json_t *medium = find_disk(all, d->name);
	char name[32];
	int r = fits(all, d, medium, err);

	if (r)
		return r;
	our_name(name, i);
	r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "block-export-add",
		      "{s:s, s:s, s:s, s:s, s:b}", "type", "nbd", "id", name,
		      "node-name", text(medium, "node-name"), "name", name,
		      "writable", 1);
	return r ? of_disk(&q->disks, i, err) : 0;
}

static int op_serve(struct gw_vm *vm, const struct gw_disks *list,
		    struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	json_t *all = query_block(q, err);
	int r = all ? 0 : -err->code;

	q->disks.list = *list;
	if (!r)
		r = start_server(q, err);
	for (uint32_t i = 0; i < list->n && !r; i++)
		r = export_disk(q, all, i, err);
	json_decref(all);
	return r;
}

static int op_connect(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu_disks *d = disks_of(vm);
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	gw_autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(sun.sun_path, d->path, sizeof(sun.sun_path));
	if (fd < 0 || connect(fd, (struct sockaddr *)&sun, sizeof(sun)))
		return gw_fail_errno(err, errno, "QEMU's NBD server at %s",
				     d->path);
	return gw_take_fd(&fd);
}

static int op_stop(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r = 0;

	if (q->disks.serving && !gw_qemu_dead(q))
		r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "nbd-server-stop",
			      NULL);
	q->disks.serving = q->disks.serving && r;
	remove_socket(q);
	return r;
}

/* Ours if it has an export of ours, or was about to. */
static int clean_dest(struct gw_qemu *q, struct gw_error *err)
{
	json_t *list = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err,
				  "query-block-exports", NULL);
	char path[GW_SUN_PATH_SIZE] = "";
	bool any = false;
	json_t *e;
	size_t i;

	if (!list)
		return -err->code;
	json_array_foreach(list, i, e) any = any || is_ours(text(e, "id"));
	json_decref(list);
	if (q->ref.dir[0])
		socket_path(q, path);
	if (!any && access(path, F_OK))
		return 0;
	if (path[0])
		unlink(path);
	if (gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "nbd-server-stop", NULL))
		return any ? -err->code : 0;
	return 0;
}

int gw_qemu_disks_clean(struct gw_qemu *q, struct gw_error *err)
{
	int r = clean_source(q, err);

	return r ? r : clean_dest(q, err);
}

void gw_qemu_disks_fini(struct gw_qemu *q)
{
	remove_socket(q);
}

const struct gw_vm_disk_ops gw_qemu_disk_ops = {
	.list = op_list,
	.open = op_open,
	.copy = op_copy,
	.poll = op_poll,
	.speed = op_speed,
	.settle = op_settle,
	.complete = op_complete,
	.end = op_end,
	.abort = op_abort,
	.serve = op_serve,
	.connect = op_connect,
	.stop = op_stop,
};
