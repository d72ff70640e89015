/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vmsink_test.c - a waiting VM as a sink, and a QEMU stream that arrives in
 * it over a real connection. The synthetic VM stands in for QEMU: what it is
 * fed is parsed again by the stream parser, and every byte of its memory is
 * checked.
 */
#include "test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "control/params.h"
#include "dest/accept.h"
#include "dest/vm_sink.h"
#include "page/zero.h"
#include "ram/extents.h"
#include "vm/synthetic.h"
#include "wire/stream.h"
#include "wire/vmdesc.h"

#define RAM_BYTES (4ULL << 20)
#define NPAGES	  (RAM_BYTES / GW_PAGE_SIZE)
#define NROM	  16 /* pages */

/* --- a VM that shows what it was fed ------------------------------------ */

static struct {
	uint8_t buf[4 << 20];
	size_t len;
	int begun, finished, aborted, ran, stayed;
	bool ran_first;
	const struct gw_vm_ops *real;
	struct gw_vm_ops ops;
	/* found in it */
	uint8_t rom[NROM][GW_PAGE_SIZE];
	int rom_state[NROM]; /* 0 nothing, 1 zero, 2 page */
	uint64_t mr_addr[4];
	bool return_path;
} fed;

static int feed_begin(struct gw_vm *vm, struct gw_error *err)
{
	fed.begun++;
	return fed.real->load_begin(vm, err);
}

static int feed_write(struct gw_vm *vm, const void *p, size_t len,
		      struct gw_error *err)
{
	if (fed.len + len > sizeof(fed.buf))
		return gw_fail(err, EMSGSIZE, "too much for this test");
	memcpy(fed.buf + fed.len, p, len);
	fed.len += len;
	return 0;
}

static void note(struct gw_stream *s, const struct gw_stream_event *ev)
{
	int rom = gw_ram_table_find(&s->ram.table, "rom");
	uint64_t page = ev->addr >> GW_PAGE_BITS;

	if (ev->kind == GW_STREAM_TABLE)
		for (int i = 0; i < s->ram.table.n; i++)
			fed.mr_addr[i] = s->ram.table.entry[i].mr_addr;
	if (ev->kind != GW_STREAM_PAGE && ev->kind != GW_STREAM_ZERO)
		return;
	CHECK(ev->block == rom && page < NROM); /* RAM must not be in it */
	if (ev->kind == GW_STREAM_PAGE)
		gw_read_bytes(s->r, fed.rom[page], GW_PAGE_SIZE);
	fed.rom_state[page] = ev->kind == GW_STREAM_PAGE ? 2 : 1;
}

/* As QEMU: parse all of it, take the one device there is. */
static int feed_finish(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_stream_event ev = { .kind = GW_STREAM_CONFIG };
	const char *json;
	size_t json_len, eof, at;
	struct gw_tail t = { 0 };
	struct gw_stream *s = calloc(1, sizeof(*s));
	struct gw_reader r;
	int ret = 0;

	fed.finished++;
	gw_reader_init_mem(&r, fed.buf, fed.len);
	gw_stream_init(s, &r, 0);
	while (ev.kind != GW_STREAM_TAIL) {
		if (gw_stream_next(s, &ev)) {
			free(s);
			return gw_read_check(&r, err);
		}
		note(s, &ev);
	}
	CHECK(s->config.ignore_shared && !s->config.mapped_ram);
	CHECK(s->have_end);
	fed.return_path = s->return_path;
	at = r.offset;
	free(s);
	ret = gw_tail_find_end(fed.buf + at, fed.len - at, &eof, &json,
			       &json_len, err);
	if (!ret)
		ret = gw_tail_split(&t, fed.buf + at, eof, json, json_len, err);
	if (ret)
		return ret;
	CHECK(json != NULL);
	for (int i = 0; i < t.n && !ret; i++)
		if (!strcmp(t.section[i].idstr, "synthetic"))
			ret = fed.real->load_write(
				vm, fed.buf + at + t.section[i].payload,
				t.section[i].size, err);
	gw_tail_fini(&t);
	return ret ? ret : fed.real->load_finish(vm, err);
}

static int feed_abort(struct gw_vm *vm, struct gw_error *err)
{
	fed.aborted++;
	return fed.real->load_abort(vm, err);
}

static int feed_run(struct gw_vm *vm, struct gw_error *err)
{
	fed.ran++;
	return fed.real->run(vm, err);
}

