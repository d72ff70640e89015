/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * image_test.c - stored VMs: streams with every kind of record and mapped-ram
 * files, made here beside a plain model of the memory; what is no image; and
 * both kinds cut and flipped in thousands of places.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "image/diff.h"
#include "image/file.h"
#include "image/info.h"
#include "image/libvirt.h"
#include "image/verify.h"
#include "wire/section.h"

#if defined(__SANITIZE_ADDRESS__)
#define SLOW 5 /* times fewer rounds */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SLOW 5
#endif
#endif
#ifndef SLOW
#define SLOW 1
#endif

#define RAM_PAGES 1300 /* more than two chunks of the index */
#define ROM_PAGES 8
#define NBLOCKS	  2

static const char *const names[NBLOCKS] = { "pc.ram", "pc.rom" };
static const uint64_t lengths[NBLOCKS] = { RAM_PAGES * 4096, ROM_PAGES * 4096 };

/* What the memory is, and whether a record for a page was written. */
static uint8_t model[NBLOCKS][RAM_PAGES * 4096];
static bool seen[NBLOCKS][RAM_PAGES];
static uint64_t seed;

struct file {
	int fd;
	uint64_t base; /* where the stream begins */
	uint64_t pos;
	uint64_t tail; /* where device state begins */
	uint64_t eof;  /* behind EOF: a stream may end there, too */
	bool colo;     /* ENABLE_COLO instead of a return path */
	struct gw_writer w;
	struct gw_ram_encoder e;
	char path[32];
};

static int to_file(void *arg, struct iovec *iov, int niov,
		   struct gw_error *err)
{
	struct file *f = arg;
	ssize_t n = pwritev(f->fd, iov, niov, (off_t)f->pos);

	if (n < 0)
		return gw_fail_errno(err, errno, "memfd");
	f->pos += (uint64_t)n;
	return 0;
}

static void flush(struct file *f)
{
	struct gw_error err = { 0 };

	CHECK_OK(gw_write_flush(&f->w, &err), &err);
}

static void new_file(struct file *f, uint64_t base)
{
	memset(f, 0, sizeof(*f));
	f->fd = memfd_create("image", MFD_CLOEXEC);
	CHECK(f->fd >= 0);
	f->base = f->pos = base;
	gw_writer_init(&f->w, to_file, f);
	snprintf(f->path, sizeof(f->path), "/proc/self/fd/%d", f->fd);
}

static uint8_t *at(int b, uint64_t page)
{
	return model[b] + page * 4096;
}

static bool is_zero(const uint8_t *p)
{
	for (int i = 0; i < 4096; i++)
		if (p[i])
			return false;
	return true;
}

/* --- a stream ----------------------------------------------------------- */

static void put_page(struct file *f, int b, uint64_t page)
{
	uint8_t *p = at(b, page);

	for (int i = 0; i < 4096; i += 8) {
		uint64_t v = test_rand(&seed);

		memcpy(p + i, &v, 8);
	}
	gw_ram_put_page(&f->w, &f->e, names[b], page * 4096, p);
	flush(f);
	seen[b][page] = true;
}

static void put_zero(struct file *f, int b, uint64_t page)
{
	memset(at(b, page), 0, 4096);
	gw_ram_put_zero(&f->w, &f->e, names[b], page * 4096);
	seen[b][page] = true;
}

static uint32_t put_uleb(uint8_t *p, uint32_t v)
{
	if (v < 128) {
		*p = (uint8_t)v;
		return 1;
	}
	p[0] = (uint8_t)(v | 0x80);
	p[1] = (uint8_t)(v >> 7);
	return 2;
}

/* The delta between two pages, by the obvious encoder. */
static uint16_t encode(const uint8_t *a, const uint8_t *b, uint8_t *to)
{
	uint32_t i = 0, n = 0;

	for (;;) {
		uint32_t start = i, changed;

		while (i < 4096 && a[i] == b[i])
			i++;
		if (i == 4096)
			return (uint16_t)n;
		n += put_uleb(to + n, i - start);
		changed = i;
		while (i < 4096 && a[i] != b[i])
			i++;
		n += put_uleb(to + n, i - changed);
		memcpy(to + n, b + changed, i - changed);
		n += i - changed;
	}
}

static void put_delta(struct file *f, int b, uint64_t page)
{
	uint8_t delta[3 * 4096], was[4096], *p = at(b, page);
	uint16_t len;

	memcpy(was, p, 4096);
	for (int i = 0; i < 5; i++)
		p[test_rand(&seed) % 4096] ^= (uint8_t)(1 + i);
	len = encode(was, p, delta);
	CHECK(gw_diff_delta(was, p) == len);
	gw_ram_put_delta(&f->w, &f->e, names[b], page * 4096, delta, len);
	CHECK(!gw_write_flush(&f->w, NULL)); /* it refers to our delta */
	seen[b][page] = true;
}

static const char json[] =
	"{\"page_size\": 4096, \"devices\": ["
	"{\"name\": \"timer\", \"instance_id\": 0, \"vmsd_name\": \"timer\", \"version\": 2, "
	"\"fields\": [{\"name\": \"t\", \"type\": \"int64\", \"array_len\": 3, \"size\": 8}]}, "
	"{\"name\": \"dma\", \"instance_id\": 1, \"vmsd_name\": \"dma\", \"version\": 1, "
	"\"fields\": [{\"name\": \"d\", \"type\": \"buffer\", \"size\": 75}]}]}";

static void put_device(struct file *f, uint32_t id, const char *name,
		       uint32_t instance, uint32_t version, size_t size,
		       uint8_t fill)
{
	struct gw_section s = { .id = id,
				.instance_id = instance,
				.version_id = version };

	snprintf(s.idstr, sizeof(s.idstr), "%s", name);
	gw_section_put_long(&f->w, GW_ITEM_SECTION_FULL, &s);
	for (size_t i = 0; i < size; i++)
		gw_write_u8(&f->w, fill);
	gw_section_put_footer(&f->w, id);
}

