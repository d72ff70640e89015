/* SPDX-License-Identifier: BSD-3-Clause */
/* vm_sink.c - see vm_sink.h. */
#include "dest/vm_sink.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/pause.h"
#include "base/scope.h"
#include "base/units.h"
#include "dest/devload.h"
#include "dest/internal.h"
#include "dest/put.h"
#include "page/xbzrle.h"

struct vm_sink {
	struct gw_sink base;
	/* set by the constructor and begin() */
	struct gw_vm *vm;
	struct gw_sink_vm_options o;
	const struct gw_image_desc *d;
	struct gw_ramblock *block[GW_MAX_TABLE_BLOCKS]; /* NULL: not the VM's */
	struct gw_devload_block other[GW_MAX_TABLE_BLOCKS]; /* then here */
	uint64_t kept; /* atomic: bytes of other blocks */
	/* how far it has come */
	bool punched; /* RAM was made ours: empty it again on failure */
	bool final;   /* RAM is complete */
	bool loading; /* load_begin was called */
	bool settled; /* finish() or keep(): it stays as it is */
	bool run;     /* it ran when the image was made, and is to run */
};

static struct vm_sink *of(struct gw_sink *s)
{
	return (struct vm_sink *)s;
}

/* --- begin -------------------------------------------------------------- */

static int check_machine(struct vm_sink *s, struct gw_error *err)
{
	const char *theirs = s->d->config.machine;
	const char *ours = s->vm->info.machine;

	if (!strcmp(theirs, ours))
		return 0;
	return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
			  "machine type differs: what comes is a '%s', VM '%s' is a '%s': start it with -machine %s",
			  theirs, s->vm->info.name, ours, theirs);
}

/* Every block of the VM must be in the image, with the same length. */
static int bind_blocks(struct vm_sink *s, struct gw_error *err)
{
	const struct gw_ram_table *t = &s->d->table;
	struct gw_ram *ram = &s->vm->ram;
	char theirs[32], ours[32];

	for (int i = 0; i < ram->nblocks; i++) {
		struct gw_ramblock *b = &ram->block[i];
		int at = gw_ram_table_find(t, b->idstr);

		if (at < 0)
			return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
					  "VM '%s' has RAM block '%s', what comes has none of that name: start both with the same memory backends",
					  s->vm->info.name, b->idstr);
		if (t->entry[at].used_length != b->used_length)
			return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
					  "RAM block '%s' has %s (%llu bytes) in what comes and %s (%llu bytes) in VM '%s': start both with the same -m",
					  b->idstr,
					  gw_format_size(theirs, sizeof(theirs),
							 t->entry[at].used_length),
					  (unsigned long long)
						  t->entry[at].used_length,
					  gw_format_size(ours, sizeof(ours),
							 b->used_length),
					  (unsigned long long)b->used_length,
					  s->vm->info.name);
		s->block[at] = b;
	}
	/* QEMU checks where a shared block is within its container. One alone
	 * begins it; where several are only the other QEMU's table says. */
	if (ram->nblocks > 1 && !s->d->config.ignore_shared)
		return gw_fail_as(err, GW_FAULT_REFUSED, ENOTSUP,
				  "VM '%s' has %d RAM blocks ('%s', '%s'...), and only a stream with capability x-ignore-shared says where each of them is: a VM with one memory backend can take this, several can be moved by 'godwit migrate'",
				  s->vm->info.name, ram->nblocks,
				  ram->block[0].idstr, ram->block[1].idstr);
	return 0;
}

/* What the VM does not have as RAM: ROMs and the like, kept until the end. */
static int add_others(struct vm_sink *s, struct gw_error *err)
{
	const struct gw_ram_table *t = &s->d->table;
	uint64_t total = 0;

	for (int i = 0; i < t->n; i++) {
		uint64_t len = t->entry[i].used_length;
		struct gw_devload_block *o = &s->other[i];
		void *p;

		if (s->block[i])
			continue;
		if (len > GW_SINK_VM_MAX_OTHER ||
		    total > GW_SINK_VM_MAX_OTHER - len)
			return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
					  "what comes has block '%s' of %llu bytes, VM '%s' has no RAM of that name: start both with the same memory backends",
					  t->entry[i].idstr,
					  (unsigned long long)len,
					  s->vm->info.name);
		total += len;
		/* Only what is written takes memory. */
		p = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (p == MAP_FAILED)
			return gw_fail_errno(err, errno, "memory for block '%s'",
					     t->entry[i].idstr);
		o->data = p;
		o->state = calloc(len >> GW_PAGE_BITS, 1);
		if (!o->state)
			return gw_fail(err, ENOMEM, "no memory for block '%s'",
				       t->entry[i].idstr);
	}
	return 0;
}

static int op_begin(struct gw_sink *sink, const struct gw_image_desc *d,
		    struct gw_error *err)
{
	struct vm_sink *s = of(sink);
	struct gw_vm *vm = s->vm;
	int r = vm->ops->check(vm, false, err);

