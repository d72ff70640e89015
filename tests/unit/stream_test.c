/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stream_test.c - whole streams, written and read back event by event:
 * standard ones, with x-ignore-shared, mapped-ram files; every rule with a
 * stream that breaks it; and real ones.
 */
#include "captures.h"

#include <dirent.h>
#include <errno.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "page/xbzrle.h"
#include "wire/mapped.h"
#include "wire/stream.h"

/* --- a stream in memory ------------------------------------------------ */

static struct gw_writer w;
static uint8_t file[8 << 20];
static size_t file_len;

static int to_file(void *arg, struct iovec *iov, int niov, struct gw_error *err)
{
	for (int i = 0; i < niov; i++) {
		if (file_len + iov[i].iov_len > sizeof(file))
			return gw_fail(err, ENOSPC, "file is full");
		memcpy(file + file_len, iov[i].iov_base, iov[i].iov_len);
		file_len += iov[i].iov_len;
	}
	return 0;
}

static void flush(void)
{
	struct gw_error err = { 0 };

	CHECK_OK(gw_write_flush(&w, &err), &err);
}

static void begin(const struct gw_configuration *c)
{
	file_len = 0;
	gw_writer_init(&w, to_file, NULL);
	gw_stream_put_header(&w);
	gw_configuration_put(&w, c);
}

static void start(uint32_t id)
{
	struct gw_section s = { .id = id, .idstr = "ram",
				.version_id = GW_RAM_VERSION };

	gw_section_put_long(&w, GW_ITEM_SECTION_START, &s);
}

static void end_section(uint32_t id)
{
	gw_ram_put_eos(&w);
	gw_section_put_footer(&w, id);
}

/* Blocks "a" of 16 pages and "b" of 4. */
static void table(const uint64_t *mr_addr)
{
	gw_ram_put_total(&w, 20 * 4096);
	gw_ram_put_entry(&w, "a", 16 * 4096, mr_addr);
	gw_ram_put_entry(&w, "b", 4 * 4096, mr_addr);
}

static const struct gw_configuration plain = { .machine = "pc" };

/* Header, configuration, and START with the table. */
static void begin_plain(void)
{
	begin(&plain);
	start(7);
	table(NULL);
	end_section(7);
}

static struct gw_stream s;
static struct gw_stream_event ev;
static struct gw_reader r;

static void reread(void)
{
	flush();
	gw_reader_init_mem(&r, file, file_len);
	gw_stream_init(&s, &r, 0);
}

/* The next event is of @kind. */
static bool next(enum gw_stream_kind kind)
{
	int ret = gw_stream_next(&s, &ev);

	if (ret)
		printf("%d: %s\n", ret, r.err.msg);
	return !ret && ev.kind == kind;
}

/* All events up to TAIL or an error; returns the error's text or "". */
static const char *drain(void)
{
	do {
		if (gw_stream_next(&s, &ev)) {
			CHECK(r.err.fault == GW_FAULT_INPUT);
			return r.err.msg;
		}
		if (ev.kind == GW_STREAM_PAGE)
			gw_read_skip(&r, GW_PAGE_SIZE);
	} while (ev.kind != GW_STREAM_TAIL);
	return "";
}

/* --- round trips ------------------------------------------------------- */

