/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * channels_test.c - a scripted source over socket pairs: passes of pages in
 * every encoding, spread over channels that are delayed at random, against a
 * model of memory after each pass; every damage; who may join.
 */
#include "test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "dest/channels.h"
#include "dest/join.h"
#include "page/xbzrle.h"

#define NPAGES	512u
#define MAX_CH	4u
#define NPASSES 6u
#define BLOCK	"ram"

/* For threads beside the one that counts its checks. */
static void must(bool ok)
{
	if (!ok)
		abort();
}

/* --- what a channel says -------------------------------------------------- */

struct script {
	uint8_t *buf;
	size_t len, cap;
	z_stream zlib;
	ZSTD_CCtx *zstd;
	int fd;
	uint64_t seed;
	pthread_t thread;
	bool ragged; /* in pieces, with pauses */
	int end;     /* shut down at the end */
};

static void say(struct script *s, const void *p, size_t len)
{
	if (s->len + len > s->cap) {
		s->cap = 2 * (s->len + len);
		s->buf = realloc(s->buf, s->cap);
	}
	memcpy(s->buf + s->len, p, len);
	s->len += len;
}

static int say_iov(void *arg, struct iovec *iov, int niov, struct gw_error *err)
{
	for (int i = 0; i < niov; i++)
		say(arg, iov[i].iov_base, iov[i].iov_len);
	return 0;
}

static void say_packet(struct script *s, const struct gw_multifd_packet *p)
{
	static __thread struct gw_writer w;
	struct gw_error err = { 0 };

	gw_writer_init(&w, say_iov, s);
	gw_multifd_put_packet(&w, p);
	CHECK_OK(gw_write_flush(&w, &err), &err);
}

static void say_sync(struct script *s, uint64_t number)
{
	struct gw_multifd_packet p = { .flags = GW_MULTIFD_SYNC,
				       .number = number };

	say_packet(s, &p);
}

static void script_init(struct script *s, uint64_t seed)
{
	memset(s, 0, sizeof(*s));
	s->seed = seed;
	CHECK(deflateInit(&s->zlib, 1) == Z_OK);
	s->zstd = ZSTD_createCCtx();
}

static void script_fini(struct script *s)
{
	deflateEnd(&s->zlib);
	ZSTD_freeCCtx(s->zstd);
	free(s->buf);
}

static size_t pack(struct script *s, bool zstd, const uint8_t *in, size_t len,
		   uint8_t *out, size_t cap)
{
	ZSTD_inBuffer i = { in, len, 0 };
	ZSTD_outBuffer o = { out, cap, 0 };

	if (zstd) {
		CHECK(!ZSTD_compressStream2(s->zstd, &o, &i, ZSTD_e_flush));
		return o.pos;
	}
	s->zlib.next_in = (Bytef *)(uintptr_t)in;
	s->zlib.avail_in = (uInt)len;
	s->zlib.next_out = out;
	s->zlib.avail_out = (uInt)cap;
	CHECK(deflate(&s->zlib, Z_SYNC_FLUSH) == Z_OK);
	return cap - s->zlib.avail_out;
}

static void *speak(void *arg)
{
	struct script *s = arg;
	size_t at = 0;

	while (at < s->len) {
		size_t n = s->len - at;
		ssize_t r;

		if (s->ragged && n > 1)
			n = 1 + test_rand(&s->seed) % (n < 90000 ? n : 90000);
		if (s->ragged && test_rand(&s->seed) % 8 == 0)
			usleep(test_rand(&s->seed) % 3000);
		r = send(s->fd, s->buf + at, n, MSG_NOSIGNAL);
		if (r < 0)
			break;
		at += (size_t)r;
	}
	if (s->end)
		shutdown(s->fd, SHUT_WR);
	return NULL;
}

/* --- the receiver --------------------------------------------------------- */

/* A sink in memory that takes one thread at a time. */
struct memory_sink {
	struct gw_sink base;
	uint8_t *mem;
	int inside, clashes; /* atomic */
};

static void alone(struct memory_sink *s, int by)
{
	if (__atomic_add_fetch(&s->inside, by, __ATOMIC_SEQ_CST) != (by > 0))
		__atomic_fetch_add(&s->clashes, 1, __ATOMIC_RELAXED);
}

static int sink_pages(struct gw_sink *base, int block, uint64_t first,
		      uint32_t n, const void *data, struct gw_error *err)
{
	struct memory_sink *s = (struct memory_sink *)base;

	alone(s, 1);
	memcpy(s->mem + first * GW_PAGE_SIZE, data, (size_t)n * GW_PAGE_SIZE);
	alone(s, -1);
	return 0;
}

