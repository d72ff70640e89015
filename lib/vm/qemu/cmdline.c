/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cmdline.c - see cmdline.h.
 *
 *	split()   argv -> args, each with its option's name and value
 *	look()    every arg is shown to the handler of its option, which
 *		  collects facts, refuses, replaces or drops
 *	settle()  decides what is missing, emit() writes the result
 *
 * QEMU facts here were checked with 7.2.22, 10.0.2 and 11.1.3.
 */
#include "vm/qemu/cmdline.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hugepage.h"
#include "base/scope.h"
#include "base/units.h"
#include "guest-agent/protocol.h"
#include "vm/qemu/foreign.h"
#include "vm/qemu/option.h"

#define MIB		(1ULL << 20)
#define DEFAULT_MEMORY	(128 * MIB) /* hw/core/machine.c */
#define MEMORY_ALIGN	8192	    /* QEMU rounds -m up to this */

struct arg {
	const char *word;  /* as written, "-machine" */
	const char *name;  /* without dashes; "" for a disk image */
	const char *value; /* NULL: none */
	char *replaced;	   /* new value, owned */
	bool drop;
};

struct rewrite {
	const struct gw_cmdline_request *req;
	struct gw_cmdline *out;
	struct gw_error *err; /* may be NULL */

	struct arg *args;
	int nargs;
	char *const *program;

	/* what look() found */
	uint64_t memory;	      /* 0: not said */
	char machine[64];	      /* "": not said */
	char main_backend[GW_IDSTR_MAX + 1];
	char numa_backend[GW_IDSTR_MAX + 1]; /* the first one */
	const char *mem_path;
	const char *readconfig;
	bool paused, defer;
	bool free_page_port; /* the user's own */

	/* what settle() adds */
	char *extra[24];
	int nextra;
	bool nomem;
};

/* Options of QEMU 7.2 to 11.1 without an argument; all others have one. */
static const char *const switches[] = {
	"?", "h", "help", "version", "S", "s", "snapshot", "enable-kvm",
	"no-acpi", "no-hpet", "no-fd-bootchk", "no-reboot", "no-shutdown",
	"no-user-config", "nodefaults", "nographic", "daemonize",
	"mem-prealloc", "full-screen", "portrait", "preconfig",
	"only-migratable", "singlestep", "usb", "win2k-hack",
	"async-teardown", "audio-help", "enable-sync-profile", "jitdump",
	"perfmap", "xen-attach", "xen-domid-restrict", "old-param",
	"semihosting", "alt-grab", "ctrl-grab", "no-quit", "curses", "sdl",
};

static const char *option_name(const char *word)
{
	if (word[0] != '-' || !word[1])
		return "";
	return word + 1 + (word[1] == '-');
}

int gw_cmdline_takes_argument(const char *word)
{
	const char *name = option_name(word);

	if (!*name)
		return -1;
	for (size_t i = 0; i < sizeof(switches) / sizeof(*switches); i++)
		if (!strcmp(switches[i], name))
			return 0;
	return 1;
}

static char *format(const char *fmt, va_list ap)
{
	char *s;

	return vasprintf(&s, fmt, ap) < 0 ? NULL : s;
}

__attribute__((format(printf, 2, 3))) static void
refuse(struct rewrite *w, const char *fmt, ...)
{
	struct gw_cmdline *out = w->out;
	va_list ap;
	char *s;

	va_start(ap, fmt);
	s = format(fmt, ap);
	va_end(ap);
	if (!s) {
		w->nomem = true;
	} else if (out->nrefusals == GW_CMDLINE_MAX_NOTES) {
		free(s);
	} else {
		if (out->nrefusals == 0)
			gw_fail(w->err, ENOTSUP, "%s", s);
		out->refusal[out->nrefusals++] = s;
	}
}

__attribute__((format(printf, 2, 3))) static void
note(struct rewrite *w, const char *fmt, ...)
{
	struct gw_cmdline *out = w->out;
	va_list ap;

	if (out->nnotes == GW_CMDLINE_MAX_NOTES)
		return;
	va_start(ap, fmt);
	out->note[out->nnotes] = format(fmt, ap);
	va_end(ap);
	if (out->note[out->nnotes])
		out->nnotes++;
}

