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
}

static struct godwit_params limits(int64_t downtime_ms)
{
	struct godwit_params p;

	godwit_params_init(&p);
	p.downtime_limit_ns = downtime_ms * GW_NS_PER_MS;
	return p;
}

/* A guest that stops writing: each pass leaves less. */
static void a_calm_guest_converges(void)
{
	struct godwit_params p = limits(300);
	struct gw_converge c = { 0 };
	uint64_t left = 1 << 30;
	unsigned int pass = 1;

	while (gw_converge_decide(&c, &p, pass, left, 1 << 30) == GW_GO_ON) {
		left /= 4;
		REQUIRE(pass++ < 40);
	}
	CHECK(left <= 64 << 10);
}

/* Steady dirtying within the limit: no pass lowers it, so do not wait. */
static void a_steady_guest_switches_at_once(void)
{
	struct godwit_params p = limits(300);
	struct gw_converge c = { 0 };

	CHECK(gw_converge_decide(&c, &p, 1, 8 << 20, 1 << 30) == GW_GO_ON);
	CHECK(gw_converge_decide(&c, &p, 2, 8 << 20, 1 << 30) ==
	      GW_SWITCH_OVER);
}

static void a_busy_guest_is_given_up(void)
{
	struct godwit_params p = limits(10);
	struct gw_converge c = { 0 };
	unsigned int pass = 1;
	enum gw_verdict v;

	do
		v = gw_converge_decide(&c, &p, pass, 500 << 20, 1 << 30);
	while (v == GW_GO_ON && pass++ < 100);
	CHECK(v == GW_GIVE_UP);
	CHECK(pass == 1 + p.stall_passes);
	/* Unless it may go on for ever. */
	c = (struct gw_converge){ 0 };
	p.stall_passes = 0;
	for (pass = 1; pass < 1000; pass++)
		CHECK(gw_converge_decide(&c, &p, pass, 500 << 20, 1 << 30) ==
		      GW_GO_ON);
	p.max_passes = 1000;
	CHECK(gw_converge_decide(&c, &p, 1000, 500 << 20, 1 << 30) ==
	      GW_GIVE_UP);
}

/* Against a simulated guest: whatever the rates, a verdict comes, and a
 * switch-over is never given beyond the limit. */
static void any_guest_gets_a_verdict(void)
{
	uint64_t seed = test_seed();

	for (int i = 0; i < 2000; i++) {
		struct godwit_params p =
			limits((int64_t)(test_rand(&seed) % 1000));
		uint64_t bw = 1 + test_rand(&seed) % (4ULL << 30);
		uint64_t rate = test_rand(&seed) % (8ULL << 30);
		uint64_t ws = test_rand(&seed) % (1ULL << 32);
		uint64_t left = ws;
		struct gw_converge c = { 0 };
		enum gw_verdict v = GW_GO_ON;
		unsigned int pass = 0;

		while (v == GW_GO_ON && ++pass < 100000) {
			v = gw_converge_decide(&c, &p, pass, left, bw);
			left = (uint64_t)((double)left / (double)bw *
					  (double)rate);
			left = left > ws ? ws : left;
		}
		CHECK(v != GW_GO_ON);
		if (v == GW_SWITCH_OVER)
			CHECK(gw_converge_estimate(c.last, bw) <=
			      p.downtime_limit_ns);
	}
}

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
	RUN(a_calm_guest_converges);
	RUN(a_steady_guest_switches_at_once);
	RUN(a_busy_guest_is_given_up);
	RUN(any_guest_gets_a_verdict);
	RUN(the_limiter_asks_for_the_time);
	RUN(statistics_have_qemus_names);
	RUN(an_embedder_gives_hints);
	return test_done();
}
