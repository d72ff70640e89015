// SPDX-License-Identifier: BSD-3-Clause
/*
 * guest - the workload inside the Linux guest of godwit's tests and demos
 *
 * It runs as process 1 of the guest, keeps memory and a disk busy as the kernel
 * command line says, verifies all it wrote or read, and reports on the console:
 *
 *   GODWIT-GUEST up cpus=N kernel=RELEASE
 *   tick <n> <uptime_ms> sum=<16 hex> dirty=<pages> direct=<blocks> bad=<count>
 *	with gw.loop followed by " loop=<pages>", those written by it
 *   BAD <what> <details>	(the first 20 only, all are counted)
 *   GODWIT-GUEST error: ...			(then the guest powers off)
 *
 * Tick numbers never skip or repeat, so two guests that run at once, or one
 * that went back in time, show.  sum= is the checksum of a file whose content
 * depends on nothing but its size.
 *
 *   gw.tick=MS		interval of the tick lines (100)
 *   gw.quiet=1		a tick line per second only
 *   gw.file=MIB	size of the file in tmpfs (4)
 *   gw.touch=MIB	memory written once, before the first tick
 *   gw.clear=MIB	memory written and made zero again, before that
 *   gw.free=MIB	memory written and given back, before the first tick
 *   gw.cache=MIB	the beginning of /dev/vda read through the page cache,
 *			before the first tick
 *   gw.churn=MIB:PAGES_PER_S
 *			memory got, written, checked and given back all the
 *			time, in pieces, MIB at most at once
 *   gw.dirty=MIB:PAGES_PER_S[:BYTES]
 *			pages rewritten at random; PAGES_PER_S 0 is full speed.
 *			Each rewrite changes BYTES of the page (all of it)
 *   gw.zero=PERCENT	of those rewrites that make the page zero (0)
 *   gw.loop=MIB:PAGES_PER_S[:BYTES:EVERY]
 *			pages rewritten one after the other, round and round:
 *			BYTES of every EVERY change.  12:1111 (the default) is
 *			sparse, 33:701 medium, 4096:4096 dense, 1:4096 one byte
 *			a page
 *   gw.blank=N		every Nth round of those makes the pages zero (0: none)
 *   gw.direct=KIB[:THREADS]
 *			O_DIRECT reads of KIB each from /dev/vda (1024:4)
 *   gw.disk=MIB[:BLOCKS_PER_S]
 *			the first MIB of /dev/vda written once, then its blocks
 *			rewritten at random, each checked before that, and all
 *			of them in order (counted as direct=). O_DIRECT;
 *			BLOCKS_PER_S 0 (the default) is full speed
 *   gw.serve=1		Ethernet frames of type 88b5 on any network: a request is
 *			any 8 bytes; the answer is they and how many answers
 *			there were so far (big endian), kept in memory
 *
 * Theory of operation: the threads share nothing but the counters.  The ticker
 * also re-reads the file and the touched memory, a slice per tick.  The writer
 * remembers the generation of each page in an array of its own, checks a page
 * against it before rewriting it, and every few rewrites checks one more in
 * address order, so that each page is looked at again within a known time.  The
 * looper adds to what is in its pages, so that damage stays in them until it
 * comes by to check: one page for so many that it writes, in address order, and
 * every page before it is made zero.  The writer to the disk does as the writer
 * to memory, with blocks: the generations are in memory, so a disk that is older
 * or newer than the memory shows.  The readers never write to their buffers: a
 * page that only the disk wrote is what a migration easily loses.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "pattern.h"

#define MIB		(1UL << 20)
#define NS_PER_S	UINT64_C(1000000000)
#define NS_PER_MS	UINT64_C(1000000)
#define BAD_LINES	20
#define FILE_PATH	"/tmp/file"
#define FILE_SEED	0x656c6966ULL
#define TOUCH_SEED	0x686375746fULL
#define DISK_PATH	"/dev/vda"
#define SERVE_TYPE	0x88b5		/* for local experiments */
#define RING		16		/* buffers of a reader */
#define SWEEP_EVERY	4		/* writes per page checked in order */
#define SPARE_MIB	24		/* for the kernel to go on with */
#define IS_ZERO		(UINT64_C(1) << 63)	/* in a generation */

static struct {
	uint64_t tick_ms;
	uint64_t file_mib;
	uint64_t touch_mib;
	uint64_t clear_mib;
	uint64_t free_mib;
	uint64_t cache_mib;
	uint64_t churn_mib;
	uint64_t churn_rate;
	uint64_t dirty_mib;
	uint64_t dirty_rate;
	uint64_t dirty_bytes;
	uint64_t zero_percent;
	uint64_t loop_mib;
	uint64_t loop_rate;
	uint64_t loop_bytes;
	uint64_t loop_every;
	uint64_t loop_blank;
	uint64_t direct_kib;
	uint64_t direct_threads;
	uint64_t disk_mib;
	uint64_t disk_rate;
	uint64_t serve;
} conf = {
	.tick_ms = 100,
	.file_mib = 4,
	.dirty_bytes = GW_PAGE,
	.loop_bytes = 12,
	.loop_every = 1111,
	.direct_threads = 4,
};