/* Append one word to the resulting command line. */
__attribute__((format(printf, 2, 3))) static void
add(struct rewrite *w, const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	s = format(fmt, ap);
	va_end(ap);
	if (s && w->nextra < (int)(sizeof(w->extra) / sizeof(*w->extra)))
		w->extra[w->nextra++] = s;
	else
		free(s);
	if (!s)
		w->nomem = true;
}

/* Append an option whose value needs QEMU's quoting. Takes @props over. */
static void add_option(struct rewrite *w, const char *word, json_t *props,
		       const char *implied)
{
	struct gw_option o = { .props = props, .implied = implied };
	gw_autofree char *text = props ? gw_option_format(&o) : NULL;

	gw_option_fini(&o);
	if (!text)
		w->nomem = true;
	add(w, "%s", word);
	add(w, "%s", text ? text : "");
}

/* --- RAM --------------------------------------------------------------- */

static struct gw_cmdline_block *new_block(struct rewrite *w, const char *id)
{
	struct gw_cmdline *out = w->out;
	struct gw_cmdline_block *b = &out->block[out->nblocks];

	if (!*id || strlen(id) > GW_IDSTR_MAX) {
		refuse(w, "a memory backend needs an id of 1 to %d bytes: write id=NAME",
		       GW_IDSTR_MAX);
		return NULL;
	}
	for (int i = 0; i < out->nblocks; i++) {
		if (!strcmp(out->block[i].id, id)) {
			refuse(w, "there are two memory backends with id '%s': give each its own",
			       id);
			return NULL;
		}
	}
	if (out->nblocks == GW_RAM_MAX_BLOCKS) {
		refuse(w, "more than %d memory backends: use fewer and larger ones",
		       GW_RAM_MAX_BLOCKS);
		return NULL;
	}
	memset(b, 0, sizeof(*b));
	strcpy(b->id, id);
	b->fd = -1;
	out->nblocks++;
	return b;
}

/* The descriptor of the next memfd: they are numbered without gaps. */
static int next_fd(const struct rewrite *w)
{
	int fd = w->req->first_fd;

	for (int i = 0; i < w->out->nblocks; i++)
		fd += w->out->block[i].fd >= 0;
	return fd;
}

/* Of a block whose own options do not say; @path: what else may. */
static enum gw_hugepages pages_wanted(const struct rewrite *w, const char *path)
{
	if (w->req->hugepages != GW_HUGEPAGES_AUTO)
		return w->req->hugepages;
	return path ? GW_HUGEPAGES_NONE : GW_HUGEPAGES_TRANSPARENT;
}

/*
 * A backend that makes QEMU open @b's file. It would map the file at any
 * 4 KiB by itself, and no huge page of it as one.
 */
static void set_path(struct gw_option *o, struct gw_cmdline_block *b)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", b->fd);
	gw_option_set(o, "qom-type", "memory-backend-file");
	gw_option_set(o, "mem-path", path);
	gw_option_set_on(o, "share");
	if (b->hugepages == GW_HUGEPAGES_TRANSPARENT)
		gw_option_set_size(o, "align", GW_HUGE_PAGE);
}

/* Private or unrecognised shared memory becomes a shared file, in place. */
static void convert_backend(struct rewrite *w, struct arg *a,
			    struct gw_option *o)
{
	static const char *const memfd_only[] = { "hugetlb", "hugetlbsize",
						  "seal" };
	const char *id = gw_option_get(o, "id");
	struct gw_cmdline_block *b = new_block(w, id);

	if (!b)
		return;
	if (gw_option_size(o, "size", 1, &b->size) || b->size == 0) {
		refuse(w, "memory backend '%s' has no size that can be read: write size=BYTES or size=NG",
		       b->id);
		return;
	}
	b->hugepages = gw_option_is_on(o, "hugetlb") ? GW_HUGEPAGES_RESERVED :
						       pages_wanted(w, NULL);
	if (gw_option_size(o, "hugetlbsize", 1, &b->huge_size))
		b->huge_size = 0;
	b->fd = -1;
	b->fd = next_fd(w);
	note(w, "memory backend '%s': %s became memory-backend-file,share=on, which can be moved",
	     b->id, gw_option_get(o, "qom-type"));
	for (size_t i = 0; i < sizeof(memfd_only) / sizeof(*memfd_only); i++)
		gw_option_remove(o, memfd_only[i]);
	set_path(o, b);
	a->replaced = gw_option_format(o);
	if (!a->replaced)
		w->nomem = true;
}