static void feed_stay(struct gw_vm *vm)
{
	fed.stayed++;
	fed.ran_first = gw_synthetic_running(vm);
}

static struct gw_vm *new_vm(bool waiting, int nblocks,
			    enum gw_synthetic_fault fault)
{
	struct gw_synthetic_config c = { .name = waiting ? "b" : "a",
					 .seed = 7,
					 .nbytes = RAM_BYTES,
					 .nblocks = nblocks,
					 .populated = 300,
					 .nthreads = 1,
					 .pages_per_s = 1000,
					 .working_set = 256,
					 .zero_percent = 10,
					 .waiting = waiting,
					 .fault = fault };
	struct gw_error err = { 0 };
	struct gw_vm *vm = gw_synthetic_open(&c, &err);

	if (!vm) {
		printf("%s\n", err.msg);
		exit(1);
	}
	if (!waiting)
		return vm;
	memset(&fed, 0, sizeof(fed));
	fed.real = vm->ops;
	fed.ops = *vm->ops;
	fed.ops.load_begin = feed_begin;
	fed.ops.load_write = feed_write;
	fed.ops.load_finish = feed_finish;
	fed.ops.load_abort = feed_abort;
	fed.ops.run = feed_run;
	fed.ops.stay = feed_stay;
	vm->ops = &fed.ops;
	return vm;
}

/* --- an image ----------------------------------------------------------- */

struct image {
	struct gw_image_desc d;
	uint8_t *sections;
	size_t len;
	struct gw_vm *vm; /* whose it is; stands */
};

static int append(void *arg, const void *p, size_t len, struct gw_error *err)
{
	struct image *m = arg;

	m->sections = realloc(m->sections, m->len + len);
	memcpy(m->sections + m->len, p, len);
	m->len += len;
	return 0;
}

static int append_iov(void *arg, struct iovec *iov, int niov,
		      struct gw_error *err)
{
	for (int i = 0; i < niov; i++)
		append(arg, iov[i].iov_base, iov[i].iov_len, err);
	return 0;
}

static void put_full(struct image *m, uint32_t id, const char *idstr,
		     const void *p, size_t len)
{
	struct gw_section s = { .id = id, .version_id = 1 };
	struct gw_writer w;

	snprintf(s.idstr, sizeof(s.idstr), "%s", idstr);
	gw_writer_init(&w, append_iov, m);
	gw_section_put_long(&w, GW_ITEM_SECTION_FULL, &s);
	gw_write_bytes(&w, p, len);
	gw_section_put_footer(&w, id);
	CHECK(!gw_write_flush(&w, NULL));
}

/* @runstate NULL: no such section. */
static void make_image(struct image *m, int nblocks, const char *runstate)
{
	uint8_t global[104] = { 0 };
	struct gw_error err = { 0 };
	struct image state = { 0 };
	bool stopped;

	memset(m, 0, sizeof(*m));
	m->vm = new_vm(false, nblocks, GW_SYNTHETIC_SOUND);
	CHECK(!m->vm->ops->save_poll(m->vm, 0, &stopped, &err));
	CHECK(!m->vm->ops->save_read(m->vm, true, append, &state, &err));
	CHECK(!gw_ram_map(&m->vm->ram, false, &err));
	strcpy(m->d.config.machine, "synthetic");
	for (int i = 0; i < nblocks; i++) {
		strcpy(m->d.table.entry[i].idstr, m->vm->ram.block[i].idstr);
		m->d.table.entry[i].used_length = RAM_BYTES;
	}
	strcpy(m->d.table.entry[nblocks].idstr, "rom");
	m->d.table.entry[nblocks].used_length = NROM * GW_PAGE_SIZE;
	m->d.table.n = nblocks + 1;
	m->d.table.total = (uint64_t)nblocks * RAM_BYTES + NROM * GW_PAGE_SIZE;
	put_full(m, 3, "synthetic", state.sections, state.len);
	free(state.sections);
	if (!runstate)
		return;
	gw_put_be32(global, (uint32_t)strlen(runstate) + 1);
	strcpy((char *)global + 4, runstate);
	put_full(m, 9, "globalstate", global, sizeof(global));
}

static void free_image(struct image *m)
{
	gw_vm_close(m->vm);
	free(m->sections);
}

/* Every page of RAM, as a source would: zero ones as such. */
static void send_ram(struct image *m, struct gw_sink *s)
{
	struct gw_error err = { 0 };
	uint64_t normal = 0, zero = 0;

	for (int i = 0; i < m->vm->ram.nblocks; i++)
		CHECK_OK(gw_sink_write(s, i, 0, NPAGES, m->vm->ram.block[i].host,
				       &normal, &zero, &err), &err);
	CHECK(normal && zero);
}