static void streams_come_back(void)
{
	static uint8_t page[4096], got[4096], delta[4096];
	struct gw_ram_encoder e = { 0 };
	const char *a = "a", *b = "b";

	memset(page, 'p', sizeof(page));
	memset(delta, 'd', sizeof(delta));
	begin(&plain);
	gw_command_put(&w, GW_CMD_OPEN_RETURN_PATH);
	gw_command_put_ping(&w, 4711);
	start(7);
	table(NULL);
	end_section(7);
	gw_section_put_short(&w, GW_ITEM_SECTION_PART, 7);
	gw_ram_put_page(&w, &e, a, 0x3000, page);
	gw_ram_put_delta(&w, &e, a, 0xf000, delta, 4096);
	gw_ram_put_delta(&w, &e, b, 0x1000, delta, 0);
	gw_ram_put_zero(&w, &e, b, 0x3000);
	gw_write_be64(&w, GW_RAM_FLAG_MULTIFD_FLUSH);
	end_section(7);
	gw_command_put(&w, GW_CMD_SWITCHOVER_START);
	gw_section_put_short(&w, GW_ITEM_SECTION_END, 7);
	end_section(7);
	gw_write_u8(&w, GW_ITEM_EOF);
	reread();
	REQUIRE(next(GW_STREAM_CONFIG) && !strcmp(s.config.machine, "pc"));
	REQUIRE(next(GW_STREAM_COMMAND) && s.return_path &&
		ev.command.id == GW_CMD_OPEN_RETURN_PATH);
	REQUIRE(next(GW_STREAM_COMMAND) && ev.command.id == GW_CMD_PING &&
		ev.command.ping == 4711);
	REQUIRE(next(GW_STREAM_SECTION) && ev.item == GW_ITEM_SECTION_START);
	REQUIRE(next(GW_STREAM_TABLE) && s.ram.table.n == 2 &&
		s.ram.table.total == 20 * 4096 && s.ram_id == 7);
	REQUIRE(next(GW_STREAM_EOS) && ev.item == GW_ITEM_SECTION_START);
	REQUIRE(next(GW_STREAM_SECTION_END) && !s.nparts);
	REQUIRE(next(GW_STREAM_SECTION) && ev.item == GW_ITEM_SECTION_PART);
	REQUIRE(next(GW_STREAM_PAGE) && ev.block == 0 && ev.addr == 0x3000 &&
		ev.item == GW_ITEM_SECTION_PART);
	gw_read_bytes(&r, got, sizeof(got));
	CHECK(!memcmp(got, page, sizeof(got)));
	REQUIRE(next(GW_STREAM_DELTA) && ev.block == 0 && ev.addr == 0xf000 &&
		ev.delta_len == 4096 && !memcmp(ev.delta, delta, 4096));
	REQUIRE(next(GW_STREAM_DELTA) && ev.block == 1 && ev.addr == 0x1000 &&
		!ev.delta_len);
	REQUIRE(next(GW_STREAM_ZERO) && ev.block == 1 && ev.addr == 0x3000);
	REQUIRE(next(GW_STREAM_FLUSH));
	REQUIRE(next(GW_STREAM_EOS) && ev.item == GW_ITEM_SECTION_PART);
	REQUIRE(next(GW_STREAM_SECTION_END) && s.nparts == 1 && !s.have_end);
	REQUIRE(next(GW_STREAM_COMMAND) &&
		ev.command.id == GW_CMD_SWITCHOVER_START);
	REQUIRE(next(GW_STREAM_SECTION) && ev.item == GW_ITEM_SECTION_END);
	REQUIRE(next(GW_STREAM_EOS) && !s.have_end);
	REQUIRE(next(GW_STREAM_SECTION_END) && s.have_end);
	REQUIRE(next(GW_STREAM_TAIL));
	CHECK(r.offset == file_len - 1); /* EOF is the caller's */
}

/* A delta on the wire as a real QEMU sent it. */
static void delta_bytes_are_qemus(void)
{
	static const uint8_t want[] = { 0, 0, 0, 0, 0, 7, 0x10, 0x60, 1, 0, 4,
					0xff, 0x1f, 1, 0x31 };
	struct gw_ram_encoder e = { 0 };
	const char *a = "a";

	begin(&plain);
	flush();
	e.last = a;
	file_len = 0;
	gw_ram_put_delta(&w, &e, a, 0x71000, want + 11, 4);
	flush();
	CHECK(file_len == sizeof(want) && !memcmp(file, want, sizeof(want)));
}

