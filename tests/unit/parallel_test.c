/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * parallel_test.c - whole migrations between two synthetic VMs in this process
 * over several connections: every combination of what channels do, and what
 * can go wrong on one of them.
 */
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "base/clock.h"
#include "dest/dest.h"
#include "source/source.h"
#include "vm/synthetic.h"

#define RAM   (16ULL << 20) /* of each of two blocks */
#define PAGES (2 * RAM / 4096)

struct side {
	struct gw_vm *vm;
	struct gw_chan *chan;
	struct godwit_params params;
	struct gw_cancel cancel;
	struct gw_progress progress;
	struct gw_error err;
	int r;
};

struct pair {
	struct side a, b;
	struct gw_listener *listener;
	char uri[200]; /* where the channels connect, maybe with faults */
};

static struct gw_synthetic_config config(bool waiting)
{
	return (struct gw_synthetic_config){ .name = waiting ? "b" : "a",
					     .seed = 42,
					     .nbytes = RAM,
					     .nblocks = 2,
					     .populated = 1500,
					     .nthreads = 2,
					     .pages_per_s = 3000,
					     .working_set = 1024,
					     .zero_percent = 10,
					     .waiting = waiting };
}

static void side_init(struct side *s, const struct gw_synthetic_config *c)
{
	memset(s, 0, sizeof(*s));
	s->vm = gw_synthetic_open(c, &s->err);
	if (!s->vm)
		printf("%s\n", s->err.msg);
	godwit_params_init(&s->params);
	/* A busy machine must not decide whether a test passes. */
	s->params.downtime_limit_ns = 100 * GW_NS_PER_S;
	s->params.idle_timeout_ns = 20 * GW_NS_PER_S;
	s->params.handover_timeout_ns = 20 * GW_NS_PER_S;
	CHECK(!gw_cancel_init(&s->cancel, &s->err));
	gw_progress_init(&s->progress, NULL, NULL);
	s->err.code = 0;
}

/* @fault: of every channel at the source, NULL: none. */
static void pair_init(struct pair *p, const char *fault)
{
	struct gw_synthetic_config a = config(false), b = config(true);
	struct gw_error err = { 0 };

	side_init(&p->a, &a);
	side_init(&p->b, &b);
	p->listener = gw_chan_listen("tcp:127.0.0.1:0", &err);
	if (!p->listener)
		printf("%s\n", err.msg);
	snprintf(p->uri, sizeof(p->uri), "%s%s%s%s", fault ? "fault:" : "",
		 fault ? fault : "", fault ? "+" : "",
		 gw_listener_uri(p->listener));
}

static void side_fini(struct side *s)
{
	gw_vm_close(s->vm);
	gw_chan_close(s->chan);
	gw_progress_fini(&s->progress);
	gw_cancel_fini(&s->cancel);
}

static void pair_fini(struct pair *p)
{
	side_fini(&p->a);
	side_fini(&p->b);
	gw_listener_close(p->listener);
}

static void *run_source(void *arg)
{
	struct pair *p = arg;
	struct side *s = &p->a;
	struct gw_source_config c = { .vm = s->vm,
				      .uri = p->uri,
				      .params = &s->params,
				      .cancel = &s->cancel,
				      .progress = &s->progress };

	c.chan = s->chan = gw_chan_connect(gw_listener_uri(p->listener), 20000,
					   &s->cancel, &s->err);
	s->r = s->chan ? gw_source_run(&c, &s->err) : -s->err.code;
	if (s->chan)
		gw_chan_shutdown(s->chan);
	return NULL;
}

static void *run_dest(void *arg)
{
	struct pair *p = arg;
	struct side *s = &p->b;
	struct gw_dest_config c = { .vm = s->vm,
				    .listener = p->listener,
				    .params = &s->params,
				    .cancel = &s->cancel,
				    .progress = &s->progress };

	c.chan = s->chan = gw_listener_accept(p->listener, 20000, &s->cancel,
					      &s->err);
	s->r = s->chan ? gw_dest_run(&c, &s->err) : -s->err.code;
	if (s->chan)
		gw_chan_shutdown(s->chan);
	return NULL;
}

