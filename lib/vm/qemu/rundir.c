/* SPDX-License-Identifier: BSD-3-Clause */
/* rundir.c - see rundir.h. */
#include "vm/qemu/rundir.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/scope.h"
#include "vm/qemu/option.h"

#define FIRST_KEPT_FD	100 /* wrapper scripts use small numbers */
#define CLAIM_TRIES	20
#define CLAIM_PAUSE_NS	(20 * 1000 * 1000)
#define LONGEST_FILE	"standby.sock"

/* --- names and paths ----------------------------------------------------- */

static bool name_ok(const char *name)
{
	size_t n = strlen(name);

	if (n < 1 || n > GW_VM_NAME_MAX || name[0] == '.' || name[0] == '-')
		return false;
	for (; *name; name++)
		if (!isascii(*name) ||
		    (!isalnum((unsigned char)*name) && !strchr("_.-", *name)))
			return false;
	return true;
}

int gw_rundir_check_name(const char *name, struct gw_error *err)
{
	if (name_ok(name))
		return 0;
	return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			  "'%.80s' cannot be the name of a VM: 1 to %d letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
			  name, GW_VM_NAME_MAX);
}

static int base_path(char base[PATH_MAX], struct gw_error *err)
{
	const char *dir = getenv("GODWIT_RUNTIME_DIR");
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	char cwd[PATH_MAX] = "";
	int n;

	if (dir && *dir && *dir != '/' && !getcwd(cwd, sizeof(cwd)))
		return gw_fail_errno(err, errno, "current directory");
	if (dir && *dir)
		n = snprintf(base, PATH_MAX, "%s%s%s", cwd, *cwd ? "/" : "",
			     dir);
	else if (xdg && *xdg)
		n = snprintf(base, PATH_MAX, "%s/godwit", xdg);
	else
		n = snprintf(base, PATH_MAX, "/run/godwit");
	if (n < 0 || n >= PATH_MAX)
		return gw_fail_as(err, GW_FAULT_USAGE, ENAMETOOLONG,
				  "the path of the runtime folder is too long: set GODWIT_RUNTIME_DIR to a shorter one");
	while (n > 1 && base[n - 1] == '/')
		base[--n] = '\0';
	return 0;
}

int gw_rundir_base(char base[PATH_MAX], bool create, struct gw_error *err)
{
	struct stat st;
	int r = base_path(base, err);

	if (r)
		return r;
	if (create && mkdir(base, 0700) && errno != EEXIST)
		return gw_fail_errno(
			err, errno,
			"cannot make the runtime folder %s (GODWIT_RUNTIME_DIR or XDG_RUNTIME_DIR may name another place)",
			base);
	if (stat(base, &st))
		return gw_fail_errno(err, errno, "runtime folder %s", base);
	if (!S_ISDIR(st.st_mode))
		return gw_fail(err, ENOTDIR,
			       "the runtime folder %s is no folder: remove it, or set GODWIT_RUNTIME_DIR",
			       base);
	if (st.st_uid != geteuid())
		return gw_fail(err, EPERM,
			       "the runtime folder %s belongs to user %u, not to user %u: set GODWIT_RUNTIME_DIR to a folder of your own",
			       base, st.st_uid, geteuid());
	if (st.st_mode & 077)
		return gw_fail(err, EPERM,
			       "others have access to the runtime folder %s: chmod 700 it",
			       base);
	return 0;
}

static int paths_in(const char *base, const char *name,
		    struct gw_rundir_paths *p, struct gw_error *err)
{
	size_t n = strlen(base) + strlen(name) + strlen(LONGEST_FILE) + 2;

	memset(p, 0, sizeof(*p));
	if (n >= GW_SUN_PATH_SIZE)
		return gw_fail_as(err, GW_FAULT_USAGE, ENAMETOOLONG,
				  "socket path %s/%s/%s has %zu bytes, %d are possible: use a shorter VM name, or set GODWIT_RUNTIME_DIR to a shorter path",
				  base, name, LONGEST_FILE, n,
				  GW_SUN_PATH_SIZE - 1);
	/* no longer than the check above allows */
	stpcpy(stpcpy(stpcpy(p->dir, base), "/"), name);
	stpcpy(stpcpy(p->qmp, p->dir), "/qmp.sock");
	stpcpy(stpcpy(p->status, p->dir), "/status.sock");
	stpcpy(stpcpy(p->front, p->dir), "/front.sock");
	stpcpy(stpcpy(p->guard, p->dir), "/guard.sock");
	stpcpy(stpcpy(p->agent, p->dir), "/agent.sock");
	return 0;
}

