/* SPDX-License-Identifier: BSD-3-Clause */
/* control_test.c - the parameter table, the verdicts of convergence, the
 * limiter, statistics as JSON. */
#include "test.h"

#include <errno.h>

#include "control/internal.h"
#include "control/params.h"
#include "control/stats.h"
#include "source/converge.h"
#include "source/limit.h"

static void every_default_is_valid(void)
{
	struct godwit_params p;

	godwit_params_init(&p);
	CHECK(p.downtime_limit_ns == 300 * GW_NS_PER_MS);
	CHECK(p.handover_timeout_ns == 5 * GW_NS_PER_S);
	CHECK(!p.verify && p.max_bandwidth == 0);
	CHECK(!strcmp(p.tracker, "auto"));
}

static void refuse(const char *assignment, const char *because)
{
	struct gw_error err = { 0 };
	struct godwit_params p;

	godwit_params_init(&p);
	CHECK(gw_param_assign(&p, GW_USE_ALL, assignment, &err) < 0);
	CHECK(err.fault == GW_FAULT_USAGE && strstr(err.msg, because));
	if (!strstr(err.msg, because))
		printf("%s: %s\n", assignment, err.msg);
}

static void assignments_are_checked(void)
{
	struct gw_error err = { 0 };
	struct godwit_params p;

	godwit_params_init(&p);
	CHECK_OK(gw_param_assign(&p, GW_USE_ALL, "max-bandwidth=1.5G", &err), &err);
	CHECK(p.max_bandwidth == 3ULL << 29);
	CHECK_OK(gw_param_assign(&p, GW_USE_ALL, "downtime-limit=20ms", &err), &err);
	CHECK(p.downtime_limit_ns == 20 * GW_NS_PER_MS);
	CHECK_OK(gw_param_assign(&p, GW_USE_ALL, "verify=on", &err), &err);
	CHECK(p.verify);
	CHECK_OK(gw_param_assign(&p, GW_USE_ALL, "tracker=uffd-wp", &err), &err);
	CHECK(!strcmp(p.tracker, "uffd-wp"));
	refuse("downtime-limit=3000s", "0 to 2000s");
	refuse("downtime-limit=-1ms", "is not a time");
	refuse("max-bandwidth=fast", "is not a size");
	refuse("verify=maybe", "neither on nor off");
	refuse("tracker=magic", "possible are auto");
	refuse("max-passes=1.5", "is not a whole number");
	refuse("colour=blue", "parameters are max-bandwidth");
	refuse("verify", "is not PARAMETER=VALUE");
	refuse("cache=x", "is not PARAMETER=VALUE"); /* a standby's */
}

/* A text is any, also none, and stays where the caller has it. */
static void texts_are_the_callers(void)
{
	static const char set[] = "arbiter=/bin/lease --of 'vm 1'=x";
	const struct gw_param *d = gw_param_find("arbiter");
	struct gw_error err = { 0 };
	struct godwit_params p;
	char buf[64], text[100];

	godwit_params_init(&p);
	CHECK(!strcmp(p.arbiter, "") && !strcmp(p.cache, ""));
	CHECK_OK(gw_param_assign(&p, GW_USE_PROTECT, set, &err), &err);
	CHECK(p.arbiter == set + strlen("arbiter="));
	CHECK(!strcmp(gw_param_text(&p, d, buf), p.arbiter));
	CHECK(gw_param_number(&p, d) == 0);
	CHECK(gw_param_assign(&p, GW_USE_PROTECT, "cache=/x", &err) < 0);
	CHECK_OK(gw_param_assign(&p, GW_USE_STANDBY, "cache=/x", &err), &err);
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	CHECK_OK(gw_param_set(&p, d, text, &err), &err);
	CHECK(strlen(gw_param_text(&p, d, buf)) == sizeof(buf) - 1);
	CHECK_OK(gw_param_set(&p, d, "", &err), &err);
	CHECK(!*p.arbiter);
}

