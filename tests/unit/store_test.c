/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * store_test.c - a standby's cache against plain arrays; and killed at random
 * moments and at every point that has a name: what is there afterwards is the
 * last checkpoint or the one that was being made, never a mixture.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/pause.h"
#include "colo/journal.h"
#include "colo/store.h"
#include "test.h"

#define BLOCKS 2

static uint64_t seed;
static char path[64];
static const uint64_t lengths[BLOCKS] = { 300, 67 }; /* pages */

static uint64_t pick(uint64_t n)
{
	return test_rand(&seed) % n;
}

/* --- the model ------------------------------------------------------------ */

struct image {
	uint8_t *page[BLOCKS]; /* contiguous */
	uint64_t seq;
	uint32_t flags;
	uint8_t state[5000];
	size_t nstate;
};

struct model {
	struct image committed, next;
};

static size_t bytes(int block)
{
	return lengths[block] << GW_PAGE_BITS;
}

static void image_init(struct image *m)
{
	memset(m, 0, sizeof(*m));
	for (int i = 0; i < BLOCKS; i++)
		m->page[i] = calloc(1, bytes(i));
}

static void image_fini(struct image *m)
{
	for (int i = 0; i < BLOCKS; i++)
		free(m->page[i]);
}

static void image_copy(struct image *to, const struct image *from)
{
	struct image old = *to;

	*to = *from;
	for (int i = 0; i < BLOCKS; i++) {
		to->page[i] = old.page[i];
		memcpy(to->page[i], from->page[i], bytes(i));
	}
}

static void image_clear(struct image *m)
{
	struct image old = *m;

	memset(m, 0, sizeof(*m));
	for (int i = 0; i < BLOCKS; i++) {
		m->page[i] = old.page[i];
		memset(m->page[i], 0, bytes(i));
	}
}

static uint8_t *at(struct image *m, int block, uint64_t page)
{
	return m->page[block] + (page << GW_PAGE_BITS);
}

static bool same(struct gw_store *s, struct image *m)
{
	static const uint8_t zero[GW_PAGE_SIZE];
	size_t n = 0;
	const void *state = gw_store_state(s, &n);

	if (gw_store_seq(s) != m->seq || gw_store_flags(s) != m->flags ||
	    n != m->nstate || memcmp(state, m->state, n))
		return false;
	for (int i = 0; i < BLOCKS && m->seq; i++)
		for (uint64_t k = 0; k < lengths[i]; k++) {
			const uint8_t *p = gw_store_page(s, i, k);

			if (memcmp(p ? p : zero, at(m, i, k), GW_PAGE_SIZE))
				return false;
		}
	return true;
}

/* --- the store ------------------------------------------------------------ */

static void ram_init(struct gw_ram *ram, bool memory)
{
	static const char *const names[BLOCKS] = { "pc.ram", "hot" };

	gw_ram_init(ram);
	for (int i = 0; i < BLOCKS; i++) {
		int fd = memory ? memfd_create("ram", MFD_CLOEXEC) : -1;

		CHECK(!memory || !ftruncate(fd, (off_t)bytes(i)));
		CHECK(gw_ram_add(ram, names[i], bytes(i), GW_PAGE_SIZE, fd, 0,
				 NULL));
	}
	if (memory)
		CHECK(gw_ram_map(ram, true, NULL) == 0);
}

static struct gw_store *open_as(const char *file, const char *name,
				const char *machine, const struct gw_ram *ram,
				struct gw_error *err)
{
	struct gw_store_config c = { .path = file,
				     .name = name,
				     .machine = machine,
				     .ram = ram,
				     .threads = 2,
				     .sync = file && pick(8) == 0 };

	return gw_store_open(&c, err);
}

static struct gw_store *open_store(const char *file, const struct gw_ram *ram)
{
	struct gw_error err = { 0 };
	struct gw_store *s = open_as(file, "vm1", "pc", ram, &err);

	if (!s)
		fprintf(stderr, "%s\n", err.msg);
	CHECK(s);
	return s;
}