static int sink_zeros(struct gw_sink *base, int block, uint64_t first,
		      uint64_t n, struct gw_error *err)
{
	struct memory_sink *s = (struct memory_sink *)base;

	alone(s, 1);
	memset(s->mem + first * GW_PAGE_SIZE, 0, n * GW_PAGE_SIZE);
	alone(s, -1);
	return 0;
}

static const struct gw_sink_ops sink_ops = { .name = "memory",
					     .pages = sink_pages,
					     .zeros = sink_zeros };

struct rig {
	struct gw_ram ram;
	struct gw_ram_table table;
	struct gw_place_ram in_ram;
	struct gw_place_sink in_sink;
	struct memory_sink sink;
	struct gw_progress progress;
	struct gw_cancel cancel;
	struct gw_channels c;
	struct gw_chan *main, *chan[MAX_CH];
	int main_fd, fd[MAX_CH];
	unsigned int n;
	uint8_t *mem;
};

static struct gw_chan *make_pair(int *far)
{
	struct gw_error err = { 0 };
	struct gw_chan *c;
	int fd[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd));
	*far = fd[1];
	c = gw_chan_from_fd(fd[0], "source", &err);
	CHECK(c != NULL);
	return c;
}

enum into { INTO_RAM, INTO_SINK, INTO_PARALLEL_SINK };

static void rig_init(struct rig *g, unsigned int n, enum into into)
{
	struct gw_error err = { 0 };
	struct gw_ramblock *b;
	int fd = memfd_create("ram", MFD_CLOEXEC);

	memset(g, 0, sizeof(*g));
	CHECK(!ftruncate(fd, NPAGES * GW_PAGE_SIZE));
	gw_ram_init(&g->ram);
	b = gw_ram_add(&g->ram, BLOCK, NPAGES * GW_PAGE_SIZE, GW_PAGE_SIZE, fd,
		       0, &err);
	CHECK(b != NULL);
	CHECK_OK(gw_ram_map(&g->ram, true, &err), &err);
	g->table.n = 2;
	strcpy(g->table.entry[0].idstr, "other");
	g->table.entry[0].used_length = GW_PAGE_SIZE;
	strcpy(g->table.entry[1].idstr, BLOCK);
	g->table.entry[1].used_length = NPAGES * GW_PAGE_SIZE;
	gw_place_ram_init(&g->in_ram, &g->table);
	g->in_ram.block[1] = b;
	g->mem = b->host;
	g->sink = (struct memory_sink){
		.base = { .ops = &sink_ops,
			  .parallel = into == INTO_PARALLEL_SINK },
		.mem = b->host
	};
	gw_place_sink_init(&g->in_sink, &g->table, &g->sink.base);
	gw_progress_init(&g->progress, NULL, NULL);
	CHECK(!gw_cancel_init(&g->cancel, &err));
	g->n = n;
	g->main = make_pair(&g->main_fd);
	for (unsigned int i = 0; i < n; i++)
		g->chan[i] = make_pair(&g->fd[i]);
	g->main->cancel = &g->cancel;
	g->c = (struct gw_channels){ .main = g->main,
				     .place = into == INTO_RAM
						      ? &g->in_ram.base
						      : &g->in_sink.base,
				     .progress = &g->progress,
				     .cancel = &g->cancel,
				     .idle_ms = 20000,
				     .deltas = into == INTO_RAM };
}

static void rig_start(struct rig *g)
{
	struct gw_error err = { 0 };

	CHECK_OK(gw_channels_start(&g->c, g->chan, g->n, &err), &err);
}

static void rig_fini(struct rig *g)
{
	gw_channels_stop(&g->c);
	for (unsigned int i = 0; i < g->n; i++) {
		gw_chan_close(g->chan[i]);
		close(g->fd[i]);
	}
	gw_chan_close(g->main);
	close(g->main_fd);
	gw_place_sink_fini(&g->in_sink);
	gw_progress_fini(&g->progress);
	gw_cancel_fini(&g->cancel);
	gw_ram_fini(&g->ram);
}

/* --- passes against a model ----------------------------------------------- */

enum kind { RAW, ZLIB, ZSTD, DELTA, NKINDS };

/* Pages @from of list @order, changed in the model and said in one packet. */
static void random_packet(struct script *s, uint8_t *model,
			  const uint32_t *order, uint32_t n, uint64_t number,
			  enum kind kind, uint32_t flags, uint64_t *seed)
{
	static uint8_t data[GW_MULTIFD_PAGES * GW_PAGE_SIZE],
		payload[GW_MULTIFD_MAX_PAYLOAD];
	struct gw_multifd_packet p = { .number = number, .idstr = BLOCK };
	uint32_t used = 0;