int gw_rundir_paths(const char *name, struct gw_rundir_paths *p,
		    struct gw_error *err)
{
	char base[PATH_MAX];
	int r = gw_rundir_check_name(name, err);

	if (!r)
		r = base_path(base, err);
	return r ? r : paths_in(base, name, p, err);
}

/* --- locks --------------------------------------------------------------- */

static int ofd_lock(int fd, int op, short type)
{
	struct flock l = { .l_type = type, .l_whence = SEEK_SET };

	if (fcntl(fd, op, &l))
		return -errno;
	return op == F_OFD_GETLK ? l.l_type != F_UNLCK : 0;
}

/* Is the file we have open still the one called @name in @dir? */
static bool still_there(int dir, const char *name, int fd)
{
	struct stat a, b;

	return !fstat(fd, &a) && !fstatat(dir, name, &b, AT_SYMLINK_NOFOLLOW) &&
	       a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

/* Take the lock @name of @dir without waiting.
 * Return: descriptor, -EAGAIN somebody has it, or another -errno. */
static int take_lock(int dir, const char *name, bool create)
{
	gw_autoclose int fd = openat(dir, name,
				     O_RDWR | O_CLOEXEC | O_NOFOLLOW |
					     (create ? O_CREAT : 0),
				     0600);
	int r;

	if (fd < 0)
		return -errno;
	r = ofd_lock(fd, F_OFD_SETLK, F_WRLCK);
	if (r)
		return r == -EACCES ? -EAGAIN : r;
	if (!still_there(dir, name, fd))
		return -ENOENT; /* removed while we opened it */
	return gw_take_fd(&fd);
}

static bool is_locked(int dir, const char *name)
{
	gw_autoclose int fd = openat(dir, name,
				     O_RDWR | O_CLOEXEC | O_NOFOLLOW);

	return fd >= 0 && ofd_lock(fd, F_OFD_GETLK, F_WRLCK) == 1;
}

static int open_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	return fd < 0 ? -errno : fd;
}

bool gw_rundir_alive(const char *path)
{
	gw_autoclose int dir = open_dir(path);

	return dir >= 0 && is_locked(dir, "lock");
}

/* Is @name a file that a VM's folder may have, beside the lock? */
static bool is_ours(const char *name)
{
	static const char *const files[] = { "vm.json",	    "monitors.cfg",
					     "qmp.sock",    "status.sock",
					     "front.sock",  "agent.sock",
					     "move.lock",   "handover.json",
					     "nbd.sock",    "free-pages.sock",
					     "guard.sock",  "standby.sock" };

	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		size_t n = strlen(files[i]), all = strlen(name);

		if (!strncmp(name, files[i], n) &&
		    (!name[n] || !strcmp(name + all - 4, ".tmp")))
			return true;
	}
	return false;
}

/* What belongs to the godwit that works on the VM. */
static bool is_mover(const char *name)
{
	return !strcmp(name, "move.lock") || !strcmp(name, "standby.sock");
}

/* Only what is ours: the base may have been set to any folder by mistake.
 * @again: and what is QEMU's. */
static void clear_dir(int dir, bool again)
{
	int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (is_ours(e->d_name) && !(again && is_mover(e->d_name)))
			unlinkat(dir, e->d_name, 0);
	if (d)
		closedir(d);
}

/* With the lock held: the lock file goes last, so that whoever opened it
 * before finds out (still_there). */
static void remove_locked(int dir, const char *path)
{
	clear_dir(dir, false);
	unlinkat(dir, "lock", 0);
	rmdir(path);
}

/* Remove the folder of a VM that ended, unless somebody works on it. */
static void remove_stale(const char *path)
{
	gw_autoclose int dir = open_dir(path);
	gw_autoclose int lock = -1;

	if (dir < 0 || is_locked(dir, "move.lock"))
		return;
	lock = take_lock(dir, "lock", false);
	if (lock >= 0)
		remove_locked(dir, path);
	else if (lock == -ENOENT)
		rmdir(path); /* if it is empty: made, and then nothing */
}

