/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sink_test.c - every sink against a slow model: random passes of pages, zeros
 * and deltas go to both, then the file is read back and compared. And what a
 * file is before it is finished, when it is cut short, when there is no room.
 */
#include "test.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cancel.h"
#include "image/image.h"
#include "image/physmem.h"
#include "image/stream_sink.h"
#include "wire/stream.h"

#define PAGE	GW_PAGE_SIZE
#define NBLOCKS 3
#define NPAGES	1100

/* --- the model ---------------------------------------------------------- */

/* Lengths that are no multiple of 64 pages; the first is the RAM. */
static const struct {
	const char *name;
	uint64_t npages;
} layout[NBLOCKS] = { { "pc.ram", 1000 }, { "vga.vram", 65 }, { "bios", 31 } };

struct model {
	struct gw_image_desc desc;
	uint8_t *data[NBLOCKS];
	enum gw_page_state state[NBLOCKS][NPAGES];
};

static void model_init(struct model *m)
{
	memset(m, 0, sizeof(*m));
	strcpy(m->desc.config.machine, "pc-i440fx-10.0");
	m->desc.table.n = NBLOCKS;
	for (int i = 0; i < NBLOCKS; i++) {
		struct gw_ram_entry *e = &m->desc.table.entry[i];

		strcpy(e->idstr, layout[i].name);
		e->used_length = layout[i].npages * PAGE;
		m->desc.table.total += e->used_length;
		m->data[i] = calloc(layout[i].npages, PAGE);
	}
}

static void model_fini(struct model *m)
{
	for (int i = 0; i < NBLOCKS; i++)
		free(m->data[i]);
}

static uint8_t *page_of(struct model *m, int block, uint64_t page)
{
	return m->data[block] + page * PAGE;
}

static void fill(uint8_t *p, size_t len, uint64_t *seed)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = test_rand(seed);

		memcpy(p + i, &v, 8);
	}
}

/* --- device state, small but whole -------------------------------------- */

static const char vmdesc[] =
	"{\"configuration\": {\"vmsd_name\": \"configuration\", \"version\": 1, \"fields\": []}, \"page_size\": 4096, \"devices\": [{\"name\": \"timer\", \"instance_id\": 0, \"vmsd_name\": \"timer\", \"version\": 2, \"fields\": [{\"name\": \"data\", \"type\": \"buffer\", \"size\": 24}]}]}";

static uint8_t sections[64];
static size_t sections_len;

static int to_sections(void *arg, struct iovec *iov, int niov,
		       struct gw_error *err)
{
	for (int i = 0; i < niov; i++) {
		memcpy(sections + sections_len, iov[i].iov_base,
		       iov[i].iov_len);
		sections_len += iov[i].iov_len;
	}
	return 0;
}

static void make_sections(void)
{
	static const struct gw_section timer = { .idstr = "timer",
						 .version_id = 2 };
	static struct gw_writer w;
	uint8_t payload[24];

	memset(payload, 0x5a, sizeof(payload));
	gw_writer_init(&w, to_sections, NULL);
	gw_section_put_long(&w, GW_ITEM_SECTION_FULL, &timer);
	gw_write_bytes(&w, payload, sizeof(payload));
	gw_section_put_footer(&w, 0);
	CHECK(!gw_write_flush(&w, NULL));
}

/* --- folders ------------------------------------------------------------ */

static char folder[64];

