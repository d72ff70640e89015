/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * track_vm.h - a "VM" for track_test.c: another process that maps the RAM,
 * owns the userfaultfds as the agent does, and writes. Knows nothing of
 * trackers. track_test.c runs itself again as this process.
 */
#ifndef GW_TRACK_VM_H
#define GW_TRACK_VM_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "test.h"

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif

#define PAGE	  4096ul
#define HUGE_PAGE (2ul << 20)
#define NBLOCKS	  3

/* One file; blocks begin in its middle, the tail block has an odd size. */
static const struct {
	const char *name;
	size_t offset, length;
} vm_blocks[NBLOCKS] = {
	{ "pc.ram", 2ul << 20, 34ul << 20 }, /* > 2 * 4096 pages */
	{ "odd", (43ul << 20) + 5 * PAGE, (4ul << 20) + 3 * PAGE },
	{ "one", 50ul << 20, PAGE },
};
#define VM_FILE_SIZE (51ul << 20)

/* With huge pages: the same blocks, but on their boundaries. */
static inline size_t vm_offset(int block, size_t page_size)
{
	return page_size == PAGE ? vm_blocks[block].offset :
				   (size_t)block * (64ul << 20);
}

static inline size_t vm_mapped(int block, size_t page_size)
{
	return (vm_blocks[block].length + page_size - 1) & -page_size;
}

enum vm_op {
	VM_HELLO,   /* -> value[]: addresses */
	VM_UFFD,    /* block: purpose -> fd, value[0]: used */
	VM_RELEASE, /* block: purpose */
	VM_RUN,	    /* npages: threads; seed; block: enum vm_writers */
	VM_STOP,    /* -> value[0]: operations done */
	VM_WRITE,   /* bytes in npages pages, each value[0]-th from page on */
	VM_READ,
	VM_ZAP, /* MADV_DONTNEED: the content stays in the file */
	VM_PUNCH, /* the content goes, as with free-page reporting */
};

enum vm_writers { VM_ALL_RAM, VM_HOT, VM_SPARSE };

struct vm_msg {
	int op;
	int result;
	uint32_t block, npages;
	uint64_t page, seed, value[NBLOCKS];
};

/* Send @m, with @fd if it is not negative. Return: success. */
static inline bool vm_send(int sock, const struct vm_msg *m, int fd)
{
	struct iovec iov = { (void *)(uintptr_t)m, sizeof(*m) };
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} c = { { 0 } };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		h.msg_control = c.buf;
		h.msg_controllen = sizeof(c.buf);
		c.align.cmsg_level = SOL_SOCKET;
		c.align.cmsg_type = SCM_RIGHTS;
		c.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&c.align), &fd, sizeof(fd));
	}
	return sendmsg(sock, &h, MSG_NOSIGNAL) == sizeof(*m);
}

static inline bool vm_recv(int sock, struct vm_msg *m, int *fd)
{
	struct iovec iov = { m, sizeof(*m) };
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} c = { { 0 } };
	struct msghdr h = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = c.buf,
			    .msg_controllen = sizeof(c.buf) };

	if (fd)
		*fd = -1;
	if (recvmsg(sock, &h, MSG_CMSG_CLOEXEC) != sizeof(*m))
		return false;
	if (fd && CMSG_FIRSTHDR(&h))
		memcpy(fd, CMSG_DATA(&c.align), sizeof(*fd));
	return true;
}

/* --- the process ------------------------------------------------------- */

/* Guest memory is raced over on purpose. */
#define RACY __attribute__((no_sanitize("thread"), noinline))

static struct {
	uint8_t *mem[NBLOCKS];
	int file, scratch;
	size_t page_size;
	int kept[3]; /* by purpose, as the agent keeps them; 0: none */
	bool stop; /* atomic */
	enum vm_writers writers;
	pthread_t thread[16];
	unsigned int nthreads;
	uint64_t seed, ops;
} vm;

static RACY void vm_poke(volatile uint8_t *p, size_t n, uint64_t *s)
{
	uint64_t v = test_rand(s) | 1;

	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(p[i] + (v >> (i % 57)) + i) ^ 1;
}

static RACY uint8_t vm_peek(const volatile uint8_t *p)
{
	return *p;
}

