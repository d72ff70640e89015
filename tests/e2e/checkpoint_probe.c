/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * checkpoint_probe.c - drive the checkpoint ops of a running QEMU by hand. For
 * test_checkpoint.py; not a product.
 *
 *	checkpoint_probe VM
 *
 * Lines on standard input, each answered by one JSON object: "r" (0 or -errno)
 * and "err", and what the command gives besides.
 *
 *	begin [hold]
 *	take N MS	N checkpoints, MS apart: pauses (us), the steps of the
 *			longest one so far, state sizes
 *	stop | cont | release | lease MS | end run | end stay
 *	load NAME	the last checkpoint into VM NAME, which runs then
 *	spoil NAME	it, changed so that the QEMU of NAME does not like it
 *	attach NAME	NAME is what `replace` is for
 *	replace		a fresh QEMU for that of `spoil` or `attach`, and load
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/clock.h"
#include "vm/qemu/rundir.h"
#include "vm/qemu/vm.h"

static struct gw_vm *vm, *other;
static struct gw_track *track;
static uint8_t *shadow[GW_RAM_MAX_BLOCKS];
static struct {
	uint8_t *base, *part;
	size_t nbase, npart;
} last;

static struct gw_vm *attach(const char *name, struct gw_error *err)
{
	struct gw_vmref ref;
	struct gw_vm *v = NULL;

	if (!gw_vmref_parse(name, &ref, err))
		v = gw_qemu_open(&ref, NULL, err);
	if (v && gw_ram_map(&v->ram, true, err)) {
		gw_vm_close(v);
		v = NULL;
	}
	return v;
}

static int begin(bool hold, struct gw_error *err)
{
	struct gw_vm_checkpoint_options o = { .hold_network = hold,
					      .fence = true };
	int r = vm->ops->check(vm, true, err);

	if (!r && !track)
		r = vm->ops->track(vm, "auto", &track, err);
	if (!r)
		r = gw_track_start(track, err);
	for (int i = 0; i < vm->ram.nblocks && !r; i++) {
		struct gw_ramblock *b = &vm->ram.block[i];

		gw_bitmap_set_range(&b->dirty, 0, gw_ramblock_npages(b));
		if (!shadow[i])
			shadow[i] = mmap(NULL, b->used_length,
					 PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	}
	return r ? r : vm->ops->checkpoint->begin(vm, &o, err);
}

static uint64_t copy_dirty(void)
{
	uint64_t total = 0;

	for (int i = 0; i < vm->ram.nblocks; i++) {
		struct gw_ramblock *b = &vm->ram.block[i];
		uint64_t from = 0, n;
		uint64_t first;

		for (first = 0; first < gw_ramblock_npages(b); first = from) {
			from = first + 1;
			n = gw_bitmap_clear(&b->dirty, first);
			if (!n)
				continue;
			memcpy(shadow[i] + (first << GW_PAGE_BITS),
			       b->host + (first << GW_PAGE_BITS),
			       GW_PAGE_SIZE);
			total++;
		}
	}
	return total;
}

static void keep(const struct gw_vm_state *s)
{
	last.base = realloc(last.base, s->nbase + 1);
	last.part = realloc(last.part, s->npart + 1);
	if (s->nbase)
		memcpy(last.base, s->base, s->nbase);
	memcpy(last.part, s->part, s->npart);
	last.nbase = s->nbase;
	last.npart = s->npart;
}

/* Of the longest pause: when each step ended, us after its begin. */
static struct {
	int64_t stop, begin, copy, end, cont;
} worst;

static int64_t us_since(int64_t began)
{
	return (gw_now_ns() - began) / 1000;
}

/* What is dirty while it runs is copied first, as an engine does. */
static int take(int64_t *pause, struct gw_vm_state *s, uint64_t *pages,
		struct gw_error *err)
{
	const struct gw_vm_checkpoint_ops *ops = vm->ops->checkpoint;
	int64_t began, stop, begin, copy, end;
	int r = gw_track_scan(track, err);

	if (!r && vm->info.direct_io)
		r = vm->ops->drain(vm, err);
	if (r)
		return r;
	copy_dirty();
	began = gw_now_ns();
	r = ops->stop(vm, err);
	stop = us_since(began);
	if (!r)
		r = ops->state_begin(vm, err);
	begin = us_since(began);
	if (!r)
		r = gw_track_scan(track, err);
	if (r)
		return r;
	*pages = copy_dirty();
	copy = us_since(began);
	r = ops->state_end(vm, s, err);
	end = us_since(began);
	if (!r)
		r = ops->cont(vm, err);
	*pause = gw_now_ns() - began;
	if (*pause / 1000 > worst.cont) {
		worst.stop = stop;
		worst.begin = begin;
		worst.copy = copy;
		worst.end = end;
		worst.cont = *pause / 1000;
	}
	if (!r)
		keep(s);
	return r ? r : ops->release(vm, err);
}

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static int take_many(int n, int ms, struct gw_error *err)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
	int64_t *pause = calloc((size_t)n, sizeof(*pause));
	uint64_t pages = 0, generation = 0, generations = 0;
	struct gw_vm_state s = { 0 };
	int r = 0, i;

	for (i = 0; i < n && !r; i++) {
		r = take(&pause[i], &s, &pages, err);
		generations += s.generation != generation;
		generation = s.generation;
		if (i + 1 < n)
			nanosleep(&t, NULL);
	}
	qsort(pause, (size_t)i, sizeof(*pause), by_value);
	if (!r)
		printf("\"worst_us\": [%lld, %lld, %lld, %lld, %lld], ",
		       (long long)worst.stop, (long long)worst.begin,
		       (long long)worst.copy, (long long)worst.end,
		       (long long)worst.cont);
	if (!r)
		printf("\"median_us\": %lld, \"p95_us\": %lld, \"max_us\": %lld, \"base\": %zu, \"part\": %zu, \"generations\": %llu, ",
		       (long long)pause[n / 2] / 1000,
		       (long long)pause[n * 95 / 100] / 1000,
		       (long long)pause[n - 1] / 1000, s.nbase, s.npart,
		       (unsigned long long)generations);
	free(pause);
	return r;
}

