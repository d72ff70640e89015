/* SPDX-License-Identifier: BSD-3-Clause */
/* ram_test.c - the RAM block table and the populated ranges of its files. */
#include <sys/stat.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ram/block.h"
#include "ram/extents.h"
#include "test.h"
#include "track/gone.h"

#define PAGE 4096ul

static uint64_t seed;
static struct gw_error err;

static int file(size_t len)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)len))
		abort();
	return fd;
}

static bool closed(int fd)
{
	return fcntl(fd, F_GETFD) < 0 && errno == EBADF;
}

static void blocks_are_found_and_mapped(void)
{
	struct gw_ram ram;
	struct gw_ramblock *a, *b;
	int f1 = file(64 * PAGE), f2 = file(9 * PAGE);

	gw_ram_init(&ram);
	a = gw_ram_add(&ram, "pc.ram", 16 * PAGE, PAGE, f1, 8 * PAGE, &err);
	b = gw_ram_add(&ram, "vga.vram", 9 * PAGE, PAGE, f2, 0, &err);
	REQUIRE(a && b);
	CHECK(ram.nblocks == 2 && ram.total == 25 * PAGE);
	CHECK(gw_ram_find(&ram, "vga.vram") == b);
	CHECK(gw_ram_find(&ram, "vga") == NULL);
	CHECK(gw_ramblock_npages(b) == 9 && b->dirty.nbits == 9);
	CHECK_OK(gw_ram_map(&ram, true, &err), &err);
	CHECK_OK(gw_ram_map(&ram, true, &err), &err); /* nothing to do */
	a->host[0] = 42;
	CHECK(pread(f1, &seed, 1, 8 * PAGE) == 1 && (seed & 0xff) == 42);
	gw_bitmap_set(&a->dirty, 3);
	gw_bitmap_set(&b->dirty, 8);
	CHECK(gw_ram_dirty_pages(&ram) == 2);
	gw_ram_fini(&ram);
	CHECK(closed(f1) && closed(f2));
	CHECK(ram.nblocks == 0);
	gw_ram_fini(&ram);
}

static void bad_blocks_are_refused(void)
{
	static const struct {
		uint64_t length, offset;
		uint32_t page_size;
	} bad[] = {
		{ 0, 0, PAGE },
		{ PAGE + 1, 0, PAGE },
		{ GW_RAM_MAX_LENGTH + PAGE, 0, PAGE },
		{ UINT64_MAX - PAGE + 1, 0, PAGE },
		{ PAGE, 1, PAGE },
		{ PAGE, UINT64_MAX - PAGE + 1, PAGE },
		{ PAGE, 0, 0 },
		{ PAGE, 0, 512 },
		{ PAGE, 0, 3 * PAGE },
	};
	char name[300];
	struct gw_ram ram;
	int fd;

	gw_ram_init(&ram);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memset(&err, 0, sizeof(err));
		fd = file(PAGE);
		CHECK(!gw_ram_add(&ram, "x", bad[i].length, bad[i].page_size,
				  fd, bad[i].offset, &err));
		CHECK(err.fault == GW_FAULT_INPUT && strstr(err.msg, "'x'"));
		CHECK(closed(fd)); /* taken over, also on failure */
	}
	memset(name, 'n', sizeof(name));
	name[256] = '\0';
	CHECK(!gw_ram_add(&ram, name, PAGE, PAGE, -1, 0, &err));
	CHECK(!gw_ram_add(&ram, "", PAGE, PAGE, -1, 0, &err));
	name[255] = '\0';
	CHECK(gw_ram_add(&ram, name, PAGE, PAGE, -1, 0, &err));
	CHECK(!gw_ram_add(&ram, name, PAGE, PAGE, -1, 0, &err));
	CHECK(err.code == EEXIST);
	CHECK(ram.nblocks == 1 && ram.total == PAGE);
	for (int i = 1; i < GW_RAM_MAX_BLOCKS; i++) {
		snprintf(name, sizeof(name), "b%d", i);
		CHECK(gw_ram_add(&ram, name, PAGE, PAGE, -1, 0, &err));
	}
	CHECK(!gw_ram_add(&ram, "one more", PAGE, PAGE, -1, 0, &err));
	CHECK(gw_ram_map(&ram, true, &err) == -EBADF); /* no file yet */
	gw_ram_fini(&ram);
}