static void configurations_come_back(void)
{
	for (int i = 0; i < 16; i++) {
		struct gw_configuration c = { .ignore_shared = i & 1,
					      .mapped_ram = i & 2,
					      .page_bits = i & 4 ? 12 : 0,
					      .have_uuid = i & 8 };

		memset(c.machine, 'm', i * 17);
		if (c.have_uuid)
			memset(c.uuid, 0x42, sizeof(c.uuid));
		begin(&c);
		gw_write_u8(&w, GW_ITEM_EOF);
		reread();
		REQUIRE(next(GW_STREAM_CONFIG));
		CHECK(!memcmp(&s.config, &c, sizeof(c)));
		CHECK(s.ram.ignore_shared == c.ignore_shared &&
		      s.ram.mapped_ram == c.mapped_ram);
		REQUIRE(next(GW_STREAM_TAIL));
	}
}

static void configuration_bytes_are_qemus(void)
{
	static const char want[] = "\7\0\0\0\4none\5\x1a" "configuration/capabilities"
				   "\0\0\0\1\0\0\0\1\xf" "x-ignore-shared";
	struct gw_configuration c = { .machine = "none", .ignore_shared = true };

	begin(&c);
	flush();
	CHECK(file_len == 8 + sizeof(want) - 1 &&
	      !memcmp(file + 8, want, sizeof(want) - 1));
}

static void ignore_shared_has_addresses(void)
{
	struct gw_configuration c = { .machine = "pc", .ignore_shared = true };
	uint64_t mr_addr = 0xfffc0000;

	begin(&c);
	start(0);
	table(&mr_addr);
	end_section(0);
	gw_write_u8(&w, GW_ITEM_SECTION_FULL);
	reread();
	CHECK(!strcmp(drain(), ""));
	CHECK(s.ram.table.n == 2 && s.ram.table.entry[1].mr_addr == mr_addr);
	CHECK(s.ram.table.entry[1].used_length == 4 * 4096);
}

/* --- what is refused --------------------------------------------------- */

static void stream_says(const char *because)
{
	const char *got;

	reread();
	got = drain();
	if (!strstr(got, because))
		printf("%s: '%s'\n", because, got);
	CHECK(*got && strstr(got, because));
}

static void order_is_checked(void)
{
	struct gw_section other = { .id = 3, .idstr = "dirty-bitmap",
				    .version_id = 1 };

	begin(&plain);
	gw_write_u8(&w, 0x7e);
	stream_says("unknown item 0x7e");
	begin(&plain);
	gw_write_u8(&w, GW_ITEM_VMDESCRIPTION);
	stream_says("unknown item 0x06");
	begin(&plain);
	gw_section_put_short(&w, GW_ITEM_SECTION_PART, 7);
	stream_says("section 7 continues, but no such");
	begin(&plain);
	gw_section_put_long(&w, GW_ITEM_SECTION_START, &other);
	stream_says("iterable section 'dirty-bitmap' version 1");
	strcpy(other.idstr, "ram");
	other.version_id = 3;
	begin(&plain);
	gw_section_put_long(&w, GW_ITEM_SECTION_START, &other);
	stream_says("iterable section 'ram' version 3");
	begin(&plain);
	start(7);
	end_section(7);
	stream_says("without a table of its blocks");
	begin_plain();
	start(7);
	stream_says("section ram starts twice");
	begin_plain();
	gw_section_put_short(&w, GW_ITEM_SECTION_PART, 8);
	stream_says("section 8 continues, but no such");
	begin_plain();
	gw_section_put_short(&w, GW_ITEM_SECTION_END, 7);
	end_section(7);
	gw_section_put_short(&w, GW_ITEM_SECTION_PART, 7);
	stream_says("section 7 continues, but no such");
	begin_plain();
	gw_section_put_short(&w, GW_ITEM_SECTION_PART, 7);
	end_section(8);
	stream_says("section 7 ends with byte 0x7e, id 8");
	begin_plain();
	gw_section_put_short(&w, GW_ITEM_SECTION_PART, 7);
	table(NULL);
	stream_says("second RAM block table");
}

