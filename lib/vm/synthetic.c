/* SPDX-License-Identifier: BSD-3-Clause */
/* synthetic.c - see synthetic.h. */
#include "vm/synthetic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"
#include "vm/synthetic_internal.h"

#define ZERO_BIT    0x80000000u /* in a generation: the page was cleared */
#define GIVEN_BIT   0x40000000u /* it was given back to the host */
#define FREE_BIT    0x20000000u /* the guest does not care what it holds */
#define FLAGS	    (ZERO_BIT | GIVEN_BIT | FREE_BIT)

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ULL;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

/* A page of generation @gen: its words follow from seed, block and page. */
static uint64_t word0(struct synthetic *s, int block, uint64_t page,
		      uint32_t gen)
{
	return mix(s->c.seed ^ mix(page * GW_SYNTHETIC_BLOCKS + (uint64_t)block) ^
		   ((uint64_t)gen << 32)) | 1;
}

/* A secondary: what it writes is not what the primary has there. */
static void mark(struct synthetic *s, int block, uint64_t page)
{
	if (s->c.secondary)
		gw_bitmap_set(&s->vm.ram.block[block].dirty, page);
}

static void write_page(struct synthetic *s, int block, uint64_t page,
		       uint32_t gen)
{
	uint64_t *p = (uint64_t *)(s->mem[block] + (page << GW_PAGE_BITS));
	uint64_t w = word0(s, block, page, gen);

	mark(s, block, page);
	for (unsigned int i = 0; i < GW_PAGE_SIZE / 8; i++)
		__atomic_store_n(&p[i], gen & ZERO_BIT ? 0 : w + i,
				 __ATOMIC_RELAXED);
	__atomic_store_n(&s->gen[block][page], gen, __ATOMIC_RELAXED);
}

/* As a balloon does: punched out of the file, and out of the page table. */
static void give_back(struct synthetic *s, int block, uint64_t page,
		      uint32_t gen)
{
	uint8_t *p = s->mem[block] + (page << GW_PAGE_BITS);

	mark(s, block, page);
	if (fallocate(s->vm.ram.block[block].fd,
		      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)(page << GW_PAGE_BITS), GW_PAGE_SIZE) ||
	    madvise(p, GW_PAGE_SIZE, MADV_DONTNEED))
		return; /* as if it had been refused */
	__atomic_store_n(&s->gen[block][page], gen | ZERO_BIT | GIVEN_BIT,
			 __ATOMIC_RELAXED);
}

/*
 * What a kernel does: a page that is free stops being free before somebody
 * writes to it. Its bytes stay as they are when it is freed.
 */
static void use_or_free(struct synthetic *s, int block, uint64_t page,
			uint64_t random)
{
	uint32_t *now = &s->gen[block][page], gen = (*now & ~FLAGS) + 1;

	if ((random >> 56) * 100 < s->c.free_percent * 256ULL) {
		__atomic_store_n(now, gen | FREE_BIT, __ATOMIC_SEQ_CST);
		return;
	}
	__atomic_store_n(now, *now & ~FREE_BIT, __ATOMIC_SEQ_CST);
	if ((random & 0xff) * 100 < s->c.zero_percent * 256ULL)
		gen |= ZERO_BIT;
	if ((random >> 48 & 0xff) * 100 < s->c.give_percent * 256ULL)
		give_back(s, block, page, gen);
	else
		write_page(s, block, page, gen);
}

/* --- writers ------------------------------------------------------------ */

struct writer {
	struct synthetic *s;
	int index;
};

/* Stand still while the VM does. Return: false to end. */
static bool may_run(struct synthetic *s)
{
	GW_LOCKED(&s->lock);
	while (!s->run && !s->quit) {
		s->resting++;
		pthread_cond_broadcast(&s->changed);
		pthread_cond_wait(&s->changed, &s->lock);
		s->resting--;
	}
	return !s->quit;
}

/*
 * A writer's time: @due is when it may write on. Pages have their pace, if
 * any; a writer that is throttled waits in addition, as long as it ran times
 * percent / (100 - percent).
 */