static _Atomic uint64_t dirty_verified;	/* by the looper too */
static _Atomic uint64_t loop_written;
static _Atomic uint64_t direct_verified;
static _Atomic uint64_t bad_count;

/* Console ---------------------------------------------------------------- */

/* say() - print one line with one write(), so that lines never mix */
static void __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
	char line[256];
	va_list ap;
	int len;

	va_start(ap, format);
	len = vsnprintf(line, sizeof(line) - 1, format, ap);
	va_end(ap);
	if (len > (int)sizeof(line) - 2)
		len = sizeof(line) - 2;
	line[len++] = '\n';
	while (write(STDOUT_FILENO, line, len) < 0 && errno == EINTR)
		;
}

/* give_up() - this guest cannot do what it was asked to: say so, power off */
static void __attribute__((format(printf, 1, 2), noreturn))
give_up(const char *format, ...)
{
	char text[200];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	say("GODWIT-GUEST error: %s", text);
	tcdrain(STDOUT_FILENO);
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	exit(1);
}

/* bad() - count something that is not as it must be, and print the first few */
static void __attribute__((format(printf, 1, 2))) bad(const char *format, ...)
{
	char text[200];
	va_list ap;

	if (atomic_fetch_add(&bad_count, 1) >= BAD_LINES)
		return;
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	say("BAD %s", text);
}

/* Time and memory -------------------------------------------------------- */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static void sleep_until(uint64_t ns)
{
	struct timespec t = {
		.tv_sec = ns / NS_PER_S,
		.tv_nsec = ns % NS_PER_S,
	};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

/* Work at a rate: @batch pieces, then pace_wait(). */
struct pace {
	uint64_t batch;
	uint64_t step, due;	/* ns; step 0: as fast as can be */
};

static struct pace pace_start(uint64_t per_second)
{
	struct pace p = { .batch = 64, .due = now_ns() };

	if (per_second) {
		p.batch = (per_second * 2 * NS_PER_MS + NS_PER_S - 1) / NS_PER_S;
		p.step = p.batch * NS_PER_S / per_second;
	}
	return p;
}

static void pace_wait(struct pace *p)
{
	if (!p->step)
		return;
	/* what a long stop of the VM left undone stays undone */
	p->due += p->step;
	if (now_ns() > p->due + NS_PER_S / 10)
		p->due = now_ns();
	sleep_until(p->due);
}

static void *get_memory(size_t bytes, const char *for_what)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		give_up("no memory for %s: %s", for_what, strerror(errno));
	return p;
}

/* check_memory() - refuse what would end in the kernel's out-of-memory panic */
static void check_memory(void)
{
	uint64_t want = conf.file_mib + conf.touch_mib + conf.clear_mib +
			conf.dirty_mib + conf.loop_mib;
	struct sysinfo info;
	uint64_t free;

	want += conf.disk_mib / 256;
	want += 2 * conf.direct_threads * conf.direct_kib >> 10;
	sysinfo(&info);
	free = info.freeram * (uint64_t)info.mem_unit / MIB;
	if (want + SPARE_MIB > free)
		give_up("%" PRIu64 " MiB asked for and %d to spare, but only %"
			PRIu64 " MiB free: give the guest more memory", want,
			SPARE_MIB, free);
}

static void start(void *(*run)(void *), void *arg)
{
	pthread_t thread;
	int err = pthread_create(&thread, NULL, run, arg);

	if (err)
		give_up("cannot start a thread: %s", strerror(err));
}

/* The file --------------------------------------------------------------- */

static struct {
	int fd;
	uint64_t bytes;
	uint64_t slice;		/* read per tick */
	uint64_t at;
	uint64_t partial;	/* checksum of what is before @at */
	uint64_t sum;		/* of the last complete reading */
	uint64_t expected;
} file;