/* @cancel_ms: the source is cancelled after so long, 0: not. */
static void pair_run(struct pair *p, unsigned int cancel_ms)
{
	pthread_t a, b;

	CHECK(!pthread_create(&b, NULL, run_dest, p));
	CHECK(!pthread_create(&a, NULL, run_source, p));
	if (cancel_ms) {
		usleep(cancel_ms * 1000);
		gw_cancel_request(&p->a.cancel);
	}
	pthread_join(a, NULL);
	pthread_join(b, NULL);
}

static void show(const struct side *s, const char *name)
{
	if (s->r)
		printf("  %s: %d fault %d: %s\n", name, s->r, s->err.fault,
		       s->err.msg);
}

static void check_moved(struct pair *p)
{
	struct gw_error err = { 0 };

	show(&p->a, "source");
	show(&p->b, "dest");
	CHECK(p->a.r == 0 && p->b.r == 0);
	CHECK(!gw_synthetic_running(p->a.vm));
	CHECK(gw_synthetic_running(p->b.vm));
	CHECK_OK(gw_synthetic_check(p->b.vm, &err), &err);
}

static void check_stayed(struct pair *p)
{
	struct gw_error err = { 0 };

	CHECK(p->a.r < 0 && p->b.r < 0);
	CHECK(gw_synthetic_running(p->a.vm));
	CHECK(!gw_synthetic_running(p->b.vm));
	CHECK_OK(gw_synthetic_check(p->a.vm, &err), &err);
}

/* --- what works ----------------------------------------------------------- */

static const char *const methods[] = { "none", "zlib", "zstd", "auto" };

static void move_with(uint32_t channels, const char *compress, bool xbzrle,
		      const char *fault)
{
	const struct godwit_stats *now;
	struct pair p;

	pair_init(&p, fault);
	p.a.params.channels = channels;
	p.a.params.compress = compress;
	p.a.params.xbzrle = xbzrle;
	p.a.params.cache_size = 8 << 20;
	p.a.params.verify = true;
	pair_run(&p, 0);
	if (p.a.r || p.b.r)
		printf("%u channels, compress %s%s%s%s\n", channels, compress,
		       xbzrle ? ", xbzrle" : "", fault ? ", " : "",
		       fault ? fault : "");
	check_moved(&p);
	now = &p.a.progress.now;
	CHECK(now->verified == PAGES);
	CHECK(now->channels == (channels ? channels : 1));
	CHECK(now->normal >= 2000 && now->multifd_bytes);
	CHECK(now->multifd_bytes < now->transferred);
	if (!strcmp(compress, "zlib") || !strcmp(compress, "zstd"))
		CHECK(now->compress_pages == now->normal &&
		      now->compress_in == 4096 * now->normal &&
		      now->compress_out);
	CHECK(xbzrle == (now->xbzrle_cache_size > 0));
	pair_fini(&p);
}

static void every_combination_moves(void)
{
	for (uint32_t n = 1; n <= 4; n *= 2)
		for (int m = 0; m < 4; m++) {
			move_with(n, methods[m], false, NULL);
			move_with(n, methods[m], true, NULL);
		}
}

static void compression_alone_takes_one_channel(void)
{
	move_with(0, "zstd", false, NULL);
}

static void ragged_channels_move(void)
{
	move_with(3, "none", true, "short=1-3000,seed=3");
	move_with(3, "zlib", true, "short=1-900,seed=5");
}

static void a_limit_is_kept(void)
{
	const struct godwit_stats *now;
	struct pair p;
	int64_t t0 = gw_now_ns();
	uint64_t limit = 20 << 20, most;

	pair_init(&p, NULL);
	p.a.params.channels = 4;
	p.a.params.max_bandwidth = limit;
	pair_run(&p, 0);
	check_moved(&p);
	now = &p.a.progress.now;
	/* What the VM's standing still moved is not limited. */
	most = (uint64_t)((double)limit * (double)(gw_now_ns() - t0) / 1e9) +
	       (4 << 20);
	CHECK(now->precopy_bytes < most);
	CHECK(now->normal >= 3000);
	pair_fini(&p);
}