static void pace(struct synthetic *s, unsigned int npages, int64_t ran_ns,
		 int64_t *due)
{
	unsigned int percent = __atomic_load_n(&s->throttle, __ATOMIC_RELAXED);
	int64_t now = gw_now_ns(), ns = 0;

	if (s->c.pages_per_s)
		ns = (int64_t)(npages * 1000000000ULL / s->c.pages_per_s);
	else if (percent)
		ns = ran_ns;
	if (percent)
		ns = ns * 100 / (100 - percent);
	if (!ns) {
		*due = now;
		return;
	}
	*due += ns;
	if (*due < now - GW_NS_PER_S) /* it stood: that is not made up for */
		*due = now;
}

/* Sleep towards @due, not so long that stopping it is slow. Sleeping has a
 * cost: what is short is saved up. Return: whether there is more to wait. */
static bool nap(int64_t due)
{
	int64_t wait = due - gw_now_ns(), most = 10 * GW_NS_PER_MS;
	struct timespec t = { 0, wait < most ? wait : most };

	if (wait < GW_NS_PER_MS / 10)
		return false;
	nanosleep(&t, NULL);
	return true;
}

static void *writer(void *arg)
{
	struct writer *w = arg;
	struct synthetic *s = w->s;
	uint64_t stride = (uint64_t)s->c.nthreads, x = 0, n = 0;
	int64_t due = 0, began = 0;

	while (may_run(s)) {
		int block;
		uint64_t page;

		if (n && n % 16 == 0 && nap(due)) {
			began = gw_now_ns();
			continue;
		}
		if (!n) { /* the seed is known when the VM runs, not before */
			x = mix(s->c.seed + 77 + (uint64_t)w->index);
			due = began = gw_now_ns();
		}
		block = (int)((x >> 8) % (uint64_t)s->c.nblocks);
		page = (x >> 16) % (s->c.working_set / stride) * stride +
		       (uint64_t)w->index;
		use_or_free(s, block, page, x);
		__atomic_fetch_add(&s->writes, 1, __ATOMIC_RELAXED);
		x = mix(x + 0x9e3779b97f4a7c15ULL);
		n++;
		if (n % 16 == 0) {
			pace(s, 16, gw_now_ns() - began, &due);
			began = gw_now_ns();
		}
	}
	free(w);
	return NULL;
}

void gw_synthetic_set_run_locked(struct synthetic *s, bool run)
{
	s->run = run;
	pthread_cond_broadcast(&s->changed);
	while (!run && s->resting < s->nthreads)
		pthread_cond_wait(&s->changed, &s->lock);
}

void gw_synthetic_set_run(struct synthetic *s, bool run)
{
	GW_LOCKED(&s->lock);
	gw_synthetic_set_run_locked(s, run);
	s->vm.info.running = run;
}

/* --- ops ---------------------------------------------------------------- */

int gw_synthetic_inject(struct synthetic *s, enum gw_synthetic_fault f,
			struct gw_error *err)
{
	return s->c.fault != f ? 0 : gw_fail(err, EIO, "injected fault %d", f);
}

static int op_check(struct gw_vm *vm, bool source, struct gw_error *err)
{
	if (source == vm->info.waiting)
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  source ? "'%s' waits for a migration" :
					   "'%s' does not wait for a migration",
				  vm->info.name);
	return 0;
}

static int op_describe(struct gw_vm *vm, struct gw_image_desc *d,
		       struct gw_error *err)
{
	struct gw_ram_table *t = &d->table;

	memset(&d->config, 0, sizeof(d->config));
	snprintf(d->config.machine, sizeof(d->config.machine), "%s",
		 vm->info.machine);
	t->n = vm->ram.nblocks;
	t->total = vm->ram.total;
	for (int i = 0; i < t->n; i++) {
		t->entry[i] = (struct gw_ram_entry){
			.used_length = vm->ram.block[i].used_length
		};
		memcpy(t->entry[i].idstr, vm->ram.block[i].idstr,
		       sizeof(t->entry[i].idstr));
	}
	return 0;
}

static int get_uffd(void *arg, enum gw_uffd_purpose purpose, int *fd,
		    bool *used, struct gw_error *err)
{
	*used = false;
	*fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (*fd < 0)
		return gw_fail_errno(err, errno, "userfaultfd");
	return 0;
}

static void release_uffd(void *arg, enum gw_uffd_purpose purpose)
{
}

static int op_track(struct gw_vm *vm, const char *kind, struct gw_track **t,
		    struct gw_error *err)
{
	struct gw_track_config c = { .ram = &vm->ram,
				     .pid = getpid(),
				     .uffd = { get_uffd, release_uffd, vm } };