static void described_blocks_have_no_memory(void)
{
	struct gw_ram ram;

	gw_ram_init(&ram);
	CHECK_OK(gw_ram_describe(&ram, "a", 5 * PAGE, PAGE, &err), &err);
	CHECK(gw_ram_describe(&ram, "a", PAGE, PAGE, &err) == -EEXIST);
	CHECK(ram.nblocks == 1 && ram.total == 5 * PAGE);
	CHECK(gw_ram_dirty_pages(&ram) == 0);
	CHECK(ram.block[0].fd == -1 && !ram.block[0].host);
	gw_ram_fini(&ram);
}

static void table(struct gw_ram *ram, const char *n1, uint64_t l1,
		  const char *n2, uint64_t l2, uint32_t page_size)
{
	gw_ram_init(ram);
	if (n1)
		CHECK(gw_ram_add(ram, n1, l1, page_size, -1, 0, &err));
	if (n2)
		CHECK(gw_ram_add(ram, n2, l2, page_size, -1, 0, &err));
}

static void compare_names_the_difference(void)
{
	struct gw_ram a, b;

	table(&a, "x", PAGE, "y", 2 * PAGE, PAGE);
	table(&b, "y", 2 * PAGE, "x", PAGE, PAGE); /* order is free */
	CHECK_OK(gw_ram_compare(&a, "source", &b, "destination", &err), &err);
	gw_ram_fini(&b);
	table(&b, "x", PAGE, NULL, 0, PAGE);
	CHECK(gw_ram_compare(&a, "source", &b, "destination", &err) < 0);
	CHECK(strstr(err.msg, "the source has RAM block 'y', the destination"));
	CHECK(gw_ram_compare(&b, "source", &a, "destination", &err) < 0);
	CHECK(strstr(err.msg, "the destination has RAM block 'y', the source"));
	CHECK(err.fault == GW_FAULT_REFUSED);
	gw_ram_fini(&b);
	table(&b, "x", 3 * PAGE, "y", 2 * PAGE, PAGE);
	CHECK(gw_ram_compare(&a, "source", &b, "destination", &err) < 0);
	CHECK(strstr(err.msg, "'x'") && strstr(err.msg, "12288"));
	gw_ram_fini(&b);
	table(&b, "x", PAGE, "y", 2 * PAGE, 2 << 20);
	CHECK(gw_ram_compare(&a, "source", &b, "destination", &err) < 0);
	CHECK(strstr(err.msg, "pages of 4096"));
	gw_ram_fini(&a);
	gw_ram_fini(&b);
}

/* --- extents ----------------------------------------------------------- */

#define NPAGES 3000

/* Every page of @has must lie in an extent and none of the others. */
static void check_extents(const struct gw_ramblock *b, const bool *has)
{
	uint64_t at = 0, start, len, total = 0, sum;
	bool in[NPAGES] = { false };

	for (;; at = start + len) {
		CHECK_OK(gw_extent_next(b, at, &start, &len, &err), &err);
		if (!len)
			break;
		CHECK(start >= at && start % PAGE == 0 && len % PAGE == 0);
		REQUIRE(start + len <= b->used_length);
		memset(in + start / PAGE, true, len / PAGE);
		total += len;
	}
	CHECK(!memcmp(in, has, sizeof(in)));
	CHECK_OK(gw_extent_total(b, &sum, &err), &err);
	CHECK(sum == total);
	/* From anywhere. */
	for (int i = 0; i < 50; i++) {
		uint64_t p = test_rand(&seed) % (NPAGES + 2), q = p;

		CHECK_OK(gw_extent_next(b, p * PAGE, &start, &len, &err), &err);
		while (q < NPAGES && !has[q])
			q++;
		CHECK(q < NPAGES ? len && start == q * PAGE : !len);
	}
}

