/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hintagent_test.c - asking a guest's agent, with the test as QEMU's port and
 * as all kinds of guests; and QEMU's map of the guest's memory.
 */
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "guest-agent/protocol.h"
#include "vm/qemu/hintagent.h"

#define PAGES 1024ull
#define GIB   (1ULL << 30)

static struct gw_ram ram;
static struct gw_hint hint;
static struct gw_error err;

/* --- the map --------------------------------------------------------------- */

/* QEMU 10.0, q35 with 3 GiB, shortened to what a parser may stumble over. */
static const char mtree[] =
	"FlatView #0\r\n"
	" AS \"I/O\", root: io\r\n"
	" Root memory region: io\r\n"
	"  0000000000000000-00000000000fffff (prio 0, ram): a\r\n"
	"\r\n"
	"FlatView #1\r\n"
	" AS \"memory\", root: system\r\n"
	" AS \"cpu-memory-0\", root: system\r\n"
	" Root memory region: system\r\n"
	"  0000000000000000-000000000009ffff (prio 0, ram): a\r\n"
	"  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\r\n"
	"  00000000000c0000-00000000000dffff (prio 1, rom): a @00000000000c0000\r\n"
	"  00000000000e0000-00000000000fffff (prio 0, ram): other @0000000000020000\r\n"
	"  0000000000100000-00000000001fffff (prio 0, ram): a @0000000000100000 KVM\r\n"
	"  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic\r\n"
	"  0000000100000000-00000001001fffff (prio 0, ram): a @0000000000200000\r\n"
	"  0000000100200000-00000001005fffff (prio -1, ram): b KVM\r\n"
	"  0000000200000000-00000002005fffff (prio 0, ram): b @0000000000300000\r\n"
	"  0000000300000000-00000003000fffff (prio 0, ram): b @what\r\n"
	"  0000000400000000-00000003ffffffff (prio 0, ram): b\r\n"
	"\r\n"
	"FlatView #2\r\n"
	" AS \"cpu-smm-0\", root: memory\r\n"
	"  0000000500000000-00000005000fffff (prio 0, ram): b\r\n";

static void begin(void)
{
	gw_ram_init(&ram);
	gw_hint_init(&hint);
	for (int i = 0; i < 2; i++) {
		struct gw_ramblock *b = gw_ram_add(
			&ram, i ? "b" : "a", PAGES * GW_PAGE_SIZE,
			GW_PAGE_SIZE, -1, 0, &err);

		CHECK(b);
		gw_bitmap_set_range(&b->dirty, 0, PAGES);
	}
}

static void end(void)
{
	gw_hint_fini(&hint);
	gw_ram_fini(&ram);
}

static void qemus_map_is_read(void)
{
	static const struct gw_memmap_part want[] = {
		{ 0, 0xa0000, 0, 0 },
		{ 0x100000, 0x100000, 0, 0x100000 },
		{ 4 * GIB, 0x200000, 0, 0x200000 },
		{ 4 * GIB + 0x200000, 0x400000, 1, 0 },
	};
	struct gw_memmap m;
	uint64_t skip, offset;
	int block;

	begin();
	CHECK_OK(gw_memmap_parse(&m, &ram, mtree, &err), &err);
	CHECK(m.n == 4);
	for (int i = 0; i < m.n && i < 4; i++)
		CHECK(m.part[i].addr == want[i].addr &&
		      m.part[i].len == want[i].len &&
		      m.part[i].block == want[i].block &&
		      m.part[i].offset == want[i].offset);
	CHECK(gw_memmap_find(&m, 0x1000, 0x2000, &skip, &block, &offset) ==
	      0x2000);
	CHECK(!skip && !block && offset == 0x1000);
	CHECK(gw_memmap_find(&m, 0x9f000, 1 << 20, &skip, &block, &offset) ==
	      0x1000);
	CHECK(gw_memmap_find(&m, 0xa0000, 1 << 20, &skip, &block, &offset) ==
	      0xa0000);
	CHECK(skip == 0x60000 && offset == 0x100000);
	CHECK(gw_memmap_find(&m, 4 * GIB + 0x1ff000, 0x3000, &skip, &block,
			     &offset) == 0x1000);
	CHECK(gw_memmap_find(&m, 4 * GIB + 0x200000, 0x2000, &skip, &block,
			     &offset) == 0x2000);
	CHECK(block == 1 && offset == 0);
	CHECK(!gw_memmap_find(&m, GIB, GIB, &skip, &block, &offset));
	CHECK(!gw_memmap_find(&m, 5 * GIB, 1ULL << 51, &skip, &block,
			      &offset));
	CHECK(gw_memmap_parse(&m, &ram, "", &err) == -EPROTO);
	CHECK(gw_memmap_parse(&m, &ram, "unknown command\n", &err) == -EPROTO);
	end();
}