static void put_tail(struct file *f, uint8_t fill)
{
	flush(f);
	f->tail = f->pos;
	put_device(f, 0, "timer", 0, 2, 24, 0x11);
	put_device(f, 9, "dma", 1, 1, 75, fill);
	gw_write_u8(&f->w, GW_ITEM_EOF);
	flush(f);
	f->eof = f->pos;
	gw_write_u8(&f->w, GW_ITEM_VMDESCRIPTION);
	gw_write_be32(&f->w, sizeof(json) - 1);
	gw_write_bytes(&f->w, json, sizeof(json) - 1);
	flush(f);
}

static void put_head(struct file *f, bool mapped, bool ignore_shared)
{
	struct gw_section ram = { .id = 2, .version_id = GW_RAM_VERSION };
	struct gw_configuration c = { .machine = "pc-q35-9.2",
				      .mapped_ram = mapped,
				      .ignore_shared = ignore_shared,
				      .have_uuid = true,
				      .uuid = { 1, 2, 3 } };

	strcpy(ram.idstr, "ram");
	gw_stream_put_header(&f->w);
	gw_configuration_put(&f->w, &c);
	if (!mapped && !f->colo)
		gw_command_put(&f->w, GW_CMD_OPEN_RETURN_PATH);
	if (f->colo)
		gw_command_put(&f->w, GW_CMD_ENABLE_COLO);
	gw_section_put_long(&f->w, GW_ITEM_SECTION_START, &ram);
	gw_ram_put_total(&f->w, lengths[0] + lengths[1]);
}

static void put_end(struct file *f)
{
	gw_ram_put_eos(&f->w);
	gw_section_put_footer(&f->w, 2);
}

static void put_bulk(struct file *f)
{
	gw_section_put_short(&f->w, GW_ITEM_SECTION_PART, 2);
	for (uint64_t p = 0; p < 24; p++)
		if (p % 3)
			put_page(f, 0, p);
		else
			put_zero(f, 0, p);
	for (uint64_t p = 0; p < ROM_PAGES; p++)
		if (p & 1)
			put_page(f, 1, p);
		else
			put_zero(f, 1, p);
	for (uint64_t p = 510; p < 515; p++)
		put_page(f, 0, p);
	put_page(f, 0, RAM_PAGES - 1);
	put_end(f);
}

/* 8 deltas, 2 pages, 1 zero: chains, chains that end, the oddest bases. */
static void put_changes(struct file *f)
{
	gw_section_put_short(&f->w, GW_ITEM_SECTION_PART, 2);
	put_delta(f, 0, 1);
	put_delta(f, 0, 2);
	put_delta(f, 0, 3);   /* was zero */
	put_delta(f, 0, 700); /* was never there */
	put_delta(f, 0, 2);
	put_delta(f, 0, 4);
	put_page(f, 0, 4); /* forgets the delta */
	put_delta(f, 0, 5);
	put_zero(f, 0, 5);
	put_page(f, 0, 7);
	put_delta(f, 0, 2);
	put_end(f);
}

/*
 * What a primary of QEMU's COLO says at a checkpoint: CHECKPOINT_REQUEST,
 * VMSTATE_SEND, changed pages in an END without START, EOF, VMSTATE_SIZE and
 * so many bytes of device state (FORMAT.md, section 7).
 */
static void put_checkpoint(struct file *f)
{
	uint8_t p[4096] = "page of a checkpoint";

	gw_write_be32(&f->w, 1);
	gw_write_be32(&f->w, 3);
	gw_section_put_short(&f->w, GW_ITEM_SECTION_END, 2);
	f->e = (struct gw_ram_encoder){ 0 };
	gw_ram_put_page(&f->w, &f->e, names[0], 4096, p);
	put_end(f);
	gw_write_u8(&f->w, GW_ITEM_EOF);
	gw_write_be32(&f->w, 4);
	gw_write_be64(&f->w, 100);
	put_device(f, 9, "dma", 1, 1, 75, 0x33);
	gw_write_u8(&f->w, GW_ITEM_EOF);
	flush(f);
}

static void put_stream(struct file *f)
{
	memset(model, 0, sizeof(model));
	memset(seen, 0, sizeof(seen));
	put_head(f, false, false);
	for (int b = 0; b < NBLOCKS; b++)
		gw_ram_put_entry(&f->w, names[b], lengths[b], NULL);
	put_end(f);
	put_bulk(f);
	put_changes(f);
	gw_command_put(&f->w, GW_CMD_SWITCHOVER_START);
	gw_section_put_short(&f->w, GW_ITEM_SECTION_END, 2);
	put_end(f);
	put_tail(f, 0x22);
}

static void make_stream(struct file *f, uint64_t base)
{
	new_file(f, base);
	put_stream(f);
}

static void make_colo(struct file *f)
{
	new_file(f, 0);
	f->colo = true;
	put_stream(f);
}

/* --- a mapped-ram file -------------------------------------------------- */

struct mapped {
	struct file f;
	struct gw_mapped_block block[NBLOCKS];
};

/* Pages and bitmap of a block, from the model. */
static void put_block(struct mapped *m, int b, bool mark)
{
	uint8_t bitmap[RAM_PAGES / 8 + 8] = { 0 };
	const struct gw_mapped_block *at_ = &m->block[b];

	for (uint64_t p = 0; p < lengths[b] / 4096; p++) {
		if (is_zero(at(b, p)))
			continue;
		bitmap[p / 8] |= (uint8_t)(1u << p % 8);
		CHECK(pwrite(m->f.fd, at(b, p), 4096,
			     (off_t)(at_->pages_offset + p * 4096)) == 4096);
	}
	if (mark)
		CHECK(pwrite(m->f.fd, bitmap, gw_mapped_bitmap_size(lengths[b]),
			     (off_t)at_->bitmap_offset) > 0);
}