static void what_fences_is_checked(void)
{
	struct gw_error err = { 0 };
	struct godwit_params p;

	godwit_params_init(&p);
	CHECK(p.fence && p.interval_ns == 100 * GW_NS_PER_MS &&
	      p.timeout_ns == GW_NS_PER_S && !p.fence_after_ns);
	CHECK_OK(gw_param_assign(&p, GW_USE_PROTECT, "fence-after=300ms", &err),
		 &err);
	CHECK_OK(gw_params_check(&p, &err), &err);
	CHECK_OK(gw_param_assign(&p, GW_USE_PROTECT, "fence=off", &err), &err);
	CHECK(gw_params_check(&p, &err) == -EINVAL);
	CHECK(err.fault == GW_FAULT_USAGE && strstr(err.msg, "fence-after"));
	p.fence_after_ns = 0;
	CHECK_OK(gw_params_check(&p, &err), &err);
	CHECK(gw_param_assign(&p, GW_USE_PROTECT, "interval=0", &err) ==
	      -ERANGE);
	CHECK(gw_param_assign(&p, GW_USE_STANDBY, "timeout=10ms", &err) ==
	      -ERANGE);
}

static struct godwit_params limits(int64_t downtime_ms)
{
	struct godwit_params p;

	godwit_params_init(&p);
	p.downtime_limit_ns = downtime_ms * GW_NS_PER_MS;
	return p;
}

static enum gw_verdict decide(struct gw_converge *c,
			      const struct godwit_params *p, unsigned int pass,
			      uint64_t remaining, uint64_t bandwidth)
{
	struct gw_converge_pass x = { .pass = pass,
				      .sent = c->last,
				      .remaining = remaining,
				      .bandwidth = bandwidth };

	return gw_converge_decide(c, p, &x);
}

/* A guest that stops writing: each pass leaves less, until it is 2 ms. */
static void a_calm_guest_converges(void)
{
	struct godwit_params p = limits(300);
	struct gw_converge c = { 0 };
	uint64_t left = 1 << 30;
	unsigned int pass = 1;

	while (decide(&c, &p, pass, left, 1 << 30) == GW_GO_ON) {
		left /= 4;
		REQUIRE(pass++ < 40);
	}
	CHECK(left <= (1 << 30) / 500 && left * 4 > (1 << 30) / 500);
}

/* Steady dirtying within the limit: no pass lowers it, so do not wait. */
static void a_steady_guest_switches_at_once(void)
{
	struct godwit_params p = limits(300);
	struct gw_converge c = { 0 };

	CHECK(decide(&c, &p, 1, 8 << 20, 1 << 30) == GW_GO_ON);
	CHECK(decide(&c, &p, 2, 8 << 20, 1 << 30) == GW_SWITCH_OVER);
}

static void a_busy_guest_is_given_up(void)
{
	struct godwit_params p = limits(10);
	struct gw_converge c = { 0 };
	unsigned int pass = 1;
	enum gw_verdict v;

	do
		v = decide(&c, &p, pass, 500 << 20, 1 << 30);
	while (v == GW_GO_ON && pass++ < 100);
	CHECK(v == GW_GIVE_UP);
	CHECK(pass == 1 + p.stall_passes);
	/* Unless it may go on for ever. */
	c = (struct gw_converge){ 0 };
	p.stall_passes = 0;
	for (pass = 1; pass < 1000; pass++)
		CHECK(decide(&c, &p, pass, 500 << 20, 1 << 30) == GW_GO_ON);
	p.max_passes = 1000;
	CHECK(decide(&c, &p, 1000, 500 << 20, 1 << 30) == GW_GIVE_UP);
}

/* --- the throttle ------------------------------------------------------- */

