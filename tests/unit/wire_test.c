/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * wire_test.c - encoders against decoders, and every rule of the decoders
 * with bytes that break it.
 */
#include "test.h"

#include <errno.h>

#include "base/bytes.h"
#include "wire/devstream.h"
#include "wire/checkpoint.h"
#include "wire/hello.h"
#include "wire/ram.h"
#include "wire/disks.h"
#include "wire/record.h"
#include "wire/section.h"

/* A writer into memory. */
struct sink {
	struct gw_writer w;
	uint8_t data[1 << 20];
	size_t len;
};

static struct sink sink;

static int to_sink(void *arg, struct iovec *iov, int niov,
		   struct gw_error *err)
{
	struct sink *s = arg;

	for (int i = 0; i < niov; i++) {
		if (s->len + iov[i].iov_len > sizeof(s->data))
			return gw_fail(err, ENOSPC, "sink is full");
		memcpy(s->data + s->len, iov[i].iov_base, iov[i].iov_len);
		s->len += iov[i].iov_len;
	}
	return 0;
}

static struct gw_writer *begin(void)
{
	sink.len = 0;
	gw_writer_init(&sink.w, to_sink, &sink);
	return &sink.w;
}

static void done(struct gw_reader *r)
{
	struct gw_error err = { 0 };

	CHECK_OK(gw_write_flush(&sink.w, &err), &err);
	gw_reader_init_mem(r, sink.data, sink.len);
}

static void two_blocks(struct gw_ram *ram)
{
	gw_ram_init(ram);
	CHECK(!gw_ram_describe(ram, "pc.ram", 64 * 4096, 4096, NULL));
	CHECK(!gw_ram_describe(ram, "dimm0", 8 * 4096, 4096, NULL));
}

/* --- ram ---------------------------------------------------------------- */

static void ram_pages_come_back(void)
{
	struct gw_ram_encoder e = { 0 };
	static struct gw_ram_decoder d;
	uint8_t page[4096], got[4096];
	struct gw_ram_record rec;
	struct gw_reader r;
	struct gw_ram ram;

	two_blocks(&ram);
	for (unsigned int i = 0; i < sizeof(page); i++)
		page[i] = (uint8_t)(i * 7);
	begin();
	gw_ram_put_table(&sink.w, &ram);
	gw_ram_put_page(&sink.w, &e, ram.block[0].idstr, 0x3000, page);
	gw_ram_put_zero(&sink.w, &e, ram.block[0].idstr, 0x4000);
	gw_ram_put_page(&sink.w, &e, ram.block[1].idstr, 0x7000, page);
	gw_ram_put_eos(&sink.w);
	done(&r);
	gw_ram_decoder_init(&d, false);
	CHECK(!gw_ram_get(&r, &d, &rec) && rec.kind == GW_RAM_FLAG_MEM_SIZE);
	CHECK(d.table.n == 2 && d.table.total == 72 * 4096);
	CHECK(!strcmp(d.table.entry[1].idstr, "dimm0"));
	CHECK(!gw_ram_get(&r, &d, &rec) && rec.kind == GW_RAM_FLAG_PAGE &&
	      rec.block == 0 && rec.addr == 0x3000);
	gw_read_bytes(&r, got, sizeof(got));
	CHECK(!memcmp(page, got, sizeof(got)));
	CHECK(!gw_ram_get(&r, &d, &rec) && rec.kind == GW_RAM_FLAG_ZERO &&
	      rec.block == 0 && rec.addr == 0x4000);
	CHECK(!gw_ram_get(&r, &d, &rec) && rec.block == 1);
	gw_read_skip(&r, 4096);
	CHECK(!gw_ram_get(&r, &d, &rec) && rec.kind == GW_RAM_FLAG_EOS);
	CHECK(!gw_read_more(&r));
	gw_ram_fini(&ram);
}

/* Bytes on the wire are QEMU's: FORMAT of `plain_pc` captures. */
static void ram_bytes_are_qemus(void)
{
	static const uint8_t want[] = {
		0, 0, 0, 0, 0, 0, 0x10, 0x02, 6, 'p', 'c', '.', 'r', 'a', 'm',
		0, 0, 0, 0, 0, 0, 0, 0x20, 0x22, 0,
		0, 0, 0, 0, 0, 0, 0, 0x10,
	};
	struct gw_ram_encoder e = { 0 };
	struct gw_reader r;
	struct gw_ram ram;

	two_blocks(&ram);
	begin();
	gw_ram_put_zero(&sink.w, &e, ram.block[0].idstr, 0x1000);
	gw_ram_put_zero(&sink.w, &e, ram.block[0].idstr, 0x2000);
	gw_ram_put_eos(&sink.w);
	done(&r);
	CHECK(sink.len == sizeof(want) - 1 ||
	      !memcmp(sink.data, want, sink.len));
	CHECK(sink.data[7] == 0x02 && sink.data[8] == 6);
	gw_ram_fini(&ram);
}