	p.flags = flags | (kind == ZLIB	   ? GW_MULTIFD_ZLIB
			   : kind == ZSTD  ? GW_MULTIFD_ZSTD
			   : kind == DELTA ? GW_MULTIFD_DELTA
					   : 0);
	p.zero = kind == DELTA ? 0 : (uint32_t)(test_rand(seed) % n);
	p.normal = n - p.zero;
	if (kind == DELTA)
		used = 2 * n;
	for (uint32_t i = 0; i < n; i++) {
		uint8_t *page = model + (size_t)order[i] * GW_PAGE_SIZE;
		uint8_t old[GW_PAGE_SIZE];
		int len;

		p.offset[i] = (uint64_t)order[i] * GW_PAGE_SIZE;
		if (i >= p.normal) {
			memset(page, 0, GW_PAGE_SIZE);
			continue;
		}
		memcpy(old, page, GW_PAGE_SIZE);
		for (uint32_t k = 0; k < 1 + test_rand(seed) % 900; k++)
			page[test_rand(seed) % GW_PAGE_SIZE] =
				(uint8_t)test_rand(seed);
		page[0] = (uint8_t)(old[0] + 1); /* it did change */
		memcpy(data + (size_t)i * GW_PAGE_SIZE, page, GW_PAGE_SIZE);
		if (kind != DELTA)
			continue;
		len = gw_xbzrle_encode(old, page, payload + used, GW_PAGE_SIZE);
		if (len < 0) {
			memcpy(payload + used, page, GW_PAGE_SIZE);
			len = GW_PAGE_SIZE;
		}
		gw_put_be16(payload + 2 * (size_t)i, (uint16_t)len);
		used += (uint32_t)len;
	}
	if (kind == ZLIB || kind == ZSTD)
		used = (uint32_t)pack(s, kind == ZSTD, data,
				      (size_t)p.normal * GW_PAGE_SIZE, payload,
				      sizeof(payload));
	p.payload = kind == RAW ? p.normal * GW_PAGE_SIZE : used;
	say_packet(s, &p);
	say(s, kind == RAW ? data : payload, p.payload);
}

static void shuffle(uint32_t *order, uint32_t n, uint64_t *seed)
{
	for (uint32_t i = n - 1; i; i--) {
		uint32_t k = (uint32_t)(test_rand(seed) % (i + 1));
		uint32_t t = order[i];

		order[i] = order[k];
		order[k] = t;
	}
}

static void one_pass(struct script *s, unsigned int n, uint8_t *model,
		     enum into into, bool old, uint64_t *number, uint64_t *seed)
{
	uint32_t order[NPAGES], at = 0;
	uint32_t left = NPAGES / 2 + (uint32_t)(test_rand(seed) % (NPAGES / 2));

	for (uint32_t i = 0; i < NPAGES; i++)
		order[i] = i;
	if (test_rand(seed) % 2)
		shuffle(order, NPAGES, seed);
	while (at < left) {
		uint32_t k = 1 + (uint32_t)(test_rand(seed) % GW_MULTIFD_PAGES);
		enum kind kind = (enum kind)(
			test_rand(seed) % (into == INTO_RAM ? NKINDS : DELTA));

		if (k > left - at)
			k = left - at;
		random_packet(&s[test_rand(seed) % n], model, order + at, k,
			      (*number)++, kind, 0, seed);
		at += k;
	}
	for (unsigned int i = 0; i < n; i++) {
		/* QEMU before 9.0: pages in the packet of the sync */
		if (old && i == 0 && left < NPAGES)
			random_packet(&s[i], model, order + left, 1,
				      (*number)++, RAW, GW_MULTIFD_SYNC, seed);
		else
			say_sync(&s[i], (*number)++);
	}
}