static void keep_backend(struct rewrite *w, struct gw_option *o)
{
	const char *id = gw_option_get(o, "id");
	struct gw_cmdline_block *b;

	if (!gw_option_is_on(o, "share")) {
		refuse(w, "memory backend '%s' is a private mapping of a file, which godwit cannot see: write share=on, or leave the backend out and let godwit make one%s",
		       id, strstr(gw_option_get(o, "mem-path"), "huge") ?
				   " (--hugepages)" :
				   "");
		return;
	}
	b = new_block(w, id);
	if (b && gw_option_size(o, "size", 1, &b->size))
		b->size = 0;
}

static void on_object(struct rewrite *w, struct arg *a, struct gw_option *o)
{
	static const char *const convert[] = { "memory-backend-ram",
					       "memory-backend-memfd",
					       "memory-backend-shm" };
	static const char *const secret[] = { "sev-guest", "sev-snp-guest",
					      "tdx-guest", "s390-pv-guest",
					      "pef-guest" };
	const char *type = gw_option_get(o, "qom-type");

	for (size_t i = 0; i < sizeof(convert) / sizeof(*convert); i++) {
		if (!strcmp(type, convert[i])) {
			convert_backend(w, a, o);
			return;
		}
	}
	for (size_t i = 0; i < sizeof(secret) / sizeof(*secret); i++)
		if (!strcmp(type, secret[i]))
			refuse(w, "-object %s: the memory of a confidential guest is encrypted and cannot be moved from outside: leave it out",
			       type);
	if (!strcmp(type, "memory-backend-file"))
		keep_backend(w, o);
	else if (!strncmp(type, "memory-backend-", 15))
		refuse(w, "memory backend '%s': %s cannot be shared with godwit: use memory-backend-file,share=on or leave the backend out",
		       gw_option_get(o, "id"), type);
}

static void bad_size(struct rewrite *w, const struct arg *a)
{
	refuse(w, "%s %s: the size cannot be read: write MEGABYTES or a number with suffix M or G",
	       a->word, a->value);
}

static void on_m(struct rewrite *w, struct arg *a, struct gw_option *o)
{
	uint64_t n;
	int r = gw_option_size(o, "size", MIB, &n);

	if (r == -EINVAL)
		bad_size(w, a);
	else if (r == 0)
		w->memory = n;
}

static void on_machine(struct rewrite *w, struct arg *a, struct gw_option *o)
{
	static const char *const secret[] = { "confidential-guest-support",
					      "memory-encryption" };
	uint64_t n;
	int r;

	if (gw_option_has(o, "type"))
		snprintf(w->machine, sizeof(w->machine), "%s",
			 gw_option_get(o, "type"));
	if (gw_option_has(o, "memory-backend"))
		snprintf(w->main_backend, sizeof(w->main_backend), "%s",
			 gw_option_get(o, "memory-backend"));
	r = gw_option_size(o, "memory.size", 1, &n);
	if (r == -EINVAL)
		bad_size(w, a);
	else if (r == 0)
		w->memory = n;
	for (size_t i = 0; i < sizeof(secret) / sizeof(*secret); i++)
		if (gw_option_has(o, secret[i]))
			refuse(w, "-machine %s: the memory of a confidential guest is encrypted and cannot be moved from outside: leave it out",
			       secret[i]);
}

static void on_numa(struct rewrite *w, struct arg *a, struct gw_option *o)
{
	if (gw_option_has(o, "memdev") && !*w->numa_backend)
		snprintf(w->numa_backend, sizeof(w->numa_backend), "%s",
			 gw_option_get(o, "memdev"));
}

static void on_mem_path(struct rewrite *w, struct arg *a, struct gw_option *o)
{
	w->mem_path = a->value;
	a->drop = true;
	note(w, "-mem-path %s: RAM is made there no more, but as a shared file without a name on pages of the same size",
	     a->value);
}

/* --- who else writes guest memory (foreign.h) ---------------------------- */

static void refuse_foreign(struct rewrite *w, const char *option,
			   const char *name, const struct gw_foreign *f)
{
	if (f)
		refuse(w, "%s %s: %s: %s", option, name, f->why, f->remedy);
}