/* Every second pass that leaves more than half of what it sent is a step. */
static void bad_passes_throttle_step_by_step(void)
{
	static const uint32_t want[] = { 0, 20, 20, 30, 30, 40, 40 };
	struct godwit_params p = limits(10);
	struct gw_converge c = { 0 };
	struct gw_converge_pass x = { .sent = 100 << 20, .bandwidth = 1 << 20 };

	p.auto_converge = true;
	for (x.pass = 1; x.pass <= 7; x.pass++) {
		x.remaining = 51 << 20;
		CHECK(gw_converge_decide(&c, &p, &x) == GW_GO_ON);
		CHECK(c.throttle == want[x.pass - 1]);
	}
	/* Better ones leave it where it is, and are not counted. */
	x.remaining = 49 << 20;
	for (int i = 0; i < 5; i++, x.pass++)
		CHECK(gw_converge_decide(&c, &p, &x) == GW_GO_ON);
	CHECK(c.throttle == 40);
	/* The rest of the way, and no further. */
	x.remaining = 60 << 20;
	for (int i = 0; i < 20; i++, x.pass++) {
		CHECK(gw_converge_decide(&c, &p, &x) == GW_GO_ON);
		CHECK(c.throttle <= 99);
	}
	CHECK(c.throttle == 99);
	for (int i = 0; i < 9; i++, x.pass++)
		gw_converge_decide(&c, &p, &x);
	CHECK(gw_converge_decide(&c, &p, &x) == GW_GIVE_UP);
}

/* Over a slow link there would be few passes: long ones count for more. */
static void long_passes_throttle_faster(void)
{
	static const uint32_t want[] = { 0, 20, 40, 60, 80, 80 };
	static const int64_t s[] = { 1, 2, 4, 100, 3, 1 };
	struct godwit_params p = limits(10);
	struct gw_converge c = { 0 };
	struct gw_converge_pass x = { .sent = 100 << 20,
				      .remaining = 51 << 20,
				      .bandwidth = 1 << 20 };

	p.auto_converge = true;
	for (int i = 0; i < 6; i++) {
		x.pass++;
		x.ns = s[i] * GW_NS_PER_S;
		CHECK(gw_converge_decide(&c, &p, &x) == GW_GO_ON);
		CHECK(c.throttle == want[i]);
	}
}

/* What is changed meanwhile counts from then on. */
static void the_throttle_follows_its_parameters(void)
{
	struct godwit_params p = limits(10);
	struct gw_converge c = { 0 };
	struct gw_converge_pass x = { .pass = 1,
				      .sent = 100 << 20,
				      .remaining = 90 << 20,
				      .bandwidth = 1 << 20 };

	p.auto_converge = true;
	p.cpu_throttle_initial = 50;
	for (; x.pass <= 2; x.pass++)
		gw_converge_decide(&c, &p, &x);
	CHECK(c.throttle == 50);
	p.cpu_throttle_increment = 33;
	for (; x.pass <= 4; x.pass++)
		gw_converge_decide(&c, &p, &x);
	CHECK(c.throttle == 83);
	p.max_cpu_throttle = 60;
	gw_converge_decide(&c, &p, &x);
	CHECK(c.throttle == 60);
	p.throttle_trigger_threshold = 95; /* now these are good ones */
	p.max_cpu_throttle = 99;
	for (x.pass = 6; x.pass <= 8; x.pass++)
		gw_converge_decide(&c, &p, &x);
	CHECK(c.throttle == 60);
}

/* Passes that are good enough and lead nowhere end in a step too. */
static void a_stall_throttles_before_it_gives_up(void)
{
	struct godwit_params p = limits(10);
	struct gw_converge c = { 0 };
	unsigned int pass = 1;

	p.auto_converge = true;
	p.throttle_trigger_threshold = 100;
	p.max_cpu_throttle = 30;
	while (decide(&c, &p, pass, 500 << 20, 1 << 30) == GW_GO_ON)
		REQUIRE(pass++ < 100);
	CHECK(c.throttle == 30);
	CHECK(pass > 3 * p.stall_passes && pass < 4 * p.stall_passes);
	/* Where it cannot be done, the first stall is the last. */
	c = (struct gw_converge){ .cannot_throttle = true };
	for (pass = 1; decide(&c, &p, pass, 500 << 20, 1 << 30) == GW_GO_ON;)
		REQUIRE(pass++ < 100);
	CHECK(c.throttle == 0 && pass == 1 + p.stall_passes);
}

