/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * store_test.c - a standby's cache against plain arrays; and killed at random
 * moments and at every point that has a name: what is there afterwards is the
 * last checkpoint or the one that was being made, never a mixture.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
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

	for (unsigned int i = 0; i < GW_PAGE_SIZE; i += 8, v += 0x9e3779b97f4a7c15)
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
			host[((size_t)i << GW_PAGE_BITS) + pick(GW_PAGE_SIZE)] ^=
				0x55;
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

int main(void)
{
	seed = test_seed();
	snprintf(path, sizeof(path), "/tmp/gw-store-test.%d", (int)getpid());
	RUN(memory_behaves_like_arrays);
	RUN(a_file_behaves_like_arrays);
	unlink(path);
	return test_done();
}