static void on_device(struct rewrite *w, struct arg *a, struct gw_option *o)
{
	const char *driver = gw_option_get(o, "driver");

	refuse_foreign(w, "-device", driver, gw_foreign_device(driver));
	if (!strcmp(driver, "virtserialport") &&
	    !strcmp(gw_option_get(o, "name"), GFP_PORT))
		w->free_page_port = true;
}

/* -netdev, -nic and -net. */
static void on_netdev(struct rewrite *w, struct arg *a, struct gw_option *o)
{
	const char *type = gw_option_get(o, "type");
	bool vhost = gw_option_is_on(o, "vhost") ||
		     gw_option_is_on(o, "vhostforce") ||
		     gw_option_has(o, "vhostfd") ||
		     gw_option_has(o, "vhostfds");

	if (gw_option_is_on(o, "vhost-user")) /* passt */
		type = "vhost-user";
	else if (vhost && !strcmp(type, "tap"))
		type = "vhost";
	refuse_foreign(w, a->word, a->value, gw_foreign_netdev(type));
}

/* A driver at any depth of a block device's description. */
static void look_at_drivers(struct rewrite *w, const char *option,
			    const json_t *props)
{
	const char *key, *s;
	json_t *value;
	size_t n;

	json_object_foreach((json_t *)(uintptr_t)props, key, value) {
		s = json_string_value(value);
		n = strlen(key);
		if (json_is_object(value))
			look_at_drivers(w, option, value);
		else if (s && n >= 6 && !strcmp(key + n - 6, "driver"))
			refuse_foreign(w, option, s, gw_foreign_blockdev(s));
		else if (s && !strncmp(s, "nvme://", 7))
			refuse_foreign(w, option, s,
				       gw_foreign_blockdev("nvme"));
	}
}

static void on_blockdev(struct rewrite *w, struct arg *a, struct gw_option *o)
{
	look_at_drivers(w, a->word, o->props);
}

/* --- start and monitors -------------------------------------------------- */

static void on_incoming(struct rewrite *w, struct arg *a, struct gw_option *o)
{
	if (!strcmp(a->value, "defer"))
		w->defer = true;
	else
		refuse(w, "-incoming %s: QEMU itself would take the migration: write --incoming before the -- instead, then 'godwit receive'",
		       a->value);
}

static void on_S(struct rewrite *w, struct arg *a, struct gw_option *o)
{
	w->paused = true;
}

static void on_readconfig(struct rewrite *w, struct arg *a,
			  struct gw_option *o)
{
	w->readconfig = a->value;
	note(w, "-readconfig %s is not looked into: memory backends and devices in it are not checked",
	     a->value);
}

/* One row per option that matters; parsed as properties when `parse`. */
static const struct handler {
	const char *name;
	bool parse;
	const char *implied;
	void (*fn)(struct rewrite *w, struct arg *a, struct gw_option *o);
} handlers[] = {
	{ "m", true, "size", on_m },
	{ "machine", true, "type", on_machine },
	{ "M", true, "type", on_machine },
	{ "object", true, "qom-type", on_object },
	{ "numa", true, "type", on_numa },
	{ "mem-path", false, NULL, on_mem_path },
	{ "device", true, "driver", on_device },
	{ "netdev", true, "type", on_netdev },
	{ "nic", true, "type", on_netdev },
	{ "net", true, "type", on_netdev },
	{ "blockdev", true, "driver", on_blockdev },
	{ "drive", true, NULL, on_blockdev },
	{ "incoming", false, NULL, on_incoming },
	{ "S", false, NULL, on_S },
	{ "readconfig", false, NULL, on_readconfig },
};

/* --- the four steps ------------------------------------------------------ */

static int split(struct rewrite *w, char *const argv[])
{
	int n = 0;

	while (argv[n])
		n++;
	w->program = argv;
	w->args = calloc((size_t)n + 1, sizeof(*w->args));
	if (!w->args)
		return gw_fail(w->err, ENOMEM, "no memory for %d arguments", n);
	for (int i = 1; i < n; i++) {
		struct arg *a = &w->args[w->nargs++];

		a->word = argv[i];
		a->name = option_name(argv[i]);
		if (gw_cmdline_takes_argument(argv[i]) != 1)
			continue;
		if (!argv[i + 1])
			return gw_fail_as(w->err, GW_FAULT_USAGE, EINVAL,
					  "QEMU's option %s lacks its argument",
					  argv[i]);
		a->value = argv[++i];
	}
	return 0;
}