	s->d = d;
	if (!r)
		r = check_machine(s, err);
	if (!r)
		r = bind_blocks(s, err);
	if (!r)
		r = add_others(s, err);
	if (!r)
		r = gw_ram_map(&vm->ram, true, err);
	if (r)
		return r;
	gw_pause_at(GW_PAUSE_DEST_SETUP);
	for (int i = 0; i < vm->ram.nblocks; i++)
		gw_bitmap_clear_all(&vm->ram.block[i].placed);
	s->punched = true;
	r = gw_dest_empty_ram(&vm->ram, err);
	return r;
}

/* --- pages -------------------------------------------------------------- */

/* Where page @page of @block, which is not RAM, is kept. */
static uint8_t *room(struct vm_sink *s, int block, uint64_t page,
		     struct gw_error *err)
{
	struct gw_devload_block *o = &s->other[block];

	if (o->state[page] != GW_PAGE_DATA) {
		if (__atomic_add_fetch(&s->kept, GW_PAGE_SIZE,
				       __ATOMIC_RELAXED) > GW_SINK_VM_MAX_KEPT) {
			gw_fail_as(err, GW_FAULT_REFUSED, EMSGSIZE,
				   "ROMs, video memory and other blocks outside the VM's RAM have more than %llu MiB of data (block '%s')",
				   GW_SINK_VM_MAX_KEPT >> 20,
				   s->d->table.entry[block].idstr);
			return NULL;
		}
		o->state[page] = GW_PAGE_DATA;
	}
	return o->data + (page << GW_PAGE_BITS);
}

static void count(struct vm_sink *s, uint64_t nbytes)
{
	__atomic_fetch_add(&s->base.nbytes, nbytes, __ATOMIC_RELAXED);
}

static int too_late(struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "a page comes after RAM was complete");
}

static int put_other(struct vm_sink *s, int block, uint64_t first, uint32_t n,
		     const uint8_t *data, struct gw_error *err)
{
	for (uint32_t i = 0; i < n; i++, data += GW_PAGE_SIZE) {
		uint8_t *dst = room(s, block, first + i, err);

		if (!dst)
			return -err->code;
		memcpy(dst, data, GW_PAGE_SIZE);
	}
	return 0;
}

static int op_pages(struct gw_sink *sink, int block, uint64_t first, uint32_t n,
		    const void *data, struct gw_error *err)
{
	struct vm_sink *s = of(sink);
	struct gw_ramblock *b = s->block[block];
	int r = s->final ? too_late(err) :
		b	 ? gw_put_pages(b, first, n, data, err) :
			   put_other(s, block, first, n, data, err);

	if (!r)
		count(s, (uint64_t)n * GW_PAGE_SIZE);
	return r;
}

static int op_zeros(struct gw_sink *sink, int block, uint64_t first, uint64_t n,
		    struct gw_error *err)
{
	struct vm_sink *s = of(sink);
	struct gw_devload_block *o = &s->other[block];

	if (s->final)
		return too_late(err);
	if (s->block[block]) {
		gw_put_zeros(s->block[block], first, n);
		return 0;
	}
	for (uint64_t i = first; i < first + n; i++) {
		if (o->state[i] == GW_PAGE_DATA)
			__atomic_sub_fetch(&s->kept, GW_PAGE_SIZE,
					   __ATOMIC_RELAXED);
		o->state[i] = GW_PAGE_ZERO;
	}
	return 0;
}

/* What the VM's page holds now; a hole is not touched. */
static void get_ram(const struct gw_ramblock *b, uint64_t page, uint8_t *to)
{
	if (gw_bitmap_test(&b->placed, page))
		memcpy(to, b->host + (page << GW_PAGE_BITS), GW_PAGE_SIZE);
	else
		memset(to, 0, GW_PAGE_SIZE);
}

static int op_delta(struct gw_sink *sink, int block, uint64_t page,
		    const void *delta, uint16_t len, struct gw_error *err)
{
	struct vm_sink *s = of(sink);
	struct gw_ramblock *b = s->block[block];
	struct gw_devload_block *o = &s->other[block];
	const char *name = s->d->table.entry[block].idstr;
	uint8_t now[GW_PAGE_SIZE];

	if (s->final)
		return too_late(err);
	/* RAM began as zeros; of a ROM nobody knows what the other side has. */
	if (!b && o->state[page] == GW_PAGE_ABSENT)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "a delta for page 0x%llx of block '%s', which never came whole",
				  (unsigned long long)page, name);
	if (b)
		get_ram(b, page, now);
	else if (o->state[page] == GW_PAGE_ZERO)
		memset(now, 0, GW_PAGE_SIZE);
	else
		memcpy(now, o->data + (page << GW_PAGE_BITS), GW_PAGE_SIZE);
	if (gw_xbzrle_decode(delta, len, now))
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "the delta of %u bytes for page 0x%llx of block '%s' is damaged",
				  len, (unsigned long long)page, name);
	count(s, len);
	return b ? gw_put_pages(b, page, 1, now, err) :
		   put_other(s, block, page, 1, now, err);
}

