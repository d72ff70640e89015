/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * engine_test.c - whole migrations between two synthetic VMs in this process:
 * source and destination engine in a thread each, over real channels, with
 * and without faults. The destination checks every byte of its memory.
 */
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/live.h"
#include "chan/fault.h"
#include "dest/dest.h"
#include "source/source.h"
#include "vm/synthetic.h"

struct side {
	struct gw_vm *vm;
	struct gw_chan *chan;
	struct godwit_params params;
	struct gw_cancel cancel;
	struct gw_progress progress;
	const char *uri;	      /* further connections go there */
	struct gw_listener *listener; /* and come here */
	struct gw_error err;
	int r;
	/* a source: what its passes were */
	unsigned int npasses, odd;
	unsigned int enough; /* passes; then it may switch over */
};

static struct gw_synthetic_config config(bool waiting)
{
	return (struct gw_synthetic_config){
		.name = waiting ? "b" : "a",
		.seed = 42,
		.nbytes = 16 << 20,
		.nblocks = 2,
		.populated = 1500,
		.nthreads = waiting ? 2 : 2,
		.pages_per_s = 3000,
		.working_set = 1024,
		.zero_percent = 10,
		.waiting = waiting,
	};
}

static void side_init(struct side *s, const struct gw_synthetic_config *c,
		      int fd, const char *fault)
{
	memset(s, 0, sizeof(*s));
	s->vm = gw_synthetic_open(c, &s->err);
	if (!s->vm)
		printf("%s\n", s->err.msg);
	s->chan = gw_chan_from_fd(fd, c->waiting ? "source" : "destination",
				  &s->err);
	if (fault)
		s->chan = gw_chan_fault(s->chan, fault, &s->err);
	if (!s->chan)
		printf("%s: %s\n", fault, s->err.msg);
	godwit_params_init(&s->params);
	/* A busy machine must not decide whether a test passes. */
	s->params.downtime_limit_ns = 100 * GW_NS_PER_S;
	s->params.idle_timeout_ns = 20 * GW_NS_PER_S;
	s->params.handover_timeout_ns = 20 * GW_NS_PER_S;
	CHECK(!gw_cancel_init(&s->cancel, &s->err));
	gw_progress_init(&s->progress, NULL, NULL);
	s->err.code = 0;
}

static void side_fini(struct side *s)
{
	gw_vm_close(s->vm);
	gw_chan_close(s->chan);
	gw_progress_fini(&s->progress);
	gw_cancel_fini(&s->cancel);
}

/* Every page of a pass is one of these. */
static void pass_done(const struct gw_pass_count *c, void *arg)
{
	struct side *s = arg;

	s->npasses++;
	if (s->npasses == s->enough)
		s->params.downtime_limit_ns = 100 * GW_NS_PER_S;
	if (c->pages == c->normal + c->duplicate + c->skipped + c->deltas +
				c->holes)
		return;
	s->odd++;
	printf("pass %u: %" PRIu64 " pages, but %" PRIu64 " + %" PRIu64
	       " + %" PRIu64 " + %" PRIu64 " + %" PRIu64 "\n",
	       c->pass, c->pages, c->normal, c->duplicate, c->skipped,
	       c->deltas, c->holes);
}

static uint64_t pages_in_use(const struct gw_vm *vm)
{
	uint64_t sum = 0;

	for (int i = 0; i < vm->ram.nblocks; i++) {
		struct stat st;

		CHECK(!fstat(vm->ram.block[i].fd, &st));
		sum += (uint64_t)st.st_blocks / 8;
	}
	return sum;
}

static void *run_source(void *arg)
{
	struct side *s = arg;
	struct gw_source_config c = { .vm = s->vm,
				      .chan = s->chan,
				      .params = &s->params,
				      .cancel = &s->cancel,
				      .progress = &s->progress,
				      .uri = s->uri,
				      .pass_done = pass_done,
				      .pass_arg = s };

	s->r = gw_source_run(&c, &s->err);
	gw_chan_shutdown(s->chan);
	return NULL;
}

static void *run_dest(void *arg)
{
	struct side *s = arg;
	struct gw_dest_config c = { .vm = s->vm,
				    .chan = s->chan,
				    .listener = s->listener,
				    .params = &s->params,
				    .cancel = &s->cancel,
				    .progress = &s->progress };

	s->r = gw_dest_run(&c, &s->err);
	gw_chan_shutdown(s->chan);
	return NULL;
}

