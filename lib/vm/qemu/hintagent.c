/* SPDX-License-Identifier: BSD-3-Clause */
/* hintagent.c - see hintagent.h. */
#include "vm/qemu/hintagent.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"
#include "hint/answer.h"

#define GW_LOG_MODULE "hint"
#include "base/log.h"

struct gw_hintagent {
	/* set once */
	struct gw_hint *hint;
	struct gw_memmap map;
	int fd, quit;
	/* owned by who opened it */
	pthread_t thread;
	bool asked, stopped;
	uint32_t id; /* set before the thread starts */
	/* owned by the thread */
	struct gw_answer answer;
	uint64_t nbytes;
	int64_t asked_ns;
	bool answered; /* atomic */
};

/* --- finding the port ------------------------------------------------------ */

/* @property of @path as text; "" if it has none. */
static void get_text(struct gw_qmp *q, int timeout_ms, const char *path,
		     const char *property, char *to, size_t size)
{
	struct gw_error ignored;
	json_t *v = gw_qmp_cmd(q, timeout_ms, &ignored, "qom-get",
			       "{s:s, s:s}", "path", path, "property",
			       property);

	snprintf(to, size, "%s",
		 json_is_string(v) ? json_string_value(v) : "");
	json_decref(v);
}

/* The chardev of our port among the devices below @path; "": none. */
static void find_chardev(struct gw_qmp *q, int timeout_ms, const char *path,
			 char *to, size_t size)
{
	struct gw_error ignored;
	json_t *list = gw_qmp_cmd(q, timeout_ms, &ignored, "qom-list",
				  "{s:s}", "path", path);
	json_t *v;
	size_t i;

	to[0] = '\0';
	json_array_foreach(list, i, v) {
		const char *type = json_string_value(json_object_get(v, "type"));
		const char *name = json_string_value(json_object_get(v, "name"));
		char device[256], port[128];

		if (*to || !type || !name ||
		    strcmp(type, "child<virtserialport>"))
			continue;
		snprintf(device, sizeof(device), "%s/%s", path, name);
		get_text(q, timeout_ms, device, "name", port, sizeof(port));
		if (!strcmp(port, GFP_PORT))
			get_text(q, timeout_ms, device, "chardev", to, size);
	}
	json_decref(list);
}

/* "disconnected:unix:/path,server=on" */
static int socket_path(const char *filename, char path[108],
		       struct gw_error *err)
{
	const char *p = filename;

	if (!strncmp(p, "disconnected:", 13))
		p += 13;
	if (strncmp(p, "unix:", 5) || !strstr(p, ",server"))
		return gw_fail(err, ENOTSUP,
			       "the port's character device '%s' is no unix socket that QEMU listens at",
			       filename);
	p += 5;
	if (snprintf(path, 108, "%.*s", (int)strcspn(p, ","), p) >= 108)
		return gw_fail(err, ENAMETOOLONG, "'%s' is too long", p);
	return 0;
}

static int look_up(const json_t *list, const char *chardev, char path[108],
		   struct gw_error *err)
{
	const json_t *v;
	size_t i;

	json_array_foreach(list, i, v) {
		const char *label =
			json_string_value(json_object_get(v, "label"));
		const char *file =
			json_string_value(json_object_get(v, "filename"));

		if (!label || !file || strcmp(label, chardev))
			continue;
		if (!json_is_true(json_object_get(v, "frontend-open")))
			return gw_fail(err, ENOTCONN,
				       "nobody in the guest has the port open: is godwit-guest-agent running there?");
		return socket_path(file, path, err);
	}
	return gw_fail(err, ENOENT, "QEMU has no character device '%s'",
		       chardev);
}

int gw_hintagent_find(struct gw_qmp *q, int timeout_ms, char path[108],
		      struct gw_error *err)
{
	char chardev[128];
	json_t *list;
	int r;

	find_chardev(q, timeout_ms, "/machine/peripheral", chardev,
		     sizeof(chardev));
	if (!*chardev)
		find_chardev(q, timeout_ms, "/machine/peripheral-anon",
			     chardev, sizeof(chardev));
	if (!*chardev)
		return gw_fail(err, ENOENT,
			       "the VM has no port " GFP_PORT ": start it with 'godwit run --free-page-agent'");
	list = gw_qmp_cmd(q, timeout_ms, err, "query-chardev", NULL);
	if (!list)
		return -EREMOTEIO;
	r = look_up(list, chardev, path, err);
	json_decref(list);
	return r;
}

/* --- the answer ------------------------------------------------------------ */

static void on_range(void *arg, uint32_t id, uint64_t addr, uint64_t len)
{
	struct gw_hintagent *a = arg;
	uint64_t skip, offset, n;
	int block;

	while ((n = gw_memmap_find(&a->map, addr, len, &skip, &block,
				   &offset))) {
		/* Stale, or too late: the rest of it is too. */
		if (gw_hint_free_at(a->hint, id, block, offset, n) == -ESTALE)
			return;
		addr += skip + n;
		len -= skip + n;
	}
}