	return gw_track_open(kind, &c, t, err);
}

static int op_drain(struct gw_vm *vm, struct gw_error *err)
{
	return gw_synthetic_inject(gw_synthetic_of(vm), GW_SYNTHETIC_FAIL_DRAIN, err);
}

static int op_throttle(struct gw_vm *vm, unsigned int percent,
		       struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);
	int r = percent ? gw_synthetic_inject(s, GW_SYNTHETIC_FAIL_THROTTLE, err) : 0;

	__atomic_store_n(&s->throttle, r ? 0 : percent, __ATOMIC_RELAXED);
	return r;
}

static int op_save_begin(struct gw_vm *vm, struct gw_error *err)
{
	return gw_synthetic_inject(gw_synthetic_of(vm), GW_SYNTHETIC_FAIL_SAVE_BEGIN, err);
}

static int op_save_poll(struct gw_vm *vm, int timeout_ms, bool *stopped,
			struct gw_error *err)
{
	bool was = vm->info.running;

	vm->stopped_ns = gw_now_ns();
	gw_synthetic_set_run(gw_synthetic_of(vm), false);
	vm->info.running = was; /* what GO passes on */
	*stopped = true;
	return 0;
}

void gw_synthetic_put_head(struct synthetic *s, uint8_t *head)
{
	gw_put_be32(head, GW_SYNTHETIC_MAGIC);
	gw_put_be64(head + 4, s->c.seed);
	gw_put_be64(head + 12, s->writes);
}

int gw_synthetic_put_pages(struct synthetic *s, gw_vm_sink sink, void *arg,
			   struct gw_error *err)
{
	uint64_t npages = s->c.nbytes >> GW_PAGE_BITS;
	uint8_t chunk[4096];
	int r = 0;

	for (int b = 0; b < s->c.nblocks; b++)
		for (uint64_t at = 0; at < npages && !r;) {
			size_t n = 0;

			for (; n < sizeof(chunk) && at < npages; n += 4)
				gw_put_be32(chunk + n, s->gen[b][at++]);
			r = sink(arg, chunk, n, err);
		}
	return r;
}

static int op_save_read(struct gw_vm *vm, bool final, gw_vm_sink sink,
			void *arg, struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);
	uint8_t head[GW_SYNTHETIC_HEAD];
	int r = gw_synthetic_inject(s, GW_SYNTHETIC_FAIL_SAVE_READ, err);

	if (r || !final)
		return r;
	gw_synthetic_put_head(s, head);
	r = sink(arg, head, sizeof(head), err);
	return r ? r : gw_synthetic_put_pages(s, sink, arg, err);
}

static int op_save_commit(struct gw_vm *vm, struct gw_error *err)
{
	return gw_synthetic_inject(gw_synthetic_of(vm), GW_SYNTHETIC_FAIL_COMMIT, err);
}

static void op_save_nothing(struct gw_vm *vm)
{
}

static int op_quit(struct gw_vm *vm, struct gw_error *err)
{
	return 0;
}

static int op_save_abort(struct gw_vm *vm, struct gw_error *err)
{
	if (vm->info.running)
		gw_synthetic_set_run(gw_synthetic_of(vm), true);
	return 0;
}

static int op_load_begin(struct gw_vm *vm, struct gw_error *err)
{
	gw_synthetic_of(vm)->state_len = 0;
	return 0;
}

static int op_load_write(struct gw_vm *vm, const void *p, size_t len,
			 struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);
	uint8_t *n = realloc(s->state, s->state_len + len);

	if (!n)
		return gw_fail(err, ENOMEM, "no memory");
	memcpy(n + s->state_len, p, len);
	s->state = n;
	s->state_len += len;
	return 0;
}

/* That of a checkpoint ends with the number of writes (be64). */
static int op_load_finish(struct gw_vm *vm, struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);
	uint64_t npages = s->c.nbytes >> GW_PAGE_BITS;
	size_t whole = GW_SYNTHETIC_HEAD +
		       4 * npages * (uint64_t)s->c.nblocks;
	uint8_t *p = s->state + GW_SYNTHETIC_HEAD;
	int r = gw_synthetic_inject(s, GW_SYNTHETIC_FAIL_LOAD, err);

	if (r)
		return r;
	if ((s->state_len != whole && s->state_len != whole + 8) ||
	    gw_get_be32(s->state) != GW_SYNTHETIC_MAGIC)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "%zu bytes of device state do not fit",
				  s->state_len);
	s->c.seed = gw_get_be64(s->state + 4);
	s->writes = gw_get_be64(s->state_len == whole ? s->state + 12 :
							s->state + whole);
	for (int b = 0; b < s->c.nblocks; b++)
		for (uint64_t i = 0; i < npages; i++, p += 4)
			s->gen[b][i] = gw_get_be32(p);
	vm->info.waiting = false;
	return 0;
}