static void a_damaged_map_is_survived(void)
{
	char text[sizeof(mtree)];
	uint64_t seed = test_seed();
	struct gw_memmap m;

	begin();
	for (int i = 0; i < 20000; i++) {
		memcpy(text, mtree, sizeof(text));
		for (int k = 0; k < 4; k++)
			text[test_rand(&seed) % (sizeof(text) - 1)] =
				(char)(test_rand(&seed) % 127 + 1);
		text[test_rand(&seed) % sizeof(text)] = '\0';
		if (gw_memmap_parse(&m, &ram, text, &err))
			continue;
		for (int p = 0; p < m.n; p++)
			CHECK(m.part[p].block >= 0 && m.part[p].block < 2 &&
			      m.part[p].offset + m.part[p].len <=
				      PAGES * GW_PAGE_SIZE &&
			      m.part[p].offset <= PAGES * GW_PAGE_SIZE);
	}
	end();
}

/* --- the port -------------------------------------------------------------- */

struct port {
	char path[108];
	int listener;
	pthread_t thread;
	void (*guest)(int fd);
};

static void *port_run(void *arg)
{
	struct port *p = arg;
	int fd = accept(p->listener, NULL, NULL);

	p->guest(fd);
	close(fd);
	return NULL;
}

static void port_open(struct port *p, void (*guest)(int fd))
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	snprintf(p->path, sizeof(p->path), "/tmp/hintagent-%d.sock", getpid());
	unlink(p->path);
	strcpy(a.sun_path, p->path);
	p->guest = guest;
	p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(!bind(p->listener, (struct sockaddr *)&a, sizeof(a)));
	CHECK(!listen(p->listener, 1));
	CHECK(!pthread_create(&p->thread, NULL, port_run, p));
}

static void port_close(struct port *p)
{
	pthread_join(p->thread, NULL);
	close(p->listener);
	unlink(p->path);
}

/* What a guest saw is right; its thread has ended when it is looked at. */
static bool guest_ok;

/* The id of the next question, 0: the host hung up, or that is none. */
static uint32_t question(int fd, enum gfp_type type)
{
	uint8_t head[GFP_HEAD];

	if (recv(fd, head, sizeof(head), MSG_WAITALL) != sizeof(head))
		return 0;
	if (gfp_frame(head, sizeof(head)) != GFP_HEAD || head[5] != type)
		return 0;
	return gfp_get32(head + 8);
}

static void put(int fd, enum gfp_type type, uint32_t id, const void *payload,
		size_t n)
{
	uint8_t head[GFP_HEAD];

	gfp_head(head, type, id, payload, (uint16_t)n);
	if (send(fd, head, sizeof(head), MSG_NOSIGNAL) < 0 ||
	    send(fd, payload, n, MSG_NOSIGNAL) < 0)
		return;
}

/* Ask @guest; the pages it named. */
static struct gw_hint_stats ask(void (*guest)(int fd), bool wait,
				uint64_t *npages)
{
	struct timespec t = { .tv_nsec = 1000000 };
	struct gw_hint_stats s;
	struct gw_hintagent *a;
	struct gw_memmap m;
	struct port p;
	uint32_t id;

	begin();
	port_open(&p, guest);
	CHECK(!gw_memmap_parse(&m, &ram, mtree, &err));
	a = gw_hintagent_open(p.path, &hint, &m, &err);
	CHECK(a);
	CHECK(!gw_hint_open(&hint, &ram, &id, &err));
	CHECK_OK(gw_hintagent_ask(a, id, &err), &err);
	for (int i = 0; wait && !gw_hintagent_answered(a) && i < 60000; i++)
		nanosleep(&t, NULL);
	CHECK(gw_hintagent_answered(a) == wait);
	gw_hint_close(&hint);
	gw_hintagent_stop(a);
	gw_hintagent_close(a);
	port_close(&p);
	gw_hint_get_stats(&hint, &s);
	*npages = gw_hint_nabsent(&hint);
	end();
	return s;
}