static struct gw_sink *open_sink(struct gw_vm *vm, bool paused)
{
	struct gw_sink_vm_options o = { .paused = paused };
	struct gw_error err = { 0 };
	struct gw_sink *s = gw_sink_vm(vm, &o, &err);

	CHECK(s != NULL);
	return s;
}

static uint64_t in_use(struct gw_vm *vm)
{
	struct gw_error err = { 0 };
	uint64_t n, all = 0;

	for (int i = 0; i < vm->ram.nblocks; i++) {
		CHECK(!gw_extent_total(&vm->ram.block[i], &n, &err));
		all += n;
	}
	return all;
}

/* --- the sink ----------------------------------------------------------- */

static void whole(const char *runstate, bool paused, bool runs)
{
	struct gw_vm *vm = new_vm(true, 1, GW_SYNTHETIC_SOUND);
	uint8_t page[GW_PAGE_SIZE];
	struct gw_error err = { 0 };
	struct gw_sink *s;
	struct image m;

	make_image(&m, 1, runstate);
	s = open_sink(vm, paused);
	CHECK_OK(s->ops->begin(s, &m.d, &err), &err);
	send_ram(&m, s);
	memset(page, 0x11, sizeof(page));
	CHECK(!s->ops->pages(s, 1, 3, 1, page, &err));
	CHECK(!s->ops->pass(s, false, &err));
	memset(page, 0x22, sizeof(page)); /* the last one counts */
	CHECK(!s->ops->pages(s, 1, 3, 1, page, &err));
	CHECK(!s->ops->zeros(s, 1, 5, 2, &err));
	CHECK(!s->ops->pages(s, 1, 6, 1, page, &err));
	CHECK(!s->ops->pages(s, 1, 7, 1, page, &err));
	CHECK(!s->ops->zeros(s, 1, 7, 1, &err));
	CHECK(fed.begun == 0);
	CHECK_OK(s->ops->pass(s, true, &err), &err);
	CHECK(fed.begun == 1);
	/* RAM is final: nothing may be placed any more. */
	CHECK(s->ops->pages(s, 0, 0, 1, page, &err) == -EPROTO);
	CHECK(s->ops->zeros(s, 0, 0, 1, &err) == -EPROTO);
	CHECK(s->ops->delta(s, 0, 0, "", 0, &err) == -EPROTO);
	CHECK_OK(s->ops->device(s, m.sections, m.len, NULL, 0, &err), &err);
	CHECK_OK(s->ops->ready(s, &err), &err);
	CHECK(!gw_synthetic_running(vm));
	CHECK(fed.return_path && fed.mr_addr[0] == 0);
	CHECK(fed.rom_state[0] == 0 && fed.rom_state[3] == 2 &&
	      fed.rom_state[5] == 1 && fed.rom_state[6] == 2 &&
	      fed.rom_state[7] == 1);
	CHECK(fed.rom[3][0] == 0x22 && fed.rom[6][4095] == 0x22);
	CHECK_OK(gw_synthetic_check(vm, &err), &err);
	CHECK_OK(s->ops->finish(s, &err), &err);
	CHECK(gw_sink_vm_runs(s) == runs && gw_synthetic_running(vm) == runs);
	CHECK(fed.stayed == 1 && fed.ran_first == runs);
	gw_sink_close(s);
	CHECK(fed.aborted == 0 && gw_synthetic_running(vm) == runs);
	CHECK_OK(gw_synthetic_check(vm, &err), &err);
	gw_vm_close(vm);
	free_image(&m);
}

static void an_image_becomes_a_vm(void)
{
	whole("running", false, true);
	whole(NULL, false, true);
	whole("suspended", false, true);
	whole("paused", false, false);
	whole("running", true, false);
}