static int look_at(struct rewrite *w, struct arg *a, const struct handler *h)
{
	struct gw_option o = { 0 };
	int r = 0;

	if (h->parse) {
		r = gw_option_parse(&o, a->value, h->implied, w->err);
		gw_error_prefix(r ? w->err : NULL, "%s", a->word);
	}
	if (!r)
		h->fn(w, a, &o);
	gw_option_fini(&o);
	return r;
}

static int look(struct rewrite *w)
{
	for (int i = 0; i < w->nargs; i++)
		for (size_t h = 0; h < sizeof(handlers) / sizeof(*handlers);
		     h++)
			if (!strcmp(w->args[i].name, handlers[h].name) &&
			    look_at(w, &w->args[i], &handlers[h]))
				return -EINVAL;
	return 0;
}

static const struct gw_qemu_machine *find_machine(const struct rewrite *w)
{
	const struct gw_qemu_probe *p = w->req->probe;

	for (int i = 0; i < p->nmachines; i++) {
		const struct gw_qemu_machine *m = &p->machine[i];

		if (*w->machine ? !strcmp(m->name, w->machine) ||
					  (*m->alias &&
					   !strcmp(m->alias, w->machine)) :
				  m->is_default)
			return m;
	}
	return NULL;
}

static const struct gw_cmdline_block *find_block(const struct rewrite *w,
						 const char *id)
{
	for (int i = 0; i < w->out->nblocks; i++)
		if (!strcmp(w->out->block[i].id, id))
			return &w->out->block[i];
	return NULL;
}

/* RAM that QEMU would make by itself: make it. */
static void add_main_ram(struct rewrite *w, const struct gw_qemu_machine *m)
{
	struct gw_cmdline_block *b = new_block(w, m->ram_id);
	char align[32] = "";

	if (!b)
		return;
	b->size = w->memory;
	b->hugepages = pages_wanted(w, w->mem_path);
	b->like_path = w->mem_path;
	b->fd = next_fd(w);
	add(w, "-object");
	if (b->hugepages == GW_HUGEPAGES_TRANSPARENT)
		snprintf(align, sizeof(align), ",align=%u", GW_HUGE_PAGE);
	add(w, "memory-backend-file,id=%s,size=%llu,mem-path=/proc/self/fd/%d,share=on%s",
	    b->id, (unsigned long long)b->size, b->fd, align);
	add(w, "-machine");
	add(w, "memory-backend=%s", b->id);
}

static void settle_size(struct rewrite *w, bool backed)
{
	char size[32];

	if (w->req->memory && w->req->memory < MIB)
		refuse(w, "--memory %llu means bytes: write --memory %lluM",
		       (unsigned long long)w->req->memory,
		       (unsigned long long)w->req->memory);
	if (w->req->memory && backed) {
		refuse(w, "--memory %s and the memory backend '%s' of the command line contradict each other: change the size= of the backend and leave --memory out",
		       gw_format_size(size, sizeof(size), w->req->memory),
		       *w->main_backend ? w->main_backend : w->numa_backend);
	} else if (w->req->memory) {
		w->memory = w->req->memory;
		add(w, "-m");
		add(w, "%lluK", (unsigned long long)(w->memory + 1023) / 1024);
	} else if (!w->memory && w->readconfig && !backed) {
		refuse(w, "how much RAM the VM has may be written in %s, which is not looked into: say it with --memory",
		       w->readconfig);
	}
	if (!w->memory)
		w->memory = DEFAULT_MEMORY;
	w->memory = (w->memory + MEMORY_ALIGN - 1) / MEMORY_ALIGN *
		    MEMORY_ALIGN;
}

