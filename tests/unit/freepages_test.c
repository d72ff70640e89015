/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * freepages_test.c - whole migrations of synthetic VMs whose writers free and
 * reuse pages all the time, while hints about them arrive: by the API's rules,
 * by the balloon's protocol, late, to old questions, and as lies.
 */
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "chan/fault.h"
#include "dest/dest.h"
#include "hint/balloon.h"
#include "source/source.h"
#include "vm/synthetic.h"

#define NBYTES	(32ULL << 20)
#define NPAGES	(NBYTES >> 12)
#define NBLOCKS 2

struct side {
	struct gw_vm *vm;
	struct gw_chan *chan;
	struct godwit_params params;
	struct gw_progress progress;
	struct gw_error err;
	int r;
};

/* A guest that is asked, and the migration that asks. */
struct guest {
	struct side a, b;
	struct gw_hint hint;
	struct gw_balloon balloon;
	pthread_t driver;
	void *(*drive)(void *);
	uint32_t asked; /* atomic; the id, 0: not now */
	uint32_t old_id;
	bool over; /* atomic */
	uint64_t given; /* pages, by the driver */
};

static struct gw_synthetic_config config(bool waiting, uint64_t seed)
{
	return (struct gw_synthetic_config){
		.name = waiting ? "b" : "a",
		.seed = seed,
		.nbytes = NBYTES,
		.nblocks = NBLOCKS,
		.populated = NPAGES - 500,
		.nthreads = 2,
		.pages_per_s = 20000,
		.working_set = NPAGES,
		.zero_percent = 10,
		.free_percent = 40,
		.waiting = waiting,
	};
}

static void side_init(struct side *s, const struct gw_synthetic_config *c,
		      int fd, const char *fault)
{
	s->vm = gw_synthetic_open(c, &s->err);
	s->chan = gw_chan_from_fd(fd, "peer", &s->err);
	if (fault)
		s->chan = gw_chan_fault(s->chan, fault, &s->err);
	CHECK(s->vm && s->chan);
	godwit_params_init(&s->params);
	s->params.downtime_limit_ns = 100 * GW_NS_PER_S;
	s->params.idle_timeout_ns = 60 * GW_NS_PER_S;
	s->params.handover_timeout_ns = 60 * GW_NS_PER_S;
	gw_progress_init(&s->progress, NULL, NULL);
	s->err.code = 0;
}

static void side_fini(struct side *s)
{
	gw_vm_close(s->vm);
	gw_chan_close(s->chan);
	gw_progress_fini(&s->progress);
}

static uint32_t asked(struct guest *g)
{
	return __atomic_load_n(&g->asked, __ATOMIC_SEQ_CST);
}

static void wanted(uint32_t id, void *data)
{
	struct guest *g = data;

	__atomic_store_n(&g->asked, id, __ATOMIC_SEQ_CST);
}

static void *run_source(void *arg)
{
	struct guest *g = arg;
	struct gw_source_config c = { .vm = g->a.vm,
				      .chan = g->a.chan,
				      .hint = &g->hint,
				      .params = &g->a.params,
				      .progress = &g->a.progress };

	g->a.r = gw_source_run(&c, &g->a.err);
	gw_chan_shutdown(g->a.chan);
	return NULL;
}

static void *run_dest(void *arg)
{
	struct guest *g = arg;
	struct gw_dest_config c = { .vm = g->b.vm,
				    .chan = g->b.chan,
				    .params = &g->b.params,
				    .progress = &g->b.progress };

	g->b.r = gw_dest_run(&c, &g->b.err);
	gw_chan_shutdown(g->b.chan);
	return NULL;
}

/* As @ca and @cb say, with what @drive does as the guest's driver; @rate slows
 * the bulk pass down so that hints come in time. */