struct mapped_options {
	uint64_t base;
	bool outside; /* pc.ram is in another file */
	bool no_end, no_marks, no_pages;
};

static void make_mapped(struct mapped *m, const struct mapped_options *o)
{
	struct file *f = &m->f;
	uint64_t mr_addr = 0xc0000;

	memset(m, 0, sizeof(*m));
	new_file(f, o->base);
	put_head(f, true, o->outside);
	for (int b = 0; b < NBLOCKS; b++) {
		gw_ram_put_entry(&f->w, names[b], lengths[b],
				 o->outside ? &mr_addr : NULL);
		flush(f);
		if (!o->outside || b)
			m->block[b] = gw_mapped_layout(f->pos, lengths[b]);
		gw_mapped_put(&f->w, &m->block[b]);
		flush(f);
		if (!m->block[b].pages_offset)
			continue;
		if (!o->no_pages)
			put_block(m, b, !o->no_marks);
		f->pos = m->block[b].pages_offset + lengths[b];
	}
	put_end(f);
	if (!o->no_end) {
		gw_section_put_short(&f->w, GW_ITEM_SECTION_END, 2);
		put_end(f);
	}
	put_tail(f, 0x22);
}

/* --- the image against the model ---------------------------------------- */

/* Pages of block @b that differ from the model, read as @n at a time. */
static uint64_t differing(struct gw_image *img, int b, uint32_t n,
			  struct gw_error *err)
{
	static uint8_t buf[RAM_PAGES * 4096];
	uint64_t all = gw_image_npages(img, b), bad = 0;

	for (uint64_t p = 0; p < all; p += n) {
		uint32_t len = all - p < n ? (uint32_t)(all - p) : n;

		if (gw_image_read(img, b, p, len, buf, err))
			return UINT64_MAX;
		for (uint32_t i = 0; i < len; i++)
			bad += memcmp(buf + (size_t)i * 4096, at(b, p + i),
				      4096) != 0;
	}
	return bad;
}

static void check_same(struct gw_image *img)
{
	static const uint32_t steps[] = { 1, 7, 64, 513, RAM_PAGES };
	struct gw_error err = { 0 };

	for (int b = 0; b < NBLOCKS; b++)
		for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++)
			CHECK(differing(img, b, steps[i], &err) == 0);
	CHECK(!err.code);
}

/* The same answer by runs as page by page, and what the model says. */
static void check_states(struct gw_image *img, bool mapped)
{
	uint64_t count[3] = { 0 }, got[3], n, run = 0;

	for (int b = 0; b < NBLOCKS; b++) {
		uint64_t all = gw_image_npages(img, b);

		for (uint64_t p = 0; p < all; p++) {
			enum gw_page_state s, want;

			s = img->ops->state(img, b, p, all - p, &n);
			CHECK(n >= 1 && n <= all - p);
			CHECK(!run || n == run - 1);
			run = n == 1 ? 0 : n;
			want = mapped ? (is_zero(at(b, p)) ? GW_PAGE_ABSENT :
							     GW_PAGE_DATA) :
			       !seen[b][p]	? GW_PAGE_ABSENT :
			       is_zero(at(b, p)) ? GW_PAGE_ZERO :
						   GW_PAGE_DATA;
			CHECK(s == want);
			count[s]++;
			s = img->ops->state(img, b, p, 1, &n);
			CHECK(n == 1 && s == want);
		}
	}
	gw_image_count(img, -1, got);
	CHECK(!memcmp(count, got, sizeof(got)));
}

static struct gw_image *open_ok(const char *path)
{
	struct gw_error err = { 0 };
	struct gw_image *img = gw_image_open(path, NULL, &err);

	if (!img)
		fprintf(stderr, "%s\n", err.msg);
	CHECK(img != NULL);
	return img;
}

static int verify(struct gw_image *img, unsigned int threads,
		  struct gw_error *err)
{
	struct gw_image_verify v = { .img = img, .threads = threads };

	return gw_image_verify(&v, err);
}

static void stream_reads_as_its_last_records_say(void)
{
	struct gw_error err = { 0 };
	struct gw_image *img;
	struct file f;

	make_stream(&f, 0);
	img = open_ok(f.path);
	REQUIRE(img);
	CHECK(!strcmp(img->format, "stream") && !img->libvirt && !img->base);
	CHECK(img->have_end && img->return_path && img->switchover);
	CHECK(!strcmp(img->desc.config.machine, "pc-q35-9.2"));
	CHECK(img->desc.config.uuid[1] == 2 && img->size == f.pos);
	CHECK(img->tail_len == f.pos - f.tail && img->vmdesc &&
	      img->vmdesc_len == sizeof(json) - 1);
	check_states(img, false);
	check_same(img);
	CHECK_OK(verify(img, 4, &err), &err);
	gw_image_close(img);
	close(f.fd);
}