static void beginnings_are_checked(void)
{
	begin(&plain);
	flush();
	file[3] = 'X';
	gw_reader_init_mem(&r, file, file_len);
	gw_stream_init(&s, &r, 0);
	CHECK(strstr(drain(), "not a QEMU stream"));
	file[3] = 'M';
	file[7] = 2;
	gw_reader_init_mem(&r, file, file_len);
	gw_stream_init(&s, &r, 0);
	CHECK(strstr(drain(), "QEMU stream of version 2"));
	file[7] = 3;
	file[8] = 1;
	gw_reader_init_mem(&r, file, file_len);
	gw_stream_init(&s, &r, 0);
	CHECK(strstr(drain(), "byte 0x01 where the configuration"));
	/* sticky */
	CHECK(gw_stream_next(&s, &ev) < 0 && gw_stream_next(&s, &ev) < 0);
}

static void configuration_says(const char *name, const void *p, size_t len,
			       const char *because)
{
	begin(&plain);
	gw_write_u8(&w, GW_ITEM_SUBSECTION);
	gw_write_cstr8(&w, name);
	gw_write_be32(&w, 1);
	gw_write_bytes(&w, p, len);
	gw_write_u8(&w, GW_ITEM_EOF);
	stream_says(because);
}

static void configurations_are_checked(void)
{
	static const char caps[] = "configuration/capabilities";

	configuration_says("configuration/x", "", 0, "unknown configuration subsection");
	configuration_says(caps, "\0\0\0\1\3xyz", 8, "unknown capability 'xyz'");
	configuration_says(caps, "\0\0\0\2\12mapped-ram\12mapped-ram", 26,
			   "capability 'mapped-ram' twice");
	configuration_says(caps, "\0\0\0\101", 4, "65 capabilities");
	configuration_says(caps, "\0\0\0\1\0", 5, "empty");
	configuration_says("configuration/target-page-bits", "\0\0\0\16", 4,
			   "target pages of 2^14");
	configuration_says("configuration/uuid", "0123456789", 10,
			   "the stream ends");
	file_len = 0;
	gw_writer_init(&w, to_file, NULL);
	gw_stream_put_header(&w);
	gw_write_u8(&w, GW_ITEM_CONFIGURATION);
	gw_write_be32(&w, 256);
	stream_says("the machine name is 256 bytes");
	file_len = 0;
	gw_stream_put_header(&w);
	gw_write_u8(&w, GW_ITEM_CONFIGURATION);
	gw_write_be32(&w, 2);
	gw_write_be16(&w, 0x6100);
	stream_says("a NUL inside the machine name");
}

static void commands_are_checked(void)
{
	for (unsigned int id = 0; id < 20; id++) {
		begin(&plain);
		gw_command_put(&w, (enum gw_command)id);
		gw_write_u8(&w, GW_ITEM_EOF);
		if (id == GW_CMD_OPEN_RETURN_PATH ||
		    id == GW_CMD_SWITCHOVER_START ||
		    id == GW_CMD_ENABLE_COLO) {
			reread();
			CHECK(!strcmp(drain(), ""));
			CHECK(s.colo == (id == GW_CMD_ENABLE_COLO));
		} else if (id == GW_CMD_PING) {
			stream_says("command 2 (PING) has 0 bytes instead of 4");
		} else {
			stream_says("is not part of a precopy stream");
			CHECK(strstr(r.err.msg, gw_command_name(id)));
		}
	}
	CHECK(!strcmp(gw_command_name(GW_CMD_PACKAGED), "PACKAGED"));
	CHECK(!strcmp(gw_command_name(12), "?"));
}

/* A PART with one record, of @kind for page @addr of "b". */
static void record_says(uint64_t header, const void *p, size_t len,
			const char *because)
{
	begin_plain();
	gw_section_put_short(&w, GW_ITEM_SECTION_PART, 7);
	gw_write_be64(&w, header);
	if (!(header & (GW_RAM_FLAG_CONTINUE | GW_RAM_FLAG_MULTIFD_FLUSH)))
		gw_write_cstr8(&w, "b");
	gw_write_bytes(&w, p, len);
	stream_says(because);
}

