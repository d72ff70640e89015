/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * protect_test.c - a synthetic VM is protected, over real connections: the
 * engine of the source against that of a destination with a keeper that is as
 * simple as can be. It writes what comes straight into a waiting VM, loads each
 * checkpoint's state there and looks at every byte.
 */
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "chan/fault.h"
#include "chan/lease.h"
#include "dest/dest.h"
#include "source/source.h"
#include "vm/synthetic.h"

static uint64_t seed;

/* --- the standby ---------------------------------------------------------- */

struct standby {
	struct gw_place place; /* the first member */
	struct gw_vm *vm;
	struct gw_listener *listener;
	struct gw_chan *chan, *lease_chan; /* the latter is the lease's */
	struct gw_lease_grantor *lease;
	int expired_fd;
	struct godwit_params params;
	struct gw_cancel cancel, failover;
	struct gw_progress progress;
	struct gw_ram_table table;
	uint32_t timeout_ms;
	uint64_t npages, fail_at, die_at; /* a commit; 0: none */
	bool took;
	unsigned int wrong; /* checkpoints; or nothing could be decided */
	/* atomic */
	uint64_t commits;
	enum gw_dest_kept kept;
	struct gw_error err;
	int r;
};

static int s_lease(void *arg, struct gw_chan *chan, struct gw_error *err)
{
	struct standby *b = arg;

	b->lease_chan = chan;
	b->lease = gw_lease_grant(chan, b->timeout_ms * GW_NS_PER_MS,
				  &b->expired_fd, err);
	return b->lease ? 0 : -err->code;
}

static int s_begin(void *arg, const struct gw_ram_table *t,
		   struct gw_place **place, struct gw_error *err)
{
	struct standby *b = arg;

	b->table = *t;
	b->place.table = &b->table;
	*place = &b->place;
	return gw_ram_map(&b->vm->ram, true, err);
}

static uint8_t *page_at(struct gw_place *p, int block, uint64_t page)
{
	struct standby *b = (struct standby *)p;
	struct gw_ramblock *rb =
		gw_ram_find(&b->vm->ram, b->table.entry[block].idstr);

	return rb->host + (page << GW_PAGE_BITS);
}

static int p_room(struct gw_place *p, int block, uint64_t first, uint32_t n,
		  uint8_t **host, struct gw_error *err)
{
	*host = page_at(p, block, first);
	__atomic_fetch_add(&((struct standby *)p)->npages, n,
			   __ATOMIC_RELAXED);
	return 0;
}

static int p_zeros(struct gw_place *p, int block, uint64_t first, uint64_t n,
		   struct gw_error *err)
{
	memset(page_at(p, block, first), 0, n << GW_PAGE_BITS);
	return 0;
}

static int load(struct standby *b, const struct gw_checkpoint *c,
		const void *base, const void *part, struct gw_error *err)
{
	const struct gw_vm_ops *o = b->vm->ops;
	int r = o->load_begin(b->vm, err);

	if (!r)
		r = o->load_write(b->vm, base, c->nbase, err);
	if (!r)
		r = o->load_write(b->vm, part, c->npart, err);
	if (!r)
		r = o->load_finish(b->vm, err);
	return r ? r : gw_synthetic_check(b->vm, err);
}

/* The host of the standby: its lease goes with it. */
static int die(struct standby *b, struct gw_error *err)
{
	gw_chan_shutdown(b->lease_chan);
	gw_chan_shutdown(b->chan);
	return gw_fail(err, EIO, "died");
}

static int s_commit(void *arg, const struct gw_checkpoint *c, const void *base,
		    const void *part, int64_t *flush_ns, struct gw_error *err)
{
	struct standby *b = arg;
	struct gw_error why = { 0 };

	if (load(b, c, base, part, &why) || c->seq != b->commits + 1 ||
	    c->pause_ns <= 0 || c->npages < c->paused_pages) {
		printf("checkpoint %" PRIu64 " is wrong: %s\n", c->seq,
		       why.msg);
		b->wrong++;
	}
	__atomic_store_n(&b->commits, c->seq, __ATOMIC_RELAXED);
	*flush_ns = 4711;
	if (c->seq == b->die_at)
		return die(b, err);
	return c->seq == b->fail_at ? gw_fail(err, EIO, "no space") : 0;
}