static void play(unsigned int n, enum into into, bool old, uint64_t seed)
{
	static uint8_t model[NPASSES][NPAGES * GW_PAGE_SIZE];
	struct script s[MAX_CH];
	struct gw_error err = { 0 };
	uint64_t number = 0;
	struct rig g;

	rig_init(&g, n, into);
	g.c.numbered = true;
	for (unsigned int i = 0; i < n; i++) {
		script_init(&s[i], test_rand(&seed));
		s[i].fd = g.fd[i];
		s[i].ragged = test_rand(&seed) % 3;
		s[i].end = test_rand(&seed) % 2;
	}
	memset(model, 0, sizeof(model));
	for (unsigned int i = 0; i < n; i++)
		say_sync(&s[i], number++);
	for (unsigned int k = 0; k < NPASSES; k++) {
		if (k)
			memcpy(model[k], model[k - 1], sizeof(model[k]));
		one_pass(s, n, model[k], into, old, &number, &seed);
	}
	rig_start(&g);
	for (unsigned int i = 0; i < n; i++)
		CHECK(!pthread_create(&s[i].thread, NULL, speak, &s[i]));
	CHECK_OK(gw_channels_sync(&g.c, &err), &err);
	for (unsigned int k = 0; k < NPASSES; k++) {
		CHECK_OK(gw_channels_hold(&g.c, &err), &err);
		/* All of this pass, nothing of the next. */
		CHECK(!memcmp(g.mem, model[k], sizeof(model[k])));
		gw_channels_release(&g.c);
	}
	for (unsigned int i = 0; i < n; i++)
		pthread_join(s[i].thread, NULL);
	CHECK_OK(gw_channels_finish(&g.c, &err), &err);
	CHECK(!memcmp(g.mem, model[NPASSES - 1], sizeof(model[0])));
	CHECK(g.sink.base.parallel || !g.sink.clashes);
	CHECK(g.progress.now.channels == n);
	CHECK(g.progress.now.normal && g.progress.now.duplicate);
	CHECK(g.progress.now.multifd_bytes &&
	      g.progress.now.multifd_bytes == g.progress.now.transferred);
	for (unsigned int i = 0; i < n; i++)
		script_fini(&s[i]);
	rig_fini(&g);
}

static void passes_do_not_mix(void)
{
	uint64_t seed = test_seed();

	for (int i = 0; i < 12; i++)
		play(1 + (unsigned int)i % MAX_CH, (enum into)(i % 3), i % 2,
		     test_rand(&seed));
}

/* One channel is at its SYNC long before the other has sent a page. */
static void a_fast_channel_waits_for_a_slow_one(void)
{
	uint8_t page[GW_PAGE_SIZE];
	struct gw_multifd_packet p = { .normal = 1,
				       .payload = GW_PAGE_SIZE,
				       .idstr = BLOCK };
	struct script s[2];
	struct gw_error err = { 0 };
	struct rig g;

	rig_init(&g, 2, INTO_RAM);
	rig_start(&g);
	for (int i = 0; i < 2; i++) {
		script_init(&s[i], 1);
		s[i].fd = g.fd[i];
	}
	say_sync(&s[0], 0);
	memset(page, 2, sizeof(page)); /* pass 2 of page 0 */
	say_packet(&s[0], &p);
	say(&s[0], page, sizeof(page));
	say_sync(&s[0], 0);
	speak(&s[0]);
	usleep(50000);
	CHECK(g.mem[0] == 0);
	memset(page, 1, sizeof(page)); /* pass 1 of the same page */
	say_packet(&s[1], &p);
	say(&s[1], page, sizeof(page));
	say_sync(&s[1], 0);
	say_sync(&s[1], 0);
	speak(&s[1]);
	CHECK_OK(gw_channels_hold(&g.c, &err), &err);
	CHECK(g.mem[0] == 1 && g.mem[4095] == 1);
	gw_channels_release(&g.c);
	CHECK_OK(gw_channels_sync(&g.c, &err), &err);
	CHECK(g.mem[0] == 2 && g.mem[4095] == 2);
	CHECK_OK(gw_channels_finish(&g.c, &err), &err);
	script_fini(&s[0]);
	script_fini(&s[1]);
	rig_fini(&g);
}

/* --- damage --------------------------------------------------------------- */

enum damage {
	BEYOND,
	UNKNOWN_BLOCK,
	NO_PACKET,
	VFIO,
	BAD_ZLIB,
	SHORT_ZSTD,
	BAD_DELTA,
	LONG_DELTA,
	EMPTY_DELTA,
	MORE_DELTA,
	NOT_AGREED,
	END_IN_HEADER,
	END_BEHIND_HEADER,
	END_IN_PAGES,
	END_IN_PASS,
	NDAMAGES
};