static void fill(uint8_t *page, uint64_t *from)
{
	uint64_t v = test_rand(from);

	for (unsigned int i = 0; i < GW_PAGE_SIZE;
	     i += 8, v += 0x9e3779b97f4a7c15)
		memcpy(page + i, &v, 8);
}

static void pick_range(int *block, uint64_t *first, uint32_t *n, uint32_t most)
{
	*block = (int)pick(BLOCKS);
	*first = pick(lengths[*block]);
	*n = (uint32_t)(1 + pick(most));
	if (*n > lengths[*block] - *first)
		*n = (uint32_t)(lengths[*block] - *first);
}

/* Pages come: whole, or as a change of what came last. */
static void place(struct gw_store *s, struct image *m)
{
	struct gw_error err = { 0 };
	uint8_t *host = NULL;
	uint64_t first;
	uint32_t n;
	int block;

	pick_range(&block, &first, &n, 20);
	CHECK_OK(gw_store_room(s, block, first, n, &host, &err), &err);
	CHECK(!memcmp(host, at(m, block, first), (size_t)n << GW_PAGE_BITS));
	for (uint32_t i = 0; i < n; i++)
		if (pick(3))
			fill(host + ((size_t)i << GW_PAGE_BITS), &seed);
		else
			host[((size_t)i << GW_PAGE_BITS) +
			     pick(GW_PAGE_SIZE)] ^= 0x55;
	memcpy(at(m, block, first), host, (size_t)n << GW_PAGE_BITS);
}

static void zeros(struct gw_store *s, struct image *m)
{
	struct gw_error err = { 0 };
	uint64_t first;
	uint32_t n;
	int block;

	pick_range(&block, &first, &n, pick(4) ? 5 : 120);
	CHECK_OK(gw_store_zeros(s, block, first, n, &err), &err);
	memset(at(m, block, first), 0, (size_t)n << GW_PAGE_BITS);
}

static void new_state(struct image *m, struct gw_store_commit *c)
{
	m->nstate = pick(sizeof(m->state));
	for (size_t i = 0; i < m->nstate; i++)
		m->state[i] = (uint8_t)test_rand(&seed);
	m->flags = (uint32_t)test_rand(&seed);
	m->seq += 1 + pick(2);
	*c = (struct gw_store_commit){ .seq = m->seq,
				       .base = m->state,
				       .nbase = m->nstate / 3,
				       .part = m->state + m->nstate / 3,
				       .npart = m->nstate - m->nstate / 3,
				       .flags = m->flags };
}

/* --- as arrays are -------------------------------------------------------- */

struct run {
	struct gw_store *s;
	struct model m;
	struct gw_ram ram;
	struct gw_bitmap own[BLOCKS];
	const char *file;
};

/* The VM here runs and writes. */
static void secondary(struct run *r)
{
	for (uint64_t k = pick(60); k; k--) {
		int block = (int)pick(BLOCKS);
		uint64_t page = pick(lengths[block]);

		fill(r->ram.block[block].host + (page << GW_PAGE_BITS), &seed);
		gw_bitmap_set(&r->own[block], page);
	}
}

static void check_ram(struct run *r)
{
	for (int i = 0; i < BLOCKS; i++) {
		CHECK(!memcmp(r->ram.block[i].host, r->m.committed.page[i],
			      bytes(i)));
		CHECK(gw_bitmap_count(&r->own[i]) == 0);
	}
}

static void commit(struct run *r)
{
	struct gw_store_commit c;
	struct gw_error err = { 0 };

	if (pick(2))
		secondary(r);
	new_state(&r->m.next, &c);
	c.ram = &r->ram;
	c.own = r->own;
	CHECK_OK(gw_store_commit(r->s, &c, &err), &err);
	image_copy(&r->m.committed, &r->m.next);
	check_ram(r);
	CHECK(same(r->s, &r->m.committed));
}

/* A VM that came later: its RAM holds anything. */
static void fill_ram(struct run *r)
{
	struct gw_error err = { 0 };

	for (int i = 0; i < BLOCKS; i++) {
		memset(r->ram.block[i].host, 0x77, bytes(i));
		gw_bitmap_clear_all(&r->own[i]);
	}
	CHECK_OK(gw_store_fill(r->s, &r->ram, &err), &err);
	check_ram(r);
}