static int s_go(void *arg, struct gw_error *err)
{
	struct standby *b = arg;

	return b->vm->ops->run(b->vm, err);
}

static bool s_leaving(void *arg)
{
	return true;
}

/* No promise was made: take over as soon as that can be. */
static void take_over(struct standby *b)
{
	struct pollfd p = { .fd = b->expired_fd, .events = POLLIN };
	int r = -EAGAIN;

	while (r == -EAGAIN && poll(&p, 1, 60000) == 1)
		r = gw_lease_take(b->lease);
	b->wrong += r == -EAGAIN;
	b->took = !r;
}

static void *run_standby(void *arg)
{
	struct standby *b = arg;
	struct gw_dest_keeper k = { .timeout_ms = b->timeout_ms,
				    .arg = b,
				    .lease = s_lease,
				    .begin = s_begin,
				    .commit = s_commit,
				    .go = s_go,
				    .failover = &b->failover,
				    .leaving = s_leaving };
	struct gw_dest_config c = { .vm = b->vm,
				    .listener = b->listener,
				    .params = &b->params,
				    .cancel = &b->cancel,
				    .progress = &b->progress,
				    .keeper = b->timeout_ms ? &k : NULL,
				    .kept = &b->kept };

	b->chan = c.chan = gw_listener_accept(b->listener, 20000, &b->cancel,
					      &b->err);
	b->r = c.chan ? gw_dest_run(&c, &b->err) : -b->err.code;
	if (b->chan)
		gw_chan_shutdown(b->chan);
	if (b->lease && (b->kept == GW_DEST_KEPT_BYE ||
			 gw_cancel_requested(&b->cancel)))
		gw_lease_renounce(b->lease);
	else if (b->lease && b->kept == GW_DEST_KEPT_LOST)
		take_over(b);
	return NULL;
}

/* --- the primary ---------------------------------------------------------- */

struct primary {
	struct gw_vm *vm;
	struct gw_chan *chan;
	struct godwit_params params;
	struct gw_cancel cancel;
	struct gw_progress progress;
	char uri[256], main_uri[256];
	bool migrates;
	struct gw_error err;
	int r;
	bool ended; /* atomic */
};

static bool ended(struct primary *a)
{
	return __atomic_load_n(&a->ended, __ATOMIC_ACQUIRE);
}

static void *run_primary(void *arg)
{
	struct primary *a = arg;
	struct gw_source_config c = { .vm = a->vm,
				      .uri = a->uri,
				      .protect = !a->migrates,
				      .params = &a->params,
				      .cancel = &a->cancel,
				      .progress = &a->progress };

	a->chan = c.chan = gw_chan_connect(a->main_uri, 20000, &a->cancel,
					   &a->err);
	a->r = c.chan ? gw_source_run(&c, &a->err) : -a->err.code;
	if (a->chan)
		gw_chan_shutdown(a->chan);
	__atomic_store_n(&a->ended, true, __ATOMIC_RELEASE);
	return NULL;
}

/* --- both ----------------------------------------------------------------- */

struct pair {
	struct primary a;
	struct standby b;
	pthread_t ta, tb;
};

static const struct gw_place_ops place_ops = { .room = p_room,
					       .zeros = p_zeros };

static struct gw_synthetic_config config(bool waiting)
{
	return (struct gw_synthetic_config){ .name = waiting ? "b" : "a",
					     .seed = 42,
					     .nbytes = 4 << 20,
					     .nblocks = 2,
					     .populated = 400,
					     .nthreads = 2,
					     .pages_per_s = 4000,
					     .working_set = 300,
					     .zero_percent = 10,
					     .base_every = 3,
					     .waiting = waiting };
}

static void common_init(struct godwit_params *params, struct gw_cancel *cancel,
			struct gw_progress *progress)
{
	struct gw_error err;

	godwit_params_init(params);
	params->interval_ns = 5 * GW_NS_PER_MS;
	params->idle_timeout_ns = 20 * GW_NS_PER_S;
	params->handover_timeout_ns = 20 * GW_NS_PER_S;
	CHECK(!gw_cancel_init(cancel, &err));
	gw_progress_init(progress, NULL, NULL);
}