static int op_load_abort(struct gw_vm *vm, struct gw_error *err)
{
	gw_synthetic_set_run(gw_synthetic_of(vm), false);
	return 0;
}

static int op_run(struct gw_vm *vm, struct gw_error *err)
{
	int r = gw_synthetic_inject(gw_synthetic_of(vm), GW_SYNTHETIC_FAIL_RUN, err);

	if (!r)
		gw_synthetic_set_run(gw_synthetic_of(vm), true);
	return r;
}

static void drop_memory(struct synthetic *s)
{
	for (int b = 0; b < s->c.nblocks; b++) {
		if (s->mem[b])
			munmap(s->mem[b], s->c.nbytes);
		s->mem[b] = NULL;
		free(s->gen[b]);
		s->gen[b] = NULL;
	}
	gw_ram_fini(&s->vm.ram);
}

static int add_block(struct synthetic *s, int i, struct gw_error *err)
{
	struct gw_ramblock *b;
	char name[32];
	void *p;
	int fd;

	snprintf(name, sizeof(name), "synthetic.ram%d", i);
	fd = memfd_create(name, MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)s->c.nbytes))
		return gw_fail_errno(err, errno, "memfd %s", name);
	b = gw_ram_add(&s->vm.ram, name, s->c.nbytes, GW_PAGE_SIZE, fd, 0,
		       err);
	if (!b)
		return -err->code;
	p = mmap(NULL, s->c.nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	s->gen[i] = calloc(s->c.nbytes >> GW_PAGE_BITS, sizeof(uint32_t));
	if (p == MAP_FAILED || !s->gen[i])
		return gw_fail(err, ENOMEM, "no memory for block %d", i);
	s->mem[i] = p;
	b->peer_addr = (uintptr_t)p;
	if (!s->c.waiting)
		for (uint64_t page = 0; page < s->c.populated; page++)
			write_page(s, i, page, 1);
	return 0;
}

static int add_blocks(struct synthetic *s, struct gw_error *err)
{
	int r = 0;

	for (int i = 0; i < s->c.nblocks && !r; i++)
		r = add_block(s, i, err);
	return r;
}

/* A fresh one likes what it is given. */
static int op_replace(struct gw_vm *vm, struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);

	if (vm->info.running)
		return gw_fail(err, EBUSY, "'%s' runs", vm->info.name);
	drop_memory(s);
	gw_ram_init(&vm->ram);
	s->c.waiting = vm->info.waiting = true;
	s->c.fault = GW_SYNTHETIC_SOUND;
	s->state_len = 0;
	return add_blocks(s, err);
}

static void op_close(struct gw_vm *vm)
{
	struct synthetic *s = gw_synthetic_of(vm);

	gw_synthetic_checkpoint_fini(s);
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	for (int i = 0; i < s->nthreads; i++)
		pthread_join(s->thread[i], NULL);
	drop_memory(s);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s->state);
	free(s);
}

static const struct gw_vm_ops ops = {
	.kind = "synthetic",
	.check = op_check,
	.describe = op_describe,
	.track = op_track,
	.drain = op_drain,
	.throttle = op_throttle,
	.save_begin = op_save_begin,
	.save_poll = op_save_poll,
	.save_read = op_save_read,
	.save_commit = op_save_commit,
	.save_release = op_save_nothing,
	.save_done = op_save_nothing,
	.quit = op_quit,
	.save_abort = op_save_abort,
	.load_begin = op_load_begin,
	.load_write = op_load_write,
	.load_finish = op_load_finish,
	.load_abort = op_load_abort,
	.run = op_run,
	.checkpoint = &gw_synthetic_checkpoint_ops,
	.replace = op_replace,
	.close = op_close,
};

/* --- setup -------------------------------------------------------------- */