static void stream_sections_are_counted(void)
{
	static struct gw_image_info info;
	const struct gw_image_pass *p;
	struct gw_image *img;
	struct file f;

	make_stream(&f, 0);
	img = open_ok(f.path);
	REQUIRE(img);
	p = img->pass;
	CHECK(img->npasses == 4);
	CHECK(p[0].item == GW_ITEM_SECTION_START && !p[0].normal);
	CHECK(p[1].item == GW_ITEM_SECTION_PART && p[1].normal == 26 &&
	      p[1].zero == 12 && !p[1].delta && p[1].nbytes > 26 * 4096);
	CHECK(p[2].normal == 2 && p[2].zero == 1 && p[2].delta == 8);
	CHECK(p[3].item == GW_ITEM_SECTION_END && !p[3].delta);
	gw_image_info(img, &info);
	CHECK(info.records.delta == 8 && info.records.normal == 28);
	CHECK(info.devices.n == 2 && !strcmp(info.devices.section[1].idstr,
					     "dma"));
	CHECK(info.devices.section[1].size == 75);
	CHECK(!*info.trouble && !*info.device_trouble);
	CHECK(info.qemu_major == 10 && !info.qemu_minor); /* SWITCHOVER */
	CHECK(info.ram_bytes + info.device_bytes + info.vmdesc_bytes == f.pos);
	gw_image_info_fini(&info);
	gw_image_close(img);
	close(f.fd);
}

/* The first migration of it is read; its checkpoints are not mixed in. */
static void what_a_colo_primary_sent_is_recognised(void)
{
	static struct gw_image_info info;
	struct gw_error err = { 0 };
	struct gw_image *img;
	uint64_t first;
	struct file f;

	for (int checkpoints = 0; checkpoints < 3; checkpoints++) {
		make_colo(&f);
		first = f.pos;
		for (int i = 0; i < checkpoints; i++)
			put_checkpoint(&f);
		img = open_ok(f.path);
		REQUIRE(img);
		CHECK(img->colo && img->have_end && !img->return_path);
		CHECK(img->colo_bytes == f.pos - first);
		CHECK(img->tail_len == first - f.tail &&
		      img->vmdesc_len == sizeof(json) - 1);
		check_states(img, false);
		check_same(img);
		CHECK_OK(verify(img, 2, &err), &err);
		gw_image_info(img, &info);
		CHECK(!*info.trouble && !*info.device_trouble);
		CHECK(info.ram_bytes + info.device_bytes + info.vmdesc_bytes ==
		      first);
		gw_image_info_fini(&info);
		gw_image_close(img);
		close(f.fd);
	}
}

/* Without the command all of it is device state; with it the first migration
 * has to be whole. */
static void only_with_its_command_it_is_colo(void)
{
	struct gw_error err = { 0 };
	struct gw_image *img;
	struct file f;

	make_stream(&f, 0);
	put_checkpoint(&f);
	img = open_ok(f.path); /* one that ends with EOF has no description */
	REQUIRE(img);
	CHECK(!img->colo && !img->colo_bytes && !img->vmdesc);
	CHECK(img->tail_len == f.pos - f.tail);
	gw_image_close(img);
	close(f.fd);
	make_colo(&f);
	CHECK(!ftruncate(f.fd, (off_t)f.pos - 1));
	err.code = 0;
	CHECK(!gw_image_open(f.path, NULL, &err));
	CHECK(err.fault == GW_FAULT_INPUT && strstr(err.msg, "cut short"));
	close(f.fd);
}

static void mapped_file_reads_as_the_model(void)
{
	static const struct mapped_options o;
	static struct gw_image_info info;
	struct gw_error err = { 0 };
	struct gw_image *img;
	struct file stream;
	struct mapped m;

	make_stream(&stream, 0); /* for a model */
	make_mapped(&m, &o);
	img = open_ok(m.f.path);
	REQUIRE(img);
	CHECK(!strcmp(img->format, "mapped-ram") && !img->switchover);
	check_states(img, true);
	check_same(img);
	CHECK_OK(verify(img, 3, &err), &err);
	gw_image_info(img, &info);
	CHECK(info.qemu_major == 9 && info.qemu_minor == 2); /* the machine's */
	CHECK(info.block[0].longest == 5 && info.all.nruns > 5);
	gw_image_info_fini(&info);
	gw_image_close(img);
	close(stream.fd);
	close(m.f.fd);
}

/* --- where a stream may begin ------------------------------------------- */

static void put_libvirt(int fd, const char *magic, uint32_t version,
			uint32_t data_len, uint32_t format, bool swapped)
{
	uint8_t h[GW_LIBVIRT_HEADER_SIZE] = { 0 };
	uint32_t word[5] = { version, data_len, 1, format, 0 };

	memcpy(h, magic, 16);
	for (int i = 0; i < 5 && swapped; i++)
		word[i] = __builtin_bswap32(word[i]);
	memcpy(h + 16, word, sizeof(word));
	CHECK(pwrite(fd, h, sizeof(h), 0) == sizeof(h));
}

static void check_at(const char *path, uint64_t base, bool libvirt)
{
	struct gw_error err = { 0 };
	struct gw_image *img = open_ok(path);

	REQUIRE(img);
	CHECK(img->base == base && img->libvirt == libvirt);
	check_same(img);
	CHECK_OK(verify(img, 2, &err), &err);
	gw_image_close(img);
}

static void streams_begin_anywhere(void)
{
	struct mapped_options o = { .base = 4100 };
	struct mapped m;
	struct file f;
	char uri[64];

	make_stream(&f, 512);
	snprintf(uri, sizeof(uri), "file:%s,offset=512", f.path);
	check_at(uri, 512, false);
	make_mapped(&m, &o);
	snprintf(uri, sizeof(uri), "file:%s,offset=4100", m.f.path);
	check_at(uri, 4100, false);
	close(f.fd);
	close(m.f.fd);
}