static void deltas_apply_to_the_vms_own_memory(void)
{
	struct gw_vm *vm = new_vm(true, 1, GW_SYNTHETIC_SOUND);
	struct gw_error err = { 0 };
	struct gw_sink *s = open_sink(vm, false);
	uint8_t data[GW_PAGE_SIZE], *p;
	/* unchanged 1, changed 2: "AB" */
	const uint8_t delta[] = { 1, 2, 'A', 'B' };
	struct image m;

	make_image(&m, 1, NULL);
	CHECK(!s->ops->begin(s, &m.d, &err));
	CHECK(in_use(vm) == 0);
	memset(data, 0x33, GW_PAGE_SIZE);
	CHECK_OK(s->ops->pages(s, 0, 9, 1, data, &err), &err);
	p = vm->ram.block[0].host + 9 * GW_PAGE_SIZE;
	CHECK(!s->ops->delta(s, 0, 9, delta, sizeof(delta), &err));
	CHECK(p[0] == 0x33 && p[1] == 'A' && p[2] == 'B' && p[3] == 0x33);
	/* RAM begins as zeros, so a delta may be the first there is. */
	CHECK(!s->ops->delta(s, 0, 10, delta, sizeof(delta), &err));
	CHECK(p[GW_PAGE_SIZE] == 0 && p[GW_PAGE_SIZE + 1] == 'A');
	CHECK(!s->ops->zeros(s, 0, 0, NPAGES, &err));
	CHECK(gw_page_is_zero(p) && gw_page_is_zero(p + GW_PAGE_SIZE));
	CHECK(in_use(vm) == 2 * GW_PAGE_SIZE); /* the rest was not touched */
	/* Of a ROM nobody knows what the other side has. */
	CHECK(s->ops->delta(s, 1, 0, delta, sizeof(delta), &err) == -EPROTO);
	CHECK(err.fault == GW_FAULT_INPUT && strstr(err.msg, "never came whole"));
	memset(data, 0x44, sizeof(data));
	CHECK(!s->ops->pages(s, 1, 0, 1, data, &err));
	CHECK(!s->ops->delta(s, 1, 0, delta, sizeof(delta), &err));
	CHECK(!s->ops->zeros(s, 1, 1, 1, &err));
	CHECK(!s->ops->delta(s, 1, 1, delta, sizeof(delta), &err));
	CHECK(s->ops->delta(s, 0, 9, "\xff", 1, &err) == -EPROTO);
	CHECK(strstr(err.msg, "is damaged"));
	gw_sink_close(s);
	CHECK(in_use(vm) == 0 && fed.begun == 0 && fed.aborted == 0);
	gw_vm_close(vm);
	free_image(&m);
}

/* begin() refuses; the VM's memory was not touched for it. */
static void misfit(int nblocks, int image_blocks,
		   void (*change)(struct image *m), const char *text)
{
	struct gw_vm *vm = new_vm(true, nblocks, GW_SYNTHETIC_SOUND);
	struct gw_error err = { 0 };
	struct gw_sink *s = open_sink(vm, false);
	struct image m;

	CHECK(!gw_ram_map(&vm->ram, true, &err));
	memset(vm->ram.block[0].host, 1, 1);
	make_image(&m, image_blocks, NULL);
	if (change)
		change(&m);
	CHECK(s->ops->begin(s, &m.d, &err) < 0);
	CHECK(err.fault == GW_FAULT_REFUSED && strstr(err.msg, text));
	if (!strstr(err.msg, text))
		printf("%s\n", err.msg);
	gw_sink_close(s);
	CHECK(vm->ram.block[0].host[0] == 1);
	gw_vm_close(vm);
	free_image(&m);
}

static void other_machine(struct image *m)
{
	strcpy(m->d.config.machine, "pc");
}

static void other_name(struct image *m)
{
	strcpy(m->d.table.entry[0].idstr, "pc.ram");
}

static void other_length(struct image *m)
{
	m->d.table.entry[0].used_length /= 2;
}

static void huge_rom(struct image *m)
{
	m->d.table.entry[1].used_length = 1ULL << 40;
}

static void what_does_not_fit_is_refused(void)
{
	misfit(1, 1, other_machine, "a 'pc', VM 'b' is a 'synthetic'");
	misfit(1, 1, other_name, "has RAM block 'synthetic.ram0'");
	misfit(1, 1, other_length, "4194304 bytes");
	misfit(1, 1, huge_rom, "'rom' of 1099511627776 bytes");
	misfit(2, 2, NULL, "has 2 RAM blocks");
	
}