/* Decode @len bytes after a table of one block "pc.ram" of 16 pages. */
static int decode_after_table(const uint8_t *p, size_t len, char *why)
{
	static struct gw_ram_decoder d;
	struct gw_ram_record rec;
	struct gw_reader r;
	uint8_t buf[8192];
	size_t n = 0;

	gw_put_be64(buf, 16 * 4096 | GW_RAM_FLAG_MEM_SIZE);
	buf[8] = 6;
	memcpy(buf + 9, "pc.ram", 6);
	gw_put_be64(buf + 15, 16 * 4096);
	n = 23;
	memcpy(buf + n, p, len);
	gw_reader_init_mem(&r, buf, n + len);
	gw_ram_decoder_init(&d, false);
	if (gw_ram_get(&r, &d, &rec))
		return -1;
	while (!gw_ram_get(&r, &d, &rec) && rec.kind != GW_RAM_FLAG_EOS)
		if (rec.kind == GW_RAM_FLAG_PAGE)
			gw_read_skip(&r, 4096);
	strcpy(why, r.err.msg);
	return r.err.code;
}

static void ram_rejects(uint64_t h, const char *name, int tail,
			const char *because)
{
	char why[GW_ERROR_MAX] = "";
	uint8_t b[600];
	size_t n = 8;
	int code;

	gw_put_be64(b, h);
	if (name) {
		b[n++] = (uint8_t)strlen(name);
		memcpy(b + n, name, strlen(name));
		n += strlen(name);
	}
	if (tail >= 0)
		b[n++] = (uint8_t)tail;
	code = decode_after_table(b, n, why);
	if (!code || !strstr(why, because))
		printf("for '%s': %d '%s'\n", because, code, why);
	CHECK(code && strstr(why, because));
}

static void ram_decoder_rejects(void)
{
	ram_rejects(0x1000 | 0x28, NULL, -1, "none was named before");
	ram_rejects(0x1000 | 0x08, "nonsense", -1, "unknown block 'nonsense'");
	ram_rejects(0x10000 | 0x08, "pc.ram", -1, "which has 65536 bytes");
	ram_rejects(0xfffffffffffff000 | 0x08, "pc.ram", -1, "which has");
	ram_rejects(0x1000 | 0x02, "pc.ram", 1, "something else than 0");
	ram_rejects(0x1000 | 0x0a, "pc.ram", -1, "impossible flags 0xa");
	ram_rejects(0x1000 | 0x01, NULL, -1, "impossible flags");
	ram_rejects(0x1000 | 0x10, NULL, -1, "impossible flags");
	ram_rejects(0x100, NULL, -1, "impossible flags");
	ram_rejects(0x80, NULL, -1, "impossible flags");
	ram_rejects(0x1000 | 0x04, NULL, -1, "second RAM block table");
	ram_rejects(0x1000 | 0x08, "", -1, "is empty");
	ram_rejects(0x1000 | 0x08, "pc.ram", -1, "the stream ends");
}

static int table_code(uint64_t total, const char *name, uint64_t len, int twice)
{
	static struct gw_ram_decoder d;
	struct gw_ram_record rec;
	struct gw_reader r;

	begin();
	gw_write_be64(&sink.w, total | GW_RAM_FLAG_MEM_SIZE);
	for (int i = 0; i <= twice; i++) {
		gw_write_cstr8(&sink.w, name);
		gw_write_be64(&sink.w, len);
	}
	done(&r);
	gw_ram_decoder_init(&d, false);
	return -gw_ram_get(&r, &d, &rec);
}

static void ram_table_rejects(void)
{
	CHECK(table_code(8192, "a", 8192, 0) == 0);
	CHECK(table_code(8192, "a", 4096, 1) == EPROTO); /* same name twice */
	CHECK(table_code(8192, "a", 12288, 0) == EPROTO); /* beyond total */
	CHECK(table_code(8192, "a", 4097, 0) == EPROTO);
	CHECK(table_code(8192, "a", 0, 0) == EPROTO);
	CHECK(table_code(8192, "a", 1ULL << 63, 0) == EPROTO);
	CHECK(table_code(0, "a", 0, 0) == 0); /* no RAM at all is legal */
	CHECK(table_code(8192, "a", 4096, 0) == ECONNRESET); /* cut */
}