static void change(struct run *r)
{
	struct gw_error err = { 0 };

	switch (pick(r->file ? 40 : 36)) {
	case 0:
		CHECK_OK(gw_store_reset(r->s, &err), &err);
		image_clear(&r->m.committed);
		image_clear(&r->m.next);
		break;
	case 1:
		CHECK_OK(gw_store_drop(r->s, &err), &err);
		image_copy(&r->m.next, &r->m.committed);
		break;
	case 2:
		fill_ram(r);
		break;
	case 3 ... 8:
		commit(r);
		break;
	case 9 ... 15:
		zeros(r->s, &r->m.next);
		break;
	case 37 ... 39:
		gw_store_close(r->s);
		r->s = open_store(r->file, &r->ram);
		image_copy(&r->m.next, &r->m.committed);
		CHECK(same(r->s, &r->m.committed));
		break;
	default:
		place(r->s, &r->m.next);
	}
}

static void behaves_like_arrays(const char *file)
{
	struct run r = { .file = file };

	ram_init(&r.ram, true);
	for (int i = 0; i < BLOCKS; i++)
		CHECK(!gw_bitmap_init(&r.own[i], lengths[i], NULL));
	image_init(&r.m.committed);
	image_init(&r.m.next);
	r.s = open_store(file, &r.ram);
	for (int i = 0; i < 4000 && r.s && !test_failures; i++)
		change(&r);
	gw_store_close(r.s);
	image_fini(&r.m.committed);
	image_fini(&r.m.next);
	for (int i = 0; i < BLOCKS; i++)
		gw_bitmap_fini(&r.own[i]);
	gw_ram_fini(&r.ram);
}

static void memory_behaves_like_arrays(void)
{
	behaves_like_arrays(NULL);
}

static void a_file_behaves_like_arrays(void)
{
	unlink(path);
	behaves_like_arrays(path);
}

/* --- killed ------------------------------------------------------------- */

#define RESET_EACH 23 /* checkpoints */

/* What the child is at. */
struct diary {
	uint64_t begun, done; /* atomic: checkpoints */
};

/* All of checkpoint @n follows from the seed and the one before it. */
struct script {
	struct gw_ram ram;
	struct image image;
	uint64_t base; /* of the seeds */
};

/* What comes for checkpoint @n; without @s only as it is expected. */
static void play(struct script *c, struct gw_store *s, uint64_t n,
		 struct gw_store_commit *out)
{
	uint64_t keep = seed;

	seed = c->base ^ n * 0x9e3779b97f4a7c15;
	if (n % RESET_EACH == 0)
		image_clear(&c->image);
	for (uint64_t k = 3 + pick(12); k; k--) {
		uint64_t first, from = test_rand(&seed);
		bool zero = !pick(4);
		uint8_t *host = NULL;
		uint32_t len;
		int block;

		pick_range(&block, &first, &len, zero ? 90 : 12);
		if (zero) {
			memset(at(&c->image, block, first), 0,
			       (size_t)len << GW_PAGE_BITS);
			if (s && gw_store_zeros(s, block, first, len, NULL))
				_exit(3);
			continue;
		}
		for (uint32_t i = 0; i < len; i++)
			fill(at(&c->image, block, first + i), &from);
		if (s && gw_store_room(s, block, first, len, &host, NULL))
			_exit(3);
		if (s)
			memcpy(host, at(&c->image, block, first),
			       (size_t)len << GW_PAGE_BITS);
	}
	c->image.seq = n - 1;
	new_state(&c->image, out);
	c->image.seq = out->seq = n;
	seed = keep;
}