struct pair {
	struct side a, b;
};

static void pair_init(struct pair *p, const struct gw_synthetic_config *ca,
		      const struct gw_synthetic_config *cb, const char *fa,
		      const char *fb)
{
	int fd[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd));
	side_init(&p->a, ca, fd[0], fa);
	side_init(&p->b, cb, fd[1], fb);
}

static void pair_run(struct pair *p)
{
	pthread_t ta, tb;

	CHECK(!pthread_create(&tb, NULL, run_dest, &p->b));
	CHECK(!pthread_create(&ta, NULL, run_source, &p->a));
	pthread_join(ta, NULL);
	pthread_join(tb, NULL);
}

static void pair_fini(struct pair *p)
{
	side_fini(&p->a);
	side_fini(&p->b);
}

static void show(const struct pair *p)
{
	if (p->a.r)
		printf("  source: %d fault %d: %s\n", p->a.r, p->a.err.fault,
		       p->a.err.msg);
	if (p->b.r)
		printf("  dest:   %d fault %d: %s\n", p->b.r, p->b.err.fault,
		       p->b.err.msg);
}

/* The VM moved: it runs there, not here, and every byte is right. */
static void check_moved(struct pair *p)
{
	const struct godwit_stats *now = &p->a.progress.now;
	struct gw_error err = { 0 };

	if (p->a.r || p->b.r)
		show(p);
	CHECK(p->a.r == 0 && p->b.r == 0);
	CHECK(p->a.npasses >= 2 && !p->a.odd);
	CHECK(!gw_synthetic_running(p->a.vm));
	CHECK(gw_synthetic_running(p->b.vm));
	CHECK_OK(gw_synthetic_check(p->b.vm, &err), &err);
	CHECK(now->status == GODWIT_STATUS_COMPLETED);
	CHECK(now->precopy_bytes && now->downtime_bytes);
	CHECK(now->precopy_bytes + now->downtime_bytes == now->transferred);
}

/* It did not move: it runs here and only here. */
static void check_stayed(struct pair *p)
{
	struct gw_error err = { 0 };

	CHECK(p->a.r < 0 && p->b.r < 0);
	CHECK(gw_synthetic_running(p->a.vm));
	CHECK(!gw_synthetic_running(p->b.vm));
	CHECK_OK(gw_synthetic_check(p->a.vm, &err), &err);
}

static void move_with(const char *tracker, const char *fa, const char *fb)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	struct pair p;

	pair_init(&p, &ca, &cb, fa, fb);
	p.a.params.tracker = tracker;
	p.a.params.verify = true;
	pair_run(&p);
	check_moved(&p);
	CHECK(p.a.progress.now.verified == 2 * (16 << 20) / 4096);
	pair_fini(&p);
}

static void moves_with_pagemap_scan(void)
{
	move_with("pagemap-scan", NULL, NULL);
}

static void moves_with_uffd_wp(void)
{
	move_with("uffd-wp", NULL, NULL);
}

static void moves_over_a_slow_and_ragged_channel(void)
{
	move_with("auto", "short=1-3000,seed=3", "short=1-5000,seed=4");
	move_with("auto", "rate=60M", NULL);
}

static void moves_full_speed_writers(void)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	struct pair p;

	ca.pages_per_s = 0;
	pair_init(&p, &ca, &cb, NULL, NULL);
	p.a.params.verify = true;
	pair_run(&p);
	check_moved(&p);
	pair_fini(&p);
}

static void moves_a_paused_vm_and_leaves_it_paused(void)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	struct gw_error err = { 0 };
	bool stopped;
	struct pair p;

	pair_init(&p, &ca, &cb, NULL, NULL);
	CHECK(!p.a.vm->ops->save_poll(p.a.vm, 0, &stopped, &err));
	p.a.vm->info.running = false;
	pair_run(&p);
	show(&p);
	CHECK(!p.a.r && !p.b.r);
	CHECK(!gw_synthetic_running(p.b.vm));
	CHECK_OK(gw_synthetic_check(p.b.vm, &err), &err);
	pair_fini(&p);
}

