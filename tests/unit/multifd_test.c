/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * multifd_test.c - packets against a byte-by-byte model of their layout, every
 * rejection, and real channels: all packets walked and RAM put together again.
 */
#include "captures.h"

#include <dirent.h>
#include <errno.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "page/inflate.h"
#include "wire/multifd.h"
#include "wire/stream.h"

static uint8_t sink[8192];
static size_t sink_len;

static int to_sink(void *arg, struct iovec *iov, int niov, struct gw_error *err)
{
	for (int i = 0; i < niov; i++) {
		if (sink_len + iov[i].iov_len > sizeof(sink))
			return gw_fail(err, ENOSPC, "sink is full");
		memcpy(sink + sink_len, iov[i].iov_base, iov[i].iov_len);
		sink_len += iov[i].iov_len;
	}
	return 0;
}

/* --- the layout, field by field ---------------------------------------- */

static void model_packet(const struct gw_multifd_packet *p, uint32_t room,
			 uint8_t b[GW_MULTIFD_PACKET_SIZE])
{
	memset(b, 0, GW_MULTIFD_PACKET_SIZE);
	memcpy(b, "\x11\x22\x33\x44\0\0\0\1", 8);
	gw_put_be32(b + 8, p->flags);
	gw_put_be32(b + 12, room);
	gw_put_be32(b + 16, p->normal);
	gw_put_be32(b + 20, p->payload);
	gw_put_be64(b + 24, p->number);
	gw_put_be32(b + 32, p->zero);
	strcpy((char *)b + 64, p->idstr);
	for (uint32_t i = 0; i < p->normal + p->zero; i++)
		gw_put_be64(b + 320 + 8 * i, p->offset[i]);
}

static void random_packet(struct gw_multifd_packet *p, uint64_t *seed)
{
	static const uint32_t method[] = { GW_MULTIFD_NOCOMP, GW_MULTIFD_ZLIB,
					   GW_MULTIFD_ZSTD };
	bool sync = test_rand(seed) % 4 == 0;
	size_t name = 1 + test_rand(seed) % GW_IDSTR_MAX;

	memset(p, 0, sizeof(*p));
	p->flags = sync ? GW_MULTIFD_SYNC : method[test_rand(seed) % 3];
	p->number = test_rand(seed);
	if (sync && test_rand(seed) % 2)
		return;
	p->normal = (uint32_t)(test_rand(seed) % (GW_MULTIFD_PAGES + 1));
	p->zero = (uint32_t)(test_rand(seed) %
			     (GW_MULTIFD_PAGES - p->normal + 1));
	if (p->flags & GW_MULTIFD_COMPRESSION)
		p->payload = p->normal ? 1 + (uint32_t)(test_rand(seed) %
						 GW_MULTIFD_MAX_PAYLOAD) : 0;
	else
		p->payload = p->normal * GW_PAGE_SIZE;
	if (p->normal + p->zero)
		memset(p->idstr, 'a' + (int)(name % 26), name);
	for (uint32_t i = 0; i < p->normal + p->zero; i++)
		p->offset[i] = test_rand(seed) % (GW_RAM_MAX_LENGTH >> 12) << 12;
}

static void packets_come_back(void)
{
	uint8_t want[GW_MULTIFD_PACKET_SIZE];
	struct gw_multifd_packet p, got;
	uint64_t seed = test_seed();
	struct gw_error err = { 0 };
	static struct gw_writer w;
	struct gw_reader r;

	for (int i = 0; i < 3000; i++) {
		random_packet(&p, &seed);
		model_packet(&p, p.flags & GW_MULTIFD_SYNC &&
					!(p.normal + p.zero) ? 0 : 128, want);
		sink_len = 0;
		gw_writer_init(&w, to_sink, NULL);
		gw_multifd_put_packet(&w, &p);
		CHECK_OK(gw_write_flush(&w, &err), &err);
		REQUIRE(sink_len == sizeof(want) &&
			!memcmp(sink, want, sizeof(want)));
		memset(&got, 0xaa, sizeof(got));
		gw_reader_init_mem(&r, sink, sink_len);
		CHECK_OK(gw_multifd_get_packet(&r, &got), &r.err);
		CHECK(r.offset == sizeof(want));
		CHECK(got.flags == p.flags && got.normal == p.normal &&
		      got.zero == p.zero && got.payload == p.payload &&
		      got.number == p.number && !strcmp(got.idstr, p.idstr) &&
		      !memcmp(got.offset, p.offset, sizeof(p.offset)));
	}
}