/* 3 pages; 1 before the hole of 0xa0000 and 2 behind it; 1 of no memory, below
 * 4 GiB; 3 above. */
static const uint8_t honest[] = { 12,	1,    3,    0x9b, 0x01, 0x63, 0xfe,
				  0xfb, 0x3f, 1,    0xff, 0x82, 0x00, 3 };

static void honest_guest(int fd)
{
	uint32_t id = question(fd, GFP_REQUEST);

	put(fd, GFP_PART, id - 1, honest, sizeof(honest));
	put(fd, GFP_PART, id, honest, sizeof(honest));
	put(fd, GFP_END, id - 1, "", 0);
	put(fd, GFP_END, id, "", 0);
}

static void an_honest_guest_is_heard(void)
{
	uint64_t n;
	struct gw_hint_stats s = ask(honest_guest, true, &n);

	CHECK(s.accepted == n && n == 9);
	CHECK(s.stale > 0 && !s.refused);
}

static void refusing_guest(int fd)
{
	uint32_t id = question(fd, GFP_REQUEST);

	put(fd, GFP_REFUSED, id, "no root", 7);
}

static void mute_guest(int fd)
{
	uint32_t id = question(fd, GFP_REQUEST);

	guest_ok = id && question(fd, GFP_STOP) == id &&
		   !question(fd, GFP_STOP); /* and it hangs up */
}

static void gone_guest(int fd)
{
	question(fd, GFP_REQUEST);
}

static void half_guest(int fd)
{
	uint8_t head[GFP_HEAD];
	uint32_t id = question(fd, GFP_REQUEST);

	gfp_head(head, GFP_PART, id, honest, sizeof(honest));
	guest_ok = id && send(fd, head, sizeof(head), MSG_NOSIGNAL) > 0;
	question(fd, GFP_STOP);
}

static void flooding_guest(int fd)
{
	static uint8_t noise[65536];
	uint64_t seed = 1;

	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)test_rand(&seed);
	while (send(fd, noise, sizeof(noise), MSG_NOSIGNAL) > 0)
		continue;
}

static void a_guest_that_does_not_answer_is_left(void)
{
	uint64_t n;

	ask(refusing_guest, true, &n);
	CHECK(!n);
	guest_ok = false;
	ask(mute_guest, false, &n);
	CHECK(!n && guest_ok);
	ask(gone_guest, false, &n);
	CHECK(!n);
	guest_ok = false;
	ask(half_guest, false, &n);
	CHECK(!n && guest_ok);
	ask(flooding_guest, false, &n);
	CHECK(!n);
}

/* All that can be free is, and more: only the VM's own memory is touched. */
static void boasting_guest(int fd)
{
	static const uint8_t all[] = { 12, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20 };
	uint32_t id = question(fd, GFP_REQUEST);

	for (int i = 0; i < 100; i++)
		put(fd, GFP_PART, id, all, sizeof(all));
	put(fd, GFP_END, id, "", 0);
}

static void a_lie_is_about_the_vms_memory_only(void)
{
	uint64_t n;
	struct gw_hint_stats s = ask(boasting_guest, true, &n);

	/* what the map has of a (0xa0 + 0x100 + 0x200) and of b (0x400) */
	CHECK(n == 0xa0 + 0x100 + 0x200 + 0x400);
	CHECK(s.accepted == n && s.late == 99 * n && !s.refused);
}

static void nobody_listens(void)
{
	struct gw_memmap m = { 0 };

	begin();
	CHECK(!gw_hintagent_open("/tmp/there-is-no-such-socket", &hint, &m,
				 &err));
	CHECK(err.code == ENOENT);
	gw_hintagent_close(NULL);
	end();
}

int main(void)
{
	RUN(qemus_map_is_read);
	RUN(a_damaged_map_is_survived);
	RUN(an_honest_guest_is_heard);
	RUN(a_guest_that_does_not_answer_is_left);
	RUN(a_lie_is_about_the_vms_memory_only);
	RUN(nobody_listens);
	return test_done();
}