/* Either side may ask for it, and gets it. */
static void the_destination_may_ask_for_verification(void)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	struct pair p;

	pair_init(&p, &ca, &cb, NULL, NULL);
	p.b.params.verify = true;
	pair_run(&p);
	check_moved(&p);
	CHECK(p.a.progress.now.verified == 2 * (16 << 20) / 4096);
	CHECK(p.b.progress.now.verified == 2 * (16 << 20) / 4096);
	pair_fini(&p);
}

/* Only what is populated costs anything. */
static void an_idle_vm_costs_what_it_uses(void)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	struct pair p;

	ca.nbytes = cb.nbytes = 1ULL << 30;
	ca.nthreads = cb.nthreads = 0;
	pair_init(&p, &ca, &cb, NULL, NULL);
	pair_run(&p);
	CHECK(!p.a.r && !p.b.r);
	CHECK(p.a.progress.now.normal == 2 * 1500);
	CHECK(p.a.progress.now.unpopulated == 2 * ((1 << 30) / 4096 - 1500));
	CHECK(p.a.progress.now.transferred < 2 * 1500 * 4200 + (2 << 20) + 4096);
	pair_fini(&p);
}

/* --- zero pages ---------------------------------------------------------- */

/* Bytes that are not zero, and what firmware may leave. */
static void litter(struct gw_vm *vm)
{
	uint8_t page[4096];

	memset(page, 0xa5, sizeof(page));
	memcpy(page, "RSD PTR ", 8);
	memcpy(page + 512, "_SM3_", 5);
	for (int i = 0; i < vm->ram.nblocks; i++)
		for (uint64_t at = 0; at < vm->ram.block[i].used_length;
		     at += sizeof(page))
			CHECK(pwrite(vm->ram.block[i].fd, page, sizeof(page),
				     (off_t)at) == sizeof(page));
}

static void check_same_ram(struct pair *p)
{
	uint8_t a[4096], b[4096];
	uint64_t differ = 0;

	for (int i = 0; i < p->a.vm->ram.nblocks; i++)
		for (uint64_t at = 0; at < p->a.vm->ram.block[i].used_length;
		     at += sizeof(a)) {
			CHECK(pread(p->a.vm->ram.block[i].fd, a, sizeof(a),
				    (off_t)at) == sizeof(a));
			CHECK(pread(p->b.vm->ram.block[i].fd, b, sizeof(b),
				    (off_t)at) == sizeof(b));
			differ += !!memcmp(a, b, sizeof(a));
		}
	CHECK(!differ);
}

/* Zero pages that were written, so that they are looked at: of each block
 * those from 2000 on, 500 of them. */
static void add_zero_pages(struct gw_vm *vm)
{
	static const uint8_t zero[4096];

	for (int i = 0; i < vm->ram.nblocks; i++)
		for (int k = 2000; k < 2500; k++)
			CHECK(pwrite(vm->ram.block[i].fd, zero, sizeof(zero),
				     (off_t)k * 4096) == sizeof(zero));
}

/*
 * Whatever was in the destination's memory, the guest finds there what it had:
 * also zeros that were never sent. @keep: memory that is not to be punched.
 */
static void over_litter(bool here, bool there, bool keep, bool verify)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	const struct godwit_stats *now;
	struct pair p;

	ca.nthreads = cb.nthreads = 0; /* all can be compared afterwards */
	pair_init(&p, &ca, &cb, NULL, NULL);
	add_zero_pages(p.a.vm);
	litter(p.b.vm);
	for (int i = 0; keep && i < p.b.vm->ram.nblocks; i++)
		p.b.vm->ram.block[i].keep = true;
	p.a.params.verify = verify;
	p.a.params.skip_zero_pages = here;
	p.b.params.skip_zero_pages = there;
	pair_run(&p);
	CHECK(keep ? pages_in_use(p.b.vm) == 2 * (16 << 20) / 4096 :
		     pages_in_use(p.b.vm) <= 2 * 2000);
	check_moved(&p);
	now = &p.a.progress.now;
	CHECK(now->normal == 2 * 1500);
	CHECK(now->skipped == (here && there ? 2 * 500 : 0));
	CHECK(now->duplicate == (here && there ? 0 : 2 * 500));
	CHECK(now->unpopulated == 2 * ((16 << 20) / 4096 - 2000));
	CHECK(!now->given_back);
	check_same_ram(&p);
	pair_fini(&p);
}