static void on_end(void *arg, uint32_t id, const char *refused)
{
	struct gw_hintagent *a = arg;

	if (id != a->id)
		return;
	__atomic_store_n(&a->answered, true, __ATOMIC_RELEASE);
	if (refused)
		gw_warn("the guest's agent does not say what is free: %s",
			refused);
	else
		gw_debug("the guest said what is free within %lld ms, %llu bytes",
			 (long long)((gw_now_ns() - a->asked_ns) /
				     GW_NS_PER_MS),
			 (unsigned long long)a->nbytes);
}

static const struct gw_answer_ops answer_ops = { on_range, on_end };

/* Bytes of the guest, or a reason to end. */
static bool read_some(struct gw_hintagent *a)
{
	uint8_t buf[8192];
	struct pollfd p[2] = { { .fd = a->fd, .events = POLLIN },
			       { .fd = a->quit, .events = POLLIN } };
	ssize_t n;

	if (poll(p, 2, gw_deadline_left_ms(
			       a->asked_ns +
			       GW_HINTAGENT_TIMEOUT_MS * GW_NS_PER_MS)) <= 0)
		return errno == EINTR;
	if (p[1].revents)
		return false;
	n = recv(a->fd, buf, sizeof(buf), MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	a->nbytes += (uint64_t)n;
	gw_answer_feed(&a->answer, buf, (size_t)n);
	return n > 0 && a->nbytes <= GW_HINTAGENT_MAX_BYTES &&
	       !gw_answer_deaf(&a->answer);
}

static void *reader(void *arg)
{
	struct gw_hintagent *a = arg;

	errno = 0;
	while (!gw_hintagent_answered(a) && read_some(a))
		errno = 0;
	if (a->answer.broken || a->answer.bad || a->answer.skipped)
		gw_info("the guest's agent wrote %llu bytes, of them %llu were no frame; %llu frames were damaged, %llu made no sense",
			(unsigned long long)a->nbytes,
			(unsigned long long)a->answer.skipped,
			(unsigned long long)a->answer.broken,
			(unsigned long long)a->answer.bad);
	return NULL;
}

/* --- the question ---------------------------------------------------------- */

static int connect_to(const char *path, struct gw_error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	gw_autoclose int fd =
		socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	/* QEMU takes one connection; another one would wait for its end. */
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return gw_fail_errno(err, errno, "the agent's port %s", path);
	return gw_take_fd(&fd);
}

struct gw_hintagent *gw_hintagent_open(const char *path, struct gw_hint *h,
				       const struct gw_memmap *map,
				       struct gw_error *err)
{
	struct gw_hintagent *a = calloc(1, sizeof(*a));

	if (!a) {
		gw_fail(err, ENOMEM, "no memory");
		return NULL;
	}
	a->hint = h;
	a->map = *map;
	a->fd = connect_to(path, err);
	a->quit = a->fd < 0 ? -1 : eventfd(0, EFD_CLOEXEC);
	if (a->fd >= 0 && a->quit >= 0)
		return a;
	if (a->fd >= 0)
		gw_fail_errno(err, errno, "eventfd");
	gw_hintagent_close(a);
	return NULL;
}

/* A frame without payload. It fits any socket buffer. */
static bool say(struct gw_hintagent *a, enum gfp_type type, uint32_t id)
{
	uint8_t head[GFP_HEAD];

	gfp_head(head, type, id, NULL, 0);
	return send(a->fd, head, sizeof(head), MSG_DONTWAIT | MSG_NOSIGNAL) ==
	       sizeof(head);
}

int gw_hintagent_ask(struct gw_hintagent *a, uint32_t id,
		     struct gw_error *err)
{
	int r;

	a->id = id;
	a->asked_ns = gw_now_ns();
	gw_answer_init(&a->answer, &answer_ops, a);
	if (!say(a, GFP_REQUEST, id))
		return gw_fail_errno(err, errno,
				     "asking the guest what is free");
	r = gw_thread_start(&a->thread, "gw-hint", reader, a, err);
	a->asked = !r;
	return r;
}

void gw_hintagent_stop(struct gw_hintagent *a)
{
	if (!a->asked || a->stopped || gw_hintagent_answered(a))
		return;
	a->stopped = true;
	say(a, GFP_STOP, a->id);
}

bool gw_hintagent_answered(struct gw_hintagent *a)
{
	return __atomic_load_n(&a->answered, __ATOMIC_ACQUIRE);
}

void gw_hintagent_close(struct gw_hintagent *a)
{
	uint64_t one = 1;

	if (!a)
		return;
	if (a->asked) {
		gw_hintagent_stop(a);
		if (write(a->quit, &one, sizeof(one)) < 0)
			shutdown(a->fd, SHUT_RDWR);
		pthread_join(a->thread, NULL);
	}
	if (a->quit >= 0)
		close(a->quit);
	if (a->fd >= 0)
		close(a->fd);
	free(a);
}