/* --- the end ------------------------------------------------------------ */

/*
 * The table alone does not make an image: with x-ignore-shared a QEMU leaves
 * its shared RAM out, with multifd it sends it elsewhere.
 */
static int check_ram_came(struct vm_sink *s, struct gw_error *err)
{
	struct gw_ram *ram = &s->vm->ram;

	for (int i = 0; i < ram->nblocks; i++)
		if (gw_bitmap_count(&ram->block[i].placed))
			return 0;
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "RAM block '%s' is announced, but not one page of it came: %s",
			  ram->block[0].idstr,
			  s->d->config.ignore_shared ?
				  "it was made with capability x-ignore-shared, which leaves shared RAM out; save or migrate without it" :
				  "capability multifd sends pages over connections of their own, and those are not here");
}

static int op_pass(struct gw_sink *sink, bool last, struct gw_error *err)
{
	struct vm_sink *s = of(sink);
	int r;

	if (!last)
		return 0;
	r = check_ram_came(s, err);
	if (r)
		return r;
	/* Nothing is placed from here on. */
	s->final = true;
	gw_pause_at(GW_PAUSE_DEST_RAM_COMPLETE);
	s->loading = true;
	return s->vm->ops->load_begin(s->vm, err);
}

static int op_device(struct gw_sink *sink, const void *sections, size_t len,
		     const char *vmdesc, size_t vmdesc_len,
		     struct gw_error *err)
{
	struct vm_sink *s = of(sink);
	struct gw_devload l = { .vm = s->vm,
				.d = s->d,
				.block = s->other,
				.sections = sections,
				.len = len,
				.vmdesc = vmdesc,
				.vmdesc_len = vmdesc_len };
	int r = gw_devload_write(&l, err);

	s->run = l.ran && !s->o.paused;
	return r;
}

static int op_ready(struct gw_sink *sink, struct gw_error *err)
{
	struct vm_sink *s = of(sink);
	int r = s->vm->ops->load_finish(s->vm, err);

	if (!r)
		gw_pause_at(GW_PAUSE_DEST_LOADED);
	return r;
}

/* Whatever happens here, nobody else has it any more: it is never undone. */
static int op_finish(struct gw_sink *sink, struct gw_error *err)
{
	struct vm_sink *s = of(sink);
	const char *name = s->vm->info.name;
	int r;

	s->settled = true;
	r = s->run ? s->vm->ops->run(s->vm, err) : 0;
	if (!r)
		gw_vm_stay(s->vm);
	if (r && err->fault != GW_FAULT_UNCERTAIN)
		gw_error_prefix(err,
				"VM '%s' is complete here but could not be set running ('godwit resume %s' tries again)",
				name, name);
	return r;
}

static void op_keep(struct gw_sink *sink)
{
	of(sink)->settled = true;
}

static void undo(struct vm_sink *s)
{
	struct gw_error err = { 0 };

	if (s->loading && s->vm->ops->load_abort(s->vm, &err)) {
		gw_warn("%s", err.msg);
		return; /* it may run: its memory stays its own */
	}
	if (s->punched && gw_dest_empty_ram(&s->vm->ram, &err))
		gw_warn("%s", err.msg);
}

static void op_close(struct gw_sink *sink)
{
	struct vm_sink *s = of(sink);

	if (!s->settled)
		undo(s);
	for (int i = 0; s->d && i < s->d->table.n; i++) {
		if (s->other[i].data)
			munmap(s->other[i].data,
			       s->d->table.entry[i].used_length);
		free(s->other[i].state);
	}
	free(s);
}

static const struct gw_sink_ops ops = {
	.name = "vm",
	.begin = op_begin,
	.pages = op_pages,
	.zeros = op_zeros,
	.delta = op_delta,
	.pass = op_pass,
	.device = op_device,
	.ready = op_ready,
	.finish = op_finish,
	.keep = op_keep,
	.close = op_close,
};

struct gw_sink *gw_sink_vm(struct gw_vm *vm, const struct gw_sink_vm_options *o,
			   struct gw_error *err)
{
	struct vm_sink *s = calloc(1, sizeof(*s));

	if (!s) {
		gw_fail(err, ENOMEM, "no memory for a VM's image");
		return NULL;
	}
	s->base.ops = &ops;
	s->base.parallel = s->base.runs_it = s->base.keeps_holes = true;
	s->vm = vm;
	if (o)
		s->o = *o;
	return &s->base;
}

bool gw_sink_vm_runs(const struct gw_sink *s)
{
	return ((const struct vm_sink *)s)->run;
}