/* --- sections, commands, return path ------------------------------------ */

static void sections_come_back(void)
{
	struct gw_section s = { .id = 7, .idstr = "ram", .version_id = 4 }, t;
	struct gw_reader r;

	begin();
	gw_section_put_long(&sink.w, GW_ITEM_SECTION_START, &s);
	gw_section_put_footer(&sink.w, 7);
	gw_section_put_footer(&sink.w, 8);
	done(&r);
	CHECK(gw_read_u8(&r) == GW_ITEM_SECTION_START);
	gw_section_get_long(&r, &t);
	CHECK(t.id == 7 && !strcmp(t.idstr, "ram") && t.version_id == 4);
	CHECK(!gw_section_get_footer(&r, 7));
	CHECK(gw_section_get_footer(&r, 7) == -EPROTO);
}

static int command_code(uint16_t id, uint16_t len)
{
	struct gw_command_record c;
	struct gw_reader r;

	begin();
	gw_write_be16(&sink.w, id);
	gw_write_be16(&sink.w, len);
	gw_write_be32(&sink.w, 77);
	done(&r);
	return gw_command_get(&r, &c) ? r.err.code : 0;
}

static void commands_are_checked(void)
{
	CHECK(command_code(GW_CMD_PING, 4) == 0);
	CHECK(command_code(GW_CMD_PING, 8) == EPROTO);
	CHECK(command_code(GW_CMD_OPEN_RETURN_PATH, 0) == 0);
	CHECK(command_code(GW_CMD_SWITCHOVER_START, 1) == EPROTO);
	CHECK(command_code(0, 0) == ENOTSUP);
	CHECK(command_code(7, 4) == ENOTSUP); /* PACKAGED: postcopy */
	CHECK(command_code(GW_CMD_ENABLE_COLO, 0) == 0);
	CHECK(command_code(GW_CMD_ENABLE_COLO, 4) == EPROTO);
	CHECK(command_code(12, 0) == ENOTSUP);
}

static void return_path_comes_back(void)
{
	struct gw_rp_record m;
	struct gw_reader r;

	begin();
	gw_rp_put(&sink.w, GW_RP_PONG, 1);
	gw_rp_put(&sink.w, GW_RP_SWITCHOVER_ACK, 0);
	gw_rp_put(&sink.w, GW_RP_SHUT, 0);
	gw_write_be16(&sink.w, 3);
	gw_write_be16(&sink.w, 12);
	done(&r);
	CHECK(!gw_rp_get(&r, &m) && m.type == GW_RP_PONG && m.value == 1);
	CHECK(!gw_rp_get(&r, &m) && m.type == GW_RP_SWITCHOVER_ACK);
	CHECK(!gw_rp_get(&r, &m) && m.type == GW_RP_SHUT && m.value == 0);
	CHECK(gw_rp_get(&r, &m) == -EPROTO);
}

/* --- records, greeting -------------------------------------------------- */

static void errors_travel(void)
{
	struct gw_error err = { 0 }, got = { 0 };
	struct gw_record rec;
	struct gw_reader r;
	bool not_here;

	gw_fail_as(&err, GW_FAULT_VERIFY, EBADMSG, "page 3 of '%s' \001 differs",
		   "pc.ram");
	begin();
	gw_record_put_error(&sink.w, &err, true);
	done(&r);
	CHECK(gw_read_u8(&r) == GW_ITEM_RECORD && !gw_record_get(&r, &rec));
	CHECK(rec.type == GW_RECORD_ERROR && rec.mandatory);
	CHECK(!gw_record_get_error(&r, &rec, "the peer", &got, &not_here));
	CHECK(not_here && got.fault == GW_FAULT_VERIFY && got.code == EBADMSG);
	CHECK(!strcmp(got.msg, "the peer: page 3 of 'pc.ram'   differs"));
}