/* In the child: checkpoint after checkpoint, until it is killed. */
static void be_killed(struct script *c, struct diary *d, int pause_at,
		      uint64_t pause_after)
{
	static const char *const points[] = { "standby:received",
					      "standby:applying",
					      "standby:copied",
					      "standby:done" };
	struct gw_store *s = open_as(path, "vm1", "pc", &c->ram, NULL);
	int null = open("/dev/null", O_WRONLY);

	if (!s || dup2(null, STDERR_FILENO) < 0)
		_exit(2);
	for (uint64_t n = d->begun + (d->begun == d->done);; n++) {
		struct gw_store_commit out;

		if (pause_at >= 0 && n == pause_after &&
		    gw_pause_configure(points[pause_at], NULL))
			_exit(4);
		__atomic_store_n(&d->begun, n, __ATOMIC_SEQ_CST);
		if (n % RESET_EACH == 0 && gw_store_reset(s, NULL))
			_exit(5);
		play(c, s, n, &out);
		if (gw_store_commit(s, &out, NULL))
			_exit(6);
		__atomic_store_n(&d->done, n, __ATOMIC_SEQ_CST);
	}
}

/* One life and death. Return: whether it died as it was meant to. */
static bool kill_one(struct script *c, struct diary *d, int pause_at)
{
	uint64_t after = d->begun + 1 + pick(4);
	useconds_t us = (useconds_t)pick(3000);
	int status;
	pid_t pid;

	if (pause_at >= 0 && after % RESET_EACH == 0)
		after++; /* the first of all does not pass by all points */
	pid = fork();
	if (!pid)
		be_killed(c, d, pause_at, after);
	if (pause_at < 0)
		usleep(us);
	else if (waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status))
		return false;
	kill(pid, SIGKILL);
	return waitpid(pid, &status, 0) == pid && WIFSIGNALED(status);
}

/* The model goes on from what it knew to what the store says it has. */
static void check_survivor(struct script *c, struct diary *d)
{
	struct gw_store *s = open_store(path, &c->ram);
	struct gw_store_commit out;
	uint64_t seq;

	if (!s)
		return;
	seq = gw_store_seq(s);
	if (!seq && d->begun % RESET_EACH == 0)
		goto out; /* it began anew */
	if (!seq && d->begun <= 1)
		goto out;
	CHECK(seq == d->done || seq == d->begun);
	for (uint64_t n = c->image.seq + 1; n <= seq && !test_failures; n++)
		play(c, NULL, n, &out);
	CHECK(c->image.seq == seq);
	CHECK(same(s, &c->image));
	d->done = seq;
out:
	if (!seq) { /* the next life begins this one again */
		d->done = d->begun ? d->begun - 1 : 0;
		CHECK(gw_store_page(s, 0, 0) == NULL);
	}
	gw_store_close(s);
}

