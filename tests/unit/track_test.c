/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * track_test.c - every tracker against a model: another process writes its
 * RAM at random while we scan and copy; in the end both must be equal. And
 * against counting: on a quiet VM exactly the written pages are reported.
 */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/log.h"
#include "ram/extents.h"
#include "track/track.h"
#include "track/uapi.h"
#include "track_vm.h"

static uint64_t seed;
static struct gw_error err;
static const char *kind; /* of the case that runs */

struct machine {
	pid_t pid;
	int sock;
	struct gw_ram ram;
	uint8_t *shadow[NBLOCKS]; /* the destination */
	struct gw_track_config config;
	struct gw_track *t;
	bool keep; /* the agent ignores release */
};

static void tell(struct machine *m, struct vm_msg *msg, int *fd)
{
	int dummy;

	if (vm_send(m->sock, msg, -1) &&
	    vm_recv(m->sock, msg, fd ? fd : &dummy))
		return;
	/* A blocked VM must not hang the test; SO_RCVTIMEO brought us here. */
	fprintf(stderr, "%s (%s): the VM does not answer\n", test_name, kind);
	kill(m->pid, SIGKILL);
	exit(1);
}

static void vm_do(struct machine *m, enum vm_op op, uint32_t block,
		  uint64_t page, uint32_t npages)
{
	struct vm_msg msg = { .op = (int)op,
			      .block = block,
			      .page = page,
			      .npages = npages,
			      .seed = test_rand(&seed) };

	tell(m, &msg, NULL);
	CHECK(msg.result == 0);
}

/* @n bytes, one in each @stride-th page. */
static void vm_write_sparse(struct machine *m, uint32_t n, uint64_t stride)
{
	struct vm_msg msg = { .op = VM_WRITE, .npages = n, .seed = 1 };

	msg.value[0] = stride;
	tell(m, &msg, NULL);
}

static void run_writers_of(struct machine *m, enum vm_writers kind_of,
			   uint32_t threads)
{
	vm_do(m, VM_RUN, kind_of, 0, threads);
}

static void run_writers(struct machine *m, uint32_t threads)
{
	run_writers_of(m, VM_ALL_RAM, threads);
}

static void run_hot_writers(struct machine *m, uint32_t threads)
{
	run_writers_of(m, VM_HOT, threads);
}

/* Longer on demand. */
static int64_t sparse_ms(void)
{
	const char *s = getenv("GW_TRACK_SPARSE_MS");

	return s ? atoll(s) : 300;
}

static uint64_t stop_writers(struct machine *m)
{
	struct vm_msg msg = { .op = VM_STOP };

	tell(m, &msg, NULL);
	return msg.value[0];
}

static int uffd_get(void *arg, enum gw_uffd_purpose purpose, int *fd,
		    bool *used, struct gw_error *e)
{
	struct machine *m = arg;
	struct vm_msg msg = { .op = VM_UFFD, .block = purpose };

	if (!vm_send(m->sock, &msg, -1) || !vm_recv(m->sock, &msg, fd))
		return gw_fail(e, ECONNRESET, "the agent does not answer");
	if (msg.result)
		return gw_fail_errno(e, -msg.result, "userfaultfd in the VM");
	*used = msg.value[0];
	return 0;
}

static void uffd_release(void *arg, enum gw_uffd_purpose purpose)
{
	struct machine *m = arg;
	struct vm_msg msg = { .op = VM_RELEASE, .block = purpose };

	if (!m->keep && vm_send(m->sock, &msg, -1))
		vm_recv(m->sock, &msg, NULL); /* it may be dead */
}

static pid_t spawn(int sock, int file, int scratch, size_t page_size)
{
	char a[4][24];
	pid_t pid;

	snprintf(a[0], sizeof(a[0]), "%d", sock);
	snprintf(a[1], sizeof(a[1]), "%d", file);
	snprintf(a[2], sizeof(a[2]), "%d", scratch);
	snprintf(a[3], sizeof(a[3]), "%zu", page_size);
	pid = fork();
	if (!pid) {
		execl("/proc/self/exe", "track_test", "--vm", a[0], a[1], a[2],
		      a[3], (char *)NULL);
		_exit(127);
	}
	return pid;
}

static int scratch_file(void)
{
	static int fd = -1;
	uint8_t buf[4096];

	if (fd >= 0)
		return fd;
	fd = memfd_create("scratch", 0);
	for (int i = 0; i < 32; i++) {
		for (size_t k = 0; k < sizeof(buf); k++)
			buf[k] = (uint8_t)test_rand(&seed);
		if (write(fd, buf, sizeof(buf)) != sizeof(buf))
			abort();
	}
	return fd;
}

static void add_blocks(struct machine *m, int file, size_t page_size)
{
	struct vm_msg msg = { .op = VM_HELLO };

	tell(m, &msg, NULL);
	gw_ram_init(&m->ram);
	for (int i = 0; i < NBLOCKS; i++) {
		struct gw_ramblock *b;

		b = gw_ram_add(&m->ram, vm_blocks[i].name, vm_blocks[i].length,
			       (uint32_t)page_size, dup(file),
			       vm_offset(i, page_size), &err);
		if (!b) {
			fprintf(stderr, "%s\n", err.msg);
			exit(1);
		}
		b->peer_addr = msg.value[i];
		m->shadow[i] = calloc(1, b->used_length);
	}
	CHECK_OK(gw_ram_map(&m->ram, true, &err), &err);
}