static void error_texts_are_harmless(void)
{
	struct gw_error err = { .code = EIO, .fault = GW_FAULT_FAILED,
				.msg = "not UTF-8: \xff\xfe" }, got;
	struct gw_record rec;
	struct gw_reader r;
	bool not_here;

	begin();
	gw_record_put_error(&sink.w, &err, false);
	gw_record_put(&sink.w, GW_RECORD_ERROR, true, 3);
	gw_write_bytes(&sink.w, "{]x", 3);
	done(&r);
	gw_read_u8(&r);
	CHECK(!gw_record_get(&r, &rec));
	CHECK(!gw_record_get_error(&r, &rec, "p", &got, &not_here));
	CHECK(strstr(got.msg, "not UTF-8") && !not_here);
	gw_read_u8(&r);
	CHECK(!gw_record_get(&r, &rec));
	CHECK(!gw_record_get_error(&r, &rec, "p", &got, &not_here));
	CHECK(!strcmp(got.msg, "p: no reason given") &&
	      got.fault == GW_FAULT_FAILED);
}

/* Of a DISKS record with these bytes as payload, and what was got. */
static int get_disks(const void *p, size_t len, struct gw_disks *d)
{
	struct gw_record rec;
	struct gw_reader r;

	begin();
	gw_record_put(&sink.w, GW_RECORD_DISKS, true, (uint32_t)len);
	gw_write_bytes(&sink.w, p, len);
	/* What a reader that goes too far finds. */
	for (int i = 0; i < 64; i++)
		gw_write_u8(&sink.w, 1);
	done(&r);
	gw_read_u8(&r);
	CHECK(!gw_record_get(&r, &rec) && rec.mandatory);
	return -gw_disks_get(&r, &rec, d);
}

static void disks_come_back(void)
{
	static struct gw_disks d = { .n = 2 }, got;
	struct gw_record rec;
	struct gw_reader r;
	uint64_t done_bytes, total;

	memset(d.disk[0].name, 'x', GW_DISK_NAME_MAX);
	d.disk[0].size = 512;
	snprintf(d.disk[1].name, sizeof(d.disk[1].name), "disk0");
	d.disk[1].size = 1ULL << 40;
	d.disk[1].backing = true;
	begin();
	gw_disks_put(&sink.w, &d);
	gw_disks_put_progress(&sink.w, 5, 7);
	done(&r);
	CHECK(gw_read_u8(&r) == GW_ITEM_RECORD && !gw_record_get(&r, &rec));
	CHECK(rec.type == GW_RECORD_DISKS && rec.mandatory);
	CHECK(!gw_disks_get(&r, &rec, &got));
	CHECK(got.n == 2 && !strcmp(got.disk[0].name, d.disk[0].name) &&
	      got.disk[0].size == 512 && !got.disk[0].backing);
	CHECK(!strcmp(got.disk[1].name, "disk0") &&
	      got.disk[1].size == 1ULL << 40 && got.disk[1].backing);
	CHECK(gw_read_u8(&r) == GW_ITEM_RECORD && !gw_record_get(&r, &rec));
	CHECK(rec.type == GW_RECORD_DISKS_PROGRESS && !rec.mandatory);
	CHECK(!gw_disks_get_progress(&r, &rec, &done_bytes, &total));
	CHECK(done_bytes == 5 && total == 7);
}

static void disks_are_checked(void)
{
#define DISK(size_hi, size_lo, flags) \
	"\2d0\0\0\0\0\0\0" size_hi size_lo flags
#define GET(s) get_disks(s, sizeof(s) - 1, &d)
	static struct gw_disks d;

	CHECK(GET("\0\1" DISK("\2", "\0", "\1")) == 0);
	CHECK(GET("\0\1" DISK("\2", "\1", "\0")) == EPROTO); /* no sectors */
	CHECK(GET("\0\1" DISK("\0", "\0", "\0")) == EPROTO); /* empty */
	CHECK(GET("\0\1" DISK("\2", "\0", "\2")) == EPROTO); /* flag */
	CHECK(GET("\0\2" DISK("\2", "\0", "\0")
		  DISK("\2", "\0", "\0")) == EPROTO); /* twice */
	CHECK(GET("\0\2" DISK("\2", "\0", "\0")) == EPROTO); /* one is there */
	CHECK(GET("\0\1" DISK("\2", "\0", "\0") "x") == EPROTO); /* more */
	CHECK(GET("\0\1\1") == EPROTO); /* cut in a name */
	CHECK(GET("\0\1\2d\n\0\0\0\0\0\0\2\0\0") == EPROTO); /* not a name */
	CHECK(GET("\0\1\0\0\0\0\0\0\0\2\0\0") == EPROTO); /* none */
	CHECK(GET("\0\0") == EPROTO);
	CHECK(GET("\0\41") == EPROTO); /* 33 */
	CHECK(GET("\0") == EPROTO);
	CHECK(GET("") == EPROTO);
#undef GET
#undef DISK
}