static void addresses_of_several_blocks_come_from_the_stream(void)
{
	struct gw_vm *vm = new_vm(true, 2, GW_SYNTHETIC_SOUND);
	struct gw_error err = { 0 };
	struct gw_sink *s = open_sink(vm, false);
	struct image m;

	make_image(&m, 2, NULL);
	m.d.config.ignore_shared = true;
	m.d.table.entry[1].mr_addr = 0x8000000;
	CHECK_OK(s->ops->begin(s, &m.d, &err), &err);
	send_ram(&m, s);
	CHECK(!s->ops->pass(s, true, &err));
	CHECK_OK(s->ops->device(s, m.sections, m.len, NULL, 0, &err), &err);
	CHECK_OK(s->ops->ready(s, &err), &err);
	CHECK(fed.mr_addr[0] == 0 && fed.mr_addr[1] == 0x8000000);
	CHECK_OK(gw_synthetic_check(vm, &err), &err);
	gw_sink_close(s); /* without finish: nothing remains */
	CHECK(fed.aborted == 1 && fed.ran == 0 && in_use(vm) == 0);
	gw_vm_close(vm);
	free_image(&m);
}

static void a_table_alone_is_no_image(void)
{
	for (int shared = 0; shared < 2; shared++) {
		struct gw_vm *vm = new_vm(true, 1, GW_SYNTHETIC_SOUND);
		struct gw_error err = { 0 };
		struct gw_sink *s = open_sink(vm, false);
		struct image m;

		make_image(&m, 1, NULL);
		m.d.config.ignore_shared = shared;
		CHECK(!s->ops->begin(s, &m.d, &err));
		CHECK(!s->ops->zeros(s, 0, 0, NPAGES, &err));
		CHECK(s->ops->pass(s, true, &err) < 0);
		CHECK(err.fault == GW_FAULT_INPUT);
		CHECK(strstr(err.msg, shared ? "x-ignore-shared" : "multifd"));
		gw_sink_close(s);
		CHECK(fed.begun == 0);
		gw_vm_close(vm);
		free_image(&m);
	}
}

static void what_is_kept_besides_ram_is_limited(void)
{
	struct gw_vm *vm = new_vm(true, 1, GW_SYNTHETIC_SOUND);
	uint64_t max = GW_SINK_VM_MAX_KEPT / GW_PAGE_SIZE, i;
	uint8_t page[GW_PAGE_SIZE] = { 1 };
	struct gw_error err = { 0 };
	struct gw_sink *s = open_sink(vm, false);
	struct image m;

	make_image(&m, 1, NULL);
	m.d.table.entry[1].used_length = 2 * GW_SINK_VM_MAX_KEPT;
	CHECK(!s->ops->begin(s, &m.d, &err));
	for (i = 0; i < max && !s->ops->pages(s, 1, i, 1, page, &err); i++)
		;
	CHECK(i == max);
	/* Again is fine, more is not, unless another page became zero. */
	CHECK(!s->ops->pages(s, 1, 0, 1, page, &err));
	CHECK(!s->ops->zeros(s, 1, 0, 1, &err));
	CHECK(!s->ops->pages(s, 1, max, 1, page, &err));
	CHECK(s->ops->pages(s, 1, max + 1, 1, page, &err) == -EMSGSIZE);
	CHECK(strstr(err.msg, "192 MiB") && strstr(err.msg, "'rom'"));
	gw_sink_close(s);
	gw_vm_close(vm);
	free_image(&m);
}

static void a_vm_that_was_kept_is_not_undone(void)
{
	struct gw_vm *vm = new_vm(true, 1, GW_SYNTHETIC_SOUND);
	struct gw_error err = { 0 };
	struct gw_sink *s = open_sink(vm, false);
	struct image m;

	make_image(&m, 1, "running");
	CHECK(!s->ops->begin(s, &m.d, &err));
	send_ram(&m, s);
	CHECK(!s->ops->pass(s, true, &err));
	CHECK(!s->ops->device(s, m.sections, m.len, NULL, 0, &err));
	CHECK(!s->ops->ready(s, &err));
	s->ops->keep(s);
	gw_sink_close(s);
	CHECK(fed.aborted == 0 && fed.ran == 0 && !gw_synthetic_running(vm));
	CHECK_OK(gw_synthetic_check(vm, &err), &err);
	gw_vm_close(vm);
	free_image(&m);
}

/* --- a stream that arrives ---------------------------------------------- */

enum ending {
	CLOSES,	      /* reads SHUT and closes, as QEMU */
	STAYS,	      /* never closes */
	LEAVES_EARLY, /* ends when it has sent everything, reads nothing */
	RESETS,	      /* resets when SHUT is there, without reading it */
	CUTS,	      /* ends in the middle of RAM */
	CUTS_DEVICE,  /* ends in the middle of the device state */
	ASKS,	      /* PING behind the last section, before EOF */
	ASKS_TOO_EARLY,
};