static void hellos_come_back(void)
{
	struct gw_multifd_hello h = { .id = 5 }, got;
	uint8_t want[64] = "\x11\x22\x33\x44\0\0\0\1";
	struct gw_error err = { 0 };
	static struct gw_writer w;
	struct gw_reader r;

	for (int i = 0; i < 16; i++)
		want[8 + i] = h.uuid[i] = (uint8_t)(i * 17);
	want[24] = 5;
	sink_len = 0;
	gw_writer_init(&w, to_sink, NULL);
	gw_multifd_put_hello(&w, &h);
	CHECK_OK(gw_write_flush(&w, &err), &err);
	CHECK(sink_len == 64 && !memcmp(sink, want, 64));
	gw_reader_init_mem(&r, sink, 64);
	CHECK_OK(gw_multifd_get_hello(&r, 6, &got), &r.err);
	CHECK(got.id == 5 && !memcmp(got.uuid, h.uuid, 16) && r.offset == 64);
}

/* --- what is refused --------------------------------------------------- */

static void hello_says(const uint8_t *b, size_t len, const char *because)
{
	struct gw_multifd_hello h;
	struct gw_reader r;

	gw_reader_init_mem(&r, b, len);
	CHECK(gw_multifd_get_hello(&r, 2, &h) < 0);
	if (!strstr(r.err.msg, because))
		printf("%s: %s\n", because, r.err.msg);
	CHECK(strstr(r.err.msg, because));
}

static void hello_rejects(void)
{
	uint8_t b[64] = "\x11\x22\x33\x44\0\0\0\1";

	for (size_t cut = 0; cut < 64; cut++)
		hello_says(b, cut, "the stream ends");
	b[24] = 2; /* the first that is not below the number of channels */
	hello_says(b, 64, "multifd channel 2 of 2");
	b[24] = 255;
	hello_says(b, 64, "multifd channel 255 of 2");
	b[7] = 2;
	hello_says(b, 64, "version 2");
	b[0] = 'Q';
	hello_says(b, 64, "begins with 0x51223344");
}

static struct gw_multifd_packet good;
static uint8_t raw[GW_MULTIFD_PACKET_SIZE];

/* A packet of 3 normal and 2 zero pages. */
static void make_good(uint32_t flags)
{
	memset(&good, 0, sizeof(good));
	good.flags = flags;
	good.normal = 3;
	good.zero = 2;
	good.payload = flags & GW_MULTIFD_COMPRESSION ? 77 : 3 * 4096;
	strcpy(good.idstr, "pc.ram");
	for (int i = 0; i < 5; i++)
		good.offset[i] = (uint64_t)(9 - i) * 4096;
	model_packet(&good, 128, raw);
}

static int decode(struct gw_multifd_packet *p, size_t len, char *why)
{
	struct gw_reader r;
	int ret;

	gw_reader_init_mem(&r, raw, len);
	ret = gw_multifd_get_packet(&r, p);
	if (why)
		strcpy(why, r.err.msg);
	CHECK(!ret || (r.err.fault == GW_FAULT_INPUT && ret == -r.err.code));
	return ret;
}