/* The kernel writes guest memory, as for a disk read. */
static void vm_pread(uint8_t *p, size_t n, uint64_t *s)
{
	off_t at = (off_t)(test_rand(s) % (1ul << 16));

	if (syscall(SYS_pread64, vm.scratch, p, n, at) != (long)n) {
		fprintf(stderr, "vm: pread into guest memory: %m\n");
		_exit(9);
	}
}

/* Write all of a 2 MiB range, then drop it from the page tables. */
static void vm_write_and_zap(uint8_t *mem, size_t len, uint64_t *s)
{
	size_t at = test_rand(s) % (len / HUGE_PAGE) * HUGE_PAGE;

	for (size_t o = 0; o < HUGE_PAGE; o += PAGE)
		vm_poke(mem + at + o, 1, s);
	madvise(mem + at, HUGE_PAGE, MADV_DONTNEED);
}

static void vm_random_op(uint64_t *s)
{
	unsigned int b = test_rand(s) % 8 < 5 ? 0 : test_rand(s) % NBLOCKS;
	uint8_t *mem = vm.mem[b];
	size_t len = vm_blocks[b].length;
	size_t at = test_rand(s) % len;
	size_t page = at & -PAGE, left = len - at;

	/* Half of it in a hot eighth, so that pages are written again. */
	if (b == 0 && test_rand(s) % 2)
		at %= len / 8;
	switch (test_rand(s) % 16) {
	case 0:
	case 1:
		if (page + 64 < len && page >= 64)
			vm_poke(mem + page - 64, 128, s);
		break;
	case 2:
		vm_poke(mem + page, PAGE, s);
		break;
	case 3:
	case 4:
		vm_pread(mem + at, left < 9000 ? left : 9000, s);
		break;
	case 5:
		if (vm.page_size == PAGE)
			madvise(mem + page, left < 16 * PAGE ? PAGE : 16 * PAGE,
				MADV_DONTNEED);
		break;
	case 6:
		vm_peek(mem + at);
		break;
	case 7:
		if (b == 0 && test_rand(s) % 32 == 0)
			vm_write_and_zap(mem, len, s);
		break;
	default:
		vm_poke(mem + at, 1, s);
	}
}

/* Few pages, far apart, all the time: for races of a single page. */
static void vm_hot_op(uint64_t *s)
{
	vm_poke(vm.mem[0] + test_rand(s) % 24 * 40 * PAGE, 1, s);
}

static int vm_give_back(unsigned int b, size_t at, size_t len)
{
	off_t offset = (off_t)(vm_offset((int)b, vm.page_size) + at);
	int r = fallocate(vm.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  offset, (off_t)len);

	return r | madvise(vm.mem[b] + at, len, MADV_DONTNEED);
}

/* Memory that is mostly holes: used, given back, used again, swapped out,
 * allocated without use, looked at. */
static void vm_sparse_op(uint64_t *s)
{
	unsigned int b = test_rand(s) % 8 < 6 ? 0 : test_rand(s) % NBLOCKS;
	uint8_t *mem = vm.mem[b];
	size_t len = vm_blocks[b].length, at = test_rand(s) % len & -PAGE;
	size_t n = test_rand(s) % (16 * PAGE);

	n = n < len - at ? n : len - at;
	switch (test_rand(s) % 16) {
	case 0: /* several page tables */
		n = (PAGE + test_rand(s) % (3 * HUGE_PAGE)) & -PAGE;
		vm_give_back(b, at, n < len - at ? n : len - at);
		break;
	case 1: /* one, wholly */
		at &= -HUGE_PAGE;
		vm_give_back(b, at,
			     HUGE_PAGE < len - at ? HUGE_PAGE : len - at);
		break;
	case 2:
		vm_give_back(b, at, PAGE);
		break;
	case 3:
		if (b == 0)
			vm_write_and_zap(mem, len, s);
		break;
	case 4:
		madvise(mem + at, PAGE + n, MADV_DONTNEED);
		break;
	case 5:
		vm_peek(mem + at);
		break;
	case 6:
		vm_pread(mem + at, n, s);
		break;
	case 7:
		fallocate(vm.file, FALLOC_FL_KEEP_SIZE,
			  (off_t)(vm_offset((int)b, vm.page_size) + at),
			  (off_t)PAGE);
		break;
	case 8: /* does nothing where there is no swap */
		madvise(mem + (at & -HUGE_PAGE), PAGE, MADV_PAGEOUT);
		break;
	case 9:
		vm_poke(mem + at, n, s);
		break;
	default:
		vm_poke(mem + at + test_rand(s) % PAGE, 1, s);
	}
}