static void settle_ram(struct rewrite *w)
{
	const struct gw_qemu_machine *m = find_machine(w);
	bool backed = *w->main_backend || *w->numa_backend;
	const struct gw_cmdline_block *b;
	const char *id = *w->main_backend ? w->main_backend : w->numa_backend;

	settle_size(w, backed);
	if (!m) {
		refuse(w, "this QEMU has no machine type '%s': choose one that '%s -machine help' lists",
		       *w->machine ? w->machine : "(default)", w->program[0]);
		return;
	}
	snprintf(w->out->machine, sizeof(w->out->machine), "%s", m->name);
	if (!backed && !*m->ram_id) {
		refuse(w, "the RAM of machine type '%s' cannot be shared with godwit: use another machine type",
		       m->name);
		return;
	}
	if (w->mem_path && w->req->hugepages == GW_HUGEPAGES_TRANSPARENT)
		refuse(w, "-mem-path %s and --transparent-hugepages both say what pages RAM is made of: leave one out",
		       w->mem_path);
	if (!backed)
		add_main_ram(w, m);
	else if (w->mem_path)
		refuse(w, "-mem-path %s and the memory backend '%s' contradict each other: leave -mem-path out",
		       w->mem_path, id);
	b = find_block(w, backed ? id : m->ram_id);
	if (!b && !w->out->nrefusals)
		refuse(w, "the memory backend '%s' is named but not on the command line: add its -object",
		       id);
	else if (b && *w->main_backend && b->size)
		w->memory = b->size;
	w->out->memory = w->memory;
}

/*
 * The monitors come by -readconfig: -mon and -qmp would take away the monitor
 * that QEMU makes by default, and with -nographic that is what keeps Ctrl-C
 * from killing it.
 */
static void settle_monitors(struct rewrite *w)
{
	static const char fmt[] =
		"# Written by godwit run: one monitor for moving the VM, one for looking at it, one for godwit monitor, one for stopping it.\n"
		"[chardev \"godwit-qmp\"]\n"
		"  backend = \"socket\"\n  path = \"%s/qmp.sock\"\n"
		"  server = \"on\"\n  wait = \"off\"\n"
		"[mon \"godwit-qmp\"]\n"
		"  mode = \"control\"\n  chardev = \"godwit-qmp\"\n"
		"[chardev \"godwit-status\"]\n"
		"  backend = \"socket\"\n  path = \"%s/status.sock\"\n"
		"  server = \"on\"\n  wait = \"off\"\n"
		"[mon \"godwit-status\"]\n"
		"  mode = \"control\"\n  chardev = \"godwit-status\"\n"
		"[chardev \"godwit-front\"]\n"
		"  backend = \"socket\"\n  path = \"%s/front.sock\"\n"
		"  server = \"on\"\n  wait = \"off\"\n"
		"[mon \"godwit-front\"]\n"
		"  mode = \"control\"\n  chardev = \"godwit-front\"\n"
		"[chardev \"godwit-guard\"]\n"
		"  backend = \"socket\"\n  path = \"%s/guard.sock\"\n"
		"  server = \"on\"\n  wait = \"off\"\n"
		"[mon \"godwit-guard\"]\n"
		"  mode = \"control\"\n  chardev = \"godwit-guard\"\n";

	if (strpbrk(w->req->dir, "\"\n"))
		refuse(w, "the runtime folder '%s' has a quote in its name: set GODWIT_RUNTIME_DIR to another one",
		       w->req->dir);
	if (asprintf(&w->out->monitors, fmt, w->req->dir, w->req->dir,
		     w->req->dir, w->req->dir) < 0) {
		w->out->monitors = NULL;
		w->nomem = true;
	}
	add(w, "-readconfig");
	add(w, "%s/monitors.cfg", w->req->dir);
}

static void settle_agent(struct rewrite *w)
{
	const struct gw_cmdline_request *r = w->req;
	const char *old = r->preload && *r->preload ? r->preload : NULL;
	char **env = w->out->env;

	if (r->agent == GW_AGENT_PLUGIN) {
		char path[4096];

		snprintf(path, sizeof(path), "%s/agent.sock", r->dir);
		add_option(w, "-plugin",
			   json_pack("{s:s,s:s}", "file", r->agent_path,
				     "socket", path),
			   "file");
		return;
	}
	if (strpbrk(r->agent_path, " :"))
		refuse(w, "the agent '%s' has a blank or a colon in its path, which LD_PRELOAD cannot express: use --agent plugin",
		       r->agent_path);
	if (asprintf(&env[0], "LD_PRELOAD=%s%s%s", r->agent_path,
		     old ? ":" : "", old ? old : "") < 0)
		env[0] = NULL;
	if (asprintf(&env[1], "GODWIT_AGENT=%s/agent.sock", r->dir) < 0)
		env[1] = NULL;
	if (!env[0] || !env[1])
		w->nomem = true;
}