static void zeros_never_sent_are_zero_whatever_was_there(void)
{
	over_litter(true, true, false, true);
	over_litter(true, true, false, false);
	over_litter(true, true, true, true);
	over_litter(true, true, true, false);
}

/* Without the promise they are said. */
static void zeros_are_sent_to_a_peer_that_promises_nothing(void)
{
	over_litter(true, false, false, true);
	over_litter(false, true, false, true);
	over_litter(false, false, true, false);
}

/* The destination's RAM is empty, and then it is not: after its promise. */
static void break_promise(const struct godwit_stats *now, void *vm)
{
	static const char table[] = "FACP, left by firmware";
	struct gw_vm *b = vm;

	if (now->status == GODWIT_STATUS_ACTIVE)
		CHECK(pwrite(b->ram.block[1].fd, table, sizeof(table),
			     2222 * 4096) == sizeof(table));
}

/* So the tests above can fail, and --verify would notice. */
static void a_broken_promise_does_not_pass_verification(void)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	struct pair p;

	ca.nthreads = cb.nthreads = 0;
	pair_init(&p, &ca, &cb, NULL, NULL);
	add_zero_pages(p.a.vm);
	p.b.progress.fn = break_promise;
	p.b.progress.data = p.b.vm;
	p.a.params.verify = true;
	pair_run(&p);
	check_stayed(&p);
	CHECK(p.a.err.fault == GW_FAULT_VERIFY);
	CHECK(strstr(p.a.err.msg, "page 0x8ae of RAM block 'synthetic.ram1'"));
	CHECK(p.a.progress.now.skipped == 2 * 500);
	pair_fini(&p);
}

/* Pages of one byte each cost as much as a zero page, between godwits. */
static void a_page_of_one_byte_is_one_byte(void)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	uint8_t page[4096];
	struct pair p;

	ca.nthreads = cb.nthreads = 0;
	pair_init(&p, &ca, &cb, NULL, NULL);
	for (int k = 2000; k < 2510; k++) {
		memset(page, k % 255 + 1, sizeof(page));
		if (k >= 2500) /* not quite */
			page[(k - 2500) * 455]++;
		CHECK(pwrite(p.a.vm->ram.block[1].fd, page, sizeof(page),
			     (off_t)k * 4096) == sizeof(page));
	}
	p.a.params.verify = true;
	pair_run(&p);
	if (p.a.r || p.b.r)
		show(&p);
	CHECK(!p.a.r && !p.b.r && !p.a.odd);
	check_same_ram(&p);
	CHECK(p.a.progress.now.duplicate == 500);
	CHECK(p.a.progress.now.normal == 2 * 1500 + 10);
	pair_fini(&p);
}

/* --- memory that is given back -------------------------------------------- */

/* How a VM goes that gives memory back. */
struct way {
	const char *tracker;
	bool verify, xbzrle;
	uint32_t channels;
};

static void use_tcp(struct pair *p, struct gw_listener **l)
{
	struct gw_error err = { 0 };

	*l = gw_chan_listen("tcp:127.0.0.1:0", &err);
	REQUIRE(*l);
	gw_chan_close(p->a.chan);
	gw_chan_close(p->b.chan);
	p->a.uri = gw_listener_uri(*l);
	p->a.chan = gw_chan_connect(p->a.uri, 20000, NULL, &err);
	p->b.chan = gw_listener_accept(*l, 20000, NULL, &err);
	p->b.listener = *l;
	REQUIRE(p->a.chan && p->b.chan);
}

/*
 * Writers free pages and use them again all the time. The destination has what
 * they had, zeros where they freed; and what they freed stays freed here.
 * Return: whether enough was freed meanwhile to say so.
 */