/* --- what goes wrong ------------------------------------------------------ */

static void a_channel_cut_anywhere_leaves_the_vm_here(void)
{
	uint64_t seed = test_seed();

	for (int i = 0; i < 24; i++) {
		/* All of it is some 12 MiB over two channels. */
		uint64_t at = i < 10 ? 1ULL << (2 * i) :
				       test_rand(&seed) % (5 << 20);
		char spec[64];
		struct pair p;

		snprintf(spec, sizeof(spec), "cut-write=%llu",
			 (unsigned long long)at);
		pair_init(&p, spec);
		p.a.params.channels = 2;
		p.a.params.compress = i % 3 ? "none" : "zlib";
		p.b.params.connect_timeout_ns = 2 * GW_NS_PER_S;
		pair_run(&p, 0);
		CHECK(gw_synthetic_running(p.a.vm) !=
		      gw_synthetic_running(p.b.vm));
		if (p.a.r) {
			check_stayed(&p);
			CHECK(p.a.err.fault != GW_FAULT_UNCERTAIN);
		} else {
			check_moved(&p); /* it needed fewer bytes */
		}
		pair_fini(&p);
	}
}

static void a_channel_that_stalls_is_given_up(void)
{
	struct pair p;

	pair_init(&p, "hang-write=1M");
	p.a.params.channels = 2;
	p.a.params.idle_timeout_ns = GW_NS_PER_S;
	pair_run(&p, 0);
	show(&p.a, "source");
	check_stayed(&p);
	CHECK(p.a.err.code == ETIMEDOUT);
	pair_fini(&p);
}

static void cancel_ends_stalled_channels(void)
{
	struct pair p;
	int64_t t0 = gw_now_ns();

	pair_init(&p, "hang-write=1M");
	p.a.params.channels = 3;
	p.a.params.idle_timeout_ns = 1000 * GW_NS_PER_S;
	p.b.params.idle_timeout_ns = 1000 * GW_NS_PER_S;
	pair_run(&p, 500);
	check_stayed(&p);
	CHECK(p.a.err.fault == GW_FAULT_CANCELLED);
	CHECK(gw_now_ns() - t0 < 200 * GW_NS_PER_S);
	pair_fini(&p);
}

/* The destination fails in the middle: its reason is what the source says. */
static void a_destination_that_gives_up_says_why(void)
{
	struct pair p;
	pthread_t a, b;

	pair_init(&p, "rate=2M");
	p.a.params.channels = 2;
	CHECK(!pthread_create(&b, NULL, run_dest, &p));
	CHECK(!pthread_create(&a, NULL, run_source, &p));
	usleep(500000);
	gw_cancel_request(&p.b.cancel);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	check_stayed(&p);
	show(&p.a, "source");
	CHECK(strstr(p.a.err.msg, "cancelled"));
	pair_fini(&p);
}

/* And the other way round: its channels end first, its word counts. */
static void a_source_that_gives_up_says_why(void)
{
	for (unsigned int n = 0; n < 4; n++) {
		struct pair p;

		pair_init(&p, "rate=2M");
		p.a.params.channels = n;
		p.a.params.max_bandwidth = 4 << 20;
		pair_run(&p, 300 + 100 * n);
		check_stayed(&p);
		CHECK(p.b.err.fault == GW_FAULT_CANCELLED);
		if (p.b.err.fault != GW_FAULT_CANCELLED)
			show(&p.b, "dest");
		pair_fini(&p);
	}
}

int main(void)
{
	RUN(every_combination_moves);
	RUN(compression_alone_takes_one_channel);
	RUN(ragged_channels_move);
	RUN(a_limit_is_kept);
	RUN(a_channel_cut_anywhere_leaves_the_vm_here);
	RUN(a_channel_that_stalls_is_given_up);
	RUN(cancel_ends_stalled_channels);
	RUN(a_destination_that_gives_up_says_why);
	RUN(a_source_that_gives_up_says_why);
	return test_done();
}