/* The file is a row of pages, each the pattern of its number. */
static void file_write(void)
{
	uint64_t page[GW_WORDS];

	file.bytes = conf.file_mib * MIB;
	file.slice = file.bytes / 1000 * conf.tick_ms;
	if (file.slice > conf.tick_ms << 16)
		file.slice = conf.tick_ms << 16;
	file.slice = (file.slice + 0xffff) & ~0xffffULL;

	file.fd = open(FILE_PATH, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (file.fd < 0)
		give_up("%s: %s", FILE_PATH, strerror(errno));
	for (uint64_t at = 0; at < file.bytes; at += GW_PAGE) {
		gw_fill(page, GW_WORDS, FILE_SEED + at);
		file.expected = gw_sum(file.expected, page, GW_WORDS);
		if (pwrite(file.fd, page, GW_PAGE, at) != GW_PAGE)
			give_up("gw.file=%" PRIu64 ": %s: %s", conf.file_mib,
				FILE_PATH, strerror(errno));
	}
}

/* file_find_bad() - report the first page of the file that is wrong */
static void file_find_bad(void)
{
	uint64_t page[GW_WORDS];
	size_t word;

	for (uint64_t at = 0; at < file.bytes; at += GW_PAGE) {
		if (pread(file.fd, page, GW_PAGE, at) != GW_PAGE) {
			bad("file offset=%" PRIu64 " unreadable: %s", at,
			    strerror(errno));
			return;
		}
		word = gw_differs(page, GW_WORDS, FILE_SEED + at);
		if (word < GW_WORDS) {
			bad("file offset=%" PRIu64 " has=%016" PRIx64
			    " sum=%016" PRIx64 " want=%016" PRIx64,
			    at + word * 8, page[word], file.sum, file.expected);
			return;
		}
	}
	bad("file sum=%016" PRIx64 " want=%016" PRIx64 " but reads well now",
	    file.sum, file.expected);
}

/* file_step() - continue reading the file; check its sum at the end */
static void file_step(uint64_t bytes)
{
	static uint64_t buffer[GW_PAGE * 16 / 8];
	uint64_t last = file.sum;
	ssize_t n;

	while (bytes) {
		n = pread(file.fd, buffer, sizeof(buffer), file.at);
		if (n <= 0 || n % 8) {
			bad("file offset=%" PRIu64 " unreadable: %s", file.at,
			    n < 0 ? strerror(errno) : "short");
			n = sizeof(buffer);
		}
		file.partial = gw_sum(file.partial, buffer, n / 8);
		file.at += n;
		bytes -= (uint64_t)n < bytes ? (uint64_t)n : bytes;
		if (file.at < file.bytes)
			continue;
		file.sum = file.partial;
		/* what stays wrong is reported once, not at every reading */
		if (file.sum != file.expected && file.sum != last)
			file_find_bad();
		file.at = 0;
		file.partial = 0;
		return;
	}
}

/* Touched memory --------------------------------------------------------- */

static uint64_t *touched;
static uint64_t touched_pages;

static void touch_write(void)
{
	touched_pages = conf.touch_mib * MIB / GW_PAGE;
	if (!touched_pages)
		return;
	touched = get_memory(touched_pages * GW_PAGE, "gw.touch");
	for (uint64_t p = 0; p < touched_pages; p++)
		gw_fill(touched + p * GW_WORDS, GW_WORDS, TOUCH_SEED + p);
}

/* Populated, but zero: not the same as memory that was never used. */
static void clear_write(void)
{
	size_t bytes = conf.clear_mib * MIB;
	void *p = bytes ? get_memory(bytes, "gw.clear") : NULL;

	if (!bytes)
		return;
	memset(p, 1, bytes);
	__asm__ volatile("" : : "r"(p) : "memory");
	memset(p, 0, bytes);
}

/* Populated, and free: what it held is nobody's any more. */
static void free_write(void)
{
	size_t bytes = conf.free_mib * MIB;
	uint64_t *p = bytes ? get_memory(bytes, "gw.free") : NULL;

	for (size_t i = 0; i < bytes / GW_PAGE; i++)
		gw_fill(p + i * GW_WORDS, GW_WORDS, TOUCH_SEED - i);
	if (p)
		munmap(p, bytes);
}

static void cache_read(void)
{
	static char buffer[1 << 16];
	int fd = conf.cache_mib ? open(DISK_PATH, O_RDONLY) : -1;

	if (conf.cache_mib && fd < 0)
		give_up("gw.cache: %s: %s", DISK_PATH, strerror(errno));
	for (uint64_t at = 0; at < conf.cache_mib * MIB; at += sizeof(buffer))
		if (read(fd, buffer, sizeof(buffer)) != sizeof(buffer))
			give_up("gw.cache=%" PRIu64 ": %s is smaller",
				conf.cache_mib, DISK_PATH);
}

static void touch_step(uint64_t pages)
{
	static uint64_t at;
	const uint64_t *page;
	size_t word;

	for (; touched_pages && pages; pages--) {
		page = touched + at * GW_WORDS;
		word = gw_differs(page, GW_WORDS, TOUCH_SEED + at);
		if (word < GW_WORDS)
			bad("touch page=%" PRIu64 " word=%zu has=%016" PRIx64,
			    at, word, page[word]);
		at = (at + 1) % touched_pages;
	}
}

/* The writer ------------------------------------------------------------- */

static struct {
	struct gw_page *page;
	uint64_t *generation;	/* what each page must hold */
	uint64_t pages;
	size_t varying;		/* words that change with the generation */
} dirty;

static void dirty_write(uint64_t p, uint64_t generation)
{
	if (generation & IS_ZERO)
		memset(&dirty.page[p], 0, GW_PAGE);
	else
		gw_page_make(&dirty.page[p], p, generation, dirty.varying);
	dirty.generation[p] = generation;
}

static bool is_zero(const void *page)
{
	const uint64_t *w = page;
	uint64_t any = 0;

	for (size_t i = 0; i < GW_WORDS; i++)
		any |= w[i];
	return !any;
}

static void dirty_verify(uint64_t p)
{
	const struct gw_page *page = &dirty.page[p];
	uint64_t want = dirty.generation[p];
	const char *what;
	bool ok;

	atomic_fetch_add_explicit(&dirty_verified, 1, memory_order_relaxed);
	ok = want & IS_ZERO ? is_zero(page) : gw_page_ok(page, p, want);
	if (ok)
		return;
	if (is_zero(page))
		what = "zero";
	else if (gw_page_ok(page, p, page->generation))
		what = "stale";
	else if (gw_page_ok(page, page->number, page->generation))
		what = "misplaced";
	else
		what = "mixed";
	bad("dirty page=%" PRIu64 " va=%p %s want=%s%" PRIu64 " has magic=%"
	    PRIx64 " number=%" PRIu64 " generation=%" PRIu64, p,
	    (const void *)page, what, want & IS_ZERO ? "zero:" : "",
	    want & ~IS_ZERO, page->magic, page->number, page->generation);
}

static void dirty_prepare(void)
{
	size_t body = sizeof(dirty.page->body) / 8;

	dirty.pages = conf.dirty_mib * MIB / GW_PAGE;
	if (!dirty.pages)
		return;
	dirty.varying = conf.dirty_bytes / 8;
	if (dirty.varying > body)
		dirty.varying = body;
	dirty.page = get_memory(dirty.pages * GW_PAGE, "gw.dirty");
	dirty.generation = get_memory(dirty.pages * 8, "gw.dirty");
	for (uint64_t p = 0; p < dirty.pages; p++)
		dirty_write(p, 1);
}

static void dirty_rewrite(uint64_t random)
{
	uint64_t p = random % dirty.pages;
	uint64_t generation = (dirty.generation[p] & ~IS_ZERO) + 1;

	dirty_verify(p);
	if (conf.zero_percent && gw_mix(random) % 100 < conf.zero_percent)
		generation |= IS_ZERO;
	dirty_write(p, generation);
}

static void *dirty_run(void *arg)
{
	struct pace pace = pace_start(conf.dirty_rate);
	uint64_t sweep = 0, count = 0;

	for (;;) {
		for (uint64_t i = 0; i < pace.batch; i++) {
			dirty_rewrite(gw_mix(count));
			if (count++ % SWEEP_EVERY)
				continue;
			dirty_verify(sweep);
			sweep = (sweep + 1) % dirty.pages;
		}
		pace_wait(&pace);
	}
	return arg;
}

/* The looper ------------------------------------------------------------- */

static struct {
	uint8_t (*page)[GW_PAGE];
	uint64_t *generation;	/* what each page must hold */
	uint64_t pages;
} loop;

/* loop_wanted() - the page @p as it must be at @generation */
static const void *loop_wanted(uint64_t p, uint64_t generation)
{
	static uint64_t page[GW_WORDS];

	if (generation & IS_ZERO)
		memset(page, 0, GW_PAGE);
	else
		gw_loop_make(page, p, conf.loop_bytes, conf.loop_every,
			     generation);
	return page;
}

/* loop_recognise() - what else the page may be, for a person */
static const char *loop_recognise(uint64_t p)
{
	const void *page = loop.page[p];
	uint64_t now = loop.generation[p] & ~IS_ZERO;

	if (is_zero(page))
		return "zero";
	for (uint64_t back = 1; back < 64 && back < now; back++)
		if (!memcmp(page, loop_wanted(p, now - back), GW_PAGE))
			return "stale";
	return "mixed";
}

static void loop_verify(uint64_t p)
{
	const uint64_t *page = (const uint64_t *)loop.page[p];
	uint64_t generation = loop.generation[p], has, word = 0;
	const uint64_t *want = loop_wanted(p, generation);

	atomic_fetch_add_explicit(&dirty_verified, 1, memory_order_relaxed);
	if (!memcmp(page, want, GW_PAGE))
		return;
	while (word < GW_WORDS - 1 && page[word] == want[word])
		word++;
	has = page[word];
	bad("loop page=%" PRIu64 " va=%p %s want=%s%" PRIu64 " word=%" PRIu64
	    " has=%016" PRIx64, p, (const void *)page, loop_recognise(p),
	    generation & IS_ZERO ? "zero:" : "", generation & ~IS_ZERO, word,
	    has);
}

static void loop_prepare(void)
{
	loop.pages = conf.loop_mib * MIB / GW_PAGE;
	if (!loop.pages)
		return;
	loop.page = get_memory(loop.pages * GW_PAGE, "gw.loop");
	loop.generation = get_memory(loop.pages * 8, "gw.loop");
	for (uint64_t p = 0; p < loop.pages; p++) {
		gw_loop_make(loop.page[p], p, conf.loop_bytes, conf.loop_every,
			     1);
		loop.generation[p] = 1;
	}
}

static void loop_rewrite(uint64_t p)
{
	uint64_t from = loop.generation[p], to = (from & ~IS_ZERO) + 1;

	if (conf.loop_blank && to % conf.loop_blank == 0) {
		loop_verify(p);
		memset(loop.page[p], 0, GW_PAGE);
		to |= IS_ZERO;
	} else if (from & IS_ZERO) {
		loop_verify(p);
		gw_loop_make(loop.page[p], p, conf.loop_bytes, conf.loop_every,
			     to);
	} else {
		gw_loop_change(loop.page[p], p, conf.loop_bytes,
			       conf.loop_every, from, to);
	}
	loop.generation[p] = to;
}

static void *loop_run(void *arg)
{
	struct pace pace = pace_start(conf.loop_rate);
	uint64_t at = 0, sweep = 0;

	for (;;) {
		for (uint64_t i = 0; i < pace.batch; i++) {
			loop_rewrite(at);
			at = (at + 1) % loop.pages;
			if (at % SWEEP_EVERY)
				continue;
			loop_verify(sweep);
			sweep = (sweep + 1) % loop.pages;
		}
		atomic_fetch_add_explicit(&loop_written, pace.batch,
					  memory_order_relaxed);
		pace_wait(&pace);
	}
	return arg;
}

/* Memory that comes and goes ------------------------------------------------ */

#define CHURN_PIECES	64
#define CHURN_MAX_PAGES 2048	/* a piece, large enough for a huge page */

struct piece {
	struct gw_page *page;
	uint64_t pages, generation;
};

/*
 * What the kernel hands out was free a moment ago, perhaps when a migration
 * asked. All of a piece is written at once, and looked at before it goes.
 */
static void piece_get(struct piece *c, uint64_t pages, uint64_t generation)
{
	c->page = get_memory(pages * GW_PAGE, "gw.churn");
	c->pages = pages;
	c->generation = generation;
	for (uint64_t p = 0; p < pages; p++)
		gw_page_make(&c->page[p], p, generation, GW_WORDS - 4);
}

static void piece_verify(const struct piece *c)
{
	for (uint64_t p = 0; p < c->pages; p++) {
		const struct gw_page *page = &c->page[p];

		atomic_fetch_add_explicit(&dirty_verified, 1,
					  memory_order_relaxed);
		if (!gw_page_ok(page, p, c->generation))
			bad("churn va=%p page=%" PRIu64 " want=%" PRIu64
			    " has magic=%" PRIx64 " number=%" PRIu64
			    " generation=%" PRIu64, (const void *)page, p,
			    c->generation, page->magic, page->number,
			    page->generation);
	}
}

static void piece_put(struct piece *c)
{
	if (!c->page)
		return;
	piece_verify(c);
	munmap(c->page, c->pages * GW_PAGE);
	c->page = NULL;
}

static void *churn_run(void *arg)
{
	uint64_t most = conf.churn_mib * MIB / GW_PAGE / CHURN_PIECES;
	static struct piece piece[CHURN_PIECES];
	uint64_t random = 1, due = now_ns();

	if (most > CHURN_MAX_PAGES)
		most = CHURN_MAX_PAGES;
	for (uint64_t n = 1; ; n++) {
		struct piece *c = &piece[(random = gw_mix(random + n)) %
					 CHURN_PIECES];

		piece_put(c);
		piece_get(c, 1 + gw_mix(random) % most, n);
		piece_verify(&piece[gw_mix(n) % CHURN_PIECES]);
		if (!conf.churn_rate)
			continue;
		due += c->pages * NS_PER_S / conf.churn_rate;
		if (now_ns() > due + NS_PER_S / 10)
			due = now_ns();
		sleep_until(due);
	}
	return arg;
}

/* The readers ------------------------------------------------------------ */

static struct {
	int fd;
	uint64_t reads;		/* places to read from, of direct_kib each */
	uint64_t blocks;	/* blocks per read */
	unsigned int ring;	/* buffers of each reader */
} direct;

/*
 * direct_verify() - check a buffer that was read from block @first
 * @when: "read" just after it, "kept" when the buffer is to be reused
 */
static void direct_verify(const uint64_t *buffer, uint64_t first,
			  const char *when)
{
	for (uint64_t b = 0; b < direct.blocks; b++) {
		const uint64_t *block = buffer + b * GW_WORDS;
		size_t word = gw_block_differs(block, first + b);

		if (word < GW_WORDS)
			bad("direct %s va=%p want=%" PRIu64 " word=%zu has=%"
			    PRIx64 " block=%" PRIu64, when,
			    (const void *)block, first + b, word, block[word],
			    block[0]);
	}
	atomic_fetch_add_explicit(&direct_verified, direct.blocks,
				  memory_order_relaxed);
}

static void *direct_run(void *arg)
{
	uint64_t random = gw_mix((uintptr_t)arg), first[RING];
	size_t bytes = conf.direct_kib << 10;
	bool filled[RING] = { false };
	unsigned char *buffers;

	buffers = get_memory(bytes * direct.ring, "gw.direct");
	for (unsigned int i = 0; ; i = (i + 1) % direct.ring) {
		uint64_t *buffer = (uint64_t *)(buffers + i * bytes);
		ssize_t n;

		if (filled[i])
			direct_verify(buffer, first[i], "kept");
		random = gw_mix(random);
		first[i] = random % direct.reads * direct.blocks;
		n = pread(direct.fd, buffer, bytes, first[i] * GW_PAGE);
		filled[i] = n == (ssize_t)bytes;
		if (filled[i]) {
			direct_verify(buffer, first[i], "read");
			continue;
		}
		bad("direct block=%" PRIu64 " read=%zd %s", first[i], n,
		    n < 0 ? strerror(errno) : "short");
		sleep_until(now_ns() + NS_PER_S / 10);
	}
	return arg;
}

static void direct_start(void)
{
	uint64_t bytes = conf.direct_kib << 10;
	uint64_t ram = sysconf(_SC_PHYS_PAGES) * (uint64_t)GW_PAGE;
	off_t size;

	if (!bytes)
		return;
	direct.fd = open(DISK_PATH, O_RDONLY | O_DIRECT);
	if (direct.fd < 0)
		give_up("gw.direct: %s: %s", DISK_PATH, strerror(errno));
	size = lseek(direct.fd, 0, SEEK_END);
	direct.blocks = bytes / GW_PAGE;
	direct.reads = size / bytes;
	if (size < 0 || !direct.reads)
		give_up("gw.direct=%" PRIu64 ": %s has %jd bytes only",
			conf.direct_kib, DISK_PATH, (intmax_t)size);

	/* small guests get shorter rings */
	direct.ring = RING;
	while (direct.ring > 2 &&
	       direct.ring * bytes * conf.direct_threads > ram / 4)
		direct.ring--;
	for (uintptr_t i = 0; i < conf.direct_threads; i++)
		start(direct_run, (void *)(i + 1));
}

/* The writer to the disk ------------------------------------------------- */

static struct {
	int fd;
	uint64_t *generation;	/* what each block must hold */
	uint64_t blocks;
	struct gw_page *buffer;	/* DISK_RUN of them */
} disk;

#define DISK_RUN 64

static void disk_io(bool out, uint64_t block, uint64_t n)
{
	ssize_t want = n * GW_PAGE;
	ssize_t done = out ? pwrite(disk.fd, disk.buffer, want, block * GW_PAGE)
			   : pread(disk.fd, disk.buffer, want, block * GW_PAGE);

	if (done == want)
		return;
	bad("disk block=%" PRIu64 " %s=%zd %s", block, out ? "write" : "read",
	    done, done < 0 ? strerror(errno) : "short");
	sleep_until(now_ns() + NS_PER_S / 10);
}

/* All of @n blocks: what was written last, and nothing else. */
static void disk_verify(uint64_t block, uint64_t n)
{
	disk_io(false, block, n);
	for (uint64_t i = 0; i < n; i++) {
		const struct gw_page *b = &disk.buffer[i];

		if (gw_page_ok(b, block + i, disk.generation[block + i]))
			continue;
		bad("disk block=%" PRIu64 " want=%" PRIu64 " has magic=%" PRIx64
		    " number=%" PRIu64 " generation=%" PRIu64, block + i,
		    disk.generation[block + i], b->magic, b->number,
		    b->generation);
	}
	atomic_fetch_add_explicit(&direct_verified, n, memory_order_relaxed);
}

static void disk_prepare(void)
{
	size_t body = sizeof(disk.buffer->body) / 8;
	off_t size;

	if (!conf.disk_mib)
		return;
	disk.fd = open(DISK_PATH, O_RDWR | O_DIRECT);
	if (disk.fd < 0)
		give_up("gw.disk: %s: %s", DISK_PATH, strerror(errno));
	size = lseek(disk.fd, 0, SEEK_END);
	disk.blocks = conf.disk_mib * MIB / GW_PAGE;
	if (size < (off_t)(conf.disk_mib * MIB))
		give_up("gw.disk=%" PRIu64 ": %s has %jd bytes only",
			conf.disk_mib, DISK_PATH, (intmax_t)size);
	disk.generation = get_memory(disk.blocks * 8, "gw.disk");
	disk.buffer = get_memory(DISK_RUN * GW_PAGE, "gw.disk");
	for (uint64_t b = 0; b < disk.blocks; b += DISK_RUN) {
		for (uint64_t i = 0; i < DISK_RUN; i++) {
			gw_page_make(&disk.buffer[i], b + i, 1, body);
			disk.generation[b + i] = 1;
		}
		disk_io(true, b, DISK_RUN);
	}
}

static void *disk_run(void *arg)
{
	size_t body = sizeof(disk.buffer->body) / 8;
	uint64_t sweep = 0, due = now_ns();

	for (uint64_t count = 0;; count++) {
		uint64_t b = gw_mix(count) % disk.blocks;

		disk_verify(b, 1);
		gw_page_make(disk.buffer, b, ++disk.generation[b], body);
		disk_io(true, b, 1);
		if (count % 16 == 0) {
			disk_verify(sweep, DISK_RUN);
			sweep = (sweep + DISK_RUN) % disk.blocks;
		}
		if (!conf.disk_rate)
			continue;
		due += NS_PER_S / conf.disk_rate;
		if (now_ns() > due + NS_PER_S / 10)
			due = now_ns();
		sleep_until(due);
	}
	return arg;
}

/* The server ------------------------------------------------------------- */

struct request {
	unsigned char number[8];
	uint64_t counter;	/* big endian, in an answer */
	unsigned char pad[30];	/* as short as a frame may be */
};

static void *serve_run(void *arg)
{
	int fd = socket(AF_PACKET, SOCK_DGRAM, htons(SERVE_TYPE));
	uint64_t counter = 0;

	if (fd < 0)
		give_up("gw.serve: %s", strerror(errno));
	for (;;) {
		struct request r = { 0 };
		struct sockaddr_ll from;
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(fd, &r, sizeof(r), 0,
				     (struct sockaddr *)&from, &len);

		if (n < (ssize_t)sizeof(r.number) ||
		    from.sll_pkttype == PACKET_OUTGOING)
			continue;
		r.counter = htobe64(++counter);
		/* a full queue loses it, as networks do */
		(void)!sendto(fd, &r, sizeof(r), MSG_DONTWAIT,
			      (struct sockaddr *)&from, len);
	}
	return arg;
}

/* Ticks ------------------------------------------------------------------ */

static void __attribute__((noreturn)) tick_run(void)
{
	uint64_t interval = conf.tick_ms * NS_PER_MS;
	char looped[32] = "";
	uint64_t due, now;

	/* a busy guest must not delay its own clock */
	sched_setscheduler(0, SCHED_FIFO,
			   &(struct sched_param){ .sched_priority = 1 });
	file_step(file.bytes);
	due = now_ns();
	for (uint64_t n = 1; ; n++) {
		now = now_ns();
		if (loop.pages)
			snprintf(looped, sizeof(looped), " loop=%" PRIu64,
				 atomic_load(&loop_written));
		say("tick %" PRIu64 " %" PRIu64 " sum=%016" PRIx64
		    " dirty=%" PRIu64 " direct=%" PRIu64 " bad=%" PRIu64 "%s",
		    n, now / NS_PER_MS, file.sum,
		    atomic_load(&dirty_verified), atomic_load(&direct_verified),
		    atomic_load(&bad_count), looped);
		file_step(file.slice);
		touch_step(1 + conf.tick_ms / 4);
		/* a line that could not be written in time is late, not lost */
		due += interval;
		now = now_ns();
		if (now > due)
			due = now;
		sleep_until(due);
	}
}

/* Command line ----------------------------------------------------------- */

/*
 * parse() - read up to @n numbers separated by colons into @out
 *
 * Numbers that are not given stay as they are; the first must be there.
 */
static bool parse(const char *text, uint64_t **out, int n)
{
	for (int i = 0; i < n; i++) {
		char *end;

		errno = 0;
		*out[i] = strtoull(text, &end, 10);
		if (errno || end == text || *text == '-' || *out[i] > 1 << 30)
			return false;
		if (!*end)
			return true;
		if (*end != ':')
			return false;
		text = end + 1;
	}
	return false;
}

static void parse_option(const char *option)
{
	uint64_t quiet = 0;
	const struct {
		const char *name;
		const char *form;
		uint64_t *to[4];
		int n;
	} known[] = {
		{ "tick", "MS", { &conf.tick_ms }, 1 },
		{ "quiet", "0|1", { &quiet }, 1 },
		{ "file", "MIB", { &conf.file_mib }, 1 },
		{ "touch", "MIB", { &conf.touch_mib }, 1 },
		{ "clear", "MIB", { &conf.clear_mib }, 1 },
		{ "free", "MIB", { &conf.free_mib }, 1 },
		{ "cache", "MIB", { &conf.cache_mib }, 1 },
		{ "churn", "MIB:PAGES_PER_S",
		  { &conf.churn_mib, &conf.churn_rate }, 2 },
		{ "dirty", "MIB:PAGES_PER_S[:BYTES]",
		  { &conf.dirty_mib, &conf.dirty_rate, &conf.dirty_bytes }, 3 },
		{ "zero", "PERCENT", { &conf.zero_percent }, 1 },
		{ "loop", "MIB:PAGES_PER_S[:BYTES:EVERY]",
		  { &conf.loop_mib, &conf.loop_rate, &conf.loop_bytes,
		    &conf.loop_every }, 4 },
		{ "blank", "N", { &conf.loop_blank }, 1 },
		{ "direct", "KIB[:THREADS]",
		  { &conf.direct_kib, &conf.direct_threads }, 2 },
		{ "disk", "MIB[:BLOCKS_PER_S]",
		  { &conf.disk_mib, &conf.disk_rate }, 2 },
		{ "serve", "0|1", { &conf.serve }, 1 },
	};
	size_t len = strcspn(option, "=");

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		uint64_t *to[4];

		if (strlen(known[i].name) != len ||
		    strncmp(known[i].name, option, len))
			continue;
		memcpy(to, known[i].to, sizeof(to));
		if (!option[len] || !parse(option + len + 1, to, known[i].n))
			give_up("gw.%s: want gw.%s=%s", option, known[i].name,
				known[i].form);
		if (quiet)
			conf.tick_ms = 1000;
		return;
	}
	give_up("gw.%s: unknown", option);
}