static bool give_back_and_move(const struct way *w, uint64_t seed)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	struct gw_listener *l = NULL;
	struct gw_error err = { 0 };
	uint64_t freed, read, meanwhile;
	struct pair p;

	ca.seed = seed;
	ca.pages_per_s = cb.pages_per_s = 0; /* at full speed */
	ca.give_percent = cb.give_percent = 30;
	pair_init(&p, &ca, &cb, NULL, NULL);
	if (w->channels)
		use_tcp(&p, &l);
	p.a.params.tracker = w->tracker;
	p.a.params.verify = w->verify;
	p.a.params.xbzrle = w->xbzrle;
	p.a.params.channels = w->channels;
	p.a.params.downtime_limit_ns = 0;
	p.a.params.stall_passes = 0;
	p.a.enough = 40;
	pair_run(&p);
	if (p.a.r || p.b.r)
		show(&p);
	CHECK(!p.a.r && !p.b.r && !p.a.odd);
	CHECK_OK(gw_synthetic_check(p.b.vm, &err), &err);
	freed = gw_synthetic_given_back(p.a.vm);
	read = pages_in_use(p.a.vm) + freed;
	meanwhile = p.a.progress.now.given_back;
	printf("  %s%s%s%s: %u passes, %" PRIu64 " given back, %" PRIu64
	       " of them now, %" PRId64 " read\n",
	       w->tracker, w->verify ? ", verified" : "",
	       w->xbzrle ? ", xbzrle" : "", w->channels ? ", channels" : "",
	       p.a.npasses, meanwhile, freed, (int64_t)read - 2 * 1500);
	/* Between the look at a page and its reading it may be given back, and
	 * that may be long on a busy machine. Nobody looks: nearly all. */
	CHECK(read <= 2 * 1500 + freed / 4 + 20);
	pair_fini(&p);
	if (l)
		gw_listener_close(l);
	return meanwhile > 1000 && freed > 100;
}

static void what_is_given_back_is_neither_read_nor_kept(void)
{
	static const struct way ways[] = {
		{ "pagemap-scan", true, false, 0 },
		{ "uffd-wp", true, false, 0 },
		{ "pagemap-scan", false, true, 0 },
		{ "uffd-wp", false, false, 2 },
		{ "pagemap-scan", true, true, 2 },
		{ "uffd-wp", true, true, 2 },
	};
	uint64_t seed = test_seed();

	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		bool enough = false;

		/* On a busy machine the writers may have had no turn. */
		for (int k = 0; k < 10 && !enough; k++) {
			seed = seed * 6364136223846793005 + 1;
			enough = give_back_and_move(&ways[i], seed);
		}
		CHECK(enough);
	}
}

/* Each kind of driver failure: one VM runs, the reason reaches both. */
static void failures_leave_the_vm_at_the_source(void)
{
	static const enum gw_synthetic_fault at_source[] = {
		GW_SYNTHETIC_FAIL_SAVE_BEGIN, GW_SYNTHETIC_FAIL_SAVE_READ,
		GW_SYNTHETIC_FAIL_COMMIT
	};
	static const enum gw_synthetic_fault at_dest[] = {
		GW_SYNTHETIC_FAIL_LOAD, GW_SYNTHETIC_FAIL_RUN
	};
	struct gw_synthetic_config ca, cb;
	struct pair p;

	for (int i = 0; i < 5; i++) {
		ca = config(false);
		cb = config(true);
		if (i < 3)
			ca.fault = at_source[i];
		else
			cb.fault = at_dest[i - 3];
		pair_init(&p, &ca, &cb, NULL, NULL);
		pair_run(&p);
		check_stayed(&p);
		CHECK(strstr(p.a.err.msg, "injected fault"));
		CHECK(strstr(p.b.err.msg, "injected fault"));
		pair_fini(&p);
	}
}

static void different_vms_are_refused_by_both(void)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	struct pair p;

	cb.nbytes = 32 << 20;
	pair_init(&p, &ca, &cb, NULL, NULL);
	pair_run(&p);
	check_stayed(&p);
	CHECK(p.a.err.fault == GW_FAULT_REFUSED);
	CHECK(strstr(p.a.err.msg, "16.0 MiB") && strstr(p.b.err.msg, "32.0 MiB"));
	pair_fini(&p);
	cb = config(true);
	cb.machine = "other";
	pair_init(&p, &ca, &cb, NULL, NULL);
	pair_run(&p);
	check_stayed(&p);
	CHECK(strstr(p.a.err.msg, "machine type differs"));
	CHECK(strstr(p.b.err.msg, "machine type differs"));
	pair_fini(&p);
}

/*
 * The connection is cut after any number of bytes: never two running, never
 * none without saying so.
 */