static void libvirt_saves_are_read(void)
{
	struct mapped_options o = { .base = 8192 };
	struct mapped m;
	struct file f;

	for (int swapped = 0; swapped < 2; swapped++) {
		make_stream(&f, 92 + 1000);
		put_libvirt(f.fd, "LibvirtQemudSave", 2, 1000, 0, swapped);
		check_at(f.path, 1092, true);
		close(f.fd);
	}
	make_stream(&f, 0); /* for a model */
	make_mapped(&m, &o);
	put_libvirt(m.f.fd, "LibvirtQemudSave", 3, 8192 - 92, 6, false);
	check_at(m.f.path, 8192, true);
	/* the stream stands on the next page */
	put_libvirt(m.f.fd, "LibvirtQemudSave", 3, 5000, 6, false);
	check_at(m.f.path, 8192, true);
	close(f.fd);
	close(m.f.fd);
}

struct pipe_job {
	int to;
	const struct file *f;
};

static void *write_all(void *arg)
{
	struct pipe_job *j = arg;
	uint8_t buf[10000];
	uint64_t pos = 0;
	ssize_t n;

	while ((n = pread(j->f->fd, buf, sizeof(buf), (off_t)pos)) > 0) {
		for (ssize_t done = 0, w; done < n; done += w)
			if ((w = write(j->to, buf + done,
				       (size_t)(n - done))) < 0)
				return NULL;
		pos += (uint64_t)n;
	}
	close(j->to);
	return NULL;
}

static void standard_input_is_read(void)
{
	static const struct mapped_options o;
	struct pipe_job job;
	pthread_t thread;
	struct mapped m;
	struct file f;
	int old, p[2];

	old = dup(STDIN_FILENO);
	make_stream(&f, 300);
	REQUIRE(dup2(f.fd, STDIN_FILENO) == STDIN_FILENO);
	CHECK(lseek(STDIN_FILENO, 300, SEEK_SET) == 300);
	check_at("-", 300, false); /* a file: where it stands */
	make_mapped(&m, &o);
	REQUIRE(!pipe(p));
	REQUIRE(dup2(p[0], STDIN_FILENO) == STDIN_FILENO);
	close(p[0]);
	job = (struct pipe_job){ p[1], &m.f };
	pthread_create(&thread, NULL, write_all, &job);
	check_at("-", 0, false); /* a pipe: kept meanwhile */
	pthread_join(thread, NULL);
	dup2(old, STDIN_FILENO);
	close(old);
	close(f.fd);
	close(m.f.fd);
}

/* --- what is refused, and how ------------------------------------------- */

/* Opening @path fails as damaged input and says all of @words. */
static void refused(const char *path, const char *const words[])
{
	struct gw_error err = { 0 };
	struct gw_image *img = gw_image_open(path, NULL, &err);

	CHECK(!img);
	CHECK(err.fault == GW_FAULT_INPUT);
	for (int i = 0; words[i]; i++) {
		if (!strstr(err.msg, words[i]))
			fprintf(stderr, "no '%s' in: %s\n", words[i], err.msg);
		CHECK(strstr(err.msg, words[i]));
	}
	gw_image_close(img);
}
#define REFUSED(path, ...) \
	refused(path, (const char *const[]){ __VA_ARGS__, NULL })

static void bytes_are(struct file *f, const void *p, size_t len)
{
	CHECK(!ftruncate(f->fd, 0));
	CHECK(pwrite(f->fd, p, len, 0) == (ssize_t)len);
}

static void other_files_are_named(void)
{
	struct file f;
	char offset[32];

	new_file(&f, 0);
	REFUSED(f.path, "empty");
	bytes_are(&f, "\x7f" "ELF\2\1\1\0\0\0\0\0", 12);
	REFUSED(f.path, "ELF");
	bytes_are(&f, "QFI\xfb\0\0\0\3", 8);
	REFUSED(f.path, "qcow2");
	bytes_are(&f, "\x1f\x8b\x08\0\0\0\0\0", 8);
	REFUSED(f.path, "gzip -dc");
	bytes_are(&f, "\x28\xb5\x2f\xfd\0\0\0\0", 8);
	REFUSED(f.path, "zstd -dc");
	bytes_are(&f, "\xfd" "7zXZ\0\0\0", 8);
	REFUSED(f.path, "xz -dc");
	bytes_are(&f, "\x11\x22\x33\x44\0\0\0\1", 8);
	REFUSED(f.path, "multifd");
	bytes_are(&f, "hello, world", 12);
	REFUSED(f.path, "neither", "68 65 6c 6c");
	bytes_are(&f, "QEVM\0\0\0\2\0\0\0\0", 12);
	REFUSED(f.path, "version 2");
	close(f.fd);
	make_stream(&f, 1234);
	snprintf(offset, sizeof(offset), "offset=%d", 1234);
	REFUSED(f.path, offset);
	close(f.fd);
}

static void libvirt_saves_are_refused_by_name(void)
{
	struct file f;

	make_stream(&f, 1092);
	put_libvirt(f.fd, "LibvirtQemudPart", 2, 1000, 0, false);
	REFUSED(f.path, "unfinished");
	put_libvirt(f.fd, "LibvirtQemudSave", 2, 1000, 5, false);
	REFUSED(f.path, "zstd -dc", "tail -c +1093");
	put_libvirt(f.fd, "LibvirtQemudSave", 2, 1000, 4, false);
	REFUSED(f.path, "lzop");
	put_libvirt(f.fd, "LibvirtQemudSave", 2, 1000, 7, false);
	REFUSED(f.path, "format 7");
	put_libvirt(f.fd, "LibvirtQemudSave", 4, 1000, 0, false);
	REFUSED(f.path, "version 4");
	put_libvirt(f.fd, "LibvirtQemudSave", 2, 0xfffffff0, 0, false);
	REFUSED(f.path, "XML");
	put_libvirt(f.fd, "LibvirtQemudSave", 2, 900, 0, false);
	CHECK(pwrite(f.fd, "x", 1, 1000) == 1);
	REFUSED(f.path, "no QEMU stream at byte 992");
	CHECK(!ftruncate(f.fd, 50));
	REFUSED(f.path, "cut after 50");
	close(f.fd);
}