static void records_are_checked(void)
{
	record_says(0x1040, "\2\0\4aaaa", 7, "encoding 0x02");
	record_says(0x1040, "\1\x10\1", 3, "4097 bytes");
	record_says(0x1040, "\1\0\5aaaa", 7, "the stream ends");
	record_says(0x4040, "\1\0\1a", 4, "which has 16384 bytes");
	record_says(0x1060, "\1\0\1a", 4, "none was named before");
	record_says(0x1200, "", 0, "impossible flags");
	record_says(0x220, "", 0, "impossible flags");
	record_says(0x1048, "", 0, "impossible flags");
}

/* Cut anywhere: an error, which says so. */
static void cuts_are_noticed(void)
{
	uint8_t page[4096] = { 1 };
	struct gw_ram_encoder e = { 0 };
	const char *a = "a";
	size_t len;

	begin_plain();
	gw_section_put_short(&w, GW_ITEM_SECTION_PART, 7);
	gw_ram_put_page(&w, &e, a, 0, page);
	gw_ram_put_delta(&w, &e, a, 0x1000, "\0\1a", 3);
	end_section(7);
	gw_write_u8(&w, GW_ITEM_EOF);
	flush();
	len = file_len;
	for (size_t cut = 0; cut < len; cut++) {
		gw_reader_init_mem(&r, file, cut);
		gw_stream_init(&s, &r, 0);
		CHECK(strstr(drain(), "the stream ends"));
	}
	gw_reader_init_mem(&r, file, len);
	gw_stream_init(&s, &r, 0);
	CHECK(!strcmp(drain(), ""));
}

/* --- mapped-ram -------------------------------------------------------- */

static const struct gw_configuration mapped = { .machine = "pc",
						.mapped_ram = true };
static const struct gw_configuration both = { .machine = "pc",
					      .mapped_ram = true,
					      .ignore_shared = true };

static void pad_to(uint64_t offset)
{
	static const uint8_t zeros[4096];

	flush();
	while (file_len < offset) {
		gw_write_bytes(&w, zeros, offset - file_len < 4096 ?
						  offset - file_len : 4096);
		flush();
	}
}

/*
 * A mapped-ram file of two blocks, each 'a'.. or 'b'..., whose stream begins
 * at @base. @m: what was written.
 */
static void make_mapped(uint64_t base, struct gw_mapped_block m[2])
{
	static const uint64_t length[2] = { 16 * 4096, 4 * 4096 };
	static const char *const idstr[2] = { "a", "b" };

	file_len = 0;
	gw_writer_init(&w, to_file, NULL);
	pad_to(base);
	gw_stream_put_header(&w);
	gw_configuration_put(&w, &mapped);
	start(7);
	gw_ram_put_total(&w, 20 * 4096);
	for (int i = 0; i < 2; i++) {
		gw_ram_put_entry(&w, idstr[i], length[i], NULL);
		flush();
		m[i] = gw_mapped_layout(file_len, length[i]);
		gw_mapped_put(&w, &m[i]);
		flush();
		CHECK(file_len == m[i].bitmap_offset);
		pad_to(m[i].pages_offset);
		memset(file + file_len, idstr[i][0], length[i]);
		file_len += length[i];
	}
	end_section(7);
	gw_section_put_short(&w, GW_ITEM_SECTION_END, 7);
	end_section(7);
	gw_write_u8(&w, GW_ITEM_EOF);
	flush();
}

/* A file: small reads, and seeks where something is skipped. */
static size_t file_at;
static int seeks;

static ssize_t refill(void *arg, const struct iovec *iov, int niov,
		      struct gw_error *err)
{
	size_t n = file_len - file_at;

	n = n < iov[0].iov_len ? n : iov[0].iov_len;
	memcpy(iov[0].iov_base, file + file_at, n);
	file_at += n;
	return (ssize_t)n;
}

static int seek_file(void *arg, uint64_t len, struct gw_error *err)
{
	seeks++;
	if (len > file_len - file_at)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO, "beyond the end");
	file_at += len;
	return 0;
}