/* --- the most that is allowed -------------------------------------------- */

/* What is left goes up and down: taken where it is down. */
static void a_dip_is_waited_for(void)
{
	static const uint64_t wave[] = { 50, 80, 95, 99, 95, 80 }; /* MiB */
	struct godwit_params p = limits(10);
	struct gw_converge c = { 0 };
	unsigned int pass = 1;
	enum gw_verdict v;

	p.max_downtime_ns = 90 * GW_NS_PER_MS; /* at 1 GiB/s: 92 MiB */
	do
		v = decide(&c, &p, pass, wave[pass % 6] << 20, 1 << 30);
	while (v == GW_GO_ON && pass++ < 100);
	CHECK(v == GW_SWITCH_OVER && c.last == 50 << 20);
	CHECK(pass > p.stall_passes);
}

/* It never comes down so far, or only once long ago: no switch-over. */
static void what_does_not_fit_is_given_up(void)
{
	struct godwit_params p = limits(10);
	struct gw_converge c = { 0 };
	unsigned int pass = 1;
	enum gw_verdict v;

	p.max_downtime_ns = 90 * GW_NS_PER_MS;
	do
		v = decide(&c, &p, pass, (pass == 3 ? 50 : 200) << 20,
			   1 << 30);
	while (v == GW_GO_ON && pass++ < 100);
	CHECK(v == GW_GIVE_UP && pass < 50);
	/* max-passes is the end of hope, too. */
	c = (struct gw_converge){ 0 };
	p.max_passes = 4;
	for (pass = 1; pass < 4; pass++)
		CHECK(decide(&c, &p, pass, 200 << 20, 1 << 30) == GW_GO_ON);
	CHECK(decide(&c, &p, 4, 200 << 20, 1 << 30) == GW_GIVE_UP);
	c = (struct gw_converge){ 0 };
	for (pass = 1; pass < 4; pass++)
		CHECK(decide(&c, &p, pass, 60 << 20, 1 << 30) == GW_GO_ON);
	CHECK(decide(&c, &p, 4, 60 << 20, 1 << 30) == GW_SWITCH_OVER);
}

/* With stall-passes 0 nothing is given up, and what fits is taken. */
static void the_most_is_taken_without_an_end_too(void)
{
	struct godwit_params p = limits(10);
	struct gw_converge c = { 0 };
	unsigned int pass;

	p.stall_passes = 0;
	p.max_downtime_ns = 90 * GW_NS_PER_MS;
	for (pass = 1; pass < 500; pass++)
		CHECK(decide(&c, &p, pass, 200 << 20, 1 << 30) == GW_GO_ON);
	for (; decide(&c, &p, pass, 60 << 20, 1 << 30) == GW_GO_ON;)
		REQUIRE(pass++ < 600);
	CHECK(c.last == 60 << 20);
}

/* --- a model of a guest --------------------------------------------------- */

/* It writes at @rate into a working set, with a wave of its own. */
struct model {
	uint64_t ws;
	double rate, wave, phase;
};

/* What it has dirtied after @s seconds at @percent throttle. */
static uint64_t model_dirties(struct model *m, double s, uint32_t percent)
{
	double rate = m->rate * (100 - percent) / 100;
	double n;

	m->phase += s;
	rate *= 1 + m->wave * ((long)(m->phase * 3) % 2 ? 1 : -1);
	n = s * rate;
	return n < (double)m->ws ? (uint64_t)n : m->ws;
}

