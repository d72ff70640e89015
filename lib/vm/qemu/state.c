/* SPDX-License-Identifier: BSD-3-Clause */
/* state.c - see state.h. */
#include "vm/qemu/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/scope.h"
#include "vm/qemu/internal.h"
#include "vm/qemu/resume.h"
#include "wire/qemu.h"
#include "wire/vmdesc.h"

#define STATE_TIMEOUT_MS  30000 /* QEMU writes its device state */
#define SETTLE_TIMEOUT_MS 10000
#define OPAQUE		  "godwit-state"
#define FILE_HEADER	  8 /* magic and version */
#define BASE_AGE_NS	  (60 * GW_NS_PER_S)
/* After a reset the firmware writes its tables, which are ROM. */
#define FIRMWARE_NS	  (10 * GW_NS_PER_S)

/* --- what is not RAM ------------------------------------------------------- */

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && !strcmp(s + n - m, end);
}

/* Blocks that nobody writes while the guest runs. */
static bool is_rom(const char *idstr)
{
	return !strcmp(idstr, "pc.bios") || !strcmp(idstr, "isa-bios") ||
	       !strncmp(idstr, "/rom@", 5) || ends_with(idstr, ".rom");
}

static bool only_roms(struct gw_qemu *q, const struct gw_ram_table *t)
{
	for (int i = 0; i < t->n; i++)
		if (!gw_ram_find(&q->vm.ram, t->entry[i].idstr) &&
		    !is_rom(t->entry[i].idstr)) {
			gw_info("the content of '%s' is part of each checkpoint's device state, which makes them slower",
				t->entry[i].idstr);
			return false;
		}
	return true;
}

/* --- the file that QEMU writes to ------------------------------------------ */

static void remove_fdset(struct gw_qemu *q, json_int_t id)
{
	struct gw_error err;

	if (gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, &err, "remove-fd", "{s:I}",
		      "fdset-id", id))
		gw_debug("%s", err.msg);
}

/* Of a godwit that is gone. */
static int remove_old_fdsets(struct gw_qemu *q, struct gw_error *err)
{
	json_t *list = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err,
				  "query-fdsets", NULL);
	json_t *v;
	size_t i;

	if (!list)
		return -EREMOTEIO;
	json_array_foreach(list, i, v) {
		const char *opaque = json_string_value(json_object_get(
			json_array_get(json_object_get(v, "fds"), 0),
			"opaque"));

		if (opaque && !strcmp(opaque, OPAQUE))
			remove_fdset(q, json_integer_value(json_object_get(
						v, "fdset-id")));
	}
	json_decref(list);
	return 0;
}

/* QEMU takes a descriptor of an fdset only if it is opened just as it would
 * open the file itself: for writing alone. */
static int make_file(struct gw_qemu_state *s, struct gw_error *err)
{
	char path[64];

	s->mem = memfd_create(OPAQUE, MFD_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s->mem);
	if (s->mem >= 0)
		s->fd = open(path, O_WRONLY | O_CLOEXEC);
	return s->fd >= 0 ? 0 :
			    gw_fail_errno(err, errno,
					  "a file for the device state");
}

static int pass_file(struct gw_qemu *q, struct gw_error *err)
{
	struct gw_qemu_state *s = &q->state;
	json_t *args = json_pack("{s:s}", "opaque", OPAQUE);
	json_t *v = gw_qmp_cmd_json(q->qmp, GW_QMP_TIMEOUT_MS, s->fd, "add-fd",
				    args, err);

	json_decref(args);
	if (!v)
		return -EREMOTEIO;
	s->fdset = json_integer_value(json_object_get(v, "fdset-id"));
	json_decref(v);
	return 0;
}

int gw_qemu_state_open(struct gw_qemu *q, struct gw_error *err)
{
	uint64_t generation = q->state.generation;
	int r;

	gw_qemu_state_close(q);
	q->state.generation = generation; /* not to be given twice */
	q->state.open = true;
	q->state.fdset = -1;
	r = remove_old_fdsets(q, err);
	if (!r)
		r = make_file(&q->state, err);
	if (!r)
		r = pass_file(q, err);
	return r ? r : gw_qemu_settings_set(q, GW_QEMU_CHECKPOINT, err);
}

void gw_qemu_state_fini(struct gw_qemu *q)
{
	struct gw_qemu_state *s = &q->state;

	if (s->mem >= 0)
		close(s->mem);
	if (s->fd >= 0)
		close(s->fd);
	free(s->base);
	free(s->part);
	*s = (struct gw_qemu_state){ .mem = -1, .fd = -1,
				     .generation = s->generation };
}