static void pair_init(struct pair *p, const struct gw_synthetic_config *ca)
{
	struct gw_synthetic_config cb = config(true);

	memset(p, 0, sizeof(*p));
	p->a.vm = gw_synthetic_open(ca, &p->a.err);
	p->b.vm = gw_synthetic_open(&cb, &p->b.err);
	p->b.listener = gw_chan_listen("tcp:127.0.0.1:0", &p->b.err);
	p->b.place.ops = &place_ops;
	p->b.timeout_ms = 20000; /* a busy machine decides nothing */
	common_init(&p->a.params, &p->a.cancel, &p->a.progress);
	common_init(&p->b.params, &p->b.cancel, &p->b.progress);
	CHECK(!gw_cancel_init(&p->b.failover, &p->b.err));
	snprintf(p->a.uri, sizeof(p->a.uri), "%s",
		 gw_listener_uri(p->b.listener));
	strcpy(p->a.main_uri, p->a.uri);
}

static void pair_start(struct pair *p)
{
	CHECK(!pthread_create(&p->tb, NULL, run_standby, &p->b));
	CHECK(!pthread_create(&p->ta, NULL, run_primary, &p->a));
}

static void pair_join(struct pair *p)
{
	pthread_join(p->ta, NULL);
	/* Who ended before there was a standby leaves it waiting. */
	if (p->a.r && !__atomic_load_n(&p->b.commits, __ATOMIC_RELAXED))
		gw_cancel_request(&p->b.cancel);
	pthread_join(p->tb, NULL);
}

static void pair_fini(struct pair *p)
{
	CHECK(!p->b.wrong);
	gw_lease_grantor_free(p->b.lease);
	gw_vm_close(p->a.vm);
	gw_vm_close(p->b.vm);
	gw_chan_close(p->a.chan);
	gw_chan_close(p->b.chan);
	gw_listener_close(p->b.listener);
	gw_progress_fini(&p->a.progress);
	gw_progress_fini(&p->b.progress);
	gw_cancel_fini(&p->a.cancel);
	gw_cancel_fini(&p->b.cancel);
	gw_cancel_fini(&p->b.failover);
}

static void show(const struct pair *p)
{
	printf("  primary: %d fault %d: %s\n", p->a.r, p->a.err.fault,
	       p->a.err.msg);
	printf("  standby: %d kept %d took %d after %" PRIu64 ": %s\n", p->b.r,
	       p->b.kept, p->b.took, p->b.commits, p->b.err.msg);
}