/* --- claiming a name ------------------------------------------------------ */

static int claim_once(const char *path, const char *name, bool again,
		      struct gw_error *err)
{
	gw_autoclose int dir = -1;
	gw_autoclose int fd = -1;
	int r;

	if (mkdir(path, 0700) && errno != EEXIST)
		return gw_fail_errno(err, errno, "mkdir %s", path);
	dir = open_dir(path);
	fd = dir < 0 ? dir : take_lock(dir, "lock", true);
	if (fd == -EAGAIN)
		return gw_fail(err, EEXIST,
			       "a VM named '%s' is already running (godwit list shows it): use another name, or end it first",
			       name);
	if (fd == -ENOENT) /* removed under our hands: again */
		return gw_fail(err, ENOENT, "%s vanishes all the time", path);
	if (fd < 0)
		return gw_fail_errno(err, -fd, "%s", path);
	if (!again && is_locked(dir, "move.lock"))
		return gw_fail(err, EEXIST,
			       "the VM '%s' ended, but a godwit still works on it: wait for that, or use another name",
			       name);
	clear_dir(dir, again);
	r = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_KEPT_FD);
	return r >= 0 ? r : gw_take_fd(&fd);
}

static int claim(const char *name, bool again, struct gw_rundir_claim *c,
		 struct gw_error *err)
{
	struct timespec pause = { .tv_nsec = CLAIM_PAUSE_NS };
	char base[PATH_MAX];
	int r;

	c->lock_fd = -1;
	r = gw_rundir_paths(name, &c->path, err);
	if (!r)
		r = gw_rundir_base(base, true, err);
	if (r)
		return r;
	/* a lock may be held for a moment by somebody who removes a folder */
	for (int i = 0; i < CLAIM_TRIES; i++) {
		r = claim_once(c->path.dir, name, again, err);
		if (r != -EEXIST && r != -ENOENT)
			break;
		nanosleep(&pause, NULL);
	}
	if (r < 0)
		return r;
	c->lock_fd = r;
	if (err)
		memset(err, 0, sizeof(*err)); /* of an earlier try */
	return 0;
}

int gw_rundir_claim(const char *name, struct gw_rundir_claim *c,
		    struct gw_error *err)
{
	return claim(name, false, c, err);
}

int gw_rundir_reclaim(const char *name, struct gw_rundir_claim *c,
		      struct gw_error *err)
{
	return claim(name, true, c, err);
}

int gw_rundir_inherit(struct gw_rundir_claim *c, struct gw_error *err)
{
	if (fcntl(c->lock_fd, F_SETFD, 0))
		return gw_fail_errno(err, errno, "lock of %s", c->path.dir);
	return 0;
}

void gw_rundir_release(struct gw_rundir_claim *c)
{
	gw_autoclose int dir = -1;

	if (c->lock_fd < 0)
		return;
	dir = open_dir(c->path.dir);
	if (dir >= 0)
		remove_locked(dir, c->path.dir);
	close(c->lock_fd);
	c->lock_fd = -1;
}

/* --- files ---------------------------------------------------------------- */

/* Replace @dir/@name by the text of @j (taken over): a reader sees the old
 * one or the new one, also after a crash. */
static int write_json(const char *dir, const char *name, json_t *j,
		      struct gw_error *err)
{
	gw_autoclose int d = open_dir(dir);
	gw_autofree char *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
	gw_autoclose int fd = -1;
	char tmp[64];
	size_t len;