static void populate(uint8_t *mem, bool *has)
{
	memset(has, 0, NPAGES * sizeof(bool));
	for (int i = 0; i < 60; i++) {
		uint64_t p = test_rand(&seed) % NPAGES;
		uint64_t n = 1 + test_rand(&seed) % 40;

		for (; n-- && p < NPAGES; p++) {
			mem[p * PAGE + test_rand(&seed) % PAGE] = 1;
			has[p] = true;
		}
	}
}

static void extents_of_a_file(void)
{
	/* Data of other blocks before and behind must not leak in. */
	int fd = file((NPAGES + 32) * PAGE);
	struct gw_ramblock *b;
	struct gw_ram ram;
	bool has[NPAGES];
	uint64_t n = 7;

	CHECK(pwrite(fd, "x", 1, 15 * PAGE) == 1);
	CHECK(pwrite(fd, "x", 1, (off_t)((16 + NPAGES) * PAGE)) == 1);
	gw_ram_init(&ram);
	b = gw_ram_add(&ram, "x", NPAGES * PAGE, PAGE, fd, 16 * PAGE, &err);
	REQUIRE(b);
	CHECK_OK(gw_ram_map(&ram, true, &err), &err);
	CHECK_OK(gw_extent_total(b, &n, &err), &err);
	CHECK(n == 0);
	populate(b->host, has);
	check_extents(b, has);
	has[0] = has[NPAGES - 1] = true;
	b->host[0] = b->host[NPAGES * PAGE - 1] = 1;
	check_extents(b, has);
	CHECK_OK(gw_extent_punch_all(b, &err), &err);
	CHECK_OK(gw_extent_total(b, &n, &err), &err);
	CHECK(n == 0 && b->host[0] == 0);
	CHECK(pread(fd, &n, 1, 15 * PAGE) == 1 && (char)n == 'x');
	gw_ram_fini(&ram);
}

static void extents_of_private_memory(void)
{
	struct gw_ramblock *b;
	struct gw_ram ram;
	bool has[NPAGES];
	uint64_t n;

	gw_ram_init(&ram);
	b = gw_ram_add(&ram, "x", NPAGES * PAGE, PAGE, -1, 0, &err);
	REQUIRE(b);
	b->host = mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(b->host != MAP_FAILED);
	madvise(b->host, NPAGES * PAGE, MADV_NOHUGEPAGE);
	populate(b->host, has);
	check_extents(b, has);
	CHECK_OK(gw_extent_punch_all(b, &err), &err);
	CHECK_OK(gw_extent_total(b, &n, &err), &err);
	CHECK(n == 0);
	munmap(b->host, NPAGES * PAGE);
	b->host = NULL;
	gw_ram_fini(&ram);
}

static bool stop; /* atomic */

/* A balloon: gives pages in the middle back and takes them again. */
static void *balloon(void *arg)
{
	const struct gw_ramblock *b = arg;
	uint64_t s = 5;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		off_t at = (off_t)((100 + test_rand(&s) % 800) * PAGE);

		fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  at, (off_t)((1 + test_rand(&s) % 50) * PAGE));
		if (pwrite(b->fd, "x", 1, at) != 1)
			abort();
	}
	return NULL;
}