static void check_mapped(const struct gw_mapped_block m[2])
{
	CHECK(!strcmp(drain(), ""));
	CHECK(s.have_end && s.ram.table.n == 2);
	for (int i = 0; i < 2; i++) {
		const struct gw_mapped_block *got = &s.ram.table.entry[i].mapped;

		CHECK(got->bitmap_offset == m[i].bitmap_offset &&
		      got->pages_offset == m[i].pages_offset);
		CHECK(got->pages_offset % GW_MAPPED_ALIGN == 0);
		CHECK(file[got->pages_offset] == 'a' + i);
	}
}

static void mapped_files_come_back(void)
{
	static const uint64_t base[] = { 0, 1, 4711, 1 << 20 };
	struct gw_error err = { 0 };
	struct gw_mapped_block m[2];

	for (size_t i = 0; i < sizeof(base) / sizeof(base[0]); i++) {
		make_mapped(base[i], m);
		gw_reader_init_mem(&r, file + base[i], file_len - base[i]);
		gw_stream_init(&s, &r, base[i]);
		check_mapped(m);

		REQUIRE(!gw_reader_init(&r, refill, NULL, 64, &err));
		r.seek = seek_file;
		file_at = base[i];
		seeks = 0;
		gw_stream_init(&s, &r, base[i]);
		check_mapped(m);
		CHECK(seeks == 2);
		gw_reader_fini(&r);
	}
}

/* A shared block of QEMU 11: in the table, not in the file. */
static void ignored_blocks_are_not_there(void)
{
	struct gw_mapped_block none = { 0 };
	uint64_t mr_addr = 1;

	begin(&both);
	start(7);
	gw_ram_put_total(&w, 2 * 4096);
	gw_ram_put_entry(&w, "a", 4096, &mr_addr);
	gw_mapped_put(&w, &none);
	gw_ram_put_entry(&w, "b", 4096, &mr_addr);
	gw_mapped_put(&w, &none);
	end_section(7);
	gw_write_u8(&w, GW_ITEM_EOF);
	reread();
	CHECK(!strcmp(drain(), ""));
	CHECK(s.ram.table.n == 2 && !s.ram.table.entry[0].mapped.pages_offset);
	/* only with the capability */
	begin(&mapped);
	start(7);
	gw_ram_put_total(&w, 4096);
	gw_ram_put_entry(&w, "a", 4096, NULL);
	gw_mapped_put(&w, &none);
	end_section(7);
	stream_says("they must follow each other");
}

static int mapped_code(uint32_t version, uint64_t page, uint64_t bitmap,
		       uint64_t pages, uint64_t used_length)
{
	struct gw_mapped_block m;
	uint8_t b[28];

	gw_put_be32(b, version);
	gw_put_be64(b + 4, page);
	gw_put_be64(b + 12, bitmap);
	gw_put_be64(b + 20, pages);
	gw_reader_init_mem(&r, b, sizeof(b));
	return -gw_mapped_get(&r, 1000, used_length, false, &m);
}

static void mapped_headers_are_checked(void)
{
	uint64_t big = INT64_MAX & ~0xfffULL, len = 65 * 4096;

	CHECK(mapped_code(1, 4096, 1000, 4096, len) == 0);
	CHECK(mapped_code(1, 4096, 4080, 4096, len) == 0); /* 16 bytes: 65 bits */
	CHECK(mapped_code(1, 4096, 4081, 4096, len) == EPROTO);
	CHECK(mapped_code(1, 4096, 999, 4096, len) == EPROTO);
	CHECK(mapped_code(1, 4096, 1000, 4097, len) == EPROTO);
	CHECK(mapped_code(1, 4096, 1000, 0, len) == EPROTO);
	CHECK(mapped_code(1, 4096, 0, 0, len) == EPROTO);
	CHECK(mapped_code(1, 4096, 1000, big, len) == EPROTO);
	CHECK(mapped_code(1, 4096, 1000, big - len - 4096, len) == 0);
	CHECK(mapped_code(1, 4096, 1000, ~0xfffULL, len) == EPROTO);
	CHECK(mapped_code(1, 4096, ~0ULL, 4096, len) == EPROTO);
	CHECK(mapped_code(1, 4096, INT64_MAX - 8, 4096, len) == EPROTO);
	CHECK(mapped_code(2, 4096, 1000, 4096, len) == ENOTSUP);
	CHECK(mapped_code(0, 4096, 1000, 4096, len) == ENOTSUP);
	CHECK(mapped_code(1, 0, 1000, 4096, len) == ENOTSUP);
	CHECK(mapped_code(1, 16384, 1000, 16384, len) == ENOTSUP);
	CHECK(gw_mapped_bitmap_size(4096) == 8);
	CHECK(gw_mapped_bitmap_size(64 * 4096) == 8);
	CHECK(gw_mapped_bitmap_size(65 * 4096) == 16);
}