static void damage_is_located(void)
{
	struct file f;
	char byte[32];

	make_stream(&f, 0);
	CHECK(pwrite(f.fd, "x", 1, (off_t)f.pos) == 1);
	REFUSED(f.path, "device sections", "byte");
	close(f.fd);

	make_stream(&f, 0);
	CHECK(!ftruncate(f.fd, (off_t)f.tail - 6)); /* in END's EOS */
	REFUSED(f.path, "section ram END", "ends at byte");
	CHECK(!ftruncate(f.fd, 20000)); /* in a page of the first pass */
	REFUSED(f.path, "PART 1", "'pc.ram'", "ends at byte 20000");
	close(f.fd);

	/* a delta with an empty changed run */
	new_file(&f, 0);
	put_head(&f, false, false);
	for (int b = 0; b < NBLOCKS; b++)
		gw_ram_put_entry(&f.w, names[b], lengths[b], NULL);
	put_end(&f);
	gw_section_put_short(&f.w, GW_ITEM_SECTION_PART, 2);
	gw_ram_put_delta(&f.w, &f.e, names[0], 0x5000, "\5\0", 2);
	put_end(&f);
	put_tail(&f, 0);
	snprintf(byte, sizeof(byte), "0x%x", 0x5000);
	REFUSED(f.path, "XBZRLE", "PART 1", byte);
	close(f.fd);
}

static void multifd_main_connections_are_named(void)
{
	struct gw_error err = { 0 };
	struct gw_image *img;
	struct file f;

	for (int flushes = 0; flushes < 2; flushes++) {
		new_file(&f, 0);
		put_head(&f, false, false);
		for (int b = 0; b < NBLOCKS; b++)
			gw_ram_put_entry(&f.w, names[b], lengths[b], NULL);
		if (flushes)
			gw_write_be64(&f.w, GW_RAM_FLAG_MULTIFD_FLUSH);
		put_end(&f);
		put_tail(&f, 0);
		if (flushes) {
			REFUSED(f.path, "multifd");
		} else {
			img = open_ok(f.path);
			REQUIRE(img);
			CHECK(gw_image_usable(img, &err) < 0 &&
			      err.fault == GW_FAULT_INPUT &&
			      strstr(err.msg, "multifd"));
			gw_image_close(img);
		}
		close(f.fd);
	}
}

static void mapped_damage_is_named(void)
{
	static const struct mapped_options o;
	uint8_t be[8], bits = 0x10;
	struct mapped m;
	struct file f;

	make_stream(&f, 0); /* for a model */
	close(f.fd);
	make_mapped(&m, &o); /* page 1300 is bit 4 of byte 162 */
	CHECK(pwrite(m.f.fd, &bits, 1,
		     (off_t)m.block[0].bitmap_offset + RAM_PAGES / 8) == 1);
	REFUSED(m.f.path, "bits beyond", "'pc.ram'", "1300");
	close(m.f.fd);

	make_mapped(&m, &o); /* pages where the bitmap is */
	gw_put_be64(be, m.block[0].bitmap_offset);
	CHECK(pwrite(m.f.fd, be, 8, (off_t)m.block[0].bitmap_offset - 8) == 8);
	REFUSED(m.f.path, "must follow each other");
	close(m.f.fd);

	make_mapped(&m, &o); /* the file ends within the pages */
	CHECK(!ftruncate(m.f.fd, (off_t)m.block[1].pages_offset + 4096));
	REFUSED(m.f.path, "ends at byte", "'pc.rom'");
	CHECK(!ftruncate(m.f.fd, (off_t)m.block[0].pages_offset + 4096));
	REFUSED(m.f.path, "bitmap and pages go on to byte", "'pc.ram'");
	close(m.f.fd);
}

static void unusable(const struct mapped_options *o, const char *word)
{
	struct gw_error err = { 0 };
	struct gw_image *img;
	struct mapped m;

	make_mapped(&m, o);
	img = open_ok(m.f.path);
	REQUIRE(img);
	CHECK(verify(img, 1, &err) < 0 && err.fault == GW_FAULT_INPUT);
	if (!strstr(err.msg, word))
		fprintf(stderr, "no '%s' in: %s\n", word, err.msg);
	CHECK(strstr(err.msg, word) && strstr(err.msg, "all-zero"));
	gw_image_close(img);
	close(m.f.fd);
}

static void images_of_zeros_are_named(void)
{
	struct mapped_options o = { .no_end = true, .no_marks = true };
	struct gw_error err = { 0 };
	struct gw_image *img;
	struct mapped m;
	struct file f;

	make_stream(&f, 0); /* for a model */
	close(f.fd);
	unusable(&o, "background-snapshot");
	o.no_end = false;
	unusable(&o, "not finished");
	/* a VM whose memory is all zero is no such thing */
	o.no_pages = true;
	make_mapped(&m, &o);
	img = open_ok(m.f.path);
	REQUIRE(img);
	CHECK_OK(verify(img, 1, &err), &err);
	gw_image_close(img);
	close(m.f.fd);
}

static void memory_outside_is_known(void)
{
	struct mapped_options o = { .outside = true };
	struct gw_image_verify v = { .threads = 1 };
	struct gw_error err = { 0 };
	struct mapped m;
	struct file f;

	make_stream(&f, 0); /* for a model */
	close(f.fd);
	make_mapped(&m, &o);
	v.img = open_ok(m.f.path);
	REQUIRE(v.img);
	CHECK(v.img->desc.table.entry[1].mr_addr == 0xc0000);
	CHECK(gw_image_is_outside(v.img, 0) && !gw_image_is_outside(v.img, 1));
	CHECK(differing(v.img, 1, 3, &err) == 0);
	CHECK_OK(gw_image_verify(&v, &err), &err);
	CHECK(v.outside == RAM_PAGES);
	gw_image_close(v.img);
	close(m.f.fd);
}