static void nap_ms(int64_t ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

static bool wait_commits(struct pair *p, uint64_t n)
{
	for (int i = 0; i < 60000; i++) {
		if (__atomic_load_n(&p->b.commits, __ATOMIC_RELAXED) >= n)
			return true;
		nap_ms(1);
	}
	show(p);
	return false;
}

/* Protect until there are @n checkpoints, then cancel. */
static void cancel_after(struct pair *p, uint64_t n)
{
	pair_start(p);
	CHECK(wait_commits(p, n));
	gw_cancel_request(&p->a.cancel);
	pair_join(p);
}

/* It runs here, as before, and the standby lets it. */
static void check_stayed(struct pair *p, int fault)
{
	struct gw_error err = { 0 };

	if ((int)p->a.err.fault != fault || p->b.took)
		show(p);
	CHECK((int)p->a.err.fault == fault && !p->b.took);
	CHECK(gw_synthetic_running(p->a.vm));
	CHECK(!gw_synthetic_running(p->b.vm));
	CHECK(p->a.vm->info.running);
	CHECK_OK(gw_synthetic_check(p->a.vm, &err), &err);
}

/* It ended in good order, and said so. */
static bool left(const struct pair *p)
{
	return !p->a.r && p->b.lease && gw_lease_left(p->b.lease);
}

static void check_cancelled(struct pair *p)
{
	CHECK(left(p));
	CHECK(p->a.progress.now.status == GODWIT_STATUS_CANCELLED);
	check_stayed(p, GW_FAULT_NONE);
}

/* --- checkpoints ---------------------------------------------------------- */

static void check_numbers(struct pair *p, uint64_t n)
{
	const struct godwit_stats *a = &p->a.progress.now;

	CHECK(a->checkpoint >= n && a->checkpoint <= p->b.commits);
	CHECK(a->checkpoint_pages >= a->checkpoint_paused_pages);
	CHECK(a->checkpoint_bytes && a->checkpoint_pause_ns > 0);
	CHECK(a->checkpoint_interval_ns >= p->a.params.interval_ns);
	CHECK(a->checkpoint_pause_p50_ns > 0);
	CHECK(a->checkpoint_pause_p50_ns <= a->checkpoint_pause_p99_ns);
	CHECK(a->checkpoint_pause_p99_ns <= a->checkpoint_pause_max_ns);
	CHECK(a->checkpoint_lag_ns >= a->checkpoint_pause_ns);
	CHECK(a->checkpoint_flush_ns == 4711);
}

static void protect(struct pair *p)
{
	cancel_after(p, 25);
	check_cancelled(p);
	check_numbers(p, 24);
	pair_fini(p);
}

static void every_checkpoint_is_right(void)
{
	struct gw_synthetic_config ca = config(false);
	struct pair p;

	pair_init(&p, &ca);
	protect(&p);
}

static void also_with_differences(void)
{
	struct gw_synthetic_config ca = config(false);
	struct pair p;

	pair_init(&p, &ca);
	p.a.params.xbzrle = true;
	cancel_after(&p, 25);
	check_cancelled(&p);
	CHECK(p.a.progress.now.xbzrle_pages > 0);
	pair_fini(&p);
}

static void also_over_channels(void)
{
	struct gw_synthetic_config ca = config(false);

	for (int i = 0; i < 4; i++) {
		struct pair p;

		pair_init(&p, &ca);
		p.a.params.channels = 1 + (uint32_t)i % 3;
		p.a.params.xbzrle = i & 1;
		p.a.params.compress = i & 2 ? "zstd" : "none";
		protect(&p);
	}
}

static void also_of_full_speed_writers(void)
{
	struct gw_synthetic_config ca = config(false);
	struct pair p;

	ca.pages_per_s = 0;
	ca.working_set = 1000;
	pair_init(&p, &ca);
	p.a.params.channels = 2;
	protect(&p);
}

/* What is given back is zeros there, also if that happens while it is sent. */
static void what_is_given_back_becomes_zeros(void)
{
	struct gw_synthetic_config ca = config(false);

	ca.give_percent = 20;
	for (int i = 0; i < 4; i++) {
		struct pair p;

		ca.pages_per_s = i & 1 ? 0 : 4000;
		pair_init(&p, &ca);
		p.a.params.channels = i & 2;
		p.a.params.interval_ns = (i ? 5 : 60) * GW_NS_PER_MS;
		cancel_after(&p, 25);
		check_cancelled(&p);
		CHECK(p.a.progress.now.given_back > 0);
		pair_fini(&p);
	}
}

static void a_paused_vm_is_protected_too(void)
{
	struct gw_synthetic_config ca = config(false);
	struct gw_error err = { 0 };
	struct pair p;
	bool stopped;

	pair_init(&p, &ca);
	CHECK(!p.a.vm->ops->save_poll(p.a.vm, 0, &stopped, &err));
	p.a.vm->info.running = false;
	cancel_after(&p, 5);
	CHECK(left(&p));
	CHECK(!gw_synthetic_running(p.a.vm));
	pair_fini(&p);
}

/* With time to do so, most pages go before the VM stands. */
static void long_intervals_send_ahead(void)
{
	struct gw_synthetic_config ca = config(false);
	const struct godwit_stats *now;
	struct pair p;

	pair_init(&p, &ca);
	p.a.params.interval_ns = 600 * GW_NS_PER_MS;
	cancel_after(&p, 3);
	check_cancelled(&p);
	now = &p.a.progress.now;
	CHECK(now->checkpoint_pages > now->checkpoint_paused_pages);
	/* all of the passes before, two per turn, and the checkpoints */
	CHECK(now->pass >= 1 + 3 * 2);
	pair_fini(&p);
}

/* --- hand-over ------------------------------------------------------------ */

static void fails_over_in_order(void)
{
	struct gw_synthetic_config ca = config(false);

	for (int i = 0; i < 4; i++) {
		struct gw_error err = { 0 };
		struct pair p;

		pair_init(&p, &ca);
		p.a.params.channels = (uint32_t)i;
		p.a.params.interval_ns = (i & 1 ? 5 : 3000) * GW_NS_PER_MS;
		pair_start(&p);
		CHECK(wait_commits(&p, 1 + (uint64_t)(i & 1) * 5));
		gw_cancel_request(&p.b.failover);
		pair_join(&p);
		if (p.a.r || p.b.r)
			show(&p);
		CHECK(!p.a.r && !p.b.r && p.b.kept == GW_DEST_KEPT_GO);
		CHECK(p.a.progress.now.status == GODWIT_STATUS_COMPLETED);
		CHECK(!gw_synthetic_running(p.a.vm));
		CHECK(gw_synthetic_running(p.b.vm));
		CHECK_OK(gw_synthetic_check(p.b.vm, &err), &err);
		/* nothing is lost */
		CHECK(gw_synthetic_writes(p.b.vm) >=
		      gw_synthetic_writes(p.a.vm));
		CHECK(p.a.progress.now.downtime_ns > 0);
		pair_fini(&p);
	}
}

/* --- ends ----------------------------------------------------------------- */

static void cancelled_at_any_time(void)
{
	struct gw_synthetic_config ca = config(false);

	for (int i = 0; i < 25; i++) {
		struct pair p;

		pair_init(&p, &ca);
		p.a.params.channels = (uint32_t)i % 3;
		p.a.params.max_bandwidth = i % 4 ? 0 : 20 << 20;
		pair_start(&p);
		nap_ms((int64_t)(test_rand(&seed) % 400));
		gw_cancel_request(&p.a.cancel);
		pair_join(&p);
		check_stayed(&p, p.a.r ? GW_FAULT_CANCELLED : GW_FAULT_NONE);
		/* before the first there was nothing to end in order */
		CHECK(!p.a.r || p.b.commits <= 1);
		CHECK(!p.a.chan || p.a.progress.now.status ==
					   GODWIT_STATUS_CANCELLED);
		pair_fini(&p);
	}
}

/* A standby that fails or ends promises not to take over. */
static void a_standby_that_ends_is_done_without(void)
{
	struct gw_synthetic_config ca = config(false);

	for (int i = 0; i < 2; i++) {
		struct pair p;

		pair_init(&p, &ca);
		p.b.fail_at = i ? 0 : 7;
		pair_start(&p);
		CHECK(wait_commits(&p, 7));
		if (i) {
			gw_cancel_request(&p.b.cancel);
			gw_cancel_request(&p.b.failover);
		}
		pair_join(&p);
		CHECK(strstr(p.a.err.msg, i ? "ended" : "no space"));
		CHECK(strstr(p.a.err.msg, "runs on here, unprotected"));
		check_stayed(&p, GW_FAULT_FAILED);
		pair_fini(&p);
	}
}

/* Its host is gone; it might as well only be out of reach. */
static void lose(struct pair *p)
{
	struct gw_synthetic_config ca = config(false);

	pair_init(p, &ca);
	p->b.die_at = 6;
	p->b.timeout_ms = 1000;
}

static void without_a_promise_it_stands(void)
{
	struct pair p;

	lose(&p);
	pair_start(&p);
	pair_join(&p);
	CHECK(p.a.r < 0 && p.a.err.fault == GW_FAULT_UNCERTAIN);
	CHECK(strstr(p.a.err.msg, "'godwit resume a' runs it here"));
	CHECK(!gw_synthetic_running(p.a.vm) && p.b.took);
	CHECK(p.a.progress.now.status == GODWIT_STATUS_FAILED);
	pair_fini(&p);
}

static void without_a_fence_it_runs_on(void)
{
	struct pair p;

	lose(&p);
	p.a.params.fence = false;
	pair_start(&p);
	pair_join(&p);
	CHECK(p.a.err.fault == GW_FAULT_FAILED);
	CHECK(strstr(p.a.err.msg, "not fenced"));
	CHECK(gw_synthetic_running(p.a.vm) && p.b.took);
	pair_fini(&p);
}

/* The arbiter is asked; this one sees whether it was asked rightly. */
static void the_arbiter_decides(void)
{
	for (int yes = 0; yes < 2; yes++) {
		struct gw_error err = { 0 };
		char command[512];
		struct pair p;

		lose(&p);
		snprintf(command, sizeof(command),
			 "f() { test \"$GODWIT_ROLE $GODWIT_VM $GODWIT_PEER\" = \"$1 $2 $3\" -a \"$1 $2 $3\" = 'primary a %s' -a %d = 1; }; f",
			 p.a.uri, yes);
		p.a.params.arbiter = command;
		pair_start(&p);
		pair_join(&p);
		if ((p.a.err.fault == GW_FAULT_FAILED) != yes)
			show(&p);
		CHECK(p.a.err.fault ==
		      (yes ? GW_FAULT_FAILED : GW_FAULT_UNCERTAIN));
		CHECK(!yes || strstr(p.a.err.msg, "the arbiter agreed"));
		CHECK(gw_synthetic_running(p.a.vm) == !!yes);
		CHECK_OK(gw_synthetic_check(p.a.vm, &err), &err);
		pair_fini(&p);
	}
}

/*
 * The network falls silent on all connections: writes hang, answers do not
 * come. The guardian stops the VM; it goes on only if the arbiter lets it.
 */
static bool falls_silent(unsigned int npings, bool yes)
{
	struct gw_synthetic_config ca = config(false);
	struct gw_error err = { 0 };
	struct pair p;
	bool exposed;

	ca.pages_per_s = 200; /* so that 5M are more than the first copy */
	pair_init(&p, &ca);
	p.b.timeout_ms = 1000;
	p.a.params.arbiter = yes ? "exit 0;" : "exit 1;";
	/* (a connection begins with a hello of 64 bytes) */
	snprintf(p.a.uri, sizeof(p.a.uri),
		 "fault:hang-read=%u,hang-write=%u+%s", 16 * npings,
		 64 + 16 * npings, gw_listener_uri(p.b.listener));
	snprintf(p.a.main_uri, sizeof(p.a.main_uri), "fault:hang-write=5M+%s",
		 gw_listener_uri(p.b.listener));
	pair_start(&p);
	pair_join(&p);
	/* Was it so slow that nothing was protected yet? */
	exposed = p.a.progress.now.checkpoint > 0;
	if (exposed) {
		CHECK(p.a.err.fault ==
		      (yes ? GW_FAULT_FAILED : GW_FAULT_UNCERTAIN));
		CHECK(strstr(p.a.err.msg, "did not answer for 600 ms"));
		CHECK(gw_synthetic_running(p.a.vm) == yes && p.b.took);
	}
	CHECK_OK(gw_synthetic_check(p.a.vm, &err), &err);
	pair_fini(&p);
	return exposed;
}

static void out_of_reach_it_is_fenced(void)
{
	for (int yes = 0; yes < 2; yes++) {
		unsigned int n = 20;

		while (!falls_silent(n, yes) && n < 1000)
			n *= 2;
		CHECK(n < 1000);
	}
}

/* What cannot be undone from outside is done by the driver: it fails. */
static void a_driver_that_fails_leaves_it_running(void)
{
	static const enum gw_synthetic_fault faults[] = {
		GW_SYNTHETIC_FAIL_CHECKPOINT_BEGIN, GW_SYNTHETIC_FAIL_STOP,
		GW_SYNTHETIC_FAIL_STATE, GW_SYNTHETIC_FAIL_CONT
	};

	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		struct gw_synthetic_config ca = config(false);
		struct pair p;

		ca.fault = faults[i];
		pair_init(&p, &ca);
		pair_start(&p);
		pair_join(&p);
		CHECK(p.a.r == -EIO && strstr(p.a.err.msg, "injected"));
		check_stayed(&p, GW_FAULT_FAILED);
		pair_fini(&p);
	}
}