/* The port that the agent in the guest is asked through (hintagent.h). */
static void settle_free_pages(struct rewrite *w)
{
	bool mmio = !strncmp(w->out->machine, "microvm", 7);
	char path[4096];

	if (!w->req->free_page_agent || w->free_page_port)
		return;
	snprintf(path, sizeof(path), "%s/free-pages.sock", w->req->dir);
	add_option(w, "-chardev",
		   json_pack("{s:s,s:s,s:s,s:s,s:s}", "backend", "socket",
			     "id", "godwit-free-pages", "path", path, "server",
			     "on", "wait", "off"),
		   "backend");
	add(w, "-device");
	add(w, "virtio-serial%s,id=godwit-serial", mmio ? "-device" : "");
	add(w, "-device");
	add(w, "virtserialport,id=godwit-free-pages-port,bus=godwit-serial.0,chardev=godwit-free-pages,name=" GFP_PORT);
}

static void settle(struct rewrite *w)
{
	const struct gw_qemu_probe *p = w->req->probe;

	if (p->major < 7 || (p->major == 7 && p->minor < 2)) {
		refuse(w, "%s is QEMU %d.%d.%d: godwit needs 7.2 or later",
		       w->program[0], p->major, p->minor, p->micro);
		return;
	}
	settle_ram(w);
	w->out->incoming = w->req->incoming || w->defer;
	if (w->out->incoming && !w->defer) {
		add(w, "-incoming");
		add(w, "defer");
	}
	if (w->out->incoming && !w->paused)
		add(w, "-S");
	settle_monitors(w);
	settle_free_pages(w);
	settle_agent(w);
}

static int emit(struct rewrite *w)
{
	struct gw_cmdline *out = w->out;
	int n = 0;

	out->argv = calloc(2 * (size_t)w->nargs + (size_t)w->nextra + 2,
			   sizeof(char *));
	if (!out->argv)
		return -ENOMEM;
	out->argv[n++] = strdup(w->program[0]);
	for (int i = 0; i < w->nargs; i++) {
		const struct arg *a = &w->args[i];

		if (a->drop)
			continue;
		out->argv[n++] = strdup(a->word);
		if (a->value)
			out->argv[n++] =
				strdup(a->replaced ? a->replaced : a->value);
	}
	for (int i = 0; i < w->nextra; i++)
		out->argv[n++] = strdup(w->extra[i]);
	out->argc = n;
	for (int i = 0; i < n; i++)
		if (!out->argv[i])
			return -ENOMEM;
	return 0;
}

static void rewrite_fini(struct rewrite *w)
{
	for (int i = 0; i < w->nargs; i++)
		free(w->args[i].replaced);
	for (int i = 0; i < w->nextra; i++)
		free(w->extra[i]);
	free(w->args);
}

int gw_cmdline_rewrite(char *const argv[],
		       const struct gw_cmdline_request *req,
		       struct gw_cmdline *out, struct gw_error *err)
{
	struct rewrite w = { .req = req, .out = out, .err = err };
	int r;

	memset(out, 0, sizeof(*out));
	r = split(&w, argv);
	if (!r)
		r = look(&w);
	if (!r) {
		settle(&w);
		r = emit(&w);
		if (r || w.nomem)
			r = gw_fail(err, ENOMEM,
				    "no memory for a command line");
		else if (out->nrefusals)
			r = -ENOTSUP;
	}
	rewrite_fini(&w);
	return r;
}

void gw_cmdline_fini(struct gw_cmdline *c)
{
	for (int i = 0; i < c->argc; i++)
		free(c->argv[i]);
	free(c->argv);
	for (size_t i = 0; i < sizeof(c->env) / sizeof(*c->env); i++)
		free(c->env[i]);
	for (int i = 0; i < c->nnotes; i++)
		free(c->note[i]);
	for (int i = 0; i < c->nrefusals; i++)
		free(c->refusal[i]);
	free(c->monitors);
	memset(c, 0, sizeof(*c));
}

void gw_qemu_probe_fini(struct gw_qemu_probe *p)
{
	free(p->machine);
	memset(p, 0, sizeof(*p));
}