	json_decref(j);
	if (!text)
		return gw_fail(err, EINVAL,
			       "%s/%s: a text is not valid UTF-8", dir, name);
	if (d < 0)
		return gw_fail_errno(err, -d, "%s", dir);
	snprintf(tmp, sizeof(tmp), "%s.%d.tmp", name, getpid());
	fd = openat(d, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	len = strlen(text);
	text[len++] = '\n'; /* in place of the terminating 0 */
	if (fd < 0 || write(fd, text, len) != (ssize_t)len || fsync(fd) ||
	    renameat(d, tmp, d, name)) {
		int code = errno ? errno : ENOSPC;

		unlinkat(d, tmp, 0);
		return gw_fail_errno(err, code, "%s/%s", dir, name);
	}
	return 0;
}

static json_t *read_json(const char *dir, const char *name,
			 struct gw_error *err)
{
	char path[PATH_MAX];
	json_error_t je;
	json_t *j;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (access(path, R_OK)) {
		gw_fail_errno(err, errno, "%s", path);
		return NULL;
	}
	j = json_load_file(path, 0, &je);
	if (!j)
		gw_fail_as(err, GW_FAULT_INPUT, EINVAL, "%s is damaged: %s",
			   path, je.text);
	return j;
}

static json_t *blocks_to_json(const struct gw_rundir_vm *vm)
{
	json_t *list = json_array();

	for (int i = 0; i < vm->nblocks; i++)
		json_array_append_new(list,
				      json_pack("{s:s,s:I}", "id",
						vm->block[i].id, "size",
						(json_int_t)vm->block[i].size));
	return list;
}

int gw_rundir_write_vm(const struct gw_rundir_claim *c,
		       const struct gw_rundir_vm *vm, struct gw_error *err)
{
	const struct gw_rundir_paths *p = &c->path;
	json_t *j = json_pack(
		"{s:s,s:s,s:I,s:i,s:s,s:O?,s:s,s:s,s:s,s:I,s:o,s:b,s:s,s:s,s:s,s:O?,s:s,s:s,s:b,s:I}",
		"name", vm->name, "godwit", GW_VERSION, "created",
		(json_int_t)vm->created, "pid", (int)vm->pid, "binary",
		vm->binary, "argv", vm->argv, "machine", vm->machine, "qemu",
		vm->qemu, "agent-mode", vm->agent, "memory",
		(json_int_t)vm->memory, "blocks", blocks_to_json(vm),
		"incoming", vm->incoming, "qmp", p->qmp, "status", p->status,
		"agent", p->agent, "command", vm->command, "cwd", vm->cwd,
		"hugepages", vm->hugepages, "free-page-agent",
		vm->free_page_agent, "memory-option",
		(json_int_t)vm->memory_option);

	return write_json(p->dir, "vm.json", j, err);
}

/* @to := text of @key, cut to its size; "" when it is not there. */
#define load_text(j, key, to) copy_text(j, key, to, sizeof(to))

static void copy_text(const json_t *j, const char *key, char *to, size_t size)
{
	const char *s = json_string_value(json_object_get(j, key));

	snprintf(to, size, "%s", s ? s : "");
}

static int64_t load_int(const json_t *j, const char *key)
{
	return json_integer_value(json_object_get(j, key));
}

static void vm_from_json(const json_t *j, struct gw_rundir_vm *vm)
{
	const json_t *block;
	size_t i;

	load_text(j, "godwit", vm->version);
	load_text(j, "binary", vm->binary);
	load_text(j, "machine", vm->machine);
	load_text(j, "qemu", vm->qemu);
	load_text(j, "agent-mode", vm->agent);
	vm->created = load_int(j, "created");
	vm->pid = (pid_t)load_int(j, "pid");
	vm->argv = json_incref(json_object_get(j, "argv"));
	vm->command = json_incref(json_object_get(j, "command"));
	load_text(j, "cwd", vm->cwd);
	load_text(j, "hugepages", vm->hugepages);
	vm->free_page_agent = json_is_true(json_object_get(j,
							   "free-page-agent"));
	vm->memory_option = (uint64_t)load_int(j, "memory-option");
	vm->memory = (uint64_t)load_int(j, "memory");
	vm->incoming = json_is_true(json_object_get(j, "incoming"));
	json_array_foreach(json_object_get(j, "blocks"), i, block) {
		if (vm->nblocks == GW_RAM_MAX_BLOCKS)
			break;
		load_text(block, "id", vm->block[vm->nblocks].id);
		vm->block[vm->nblocks++].size =
			(uint64_t)load_int(block, "size");
	}
}

/* A VM that lives but has no vm.json is just being started: not yet there.
 * Return: 0, -ENOENT, -errno. */
static int load_vm(const char *base, const char *name, bool ended,
		   struct gw_rundir_vm *vm, struct gw_error *err)
{
	json_t *j;
	int r;