/* The field of @bits at byte @at becomes @v. */
static void packet_says(uint32_t flags, size_t at, int bits, uint64_t v,
			const char *because)
{
	struct gw_multifd_packet p;
	char why[GW_ERROR_MAX];
	int r;

	make_good(flags);
	if (bits == 64)
		gw_put_be64(raw + at, v);
	else if (bits == 32)
		gw_put_be32(raw + at, (uint32_t)v);
	else
		raw[at] = (uint8_t)v;
	r = decode(&p, sizeof(raw), why);
	if (!because) {
		if (r)
			printf("%s\n", why);
		CHECK(!r);
		return;
	}
	if (!r || !strstr(why, because))
		printf("%s: %d '%s'\n", because, r, why);
	CHECK(r && strstr(why, because));
}

static void packet_rejects(void)
{
	uint32_t zlib = GW_MULTIFD_ZLIB;

	packet_says(0, 0, 32, 0x11223344, NULL);
	packet_says(zlib, 0, 32, 0x11223344, NULL);
	packet_says(0, 0, 32, 0x11223345, "begins with 0x11223345");
	packet_says(0, 4, 32, 2, "version 2");
	packet_says(0, 8, 32, 0x40, "device state (vfio)");
	packet_says(0, 8, 32, 0x41, "device state (vfio)");
	packet_says(0, 8, 32, 0x80, "3 deltas and 2 zero pages");
	packet_says(0, 8, 32, 0x81, "unknown flags 0x81");
	packet_says(0, 8, 32, 0x84, "unknown flags 0x84");
	packet_says(0, 8, 32, 0x100, "unknown flags 0x100");
	packet_says(0, 8, 32, 0x80000000, "unknown flags");
	packet_says(0, 8, 32, 0x08, "method 0x8");
	packet_says(0, 8, 32, 0x06, "method 0x6");
	packet_says(0, 8, 32, 0x20, "method 0x20");
	packet_says(0, 12, 32, 129, "room for 129");
	packet_says(0, 12, 32, 5, NULL);
	packet_says(0, 12, 32, 4, "room for 4");
	packet_says(0, 12, 32, 2, "room for 2");
	packet_says(0, 16, 32, 127, "127 normal and 2 zero");
	packet_says(0, 16, 32, 0xffffffff, "4294967295 normal");
	packet_says(0, 32, 32, 126, "126 zero");
	packet_says(0, 32, 32, 0xffffffff, "4294967295 zero");
	packet_says(0, 16, 32, 2, "2 pages with 12288 bytes");
	packet_says(0, 20, 32, 0, "3 pages with 0 bytes");
	packet_says(0, 20, 32, 12289, "with 12289 bytes");
	packet_says(zlib, 20, 32, 0, "3 pages with 0 bytes");
	packet_says(zlib, 20, 32, 1 << 20, NULL);
	packet_says(zlib, 20, 32, (1 << 20) + 1, "with 1048577 bytes");
	packet_says(zlib, 20, 32, 0xffffffff, "with 4294967295 bytes");
	packet_says(zlib, 16, 32, 0, "0 pages with 77 bytes");
	packet_says(0, 64, 8, 0, "block without name");
	packet_says(0, 320, 64, 1, "a page at 0x1 of block 'pc.ram'");
	packet_says(0, 320 + 32, 64, 0x1800, "a page at 0x1800");
	packet_says(0, 320 + 40, 64, 0x1801, NULL); /* behind the last page */
	packet_says(0, 320, 64, 1ULL << 46, "a page at 0x400000000000");
	packet_says(0, 320, 64, ~0xfffULL, "a page at 0xfffffffffffff000");
}

static void packet_names_end(void)
{
	struct gw_multifd_packet p;
	char why[GW_ERROR_MAX];

	make_good(0);
	memset(raw + 64, 'x', 255);
	CHECK(!decode(&p, sizeof(raw), NULL) && strlen(p.idstr) == 255);
	raw[64 + 255] = 'x';
	CHECK(decode(&p, sizeof(raw), why) && strstr(why, "does not end"));
	make_good(0);
	for (size_t cut = 0; cut < sizeof(raw); cut++)
		CHECK(decode(&p, cut, NULL) == -ECONNRESET);
}