static void mapped_streams_have_no_records(void)
{
	static const uint64_t header[] = { 0x08, 0x02, 0x40, 0x200 };
	struct gw_mapped_block m[2];

	for (size_t i = 0; i < 4; i++) {
		make_mapped(0, m);
		file_len -= 1 + 5 + 8; /* before END's EOS */
		gw_write_be64(&w, header[i]);
		gw_write_cstr8(&w, "a");
		stream_says(header[i] == 0x200 ? "impossible flags" :
						 "a page record in a mapped-ram");
	}
}

/* --- real ones --------------------------------------------------------- */

struct counts {
	int page, zero, delta, flush;
	uint64_t hash; /* of all RAM */
};

/* A whole capture: walked, RAM put together. Return: fine? */
static bool walk(const uint8_t *b, size_t len, struct counts *c)
{
	static uint8_t *ram[GW_MAX_TABLE_BLOCKS];
	XXH3_state_t *h = XXH3_createState();
	bool fine = true;

	memset(c, 0, sizeof(*c));
	gw_reader_init_mem(&r, b, len);
	gw_stream_init(&s, &r, 0);
	do {
		uint8_t *p;

		fine = !gw_stream_next(&s, &ev);
		if (!fine)
			break;
		if (ev.kind == GW_STREAM_TABLE)
			for (int i = 0; i < s.ram.table.n; i++)
				ram[i] = calloc(1, s.ram.table.entry[i].used_length);
		c->flush += ev.kind == GW_STREAM_FLUSH;
		if (ev.kind != GW_STREAM_PAGE && ev.kind != GW_STREAM_ZERO &&
		    ev.kind != GW_STREAM_DELTA)
			continue;
		p = ram[ev.block] + ev.addr;
		c->page += ev.kind == GW_STREAM_PAGE;
		c->zero += ev.kind == GW_STREAM_ZERO;
		c->delta += ev.kind == GW_STREAM_DELTA;
		if (ev.kind == GW_STREAM_PAGE)
			gw_read_bytes(&r, p, GW_PAGE_SIZE);
		else if (ev.kind == GW_STREAM_ZERO)
			memset(p, 0, GW_PAGE_SIZE);
		else
			fine = !gw_xbzrle_decode(ev.delta, ev.delta_len, p);
	} while (fine && ev.kind != GW_STREAM_TAIL);
	if (r.err.code)
		printf("%s\n", r.err.msg);
	XXH3_64bits_reset(h);
	for (int i = 0; i < s.ram.table.n; i++) {
		if (s.ram.table.entry[i].mapped.pages_offset)
			memcpy(ram[i], b + s.ram.table.entry[i].mapped.pages_offset,
			       s.ram.table.entry[i].used_length);
		XXH3_64bits_update(h, ram[i], s.ram.table.entry[i].used_length);
		free(ram[i]);
	}
	c->hash = XXH3_64bits_digest(h);
	XXH3_freeState(h);
	return fine && !gw_read_failed(&r);
}