static const char *path_of(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static int entries(void)
{
	DIR *d = opendir(folder);
	int n = -2; /* . and .. */

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

static uint8_t *slurp(const char *path, size_t *len)
{
	int fd = open(path, O_RDONLY);
	uint8_t *p = NULL;
	struct stat st;

	*len = 0;
	if (fd >= 0 && fstat(fd, &st) == 0) {
		p = malloc((size_t)st.st_size + 1);
		if (read(fd, p, (size_t)st.st_size) == st.st_size)
			*len = (size_t)st.st_size;
		close(fd);
	}
	return p;
}

/* --- random calls ------------------------------------------------------- */

struct play {
	struct model *m;
	struct gw_sink *s;
	uint64_t *seed;
	uint8_t buffer[64 * GW_PAGE_SIZE];
	struct gw_error err;
};

static void play_pages(struct play *p, int block, uint64_t first, uint32_t n)
{
	fill(p->buffer, (size_t)n * PAGE, p->seed);
	memcpy(page_of(p->m, block, first), p->buffer, (size_t)n * PAGE);
	CHECK_OK(p->s->ops->pages(p->s, block, first, n, p->buffer, &p->err),
		 &p->err);
	/* It was ours only until it returned. */
	memset(p->buffer, 0xee, (size_t)n * PAGE);
	for (uint32_t i = 0; i < n; i++)
		p->m->state[block][first + i] = GW_PAGE_DATA;
}

static void play_zeros(struct play *p, int block, uint64_t first, uint32_t n)
{
	memset(page_of(p->m, block, first), 0, (size_t)n * PAGE);
	CHECK_OK(p->s->ops->zeros(p->s, block, first, n, &p->err), &p->err);
	for (uint32_t i = 0; i < n; i++)
		p->m->state[block][first + i] = GW_PAGE_ZERO;
}

static size_t put_uleb(uint8_t *p, unsigned int v)
{
	if (v < 128) {
		p[0] = (uint8_t)v;
		return 1;
	}
	p[0] = (uint8_t)(v | 128);
	p[1] = (uint8_t)(v >> 7);
	return 2;
}

/* One changed run somewhere in the page. */
static void play_delta(struct play *p, int block, uint64_t page)
{
	unsigned int at = test_rand(p->seed) % 4000;
	unsigned int len = 1 + test_rand(p->seed) % 90;
	uint8_t delta[256], *d = delta, *to = page_of(p->m, block, page) + at;

	d += put_uleb(d, at);
	d += put_uleb(d, len);
	for (unsigned int i = 0; i < len; i++)
		*d++ = to[i] = (uint8_t)test_rand(p->seed);
	CHECK_OK(p->s->ops->delta(p->s, block, page, delta,
				  (uint16_t)(d - delta), &p->err),
		 &p->err);
	p->m->state[block][page] = GW_PAGE_DATA;
}

static void play_pass(struct play *p, int block)
{
	uint64_t page = test_rand(p->seed) % 50;

	while (page < layout[block].npages) {
		uint64_t left = layout[block].npages - page;
		uint32_t n = 1 + test_rand(p->seed) % 64;

		n = n < left ? n : (uint32_t)left;
		switch (test_rand(p->seed) % 8) {
		case 0:
		case 1:
			play_pages(p, block, page, n);
			break;
		case 2:
			play_zeros(p, block, page, n);
			break;
		case 3:
		case 4:
			n = 1;
			play_pages(p, block, page, n);
			break;
		case 5: /* QEMU sends deltas of pages it sent before */
			n = 1;
			if (p->m->state[block][page] != GW_PAGE_ABSENT)
				play_delta(p, block, page);
			break;
		}
		page += n;
	}
}

static void play(struct model *m, struct gw_sink *s, int passes,
		 uint64_t *seed)
{
	static struct play p;

	p.m = m;
	p.s = s;
	p.seed = seed;
	CHECK_OK(s->ops->begin(s, &m->desc, &p.err), &p.err);
	for (int i = 0; i < passes; i++) {
		for (int b = 0; b < NBLOCKS; b++)
			play_pass(&p, b);
		CHECK_OK(s->ops->pass(s, i == passes - 1, &p.err), &p.err);
	}
	CHECK_OK(s->ops->device(s, sections, sections_len, vmdesc,
				sizeof(vmdesc) - 1, &p.err),
		 &p.err);
	CHECK_OK(s->ops->ready(s, &p.err), &p.err);
}

/* --- read back ---------------------------------------------------------- */

static void same_memory(struct model *m, struct gw_image *img)
{
	static uint8_t page[GW_PAGE_SIZE];
	struct gw_error err = { 0 };

	for (int b = 0; b < NBLOCKS; b++)
		for (uint64_t i = 0; i < layout[b].npages; i++) {
			int r = gw_image_read(img, b, i, 1, page, &err);

			if (r || memcmp(page, page_of(m, b, i), PAGE)) {
				CHECK_OK(r, &err);
				printf("block %d page %" PRIu64 "\n", b, i);
				CHECK(r);
				return;
			}
		}
}

/* In long runs, which may go past the page cache. */
static void same_blocks(struct model *m, struct gw_image *img)
{
	static _Alignas(GW_PAGE_SIZE) uint8_t all[NPAGES * PAGE];
	struct gw_error err = { 0 };

	gw_image_read_direct(img);
	gw_image_read_direct(img); /* once is enough */
	for (int b = 0; b < NBLOCKS; b++) {
		uint32_t n = (uint32_t)layout[b].npages;

		CHECK_OK(gw_image_read(img, b, 0, n, all, &err), &err);
		CHECK(!memcmp(all, m->data[b], (size_t)n * PAGE));
	}
}

static void same_image(struct model *m, const char *path, const char *format)
{
	struct gw_error err = { 0 };
	struct gw_image *img = gw_image_open(path, NULL, &err);

	CHECK_OK(img ? 0 : -1, &err);
	if (!img)
		return;
	CHECK(!strcmp(img->format, format));
	CHECK(!strcmp(img->desc.config.machine, "pc-i440fx-10.0"));
	CHECK(!img->desc.config.ignore_shared);
	REQUIRE(img->desc.table.n == NBLOCKS);
	for (int b = 0; b < NBLOCKS; b++) {
		CHECK(!strcmp(img->desc.table.entry[b].idstr, layout[b].name));
		CHECK(gw_image_npages(img, b) == layout[b].npages);
	}
	same_memory(m, img);
	same_blocks(m, img);
	CHECK(img->have_end);
	CHECK(img->eof == sections_len &&
	      !memcmp(img->tail, sections, sections_len));
	CHECK(img->vmdesc_len == sizeof(vmdesc) - 1 &&
	      !memcmp(img->vmdesc, vmdesc, sizeof(vmdesc) - 1));
	gw_image_close(img);
}

/* The bits themselves: of RAM those of pages that are there and not zero, of
 * all else every one; none beyond used_length. */
static void right_bits(struct model *m, const char *path)
{
	struct gw_image *img = gw_image_open(path, NULL, NULL);
	int fd = open(path, O_RDONLY);
	uint8_t map[256];

	REQUIRE(img && fd >= 0);
	for (int b = 0; b < NBLOCKS; b++) {
		const struct gw_mapped_block *k =
			&img->desc.table.entry[b].mapped;
		size_t len = gw_mapped_bitmap_size(layout[b].npages * PAGE);
		unsigned int wrong = 0;

		CHECK(k->pages_offset % GW_MAPPED_ALIGN == 0);
		REQUIRE(pread(fd, map, len, (off_t)k->bitmap_offset) ==
			(ssize_t)len);
		for (uint64_t i = 0; i < len * 8; i++) {
			bool bit = map[i / 8] >> (i % 8) & 1;
			bool want = i < layout[b].npages &&
				    (b || m->state[b][i] == GW_PAGE_DATA);

			wrong += bit != want;
		}
		CHECK(!wrong);
	}
	close(fd);
	gw_image_close(img);
}

/* RAM at its physical address, @skip bytes into the file. */
static void same_raw(struct model *m, const char *path, size_t skip)
{
	size_t len, size = layout[0].npages * PAGE;
	uint8_t *p = slurp(path, &len);

	CHECK(len == size + skip);
	CHECK(len == size + skip && !memcmp(p + skip, m->data[0], size));
	free(p);
}

static void right_elf(const char *path)
{
	size_t len;
	uint8_t *p = slurp(path, &len);
	Elf64_Ehdr e;
	Elf64_Phdr ph[2];

	REQUIRE(len > 4096);
	memcpy(&e, p, sizeof(e));
	CHECK(!memcmp(e.e_ident, ELFMAG, SELFMAG) && e.e_type == ET_CORE &&
	      e.e_machine == EM_X86_64 && e.e_phnum == 2);
	memcpy(ph, p + e.e_phoff, sizeof(ph));
	CHECK(ph[0].p_type == PT_NOTE &&
	      ph[0].p_offset + ph[0].p_filesz <= 4096);
	CHECK(ph[1].p_type == PT_LOAD && ph[1].p_paddr == 0 &&
	      ph[1].p_offset == 4096 &&
	      ph[1].p_filesz == layout[0].npages * PAGE);
	free(p);
}

static void read_back(struct model *m, const char *format, const char *path)
{
	if (!strcmp(format, "raw")) {
		same_raw(m, path, 0);
	} else if (!strcmp(format, "elf")) {
		same_raw(m, path, 4096);
		right_elf(path);
	} else {
		same_image(m, path, format);
	}
	if (!strcmp(format, "mapped-ram"))
		right_bits(m, path);
}

static void one_round(const char *format, bool direct, uint64_t *seed)
{
	const struct gw_sink_options o = { .direct_io = direct };
	const char *path = path_of("image");
	struct gw_error err = { 0 };
	struct gw_sink *s;
	struct stat st;
	struct model m;

	model_init(&m);
	s = gw_sink_file(format, path, &o, &err);
	REQUIRE(s);
	CHECK(!strcmp(s->ops->name, format));
	play(&m, s, 1 + (int)(test_rand(seed) % 10), seed);
	CHECK(access(path, F_OK) < 0); /* no name before */
	CHECK(gw_sink_nbytes(s) > 0);
	CHECK_OK(s->ops->finish(s, &err), &err);
	gw_sink_close(s);
	CHECK(entries() == 1);
	REQUIRE(stat(path, &st) == 0);
	CHECK((st.st_mode & 07777) == 0600);
	/* However often pages came: each has one place. */
	if (strcmp(format, "stream"))
		CHECK((uint64_t)st.st_size <=
		      m.desc.table.total + NBLOCKS * GW_MAPPED_ALIGN + 4096);
	read_back(&m, format, path);
	unlink(path);
	model_fini(&m);
}

static void sinks_keep_what_came_last(void)
{
	uint64_t seed = test_seed();

	for (int round = 0; round < 6; round++)
		for (int f = 0; gw_sink_formats[f]; f++) {
			one_round(gw_sink_formats[f], false, &seed);
			one_round(gw_sink_formats[f], true, &seed);
		}
}

/* --- rules, one by one -------------------------------------------------- */

static void mapped_page_that_turns_zero_loses_its_bit(void)
{
	static uint8_t page[GW_PAGE_SIZE] = { 1 };
	struct gw_error err = { 0 };
	struct gw_sink *s;
	struct model m;
	struct stat st;

	model_init(&m);
	s = gw_sink_file("mapped-ram", path_of("z"), NULL, &err);
	REQUIRE(s);
	REQUIRE(s->parallel && s->keeps_holes);
	CHECK_OK(s->ops->begin(s, &m.desc, &err), &err);
	for (int b = 0; b < 2; b++) {
		CHECK_OK(s->ops->pages(s, b, 64, 1, page, &err), &err);
		CHECK_OK(s->ops->pass(s, false, &err), &err);
		CHECK_OK(s->ops->zeros(s, b, 0, layout[b].npages, &err), &err);
		m.state[b][64] = GW_PAGE_ZERO;
	}
	CHECK_OK(s->ops->pass(s, true, &err), &err);
	CHECK_OK(s->ops->device(s, sections, sections_len, vmdesc,
				sizeof(vmdesc) - 1, &err),
		 &err);
	CHECK_OK(s->ops->ready(s, &err), &err);
	CHECK_OK(s->ops->finish(s, &err), &err);
	gw_sink_close(s);
	right_bits(&m, path_of("z"));
	same_image(&m, path_of("z"), "mapped-ram");
	/* All the rest are holes. */
	REQUIRE(stat(path_of("z"), &st) == 0);
	CHECK(st.st_blocks * 512 < 64 << 10);
	unlink(path_of("z"));
	model_fini(&m);
}

static void damaged_deltas_are_refused(void)
{
	static const char *const formats[] = { "mapped-ram", "raw", "elf" };
	static const uint8_t beyond[] = { 0xff, 0x1f, 2, 1, 2 };

	for (int f = 0; f < 3; f++) {
		struct gw_error err = { 0 };
		struct gw_sink *s =
			gw_sink_file(formats[f], path_of("x"), NULL, &err);
		struct model m;

		REQUIRE(s);
		model_init(&m);
		CHECK_OK(s->ops->begin(s, &m.desc, &err), &err);
		CHECK(s->ops->delta(s, 0, 7, beyond, sizeof(beyond), &err) < 0);
		CHECK(err.fault == GW_FAULT_INPUT &&
		      strstr(err.msg, "0x7000") && strstr(err.msg, "pc.ram"));
		gw_sink_close(s);
		model_fini(&m);
	}
	CHECK(entries() == 0);
}

static void raw_takes_one_block(void)
{
	const struct gw_sink_options good = { .block = "bios" },
				     bad = { .block = "rom" };
	uint64_t seed = 7;
	struct gw_error err = { 0 };
	struct model m;
	struct gw_sink *s;
	uint8_t *p;
	size_t len;

	model_init(&m);
	s = gw_sink_file("raw", path_of("b"), &good, &err);
	REQUIRE(s);
	play(&m, s, 3, &seed);
	CHECK_OK(s->ops->finish(s, &err), &err);
	gw_sink_close(s);
	p = slurp(path_of("b"), &len);
	CHECK(len == layout[2].npages * PAGE && !memcmp(p, m.data[2], len));
	free(p);
	s = gw_sink_file("raw", path_of("c"), &bad, &err);
	REQUIRE(s);
	CHECK(s->ops->begin(s, &m.desc, &err) == -ENOENT);
	CHECK(err.fault == GW_FAULT_USAGE && strstr(err.msg, "'vga.vram'"));
	gw_sink_close(s);
	CHECK(!gw_sink_file("elf", path_of("c"), &good, &err));
	CHECK(err.fault == GW_FAULT_USAGE);
	CHECK(!gw_sink_file("qcow", path_of("c"), NULL, &err));
	CHECK(err.fault == GW_FAULT_USAGE && strstr(err.msg, "qcow"));
	unlink(path_of("b"));
	CHECK(entries() == 0);
	model_fini(&m);
}

/* --- names -------------------------------------------------------------- */

static void unfinished_files_leave_nothing(void)
{
	uint64_t seed = 3;
	struct model m;

	for (int f = 0; gw_sink_formats[f]; f++) {
		struct gw_sink *s = gw_sink_file(gw_sink_formats[f],
						 path_of("u"), NULL, NULL);

		REQUIRE(s);
		model_init(&m);
		play(&m, s, 2, &seed);
		gw_sink_close(s);
		CHECK(entries() == 0);
		model_fini(&m);
	}
}

static void old_file_stays_until_finish(void)
{
	int fd = open(path_of("old"), O_CREAT | O_WRONLY, 0644);
	struct gw_error err = { 0 };
	uint64_t seed = 3;
	struct gw_sink *s;
	struct model m;
	char link[128];
	uint8_t *p;
	size_t len;

	REQUIRE(fd >= 0 && write(fd, "old", 3) == 3);
	close(fd);
	snprintf(link, sizeof(link), "%s/link", folder);
	REQUIRE(symlink("old", link) == 0);
	model_init(&m);
	s = gw_sink_file("stream", link, NULL, &err);
	REQUIRE(s);
	play(&m, s, 2, &seed);
	p = slurp(path_of("old"), &len);
	CHECK(len == 3 && !memcmp(p, "old", 3));
	free(p);
	CHECK_OK(s->ops->finish(s, &err), &err);
	gw_sink_close(s);
	CHECK(entries() == 2); /* through the link, which is one still */
	same_image(&m, path_of("old"), "stream");
	unlink(link);
	unlink(path_of("old"));
	model_fini(&m);
}

static void killed_writer_leaves_nothing(void)
{
	int fd = open(folder, O_TMPFILE | O_RDWR, 0600), status;
	int pipes[2];
	char byte;
	pid_t pid;

	if (fd < 0)
		SKIP("%s has no O_TMPFILE", folder);
	close(fd);
	for (int f = 0; gw_sink_formats[f]; f++) {
		REQUIRE(pipe(pipes) == 0);
		pid = fork();
		if (pid == 0) {
			struct gw_sink *s = gw_sink_file(gw_sink_formats[f],
							 path_of("k"), NULL,
							 NULL);
			uint64_t seed = 1;
			struct model m;

			model_init(&m);
			play(&m, s, 1, &seed);
			(void)!write(pipes[1], "x", 1);
			pause();
			_exit(0);
		}
		close(pipes[1]);
		CHECK(read(pipes[0], &byte, 1) == 1);
		kill(pid, SIGKILL);
		CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
		close(pipes[0]);
		CHECK(entries() == 0);
	}
}

static void bad_places_are_named(void)
{
	struct gw_error err = { 0 };
	char path[160];

	CHECK(!gw_sink_file("stream", folder, NULL, &err));
	CHECK(err.fault == GW_FAULT_USAGE && strstr(err.msg, "is a directory"));
	snprintf(path, sizeof(path), "%s/no/file", folder);
	CHECK(!gw_sink_file("mapped-ram", path, NULL, &err));
	CHECK(err.code == ENOENT && strstr(err.msg, "no/"));
	snprintf(path, sizeof(path), "%s/", path_of("name"));
	CHECK(!gw_sink_file("raw", path, NULL, &err));
	for (int f = 1; gw_sink_formats[f]; f++) {
		CHECK(!gw_sink_file(gw_sink_formats[f], "-", NULL, &err));
		CHECK(err.fault == GW_FAULT_USAGE &&
		      strstr(err.msg, "only a stream"));
	}
	REQUIRE(mkfifo(path_of("fifo"), 0600) == 0);
	CHECK(!gw_sink_file("mapped-ram", path_of("fifo"), NULL, &err));
	CHECK(err.fault == GW_FAULT_USAGE && strstr(err.msg, "is not a file"));
	unlink(path_of("fifo"));
}

static void folders_of_others_are_refused(void)
{
	int status = -1;
	pid_t pid;

	REQUIRE(chmod(folder, 0555) == 0);
	pid = fork();
	if (pid == 0) {
		struct gw_error err = { 0 };

		/* root may write everywhere; somebody else may not */
		if (geteuid() == 0 && setuid(65534))
			_exit(2);
		_exit(gw_sink_file("stream", path_of("f"), NULL, &err) ||
		      err.code != EACCES ||
		      !strstr(err.msg, "cannot create a file in its folder"));
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(chmod(folder, 0700) == 0);
}

static void devices_and_pipes_are_written_as_they_are(void)
{
	struct gw_error err = { 0 };
	uint64_t seed = 5;
	struct gw_sink *s;
	struct model m;
	int status;
	pid_t pid;

	for (int f = 0; gw_sink_formats[f]; f++) {
		s = gw_sink_file(gw_sink_formats[f], "/dev/null", NULL, &err);
		REQUIRE(s);
		model_init(&m);
		/* Deltas of a file need what it cannot give back. */
		CHECK_OK(s->ops->begin(s, &m.desc, &err), &err);
		CHECK_OK(s->ops->pages(s, 0, 0, 20, m.data[0], &err), &err);
		CHECK_OK(s->ops->pass(s, true, &err), &err);
		CHECK_OK(s->ops->device(s, sections, sections_len, NULL, 0,
					&err),
			 &err);
		CHECK_OK(s->ops->ready(s, &err), &err);
		CHECK_OK(s->ops->finish(s, &err), &err);
		gw_sink_close(s);
		model_fini(&m);
	}
	REQUIRE(mkfifo(path_of("fifo"), 0600) == 0);
	pid = fork();
	if (pid == 0) {
		char to[160];

		snprintf(to, sizeof(to), "cat %s/fifo >%s/copy", folder,
			 folder);
		_exit(system(to) ? 1 : 0);
	}
	s = gw_sink_file("stream", path_of("fifo"), NULL, &err);
	REQUIRE(s);
	model_init(&m);
	play(&m, s, 3, &seed);
	CHECK_OK(s->ops->finish(s, &err), &err);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	gw_sink_close(s);
	same_image(&m, path_of("copy"), "stream");
	unlink(path_of("fifo"));
	unlink(path_of("copy"));
	CHECK(entries() == 0);
	model_fini(&m);
}

/* 0: as it should be. Runs in a mount namespace of its own. */
static int fill_up(const char *format)
{
	struct gw_error err = { 0 };
	static uint8_t page[64 * GW_PAGE_SIZE];
	struct gw_sink *s;
	struct model m;
	int r;

	memset(page, 1, sizeof(page));
	if (unshare(CLONE_NEWNS) ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", folder, "tmpfs", 0, "size=1m"))
		return 77;
	model_init(&m);
	s = gw_sink_file(format, path_of("full"), NULL, &err);
	r = s ? s->ops->begin(s, &m.desc, &err) : -1;
	for (uint64_t i = 0; i < 900 && !r; i += 64)
		r = s->ops->pages(s, 0, i, 64, page, &err);
	if (r != -ENOSPC || !strstr(err.msg, "no room for ") ||
	    !strstr(err.msg, "left on its file system"))
		return 1;
	gw_sink_close(s);
	return entries() == 0 ? 0 : 2;
}

static void full_file_system_is_an_error_with_numbers(void)
{
	for (int f = 0; gw_sink_formats[f]; f++) {
		pid_t pid = fork();
		int status = -1;

		if (pid == 0)
			_exit(fill_up(gw_sink_formats[f]));
		CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
		if (WEXITSTATUS(status) == 77)
			SKIP("mounting a small tmpfs needs root");
		CHECK(WEXITSTATUS(status) == 0);
	}
}

/* --- a peer ------------------------------------------------------------- */

struct peer {
	uint8_t data[1 << 16];
	size_t len, ready_at, finish_at;
	int finish_r, checks;
	bool broken, closed;
};

static int peer_flush(void *arg, struct iovec *iov, int niov,
		      struct gw_error *err)
{
	struct peer *p = arg;

	if (p->broken)
		return gw_fail(err, EPIPE, "gone");
	for (int i = 0; i < niov; i++) {
		memcpy(p->data + p->len, iov[i].iov_base, iov[i].iov_len);
		p->len += iov[i].iov_len;
	}
	return 0;
}

static int peer_ready(void *arg, struct gw_error *err)
{
	struct peer *p = arg;

	p->ready_at = p->len;
	return 0;
}

static int peer_finish(void *arg, int r, struct gw_error *err)
{
	struct peer *p = arg;

	p->finish_at = p->len;
	p->finish_r = r;
	if (r)
		err->fault = GW_FAULT_UNCERTAIN;
	return r;
}

static int peer_check(void *arg, struct gw_error *err)
{
	((struct peer *)arg)->checks++;
	return gw_fail(err, ECONNRESET, "it gave up");
}

static void peer_close(void *arg)
{
	((struct peer *)arg)->closed = true;
}

static const struct gw_stream_out peer_out = {
	.name = "qemu",
	.flush = peer_flush,
	.runs_it = true,
	.return_path = true,
	.ready = peer_ready,
	.finish = peer_finish,
	.check = peer_check,
	.close = peer_close,
};

static void to_ready(struct gw_sink *s, struct model *m)
{
	struct gw_error err = { 0 };

	CHECK_OK(s->ops->begin(s, &m->desc, &err), &err);
	CHECK_OK(s->ops->zeros(s, 0, 5, 2, &err), &err);
	CHECK_OK(s->ops->pass(s, false, &err), &err);
	CHECK_OK(s->ops->pass(s, true, &err), &err);
	CHECK_OK(s->ops->device(s, sections, sections_len, vmdesc,
				sizeof(vmdesc) - 1, &err),
		 &err);
	CHECK_OK(s->ops->ready(s, &err), &err);
}

static void peer_gets_eof_last(void)
{
	static struct peer p;
	static struct gw_stream_event ev;
	static struct gw_stream st;
	struct gw_error err = { 0 };
	struct gw_sink *s = gw_sink_stream(&peer_out, &p, &err);
	enum gw_stream_kind seen[20];
	struct gw_reader r;
	struct model m;
	int n = 0;

	REQUIRE(s);
	model_init(&m);
	CHECK(s->runs_it && !s->parallel && !strcmp(s->ops->name, "qemu"));
	CHECK(p.len == 0);
	to_ready(s, &m);
	/* A PING is the last it has. */
	REQUIRE(p.len > 9 && p.ready_at == p.len);
	CHECK(!memcmp(p.data + p.len - 9, "\x08\0\2\0\4", 5));
	CHECK(gw_get_be32(p.data + p.len - 4) == GW_STREAM_PING_READY);
	CHECK(s->ops->check(s, &err) == -ECONNRESET && p.checks == 1);
	CHECK_OK(s->ops->finish(s, &err), &err);
	CHECK(p.finish_at == p.ready_at + 6 + sizeof(vmdesc) - 1);
	CHECK(p.data[p.ready_at] == GW_ITEM_EOF);
	CHECK(gw_sink_nbytes(s) == p.len);
	gw_reader_init_mem(&r, p.data, p.len);
	gw_stream_init(&st, &r, 0);
	while (n < 20 && !gw_stream_next(&st, &ev)) {
		seen[n++] = ev.kind;
		if (ev.kind == GW_STREAM_TAIL)
			break;
	}
	static const enum gw_stream_kind want[] = {
		GW_STREAM_CONFIG,      GW_STREAM_COMMAND, GW_STREAM_COMMAND,
		GW_STREAM_SECTION,     GW_STREAM_TABLE,	  GW_STREAM_EOS,
		GW_STREAM_SECTION_END, GW_STREAM_SECTION, GW_STREAM_ZERO,
		GW_STREAM_ZERO,	       GW_STREAM_EOS,	  GW_STREAM_SECTION_END,
		GW_STREAM_SECTION,     GW_STREAM_EOS,	  GW_STREAM_SECTION_END,
		GW_STREAM_TAIL,
	};
	CHECK(n == 16 && !memcmp(seen, want, sizeof(want)));
	CHECK(st.return_path && st.have_end);
	CHECK(!memcmp(p.data + r.offset, sections, sections_len));
	gw_sink_close(s);
	CHECK(p.closed);
	model_fini(&m);
}

static void lost_last_word_is_the_peers_to_judge(void)
{
	static struct peer p;
	struct gw_error err = { 0 };
	struct gw_sink *s = gw_sink_stream(&peer_out, &p, &err);
	struct model m;

	REQUIRE(s);
	model_init(&m);
	to_ready(s, &m);
	p.broken = true;
	CHECK(s->ops->finish(s, &err) == -EPIPE);
	CHECK(p.finish_r == -EPIPE && err.fault == GW_FAULT_UNCERTAIN);
	gw_sink_close(s);
	model_fini(&m);
}

/* --- copy --------------------------------------------------------------- */

struct fake {
	struct gw_image img;
	struct model *m;
	uint64_t fail_at; /* page of block 0 that cannot be read */
};

static enum gw_page_state fake_state(struct gw_image *img, int block,
				     uint64_t page, uint64_t max, uint64_t *n)
{
	const enum gw_page_state *s = ((struct fake *)img)->m->state[block];

	for (*n = 1; *n < max && s[page + *n] == s[page]; ++*n)
		;
	return s[page];
}

static int fake_read(struct gw_image *img, int block, uint64_t page,
		     uint32_t n, void *dst, struct gw_error *err)
{
	struct fake *f = (struct fake *)img;

	if (!block && page <= f->fail_at && f->fail_at < page + n)
		return gw_fail_as(err, GW_FAULT_INPUT, EIO, "page %d is bad",
				  (int)f->fail_at);
	memcpy(dst, page_of(f->m, block, page), (size_t)n * PAGE);
	return 0;
}

static const struct gw_image_ops fake_ops = { .state = fake_state,
					      .read = fake_read };

static void fake_init(struct fake *f, struct model *m, uint64_t *seed)
{
	model_init(m);
	memset(f, 0, sizeof(*f));
	f->m = m;
	f->fail_at = UINT64_MAX;
	f->img.ops = &fake_ops;
	f->img.desc = m->desc;
	f->img.tail = sections;
	f->img.tail_len = f->img.eof = sections_len;
	f->img.vmdesc = vmdesc;
	f->img.vmdesc_len = sizeof(vmdesc) - 1;
	for (int b = 0; b < NBLOCKS; b++)
		for (uint64_t i = 0, n = 1; i < layout[b].npages; i++, n--) {
			m->state[b][i] = i ? m->state[b][i - 1] :
					     GW_PAGE_DATA;
			if (n == 0) {
				m->state[b][i] = test_rand(seed) % 3;
				n = 1 + test_rand(seed) % 400;
			}
			/* data that is all zero is possible too */
			if (m->state[b][i] == GW_PAGE_DATA &&
			    test_rand(seed) % 8)
				fill(page_of(m, b, i), PAGE, seed);
		}
}

static void ticked(uint64_t done, uint64_t all, void *data)
{
	CHECK(done <= all && all == 1096);
	*(uint64_t *)data = done;
}

/* Pages that are data in an image but zero are no data in the copy. */
static void settle(struct model *m)
{
	static const uint8_t zero[GW_PAGE_SIZE];

	for (int b = 0; b < NBLOCKS; b++)
		for (uint64_t i = 0; i < layout[b].npages; i++)
			if (!memcmp(page_of(m, b, i), zero, PAGE))
				m->state[b][i] = GW_PAGE_ZERO;
}

static void copies_are_complete_and_counted_alike(void)
{
	uint64_t seed = test_seed();

	for (int round = 0; round < 8; round++) {
		uint64_t start = test_rand(&seed), normal = 0, duplicate = 0;

		for (int f = 0; gw_sink_formats[f]; f++) {
			struct gw_error err = { 0 };
			uint64_t again = start, done = 0;
			struct fake fake;
			struct model m;
			struct gw_copy c = {
				.img = &fake.img,
				.threads = 1 + (unsigned int)round % 4,
				.tick = ticked,
				.data = &done,
			};

			fake_init(&fake, &m, &again);
			c.sink = gw_sink_file(gw_sink_formats[f],
					      path_of("copy"), NULL, &err);
			REQUIRE(c.sink);
			CHECK_OK(gw_image_copy(&c, &err), &err);
			CHECK(done == 1096);
			CHECK(c.normal + c.duplicate == 1096);
			CHECK(!f || (c.normal == normal &&
				     c.duplicate == duplicate));
			normal = c.normal;
			duplicate = c.duplicate;
			CHECK_OK(c.sink->ops->ready(c.sink, &err), &err);
			CHECK_OK(c.sink->ops->finish(c.sink, &err), &err);
			gw_sink_close(c.sink);
			settle(&m);
			read_back(&m, gw_sink_formats[f], path_of("copy"));
			unlink(path_of("copy"));
			model_fini(&m);
		}
	}
}

static void copies_that_fail_say_why(void)
{
	uint64_t seed = 11;

	for (int f = 0; gw_sink_formats[f]; f++)
		for (int what = 0; what < 2; what++) {
			struct gw_error err = { 0 };
			struct gw_cancel cancel;
			struct fake fake;
			struct model m;
			struct gw_copy c = { .img = &fake.img, .threads = 3 };

			REQUIRE(!gw_cancel_init(&cancel, &err));
			fake_init(&fake, &m, &seed);
			c.sink = gw_sink_file(gw_sink_formats[f],
					      path_of("copy"), NULL, &err);
			REQUIRE(c.sink);
			if (what) {
				c.cancel = &cancel;
				gw_cancel_request(&cancel);
				CHECK(gw_image_copy(&c, &err) == -ECANCELED);
				CHECK(err.fault == GW_FAULT_CANCELLED);
			} else {
				fake.fail_at = 0;
				CHECK(gw_image_copy(&c, &err) == -EIO);
				CHECK(err.fault == GW_FAULT_INPUT &&
				      !strcmp(err.msg, "page 0 is bad"));
			}
			gw_sink_close(c.sink);
			CHECK(entries() == 0);
			gw_cancel_fini(&cancel);
			model_fini(&m);
		}
}

static int bad_pages(struct gw_sink *s, int block, uint64_t first, uint32_t n,
		     const void *data, struct gw_error *err)
{
	return gw_fail(err, EDOM, "no more");
}

static void failing_sinks_end_the_copy(void)
{
	static struct gw_sink_ops ops;
	uint64_t seed = 12;

	for (int f = 0; gw_sink_formats[f]; f++) {
		struct gw_error err = { 0 };
		struct fake fake;
		struct model m;
		struct gw_copy c = { .img = &fake.img, .threads = 4 };

		fake_init(&fake, &m, &seed);
		c.sink = gw_sink_file(gw_sink_formats[f], path_of("copy"),
				      NULL, &err);
		REQUIRE(c.sink);
		ops = *c.sink->ops;
		ops.pages = bad_pages;
		c.sink->ops = &ops;
		CHECK(gw_image_copy(&c, &err) == -EDOM &&
		      !strcmp(err.msg, "no more"));
		gw_sink_close(c.sink);
		model_fini(&m);
	}
}

/* --- physical memory ---------------------------------------------------- */

static void physical_addresses_are_qemus(void)
{
	static const struct {
		const char *machine;
		uint64_t len, low;
		bool warns;
	} cases[] = {
		/* as "info mtree -f" of QEMU 10.0 has them */
		{ "pc-i440fx-10.0", 3583ULL << 20, 3583ULL << 20, false },
		{ "pc-i440fx-10.0", 3584ULL << 20, 3072ULL << 20, false },
		{ "pc-i440fx-7.2", 5ULL << 30, 3072ULL << 20, false },
		{ "pc-q35-10.0", 2815ULL << 20, 2815ULL << 20, false },
		{ "pc-q35-10.0", 2816ULL << 20, 2048ULL << 20, false },
		{ "pc-q35-noble", 4ULL << 30, 2048ULL << 20, false },
		{ "microvm", 3072ULL << 20, 3072ULL << 20, false },
		{ "microvm", 3073ULL << 20, 3072ULL << 20, false },
		{ "isapc", 3584ULL << 20, 3584ULL << 20, false },
		{ "none", 1ULL << 20, 1ULL << 20, false },
		{ "xenfv", 8ULL << 30, 8ULL << 30, true },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		static struct gw_image_desc d;
		struct gw_physmem p;

		strcpy(d.config.machine, cases[i].machine);
		d.table.n = 2;
		d.table.entry[0].used_length = 4096;
		strcpy(d.table.entry[1].idstr, "ram");
		d.table.entry[1].used_length = cases[i].len;
		CHECK(!gw_physmem_find(&d, &p, NULL));
		CHECK(p.block == 1 && p.part[0].phys == 0 &&
		      p.part[0].offset == 0 && p.part[0].len == cases[i].low);
		CHECK(p.n == 1 + (cases[i].low < cases[i].len));
		CHECK(p.part[1].phys == 4ULL << 30 &&
		      p.part[1].offset == cases[i].low &&
		      p.part[1].len == cases[i].len - cases[i].low);
		CHECK(!!p.warning[0] == cases[i].warns);
	}
}

static void second_memory_is_warned_about(void)
{
	static struct gw_image_desc d;
	struct gw_physmem p;

	CHECK(gw_physmem_find(&d, &p, NULL) == -ENOENT);
	strcpy(d.config.machine, "pc-q35-10.0");
	d.table.n = 2;
	strcpy(d.table.entry[0].idstr, "pc.ram");
	d.table.entry[0].used_length = 1ULL << 30;
	strcpy(d.table.entry[1].idstr, "dimm0");
	d.table.entry[1].used_length = 512ULL << 20;
	CHECK(!gw_physmem_find(&d, &p, NULL));
	CHECK(p.block == 0 && strstr(p.warning, "'dimm0'"));
}

/* Both parts, at their offsets; sparse, so that it costs nothing. */
static void memory_above_4g_goes_above_4g(void)
{
	static const uint8_t page[2 * GW_PAGE_SIZE] = { [0] = 1, [PAGE] = 2 };
	static const char *const formats[] = { "raw", "elf" };

	for (int f = 0; f < 2; f++) {
		static struct gw_image_desc d;
		struct gw_error err = { 0 };
		struct gw_sink *s =
			gw_sink_file(formats[f], path_of("big"), NULL, &err);
		uint64_t low = 0xc0000000, high = 4ULL << 30;
		uint8_t a, b;
		int fd;

		REQUIRE(s);
		if (f) { /* packed behind the headers */
			low += 4096;
			high = low;
		}
		strcpy(d.config.machine, "pc-i440fx-10.0");
		d.table.n = 1;
		d.table.total = d.table.entry[0].used_length = 5ULL << 30;
		strcpy(d.table.entry[0].idstr, "pc.ram");
		CHECK_OK(s->ops->begin(s, &d, &err), &err);
		/* a run across the hole */
		CHECK_OK(s->ops->pages(s, 0, 0xbffff, 2, page, &err), &err);
		CHECK_OK(s->ops->zeros(s, 0, 0, 0xbffff, &err), &err);
		CHECK_OK(s->ops->ready(s, &err), &err);
		CHECK_OK(s->ops->finish(s, &err), &err);
		gw_sink_close(s);
		fd = open(path_of("big"), O_RDONLY);
		CHECK(pread(fd, &a, 1, (off_t)(low - PAGE)) == 1 && a == 1);
		CHECK(pread(fd, &b, 1, (off_t)high) == 1 && b == 2);
		CHECK(lseek(fd, 0, SEEK_END) ==
		      (off_t)(f ? (5ULL << 30) + 4096 : 6ULL << 30));
		close(fd);
		unlink(path_of("big"));
	}
}

int main(void)
{
	strcpy(folder, "/tmp/godwit-sink-XXXXXX");
	if (!mkdtemp(folder))
		return 1;
	make_sections();
	RUN(sinks_keep_what_came_last);
	RUN(mapped_page_that_turns_zero_loses_its_bit);
	RUN(damaged_deltas_are_refused);
	RUN(raw_takes_one_block);
	RUN(unfinished_files_leave_nothing);
	RUN(old_file_stays_until_finish);
	RUN(killed_writer_leaves_nothing);
	RUN(devices_and_pipes_are_written_as_they_are);
	RUN(full_file_system_is_an_error_with_numbers);
	RUN(peer_gets_eof_last);
	RUN(lost_last_word_is_the_peers_to_judge);
	RUN(copies_are_complete_and_counted_alike);
	RUN(copies_that_fail_say_why);
	RUN(failing_sinks_end_the_copy);
	RUN(physical_addresses_are_qemus);
	RUN(second_memory_is_warned_about);
	RUN(memory_above_4g_goes_above_4g);
	RUN(bad_places_are_named);
	RUN(folders_of_others_are_refused);
	rmdir(folder);
	return test_done();
}