static void delta_lengths(void)
{
	static const struct {
		uint32_t normal, payload;
		bool good;
	} t[] = { { 3, 9, true },	{ 3, 8, false },
		  { 3, 3 * 4098, true }, { 3, 3 * 4098 + 1, false },
		  { 0, 0, false },	{ 1, 3, true },
		  { 128, 384, true },	{ 129, 400, false } };
	struct gw_multifd_packet p;

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		make_good(0);
		gw_put_be32(raw + 8, GW_MULTIFD_DELTA);
		gw_put_be32(raw + 16, t[i].normal);
		gw_put_be32(raw + 20, t[i].payload);
		gw_put_be32(raw + 32, 0);
		CHECK(!decode(&p, sizeof(raw), NULL) == t[i].good);
	}
}

/* QEMU before 9.0: stale length, name and offsets, and no payload behind. */
static void a_stale_sync_is_a_sync(void)
{
	static const uint32_t flags[] = { GW_MULTIFD_SYNC, 0, GW_MULTIFD_ZLIB };
	struct gw_multifd_packet p;

	/* The last two: the sync went with the pages of the packet before. */
	for (int i = 0; i < 3; i++) {
		make_good(0);
		gw_put_be32(raw + 8, flags[i]);
		gw_put_be32(raw + 16, 0);
		gw_put_be32(raw + 32, 0);
		gw_put_be64(raw + 320, 0x123);
		CHECK(!decode(&p, sizeof(raw), NULL));
		CHECK(p.flags == flags[i] && !p.payload && !p.idstr[0] &&
		      !p.offset[0]);
	}
	/* With zero pages the sender is newer. */
	make_good(0);
	gw_put_be32(raw + 16, 0);
	CHECK(decode(&p, sizeof(raw), NULL));
	make_good(GW_MULTIFD_SYNC); /* or with pages, which count */
	CHECK(!decode(&p, sizeof(raw), NULL));
	CHECK(p.normal == 3 && p.payload == 12288 && p.offset[4] == 5 * 4096);
}

/* --- real channels ----------------------------------------------------- */

struct channel {
	uint8_t *b;
	struct gw_reader r;
	struct gw_inflate *z;
};

struct vm {
	struct gw_ram_table table;
	uint8_t *ram[GW_MAX_TABLE_BLOCKS];
	struct channel ch[2];
	uint64_t next_number;
	int normal, zero, syncs;
	bool failed;
};

#define MUST(vm, cond)                                          \
	do {                                                    \
		CHECK(cond);                                    \
		if (!(cond)) {                                  \
			(vm)->failed = true;                    \
			return;                                 \
		}                                               \
	} while (0)

static void load_pages(struct vm *vm, struct channel *c,
		       const struct gw_multifd_packet *p)
{
	int block = gw_ram_table_find(&vm->table, p->idstr);
	uint8_t *page[GW_MULTIFD_PAGES];
	struct gw_error err = { 0 };
	uint32_t method = p->flags & GW_MULTIFD_COMPRESSION;
	const uint8_t *payload;

	MUST(vm, block >= 0);
	for (uint32_t i = 0; i < p->normal + p->zero; i++) {
		MUST(vm, p->offset[i] < vm->table.entry[block].used_length);
		page[i] = vm->ram[block] + p->offset[i];
	}
	for (uint32_t i = p->normal; i < p->normal + p->zero; i++)
		memset(page[i], 0, GW_PAGE_SIZE);
	vm->normal += (int)p->normal;
	vm->zero += (int)p->zero;
	if (!p->normal)
		return;
	payload = gw_read_peek(&c->r, p->payload);
	MUST(vm, payload);
	for (uint32_t i = 0; !method && i < p->normal; i++)
		memcpy(page[i], payload + i * GW_PAGE_SIZE, GW_PAGE_SIZE);
	if (method) {
		if (!c->z)
			c->z = gw_inflate_new(method == GW_MULTIFD_ZLIB ?
						      "zlib" : "zstd", &err);
		MUST(vm, c->z);
		CHECK_OK(gw_inflate_pages(c->z, payload, p->payload, page,
					  p->normal, &err), &err);
		vm->failed |= err.code != 0;
	}
	gw_read_skip(&c->r, p->payload);
}