struct source {
	struct image m;
	int fd;
	enum ending how;
	bool return_path, describe;
	uint32_t shut; /* 99: none came */
	uint32_t pong[4];
	int npongs;
	int64_t patience_ms;
};

static int to_fd(void *arg, struct iovec *iov, int niov, struct gw_error *err)
{
	struct source *s = arg;

	for (int i = 0; i < niov; i++)
		for (size_t at = 0; at < iov[i].iov_len;) {
			ssize_t n = send(s->fd, (char *)iov[i].iov_base + at,
					 iov[i].iov_len - at, MSG_NOSIGNAL);

			if (n < 0)
				return gw_fail_errno(err, errno, "send");
			at += (size_t)n;
		}
	return 0;
}

static ssize_t from_fd(void *arg, const struct iovec *iov, int niov,
		       struct gw_error *err)
{
	struct source *s = arg;

	return readv(s->fd, iov, niov);
}

static void put_ram(struct source *s, struct gw_writer *w, bool last)
{
	struct gw_ram *ram = &s->m.vm->ram;
	struct gw_ram_encoder e = { NULL };

	gw_section_put_short(w, last ? GW_ITEM_SECTION_END :
				       GW_ITEM_SECTION_PART, 7);
	for (uint64_t i = 0; i < NPAGES && !last; i++) {
		const uint8_t *p = ram->block[0].host + i * GW_PAGE_SIZE;

		if (s->how == CUTS && i == NPAGES / 8)
			return;
		if (gw_page_is_zero(p))
			gw_ram_put_zero(w, &e, ram->block[0].idstr,
					i * GW_PAGE_SIZE);
		else
			gw_ram_put_page(w, &e, ram->block[0].idstr,
					i * GW_PAGE_SIZE, p);
	}
	gw_ram_put_eos(w);
	gw_section_put_footer(w, 7);
}

static void put_head(struct source *s, struct gw_writer *w)
{
	const struct gw_ram_table *t = &s->m.d.table;
	struct gw_section sec = { .id = 7, .idstr = "ram",
				  .version_id = GW_RAM_VERSION };

	gw_stream_put_header(w);
	gw_configuration_put(w, &s->m.d.config);
	if (s->return_path) {
		gw_command_put(w, GW_CMD_OPEN_RETURN_PATH);
		gw_command_put_ping(w, 1);
	}
	gw_section_put_long(w, GW_ITEM_SECTION_START, &sec);
	gw_ram_put_total(w, t->total);
	for (int i = 0; i < t->n; i++)
		gw_ram_put_entry(w, t->entry[i].idstr,
				 t->entry[i].used_length, NULL);
	gw_ram_put_eos(w);
	gw_section_put_footer(w, 7);
}

static void put_end(struct source *s, struct gw_writer *w)
{
	char json[512];
	int n;

	gw_write_u8(w, GW_ITEM_EOF);
	if (!s->describe)
		return;
	n = snprintf(json, sizeof(json),
		     "{\"page_size\": 4096, \"devices\": [{\"name\": \"synthetic\", \"fields\": [{\"name\": \"data\", \"size\": %zu}]}, {\"name\": \"globalstate\", \"fields\": [{\"size\": 104}]}]}",
		     20 + 4 * (size_t)NPAGES);
	gw_write_u8(w, GW_ITEM_VMDESCRIPTION);
	gw_write_be32(w, (uint32_t)n);
	gw_write_bytes(w, json, (size_t)n);
}

/* Return path until SHUT or a PONG of @value. */
static void listen_to(struct source *s, struct gw_reader *r, uint32_t value)
{
	struct gw_rp_record m;

	while (!gw_rp_get(r, &m)) {
		if (m.type == GW_RP_SHUT) {
			s->shut = m.value;
			return;
		}
		if (m.type == GW_RP_PONG && s->npongs < 4)
			s->pong[s->npongs++] = m.value;
		if (m.type == GW_RP_PONG && m.value == value)
			return;
	}
}