/*
 * Whatever the rates: a verdict comes; a switch-over is never beyond what was
 * allowed; where full throttle or the allowed downtime would do, it is no
 * giving up.
 */
static void run_model(struct model *m, const struct godwit_params *p,
		      uint64_t bw)
{
	struct gw_converge c = { 0 };
	struct gw_converge_pass x = { .sent = m->ws, .bandwidth = bw };
	enum gw_verdict v = GW_GO_ON;
	int64_t allowed = p->downtime_limit_ns, estimate;
	uint32_t before = 0;

	if (allowed < p->max_downtime_ns)
		allowed = p->max_downtime_ns;
	while (v == GW_GO_ON && ++x.pass < 100000) {
		double s = (double)x.sent / (double)bw;

		x.remaining = model_dirties(m, s < 0.05 ? 0.05 : s,
					    c.throttle);
		v = gw_converge_decide(&c, p, &x);
		CHECK(c.throttle >= before && c.throttle <= 99);
		CHECK(p->auto_converge || !c.throttle);
		before = c.throttle;
		x.sent = x.remaining;
	}
	CHECK(v != GW_GO_ON);
	estimate = gw_converge_estimate(c.last, bw);
	if (v == GW_SWITCH_OVER)
		CHECK(estimate <= allowed);
	if (v == GW_GIVE_UP && p->auto_converge)
		CHECK(c.throttle == p->max_cpu_throttle);
	if (v == GW_GIVE_UP && m->wave == 0)
		CHECK(estimate > allowed);
}

static void any_guest_gets_a_verdict(void)
{
	uint64_t seed = test_seed();

	for (int i = 0; i < 5000; i++) {
		struct godwit_params p =
			limits((int64_t)(test_rand(&seed) % 1000));
		uint64_t bw = 1 + test_rand(&seed) % (4ULL << 30);
		struct model m = {
			.ws = test_rand(&seed) % (1ULL << 32),
			.rate = (double)(test_rand(&seed) % (8ULL << 30)),
		};

		if (i % 2)
			m.wave = (double)(test_rand(&seed) % 100) / 100;
		p.auto_converge = i % 4 >= 2;
		if (i % 8 >= 4)
			p.max_downtime_ns = (int64_t)(test_rand(&seed) %
						      (10 * GW_NS_PER_S));
		if (i % 16 >= 8)
			p.max_cpu_throttle =
				20 + (uint32_t)(test_rand(&seed) % 80);
		run_model(&m, &p, bw);
	}
}

/* Slowed down enough, a guest five times as fast as the link converges. */
static void throttling_makes_a_fast_guest_converge(void)
{
	struct godwit_params p = limits(300);
	struct model m = { .ws = 2ULL << 30, .rate = 5.0 * (1 << 30) };
	struct gw_converge c = { 0 };
	struct gw_converge_pass x = { .sent = m.ws, .bandwidth = 1 << 30 };
	enum gw_verdict v = GW_GO_ON;

	p.auto_converge = true;
	while (v == GW_GO_ON) {
		REQUIRE(++x.pass < 100);
		x.remaining = model_dirties(&m, (double)x.sent / (1 << 30),
					    c.throttle);
		v = gw_converge_decide(&c, &p, &x);
		x.sent = x.remaining;
	}
	CHECK(v == GW_SWITCH_OVER && c.throttle >= 80);
}

/* --- the limiter ---------------------------------------------------------- */

static void the_limiter_asks_for_the_time(void)
{
	struct gw_limit l;
	int64_t wait;

	gw_limit_init(&l, 0);
	CHECK(gw_limit_spend(&l, 1 << 30) == 0);
	gw_limit_init(&l, 1 << 20);
	wait = gw_limit_spend(&l, 1 << 20);
	CHECK(wait > 980 * GW_NS_PER_MS && wait <= GW_NS_PER_S);
}