/* Every channel up to its next SYNC. */
static void sync_channels(struct vm *vm)
{
	for (int i = 0; i < 2 && !vm->failed; i++) {
		struct gw_multifd_packet p;

		do {
			int r = gw_multifd_get_packet(&vm->ch[i].r, &p);

			CHECK_OK(r, &vm->ch[i].r.err);
			MUST(vm, !r);
			vm->next_number++;
			if (p.normal + p.zero)
				load_pages(vm, &vm->ch[i], &p);
		} while (!(p.flags & GW_MULTIFD_SYNC) && !vm->failed);
		vm->syncs++;
	}
}

static void main_event(struct vm *vm, struct gw_stream *s,
		       const struct gw_stream_event *ev, bool *per_round)
{
	switch (ev->kind) {
	case GW_STREAM_TABLE:
		vm->table = s->ram.table;
		for (int i = 0; i < vm->table.n; i++) {
			vm->ram[i] = malloc(vm->table.entry[i].used_length);
			/* nothing may be left as it was */
			memset(vm->ram[i], 0xa5,
			       vm->table.entry[i].used_length);
		}
		return;
	case GW_STREAM_PAGE:
		gw_read_bytes(s->r, vm->ram[ev->block] + ev->addr,
			      GW_PAGE_SIZE);
		return;
	case GW_STREAM_ZERO:
		memset(vm->ram[ev->block] + ev->addr, 0, GW_PAGE_SIZE);
		vm->zero++;
		return;
	case GW_STREAM_FLUSH:
		*per_round = true;
		sync_channels(vm);
		return;
	case GW_STREAM_SECTION_END: /* machines up to 8.0 */
		if (!*per_round)
			sync_channels(vm);
		return;
	default:
		return;
	}
}

static void load_vm(struct vm *vm, const char *folder, const char *name)
{
	static struct gw_stream s;
	bool per_round = false;
	struct gw_stream_event ev = { .kind = GW_STREAM_CONFIG };
	struct gw_multifd_hello h;
	struct gw_reader r;
	uint8_t *main_b;
	char file[300];
	size_t len = 0;

	memset(vm, 0, sizeof(*vm));
	for (int i = 0; i < 2; i++) {
		snprintf(file, sizeof(file), "%s.ch%d", name, i);
		vm->ch[i].b = test_load(folder, file, &len);
		MUST(vm, vm->ch[i].b);
		gw_reader_init_mem(&vm->ch[i].r, vm->ch[i].b, len);
		CHECK_OK(gw_multifd_get_hello(&vm->ch[i].r, 2, &h),
			 &vm->ch[i].r.err);
		CHECK(h.id == i);
	}
	snprintf(file, sizeof(file), "%s.main", name);
	main_b = test_load(folder, file, &len);
	MUST(vm, main_b);
	gw_reader_init_mem(&r, main_b, len);
	gw_stream_init(&s, &r, 0);
	while (!vm->failed && ev.kind != GW_STREAM_TAIL) {
		int ret = gw_stream_next(&s, &ev);

		CHECK_OK(ret, &r.err);
		vm->failed |= ret != 0;
		if (!ret)
			main_event(vm, &s, &ev, &per_round);
	}
	CHECK(s.have_end);
	free(main_b);
	/* 7.2 sends one SYNC more than the main stream has sections. */
	for (int i = 0; i < 2 && !vm->failed; i++) {
		struct gw_multifd_packet p;

		while (gw_read_more(&vm->ch[i].r)) {
			CHECK_OK(gw_multifd_get_packet(&vm->ch[i].r, &p),
				 &vm->ch[i].r.err);
			CHECK(!(p.normal + p.zero));
			vm->next_number++;
		}
	}
}