static void records_are_bounded(void)
{
	struct gw_record rec;
	struct gw_reader r;

	begin();
	gw_write_u8(&sink.w, 1);
	gw_write_be16(&sink.w, 1);
	gw_write_be32(&sink.w, 0xffffffff);
	done(&r);
	CHECK(gw_record_get(&r, &rec) == -EMSGSIZE);
	begin();
	gw_write_u8(&sink.w, 0x41);
	gw_write_be16(&sink.w, 1);
	gw_write_be32(&sink.w, 0);
	done(&r);
	CHECK(gw_record_get(&r, &rec) == -EPROTO);
}

static struct gw_checkpoint some_checkpoint(void)
{
	return (struct gw_checkpoint){ .seq = 1ULL << 40,
				       .npages = 3,
				       .paused_pages = 2,
				       .nbytes = 1ULL << 33,
				       .pause_ns = 1234567,
				       .interval_ns = INT64_MAX,
				       .nbase = GW_MAX_DEVICE_STATE - 5,
				       .npart = 5,
				       .hash = 0x8899aabbccddeeff,
				       .flags = GW_CHECKPOINT_LAST,
				       .running = 1 };
}

static int get_checkpoint(const struct gw_checkpoint *c, uint16_t type,
			  struct gw_checkpoint *got)
{
	struct gw_record rec;
	struct gw_reader r;

	begin();
	gw_record_put_checkpoint(&sink.w, c);
	done(&r);
	CHECK(gw_read_u8(&r) == GW_ITEM_RECORD && !gw_record_get(&r, &rec));
	CHECK(rec.type == type && rec.mandatory);
	return gw_record_get_checkpoint(&r, &rec, got);
}

static void checkpoints_come_back(void)
{
	struct gw_checkpoint c = some_checkpoint(), got;
	struct gw_record rec;
	struct gw_reader r;
	int64_t flush_ns;
	uint64_t seq;

	CHECK(!get_checkpoint(&c, GW_RECORD_CHECKPOINT, &got));
	CHECK(got.seq == c.seq && got.npages == 3 && got.paused_pages == 2);
	CHECK(got.nbytes == c.nbytes && got.pause_ns == c.pause_ns);
	CHECK(got.interval_ns == c.interval_ns && got.hash == c.hash);
	CHECK(got.nbase == c.nbase && got.npart == 5);
	CHECK(got.flags == GW_CHECKPOINT_LAST && got.running == 1);
	begin();
	gw_record_put_ack(&sink.w, 77, 88);
	done(&r);
	CHECK(gw_read_u8(&r) == GW_ITEM_RECORD && !gw_record_get(&r, &rec));
	CHECK(rec.type == GW_RECORD_ACK && rec.mandatory);
	CHECK(!gw_record_get_ack(&r, &rec, &seq, &flush_ns));
	CHECK(seq == 77 && flush_ns == 88 && !gw_read_more(&r));
}

/* One field of a checkpoint is wrong. */
#define BAD(change)                                                        \
	do {                                                               \
		c = some_checkpoint();                                     \
		change;                                                    \
		CHECK(get_checkpoint(&c, GW_RECORD_CHECKPOINT, &got) ==    \
		      -EPROTO);                                            \
	} while (0)

static void checkpoints_are_checked(void)
{
	struct gw_record rec = { .type = GW_RECORD_CHECKPOINT, .len = 79 };
	struct gw_checkpoint c, got;
	struct gw_reader r;
	int64_t flush_ns;
	uint64_t seq;

	BAD(c.seq = 0);
	BAD(c.flags = 2);
	BAD(c.running = 2);
	BAD(c.pause_ns = -1);
	BAD(c.interval_ns = INT64_MIN);
	BAD(c.npart = 6);
	BAD(c.nbase = UINT64_MAX);
	begin();
	gw_record_put_ack(&sink.w, 1, -1);
	done(&r);
	gw_read_skip(&r, 8);
	rec.len = 16;
	CHECK(gw_record_get_ack(&r, &rec, &seq, &flush_ns) == -EPROTO);
	for (uint32_t len = 0; len < 100; len++) {
		static const uint8_t ones[100] = { [7] = 1, [15] = 1 };

		rec.len = len;
		gw_reader_init_mem(&r, ones, len);
		CHECK(!!gw_record_get_ack(&r, &rec, &seq, &flush_ns) ==
		      (len != 16));
		gw_reader_init_mem(&r, ones, len);
		CHECK(!!gw_record_get_checkpoint(&r, &rec, &got) ==
		      (len != 80));
	}
}
#undef BAD