static const struct {
	enum gw_fault fault;
	const char *text;
} damages[NDAMAGES] = {
	[BEYOND] = { GW_FAULT_INPUT,
		     "channel 0, packet 7, block 'ram': a page at 0x200000 of "
		     "a block with 0x200000 bytes" },
	[UNKNOWN_BLOCK] = { GW_FAULT_INPUT, "block 'rom': there is no such" },
	[NO_PACKET] = { GW_FAULT_INPUT, "begins with 0x20202020" },
	[VFIO] = { GW_FAULT_INPUT, "device state (vfio)" },
	[BAD_ZLIB] = { GW_FAULT_INPUT, "does not decompress: zlib" },
	[SHORT_ZSTD] = { GW_FAULT_INPUT, "of zstd give only 1 of 2 pages" },
	[BAD_DELTA] = { GW_FAULT_INPUT, "for the page at 0x1000 is damaged" },
	[LONG_DELTA] = { GW_FAULT_INPUT, "a delta of 4097 bytes" },
	[EMPTY_DELTA] = { GW_FAULT_INPUT, "a delta of 0 bytes" },
	[MORE_DELTA] = { GW_FAULT_INPUT, "1 bytes behind the last delta" },
	[NOT_AGREED] = { GW_FAULT_INPUT, "deltas were not agreed on" },
	[END_IN_HEADER] = { GW_FAULT_FAILED, "ends within a header" },
	[END_BEHIND_HEADER] = { GW_FAULT_FAILED, "ends within a packet" },
	[END_IN_PAGES] = { GW_FAULT_FAILED, "packet 7, block 'ram': the "
					    "connection ends within a packet" },
	[END_IN_PASS] = { GW_FAULT_FAILED, "in the middle of a pass" },
};

static void say_damage(struct script *s, enum damage d)
{
	struct gw_multifd_packet p = { .normal = 2,
				       .number = 7,
				       .payload = 2 * GW_PAGE_SIZE,
				       .idstr = BLOCK,
				       .offset = { 0, GW_PAGE_SIZE } };
	uint8_t page[2 * GW_PAGE_SIZE], out[2 * GW_PAGE_SIZE + 256];

	memset(page, ' ', sizeof(page));
	s->end = d >= END_IN_HEADER;
	switch (d) {
	case BEYOND:
		p.offset[1] = NPAGES * GW_PAGE_SIZE;
		break;
	case UNKNOWN_BLOCK:
		strcpy(p.idstr, "rom");
		break;
	case NO_PACKET:
		say(s, page, GW_MULTIFD_PACKET_SIZE);
		return;
	case VFIO:
		p.flags = GW_MULTIFD_DEVICE_STATE;
		break;
	case BAD_ZLIB:
		p.flags = GW_MULTIFD_ZLIB;
		p.payload = 100;
		break;
	case SHORT_ZSTD:
		p.flags = GW_MULTIFD_ZSTD;
		p.payload = (uint32_t)pack(s, true, page, GW_PAGE_SIZE, out,
					   sizeof(out));
		memcpy(page, out, p.payload);
		break;
	case BAD_DELTA:
	case LONG_DELTA:
	case EMPTY_DELTA:
	case MORE_DELTA:
	case NOT_AGREED:
		/* "\1\1x": one byte stays, one becomes x */
		p.flags = GW_MULTIFD_DELTA;
		memcpy(page, "\0\3\0\3\1\1x\1\1x", 10);
		p.payload = d == MORE_DELTA ? 11 : 10;
		if (d == BAD_DELTA)
			page[8] = 9;
		if (d == EMPTY_DELTA)
			page[1] = 0;
		if (d == LONG_DELTA) {
			gw_put_be16(page, 4097);
			p.payload = 4 + 4097 + 3;
		}
		break;
	case END_IN_PASS:
	case END_IN_HEADER:
	case END_BEHIND_HEADER:
	case END_IN_PAGES:
	case NDAMAGES:
		break;
	}
	say_packet(s, &p);
	if (d == END_IN_HEADER)
		s->len -= 10;
	else if (d != END_BEHIND_HEADER)
		say(s, page, d == END_IN_PAGES ? 5000 : p.payload);
}

/* It ends what the main thread does: a read, or the wait for a sync. */
static void every_damage_ends_it_at_once(void)
{
	for (int i = 0; i < 2 * NDAMAGES; i++) {
		enum damage d = (enum damage)(i / 2);
		struct gw_error err = { 0 };
		struct script s;
		struct rig g;
		uint8_t byte;
		struct iovec iov = { &byte, 1 };

		rig_init(&g, 2, INTO_RAM);
		g.c.deltas = d != NOT_AGREED;
		rig_start(&g);
		script_init(&s, 1);
		s.fd = g.fd[0];
		say_damage(&s, d);
		CHECK(!pthread_create(&s.thread, NULL, speak, &s));
		if (i % 2)
			CHECK(gw_channels_hold(&g.c, &err) < 0);
		else
			CHECK(gw_channels_refill(&g.c, &iov, 1, &err) < 0);
		if (err.fault != damages[d].fault ||
		    !strstr(err.msg, damages[d].text))
			printf("%d: fault %d: %s\n", i, err.fault, err.msg);
		CHECK(err.fault == damages[d].fault &&
		      strstr(err.msg, damages[d].text));
		/* and it stays so */
		memset(&err, 0, sizeof(err));
		CHECK(gw_channels_finish(&g.c, &err) < 0);
		CHECK(strstr(err.msg, damages[d].text));
		pthread_join(s.thread, NULL);
		script_fini(&s);
		rig_fini(&g);
	}
}