/*
 * Cuts anywhere, on the main connection, or on the others too. Whatever
 * happened: either it runs here and the standby has promised not to, or it
 * stands here and who ended was told.
 */
static void cut_anywhere(void)
{
	struct gw_synthetic_config ca = config(false);
	unsigned int stayed = 0, stood = 0, protected = 0;

	for (int i = 0; i < 40; i++) {
		static const char *const how[] = { "cut-write", "cut-read",
						   "hang-write" };
		uint64_t x = test_rand(&seed);
		uint64_t at = 3000 + (x >> 8) % (i % 3 == 1 ? 400 : 8 << 20);
		char fault[96];
		struct pair p;
		bool all = i % 4 == 3, ran;

		pair_init(&p, &ca);
		p.b.timeout_ms = 1000;
		p.a.params.channels = (uint32_t)i % 3;
		p.a.params.idle_timeout_ns = GW_NS_PER_S;
		snprintf(fault, sizeof(fault), "fault:%s=%" PRIu64 "+",
			 how[i % 3], at);
		snprintf(p.a.main_uri, sizeof(p.a.main_uri), "%s%s", fault,
			 gw_listener_uri(p.b.listener));
		if (all)
			snprintf(p.a.uri, sizeof(p.a.uri),
				 "fault:cut-write=%" PRIu64 "+%s",
				 100 + (x >> 40) % 2000,
				 gw_listener_uri(p.b.listener));
		pair_start(&p);
		for (int t = 0; t < 700 && !ended(&p.a); t++)
			nap_ms(1); /* some positions are never reached */
		gw_cancel_request(&p.a.cancel);
		pair_join(&p);
		ran = gw_synthetic_running(p.a.vm);
		if (ran ? p.b.took && p.b.commits :
			  p.a.err.fault != GW_FAULT_UNCERTAIN)
			show(&p);
		/* (without any commit a standby takes over from nothing) */
		CHECK(!ran || !p.b.took || !p.b.commits);
		CHECK(ran || (p.a.r < 0 &&
			      p.a.err.fault == GW_FAULT_UNCERTAIN));
		CHECK(!ran || p.a.err.fault != GW_FAULT_UNCERTAIN);
		stayed += ran;
		stood += !ran;
		protected += !!p.b.commits;
		pair_fini(&p);
	}
	printf("%u ran on, %u stood, %u had a checkpoint\n", stayed, stood,
	       protected);
	CHECK(stayed && protected);
}