static void goldens_are_walked(void)
{
	static const struct {
		const char *name;
		int zero, flush, parts;
		bool shared;
	} g[] = {
		{ "none-7.2.devstream", 0, 0, 0, true },
		{ "none-10.0.devstream", 0, 0, 0, true },
		{ "none-11.1.devstream", 0, 0, 0, true },
		{ "multifd-none-7.2.main", 249, 0, 1, false },
		{ "multifd-zstd-10.0.main", 0, 3, 1, false },
		{ "multifd-zlib-11.1.main", 0, 3, 1, false },
	};

	for (size_t i = 0; i < sizeof(g) / sizeof(g[0]); i++) {
		struct counts c;
		size_t len;
		uint8_t *b = test_golden(g[i].name, &len);

		CHECK(walk(b, len, &c));
		CHECK(!strcmp(s.config.machine, "none"));
		CHECK(s.config.ignore_shared == g[i].shared &&
		      s.return_path == g[i].shared);
		if (c.zero != g[i].zero || c.flush != g[i].flush ||
		    (int)s.nparts != g[i].parts)
			printf("%s: %d %d %u\n", g[i].name, c.zero, c.flush,
			       s.nparts);
		CHECK(c.zero == g[i].zero && c.flush == g[i].flush &&
		      (int)s.nparts == g[i].parts && !c.page && !c.delta);
		CHECK(s.have_end && s.ram.table.n == 1);
		free(b);
	}
}

/* Counts and hashes are those of another implementation of the format. */
static void captures_are_walked(void)
{
	static const struct {
		const char *name;
		int page, zero, delta;
		uint64_t hash;
	} g[] = {
		{ "none_0.mig", 0, 0, 0,
		  0x2d06800538d394c2 },
		{ "none_4m.mig", 0, 1024, 0,
		  0x165f453a5f35c459 },
		{ "plain_pc_8m.mig", 24, 2106, 0,
		  0x098a0cffb28d0b0b },
		{ "xbzrle_pc_8m.mig", 129, 2163, 1491,
		  0x77328aeec07bdf4c },
		{ "xbzrle_smallcache.mig", 157, 2163, 1937,
		  0xcb3eef4478a3bad1 },
		{ "microvm_8m.mig", 28, 2055, 0,
		  0x0aa94c9532b1d654 },
		{ "rp_main.mig", 43, 2106, 0,
		  0xa4e94bb1f67ca894 },
		{ "bgsnap.mig", 24, 2106, 0,
		  0x2c940b27c06ba2f9 },
		{ "ignore_shared.mig", 6, 76, 0,
		  0 /* most RAM is not in it */ },
		{ "mapped_pc_8m.mig.gz", 0, 0, 0,
		  0xf11bca3283ac2814 },
	};
	const char *folder = test_vectors();

	if (!folder)
		SKIP("GW_TEST_VECTORS names no folder of captures");
	for (size_t i = 0; i < sizeof(g) / sizeof(g[0]); i++) {
		struct counts c;
		size_t len;
		uint8_t *b = test_load(folder, g[i].name, &len);

		REQUIRE(b);
		CHECK(walk(b, len, &c));
		printf("%s: %d %d %d %016" PRIx64 "\n", g[i].name, c.page,
		       c.zero, c.delta, c.hash);
		CHECK(c.page == g[i].page && c.zero == g[i].zero &&
		      c.delta == g[i].delta);
		CHECK(!g[i].hash || c.hash == g[i].hash);
		free(b);
	}
}

int main(void)
{
	RUN(streams_come_back);
	RUN(delta_bytes_are_qemus);
	RUN(configurations_come_back);
	RUN(configuration_bytes_are_qemus);
	RUN(ignore_shared_has_addresses);
	RUN(order_is_checked);
	RUN(beginnings_are_checked);
	RUN(configurations_are_checked);
	RUN(commands_are_checked);
	RUN(records_are_checked);
	RUN(cuts_are_noticed);
	RUN(mapped_files_come_back);
	RUN(ignored_blocks_are_not_there);
	RUN(mapped_headers_are_checked);
	RUN(mapped_streams_have_no_records);
	RUN(goldens_are_walked);
	RUN(captures_are_walked);
	return test_done();
}