static void guest_init(struct guest *g, const struct gw_synthetic_config *ca,
		       const struct gw_synthetic_config *cb, const char *rate,
		       void *(*drive)(void *))
{
	int fd[2];

	memset(g, 0, sizeof(*g));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd));
	side_init(&g->a, ca, fd[0], rate);
	side_init(&g->b, cb, fd[1], NULL);
	g->a.params.verify = true;
	gw_hint_init(&g->hint);
	g->hint.wanted = wanted;
	g->hint.data = g;
	g->drive = drive;
}

static void guest_move(struct guest *g)
{
	pthread_t ta, tb;

	CHECK(!pthread_create(&g->driver, NULL, g->drive, g));
	CHECK(!pthread_create(&tb, NULL, run_dest, g));
	CHECK(!pthread_create(&ta, NULL, run_source, g));
	pthread_join(ta, NULL);
	pthread_join(tb, NULL);
	__atomic_store_n(&g->over, true, __ATOMIC_SEQ_CST);
	pthread_join(g->driver, NULL);
	if (g->a.r || g->b.r)
		printf("source: %s\ndest: %s\n", g->a.err.msg, g->b.err.msg);
}

static void guest_fini(struct guest *g)
{
	side_fini(&g->a);
	side_fini(&g->b);
	gw_hint_fini(&g->hint);
}

/* It runs there, every byte that the guest cares for is right, and the numbers
 * add up. */
static void check_moved(struct guest *g)
{
	const struct godwit_stats *n = &g->a.progress.now;
	struct gw_error err = { 0 };

	CHECK(!g->a.r && !g->b.r);
	CHECK(!gw_synthetic_running(g->a.vm));
	CHECK(gw_synthetic_running(g->b.vm));
	CHECK_OK(gw_synthetic_check(g->b.vm, &err), &err);
	CHECK(n->hint_asked);
	CHECK(n->hinted_absent <= n->hinted);
	CHECK(n->verified + n->hinted_absent == NBLOCKS * NPAGES);
	CHECK(!n->remaining);
}

/* --- by the rules ---------------------------------------------------------- */

static bool over(struct guest *g)
{
	return __atomic_load_n(&g->over, __ATOMIC_SEQ_CST);
}

static uint32_t wait_for_question(struct guest *g)
{
	struct timespec t = { .tv_nsec = 200000 };
	uint32_t id;

	while (!(id = asked(g)) && !over(g))
		nanosleep(&t, NULL);
	return id;
}

/* Say once, for every page, whether it is free; it may be used again before,
 * while and after that is heard. */
static void *honest_driver(void *arg)
{
	struct guest *g = arg;
	uint32_t id = wait_for_question(g);

	for (int b = 0; id && b < NBLOCKS; b++)
		for (uint64_t p = NPAGES; p-- > 0;)
			if (gw_synthetic_is_free(g->a.vm, b, p))
				g->given += !gw_hint_free_at(&g->hint, id, b,
							     p << 12, 4096);
	return NULL;
}

#define BATCH 256

/*
 * Over and over, as long as the migration takes: look, after it was asked, and
 * say so some time later, when the guest may have used the page again and a
 * scan may have seen that.
 */
static void *slow_driver(void *arg)
{
	struct { int block; uint64_t page; } found[BATCH];
	struct guest *g = arg;
	uint64_t seed = 7;

	while (!over(g)) {
		struct timespec t = { .tv_nsec = test_rand(&seed) % 60000000 };
		uint32_t id = asked(g);
		int n = 0;

		if (id)
			g->old_id = id;
		for (int i = 0; i < 20 * BATCH && n < BATCH; i++) {
			int b = (int)(test_rand(&seed) % NBLOCKS);
			uint64_t p = test_rand(&seed) % NPAGES;

			found[n].block = b;
			found[n].page = p;
			n += gw_synthetic_is_free(g->a.vm, b, p);
		}
		nanosleep(&t, NULL);
		while (n-- > 0)
			g->given += !gw_hint_free_at(&g->hint, g->old_id,
						     found[n].block,
						     found[n].page << 12,
						     4096);
	}
	return NULL;
}