/* @file: the RAM, taken over. */
static void boot_with(struct machine *m, int file, size_t page_size)
{
	struct timeval limit = { .tv_sec = 60 };
	int sv[2];

	memset(m, 0, sizeof(*m));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv))
		abort();
	setsockopt(sv[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	fcntl(sv[0], F_SETFD, FD_CLOEXEC);
	m->pid = spawn(sv[1], file, scratch_file(), page_size);
	m->sock = sv[0];
	close(sv[1]);
	add_blocks(m, file, page_size);
	close(file);
	m->config = (struct gw_track_config){
		.ram = &m->ram,
		.pid = m->pid,
		.uffd = { uffd_get, uffd_release, m },
	};
}

static void boot(struct machine *m)
{
	int file = memfd_create("ram", 0);

	if (file < 0 || ftruncate(file, VM_FILE_SIZE))
		abort();
	boot_with(m, file, PAGE);
}

static void shutdown_vm(struct machine *m)
{
	gw_track_close(m->t);
	kill(m->pid, SIGKILL);
	waitpid(m->pid, NULL, 0);
	close(m->sock);
	for (int i = 0; i < NBLOCKS; i++)
		free(m->shadow[i]);
	gw_ram_fini(&m->ram);
}

static bool open_tracker(struct machine *m)
{
	int r = gw_track_open(kind, &m->config, &m->t, &err);

	CHECK_OK(r, &err);
	return r == 0;
}

/* --- the destination --------------------------------------------------- */

static void copy_dirty(struct machine *m)
{
	for (int i = 0; i < NBLOCKS; i++) {
		struct gw_ramblock *b = &m->ram.block[i];
		uint64_t first = 0, n;

		while ((n = gw_bitmap_take_run(&b->dirty, first, &first)))
			memcpy(m->shadow[i] + first * PAGE,
			       b->host + first * PAGE, n * PAGE);
	}
}

/* The same, each part scanned once more before it is copied. */
static void copy_scanned_again(struct machine *m)
{
	for (int i = 0; i < NBLOCKS; i++) {
		struct gw_ramblock *b = &m->ram.block[i];
		uint64_t all = gw_ramblock_npages(b), at = 0, n, end;

		for (; gw_bitmap_next_run(&b->dirty, at, 1, &at); at = end) {
			n = 1 + test_rand(&seed) % 700;
			if (n > all - at)
				n = all - at;
			CHECK_OK(gw_track_scan_range(m->t, i, at, n, &err),
				 &err);
			end = at + n;
			while (at < end &&
			       (n = gw_bitmap_take_run(&b->dirty, at, &at))) {
				memcpy(m->shadow[i] + at * PAGE,
				       b->host + at * PAGE, n * PAGE);
				at += n;
			}
			end = at > end ? at : end;
		}
	}
}

/* The first pass: every data extent of the files. */
static void copy_extents(struct machine *m)
{
	for (int i = 0; i < NBLOCKS; i++) {
		struct gw_ramblock *b = &m->ram.block[i];
		uint64_t at = 0, start, len;

		for (;; at = start + len) {
			CHECK_OK(gw_extent_next(b, at, &start, &len, &err),
				 &err);
			if (!len)
				break;
			memcpy(m->shadow[i] + start, b->host + start, len);
		}
	}
}

/* Through the file: looking at a hole through a mapping makes it data. */
static void read_page(const struct gw_ramblock *b, size_t at, void *page)
{
	off_t offset = (off_t)(b->fd_offset + at);

	if (pread(b->fd, page, PAGE, offset) != (ssize_t)PAGE)
		abort();
}

static uint64_t wrong_pages(struct machine *m)
{
	uint8_t page[PAGE];
	uint64_t wrong = 0;

	for (int i = 0; i < NBLOCKS; i++) {
		struct gw_ramblock *b = &m->ram.block[i];

		for (size_t o = 0; o < b->used_length; o += PAGE) {
			read_page(b, o, page);
			if (!memcmp(m->shadow[i] + o, page, PAGE))
				continue;
			if (!wrong++)
				fprintf(stderr,
					"%s (%s): %s differs from page %zu on\n",
					test_name, kind, b->idstr, o / PAGE);
		}
	}
	return wrong;
}

/* Is what the VM wrote at the destination? What it gave back is zero here and
 * may be anything there. */
static uint64_t lost_pages(struct machine *m)
{
	static const uint8_t zeros[PAGE];
	uint8_t page[PAGE];
	uint64_t lost = 0;

	for (int i = 0; i < NBLOCKS; i++) {
		struct gw_ramblock *b = &m->ram.block[i];

		for (size_t o = 0; o < b->used_length; o += PAGE) {
			read_page(b, o, page);
			if (memcmp(page, zeros, PAGE) &&
			    memcmp(m->shadow[i] + o, page, PAGE) && !lost++)
				fprintf(stderr, "%s (%s): %s: page %zu lost\n",
					test_name, kind, b->idstr, o / PAGE);
		}
	}
	return lost;
}

static uint64_t populated(struct machine *m)
{
	uint64_t sum = 0, n;

	for (int i = 0; i < NBLOCKS; i++) {
		CHECK_OK(gw_extent_total(&m->ram.block[i], &n, &err), &err);
		sum += n / PAGE;
	}
	return sum;
}

static void scan(struct machine *m)
{
	CHECK_OK(gw_track_scan(m->t, &err), &err);
}

static void nap(int ms)
{
	usleep((useconds_t)ms * 1000);
}

/* Pages that the VM's page tables do not know: written from outside. */
static void fill_from_outside(struct machine *m)
{
	for (int i = 0; i < NBLOCKS; i++) {
		struct gw_ramblock *b = &m->ram.block[i];

		for (size_t o = 0; o < b->used_length; o += PAGE)
			if (test_rand(&seed) % 2)
				memset(b->host + o, (int)test_rand(&seed),
				       PAGE);
	}
}

static uint64_t dirty(struct machine *m)
{
	return gw_ram_dirty_pages(&m->ram);
}

static void clear_dirty(struct machine *m)
{
	for (int i = 0; i < NBLOCKS; i++)
		gw_bitmap_clear_all(&m->ram.block[i].dirty);
}

/* --- cases: run once per kind of tracker ------------------------------- */

static void precopy(struct machine *m, int passes)
{
	uint64_t pages = m->t->pages_reported;

	CHECK_OK(gw_track_start(m->t, &err), &err);
	scan(m);
	clear_dirty(m); /* the first pass takes all */
	copy_extents(m);
	vm_do(m, VM_WRITE, 0, 77, 3);
	for (int i = 0; i < passes; i++) {
		nap(i % 4);
		scan(m);
		if (i % 2)
			copy_scanned_again(m);
		else
			copy_dirty(m);
	}
	CHECK(stop_writers(m) > 0);
	scan(m);
	copy_dirty(m);
	CHECK(wrong_pages(m) == 0);
	CHECK(m->t->pages_reported > pages);
	/* Nobody writes: nothing more is reported. */
	scan(m);
	scan(m);
	CHECK(dirty(m) == 0);
}

static void random_writers_are_never_missed(void)
{
	struct machine m;

	boot(&m);
	fill_from_outside(&m);
	if (open_tracker(&m)) {
		int64_t end = gw_deadline_ms(600); /* sanitizers are slow */

		for (int round = 0; round < 5; round++) {
			if (round > 1 && gw_now_ns() > end)
				break;
			/* Odd rounds: the agent has kept the userfaultfd. */
			m.keep = round % 2 == 0;
			run_writers(&m, 2 + (uint32_t)round * 2);
			nap(2);
			precopy(&m, 12);
			if (round == 1) /* start also restarts */
				gw_track_stop(m.t);
		}
		CHECK(m.t->scans > 0 && m.t->scan_ns > 0);
	}
	shutdown_vm(&m);
}

/* Holes stay holes. */
static void copy_dirty_but_holes(struct machine *m)
{
	for (int i = 0; i < NBLOCKS; i++) {
		struct gw_ramblock *b = &m->ram.block[i];
		uint64_t at = 0, n;

		for (; (n = gw_bitmap_take_run(&b->dirty, at, &at)); at += n)
			for (uint64_t page = at; page < at + n; page++)
				read_page(b, page * PAGE,
					  m->shadow[i] + page * PAGE);
	}
}

/* As gw_source_pass_mark(). */
static void mark_extents(struct machine *m)
{
	for (int i = 0; i < NBLOCKS; i++) {
		struct gw_ramblock *b = &m->ram.block[i];
		uint64_t at = 0, start, len;

		for (;; at = start + len) {
			CHECK_OK(gw_extent_next(b, at, &start, &len, &err),
				 &err);
			if (!len)
				break;
			gw_bitmap_set_range(&b->dirty, start / PAGE,
					    len / PAGE);
		}
	}
}

/* Pages that somebody who looked made data, unknown to the VM. */
static void look_from_outside(struct machine *m)
{
	for (uint64_t n = test_rand(&seed) % 4; n; n--) {
		struct gw_ramblock *b =
			&m->ram.block[test_rand(&seed) % NBLOCKS];

		vm_peek(b->host + test_rand(&seed) % b->used_length);
	}
}

/* Placed by a migration that the VM came by. */
static void place_some(struct machine *m)
{
	for (uint64_t n = test_rand(&seed) % 64; n; n--) {
		struct gw_ramblock *b =
			&m->ram.block[test_rand(&seed) % NBLOCKS];
		uint64_t page = test_rand(&seed) % gw_ramblock_npages(b);

		memset(b->host + page * PAGE, (int)test_rand(&seed) | 1, PAGE);
	}
}

static void sparse_round(struct machine *m)
{
	uint32_t threads = 1 + (uint32_t)(test_rand(&seed) % 4);
	int passes = (int)(test_rand(&seed) % 12);

	for (int i = 0; i < NBLOCKS; i++)
		vm_do(m, VM_PUNCH, (uint32_t)i, 0,
		      (uint32_t)gw_ramblock_npages(&m->ram.block[i]));
	place_some(m);
	for (int i = 0; i < NBLOCKS; i++) /* the destination empties itself */
		memset(m->shadow[i], 0, m->ram.block[i].used_length);
	if (test_rand(&seed) % 2)
		run_writers_of(m, VM_SPARSE, threads);
	CHECK_OK(gw_track_start(m->t, &err), &err);
	if (test_rand(&seed) % 2) {
		stop_writers(m);
		run_writers_of(m, VM_SPARSE, threads);
	}
	mark_extents(m);
	for (int i = 0; i < passes; i++) {
		copy_dirty_but_holes(m);
		look_from_outside(m);
		usleep((useconds_t)(test_rand(&seed) % 3000));
		scan(m);
	}
	stop_writers(m);
	scan(m);
	copy_dirty_but_holes(m);
	CHECK(lost_pages(m) == 0);
	/* What did not change is not reported, whatever is looked at. */
	scan(m);
	CHECK(dirty(m) == 0);
	gw_track_stop(m->t);
}

static void sparse_rounds(struct machine *m, int64_t ms)
{
	int64_t end = gw_deadline_ms(ms);
	uint64_t sum = 0;
	int n = 0;

	do {
		sparse_round(m);
		sum += populated(m);
	} while (++n < 3 || gw_now_ns() < end);
	/* It was neither empty nor full. */
	CHECK(sum / (uint64_t)n > 50 && sum / (uint64_t)n < 9000);
}

static void sparse_memory_is_never_missed(void)
{
	struct machine m;

	boot(&m);
	if (open_tracker(&m))
		sparse_rounds(&m, sparse_ms());
	shutdown_vm(&m);
}

/* What becomes data is reported page by page, whoever made it so. */
static void new_data_is_reported_exactly(void)
{
	struct machine m;

	boot(&m);
	if (!open_tracker(&m))
		goto out;
	vm_do(&m, VM_WRITE, 0, 1000, 1);
	CHECK_OK(gw_track_start(m.t, &err), &err);
	scan(&m);
	CHECK(dirty(&m) == 0);
	vm_do(&m, VM_WRITE, 0, 3000, 5);
	vm_do(&m, VM_WRITE, 1, 0, 1);
	vm_do(&m, VM_WRITE, 2, 0, 1);
	vm_peek(m.ram.block[0].host + 3100 * PAGE);
	vm_do(&m, VM_WRITE, 0, 5000, 1);
	vm_do(&m, VM_PUNCH, 0, 5000, 1); /* gone again */
	scan(&m);
	for (uint64_t page = 3000; page < 3005; page++)
		CHECK(gw_bitmap_test(&m.ram.block[0].dirty, page));
	CHECK(gw_bitmap_test(&m.ram.block[0].dirty, 3100));
	CHECK(gw_bitmap_test(&m.ram.block[1].dirty, 0));
	CHECK(gw_bitmap_test(&m.ram.block[2].dirty, 0));
	CHECK(dirty(&m) == 8);
	clear_dirty(&m);
	scan(&m);
	CHECK(dirty(&m) == 0);
	/* Watched, the holes of such a part as well. */
	vm_do(&m, VM_WRITE, 0, 3003, 3);
	vm_do(&m, VM_READ, 0, 3200, 1);
	scan(&m);
	CHECK(dirty(&m) == 3);
	clear_dirty(&m);
	/* Given back as a whole, it stays watched. */
	vm_do(&m, VM_PUNCH, 0, 2560, 1024);
	scan(&m);
	clear_dirty(&m);
	vm_do(&m, VM_WRITE, 0, 3000, 1);
	scan(&m);
	CHECK(gw_bitmap_test(&m.ram.block[0].dirty, 3000));
out:
	shutdown_vm(&m);
}

/* Page tables of the VM, in KiB. */
static uint64_t tables(struct machine *m)
{
	unsigned long kib = 0;
	char line[256];
	FILE *f;

	snprintf(line, sizeof(line), "/proc/%d/status", (int)m->pid);
	f = fopen(line, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmPTE: %lu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

static void holes_get_no_page_tables(void)
{
	struct machine m;
	uint64_t before;

	boot(&m);
	if (!open_tracker(&m))
		goto out;
	vm_do(&m, VM_WRITE, 0, 700, 1);
	before = tables(&m);
	CHECK(before > 0);
	CHECK_OK(gw_track_start(m.t, &err), &err);
	for (int i = 0; i < 3; i++)
		scan(&m);
	CHECK(tables(&m) == before);
	/* As many as the VM needs itself. */
	for (uint64_t page = 512; page < 8 * 512; page += 512)
		vm_do(&m, VM_WRITE, 0, page, 1);
	before = tables(&m);
	scan(&m);
	CHECK(tables(&m) == before);
	CHECK(dirty(&m) == 7);
out:
	shutdown_vm(&m);
}

/* @stride: uffd-wp opens more for writers that go page by page. */
static void quiet_round(struct machine *m, uint64_t stride)
{
	uint64_t k = 1 + test_rand(&seed) % 60, distinct = 0;
	bool ok = true;

	struct {
		int block;
		uint64_t page;
	} wrote[60];

	for (uint64_t i = 0; i < k; i++) {
		int b = (int)(test_rand(&seed) % NBLOCKS);
		uint64_t n = gw_ramblock_npages(&m->ram.block[b]), page;

		page = test_rand(&seed) % n / stride * stride;
		if (test_rand(&seed) % 8 == 0)
			page = (n - 1) / stride * stride;
		wrote[i].block = b;
		wrote[i].page = page;
		vm_do(m, VM_WRITE, (uint32_t)b, page, 1);
	}
	scan(m);
	for (uint64_t i = 0; i < k; i++) {
		struct gw_bitmap *d = &m->ram.block[wrote[i].block].dirty;

		ok &= gw_bitmap_test(d, wrote[i].page);
	}
	CHECK(ok);
	for (uint64_t i = 0; i < k; i++) {
		struct gw_bitmap *d = &m->ram.block[wrote[i].block].dirty;

		distinct += gw_bitmap_clear(d, wrote[i].page);
	}
	CHECK(distinct > 0);
	CHECK(dirty(m) == 0); /* nothing else */
	clear_dirty(m);
}

static void quiet_vm_is_reported_exactly(void)
{
	bool sync = !strcmp(kind, "uffd-wp");
	struct machine m;

	boot(&m);
	fill_from_outside(&m);
	if (!open_tracker(&m))
		goto out;
	CHECK_OK(gw_track_start(m.t, &err), &err);
	scan(&m);
	CHECK(dirty(&m) == 0);
	for (int i = 0; i < 12; i++)
		quiet_round(&m, sync ? 3 : 1);
	/* Reads are not writes, not even of what was never there. */
	for (uint32_t i = 0; i < NBLOCKS; i++)
		vm_do(&m, VM_READ, i, 0,
		      (uint32_t)gw_ramblock_npages(&m.ram.block[i]));
	scan(&m);
	CHECK(dirty(&m) == 0);
	for (int i = 0; i < 12; i++)
		quiet_round(&m, sync ? 3 : 1);
out:
	shutdown_vm(&m);
}

/* More separate ranges than fit one call to the kernel. */
static void many_ranges(void)
{
	struct machine m;

	boot(&m);
	if (open_tracker(&m)) {
		CHECK_OK(gw_track_start(m.t, &err), &err);
		for (int i = 0; i < 2; i++) {
			vm_write_sparse(&m, 4300, 2);
			scan(&m);
			CHECK(dirty(&m) == 4300);
			clear_dirty(&m);
			scan(&m);
			CHECK(dirty(&m) == 0);
		}
		for (uint64_t stride = 17; stride < 20; stride++) {
			vm_write_sparse(&m, 400, stride);
			scan(&m);
			CHECK(dirty(&m) == 400);
			clear_dirty(&m);
		}
	}
	shutdown_vm(&m);
}

/* A page that is lost once by a race stays lost: scan like mad. */
static void hot_pages_with_tight_scans(void)
{
	struct machine m;
	int64_t end;

	boot(&m);
	if (open_tracker(&m)) {
		CHECK_OK(gw_track_start(m.t, &err), &err);
		copy_extents(&m);
		for (int i = 0; i < 6; i++) {
			run_hot_writers(&m, 3);
			end = gw_deadline_ms(80);
			while (gw_now_ns() < end) {
				scan(&m);
				copy_dirty(&m);
			}
			CHECK(stop_writers(&m) > 0);
			scan(&m);
			copy_dirty(&m);
			CHECK(wrong_pages(&m) == 0);
		}
	}
	shutdown_vm(&m);
}

static void scans_only_add(void)
{
	struct machine m;

	boot(&m);
	if (open_tracker(&m)) {
		gw_bitmap_set(&m.ram.block[1].dirty, 77);
		CHECK_OK(gw_track_start(m.t, &err), &err);
		vm_do(&m, VM_WRITE, 0, 5, 1);
		scan(&m);
		vm_do(&m, VM_WRITE, 0, 9, 1);
		scan(&m);
		CHECK(dirty(&m) == 3);
		CHECK(gw_bitmap_test(&m.ram.block[1].dirty, 77));
		gw_track_stop(m.t);
		gw_track_stop(m.t);
		vm_do(&m, VM_WRITE, 0, 20, 1);
		CHECK(gw_track_scan(m.t, &err) == -EINVAL);
		CHECK(dirty(&m) == 3);
	}
	shutdown_vm(&m);
}

/* Pages that left the page tables after they were written. */
static void zapped_pages_are_reported(void)
{
	struct machine m;

	boot(&m);
	fill_from_outside(&m);
	if (!open_tracker(&m))
		goto out;
	CHECK_OK(gw_track_start(m.t, &err), &err);
	copy_extents(&m);
	for (int i = 0; i < 3; i++) {
		vm_do(&m, VM_WRITE, 0, 1024, 512); /* a whole page table */
		vm_do(&m, VM_WRITE, 0, 2048, 100);
		vm_do(&m, VM_ZAP, 0, 1024, 512);
		vm_do(&m, VM_ZAP, 0, 2048, 512);
		if (i == 1)
			vm_do(&m, VM_READ, 0, 1024, 512);
		scan(&m);
		CHECK(dirty(&m) >= 612);
		copy_dirty(&m);
		CHECK(wrong_pages(&m) == 0);
		/* And they are watched again. */
		vm_do(&m, VM_WRITE, 0, 1025, 1);
		vm_do(&m, VM_WRITE, 0, 2049, 1);
		scan(&m);
		CHECK(dirty(&m) == 2);
		copy_dirty(&m);
	}
out:
	shutdown_vm(&m);
}

/* What the guest writes after the balloon took a page is seen. */
static void punched_pages_are_watched(void)
{
	struct machine m;

	boot(&m);
	fill_from_outside(&m);
	if (!open_tracker(&m))
		goto out;
	vm_do(&m, VM_READ, 0, 0, 2048);
	CHECK_OK(gw_track_start(m.t, &err), &err);
	vm_do(&m, VM_WRITE, 0, 512, 512);
	vm_do(&m, VM_PUNCH, 0, 0, 2048);
	scan(&m);
	clear_dirty(&m);
	vm_do(&m, VM_WRITE, 0, 10, 1);
	vm_do(&m, VM_WRITE, 0, 600, 1);
	vm_do(&m, VM_READ, 0, 1500, 1);
	vm_do(&m, VM_WRITE, 0, 1500, 1);
	scan(&m);
	CHECK(gw_bitmap_test(&m.ram.block[0].dirty, 10));
	CHECK(gw_bitmap_test(&m.ram.block[0].dirty, 600));
	CHECK(gw_bitmap_test(&m.ram.block[0].dirty, 1500));
	CHECK(dirty(&m) == 3);
out:
	shutdown_vm(&m);
}

/* Starting and stopping under fire never leaves a writer blocked. */
static void stop_races_with_writers(void)
{
	struct machine m;

	boot(&m);
	if (open_tracker(&m)) {
		run_writers(&m, 4);
		for (int i = 0; i < 25; i++) {
			m.keep = test_rand(&seed) % 2;
			CHECK_OK(gw_track_start(m.t, &err), &err);
			if (i % 3)
				scan(&m);
			if (i % 5 == 0)
				nap(1);
			gw_track_stop(m.t);
		}
		CHECK(stop_writers(&m) > 0);
	}
	shutdown_vm(&m);
}

/* A godwit that dies after a few passes; the VM's agent keeps the uffd. */
static void die_tracking(struct machine *m, const char *with)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (gw_track_open(with, &m->config, &m->t, &err) ||
		    gw_track_start(m->t, &err) || gw_track_scan(m->t, &err))
			_exit(1);
		nap(3);
		if (gw_track_scan(m->t, &err))
			_exit(2);
		nap(1);
		raise(SIGKILL);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void new_tracker_takes_over_from(const char *dead)
{
	struct machine m;

	boot(&m);
	fill_from_outside(&m);
	run_writers(&m, 3);
	die_tracking(&m, dead);
	nap(2); /* with uffd-wp all writers block now */
	if (open_tracker(&m))
		precopy(&m, 8);
	shutdown_vm(&m);
}

/* The dead one had read a fault from the fd, so that nobody can any more. */
static void takes_over_unanswered_faults(void)
{
	struct machine m;
	struct uffdio_api api = { .api = UFFD_API,
				  .features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_WP };
	struct uffdio_writeprotect wp = { .mode =
						  UFFDIO_WRITEPROTECT_MODE_WP };
	struct uffd_msg msgs[4];
	bool used;
	int fd;

	if (strcmp(kind, "uffd-wp"))
		return; /* nobody waits for the other kind */
	boot(&m);
	CHECK_OK(uffd_get(&m, GW_UFFD_TRACK_SYNC, &fd, &used, &err), &err);
	reg.range.start = m.ram.block[0].peer_addr;
	reg.range.len = m.ram.block[0].used_length;
	wp.range = reg.range;
	CHECK(!ioctl(fd, UFFDIO_API, &api));
	CHECK(!ioctl(fd, UFFDIO_REGISTER, &reg));
	CHECK(!ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
	run_writers(&m, 4);
	nap(30);
	CHECK(read(fd, msgs, sizeof(msgs)) > 0);
	close(fd);
	if (open_tracker(&m))
		precopy(&m, 4);
	shutdown_vm(&m);
}

static void takes_over_after_a_crash(void)
{
	new_tracker_takes_over_from(kind);
}

static void takes_over_from_the_other_kind(void)
{
	new_tracker_takes_over_from(strcmp(kind, "uffd-wp") ? "uffd-wp" :
							      "pagemap-scan");
}

static void vm_death_is_an_error(void)
{
	struct machine m;

	for (int when = 0; when < 4; when++) {
		bool scan_failed = false;

		boot(&m);
		if (!open_tracker(&m)) {
			shutdown_vm(&m);
			return;
		}
		run_writers(&m, 2);
		CHECK_OK(gw_track_start(m.t, &err), &err);
		scan(&m);
		kill(m.pid, SIGKILL);
		if (when == 0)
			waitpid(m.pid, NULL, 0);
		if (when == 1)
			nap(20); /* a zombie */
		/* Otherwise while it dies: an error at the latest soon. */
		for (int i = 0; i < 5000 && !scan_failed; i++) {
			memset(&err, 0, sizeof(err));
			scan_failed = gw_track_scan(m.t, &err) < 0;
		}
		CHECK(scan_failed && err.code == ESRCH);
		CHECK(strstr(err.msg, "has ended"));
		gw_track_stop(m.t);
		CHECK(gw_track_start(m.t, &err) < 0 || when > 1);
		shutdown_vm(&m);
	}
}

static void bad_configs_are_refused(void)
{
	struct gw_track *t;
	struct machine m;

	boot(&m);
	m.ram.block[1].peer_addr += 8;
	CHECK(gw_track_open(kind, &m.config, &t, &err) == -EINVAL && !t);
	CHECK(strstr(err.msg, "odd"));
	m.ram.block[1].peer_addr = 0;
	CHECK(gw_track_open(kind, &m.config, &t, &err) == -EINVAL);
	/* No memory of a process: only start can know. */
	m.ram.block[1].peer_addr = 1ul << 56;
	CHECK_OK(gw_track_open(kind, &m.config, &t, &err), &err);
	CHECK(t && gw_track_start(t, &err) < 0);
	CHECK(strstr(err.msg, "odd"));
	gw_track_close(t);
	m.config.pid = 0x7ffffff0;
	CHECK(gw_track_open(kind, &m.config, &t, &err) == -ESRCH);
	/* The VM still works: block 0 was registered before the failure. */
	vm_do(&m, VM_WRITE, 0, 3, 5);
	shutdown_vm(&m);
}

/* hugetlbfs: 2 MiB granularity, the last page reaches behind the block. */
static void huge_pages(void)
{
	int file = memfd_create("huge", MFD_HUGETLB | MFD_HUGE_2MB);
	struct machine m;

	if (file < 0 || ftruncate(file, 192 << 20) ||
	    fallocate(file, 0, 0, 40 << 20) ||
	    fallocate(file, 0, 64 << 20, 6 << 20) ||
	    fallocate(file, 0, 128 << 20, 2 << 20)) {
		if (file >= 0)
			close(file);
		SKIP("needs 24 free huge pages of 2 MiB: sysctl vm.nr_hugepages=24");
	}
	boot_with(&m, file, HUGE_PAGE);
	fill_from_outside(&m);
	if (!open_tracker(&m))
		goto out;
	run_writers(&m, 3);
	precopy(&m, 6);
	vm_do(&m, VM_WRITE, 0, 700, 1);
	vm_do(&m, VM_WRITE, 1, 1026, 1);
	scan(&m);
	CHECK(dirty(&m) == 512 + 3);
	CHECK(gw_bitmap_test(&m.ram.block[0].dirty, 512));
	CHECK(gw_bitmap_test(&m.ram.block[0].dirty, 1023));
	copy_dirty(&m);
	/* Written, then zapped, is still reported. */
	vm_do(&m, VM_WRITE, 0, 2048, 600);
	vm_do(&m, VM_ZAP, 0, 2048, 1024);
	scan(&m);
	CHECK(dirty(&m) >= 1024);
	copy_dirty(&m);
	CHECK(wrong_pages(&m) == 0);
out:
	shutdown_vm(&m);
}

/* --- cases of one kind ------------------------------------------------- */

/* From now on ioctl @request fails with @error, in all our threads. */
static int break_ioctl(unsigned int request, int error)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, request, 0, 1),
		BPF_STMT(BPF_RET | BPF_K,
			 SECCOMP_RET_ERRNO | (uint32_t)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(f) / sizeof(f[0]), f };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			    SECCOMP_FILTER_FLAG_TSYNC, &prog);
}

#define IN_CHILD_SKIP 77

/* Run @fn(@m) in a child; its result is its exit status. */
static int in_child(int (*fn)(struct machine *m), struct machine *m)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		test_failures = 0;
		_exit(fn(m));
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static char logged[1024];

static void log_to_string(enum gw_log_level level, const char *module,
			  const char *msg, void *data)
{
	snprintf(logged, sizeof(logged), "%d %s %s", level, module, msg);
}

static int auto_in_old_kernel(struct machine *m)
{
	if (break_ioctl((unsigned int)PAGEMAP_SCAN, ENOTTY))
		return IN_CHILD_SKIP;
	if (gw_track_open("pagemap-scan", &m->config, &m->t, &err) !=
		    -ENOTSUP ||
	    !strstr(err.msg, "no PAGEMAP_SCAN (needs Linux 6.7)"))
		return 1;
	gw_log_set(log_to_string, NULL);
	if (gw_track_open("auto", &m->config, &m->t, &err) ||
	    strcmp(m->t->ops->name, "uffd-wp"))
		return 2;
	if (!strstr(logged, "uffd-wp") || !strstr(logged, "PAGEMAP_SCAN"))
		return 3;
	kind = "auto";
	run_writers(m, 2);
	precopy(m, 3);
	return test_failures ? 4 : 0;
}

static void auto_falls_back_to_uffd_wp(void)
{
	struct machine m;
	int r;

	boot(&m);
	r = in_child(auto_in_old_kernel, &m);
	shutdown_vm(&m);
	if (r == IN_CHILD_SKIP)
		SKIP("seccomp is not possible here");
	CHECK(r == 0);
}

static void auto_prefers_pagemap_scan(void)
{
	struct machine m;

	boot(&m);
	gw_log_set(log_to_string, NULL);
	CHECK_OK(gw_log_configure("info", &err), &err);
	CHECK_OK(gw_track_open("auto", &m.config, &m.t, &err), &err);
	CHECK(m.t && !strcmp(m.t->ops->name, "pagemap-scan"));
	CHECK(strstr(logged, "track tracker pagemap-scan"));
	gw_log_set(NULL, NULL);
	shutdown_vm(&m);
}

static int open_as_nobody(struct machine *m)
{
	if (setgid(65534) || setuid(65534))
		return IN_CHILD_SKIP;
	if (gw_track_open("pagemap-scan", &m->config, &m->t, &err) == 0)
		return 1;
	return strstr(err.msg, "CAP_SYS_PTRACE") ? 0 : 2;
}

static void foreign_process_is_explained(void)
{
	struct machine m;
	int r;

	boot(&m);
	r = in_child(open_as_nobody, &m);
	shutdown_vm(&m);
	if (r == IN_CHILD_SKIP)
		SKIP("not root: no other user to be");
	CHECK(r == 0);
}

static int handler_breaks(struct machine *m)
{
	vm_do(m, VM_WRITE, 0, 3, 1000); /* of holes nothing is protected */
	if (gw_track_open("uffd-wp", &m->config, &m->t, &err) ||
	    gw_track_start(m->t, &err))
		return 1;
	vm_do(m, VM_WRITE, 0, 3, 1);
	if (break_ioctl((unsigned int)UFFDIO_WRITEPROTECT, EPERM))
		return IN_CHILD_SKIP;
	/* Returns only if nobody is left blocked. */
	vm_do(m, VM_WRITE, 0, 4, 600);
	if (gw_track_scan(m->t, &err) != -EPERM ||
	    !strstr(err.msg, "thread that serves"))
		return 2;
	gw_track_stop(m->t);
	vm_do(m, VM_WRITE, 0, 4, 600);
	return 0;
}

static void broken_handler_frees_the_guest(void)
{
	struct machine m;
	int r;

	boot(&m);
	r = in_child(handler_breaks, &m);
	shutdown_vm(&m);
	if (r == IN_CHILD_SKIP)
		SKIP("seccomp is not possible here");
	CHECK(r == 0);
}

static bool maps_huge_pages(pid_t pid)
{
	unsigned long kib = 0;
	char line[256];
	FILE *f;

	snprintf(line, sizeof(line), "/proc/%d/smaps_rollup", (int)pid);
	f = fopen(line, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "ShmemPmdMapped: %lu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib >= 10240;
}

/* Transparent huge pages: tmpfs with huge=always, if we may mount. */
static int huge_tmpfs(void)
{
	int file = -1;
	char path[64];

	if (!mkdtemp(strcpy(path, "/tmp/gw-track-XXXXXX")))
		abort();
	if (syscall(SYS_mount, "none", path, "tmpfs", 0, "huge=always") == 0) {
		char name[96];

		snprintf(name, sizeof(name), "%s/ram", path);
		file = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		syscall(SYS_umount2, path, 2 /* MNT_DETACH */);
	}
	rmdir(path);
	if (file >= 0 && !ftruncate(file, VM_FILE_SIZE) &&
	    !fcntl(file, F_SETFD, 0))
		return file;
	if (file >= 0)
		close(file);
	return -1;
}

static void huge_tmpfs_is_tracked_by_4k(void)
{
	struct machine m;
	int file = huge_tmpfs();

	if (file < 0)
		SKIP("cannot mount a tmpfs with huge=always");
	boot_with(&m, file, PAGE);
	fill_from_outside(&m); /* populated as huge pages */
	vm_do(&m, VM_WRITE, 0, 0, 4096);
	if (!maps_huge_pages(m.pid)) {
		shutdown_vm(&m);
		SKIP("the kernel gave no transparent huge pages");
	}
	kind = "pagemap-scan";
	if (open_tracker(&m)) {
		CHECK_OK(gw_track_start(m.t, &err), &err);
		for (int i = 0; i < 5; i++)
			quiet_round(&m, 1);
		run_writers(&m, 3);
		precopy(&m, 8);
	}
	shutdown_vm(&m);
}

/* What was a hole at the start comes as a huge page, mapped as one. */
static void sparse_huge_tmpfs_is_never_missed(void)
{
	int file = huge_tmpfs();
	struct machine m;

	if (file < 0)
		SKIP("cannot mount a tmpfs with huge=always");
	boot_with(&m, file, PAGE);
	kind = "pagemap-scan"; /* uffd-wp: see data-flow.md, Huge pages */
	if (open_tracker(&m))
		sparse_rounds(&m, sparse_ms());
	shutdown_vm(&m);
}

static void uffd_wp_refuses_a_huge_tmpfs(void)
{
	int file = huge_tmpfs();
	struct machine m;
	struct gw_track *t;

	if (file < 0)
		SKIP("cannot mount a tmpfs with huge=always");
	boot_with(&m, file, PAGE);
	CHECK(gw_track_open("uffd-wp", &m.config, &t, &err) == -ENOTSUP && !t);
	CHECK(strstr(err.msg, "huge=never"));
	shutdown_vm(&m);
}

static void unknown_tracker_is_a_usage_error(void)
{
	struct machine m;
	struct gw_track *t;

	boot(&m);
	CHECK(gw_track_open("magic", &m.config, &t, &err) == -EINVAL && !t);
	CHECK(err.fault == GW_FAULT_USAGE && strstr(err.msg, "'magic'"));
	for (int i = 1; gw_track_names[i]; i++) {
		CHECK_OK(gw_track_open(gw_track_names[i], &m.config, &t, &err),
			 &err);
		CHECK(t && !strcmp(t->ops->name, gw_track_names[i]));
		gw_track_close(t);
	}
	CHECK(!strcmp(gw_track_names[0], "auto"));
	gw_track_close(NULL);
	shutdown_vm(&m);
}

static void *marker(void *arg)
{
	struct machine *m = arg;
	uint64_t s = 42;

	for (int i = 0; i < 20000; i++) {
		uint64_t page = test_rand(&s) % 4096;

		gw_track_mark(m->t, &m->ram.block[0], page * PAGE + 17, 1);
	}
	return NULL;
}

/* Nobody writes but us: what a range has is found there, the rest later. */
static void a_range_is_reported_exactly(void)
{
	struct machine m;
	struct gw_ramblock *b = &m.ram.block[0];

	boot(&m);
	fill_from_outside(&m);
	if (open_tracker(&m)) {
		CHECK(gw_track_scan_range(m.t, 0, 0, 1, &err) == -EINVAL);
		CHECK_OK(gw_track_start(m.t, &err), &err);
		vm_do(&m, VM_WRITE, 0, 77, 3);
		vm_do(&m, VM_WRITE, 0, 200, 1);
		CHECK_OK(gw_track_scan_range(m.t, 0, 78, 100, &err), &err);
		if (m.t->ops->scan_range) {
			CHECK(dirty(&m) == 2);
			CHECK(gw_bitmap_count_range(&b->dirty, 78, 2) == 2);
			CHECK(m.t->pages_reported == 2);
			clear_dirty(&m);
		}
		CHECK_OK(gw_track_scan_range(m.t, 0, 78, 100, &err), &err);
		CHECK(dirty(&m) == 0);
		scan(&m);
		CHECK(dirty(&m) == (m.t->ops->scan_range ? 2 : 4));
	}
	shutdown_vm(&m);
}

static void manual_reports_what_it_is_told(void)
{
	struct machine m;
	pthread_t th;
	uint64_t s = 42;

	boot(&m);
	kind = "manual";
	if (!open_tracker(&m)) {
		shutdown_vm(&m);
		return;
	}
	gw_track_mark(m.t, &m.ram.block[0], 0, PAGE); /* before: forgotten */
	CHECK_OK(gw_track_start(m.t, &err), &err);
	gw_track_mark(m.t, &m.ram.block[0], PAGE - 1, 2); /* two pages */
	gw_track_mark(m.t, &m.ram.block[1], 0, UINT64_MAX);
	gw_track_mark(m.t, &m.ram.block[2], PAGE, 5); /* behind the end */
	gw_track_mark(m.t, &m.ram.block[2], 5, 0);
	CHECK(dirty(&m) == 0);
	scan(&m);
	CHECK(dirty(&m) == 2 + gw_ramblock_npages(&m.ram.block[1]));
	CHECK(m.t->pages_reported == dirty(&m));
	clear_dirty(&m);
	scan(&m);
	CHECK(dirty(&m) == 0);
	gw_track_mark(m.t, &m.ram.block[0], 7 * PAGE, 2 * PAGE);
	CHECK_OK(gw_track_scan_range(m.t, 0, 8, 100, &err), &err);
	CHECK(dirty(&m) == 1 && gw_bitmap_test(&m.ram.block[0].dirty, 8));
	scan(&m);
	CHECK(dirty(&m) == 2);

	CHECK(pthread_create(&th, NULL, marker, &m) == 0);
	for (int i = 0; i < 100; i++) {
		CHECK_OK(gw_track_scan_range(m.t, 0, 1000, 2000, &err), &err);
		scan(&m);
	}
	pthread_join(th, NULL);
	scan(&m);
	for (int i = 0; i < 20000; i++)
		if (!gw_bitmap_test(&m.ram.block[0].dirty,
				    test_rand(&s) % 4096)) {
			CHECK(!"a marked page is lost");
			break;
		}
	shutdown_vm(&m);
}

static bool works_here(const char *name)
{
	struct machine m;
	bool ok;

	boot(&m);
	ok = gw_track_open(name, &m.config, &m.t, &err) == 0;
	if (ok && gw_track_start(m.t, &err))
		ok = false;
	shutdown_vm(&m);
	if (!ok)
		printf("SKIP all of %s: %s\n", name, err.msg);
	test_skips += !ok;
	return ok;
}

#define RUN_KIND(fn)                                                     \
	do {                                                             \
		int64_t begin_ = gw_now_ns();                            \
		kind = name;                                             \
		RUN(fn);                                                 \
		printf("%s %s: %lld ms\n", name, #fn,                    \
		       (long long)(gw_now_ns() - begin_) / GW_NS_PER_MS); \
	} while (0)

static void run_all(const char *name)
{
	if (!works_here(name))
		return;
	RUN_KIND(quiet_vm_is_reported_exactly);
	RUN_KIND(a_range_is_reported_exactly);
	RUN_KIND(scans_only_add);
	RUN_KIND(random_writers_are_never_missed);
	RUN_KIND(sparse_memory_is_never_missed);
	RUN_KIND(new_data_is_reported_exactly);
	RUN_KIND(holes_get_no_page_tables);
	RUN_KIND(zapped_pages_are_reported);
	RUN_KIND(punched_pages_are_watched);
	RUN_KIND(hot_pages_with_tight_scans);
	RUN_KIND(many_ranges);
	RUN_KIND(stop_races_with_writers);
	RUN_KIND(takes_over_after_a_crash);
	RUN_KIND(takes_over_unanswered_faults);
	RUN_KIND(vm_death_is_an_error);
	RUN_KIND(bad_configs_are_refused);
	RUN_KIND(huge_pages);
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "--vm"))
		return vm_main(argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	seed = test_seed();
	RUN(manual_reports_what_it_is_told);
	run_all("pagemap-scan");
	run_all("uffd-wp");
	if (works_here("pagemap-scan") && works_here("uffd-wp")) {
		const char *name = "pagemap-scan";

		RUN_KIND(takes_over_from_the_other_kind);
		name = "uffd-wp";
		RUN_KIND(takes_over_from_the_other_kind);
		RUN(auto_prefers_pagemap_scan);
		RUN(auto_falls_back_to_uffd_wp);
		RUN(foreign_process_is_explained);
		RUN(broken_handler_frees_the_guest);
		RUN(huge_tmpfs_is_tracked_by_4k);
		RUN(sparse_huge_tmpfs_is_never_missed);
		RUN(uffd_wp_refuses_a_huge_tmpfs);
		RUN(unknown_tracker_is_a_usage_error);
	}
	return test_done();
}