static void free_vm(struct vm *vm)
{
	for (int i = 0; i < vm->table.n; i++)
		free(vm->ram[i]);
	for (int i = 0; i < 2; i++) {
		gw_inflate_free(vm->ch[i].z);
		free(vm->ch[i].b);
	}
}

/* What tests/golden/capture.py put there. */
static bool is_pattern(const uint8_t *ram, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		for (size_t j = 0; j < GW_PAGE_SIZE; j++)
			if (ram[i * GW_PAGE_SIZE + j] !=
			    (i % 40 == 7 ? (uint8_t)(i * 31 + (j >> 4) * 7 +
						     (j & i)) : 0))
				return false;
	return true;
}

static void goldens_have_the_pattern(void)
{
	static const char *const name[] = { "multifd-none-7.2",
					    "multifd-zstd-10.0",
					    "multifd-zlib-11.1" };

	for (size_t i = 0; i < sizeof(name) / sizeof(name[0]); i++) {
		static struct vm vm;

		load_vm(&vm, GW_TEST_GOLDEN, name[i]);
		CHECK(!vm.failed && vm.table.n == 1 && vm.table.total == 1 << 20);
		if (!vm.failed)
			CHECK(is_pattern(vm.ram[0], 256));
		CHECK(vm.normal == 7 && vm.zero == 249 && vm.syncs == 6);
		free_vm(&vm);
	}
}

/* ROM blocks are the same in every run; RAM changes while the guest runs. */
static XXH64_hash_t rom_hash(const struct vm *vm, const char *idstr)
{
	int i = gw_ram_table_find(&vm->table, idstr);

	return i < 0 ? 0 : XXH3_64bits(vm->ram[i],
				       vm->table.entry[i].used_length);
}

static void captures_come_together(void)
{
	static const char *const name[] = { "mfd_zlib", "mfd_zstd",
					    "mfd_zpmultifd", "mfd_zplegacy",
					    "mfd_pc72" };
	const char *folder = test_vectors();
	XXH64_hash_t bios = 0, rom = 0;

	if (!folder)
		SKIP("GW_TEST_VECTORS names no folder of captures");
	for (size_t i = 0; i < sizeof(name) / sizeof(name[0]); i++) {
		static struct vm vm;

		load_vm(&vm, folder, name[i]);
		printf("%s: %d normal, %d zero, %d SYNCs, %" PRIu64 " packets\n",
		       name[i], vm.normal, vm.zero, vm.syncs, vm.next_number);
		CHECK(!vm.failed && vm.table.n == 6);
		for (int b = 0; b < vm.table.n; b++)
			printf("  %s %016llx\n", vm.table.entry[b].idstr,
			       (unsigned long long)XXH3_64bits(
				       vm.ram[b],
				       vm.table.entry[b].used_length));
		CHECK(!bios || bios == rom_hash(&vm, "pc.bios"));
		CHECK(!rom || rom == rom_hash(&vm, "pc.rom"));
		bios = rom_hash(&vm, "pc.bios");
		rom = rom_hash(&vm, "pc.rom");
		CHECK(bios && rom);
		free_vm(&vm);
	}
}

int main(void)
{
	RUN(packets_come_back);
	RUN(hellos_come_back);
	RUN(hello_rejects);
	RUN(packet_rejects);
	RUN(packet_names_end);
	RUN(delta_lengths);
	RUN(a_stale_sync_is_a_sync);
	RUN(goldens_have_the_pattern);
	RUN(captures_come_together);
	return test_done();
}