static int extents_code(uint64_t s1, uint64_t l1, uint64_t s2, uint64_t l2)
{
	struct gw_extent e[2] = { { s1, l1 }, { s2, l2 } };
	static struct gw_extent got[GW_RECORD_MAX_EXTENTS];
	struct gw_ramblock *b;
	struct gw_record rec;
	struct gw_reader r;
	struct gw_ram ram;
	uint32_t n;
	int ret;

	two_blocks(&ram);
	begin();
	gw_record_put_extents(&sink.w, &ram.block[1], e, 2);
	done(&r);
	gw_read_u8(&r);
	CHECK(!gw_record_get(&r, &rec) && !rec.mandatory);
	ret = gw_record_get_extents(&r, &rec, &ram, &b, got, &n);
	if (!ret)
		CHECK(b == &ram.block[1] && n == 2 && got[1].start == s2);
	gw_ram_fini(&ram);
	return -ret;
}

static void extents_are_checked(void)
{
	CHECK(extents_code(0, 4096, 8192, 8192) == 0);
	CHECK(extents_code(0, 8192, 4096, 4096) == EPROTO); /* overlap */
	CHECK(extents_code(8192, 4096, 0, 4096) == EPROTO); /* order */
	CHECK(extents_code(0, 4096, 4096, 8 * 4096) == EPROTO); /* beyond */
	CHECK(extents_code(0, 4096, 4096, UINT64_MAX - 4095) == EPROTO);
	CHECK(extents_code(0, 0, 4096, 4096) == EPROTO);
	CHECK(extents_code(1, 4096, 8192, 4096) == EPROTO);
}

static void fill_hello(struct gw_hello *h, bool source)
{
	memset(h, 0, sizeof(*h));
	h->source = source;
	strcpy(h->name, source ? "a" : "b");
	strcpy(h->godwit, "0.1.0");
	strcpy(h->vmm, "QEMU 10.0.2");
	strcpy(h->machine, "pc-i440fx-10.0");
	strcpy(h->arch, "x86_64");
	h->running = true;
	h->features = GW_FEATURE_VERIFY;
	h->page_bytes = 4096;
	two_blocks(&h->ram);
}

static void hello_comes_back(void)
{
	struct gw_hello h, got;
	struct gw_error err = { 0 };
	struct gw_reader r;

	fill_hello(&h, true);
	h.channels = 64;
	h.disks = 2;
	begin();
	CHECK_OK(gw_hello_put(&sink.w, &h, &err), &err);
	done(&r);
	REQUIRE(!gw_hello_get(&r, &got));
	CHECK(got.source && got.running && !got.probe);
	CHECK(got.channels == 64 && got.disks == 2);
	CHECK(!strcmp(got.machine, h.machine) && got.ram.nblocks == 2);
	CHECK(got.ram.total == h.ram.total && got.features == h.features);
	gw_hello_fini(&got);
	gw_hello_fini(&h);
}

/* Only a destination says which session. */
static void session_comes_back(void)
{
	struct gw_hello h, got;
	struct gw_error err = { 0 };
	struct gw_reader r;

	fill_hello(&h, false);
	for (unsigned int i = 0; i < sizeof(h.session); i++)
		h.session[i] = (uint8_t)(0xf1 + 7 * i);
	begin();
	CHECK_OK(gw_hello_put(&sink.w, &h, &err), &err);
	done(&r);
	REQUIRE(!gw_hello_get(&r, &got));
	CHECK(!got.source && !got.channels && !got.disks);
	CHECK(!memcmp(got.session, h.session, sizeof(h.session)));
	gw_hello_fini(&got);
	gw_hello_fini(&h);
}

/* Change one thing of the destination; the reason must name it. */
static void disagree(void (*change)(struct gw_hello *h), const char *because)
{
	struct gw_error err = { 0 };
	struct gw_hello s, d;
	unsigned int features;
	int r;

	fill_hello(&s, true);
	fill_hello(&d, false);
	if (change)
		change(&d);
	r = gw_hello_agree(&s, &d, &features, &err);
	CHECK(because ? r && strstr(err.msg, because) : !r);
	if (because && (!r || !strstr(err.msg, because)))
		printf("'%s': %s\n", because, err.msg);
	CHECK(!because || err.fault == GW_FAULT_REFUSED);
	gw_hello_fini(&s);
	gw_hello_fini(&d);
}