/* --- what is refused ------------------------------------------------------ */

static void refused(struct pair *p, int fault, const char *because)
{
	pair_start(p);
	pthread_join(p->ta, NULL);
	gw_cancel_request(&p->b.cancel);
	gw_cancel_request(&p->b.failover);
	pthread_join(p->tb, NULL);
	if (!strstr(p->a.err.msg, because))
		show(p);
	CHECK(p->a.r < 0 && strstr(p->a.err.msg, because));
	CHECK((int)p->a.err.fault == fault && !p->b.commits);
	CHECK(gw_synthetic_running(p->a.vm));
	pair_fini(p);
}

static void impossible_wishes_are_refused(void)
{
	struct gw_synthetic_config ca = config(false);
	struct pair p;

	pair_init(&p, &ca);
	p.b.timeout_ms = 700;
	p.a.params.fence_after_ns = 700 * GW_NS_PER_MS;
	refused(&p, GW_FAULT_USAGE, "timeout of 700 ms");
	pair_init(&p, &ca);
	p.a.params.disks = "full";
	refused(&p, GW_FAULT_USAGE, "disks=full");
	pair_init(&p, &ca);
	p.a.params.verify = true;
	refused(&p, GW_FAULT_USAGE, "verify");
	pair_init(&p, &ca);
	p.b.timeout_ms = 0; /* a destination of migrations */
	refused(&p, GW_FAULT_REFUSED, "'godwit standby' instead");
	pair_init(&p, &ca);
	p.a.migrates = true;
	refused(&p, GW_FAULT_REFUSED, "'godwit protect' instead");
}

int main(void)
{
	seed = test_seed();
	RUN(every_checkpoint_is_right);
	RUN(also_with_differences);
	RUN(also_over_channels);
	RUN(also_of_full_speed_writers);
	RUN(what_is_given_back_becomes_zeros);
	RUN(a_paused_vm_is_protected_too);
	RUN(long_intervals_send_ahead);
	RUN(fails_over_in_order);
	RUN(cancelled_at_any_time);
	RUN(a_standby_that_ends_is_done_without);
	RUN(without_a_promise_it_stands);
	RUN(without_a_fence_it_runs_on);
	RUN(the_arbiter_decides);
	RUN(out_of_reach_it_is_fenced);
	RUN(a_driver_that_fails_leaves_it_running);
	RUN(cut_anywhere);
	RUN(impossible_wishes_are_refused);
	return test_done();
}