static void script_run(int rounds, int points)
{
	struct diary *d = mmap(NULL, sizeof(*d), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct script c = { .base = test_rand(&seed) };

	REQUIRE(d != MAP_FAILED);
	unlink(path);
	ram_init(&c.ram, false);
	image_init(&c.image);
	for (int i = 0; i < rounds && !test_failures; i++) {
		CHECK(kill_one(&c, d, points ? i % points : -1));
		check_survivor(&c, d);
	}
	printf("%d kills, %llu checkpoints\n", rounds,
	       (unsigned long long)d->done);
	image_fini(&c.image);
	gw_ram_fini(&c.ram);
	munmap(d, sizeof(*d));
}

static void killed_at_any_moment(void)
{
	script_run(1000, 0);
}

static void killed_at_every_point(void)
{
	script_run(400, 4);
}

/* --- what is not right with a file ---------------------------------------- */

/* A file with two checkpoints; @applying: its writer died in the second. */
static void make_file(struct script *c, bool applying)
{
	struct diary d = { 0 };
	struct gw_store_commit out;
	struct gw_store *s;

	unlink(path);
	image_clear(&c->image);
	s = open_store(path, &c->ram);
	for (uint64_t n = 1; n <= 2; n++) {
		int status = 0;
		pid_t pid;

		if (n == 2 && applying) {
			gw_store_close(s);
			d.begun = d.done = 1;
			pid = fork();
			if (!pid)
				be_killed(c, &d, 1, 2);
			CHECK(waitpid(pid, &status, WUNTRACED) == pid &&
			      WIFSTOPPED(status));
			kill(pid, SIGKILL);
			CHECK(waitpid(pid, &status, 0) == pid);
			play(c, NULL, n, &out);
			return;
		}
		play(c, s, n, &out);
		CHECK(gw_store_commit(s, &out, NULL) == 0);
	}
	gw_store_close(s);
}

static off_t file_size(void)
{
	struct stat st = { 0 };

	CHECK(stat(path, &st) == 0);
	return st.st_size;
}

/* Only what is not a hole. */
static void copy_file(const char *from, const char *to)
{
	int in = open(from, O_RDONLY),
	    out = open(to, O_RDWR | O_CREAT | O_TRUNC, 0600);
	off_t size = lseek(in, 0, SEEK_END), data = 0, hole;
	static char buf[1 << 16];

	CHECK(in >= 0 && out >= 0 && ftruncate(out, size) == 0);
	while ((data = lseek(in, data, SEEK_DATA)) >= 0) {
		hole = lseek(in, data, SEEK_HOLE);
		while (data < hole) {
			size_t n = (size_t)(hole - data) < sizeof(buf)
					   ? (size_t)(hole - data)
					   : sizeof(buf);
			ssize_t got = pread(in, buf, n, data);

			if (got <= 0 ||
			    pwrite(out, buf, (size_t)got, data) != got) {
				CHECK(!"copying");
				break;
			}
			data += got;
		}
	}
	close(in);
	close(out);
}

static void flip(off_t where)
{
	int fd = open(path, O_RDWR);
	uint8_t v = 0;

	CHECK(pread(fd, &v, 1, where) == 1);
	v ^= (uint8_t)(1 + pick(255));
	CHECK(pwrite(fd, &v, 1, where) == 1);
	close(fd);
}

/* Where a flipped byte must be found, mostly where something is. */
static off_t pick_byte(const struct gw_store_layout *l)
{
	switch (pick(6)) {
	case 0:
		return (off_t)pick(80);
	case 1:
		return (off_t)pick(GW_STORE_HEAD);
	case 2:
		return (off_t)(l->slot[pick(2)] + pick(GW_STORE_SLOT));
	case 3:
		return (off_t)(l->slot[pick(2)] + pick(GW_PAGE_SIZE));
	case 4:
		return (off_t)(l->map + pick(200));
	default:
		return (off_t)(l->state[pick(2)] + pick(3000));
	}
}

/* It says so and names the file, or what it has is right. */
static bool right_or_refused(struct script *c)
{
	struct gw_error err = { 0 };
	struct gw_store *s = open_as(path, "vm1", "pc", &c->ram, &err);
	bool good;

	if (!s)
		return err.code > 0 && strstr(err.msg, path) &&
		       strstr(err.msg, "remove it");
	good = same(s, &c->image);
	gw_store_close(s);
	return good;
}

static void layout_of(const struct gw_ram *ram, struct gw_store_layout *l)
{
	static struct gw_store_head h;

	h.nblocks = ram->nblocks;
	for (int i = 0; i < ram->nblocks; i++)
		h.block[i].used_length = ram->block[i].used_length;
	gw_store_layout(&h, l);
}

static void damage_is_found(void)
{
	struct script c = { .base = test_rand(&seed) };
	struct gw_store_layout l;
	char saved[80];
	int refused = 0;

	snprintf(saved, sizeof(saved), "%s.saved", path);
	ram_init(&c.ram, false);
	image_init(&c.image);
	layout_of(&c.ram, &l);
	for (int i = 0; i < 600 && !test_failures; i++) {
		struct gw_store *s;

		if (i % 300 == 0) {
			make_file(&c, i);
			copy_file(path, saved);
		}
		copy_file(saved, path);
		flip(pick_byte(&l));
		CHECK(right_or_refused(&c));
		s = open_as(path, "vm1", "pc", &c.ram, NULL);
		refused += !s;
		gw_store_close(s);
	}
	CHECK(refused > 100);
	unlink(saved);
	image_fini(&c.image);
	gw_ram_fini(&c.ram);
}

static void a_short_file_is_refused(void)
{
	struct script c = { .base = test_rand(&seed) };
	struct gw_error err = { 0 };
	off_t size;

	ram_init(&c.ram, false);
	image_init(&c.image);
	for (int i = 0; i < 40; i++) {
		make_file(&c, false);
		size = file_size();
		size = pick(2) ? size - 1 - (off_t)pick(5000)
			       : 1 + (off_t)pick((uint64_t)size - 1);
		CHECK(truncate(path, size) == 0);
		err.code = 0;
		CHECK(!open_as(path, "vm1", "pc", &c.ram, &err));
		CHECK(err.code && strstr(err.msg, path) &&
		      strstr(err.msg, "remove it"));
		CHECK(file_size() == size);
	}
	image_fini(&c.image);
	gw_ram_fini(&c.ram);
}

/* Opening it so is refused with @word, and changes nothing. */
static void refused(const char *name, const char *machine, struct gw_ram *ram,
		    const char *word)
{
	struct gw_error err = { 0 };

	CHECK(!open_as(path, name, machine, ram, &err));
	CHECK(strstr(err.msg, path) && strstr(err.msg, word));
	if (!strstr(err.msg, word))
		fprintf(stderr, "%s\n", err.msg);
}

static void another_vm_is_refused(void)
{
	struct script c = { .base = test_rand(&seed) };
	struct gw_ram none = { 0 };
	struct gw_error err = { 0 };
	struct gw_store *s;

	ram_init(&c.ram, false);
	image_init(&c.image);
	make_file(&c, false);
	CHECK(!open_as(path, "vm1", "pc", &none, &err));
	CHECK(strstr(err.msg, "no RAM"));
	refused("vm2", "pc", &c.ram, "cache of VM 'vm1'");
	refused("vm1", "q35", &c.ram, "'pc', not a 'q35'");
	c.ram.block[0].used_length += GW_PAGE_SIZE;
	refused("vm1", "pc", &c.ram, "'pc.ram'");
	c.ram.block[0].used_length -= GW_PAGE_SIZE;
	c.ram.block[1].page_size = 2u << 20;
	refused("vm1", "pc", &c.ram, "'hot'");
	c.ram.block[1].page_size = GW_PAGE_SIZE;
	strcpy(c.ram.block[1].idstr, "cold");
	refused("vm1", "pc", &c.ram, "'cold'");
	strcpy(c.ram.block[1].idstr, "hot");
	c.ram.nblocks--;
	refused("vm1", "pc", &c.ram, "2 RAM blocks");
	c.ram.nblocks++;
	s = open_store(path, &c.ram);
	CHECK(s && same(s, &c.image));
	refused("vm1", "pc", &c.ram, "in use");
	gw_store_close(s);
	image_fini(&c.image);
	gw_ram_fini(&c.ram);
}

static void what_is_no_cache_stays_as_it_is(void)
{
	static const char text[] = "a letter to somebody";
	char now[sizeof(text)] = "";
	struct gw_ram ram;
	int fd;

	ram_init(&ram, false);
	unlink(path);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	CHECK(write(fd, text, sizeof(text)) == sizeof(text));
	refused("vm1", "pc", &ram, "not a standby's cache");
	CHECK(pread(fd, now, sizeof(now), 0) == sizeof(now) &&
	      !memcmp(now, text, sizeof(text)) && file_size() == sizeof(text));
	close(fd);
	unlink(path);
	CHECK(mkdir(path, 0700) == 0);
	refused("vm1", "pc", &ram, "");
	rmdir(path);
	gw_ram_fini(&ram);
}

/* Whoever creates it may die at any write. */
static void half_created_is_created_again(void)
{
	struct gw_ram ram;
	struct gw_store *s;
	uint8_t junk[GW_STORE_HEAD] = GW_STORE_MAGIC_NEW;
	int fd;

	ram_init(&ram, false);
	for (int i = 0; i < 2; i++) {
		unlink(path);
		fd = open(path, O_RDWR | O_CREAT, 0600);
		if (i) {
			memset(junk + 8, 0x5a, sizeof(junk) - 8);
			CHECK(write(fd, junk, sizeof(junk)) == sizeof(junk));
		}
		close(fd);
		s = open_store(path, &ram);
		CHECK(s && gw_store_seq(s) == 0);
		gw_store_close(s);
	}
	gw_ram_fini(&ram);
}

/* --- memory --------------------------------------------------------------- */

static void what_never_came_takes_nothing(void)
{
	struct gw_store_commit c = { .seq = 1 };
	struct gw_ram ram;
	struct gw_store *s;
	uint8_t *host;
	uint64_t before;

	gw_ram_init(&ram);
	CHECK(gw_ram_add(&ram, "pc.ram", 1ULL << 30, GW_PAGE_SIZE,
			 memfd_create("ram", MFD_CLOEXEC), 0, NULL) != NULL);
	CHECK(ftruncate(ram.block[0].fd, 1 << 30) == 0);
	CHECK(gw_ram_map(&ram, true, NULL) == 0);
	s = open_store(NULL, &ram);
	CHECK(gw_store_zeros(s, 0, 0, 1 << 18, NULL) == 0);
	c.ram = &ram;
	CHECK(gw_store_commit(s, &c, NULL) == 0);
	CHECK(gw_store_zeros(s, 0, 0, 1 << 18, NULL) == 0);
	c.seq++;
	CHECK(gw_store_commit(s, &c, NULL) == 0);
	CHECK(gw_store_bytes(s) < 1 << 20);
	/* 200 MiB come: after the commit they are there once, and some. */
	for (uint64_t at = 0; at < 51200; at += 64) {
		CHECK(gw_store_room(s, 0, at * 3, 64, &host, NULL) == 0);
		memset(host, 1, 64 << GW_PAGE_BITS);
	}
	before = gw_store_bytes(s);
	CHECK(before > 200 << 20 && before < 202 << 20);
	c.seq++;
	CHECK(gw_store_commit(s, &c, NULL) == 0);
	CHECK(gw_store_bytes(s) > 263 << 20 && gw_store_bytes(s) < 266 << 20);
	/* They become zero, and holes. */
	CHECK(gw_store_zeros(s, 0, 0, 1 << 18, NULL) == 0);
	c.seq++;
	CHECK(gw_store_commit(s, &c, NULL) == 0);
	CHECK(gw_store_bytes(s) < 66 << 20);
	CHECK(gw_store_page(s, 0, 0) == NULL);
	gw_store_close(s);
	gw_ram_fini(&ram);
}

/* The VM here wrote where there is nothing: nothing is read there. */
static void a_hole_is_not_read_for_the_vm(void)
{
	struct gw_store_commit c = { .seq = 1 };
	struct gw_bitmap own[BLOCKS];
	struct gw_ram ram;
	struct gw_store *s;
	uint64_t before;

	ram_init(&ram, true);
	for (int i = 0; i < BLOCKS; i++)
		CHECK(!gw_bitmap_init(&own[i], lengths[i], NULL));
	s = open_store(NULL, &ram);
	c.ram = &ram;
	c.own = own;
	CHECK(gw_store_commit(s, &c, NULL) == 0);
	before = gw_store_bytes(s);
	for (int i = 0; i < BLOCKS; i++) {
		memset(ram.block[i].host, 1, bytes(i));
		gw_bitmap_set_range(&own[i], 0, lengths[i]);
	}
	c.seq++;
	CHECK(gw_store_commit(s, &c, NULL) == 0);
	CHECK(gw_store_bytes(s) == before);
	for (int i = 0; i < BLOCKS; i++) {
		CHECK(ram.block[i].host[0] == 0 &&
		      !memcmp(ram.block[i].host, ram.block[i].host + 1,
			      bytes(i) - 1));
		CHECK(gw_bitmap_count(&own[i]) == 0);
		gw_bitmap_fini(&own[i]);
	}
	gw_store_close(s);
	gw_ram_fini(&ram);
}

static void what_is_opened_again_is_there_once(void)
{
	struct gw_store_commit c = { .seq = 1 };
	struct gw_ram ram;
	struct gw_store *s;
	uint8_t *host;

	unlink(path);
	ram_init(&ram, false);
	s = open_store(path, &ram);
	for (; c.seq <= 2; c.seq++) {
		CHECK(gw_store_room(s, 0, 0, 300, &host, NULL) == 0);
		memset(host, 1, bytes(0));
		CHECK(gw_store_commit(s, &c, NULL) == 0);
	}
	CHECK(gw_store_bytes(s) >= 2 * bytes(0));
	gw_store_close(s);
	s = open_store(path, &ram);
	CHECK(gw_store_bytes(s) < bytes(0) + (256 << 10));
	gw_store_close(s);
	gw_ram_fini(&ram);
}

/* In a file system of 1 MiB, in a process of its own. Return: exit code. */
static int fill_the_disk(struct script *c)
{
	char dir[80], file[96];
	struct gw_store_commit out;
	struct gw_error err = { 0 };
	struct gw_store *s;
	uint8_t *host;
	int r = 0;

	snprintf(dir, sizeof(dir), "%s.d", path);
	if (unshare(CLONE_NEWNS) ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mkdir(dir, 0700) || mount("none", dir, "tmpfs", 0, "size=1m"))
		return 77;
	snprintf(file, sizeof(file), "%s/cache", dir);
	s = open_store(file, &c->ram);
	for (uint64_t n = 1; n <= 2; n++) {
		play(c, NULL, n, &out);
		if (gw_store_room(s, 0, 0, 100, &host, &err))
			return 1;
		memset(host, (int)n, 100 << GW_PAGE_BITS);
		if (gw_store_commit(s, &out, &err))
			return 2;
	}
	for (uint64_t at = 100; at < 300 && !r; at += 10) {
		r = gw_store_room(s, 0, at, 10, &host, &err);
		if (!r)
			memset(host, 9, 10 << GW_PAGE_BITS);
	}
	if (r != -ENOSPC || !strstr(err.msg, file) ||
	    !strstr(err.msg, "--cache"))
		return 3;
	out.seq = 3;
	if (!gw_store_commit(s, &out, &err)) /* committed has no room either */
		return 4;
	if (gw_store_seq(s) != 2 || *gw_store_page(s, 0, 99) != 2)
		return 5;
	if (gw_store_zeros(s, 0, 0, 300, &err) ||
	    gw_store_commit(s, &out, &err) || gw_store_page(s, 0, 99))
		return 6;
	gw_store_close(s);
	s = open_store(file, &c->ram);
	return s && gw_store_seq(s) == 3 ? 0 : 7;
}

static void a_full_disk_is_an_error(void)
{
	struct script c = { .base = test_rand(&seed) };
	int status = 0;
	char dir[80];
	pid_t pid;

	ram_init(&c.ram, false);
	image_init(&c.image);
	pid = fork();
	if (!pid)
		_exit(fill_the_disk(&c));
	CHECK(waitpid(pid, &status, 0) == pid);
	snprintf(dir, sizeof(dir), "%s.d", path);
	rmdir(dir);
	image_fini(&c.image);
	gw_ram_fini(&c.ram);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		SKIP("mounting a small file system is not allowed here");
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	if (status)
		fprintf(stderr, "status 0x%x\n", (unsigned int)status);
}

int main(void)
{
	seed = test_seed();
	snprintf(path, sizeof(path), "/tmp/gw-store-test.%d", (int)getpid());
	RUN(memory_behaves_like_arrays);
	RUN(a_file_behaves_like_arrays);
	RUN(killed_at_any_moment);
	RUN(killed_at_every_point);
	RUN(damage_is_found);
	RUN(a_short_file_is_refused);
	RUN(another_vm_is_refused);
	RUN(what_is_no_cache_stays_as_it_is);
	RUN(half_created_is_created_again);
	RUN(what_never_came_takes_nothing);
	RUN(a_hole_is_not_read_for_the_vm);
	RUN(what_is_opened_again_is_there_once);
	RUN(a_full_disk_is_an_error);
	unlink(path);
	return test_done();
}