static void other_machine(struct gw_hello *h)
{
	strcpy(h->machine, "pc-q35-10.0");
}

static void other_arch(struct gw_hello *h)
{
	strcpy(h->arch, "aarch64");
}

static void other_page(struct gw_hello *h)
{
	h->page_bytes = 16384;
}

static void other_length(struct gw_hello *h)
{
	h->ram.block[0].used_length += 4096;
}

static void other_block(struct gw_hello *h)
{
	strcpy(h->ram.block[1].idstr, "dimm1");
}

static void other_backing(struct gw_hello *h)
{
	h->ram.block[0].page_size = 2 << 20;
}

static void more_blocks(struct gw_hello *h)
{
	CHECK(!gw_ram_describe(&h->ram, "dimm2", 4096, 4096, NULL));
}

static void also_source(struct gw_hello *h)
{
	h->source = true;
}

static void requires_verify(struct gw_hello *h)
{
	h->features = 0;
	h->required = GW_FEATURE_VERIFY;
}

/* Both want checkpoints, or neither: what to run instead is said. */
static void protection_is_agreed_upon(void)
{
	const unsigned int bit = GW_FEATURE_CHECKPOINT;
	struct gw_error err = { 0 };
	struct gw_hello s, d;
	unsigned int both;

	fill_hello(&s, true);
	fill_hello(&d, false);
	s.features |= bit;
	s.required |= bit;
	d.timeout_ms = 1000;
	CHECK(gw_hello_agree(&s, &d, &both, &err) == -EPROTO);
	CHECK(err.fault == GW_FAULT_REFUSED &&
	      strstr(err.msg, "run 'godwit standby' instead"));
	d.features |= bit;
	d.required |= bit;
	CHECK_OK(gw_hello_agree(&s, &d, &both, &err), &err);
	CHECK(both & bit);
	d.timeout_ms = 0;
	CHECK(gw_hello_agree(&s, &d, &both, &err) == -EPROTO);
	CHECK(strstr(err.msg, "timeout-ms"));
	d.timeout_ms = 1000;
	s.features = s.required = GW_FEATURE_VERIFY;
	CHECK(gw_hello_agree(&s, &d, &both, &err) == -EPROTO);
	CHECK(err.fault == GW_FAULT_REFUSED &&
	      strstr(err.msg, "'godwit protect' instead of 'godwit migrate'"));
	gw_hello_fini(&s);
	gw_hello_fini(&d);
}

static int standby_timeout(uint32_t ms, uint32_t *got_ms)
{
	struct gw_error err = { 0 };
	struct gw_hello h, got;
	struct gw_reader r;
	int ret;

	fill_hello(&h, false);
	h.required = h.features = GW_FEATURE_CHECKPOINT;
	h.timeout_ms = ms;
	begin();
	CHECK_OK(gw_hello_put(&sink.w, &h, &err), &err);
	gw_hello_fini(&h);
	done(&r);
	ret = gw_hello_get(&r, &got);
	*got_ms = got.timeout_ms;
	if (!ret)
		gw_hello_fini(&got);
	return ret;
}

static void timeout_comes_back(void)
{
	uint32_t ms;

	CHECK(!standby_timeout(0, &ms) && !ms);
	CHECK(!standby_timeout(1500, &ms) && ms == 1500);
	CHECK(!standby_timeout(GW_HELLO_MAX_TIMEOUT_MS, &ms));
	CHECK(standby_timeout(GW_HELLO_MAX_TIMEOUT_MS + 1, &ms) == -EPROTO);
}

static void hello_names_the_difference(void)
{
	disagree(NULL, NULL);
	disagree(other_machine, "machine type differs");
	disagree(other_arch, "CPU architecture differs");
	disagree(other_page, "page size differs");
	disagree(other_length, "RAM block 'pc.ram' has");
	disagree(other_block, "the source has RAM block 'dimm0'");
	disagree(other_backing, "pages of 4096 bytes on the source");
	disagree(more_blocks, "the destination has RAM block 'dimm2'");
	disagree(also_source, "both sides are a source");
	disagree(requires_verify, "'verify' was asked for");
}

/* --- device streams ------------------------------------------------------ */