static void a_cut_anywhere_is_survived(void)
{
	uint64_t seed = test_seed(), span = 13 << 20;
	struct gw_synthetic_config ca = config(false), cb = config(true);

	for (int i = 0; i < 40; i++) {
		uint64_t at = i < 12 ? (1ULL << i) :
				       test_rand(&seed) % span;
		bool running_a, running_b;
		char spec[64];
		struct pair p;

		snprintf(spec, sizeof(spec), "cut-%s=%" PRIu64,
			 i % 3 == 0 && i > 12 ? "read" : "write",
			 i % 3 == 0 && i > 12 ? at % 600 : at);
		ca.seed = cb.seed = seed;
		pair_init(&p, &ca, &cb, spec, NULL);
		pair_run(&p);
		running_a = gw_synthetic_running(p.a.vm);
		running_b = gw_synthetic_running(p.b.vm);
		CHECK(!(running_a && running_b));
		if (!running_a && !running_b)
			CHECK(p.a.err.fault == GW_FAULT_UNCERTAIN ||
			      p.b.err.fault == GW_FAULT_UNCERTAIN);
		if (running_a)
			CHECK(p.a.r < 0);
		if (running_b)
			CHECK(p.b.r == 0);
		pair_fini(&p);
	}
}

/* A bit flipped on the way: noticed by structure, hashes or --verify. */
static void a_corrupted_byte_never_passes_verification(void)
{
	uint64_t seed = test_seed();
	struct gw_synthetic_config ca = config(false), cb = config(true);

	ca.nthreads = cb.nthreads = 0;
	for (int i = 0; i < 20; i++) {
		struct gw_error err = { 0 };
		char spec[64];
		struct pair p;

		snprintf(spec, sizeof(spec), "corrupt-write=%" PRIu64,
			 400 + test_rand(&seed) % (11 << 20));
		pair_init(&p, &ca, &cb, spec, NULL);
		p.a.params.verify = true;
		p.a.params.idle_timeout_ns = p.b.params.idle_timeout_ns =
			2 * GW_NS_PER_S;
		pair_run(&p);
		CHECK(!(gw_synthetic_running(p.a.vm) &&
			gw_synthetic_running(p.b.vm)));
		if (!p.b.r) /* it hit what is not used: names, texts */
			CHECK_OK(gw_synthetic_check(p.b.vm, &err), &err);
		else
			CHECK(gw_synthetic_running(p.a.vm));
		pair_fini(&p);
	}
}

static void a_silent_peer_is_given_up(void)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	struct pair p;

	pair_init(&p, &ca, &cb, "hang-write=3000000", NULL);
	p.a.params.idle_timeout_ns = p.b.params.idle_timeout_ns =
		GW_NS_PER_S / 2;
	pair_run(&p);
	check_stayed(&p);
	pair_fini(&p);
}

static void *cancel_later(void *arg)
{
	struct side *s = arg;
	struct timespec t = { 0, 200 * GW_NS_PER_MS };

	nanosleep(&t, NULL);
	gw_cancel_request(&s->cancel);
	return NULL;
}

static void cancelling_tells_the_peer(void)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	pthread_t t;
	struct pair p;

	for (int who = 0; who < 2; who++) {
		pair_init(&p, &ca, &cb, NULL, NULL);
		p.a.params.max_bandwidth = 4 << 20;
		CHECK(!pthread_create(&t, NULL, cancel_later,
				      who ? &p.b : &p.a));
		pair_run(&p);
		pthread_join(t, NULL);
		check_stayed(&p);
		CHECK(p.a.err.fault == GW_FAULT_CANCELLED);
		CHECK(p.b.err.fault == GW_FAULT_CANCELLED);
		CHECK(strstr(who ? p.a.err.msg : p.b.err.msg, "the "));
		pair_fini(&p);
	}
}

static void too_busy_a_guest_stays(void)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);
	struct pair p;

	ca.pages_per_s = 0;
	pair_init(&p, &ca, &cb, NULL, NULL);
	p.a.params.max_bandwidth = 20 << 20;
	p.a.params.downtime_limit_ns = GW_NS_PER_MS;
	p.a.params.stall_passes = 2;
	pair_run(&p);
	check_stayed(&p);
	CHECK(p.a.err.fault == GW_FAULT_CONVERGE);
	CHECK(strstr(p.a.err.msg, "--max-downtime"));
	pair_fini(&p);
}