	memset(vm, 0, sizeof(*vm));
	r = paths_in(base, name, &vm->path, err);
	if (r)
		return r;
	snprintf(vm->name, sizeof(vm->name), "%s", name);
	if (!ended && !gw_rundir_alive(vm->path.dir))
		return -ENOENT;
	j = read_json(vm->path.dir, "vm.json", err);
	if (!j)
		return -ENOENT;
	vm_from_json(j, vm);
	json_decref(j);
	return 0;
}

void gw_rundir_vm_fini(struct gw_rundir_vm *vm)
{
	json_decref(vm->argv);
	json_decref(vm->command);
	vm->argv = vm->command = NULL;
}

void gw_rundir_free(struct gw_rundir_vm *vms, int n)
{
	for (int i = 0; i < n; i++)
		gw_rundir_vm_fini(&vms[i]);
	free(vms);
}

/* --- all of them ---------------------------------------------------------- */

static int is_vm_folder(const struct dirent *e)
{
	return name_ok(e->d_name);
}

static int list_names(const char *base, struct dirent ***names,
		      struct gw_error *err)
{
	int n = scandir(base, names, is_vm_folder, alphasort);

	if (n < 0)
		return gw_fail_errno(err, errno, "runtime folder %s", base);
	return n;
}

int gw_rundir_list(struct gw_rundir_vm **vms, struct gw_error *err)
{
	struct dirent **names;
	char base[PATH_MAX];
	int n, found = 0;
	int r = gw_rundir_base(base, false, err);

	*vms = NULL;
	if (r == -ENOENT) {
		if (err)
			memset(err, 0, sizeof(*err));
		return 0;
	}
	n = r ? r : list_names(base, &names, err);
	if (n <= 0) {
		if (n == 0)
			free(names);
		return n;
	}
	*vms = calloc((size_t)n, sizeof(**vms));
	for (int i = 0; i < n; i++) {
		if (*vms && !load_vm(base, names[i]->d_name, false,
				     &(*vms)[found], NULL))
			found++;
		else if (*vms && !gw_rundir_alive((*vms)[found].path.dir))
			remove_stale((*vms)[found].path.dir);
		free(names[i]);
	}
	free(names);
	if (!*vms)
		return gw_fail(err, ENOMEM, "no memory for %d VMs", n);
	return found;
}

static int not_found(const char *name, struct gw_error *err)
{
	gw_autofree char *text = NULL;
	struct gw_rundir_vm *vms;
	size_t len;
	FILE *f;
	int n = gw_rundir_list(&vms, NULL);

	f = n > 0 ? open_memstream(&text, &len) : NULL;
	for (int i = 0; f && i < n; i++)
		fprintf(f, "%s%s", i ? ", " : "", vms[i].name);
	if (f)
		fclose(f);
	if (n >= 0)
		gw_rundir_free(vms, n);
	return gw_fail_as(err, GW_FAULT_USAGE, ENOENT,
			  "no VM named '%s' is running%s%.600s", name,
			  text ? "; there are: " :
				 "; 'godwit run' starts one",
			  text ? text : "");
}

static int open_vm(const char *name, bool ended, struct gw_rundir_vm *vm,
		   struct gw_error *err)
{
	char base[PATH_MAX];
	int r = gw_rundir_check_name(name, err);