/* What real QEMUs wrote: tests/golden/capture.py. */
static size_t golden(const char *name, uint8_t *buf, size_t cap)
{
	char path[4096];
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "%s/%s", GW_TEST_GOLDEN, name);
	f = fopen(path, "rb");
	if (!f)
		return 0;
	n = fread(buf, 1, cap, f);
	fclose(f);
	return n;
}

static void check_golden(const char *name, int devices)
{
	uint8_t buf[8192];
	size_t len = golden(name, buf, sizeof(buf));
	struct gw_error err = { 0 };

	REQUIRE(len > 500);
	for (size_t piece = 1; piece <= len; piece = piece * 3 + 1) {
		struct gw_devstream d;
		int r = 0;

		gw_devstream_init(&d);
		for (size_t at = 0; at < len && !r; at += piece) {
			CHECK(!d.complete);
			r = gw_devstream_feed(
				&d, buf + at,
				len - at < piece ? len - at : piece, &err);
		}
		CHECK_OK(r, &err);
		CHECK(d.complete && d.ndevices == devices);
		CHECK(d.npings == 1 && d.ping[0] == 1);
		CHECK(!strcmp(d.s.config.machine, "none"));
		CHECK(gw_devstream_feed(&d, "x", 1, &err) == -EPROTO);
		gw_devstream_fini(&d);
	}
}

static void devstream_finds_the_end(void)
{
	check_golden("none-7.2.devstream", 2);
	check_golden("none-10.0.devstream", 2);
	check_golden("none-11.1.devstream", 2);
}

/* Cut anywhere: never complete. A flipped bit: never out of bounds. */
static void devstream_survives_damage(void)
{
	uint8_t buf[8192];
	size_t len = golden("none-10.0.devstream", buf, sizeof(buf));
	struct gw_error err = { 0 };
	struct gw_devstream d;
	uint64_t seed = test_seed();

	for (size_t cut = 0; cut < len; cut++) {
		gw_devstream_init(&d);
		CHECK_OK(gw_devstream_feed(&d, buf, cut, &err), &err);
		CHECK(!d.complete);
		gw_devstream_fini(&d);
	}
	for (int i = 0; i < 3000; i++) {
		size_t at = test_rand(&seed) % len;
		uint8_t bit = (uint8_t)(1u << (test_rand(&seed) % 8));
		int r;

		buf[at] ^= bit;
		gw_devstream_init(&d);
		r = gw_devstream_feed(&d, buf, len, &err);
		CHECK(!r || err.code);
		gw_devstream_fini(&d);
		buf[at] ^= bit;
	}
}

/* An END look-alike inside a device's payload must not end the stream. */
static void devstream_is_not_fooled(void)
{
	uint8_t buf[8192];
	size_t len = golden("none-10.0.devstream", buf, sizeof(buf)), at;
	static const uint8_t bait[] = { 0x7e, 0, 0, 0, 0,   0,	 6,
					0,    0, 0, 2, '{', '}' };
	struct gw_error err = { 0 };
	struct gw_devstream d;

	for (at = 0; memcmp(buf + at, "timer", 5); at++)
		;
	memcpy(buf + at + 13 + 2, bait, sizeof(bait)); /* in timer's payload */
	gw_devstream_init(&d);
	for (size_t i = 0; i < len; i++) {
		CHECK(!d.complete);
		CHECK_OK(gw_devstream_feed(&d, buf + i, 1, &err), &err);
	}
	CHECK(d.complete);
	gw_devstream_fini(&d);
}

int main(void)
{
	RUN(ram_pages_come_back);
	RUN(ram_bytes_are_qemus);
	RUN(ram_decoder_rejects);
	RUN(ram_table_rejects);
	RUN(sections_come_back);
	RUN(commands_are_checked);
	RUN(return_path_comes_back);
	RUN(errors_travel);
	RUN(error_texts_are_harmless);
	RUN(disks_come_back);
	RUN(disks_are_checked);
	RUN(records_are_bounded);
	RUN(checkpoints_come_back);
	RUN(checkpoints_are_checked);
	RUN(extents_are_checked);
	RUN(hello_comes_back);
	RUN(session_comes_back);
	RUN(hello_names_the_difference);
	RUN(protection_is_agreed_upon);
	RUN(timeout_comes_back);
	RUN(devstream_finds_the_end);
	RUN(devstream_survives_damage);
	RUN(devstream_is_not_fooled);
	return test_done();
}