static void marked_holes_are_counted_and_not_read(void)
{
	struct gw_image_verify v = { .threads = 2 };
	struct mapped_options o = { 0 };
	struct gw_error err = { 0 };
	uint8_t bits = 0xff;
	struct mapped m;
	struct file f;

	make_stream(&f, 0); /* for a model */
	close(f.fd);
	make_mapped(&m, &o);
	CHECK(pwrite(m.f.fd, &bits, 1,
		     (off_t)m.block[0].bitmap_offset + 100) == 1);
	v.img = open_ok(m.f.path);
	REQUIRE(v.img);
	CHECK_OK(gw_image_verify(&v, &err), &err);
	CHECK(v.hole_pages == 8 && !v.zero_data);
	check_same(v.img);
	gw_image_close(v.img);
	close(m.f.fd);
}

static void cancel_ends_opening_and_reading(void)
{
	struct gw_image_verify v = { .threads = 2 };
	struct gw_cancel cancel;
	struct gw_error err = { 0 };
	struct file f;

	REQUIRE(!gw_cancel_init(&cancel, &err));
	make_stream(&f, 0);
	v.img = open_ok(f.path);
	REQUIRE(v.img);
	v.cancel = &cancel;
	gw_cancel_request(&cancel);
	CHECK(gw_image_verify(&v, &err) == -ECANCELED);
	CHECK(err.fault == GW_FAULT_CANCELLED);
	memset(&err, 0, sizeof(err));
	CHECK(!gw_image_open(f.path, &cancel, &err));
	CHECK(err.fault == GW_FAULT_CANCELLED);
	gw_image_close(v.img);
	gw_cancel_fini(&cancel);
	close(f.fd);
}

/* --- diff --------------------------------------------------------------- */

static void deltas_are_counted_as_encoded(void)
{
	uint8_t a[4096] = { 0 }, b[4096] = { 0 };

	CHECK(gw_diff_delta(a, b) == 0);
	b[0] = 1;
	CHECK(gw_diff_delta(a, b) == 3);
	b[4095] = 1;
	CHECK(gw_diff_delta(a, b) == 3 + 2 + 1 + 1);
	memset(b, 1, sizeof(b));
	CHECK(gw_diff_delta(a, b) == 1 + 2 + 4096);
}

static void run_diff(struct gw_image_diff *d, const char *a, const char *b)
{
	struct gw_error err = { 0 };

	memset(d, 0, sizeof(*d));
	d->threads = 3;
	d->a = open_ok(a);
	d->b = open_ok(b);
	REQUIRE(d->a && d->b);
	CHECK_OK(gw_image_diff(d, &err), &err);
}

static void end_diff(struct gw_image_diff *d)
{
	gw_image_diff_fini(d);
	gw_image_close(d->a);
	gw_image_close(d->b);
}

static void diff_sees_memory_not_formats(void)
{
	static const struct mapped_options o;
	static struct gw_image_diff d;
	struct mapped m;
	struct file f;

	make_stream(&f, 0);
	make_mapped(&m, &o);
	run_diff(&d, f.path, m.f.path);
	CHECK(!d.different && d.nblocks == 2 && d.nequal == 2);
	CHECK(d.block[0].npages[GW_DIFF_EQUAL] == RAM_PAGES);
	end_diff(&d);
	close(f.fd);
	close(m.f.fd);
}

static void diff_sorts_pages_and_sections(void)
{
	static const struct mapped_options o;
	static struct gw_image_diff d;
	const struct gw_diff_block *b = &d.block[0];
	uint8_t byte = 0x33;
	struct mapped m;
	struct file f;

	make_stream(&f, 0);
	memset(at(0, 1), 0, 4096);     /* zeroed */
	memset(at(0, 900), 5, 4096);   /* filled */
	memset(at(0, 901), 6, 4096);   /* filled */
	at(0, 2)[100] ^= 1;	       /* changed */
	memset(at(0, 4) + 9, 7, 4000); /* rewritten */
	make_mapped(&m, &o);
	CHECK(pwrite(m.f.fd, &byte, 1, (off_t)m.f.tail + 80) == 1);
	run_diff(&d, f.path, m.f.path);
	CHECK(d.different && !d.machine && !d.uuid);
	CHECK(b->npages[GW_DIFF_ZEROED] == 1);
	CHECK(b->npages[GW_DIFF_FILLED] == 2);
	CHECK(b->npages[GW_DIFF_CHANGED] == 1 && b->delta == 3);
	CHECK(b->npages[GW_DIFF_REWRITTEN] == 1);
	CHECK(b->npages[GW_DIFF_EQUAL] == RAM_PAGES - 5);
	CHECK(d.block[1].npages[GW_DIFF_EQUAL] == ROM_PAGES);
	REQUIRE(d.nsections == 1);
	CHECK(!strcmp(d.section[0].idstr, "dma") &&
	      !strcmp(d.section[0].how, "other contents"));
	end_diff(&d);
	close(f.fd);
	close(m.f.fd);
}

/* --- runs of bits against the obvious ----------------------------------- */

static void runs_of_bits_are_what_they_are(void)
{
	uint64_t word[20], n;

	for (int round = 0; round < 2000; round++) {
		uint64_t max = 1 + test_rand(&seed) % (20 * 64), i, first;
		bool value;

		for (int k = 0; k < 20; k++)
			word[k] = test_rand(&seed) % 3 ?
					  -(test_rand(&seed) & 1) :
					  test_rand(&seed);
		first = test_rand(&seed) % (20 * 64);
		if (max > 20 * 64 - first)
			max = 20 * 64 - first;
		value = gw_bits_run(word, first, max, &n);
		for (i = 0; i < max; i++)
			if ((word[(first + i) / 64] >> (first + i) % 64 & 1) !=
			    value)
				break;
		CHECK(n == i);
	}
}