/* What is owed is owed in bytes: at another rate it takes another time. */
static void the_limiter_follows_another_rate_at_once(void)
{
	struct gw_limit l;
	int64_t wait;

	gw_limit_init(&l, 1 << 20);
	gw_limit_spend(&l, 64 << 20); /* a minute */
	gw_limit_set(&l, 64 << 20);
	wait = gw_limit_spend(&l, 0);
	CHECK(wait > 900 * GW_NS_PER_MS && wait <= GW_NS_PER_S);
	gw_limit_set(&l, 0);
	CHECK(gw_limit_spend(&l, 1 << 30) == 0);
	/* And what was free is not owed afterwards. */
	gw_limit_set(&l, 1 << 20);
	CHECK(gw_limit_spend(&l, 0) == 0);
}

static void statistics_have_qemus_names(void)
{
	struct gw_error err = { .code = ETIME, .fault = GW_FAULT_CONVERGE,
				.msg = "no" };
	struct godwit_stats s = { .status = GODWIT_STATUS_COMPLETED,
				  .downtime_ns = 17400000,
				  .normal = 3,
				  .transferred = 99 };
	json_t *j = gw_stats_json(&s, NULL);
	json_int_t downtime = 0, normal = 0, sent = 0;
	const char *status = "", *why = "";

	CHECK(!json_unpack(j, "{s:s, s:I, s:{s:I, s:I}}", "status", &status,
			   "downtime", &downtime, "ram", "normal", &normal,
			   "transferred", &sent));
	CHECK(!strcmp(status, "completed") && downtime == 17 && normal == 3 &&
	      sent == 99);
	json_decref(j);
	s.status = GODWIT_STATUS_FAILED;
	j = gw_stats_json(&s, &err);
	CHECK(!json_unpack(j, "{s:s}", "error-desc", &why) && !strcmp(why, "no"));
	CHECK(!json_object_get(j, "downtime"));
	CHECK(!json_object_get(j, "free-page-hint"));
	json_decref(j);
	s.hint_asked = true;
	s.hinted = 7;
	s.hinted_absent = 5;
	j = gw_stats_json(&s, NULL);
	CHECK(!json_unpack(j, "{s:{s:I, s:I, s:I}}", "free-page-hint",
			   "accepted", &downtime, "not-compared", &normal,
			   "late", &sent));
	CHECK(downtime == 7 && normal == 5 && sent == 0);
	json_decref(j);
}

static void checkpoints_have_their_own_object(void)
{
	struct godwit_stats s = { .status = GODWIT_STATUS_COLO };
	json_t *j = gw_stats_json(&s, NULL);
	json_int_t n = 0, pause = 0, lag = 0, late = 0;
	const char *status = "";

	CHECK(!json_unpack(j, "{s:s}", "status", &status) &&
	      !strcmp(status, "colo"));
	CHECK(!json_object_get(j, "colo")); /* the first copy goes on */
	json_decref(j);
	s.checkpoint = 12;
	s.checkpoint_pause_ns = 3200400;
	s.checkpoint_lag_ns = 1600;
	s.checkpoints_late = 3;
	j = gw_stats_json(&s, NULL);
	CHECK(!json_unpack(j, "{s:{s:I, s:I, s:I, s:I}}", "colo", "checkpoint",
			   &n, "pause-us", &pause, "lag-us", &lag, "late",
			   &late));
	CHECK(n == 12 && pause == 3200 && lag == 2 && late == 3);
	CHECK(json_object_size(json_object_get(j, "colo")) == 12);
	json_decref(j);
}

/* --- free page hints ------------------------------------------------------- */

static uint32_t told;

static void on_hints(uint32_t id, void *data)
{
	told = id;
}

static uint64_t map(void *data, uint64_t addr, uint64_t len, const char **block,
		    uint64_t *offset)
{
	*block = "ram";
	*offset = addr;
	return addr < 1 << 20 ? len : 0;
}