static void move(void *(*drive)(void *), const char *tracker, uint64_t seed)
{
	struct gw_synthetic_config ca = config(false, seed);
	struct gw_synthetic_config cb = config(true, seed);
	struct guest g;

	guest_init(&g, &ca, &cb, "rate=200M", drive);
	g.a.params.tracker = tracker;
	guest_move(&g);
	check_moved(&g);
	CHECK(g.a.progress.now.hinted > 0);
	printf("  %" PRIu64 " hints taken, %" PRIu64 " pages hinted, %" PRIu64
	       " late, %" PRIu64 " stale, %" PRIu64 " never sent, %u passes\n",
	       g.given, g.a.progress.now.hinted,
	       g.a.progress.now.hinted_late, g.a.progress.now.hinted_stale,
	       g.a.progress.now.hinted_absent, g.a.progress.now.pass);
	guest_fini(&g);
}

static void a_guest_that_frees_and_reuses_is_moved_whole(void)
{
	uint64_t seed = test_seed();

	for (int i = 0; i < 4; i++) {
		const char *t = i & 1 ? "uffd-wp" : "pagemap-scan";

		move(honest_driver, t, test_rand(&seed));
		move(slow_driver, t, test_rand(&seed));
	}
}

/* --- by the balloon's protocol --------------------------------------------- */

static uint64_t map(void *arg, uint64_t addr, uint64_t len, const char **block,
		    uint64_t *offset)
{
	static const char *const name[] = { "synthetic.ram0",
					    "synthetic.ram1" };

	if (addr >= NBLOCKS * NBYTES)
		return 0;
	*block = name[addr / NBYTES];
	*offset = addr % NBYTES;
	return len < NBYTES - *offset ? len : NBYTES - *offset;
}

static const struct gw_balloon_ops balloon_ops = { NULL, map };

static void balloon_wanted(uint32_t id, void *data)
{
	struct guest *g = data;

	if (id)
		gw_balloon_begin(&g->balloon, &g->hint, id);
	else
		gw_balloon_stop(&g->balloon);
}

static void put_id(struct guest *g, uint32_t id)
{
	uint8_t le[4] = { (uint8_t)id, (uint8_t)(id >> 8), (uint8_t)(id >> 16),
			  (uint8_t)(id >> 24) };

	gw_balloon_out(&g->balloon, le, 4);
}

/*
 * A driver as Linux has it, but that it does not keep what it hinted: the
 * writers use those pages again at once. Some of its buffers come late, to
 * ids that are over, or are nothing at all.
 */
static void *balloon_driver(void *arg)
{
	struct guest *g = arg;
	uint64_t seed = 11, total = NBLOCKS * NPAGES;

	while (!over(g)) {
		uint32_t id = gw_balloon_cmd_id(&g->balloon);

		if (id == GW_BALLOON_CMD_STOP || id == GW_BALLOON_CMD_DONE) {
			/* late buffers of the question before */
			put_id(g, g->old_id);
			gw_balloon_in(&g->balloon,
				      test_rand(&seed) % total << 12, 4096);
			continue;
		}
		put_id(g, 0x80000000u | (uint32_t)test_rand(&seed));
		gw_balloon_in(&g->balloon, 0, NBLOCKS * NBYTES); /* a lie, to
							nobody's question */
		gw_balloon_out(&g->balloon, &seed, 8);
		put_id(g, id);
		g->old_id = id;
		for (uint64_t p = 0; p < total; p++)
			if (gw_synthetic_is_free(g->a.vm, (int)(p / NPAGES),
						 p % NPAGES))
				gw_balloon_in(&g->balloon, p << 12, 4096);
		gw_balloon_in(&g->balloon, total << 12, 1 << 20);
		put_id(g, GW_BALLOON_CMD_STOP);
	}
	return NULL;
}