static void parse_cmdline(void)
{
	static char line[4096];
	char *word, *rest = line;
	ssize_t n;
	int fd;

	fd = open("/proc/cmdline", O_RDONLY);
	n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	if (n < 0)
		give_up("/proc/cmdline: %s", strerror(errno));
	close(fd);
	while ((word = strsep(&rest, " \n")))
		if (!strncmp(word, "gw.", 3))
			parse_option(word + 3);

	if (!conf.tick_ms || !conf.file_mib)
		give_up("gw.tick and gw.file must be at least 1");
	if (conf.churn_mib && conf.churn_mib < 4)
		give_up("gw.churn=%" PRIu64 ": want at least 4 MiB",
			conf.churn_mib);
	if (conf.zero_percent > 100)
		give_up("gw.zero=%" PRIu64 ": want 0 to 100",
			conf.zero_percent);
	if (!conf.loop_bytes || conf.loop_bytes > conf.loop_every)
		give_up("gw.loop: BYTES %" PRIu64 " of every %" PRIu64
			" cannot change: want 1 <= BYTES <= EVERY",
			conf.loop_bytes, conf.loop_every);
	if (conf.loop_blank == 1)
		give_up("gw.blank=1 leaves no page that is not zero: want 2 or"
			" more");
	if (conf.direct_kib % 4 || conf.direct_kib > 65536 ||
	    !conf.direct_threads || conf.direct_threads > 64)
		give_up("gw.direct=%" PRIu64 ":%" PRIu64 ": want KIB a multiple"
			" of 4 up to 65536, THREADS 1 to 64",
			conf.direct_kib, conf.direct_threads);
}

/* console_raw() - lines end in a bare newline, and input is not echoed */
static void console_raw(void)
{
	struct termios t;

	if (tcgetattr(STDOUT_FILENO, &t))
		return;
	t.c_oflag &= ~OPOST;
	t.c_lflag &= ~(ECHO | ICANON | ISIG);
	tcsetattr(STDOUT_FILENO, TCSANOW, &t);
}

int main(void)
{
	struct utsname uts;

	console_raw();
	uname(&uts);
	say("GODWIT-GUEST up cpus=%d kernel=%s", get_nprocs(), uts.release);
	parse_cmdline();
	check_memory();
	file_write();
	clear_write();
	touch_write();
	free_write();
	cache_read();
	dirty_prepare();
	disk_prepare();
	if (dirty.pages)
		start(dirty_run, NULL);
	loop_prepare();
	if (loop.pages)
		start(loop_run, NULL);
	if (conf.churn_mib)
		start(churn_run, NULL);
	direct_start();
	if (conf.disk_mib)
		start(disk_run, NULL);
	if (conf.serve)
		start(serve_run, NULL);
	tick_run();
}