void gw_qemu_state_close(struct gw_qemu *q)
{
	if (q->state.open && q->state.fdset >= 0)
		remove_fdset(q, q->state.fdset);
	gw_qemu_state_fini(q);
}

/* --- FULL ------------------------------------------------------------------ */

static bool wants_full(const struct gw_qemu_state *s)
{
	int64_t now = gw_now_ns();

	return s->rigid || !s->base || now - s->base_ns > BASE_AGE_NS ||
	       (s->reset_ns && now - s->reset_ns < FIRMWARE_NS) ||
	       s->base_ns < s->reset_ns;
}

static int begin_full(struct gw_qemu *q, struct gw_error *err)
{
	int r = gw_qemu_save_open(q, 0, err);

	return r ? r :
		   gw_qmp_send(q->qmp, err, "migrate", "{s:s}", "uri",
			       "fd:godwit-save");
}

/* QEMU says completed a moment before it can go on from there. */
static int wait_settled(struct gw_qemu *q, struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(SETTLE_TIMEOUT_MS);
	struct timespec step = { 0, GW_NS_PER_MS / 20 };
	char status[32];
	int r;

	while (!(r = gw_qemu_status(q, status, err)) &&
	       !strcmp(status, "finish-migrate")) {
		if (gw_deadline_left_ms(deadline) == 0)
			return gw_fail(err, ETIMEDOUT,
				       "QEMU is still in state '%s'", status);
		nanosleep(&step, NULL);
	}
	return r;
}

/*
 * A VM that rests is not given up: QEMU would be in state `postmigrate`, which
 * it leaves only by running. Without SHUT 0 it says `failed`, and rests.
 */
static int end_migration(struct gw_qemu *q, bool ran, struct gw_error *err)
{
	int r = ran ? gw_qemu_save_give_up(q, err) : 0;

	gw_qemu_save_end(q);
	if (r)
		return r;
	return ran ? wait_settled(q, err) :
		     gw_qemu_end_migration(q->qmp, SETTLE_TIMEOUT_MS, err);
}

/* The beginning of the stream: is it the base that we know? */
static int keep_base(struct gw_qemu *q, struct gw_error *err)
{
	struct gw_qemu_state *s = &q->state;
	size_t n = q->stream.tail;
	void *copy;

	s->base_ns = gw_now_ns();
	if (s->base && s->nbase == n && !memcmp(s->base, q->stream.buf, n))
		return 0;
	copy = malloc(n);
	if (!copy)
		return gw_fail(err, ENOMEM,
			       "no memory for %zu bytes of device state", n);
	memcpy(copy, q->stream.buf, n);
	free(s->base);
	s->base = copy;
	s->nbase = n;
	s->generation++;
	return 0;
}

static int end_full(struct gw_qemu *q, bool ran, struct gw_vm_state *out,
		    struct gw_error *err)
{
	struct gw_qemu_state *s = &q->state;
	struct gw_devstream *d = &q->stream;
	int r = gw_qmp_reply(q->qmp, STATE_TIMEOUT_MS, err);

	if (!r)
		r = gw_qemu_save_whole(q, err);
	if (r)
		gw_qemu_save_end(q);
	else
		r = end_migration(q, ran, err);
	if (r)
		return r;
	if (!s->rigid && !s->base)
		s->rigid = !d->s.ram.have_table ||
			   !only_roms(q, &d->s.ram.table);
	*out = (struct gw_vm_state){ .part = d->buf, .npart = d->len };
	if (s->rigid)
		return 0;
	r = keep_base(q, err);
	*out = (struct gw_vm_state){ .base = s->base,
				     .nbase = s->nbase,
				     .part = d->buf + d->tail,
				     .npart = d->len - d->tail,
				     .generation = s->generation };
	return r;
}

/* --- SMALL ----------------------------------------------------------------- */

static int begin_small(struct gw_qemu *q, struct gw_error *err)
{
	struct gw_qemu_state *s = &q->state;
	char path[64];

	/* QEMU writes on where the descriptor is, and shortens nothing. */
	if (ftruncate(s->mem, 0) || lseek(s->fd, 0, SEEK_SET))
		return gw_fail_errno(err, errno, "device state");
	snprintf(path, sizeof(path), "/dev/fdset/%lld", (long long)s->fdset);
	return gw_qmp_send(q->qmp, err, "xen-save-devices-state", "{s:s, s:b}",
			   "filename", path, "live", 0);
}

/* The closing description: names, and lengths as the footers say (vmdesc.h).
 * Return: its length, 0: a name that would need more than quotes. */