/* --- convergence ---------------------------------------------------------- */

/*
 * 16 MiB/s of two writers against a link of 8 MiB/s: nothing but slowing them
 * down, or a longer downtime, brings what is left below 4 MiB. The numbers
 * are such that a busy machine, on which they write less, changes nothing.
 */
static void pair_init_fast(struct pair *p, enum gw_synthetic_fault fault)
{
	struct gw_synthetic_config ca = config(false), cb = config(true);

	ca.pages_per_s = cb.pages_per_s = 2048;
	ca.working_set = cb.working_set = 2048;
	ca.populated = 2048;
	ca.zero_percent = 0;
	ca.fault = fault;
	pair_init(p, &ca, &cb, NULL, NULL);
	p->a.params.max_bandwidth = 8 << 20;
	p->a.params.downtime_limit_ns = GW_NS_PER_S / 4;
	p->a.params.stall_passes = 3;
}

static void check_full_speed(struct pair *p)
{
	CHECK(!gw_synthetic_throttled(p->a.vm));
	CHECK(!gw_synthetic_throttled(p->b.vm));
	CHECK(p->a.progress.now.cpu_throttle_percentage == 0);
}

static void a_fast_guest_is_given_up_with_advice(void)
{
	struct pair p;

	pair_init_fast(&p, GW_SYNTHETIC_SOUND);
	pair_run(&p);
	check_stayed(&p);
	check_full_speed(&p);
	CHECK(p.a.err.fault == GW_FAULT_CONVERGE);
	CHECK(p.b.err.fault == GW_FAULT_CONVERGE);
	CHECK(p.a.progress.now.cpu_throttle_most == 0);
	CHECK(strstr(p.a.err.msg, "(--max-downtime "));
	CHECK(strstr(p.a.err.msg, "(--auto-converge)"));
	CHECK(strstr(p.a.err.msg, "(--xbzrle)"));
	CHECK(strstr(p.a.err.msg, "--max-bandwidth, which is 8.00 MiB"));
	pair_fini(&p);
}

static void a_fast_guest_is_slowed_down_and_moves(void)
{
	struct pair p;

	pair_init_fast(&p, GW_SYNTHETIC_SOUND);
	p.a.params.auto_converge = true;
	p.a.params.cpu_throttle_increment = 30;
	pair_run(&p);
	check_moved(&p);
	check_full_speed(&p);
	CHECK(p.a.progress.now.cpu_throttle_most >= 20);
	pair_fini(&p);
}

/* Even full throttle is not enough for this: the text says so. */
static void what_throttling_cannot_help_is_given_up(void)
{
	struct pair p;

	pair_init_fast(&p, GW_SYNTHETIC_SOUND);
	p.a.params.auto_converge = true;
	p.a.params.max_cpu_throttle = 25;
	p.a.params.downtime_limit_ns = 0;
	pair_run(&p);
	check_stayed(&p);
	check_full_speed(&p);
	CHECK(p.a.err.fault == GW_FAULT_CONVERGE);
	CHECK(p.a.progress.now.cpu_throttle_most == 25);
	CHECK(strstr(p.a.err.msg, "though 25 percent of its CPU time"));
	CHECK(!strstr(p.a.err.msg, "--auto-converge"));
	pair_fini(&p);
}

static void a_throttle_that_fails_fails_nothing_else(void)
{
	struct pair p;

	pair_init_fast(&p, GW_SYNTHETIC_FAIL_THROTTLE);
	p.a.params.auto_converge = true;
	pair_run(&p);
	check_stayed(&p);
	check_full_speed(&p);
	CHECK(p.a.err.fault == GW_FAULT_CONVERGE);
	CHECK(strstr(p.a.err.msg, "could not be slowed down (injected"));
	pair_fini(&p);
	/* Where it is not needed in the end, nobody hears of it. */
	pair_init_fast(&p, GW_SYNTHETIC_FAIL_THROTTLE);
	p.a.params.auto_converge = true;
	p.a.params.max_downtime_ns = 100 * GW_NS_PER_S;
	pair_run(&p);
	check_moved(&p);
	pair_fini(&p);
}