/* --- hostile ------------------------------------------------------------ */

/* Open, count, read and verify whatever it is. Return: pages that differ
 * from the model, -1: refused, as damaged input. */
static int64_t try(const char *path)
{
	struct gw_error err = { 0 };
	struct gw_image *img = gw_image_open(path, NULL, &err);
	int64_t bad = 0;
	uint64_t n[3];

	if (img) {
		struct gw_error e = { 0 };

		gw_image_count(img, -1, n);
		if (img->desc.table.n != NBLOCKS ||
		    gw_image_npages(img, 0) > RAM_PAGES ||
		    gw_image_npages(img, 1) > RAM_PAGES)
			bad = INT64_MAX;
		for (int b = 0; b < NBLOCKS && !bad; b++)
			bad += (int64_t)differing(img, b, 64, &err);
		if (!verify(img, 2, &e) || !e.code) {
			CHECK(bad >= 0 && !err.code);
			gw_image_close(img);
			return bad;
		}
		err = e;
	}
	if (err.fault != GW_FAULT_INPUT)
		fprintf(stderr, "fault %d: %s\n", err.fault, err.msg);
	CHECK(err.fault == GW_FAULT_INPUT && err.code && *err.msg);
	gw_image_close(img);
	return -1;
}

/* Every cut is noticed. */
static void cut_everywhere(struct file *f, int rounds)
{
	uint64_t size = f->pos;
	uint8_t *copy = malloc(size);

	REQUIRE(copy && pread(f->fd, copy, size, 0) == (ssize_t)size);
	for (int i = 0; i < rounds; i++) {
		uint64_t len = test_rand(&seed) % size;

		if (i & 1) /* not always among a mapped file's pages */
			len = f->tail - 200 +
			      test_rand(&seed) % (size - f->tail + 200);
		CHECK(!ftruncate(f->fd, (off_t)len));
		CHECK(try(f->path) == (len == f->eof ? 0 : -1));
		CHECK(pwrite(f->fd, copy + len, size - len, (off_t)len) ==
		      (ssize_t)(size - len));
	}
	free(copy);
	CHECK(try(f->path) == 0);
}

/*
 * 1 to 3 bytes are changed. Where that goes unnoticed, it was in a page, its
 * address or a delta: two pages at most are other ones (@strict: a flip in a
 * bitmap's place would be more).
 */
static void flip_everywhere(struct file *f, int rounds, bool strict)
{
	int unnoticed = 0;

	for (int i = 0; i < rounds; i++) {
		uint64_t where[3];
		uint8_t was[3], now;
		int n = 1 + (int)(test_rand(&seed) % 3);
		int64_t bad;

		for (int k = 0; k < n; k++) {
			uint64_t r = test_rand(&seed);

			where[k] = r & 1 ? test_rand(&seed) % f->pos :
				   r & 2 ? test_rand(&seed) % 500 :
					   f->tail - 60 +
						   test_rand(&seed) %
							   (f->pos - f->tail +
							    60);
			CHECK(pread(f->fd, &was[k], 1, (off_t)where[k]) == 1);
			now = was[k] ^ (uint8_t)(1u << test_rand(&seed) % 8);
			CHECK(pwrite(f->fd, &now, 1, (off_t)where[k]) == 1);
		}
		bad = try(f->path);
		unnoticed += bad >= 0;
		CHECK(!strict || bad <= 2 * n);
		while (n--)
			CHECK(pwrite(f->fd, &was[n], 1, (off_t)where[n]) == 1);
	}
	CHECK(try(f->path) == 0);
	printf("%d of %d changed files are well-formed\n", unnoticed, rounds);
	CHECK(unnoticed > 0 && unnoticed < rounds);
}

static void damaged_streams_are_survived(void)
{
	struct file f;

	make_stream(&f, 0);
	cut_everywhere(&f, 1000 / SLOW);
	flip_everywhere(&f, 10000 / SLOW, true);
	close(f.fd);
}

static void damaged_mapped_files_are_survived(void)
{
	static const struct mapped_options o;
	struct mapped m;
	struct file f;

	make_stream(&f, 0); /* for a model */
	close(f.fd);
	make_mapped(&m, &o);
	cut_everywhere(&m.f, 1000 / SLOW);
	flip_everywhere(&m.f, 10000 / SLOW, false);
	close(m.f.fd);
}

int main(void)
{
	seed = test_seed();
	RUN(runs_of_bits_are_what_they_are);
	RUN(stream_reads_as_its_last_records_say);
	RUN(stream_sections_are_counted);
	RUN(what_a_colo_primary_sent_is_recognised);
	RUN(only_with_its_command_it_is_colo);
	RUN(mapped_file_reads_as_the_model);
	RUN(streams_begin_anywhere);
	RUN(libvirt_saves_are_read);
	RUN(standard_input_is_read);
	RUN(other_files_are_named);
	RUN(libvirt_saves_are_refused_by_name);
	RUN(damage_is_located);
	RUN(multifd_main_connections_are_named);
	RUN(mapped_damage_is_named);
	RUN(images_of_zeros_are_named);
	RUN(memory_outside_is_known);
	RUN(marked_holes_are_counted_and_not_read);
	RUN(cancel_ends_opening_and_reading);
	RUN(deltas_are_counted_as_encoded);
	RUN(diff_sees_memory_not_formats);
	RUN(diff_sorts_pages_and_sections);
	RUN(damaged_streams_are_survived);
	RUN(damaged_mapped_files_are_survived);
	return test_done();
}