static size_t put_description(uint8_t *to, const struct gw_tail *t)
{
	char *p = (char *)to;

	p += sprintf(p, "{\"page_size\":%u,\"devices\":[", GW_PAGE_SIZE);
	for (int i = 0; i < t->n; i++) {
		const struct gw_tail_section *s = &t->section[i];

		if (strpbrk(s->idstr, "\"\\"))
			return 0;
		p += sprintf(p,
			     "%s{\"name\":\"%s\",\"instance_id\":%u,\"fields\":[{\"name\":\"state\",\"type\":\"buffer\",\"size\":%zu}]}",
			     i ? "," : "", s->idstr, s->instance_id, s->size);
	}
	p += sprintf(p, "]}");
	return (size_t)(p - (char *)to);
}

#define MAX_ENTRY (255 + 128) /* bytes of one device in the description */

static int reserve(struct gw_qemu_state *s, size_t n, struct gw_error *err)
{
	void *p = n <= s->cap ? s->part : realloc(s->part, n);

	if (!p)
		return gw_fail(err, ENOMEM,
			       "no memory for %zu bytes of device state", n);
	s->part = p;
	s->cap = n > s->cap ? n : s->cap;
	return 0;
}

/* s->part has the @len bytes of QEMU's sections and EOF: add the description.
 * Return: the length of it all. */
static ssize_t describe(struct gw_qemu_state *s, size_t len,
			struct gw_error *err)
{
	struct gw_tail t;
	size_t n;
	int r = gw_tail_scan(&t, s->part, len - 1, err);

	if (r)
		return r;
	r = reserve(s, len + 64 + (size_t)t.n * MAX_ENTRY, err);
	n = r ? 0 : put_description(s->part + len + 5, &t);
	gw_tail_fini(&t);
	if (r)
		return r;
	if (!n)
		return gw_fail(err, ENOTSUP,
			       "a device has a quote in its name");
	s->part[len] = GW_ITEM_VMDESCRIPTION;
	gw_put_be32(s->part + len + 1, (uint32_t)n);
	return (ssize_t)(len + 5 + n);
}

/* Sections and EOF out of the file. Return: bytes. */
static ssize_t read_sections(struct gw_qemu_state *s, struct gw_error *err)
{
	struct stat st;
	size_t len;
	int r;

	if (fstat(s->mem, &st))
		return gw_fail_errno(err, errno, "device state");
	if (st.st_size <= FILE_HEADER || st.st_size > GW_MAX_DEVICE_STATE)
		return gw_fail(err, EPROTO,
			       "QEMU wrote %lld bytes of device state",
			       (long long)st.st_size);
	len = (size_t)st.st_size - FILE_HEADER;
	r = reserve(s, len, err);
	if (r)
		return r;
	if (pread(s->mem, s->part, len, FILE_HEADER) != (ssize_t)len)
		return gw_fail_errno(err, errno, "reading the device state");
	if (s->part[len - 1] != GW_ITEM_EOF)
		return gw_fail(err, EPROTO,
			       "QEMU's device state (%zu bytes) has no end",
			       len);
	return (ssize_t)len;
}

static int end_small(struct gw_qemu *q, struct gw_vm_state *out,
		     struct gw_error *err)
{
	struct gw_qemu_state *s = &q->state;
	int r = gw_qmp_reply(q->qmp, STATE_TIMEOUT_MS, err);
	ssize_t n = r ? r : read_sections(s, err);

	if (n > 0)
		n = describe(s, (size_t)n, err);
	if (n < 0)
		return (int)n;
	*out = (struct gw_vm_state){ .base = s->base,
				     .nbase = s->nbase,
				     .part = s->part,
				     .npart = (size_t)n,
				     .generation = s->generation };
	return 0;
}

/* --- either ---------------------------------------------------------------- */

int gw_qemu_state_begin(struct gw_qemu *q, struct gw_error *err)
{
	if (q->state.same)
		return 0;
	q->state.full = wants_full(&q->state);
	return q->state.full ? begin_full(q, err) : begin_small(q, err);
}

static int end(struct gw_qemu *q, bool ran, struct gw_vm_state *s,
	       struct gw_error *err)
{
	int r;

	if (q->state.full)
		return end_full(q, ran, s, err);
	r = end_small(q, s, err);
	if (!r || r == -ECONNRESET)
		return r;
	gw_warn("%s; the device state is taken the slow way from here on",
		err->msg);
	q->state.full = q->state.rigid = true;
	memset(err, 0, sizeof(*err));
	r = begin_full(q, err);
	return r ? r : end_full(q, ran, s, err);
}

int gw_qemu_state_end(struct gw_qemu *q, bool ran, struct gw_vm_state *s,
		      struct gw_error *err)
{
	struct gw_qemu_state *st = &q->state;
	int r = st->same ? 0 : end(q, ran, &st->last, err);

	st->same = !r;
	*s = st->last;
	return r;
}