static void the_most_downtime_is_taken_before_giving_up(void)
{
	struct pair p;

	pair_init_fast(&p, GW_SYNTHETIC_SOUND);
	p.a.params.max_downtime_ns = 100 * GW_NS_PER_S;
	pair_run(&p);
	check_moved(&p);
	check_full_speed(&p);
	CHECK(p.a.progress.now.pass > p.a.params.stall_passes);
	CHECK(p.a.progress.now.cpu_throttle_most == 0);
	pair_fini(&p);
}

/* Until @s is throttled (or over), then cancel it, or let it loose. */
static void *after_throttle(struct side *s)
{
	struct timespec step = { 0, 5 * GW_NS_PER_MS };

	for (;;) {
		struct godwit_stats now;

		gw_progress_get(&s->progress, &now);
		if (now.cpu_throttle_percentage ||
		    now.status >= GODWIT_STATUS_COMPLETED)
			return NULL;
		nanosleep(&step, NULL);
	}
}

static void *cancel_throttled(void *arg)
{
	struct side *s = arg;

	after_throttle(s);
	gw_cancel_request(&s->cancel);
	return NULL;
}

static void cancelling_ends_the_throttle(void)
{
	pthread_t t;
	struct pair p;

	pair_init_fast(&p, GW_SYNTHETIC_SOUND);
	p.a.params.auto_converge = true;
	p.a.params.downtime_limit_ns = 0;
	CHECK(!pthread_create(&t, NULL, cancel_throttled, &p.a));
	pair_run(&p);
	pthread_join(t, NULL);
	check_stayed(&p);
	check_full_speed(&p);
	CHECK(p.a.err.fault == GW_FAULT_CANCELLED);
	CHECK(p.a.progress.now.cpu_throttle_most >= 20);
	pair_fini(&p);
}

static void *open_the_link(void *arg)
{
	struct timespec t = { 0, 300 * GW_NS_PER_MS };
	struct side *s = arg;

	nanosleep(&t, NULL);
	GW_LIVE_SET(s->params.downtime_limit_ns, 100 * GW_NS_PER_S);
	GW_LIVE_SET(s->params.max_bandwidth, 0);
	return NULL;
}

/* In the middle of a pass that would take ten minutes. */
static void another_bandwidth_counts_at_once(void)
{
	pthread_t t;
	struct pair p;
	int64_t began = gw_now_ns();

	pair_init_fast(&p, GW_SYNTHETIC_SOUND);
	p.a.params.max_bandwidth = 16 << 10;
	p.a.params.downtime_limit_ns = 0;
	CHECK(!pthread_create(&t, NULL, open_the_link, &p.a));
	pair_run(&p);
	pthread_join(t, NULL);
	check_moved(&p);
	CHECK(gw_now_ns() - began < 100 * GW_NS_PER_S);
	pair_fini(&p);
}

int main(void)
{
	RUN(moves_with_pagemap_scan);
	RUN(moves_with_uffd_wp);
	RUN(moves_over_a_slow_and_ragged_channel);
	RUN(moves_full_speed_writers);
	RUN(moves_a_paused_vm_and_leaves_it_paused);
	RUN(the_destination_may_ask_for_verification);
	RUN(an_idle_vm_costs_what_it_uses);
	RUN(zeros_never_sent_are_zero_whatever_was_there);
	RUN(zeros_are_sent_to_a_peer_that_promises_nothing);
	RUN(a_broken_promise_does_not_pass_verification);
	RUN(a_page_of_one_byte_is_one_byte);
	RUN(what_is_given_back_is_neither_read_nor_kept);
	RUN(failures_leave_the_vm_at_the_source);
	RUN(different_vms_are_refused_by_both);
	RUN(a_cut_anywhere_is_survived);
	RUN(a_corrupted_byte_never_passes_verification);
	RUN(a_silent_peer_is_given_up);
	RUN(cancelling_tells_the_peer);
	RUN(too_busy_a_guest_stays);
	RUN(a_fast_guest_is_given_up_with_advice);
	RUN(a_fast_guest_is_slowed_down_and_moves);
	RUN(what_throttling_cannot_help_is_given_up);
	RUN(a_throttle_that_fails_fails_nothing_else);
	RUN(the_most_downtime_is_taken_before_giving_up);
	RUN(cancelling_ends_the_throttle);
	RUN(another_bandwidth_counts_at_once);
	return test_done();
}