static void rig_say(struct rig *g, unsigned int i, struct script *s)
{
	s->fd = g->fd[i];
	speak(s);
	s->len = 0;
}

enum late { NOTHING, CLOSED, EMPTY, PAGE, SYNC, BYTE, NLATE };

/* What comes behind the last sync, read already or not. */
static void nothing_comes_after_the_end(void)
{
	struct gw_multifd_packet p = { .idstr = BLOCK };

	for (int i = 0; i < 2 * NLATE; i++) {
		struct gw_error err = { 0 };
		struct script s;
		struct rig g;

		rig_init(&g, 2, INTO_RAM);
		rig_start(&g);
		script_init(&s, 1);
		say_sync(&s, 0);
		rig_say(&g, 0, &s);
		say_sync(&s, 1);
		p.zero = i / 2 == PAGE;
		if (i / 2 == PAGE || i / 2 == EMPTY)
			say_packet(&s, &p);
		if (i / 2 == SYNC)
			say_sync(&s, 2);
		if (i / 2 == BYTE)
			say(&s, "x", 1);
		s.end = i / 2 == CLOSED;
		rig_say(&g, 1, &s);
		CHECK_OK(gw_channels_sync(&g.c, &err), &err);
		if (i % 2)
			usleep(20000);
		if (i / 2 <= EMPTY) {
			CHECK_OK(gw_channels_finish(&g.c, &err), &err);
		} else {
			CHECK(gw_channels_finish(&g.c, &err) == -EPROTO);
			CHECK(strstr(err.msg, "channel 1 goes on after"));
		}
		script_fini(&s);
		rig_fini(&g);
	}
}

static void a_channel_that_ends_early_or_says_no_sync(void)
{
	struct gw_error err = { 0 };
	struct script s;
	struct rig g;

	/* closed where it could be the end; but it is not */
	rig_init(&g, 2, INTO_RAM);
	rig_start(&g);
	script_init(&s, 1);
	say_sync(&s, 0);
	rig_say(&g, 0, &s);
	say_sync(&s, 1);
	s.end = true;
	rig_say(&g, 1, &s);
	CHECK_OK(gw_channels_sync(&g.c, &err), &err);
	CHECK(gw_channels_sync(&g.c, &err) == -ECONNRESET);
	CHECK(strstr(err.msg, "1 of 2 channels ended before"));
	rig_fini(&g);
	/* silent */
	memset(&err, 0, sizeof(err));
	s.end = false;
	rig_init(&g, 2, INTO_RAM);
	g.c.idle_ms = 200;
	rig_start(&g);
	say_sync(&s, 0);
	rig_say(&g, 0, &s);
	CHECK(gw_channels_sync(&g.c, &err) == -ETIMEDOUT);
	CHECK(strstr(err.msg, "channel 1: no byte from source for 200 ms"));
	rig_fini(&g);
	/* a third one is somewhere */
	memset(&err, 0, sizeof(err));
	rig_init(&g, 2, INTO_RAM);
	g.c.numbered = true;
	rig_start(&g);
	say_sync(&s, 0);
	rig_say(&g, 0, &s);
	say_sync(&s, 2);
	rig_say(&g, 1, &s);
	CHECK(gw_channels_sync(&g.c, &err) == -EPROTO);
	CHECK(strstr(err.msg, "of 2 channels has number 2"));
	rig_fini(&g);
	script_fini(&s);
}

static void *trickle(void *arg)
{
	struct rig *g = arg;

	for (int i = 0; i < 12; i++) {
		usleep(50000);
		must(send(g->fd[1], "\x11\x22\x33\x44\0\0\0\1\0\0\0\0" + i, 1,
			  MSG_NOSIGNAL) == 1);
	}
	must(send(g->main_fd, "x", 1, MSG_NOSIGNAL) == 1);
	return NULL;
}