/* What an engine does with @op's hints. */
static uint32_t open_window(struct godwit_op *op, struct gw_ram *ram)
{
	struct gw_error err;
	uint32_t id = 0;

	gw_bitmap_set_range(&ram->block[0].dirty, 0, 256);
	CHECK(!gw_hint_open(&op->hint, ram, &id, &err));
	op->hint.wanted(id, op->hint.data);
	return id;
}

static void an_embedder_gives_hints(void)
{
	static const struct godwit_balloon_ops ops = { NULL, map };
	struct godwit_op *op = godwit_op_new(NULL, NULL, NULL, NULL, NULL);
	struct godwit_balloon *b = godwit_balloon_new(&ops, NULL, NULL);
	struct gw_ram *ram = calloc(1, sizeof(*ram));
	struct gw_error err;
	uint8_t le[4];
	uint32_t id;

	REQUIRE(op && b && ram);
	CHECK(gw_ram_add(ram, "ram", 1 << 20, 4096, -1, 0, &err));
	CHECK(godwit_hint_free(op, 5, "ram", 0, 4096) == -ESTALE);
	godwit_op_want_hints(op, on_hints, NULL);
	id = open_window(op, ram);
	CHECK(told == id);
	CHECK(!godwit_hint_free(op, id, "ram", 4096, 8192));
	CHECK(godwit_hint_free(op, id, "rom", 4096, 8192) == -EINVAL);
	CHECK(gw_ram_dirty_pages(ram) == 254);

	CHECK(godwit_balloon_cmd_id(b) == 1);
	godwit_balloon_use(b, op);
	id = open_window(op, ram);
	CHECK(godwit_balloon_cmd_id(b) == id);
	for (int i = 0; i < 4; i++)
		le[i] = (uint8_t)(id >> 8 * i);
	godwit_balloon_out(b, le, 4);
	godwit_balloon_in(b, 8192, 16384);
	godwit_balloon_in(b, 1 << 20, 16384);
	CHECK(gw_ram_dirty_pages(ram) == 252);
	godwit_balloon_reset(b);
	godwit_balloon_in(b, 0, 4096);
	godwit_balloon_out(b, le, 4);
	godwit_balloon_poison(b, 1);
	godwit_balloon_in(b, 0, 4096);
	op->hint.wanted(0, op->hint.data);
	CHECK(godwit_balloon_cmd_id(b) == 0);
	godwit_balloon_done(b);
	CHECK(godwit_balloon_cmd_id(b) == 1);
	CHECK(gw_ram_dirty_pages(ram) == 252);
	godwit_op_free(op);
	godwit_balloon_free(b);
	godwit_balloon_free(NULL);
	gw_ram_fini(ram);
	free(ram);
}

int main(void)
{
	RUN(every_default_is_valid);
	RUN(assignments_are_checked);
	RUN(texts_are_the_callers);
	RUN(what_fences_is_checked);
	RUN(a_calm_guest_converges);
	RUN(a_steady_guest_switches_at_once);
	RUN(a_busy_guest_is_given_up);
	RUN(bad_passes_throttle_step_by_step);
	RUN(long_passes_throttle_faster);
	RUN(the_throttle_follows_its_parameters);
	RUN(a_stall_throttles_before_it_gives_up);
	RUN(a_dip_is_waited_for);
	RUN(what_does_not_fit_is_given_up);
	RUN(the_most_is_taken_without_an_end_too);
	RUN(any_guest_gets_a_verdict);
	RUN(throttling_makes_a_fast_guest_converge);
	RUN(the_limiter_asks_for_the_time);
	RUN(the_limiter_follows_another_rate_at_once);
	RUN(statistics_have_qemus_names);
	RUN(checkpoints_have_their_own_object);
	RUN(an_embedder_gives_hints);
	return test_done();
}