/* What nobody touches is always found, whatever happens around it. */
static void punching_hides_nothing_else(void)
{
	struct gw_ramblock *b;
	struct gw_ram ram;
	pthread_t th;
	int misses = 0;

	gw_ram_init(&ram);
	b = gw_ram_add(&ram, "x", 1000 * PAGE, PAGE, file(1000 * PAGE), 0,
		       &err);
	REQUIRE(b);
	CHECK(pwrite(b->fd, "x", 1, 990 * PAGE) == 1);
	pthread_create(&th, NULL, balloon, b);
	for (int i = 0; i < 3000; i++) {
		uint64_t at = 0, start, len, last = 0;

		for (;; at = start + len) {
			CHECK_OK(gw_extent_next(b, at, &start, &len, &err),
				 &err);
			if (!len)
				break;
			last = start + len;
		}
		misses += last != 991 * PAGE;
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(th, NULL);
	CHECK(misses == 0);
	gw_ram_fini(&ram);
}

/* Against what was done; also that a look allocates nothing. */
static void looks_tell_holes_and_gone_pages(void)
{
	enum { N = 700 };
	bool there[N] = { false }, seen[N] = { false };
	struct gw_ramblock *b;
	struct gw_gone gone;
	struct gw_ram ram;
	struct stat st;
	uint64_t len, first, n;
	volatile uint8_t sum = 0;
	int f = file(N * PAGE);

	gw_ram_init(&ram);
	b = gw_ram_add(&ram, "pc.ram", N * PAGE, PAGE, f, 0, &err);
	REQUIRE(b);
	CHECK_OK(gw_ram_map(&ram, false, &err), &err);
	for (int round = 0; round < 20; round++) {
		uint64_t npages = 0;

		for (int i = 0; i < 60; i++) {
			uint64_t at = test_rand(&seed) % N;
			uint64_t end = at + 1 + test_rand(&seed) % 40;

			for (; at < end && at < N; at++) {
				there[at] = i % 2;
				seen[at] = false;
				if (i % 2)
					CHECK(pwrite(f, "x", 1, (off_t)(at *
							    PAGE)) == 1);
				else
					CHECK(!fallocate(f,
						FALLOC_FL_PUNCH_HOLE |
						FALLOC_FL_KEEP_SIZE,
						(off_t)(at * PAGE), PAGE));
			}
		}
		for (uint64_t at = 0; at < N; at += len) {
			uint64_t most = 1 + test_rand(&seed) % 300;
			bool hole;

			if (most > N - at)
				most = N - at;
			CHECK_OK(gw_extent_alike(b, at, most, &len, &hole,
						 &err), &err);
			REQUIRE(len && len <= most);
			for (uint64_t i = at; i < at + len; i++)
				CHECK(there[i] != hole);
		}
		/* Every page is read, so it is mapped; others may be too. */
		for (uint64_t i = 0; i < N; i++)
			if (there[i]) {
				sum += b->host[i * PAGE];
				seen[i] = true;
				npages++;
			}
		CHECK(!fstat(f, &st) &&
		      (uint64_t)st.st_blocks * 512 == npages * PAGE);
		CHECK_OK(gw_gone_begin(&gone, b, &err), &err);
		gone.scan = gone.scan && round % 2; /* both ways */
		while (!gw_gone_next(&gone, &first, &n, &err) && n)
			for (uint64_t i = first; i < first + n; i++) {
				REQUIRE(i < N);
				CHECK(!seen[i]); /* mapped, and said gone */
			}
		gw_gone_end(&gone);
		/* What was punched is gone: nobody says that it is mapped. */
		CHECK(!fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 100 * PAGE, 100 * PAGE));
		n = 0;
		CHECK_OK(gw_gone_begin(&gone, b, &err), &err);
		gone.scan = gone.scan && round % 2;
		while (!gw_gone_next(&gone, &first, &len, &err) && len)
			for (uint64_t i = first; i < first + len; i++)
				n += i >= 100 && i < 200;
		gw_gone_end(&gone);
		CHECK(n == 100);
		memset(there + 100, false, 100);
		memset(seen + 100, false, 100);
	}
	gw_ram_fini(&ram);
}

int main(void)
{
	seed = test_seed();
	RUN(blocks_are_found_and_mapped);
	RUN(bad_blocks_are_refused);
	RUN(described_blocks_have_no_memory);
	RUN(compare_names_the_difference);
	RUN(extents_of_a_file);
	RUN(extents_of_private_memory);
	RUN(punching_hides_nothing_else);
	RUN(looks_tell_holes_and_gone_pages);
	return test_done();
}