/* Silent is only who is silent with all the others. */
static void a_connection_may_rest_while_another_works(void)
{
	struct gw_error err = { 0 };
	uint8_t byte = 0;
	struct iovec iov = { &byte, 1 };
	pthread_t t;
	struct rig g;

	rig_init(&g, 2, INTO_RAM);
	g.c.idle_ms = g.main->read_timeout_ms = 400;
	rig_start(&g);
	CHECK(!pthread_create(&t, NULL, trickle, &g));
	CHECK(gw_channels_refill(&g.c, &iov, 1, &err) == 1 && byte == 'x');
	pthread_join(t, NULL);
	CHECK(gw_channels_refill(&g.c, &iov, 1, &err) == -ETIMEDOUT);
	rig_fini(&g);
}

static void *cancel_soon(void *arg)
{
	usleep(100000);
	gw_cancel_request(arg);
	return NULL;
}

static void cancel_ends_every_wait(void)
{
	for (int i = 0; i < 3; i++) {
		struct gw_error err = { 0 };
		uint8_t byte;
		struct iovec iov = { &byte, 1 };
		struct script s;
		struct rig g;
		pthread_t t;

		rig_init(&g, 2, INTO_RAM);
		rig_start(&g);
		script_init(&s, 1);
		say_sync(&s, 0);
		rig_say(&g, 0, &s);
		if (i == 2) { /* both stand, main reads */
			say_sync(&s, 1);
			rig_say(&g, 1, &s);
		}
		CHECK(!pthread_create(&t, NULL, cancel_soon, &g.cancel));
		if (i == 0)
			CHECK(gw_channels_sync(&g.c, &err) == -ECANCELED);
		else
			CHECK(gw_channels_refill(&g.c, &iov, 1, &err) ==
			      -ECANCELED);
		CHECK(err.fault == GW_FAULT_CANCELLED);
		pthread_join(t, NULL);
		script_fini(&s);
		rig_fini(&g);
	}
}

/* A source that gives up closes everything: its word for it counts. */
static void a_lost_channel_waits_for_the_reason(void)
{
	for (int i = 0; i < 3; i++) {
		struct gw_error err = { 0 };
		uint8_t buf[8];
		struct iovec iov = { buf, sizeof(buf) };
		struct script s;
		struct rig g;

		rig_init(&g, 2, INTO_RAM);
		g.c.explains = true;
		rig_start(&g);
		script_init(&s, 1);
		say_damage(&s, END_IN_PASS);
		rig_say(&g, 0, &s);
		if (i == 2) /* the main thread waits for it just then */
			CHECK_OK(gw_channels_sync(&g.c, &err), &err);
		if (i)
			CHECK(send(g.main_fd, "because", 7, MSG_NOSIGNAL) == 7);
		if (i)
			CHECK(gw_channels_refill(&g.c, &iov, 1, &err) == 7 &&
			      !memcmp(buf, "because", 7));
		CHECK(gw_channels_refill(&g.c, &iov, 1, &err) == -ECONNRESET);
		CHECK(strstr(err.msg, "in the middle of a pass"));
		CHECK(gw_channels_finish(&g.c, &err) == -ECONNRESET);
		script_fini(&s);
		rig_fini(&g);
	}
}

/* --- who may join --------------------------------------------------------- */

static const uint8_t ours[GW_HELLO_SESSION] = "one session....";
static const uint8_t theirs[GW_HELLO_SESSION] = "another session";

struct meeting {
	struct gw_listener *l;
	struct sockaddr_in to;
	int fd[16], nfds;
};

static void meet(struct meeting *m)
{
	struct gw_error err = { 0 };
	int port = 0;

	memset(m, 0, sizeof(*m));
	m->l = gw_chan_listen("tcp:127.0.0.1:0", &err);
	CHECK(m->l &&
	      sscanf(gw_listener_uri(m->l), "tcp:127.0.0.1:%d", &port) == 1);
	m->to.sin_family = AF_INET;
	m->to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	m->to.sin_port = htons((uint16_t)port);
}

static void part(struct meeting *m)
{
	for (int i = 0; i < m->nfds; i++)
		close(m->fd[i]);
	gw_listener_close(m->l);
}

static int visit(struct meeting *m, const void *p, size_t len)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	must(!connect(fd, (struct sockaddr *)&m->to, sizeof(m->to)));
	must(send(fd, p, len, MSG_NOSIGNAL) == (ssize_t)len);
	m->fd[m->nfds++] = fd;
	return fd;
}

static int knock(struct meeting *m, const uint8_t *session, uint8_t id)
{
	uint8_t b[GW_MULTIFD_HELLO_SIZE + 1] = "\x11\x22\x33\x44\0\0\0\1";

	memcpy(b + 8, session, GW_HELLO_SESSION);
	b[24] = id;
	b[GW_MULTIFD_HELLO_SIZE] = '0' + id; /* whose it is, and not read */
	return visit(m, b, sizeof(b));
}