static void reset(int fd)
{
	struct linger l = { 1, 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
}

static void *run_source(void *arg)
{
	struct source *s = arg;
	size_t first = s->m.len - (4 + 1 + 1 + 11 + 8 + 104 + 5);
	struct gw_writer *w = malloc(sizeof(*w));
	struct gw_reader r;
	char byte;

	CHECK(!gw_reader_init(&r, from_fd, s, 4096, NULL));
	gw_writer_init(w, to_fd, s);
	put_head(s, w);
	put_ram(s, w, false);
	if (s->how == CUTS)
		goto out;
	put_ram(s, w, true);
	if (s->how == CUTS_DEVICE) {
		gw_write_bytes(w, s->m.sections, s->m.len / 2);
		goto out;
	}
	if (s->how == ASKS_TOO_EARLY) {
		gw_write_bytes(w, s->m.sections, first);
		gw_command_put_ping(w, 2);
		if (!gw_write_flush(w, NULL))
			listen_to(s, &r, 2);
		gw_write_bytes(w, s->m.sections + first, s->m.len - first);
	} else
		gw_write_bytes(w, s->m.sections, s->m.len);
	if (s->how == ASKS) {
		gw_command_put_ping(w, 2);
		if (!gw_write_flush(w, NULL))
			listen_to(s, &r, 2);
		CHECK(fed.finished == 1); /* it is loaded, */
		CHECK(fed.ran == 0);	  /* and no more than that */
	}
	put_end(s, w);
	if (gw_write_flush(w, NULL))
		goto out;
	if (s->how == RESETS) {
		CHECK(recv(s->fd, &byte, 1, MSG_PEEK) == 1);
		while (recv(s->fd, &byte, 1, MSG_PEEK) == 1 &&
		       fed.finished == 0)
			usleep(1000);
		usleep(200000); /* SHUT is there now */
		reset(s->fd);
	} else if (s->how == STAYS) {
		listen_to(s, &r, 0);
		usleep((useconds_t)s->patience_ms * 1000);
	} else if (s->return_path && s->how != LEAVES_EARLY)
		listen_to(s, &r, 0);
out:
	CHECK(s->how == CUTS || s->how == CUTS_DEVICE || !s->return_path ||
	      w->err.code == 0 || w->err.code == EPIPE ||
	      w->err.code == ECONNRESET);
	(void)!gw_write_flush(w, NULL);
	free(w);
	if (s->how == CUTS || s->how == CUTS_DEVICE) {
		shutdown(s->fd, SHUT_WR);
		listen_to(s, &r, 0);
	}
	gw_reader_fini(&r);
	close(s->fd);
	return NULL;
}

struct outcome {
	int r;
	struct gw_error err;
	struct godwit_stats stats;
};

/* Over TCP: what a reset does to an end is TCP's. */
static void arrive(struct source *s, struct gw_vm *vm, const char *set,
		   struct outcome *o)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct godwit_params p;
	struct gw_progress progress;
	struct gw_accept a = { .vm = vm, .params = &p, .progress = &progress };
	struct gw_chan *chan;
	pthread_t t;
	int port = 0;

	memset(o, 0, sizeof(*o));
	godwit_params_init(&p);
	p.idle_timeout_ns = 20 * GW_NS_PER_S;
	p.handover_timeout_ns = 20 * GW_NS_PER_S;
	if (set)
		CHECK(!gw_param_assign(&p, GW_USE_ALL, set, &o->err));
	gw_progress_init(&progress, NULL, NULL);
	a.listener = gw_chan_listen("tcp:127.0.0.1:0", &o->err);
	CHECK(a.listener && sscanf(gw_listener_uri(a.listener),
				   "tcp:127.0.0.1:%d", &port) == 1);
	to.sin_port = htons((uint16_t)port);
	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(!connect(s->fd, (struct sockaddr *)&to, sizeof(to)));
	s->shut = 99;
	chan = gw_listener_accept(a.listener, 5000, NULL, &o->err);
	CHECK(chan != NULL);
	CHECK(!pthread_create(&t, NULL, run_source, s));
	o->r = gw_accept_run(&a, chan, &o->err);
	pthread_join(t, NULL);
	gw_listener_close(a.listener);
	o->stats = progress.now;
	gw_progress_fini(&progress);
}