static void *vm_writer(void *arg)
{
	uint64_t s = vm.seed + (uintptr_t)arg * 7919, n = 0;

	/* On a busy machine, too, each does something. */
	while (n < 50 || !__atomic_load_n(&vm.stop, __ATOMIC_RELAXED)) {
		if (vm.writers == VM_HOT)
			vm_hot_op(&s);
		else if (vm.writers == VM_SPARSE)
			vm_sparse_op(&s);
		else
			vm_random_op(&s);
		if (++n % 32 == 0)
			sched_yield();
	}
	__atomic_fetch_add(&vm.ops, n, __ATOMIC_RELAXED);
	return NULL;
}

static int vm_get_uffd(struct vm_msg *m)
{
	int *kept = &vm.kept[m->block];

	m->value[0] = *kept > 0;
	if (!*kept)
		*kept = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (*kept < 0) {
		m->result = -errno;
		*kept = 0;
		return -1;
	}
	return *kept;
}

static void vm_touch(struct vm_msg *m)
{
	uint8_t *p = vm.mem[m->block] + m->page * PAGE;
	size_t step = (m->value[0] ? m->value[0] : 1) * PAGE;
	uint64_t s = m->seed;

	for (uint32_t i = 0; i < m->npages; i++, p += step) {
		if (m->op == VM_WRITE)
			vm_poke(p + test_rand(&s) % PAGE, 1, &s);
		else
			vm_peek(p);
	}
}

static int vm_serve(struct vm_msg *m)
{
	uint8_t *p = vm.mem[m->block % NBLOCKS] + m->page * PAGE;

	switch (m->op) {
	case VM_HELLO:
		for (int i = 0; i < NBLOCKS; i++)
			m->value[i] = (uintptr_t)vm.mem[i];
		break;
	case VM_UFFD:
		return vm_get_uffd(m);
	case VM_RELEASE:
		if (vm.kept[m->block] > 0)
			close(vm.kept[m->block]);
		vm.kept[m->block] = 0;
		break;
	case VM_RUN:
		__atomic_store_n(&vm.stop, false, __ATOMIC_RELAXED);
		vm.writers = (enum vm_writers)m->block;
		vm.seed = m->seed;
		vm.ops = 0;
		for (vm.nthreads = 0; vm.nthreads < m->npages; vm.nthreads++)
			pthread_create(&vm.thread[vm.nthreads], NULL, vm_writer,
				       (void *)(uintptr_t)vm.nthreads);
		break;
	case VM_STOP:
		__atomic_store_n(&vm.stop, true, __ATOMIC_RELAXED);
		while (vm.nthreads)
			pthread_join(vm.thread[--vm.nthreads], NULL);
		m->value[0] = vm.ops;
		break;
	case VM_WRITE:
	case VM_READ:
		vm_touch(m);
		break;
	case VM_ZAP:
		m->result = madvise(p, m->npages * PAGE, MADV_DONTNEED);
		break;
	case VM_PUNCH:
		m->result = vm_give_back(m->block, m->page * PAGE,
					 m->npages * PAGE);
		break;
	}
	return -1;
}

/* Map block @i; block 0 on a 2 MiB boundary. */
static void vm_map(int i)
{
	size_t len = vm_mapped(i, vm.page_size);
	uint8_t *p = mmap(NULL, len + 2 * HUGE_PAGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		_exit(8);
	p += -(uintptr_t)p & (HUGE_PAGE - 1);
	if (i && vm.page_size == PAGE)
		p += 7 * PAGE;
	vm.mem[i] = mmap(p, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 vm.file, (off_t)vm_offset(i, vm.page_size));
	if (vm.mem[i] == MAP_FAILED)
		_exit(7);
}

/* --vm SOCKET FILE SCRATCH PAGE_SIZE */
static int vm_main(char **argv)
{
	int sock = atoi(argv[2]), fd;
	struct vm_msg m;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	vm.file = atoi(argv[3]);
	vm.scratch = atoi(argv[4]);
	vm.page_size = strtoul(argv[5], NULL, 0);
	for (int i = 0; i < NBLOCKS; i++)
		vm_map(i);
	while (vm_recv(sock, &m, NULL)) {
		m.result = 0;
		fd = vm_serve(&m);
		if (!vm_send(sock, &m, fd))
			break;
	}
	_exit(0);
}

#endif