static void a_balloon_hints_what_is_reused(void)
{
	uint64_t seed = test_seed();
	struct gw_balloon_stats s;

	for (int i = 0; i < 4; i++) {
		struct gw_synthetic_config ca = config(false, seed + i);
		struct gw_synthetic_config cb = config(true, seed + i);
		struct guest g;

		guest_init(&g, &ca, &cb, "rate=200M", balloon_driver);
		g.hint.wanted = balloon_wanted;
		gw_balloon_init(&g.balloon, &balloon_ops, &g);
		guest_move(&g);
		check_moved(&g);
		CHECK(g.a.progress.now.hinted > 0);
		CHECK(gw_balloon_cmd_id(&g.balloon) == GW_BALLOON_CMD_STOP);
		gw_balloon_done(&g.balloon);
		gw_balloon_get_stats(&g.balloon, &s);
		CHECK(s.ranges > 0 && s.ignored > 0);
		gw_balloon_fini(&g.balloon);
		guest_fini(&g);
	}
}

/* --- what it saves, what a lie costs --------------------------------------- */

/* Half of what is populated is hinted at once, before a page is sent. */
static void half_wanted(uint32_t id, void *data)
{
	struct guest *g = data;

	for (uint64_t p = 0; id && p < 4000; p += 2)
		CHECK(!gw_hint_free(&g->hint, id, "synthetic.ram1", p << 12,
				    4096));
}

static void *nobody(void *arg)
{
	return NULL;
}

/*
 * A guest that says of pages it uses that they are free loses those, to zeros,
 * and nothing else. This also shows that the tests above can fail.
 */
static void a_lie_costs_the_liar_its_own_pages(void)
{
	struct gw_synthetic_config ca = config(false, 5), cb = config(true, 5);
	struct gw_error err = { 0 };
	struct guest g;

	ca.populated = 4000;
	ca.nthreads = cb.nthreads = 0;
	guest_init(&g, &ca, &cb, NULL, nobody);
	g.hint.wanted = half_wanted;
	guest_move(&g);
	CHECK(!g.a.r && !g.b.r);
	CHECK(g.a.progress.now.hinted == 2000);
	CHECK(g.a.progress.now.hinted_absent == 2000);
	CHECK(g.a.progress.now.verified == NBLOCKS * NPAGES - 2000);
	CHECK(g.a.progress.now.normal == 6000);
	CHECK(g.a.progress.now.transferred < 6000 * 4200 + (2 << 20));
	CHECK(gw_synthetic_check(g.b.vm, &err) == -EBADMSG);
	CHECK(strstr(err.msg, "block 1 page 0x0 "));
	for (uint64_t p = 0; p < 4000; p++) {
		const uint64_t *w = (const uint64_t *)(
			g.b.vm->ram.block[1].host + (p << 12));

		CHECK(!*w == !(p & 1));
	}
	guest_fini(&g);
}

/* Hints that begin with the window and a connection that breaks in it. */
static void a_cut_in_the_window_leaves_the_vm(void)
{
	for (int i = 0; i < 6; i++) {
		struct gw_synthetic_config ca = config(false, 3);
		struct gw_synthetic_config cb = config(true, 3);
		struct gw_error err = { 0 };
		char spec[64];
		struct guest g;

		snprintf(spec, sizeof(spec), "rate=200M,cut-write=%d",
			 (2 + 4 * i) << 20);
		guest_init(&g, &ca, &cb, spec, slow_driver);
		guest_move(&g);
		CHECK(g.a.r < 0 && g.b.r < 0);
		CHECK(gw_synthetic_running(g.a.vm));
		CHECK(!gw_synthetic_running(g.b.vm));
		CHECK_OK(gw_synthetic_check(g.a.vm, &err), &err);
		CHECK(!asked(&g));
		CHECK(gw_hint_free_at(&g.hint, g.old_id, 0, 0, 4096) ==
		      -ESTALE);
		guest_fini(&g);
	}
}

int main(void)
{
	RUN(a_guest_that_frees_and_reuses_is_moved_whole);
	RUN(a_balloon_hints_what_is_reused);
	RUN(a_lie_costs_the_liar_its_own_pages);
	RUN(a_cut_in_the_window_leaves_the_vm);
	return test_done();
}