static void only_those_of_this_session_join(void)
{
	struct gw_error err = { 0 };
	struct gw_join j = { .session = ours, .n = 3 };
	struct meeting m;
	int gone[5];
	char byte;

	meet(&m);
	j.listener = m.l;
	gone[0] = visit(
		&m,
		"GET / "
		"HTTP/"
		"1.1\r\n\r\n................................................",
		66);
	shutdown(visit(&m, "\x11\x22", 2), SHUT_WR);
	gone[1] = knock(&m, theirs, 0);
	knock(&m, ours, 2);
	gone[2] = knock(&m, ours, 2); /* twice */
	gone[3] = knock(&m, ours, 3); /* beyond */
	knock(&m, ours, 0);
	gone[4] = -1;
	CHECK(gw_join_wait(&j, 300, &err) == -ETIMEDOUT);
	CHECK(strstr(err.msg, "2 of 3 further connections came"));
	knock(&m, ours, 1);
	CHECK_OK(gw_join_wait(&j, 20000, &err), &err);
	for (unsigned int i = 0; i < 3; i++) {
		struct iovec iov = { &byte, 1 };

		REQUIRE(j.chan[i]);
		CHECK(gw_chan_readv(j.chan[i], &iov, 1, &err) == 1 &&
		      byte == (char)('0' + i));
	}
	for (int i = 0; gone[i] >= 0; i++)
		CHECK(recv(gone[i], &byte, 1, 0) <= 0);
	gw_join_close(&j);
	CHECK(!j.joined && !j.chan[0]);
	part(&m);
}

static void *knock_late(void *arg)
{
	usleep(100000);
	knock(arg, theirs, 1);
	usleep(50000);
	knock(arg, ours, 1);
	return NULL;
}

/* Of a plain QEMU nobody knows how many; a gap shows that one is missing. */
static void as_many_as_come(void)
{
	struct gw_join j = { .n = GW_HELLO_MAX_CONNECTIONS };
	struct gw_error err = { 0 };
	struct meeting m;
	pthread_t t;

	meet(&m);
	j.listener = m.l;
	CHECK_OK(gw_join_rest(&j, 0, 20000, &err), &err);
	CHECK(j.n == 0 && j.joined == 0);
	j.n = GW_HELLO_MAX_CONNECTIONS;
	CHECK(gw_join_rest(&j, 1, 100, &err) == -ETIMEDOUT);
	memset(&err, 0, sizeof(err));
	knock(&m, ours, 0);
	knock(&m, ours, 2);
	CHECK(!pthread_create(&t, NULL, knock_late, &m));
	CHECK_OK(gw_join_rest(&j, 1, 20000, &err), &err);
	CHECK(j.n == 3 && j.joined == 3 && j.chan[1]);
	pthread_join(t, NULL);
	gw_join_close(&j);
	part(&m);
}

static void waiting_for_them_can_be_cancelled(void)
{
	struct gw_cancel cancel;
	struct gw_error err = { 0 };
	struct gw_join j = { .session = ours, .n = 3, .cancel = &cancel };
	struct meeting m;
	pthread_t t;

	CHECK(!gw_cancel_init(&cancel, &err));
	meet(&m);
	j.listener = m.l;
	visit(&m, "\x11\x22", 2); /* and says no more */
	CHECK(!pthread_create(&t, NULL, cancel_soon, &cancel));
	CHECK(gw_join_wait(&j, 20000, &err) == -ECANCELED);
	CHECK(err.fault == GW_FAULT_CANCELLED);
	pthread_join(t, NULL);
	gw_join_close(&j);
	part(&m);
	gw_cancel_fini(&cancel);
}

static void sessions_differ(void)
{
	uint8_t a[GW_HELLO_SESSION], b[GW_HELLO_SESSION];
	struct gw_error err = { 0 };

	CHECK_OK(gw_join_session(a, &err), &err);
	CHECK_OK(gw_join_session(b, &err), &err);
	CHECK(memcmp(a, b, sizeof(a)));
}

int main(void)
{
	RUN(passes_do_not_mix);
	RUN(a_fast_channel_waits_for_a_slow_one);
	RUN(every_damage_ends_it_at_once);
	RUN(nothing_comes_after_the_end);
	RUN(a_channel_that_ends_early_or_says_no_sync);
	RUN(a_connection_may_rest_while_another_works);
	RUN(cancel_ends_every_wait);
	RUN(a_lost_channel_waits_for_the_reason);
	RUN(only_those_of_this_session_join);
	RUN(as_many_as_come);
	RUN(waiting_for_them_can_be_cancelled);
	RUN(sessions_differ);
	return test_done();
}