static void fill(struct gw_vm *to)
{
	static const uint8_t zero[GW_PAGE_SIZE];

	for (int i = 0; i < to->ram.nblocks; i++)
		for (size_t at = 0; at < to->ram.block[i].used_length;
		     at += GW_PAGE_SIZE)
			if (memcmp(shadow[i] + at, zero, GW_PAGE_SIZE))
				memcpy(to->ram.block[i].host + at,
				       shadow[i] + at, GW_PAGE_SIZE);
}

static int feed(struct gw_vm *to, struct gw_error *err)
{
	int r = to->ops->check(to, false, err);

	if (r)
		return r;
	fill(to);
	r = to->ops->load_begin(to, err);
	if (!r && last.nbase)
		r = to->ops->load_write(to, last.base, last.nbase, err);
	if (!r)
		r = to->ops->load_write(to, last.part, last.npart, err);
	if (!r)
		r = to->ops->load_finish(to, err);
	return r;
}

/* It must stand until it is told to run. */
static int load(struct gw_vm *to, struct gw_error *err)
{
	struct timespec t = { 0, 200 * GW_NS_PER_MS };
	int r = feed(to, err);

	if (r)
		return r;
	nanosleep(&t, NULL);
	printf("\"loaded\": true, ");
	return to->ops->run(to, err);
}

static int load_into(const char *name, bool spoil, struct gw_error *err)
{
	uint8_t *version;
	int r;

	other = attach(name, err);
	if (!other)
		return -err->code;
	/* The first device is of a version that no QEMU knows. */
	version = last.part + 6 + last.part[5] + 4;
	*version ^= spoil ? 0x40 : 0;
	r = spoil ? feed(other, err) : load(other, err);
	*version ^= spoil ? 0x40 : 0;
	return r;
}

static int replace(struct gw_error *err)
{
	int64_t began = gw_now_ns();
	int r = other->ops->replace(other, err);

	printf("\"replace_ms\": %lld, ",
	       (long long)(gw_now_ns() - began) / 1000000);
	if (!r)
		r = gw_ram_map(&other->ram, true, err);
	return r ? r : load(other, err);
}

static int execute(const char *line, struct gw_error *err)
{
	const struct gw_vm_checkpoint_ops *ops = vm->ops->checkpoint;
	char word[32] = "", arg[200] = "";
	int ms = 0;

	sscanf(line, "%31s %199s %d", word, arg, &ms);
	if (!strcmp(word, "begin"))
		return begin(!strcmp(arg, "hold"), err);
	if (!strcmp(word, "take"))
		return take_many(atoi(arg), ms, err);
	if (!strcmp(word, "stop"))
		return ops->stop(vm, err);
	if (!strcmp(word, "cont"))
		return ops->cont(vm, err);
	if (!strcmp(word, "release"))
		return ops->release(vm, err);
	if (!strcmp(word, "lease"))
		return ops->lease(vm, gw_now_ns() + atoi(arg) * GW_NS_PER_MS,
				  err);
	if (!strcmp(word, "end"))
		return ops->end(vm, !strcmp(arg, "run"), "ended by the probe",
				err);
	if (!strcmp(word, "load") || !strcmp(word, "spoil"))
		return load_into(arg, word[0] == 's', err);
	if (!strcmp(word, "attach"))
		return (other = attach(arg, err)) ? 0 : -err->code;
	if (!strcmp(word, "replace"))
		return replace(err);
	return gw_fail(err, EINVAL, "what is '%s'?", word);
}

int main(int argc, char **argv)
{
	struct gw_error err = { 0 };
	char line[256];

	vm = attach(argc > 1 ? argv[1] : "", &err);
	if (!vm) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	while (fgets(line, sizeof(line), stdin)) {
		int r;

		memset(&err, 0, sizeof(err));
		printf("{");
		r = execute(line, &err);
		for (char *p = err.msg; *p; p++)
			*p = *p == '"' || *p == '\\' ? '\'' : *p;
		printf("\"r\": %d, \"err\": \"%s\"}\n", r, r ? err.msg : "");
		fflush(stdout);
	}
	gw_track_close(track);
	gw_vm_close(other);
	gw_vm_close(vm);
	return 0;
}