	memset(vm, 0, sizeof(*vm));
	if (!r)
		r = gw_rundir_base(base, false, err);
	if (r && r != -ENOENT)
		return r;
	if (!r)
		r = load_vm(base, name, ended, vm, err);
	return r == -ENOENT ? not_found(name, err) : r;
}

int gw_rundir_open(const char *name, struct gw_rundir_vm *vm,
		   struct gw_error *err)
{
	return open_vm(name, false, vm, err);
}

int gw_rundir_reopen(const char *name, struct gw_rundir_vm *vm,
		     struct gw_error *err)
{
	return open_vm(name, true, vm, err);
}

/* --- moving --------------------------------------------------------------- */

/* Who holds it? The holder wrote its pid after it got the lock. */
static long lock_holder(int dir)
{
	gw_autoclose int fd = openat(dir, "move.lock",
				     O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	char text[24] = "";

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return 0;
	return strtol(text, NULL, 10);
}

int gw_rundir_move_lock(const char *path, const char *name,
			struct gw_error *err)
{
	gw_autoclose int dir = open_dir(path);
	gw_autoclose int fd = dir < 0 ? dir : take_lock(dir, "move.lock", true);
	char text[24];
	int n;

	if (fd == -EAGAIN)
		return gw_fail(err, EBUSY,
			       "VM '%s' is being moved by another godwit, pid %ld",
			       name, lock_holder(dir));
	if (fd < 0)
		return gw_fail_errno(err, -fd, "%s/move.lock", path);
	n = snprintf(text, sizeof(text), "%d\n", getpid());
	if (ftruncate(fd, 0) || pwrite(fd, text, (size_t)n, 0) != n)
		return gw_fail_errno(err, errno, "%s/move.lock", path);
	return gw_take_fd(&fd);
}

int gw_rundir_note_write(const char *dir, struct gw_note *note,
			 struct gw_error *err)
{
	note->time = time(NULL);
	return write_json(dir, "handover.json",
			  json_pack("{s:s,s:s,s:s,s:I,s:s}", "phase",
				    note->phase, "role", note->role, "peer",
				    note->peer, "time", (json_int_t)note->time,
				    "text", note->text),
			  err);
}

int gw_rundir_note_read(const char *dir, struct gw_note *note,
			struct gw_error *err)
{
	struct gw_error local = { 0 };
	json_t *j = read_json(dir, "handover.json", &local);

	memset(note, 0, sizeof(*note));
	if (!j) {
		if (err && local.code != ENOENT)
			*err = local;
		return -local.code;
	}
	load_text(j, "phase", note->phase);
	load_text(j, "role", note->role);
	load_text(j, "peer", note->peer);
	load_text(j, "text", note->text);
	note->time = load_int(j, "time");
	json_decref(j);
	return 0;
}

void gw_rundir_note_clear(const char *path)
{
	gw_autoclose int dir = open_dir(path);

	if (dir >= 0)
		unlinkat(dir, "handover.json", 0);
}

/* --- VM arguments --------------------------------------------------------- */

static int set_socket(const struct gw_option *o, const char *key,
		      char to[GW_SUN_PATH_SIZE], struct gw_error *err)
{
	const char *path = gw_option_get(o, key);

	if (strlen(path) >= GW_SUN_PATH_SIZE)
		return gw_fail_as(err, GW_FAULT_USAGE, ENAMETOOLONG,
				  "the socket path '%s' has more than %d bytes",
				  path, GW_SUN_PATH_SIZE - 1);
	strcpy(to, path);
	return 0;
}

static int parse_sockets(const char *s, struct gw_vmref *ref,
			 struct gw_error *err)
{
	struct gw_option o = { 0 };
	const char *key;
	json_t *value;
	int r = gw_option_parse(&o, s, NULL, err);

	if (r)
		goto out;
	json_object_foreach(o.props, key, value)
		if (strcmp(key, "qmp") && strcmp(key, "agent") &&
		    strcmp(key, "front"))
			r = gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				       "'%s' is not a VM: write NAME or qmp=PATH[,agent=PATH]",
				       s);
	if (!r)
		r = set_socket(&o, "qmp", ref->qmp, err);
	if (!r)
		r = set_socket(&o, "agent", ref->agent, err);
	if (!r)
		r = set_socket(&o, "front", ref->front, err);
	strcpy(ref->guard, ref->front);
	if (!r && !*ref->qmp)
		r = gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			       "'%s' names no monitor: write qmp=PATH", s);
out:
	gw_option_fini(&o);
	return r;
}

int gw_vmref_parse(const char *s, struct gw_vmref *ref, struct gw_error *err)
{
	struct gw_rundir_vm vm;
	int r;

	memset(ref, 0, sizeof(*ref));
	if (strchr(s, '='))
		return parse_sockets(s, ref, err);
	r = gw_rundir_open(s, &vm, err);
	if (r)
		return r;
	strcpy(ref->name, vm.name);
	strcpy(ref->dir, vm.path.dir);
	strcpy(ref->qmp, vm.path.qmp);
	strcpy(ref->agent, vm.path.agent);
	strcpy(ref->front, vm.path.front);
	strcpy(ref->guard, vm.path.guard);
	gw_rundir_vm_fini(&vm);
	return 0;
}