static void play(enum ending how, bool return_path, bool describe,
		 const char *set, int r, enum gw_fault fault, const char *text,
		 uint32_t shut)
{
	struct gw_vm *vm = new_vm(true, 1, GW_SYNTHETIC_SOUND);
	struct source s = { .how = how, .return_path = return_path,
			    .describe = describe, .patience_ms = 700 };
	struct gw_error err = { 0 };
	struct outcome o;

	make_image(&s.m, 1, "running");
	arrive(&s, vm, set, &o);
	CHECK((o.r == 0) == (r == 0));
	if (o.r && (!r || o.err.fault != fault || !strstr(o.err.msg, text)))
		printf("%d: fault %d: %s\n", (int)how, o.err.fault, o.err.msg);
	if (r) {
		CHECK(o.err.fault == fault && strstr(o.err.msg, text));
		CHECK(fed.ran == 0 && !gw_synthetic_running(vm));
		CHECK(o.stats.status == GODWIT_STATUS_FAILED);
	} else {
		CHECK(fed.ran == 1 && gw_synthetic_running(vm));
		CHECK_OK(gw_synthetic_check(vm, &err), &err);
		CHECK(o.stats.status == GODWIT_STATUS_COMPLETED);
		CHECK(o.stats.normal && o.stats.duplicate);
	}
	if (fault == GW_FAULT_UNCERTAIN) { /* kept, all of it */
		CHECK(fed.aborted == 0);
		CHECK_OK(gw_synthetic_check(vm, &err), &err);
	} else if (r)
		CHECK(in_use(vm) == 0);
	CHECK(s.shut == shut);
	if (return_path && how != LEAVES_EARLY && how != RESETS)
		CHECK(s.npongs >= 1 && s.pong[0] == 1);
	gw_vm_close(vm);
	free_image(&s.m);
}

static void a_source_that_confirms(void)
{
	play(CLOSES, true, true, NULL, 0, 0, NULL, 0);
	play(CLOSES, false, true, NULL, 0, 0, NULL, 99);
	play(ASKS, true, true, NULL, 0, 0, NULL, 0);
}

static void a_source_that_just_closes_behind_eof(void)
{
	play(CLOSES, false, false, NULL, 0, 0, NULL, 99);
}

static void a_source_that_does_not_confirm(void)
{
	play(STAYS, true, true, "handover-timeout=300ms", 1,
	     GW_FAULT_UNCERTAIN, "did not close within 300 ms", 0);
	play(RESETS, true, true, NULL, 1, GW_FAULT_UNCERTAIN,
	     "hand-over of 'b' is uncertain", 99);
}

static void a_source_that_ends_too_early(void)
{
	play(LEAVES_EARLY, true, true, NULL, 1, GW_FAULT_FAILED,
	     "the VM is the source's and runs on there", 99);
	play(CUTS, true, true, NULL, 1, GW_FAULT_FAILED, "lost the source", 1);
	play(CUTS, false, true, NULL, 1, GW_FAULT_FAILED, "lost the source",
	     99);
	play(CUTS_DEVICE, true, true, NULL, 1, GW_FAULT_FAILED, "has no end",
	     1);
	play(ASKS_TOO_EARLY, true, true, NULL, 1, GW_FAULT_INPUT,
	     "134 bytes of device state come after", 1);
}

static void a_vmm_that_cannot_load_or_run(void)
{
	struct source s = { .how = CLOSES, .return_path = true,
			    .describe = true };
	struct gw_vm *vm = new_vm(true, 1, GW_SYNTHETIC_FAIL_LOAD);
	struct outcome o;

	make_image(&s.m, 1, "running");
	arrive(&s, vm, NULL, &o);
	CHECK(o.r < 0 && o.err.fault == GW_FAULT_FAILED && s.shut == 1);
	CHECK(fed.aborted == 1 && in_use(vm) == 0);
	gw_vm_close(vm);
	/* The source gave it up: what is here is the only one. */
	vm = new_vm(true, 1, GW_SYNTHETIC_FAIL_RUN);
	s.npongs = 0;
	arrive(&s, vm, NULL, &o);
	CHECK(o.r < 0 && o.err.fault == GW_FAULT_UNCERTAIN && s.shut == 0);
	CHECK(strstr(o.err.msg, "godwit resume b"));
	CHECK(fed.aborted == 0 && in_use(vm) > 0);
	gw_vm_close(vm);
	free_image(&s.m);
}

int main(void)
{
	RUN(an_image_becomes_a_vm);
	RUN(deltas_apply_to_the_vms_own_memory);
	RUN(what_does_not_fit_is_refused);
	RUN(addresses_of_several_blocks_come_from_the_stream);
	RUN(a_table_alone_is_no_image);
	RUN(what_is_kept_besides_ram_is_limited);
	RUN(a_vm_that_was_kept_is_not_undone);
	RUN(a_source_that_confirms);
	RUN(a_source_that_just_closes_behind_eof);
	RUN(a_source_that_does_not_confirm);
	RUN(a_source_that_ends_too_early);
	RUN(a_vmm_that_cannot_load_or_run);
	return test_done();
}