static int start_writers(struct synthetic *s, struct gw_error *err)
{
	for (int i = 0; i < s->c.nthreads; i++) {
		struct writer *w = malloc(sizeof(*w));
		int r;

		if (!w)
			return gw_fail(err, ENOMEM, "no memory");
		*w = (struct writer){ s, i };
		r = gw_thread_start(&s->thread[i], "gw-writer", writer, w,
				    err);
		if (r) {
			free(w);
			return r;
		}
		s->nthreads++;
	}
	return 0;
}

struct gw_vm *gw_synthetic_open(const struct gw_synthetic_config *c,
				struct gw_error *err)
{
	struct synthetic *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s) {
		gw_fail(err, ENOMEM, "no memory");
		return NULL;
	}
	s->c = *c;
	s->vm.ops = &ops;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	gw_synthetic_checkpoint_init(s);
	snprintf(s->vm.info.name, sizeof(s->vm.info.name), "%s", c->name);
	snprintf(s->vm.info.vmm, sizeof(s->vm.info.vmm), "synthetic");
	snprintf(s->vm.info.machine, sizeof(s->vm.info.machine), "%s",
		 c->machine ? c->machine : "synthetic");
	snprintf(s->vm.info.arch, sizeof(s->vm.info.arch), "none");
	s->vm.info.waiting = c->waiting;
	s->vm.info.running = s->run = !c->waiting || c->secondary;
	if (c->nblocks < 1 || c->nblocks > GW_SYNTHETIC_BLOCKS ||
	    c->nthreads > GW_SYNTHETIC_THREADS)
		r = gw_fail(err, EINVAL, "%d blocks, %d threads", c->nblocks,
			    c->nthreads);
	if (!r)
		r = add_blocks(s, err);
	if (!r)
		r = start_writers(s, err);
	if (r) {
		op_close(&s->vm);
		return NULL;
	}
	return &s->vm;
}

/* --- for tests ---------------------------------------------------------- */

static int check_page(struct synthetic *s, int b, uint64_t page,
		      struct gw_error *err)
{
	const uint64_t *p =
		(const uint64_t *)(s->mem[b] + (page << GW_PAGE_BITS));
	uint32_t gen = s->gen[b][page];
	uint64_t w = gen && !(gen & ZERO_BIT) ? word0(s, b, page, gen) : 0;

	if (gen & FREE_BIT)
		return 0;
	for (unsigned int i = 0; i < GW_PAGE_SIZE / 8; i++)
		if (p[i] != (w ? w + i : 0))
			return gw_fail(err, EBADMSG,
				       "block %d page 0x%llx generation 0x%x: word %u is 0x%llx",
				       b, (unsigned long long)page, gen, i,
				       (unsigned long long)p[i]);
	return 0;
}

int gw_synthetic_check(struct gw_vm *vm, struct gw_error *err)
{
	struct synthetic *s = gw_synthetic_of(vm);
	bool was = gw_synthetic_running(vm), running = vm->info.running;
	int r = 0;

	gw_synthetic_set_run(s, false);
	for (int b = 0; b < s->c.nblocks && !r; b++)
		for (uint64_t i = 0; i < s->c.nbytes >> GW_PAGE_BITS && !r; i++)
			r = check_page(s, b, i, err);
	if (was)
		gw_synthetic_set_run(s, true);
	vm->info.running = running;
	return r;
}

uint64_t gw_synthetic_given_back(struct gw_vm *vm)
{
	struct synthetic *s = gw_synthetic_of(vm);
	uint64_t n = 0;

	for (int b = 0; b < s->c.nblocks; b++)
		for (uint64_t i = 0; i < s->c.nbytes >> GW_PAGE_BITS; i++)
			n += !!(s->gen[b][i] & GIVEN_BIT);
	return n;
}

bool gw_synthetic_is_free(struct gw_vm *vm, int block, uint64_t page)
{
	return __atomic_load_n(&gw_synthetic_of(vm)->gen[block][page], __ATOMIC_SEQ_CST) &
	       FREE_BIT;
}

bool gw_synthetic_running(struct gw_vm *vm)
{
	struct synthetic *s = gw_synthetic_of(vm);

	GW_LOCKED(&s->lock);
	return s->run;
}

unsigned int gw_synthetic_throttled(struct gw_vm *vm)
{
	return __atomic_load_n(&gw_synthetic_of(vm)->throttle, __ATOMIC_RELAXED);
}
