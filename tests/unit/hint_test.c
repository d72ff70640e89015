/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hint_test.c - the rules of free page hints, the answer of a guest agent, and
 * the device's side of virtio-balloon's hints.
 */
#include "test.h"

#include <errno.h>
#include <pthread.h>

#include "hint/answer.h"
#include "hint/balloon.h"
#include "hint/hint.h"

#define PAGES 1024u

static struct gw_ram ram;
static struct gw_hint hint;
static struct gw_error err;

/* Two blocks; pages 0 to 511 of each are in the bulk pass. */
static void begin(void)
{
	gw_ram_init(&ram);
	gw_hint_init(&hint);
	for (int i = 0; i < 2; i++) {
		struct gw_ramblock *b = gw_ram_add(
			&ram, i ? "b" : "a", PAGES * GW_PAGE_SIZE,
			GW_PAGE_SIZE, -1, 0, &err);

		CHECK(b);
		gw_bitmap_set_range(&b->dirty, 0, 512);
	}
}

static void end(void)
{
	gw_hint_fini(&hint);
	gw_ram_fini(&ram);
}

static struct gw_hint_stats stats(void)
{
	struct gw_hint_stats s;

	gw_hint_get_stats(&hint, &s);
	return s;
}

static void a_hint_takes_a_page_out_of_the_bulk(void)
{
	uint32_t id;

	begin();
	CHECK_OK(gw_hint_open(&hint, &ram, &id, &err), &err);
	CHECK(!gw_hint_free(&hint, id, "a", 10 * GW_PAGE_SIZE,
			    5 * GW_PAGE_SIZE));
	CHECK(!gw_hint_free_at(&hint, id, 1, 0, GW_PAGE_SIZE));
	CHECK(gw_ram_dirty_pages(&ram) == 1024 - 6);
	for (uint64_t p = 0; p < PAGES; p++) {
		CHECK(gw_hint_absent(&hint, 0, p) == (p >= 10 && p < 15));
		CHECK(gw_bitmap_test(&ram.block[0].dirty, p) ==
		      (p < 512 && !(p >= 10 && p < 15)));
	}
	CHECK(gw_hint_nabsent(&hint) == 6);
	CHECK(stats().accepted == 6 && !stats().late && !stats().stale);
	end();
}

static void only_whole_pages_count(void)
{
	uint32_t id;

	begin();
	CHECK(!gw_hint_open(&hint, &ram, &id, &err));
	CHECK(!gw_hint_free(&hint, id, "a", 1, GW_PAGE_SIZE - 1));
	CHECK(!gw_hint_free(&hint, id, "a", 4095, GW_PAGE_SIZE));
	CHECK(!gw_hint_free(&hint, id, "a", 0, GW_PAGE_SIZE - 1));
	CHECK(!gw_hint_free(&hint, id, "a", 0, 0));
	CHECK(!stats().accepted && !stats().late);
	CHECK(!gw_hint_free(&hint, id, "a", 1, 3 * GW_PAGE_SIZE));
	CHECK(stats().accepted == 2);
	CHECK(gw_hint_absent(&hint, 0, 1) && gw_hint_absent(&hint, 0, 2));
	CHECK(!gw_hint_absent(&hint, 0, 0) && !gw_hint_absent(&hint, 0, 3));
	end();
}

static void what_is_no_memory_is_refused(void)
{
	uint64_t all = PAGES * GW_PAGE_SIZE;
	uint32_t id;

	begin();
	CHECK(!gw_hint_open(&hint, &ram, &id, &err));
	CHECK(gw_hint_free(&hint, id, "c", 0, 4096) == -EINVAL);
	CHECK(gw_hint_free(&hint, id, "", 0, 4096) == -EINVAL);
	CHECK(gw_hint_free(&hint, id, "a", all, 1) == -EINVAL);
	CHECK(gw_hint_free(&hint, id, "a", 0, all + 1) == -EINVAL);
	CHECK(gw_hint_free(&hint, id, "a", 4096, UINT64_MAX) == -EINVAL);
	CHECK(gw_hint_free(&hint, id, "a", UINT64_MAX, 4096) == -EINVAL);
	CHECK(gw_hint_free_at(&hint, id, -1, 0, 4096) == -EINVAL);
	CHECK(gw_hint_free_at(&hint, id, 2, 0, 4096) == -EINVAL);
	CHECK(stats().refused == 8 && !stats().accepted);
	CHECK(gw_ram_dirty_pages(&ram) == 1024);
	/* all of it is fine */
	CHECK(!gw_hint_free(&hint, id, "a", 0, all));
	CHECK(stats().accepted == 512 && stats().late == 512);
	end();
}

static void answers_to_another_question_are_dropped(void)
{
	uint32_t id, id2;

	begin();
	CHECK(gw_hint_free(&hint, 0, "a", 0, 8192) == -ESTALE);
	CHECK(gw_hint_free(&hint, 7, "a", 0, 8192) == -ESTALE);
	CHECK(!gw_hint_open(&hint, &ram, &id, &err));
	CHECK(id > 1 && id & 0x80000000u);
	CHECK(gw_hint_free(&hint, 0, "a", 0, 8192) == -ESTALE);
	CHECK(gw_hint_free(&hint, id + 1, "a", 0, 8192) == -ESTALE);
	CHECK(stats().stale == 4 && !stats().accepted);
	gw_hint_close(&hint);
	CHECK(gw_hint_free(&hint, id, "a", 0, 8192) == -ESTALE);
	CHECK(gw_hint_free(&hint, 0, "a", 0, 8192) == -ESTALE);
	gw_hint_close(&hint);
	for (int i = 0; i < 100; i++) {
		CHECK(!gw_hint_open(&hint, &ram, &id2, &err));
		CHECK(id2 != id && id2 > 1);
		CHECK(gw_hint_free(&hint, id, "a", 0, 8192) == -ESTALE);
		id = id2;
	}
	gw_hint_end(&hint);
	CHECK(gw_hint_free(&hint, id, "a", 0, 8192) == -ESTALE);
	CHECK(gw_ram_dirty_pages(&ram) == 1024);
	end();
}

static void a_page_that_was_sent_is_too_late(void)
{
	uint64_t first;
	uint32_t id;

	begin();
	CHECK(!gw_hint_open(&hint, &ram, &id, &err));
	CHECK(gw_bitmap_take_run(&ram.block[0].dirty, 0, &first) == 64);
	CHECK(!gw_hint_free(&hint, id, "a", 0, 100 * GW_PAGE_SIZE));
	CHECK(stats().accepted == 36 && stats().late == 64);
	/* said twice */
	CHECK(!gw_hint_free(&hint, id, "a", 0, 100 * GW_PAGE_SIZE));
	CHECK(stats().accepted == 36 && stats().late == 164);
	end();
}

static void a_page_reported_written_is_absent_no_more(void)
{
	uint32_t id;

	begin();
	CHECK(!gw_hint_open(&hint, &ram, &id, &err));
	CHECK(!gw_hint_free(&hint, id, "b", 0, 512 * GW_PAGE_SIZE));
	gw_hint_close(&hint);
	gw_bitmap_clear_all(&ram.block[0].dirty);
	CHECK(!gw_ram_dirty_pages(&ram));
	gw_bitmap_set(&ram.block[1].dirty, 5);
	gw_bitmap_set(&ram.block[1].dirty, 700);
	gw_hint_reported(&hint);
	CHECK(!gw_hint_absent(&hint, 1, 5) && gw_hint_absent(&hint, 1, 6));
	CHECK(gw_hint_nabsent(&hint) == 511);
	gw_bitmap_set_range(&ram.block[1].dirty, 10, 90);
	gw_hint_reported_range(&hint, 1, 20, 10);
	gw_hint_reported_range(&hint, 0, 0, PAGES); /* nothing was hinted */
	CHECK(gw_hint_absent(&hint, 1, 19) && gw_hint_absent(&hint, 1, 30));
	CHECK(gw_hint_nabsent(&hint) == 501);
	gw_bitmap_set_range(&ram.block[1].dirty, 0, PAGES);
	gw_hint_reported(&hint);
	CHECK(!gw_hint_nabsent(&hint));
	end();
}

/* --- against a sender ------------------------------------------------------ */

static uint32_t race_id;

static void *hinter(void *arg)
{
	uint64_t seed = (uintptr_t)arg;
	int r = 0;

	while (r != -ESTALE)
		r = gw_hint_free_at(&hint, race_id, (int)(test_rand(&seed) & 1),
				    test_rand(&seed) % PAGES * GW_PAGE_SIZE,
				    0) ?:
		    gw_hint_free_at(&hint, race_id, 0,
				    test_rand(&seed) % 512 * GW_PAGE_SIZE,
				    GW_PAGE_SIZE);
	return NULL;
}

/* Each page is sent or hinted, never both, never neither; and once the window
 * is closed nobody touches the bitmap. */
static void each_page_goes_to_one_of_two(void)
{
	uint64_t seed = test_seed();

	for (int round = 0; round < 30; round++) {
		struct gw_bitmap *dirty;
		uint64_t at = 0, first, n, sent = 0;
		pthread_t t[2];

		begin();
		dirty = &ram.block[0].dirty;
		CHECK(!gw_hint_open(&hint, &ram, &race_id, &err));
		for (uintptr_t i = 0; i < 2; i++)
			CHECK(!pthread_create(&t[i], NULL, hinter,
					      (void *)(test_rand(&seed) | 1)));
		while ((n = gw_bitmap_take_run(dirty, at, &first))) {
			at = first + n;
			sent += n;
			for (uint64_t p = first; p < at; p++)
				CHECK(!gw_hint_absent(&hint, 0, p));
		}
		gw_hint_close(&hint);
		CHECK(sent + stats().accepted == 512);
		gw_bitmap_set_range(dirty, 0, PAGES);
		for (int i = 0; i < 2; i++)
			pthread_join(t[i], NULL);
		CHECK(gw_bitmap_count(dirty) == PAGES);
		end();
	}
}

/* --- the agent's answer ---------------------------------------------------- */

static struct {
	uint64_t addr[16], len[16];
	uint32_t id;
	int n, ends;
	char refused[GW_ANSWER_TEXT + 1];
} heard;

static void on_range(void *arg, uint32_t id, uint64_t addr, uint64_t len)
{
	heard.id = id;
	if (heard.n < 16) {
		heard.addr[heard.n] = addr;
		heard.len[heard.n] = len;
	}
	heard.n++;
}

static void on_end(void *arg, uint32_t id, const char *refused)
{
	heard.id = id;
	heard.ends++;
	snprintf(heard.refused, sizeof(heard.refused), "%s",
		 refused ? refused : "");
}

static const struct gw_answer_ops ops = { on_range, on_end };
static struct gw_answer answer;

static size_t frame(uint8_t *to, enum gfp_type type, uint32_t id,
		    const void *payload, size_t n)
{
	gfp_head(to, type, id, payload, (uint16_t)n);
	memcpy(to + GFP_HEAD, payload, n);
	return GFP_HEAD + n;
}

static void listen_anew(void)
{
	memset(&heard, 0, sizeof(heard));
	gw_answer_init(&answer, &ops, NULL);
}

static const uint8_t two_runs[] = { 12, 1, 2, 0x80, 0x02, 0x81, 0x01 };

static void an_answer_is_understood_in_pieces(void)
{
	static uint8_t text[200000];
	size_t n = 0;

	n += frame(text + n, GFP_PART, 77, two_runs, sizeof(two_runs));
	n += frame(text + n, GFP_PART, 77, "\x0c", 1);
	n += frame(text + n, GFP_END, 77, "", 0);
	for (size_t step = 1; step <= n; step++) {
		listen_anew();
		for (size_t at = 0; at < n; at += step)
			gw_answer_feed(&answer, text + at,
				       n - at < step ? n - at : step);
		CHECK(heard.n == 2 && heard.ends == 1 && heard.id == 77);
		CHECK(heard.addr[0] == 1 << 12 && heard.len[0] == 2 << 12);
		CHECK(heard.addr[1] == (3 + 256) << 12 &&
		      heard.len[1] == 129 << 12);
		CHECK(!answer.bad && !answer.skipped && answer.frames == 3);
	}
	listen_anew();
	n = frame(text, GFP_REFUSED, 5, "no\nroot", 7);
	gw_answer_feed(&answer, text, n);
	CHECK(heard.ends == 1 && !strcmp(heard.refused, "no?root"));
	memset(text + 100000, 'x', GFP_MAX_PAYLOAD);
	n = frame(text, GFP_REFUSED, 5, text + 100000, GFP_MAX_PAYLOAD);
	gw_answer_feed(&answer, text, n);
	CHECK(heard.ends == 2 && strlen(heard.refused) == GW_ANSWER_TEXT);
}

/* The rest of an older answer, then a whole one. */
static void a_cut_frame_is_skipped(void)
{
	static const uint8_t pad[GFP_HEAD + GFP_MAX_PAYLOAD];
	uint8_t old[64], text[64];
	size_t n = frame(old, GFP_PART, 1, two_runs, sizeof(two_runs));
	size_t m = frame(text, GFP_END, 2, "", 0);

	for (size_t cut = 1; cut < n; cut++) {
		listen_anew();
		gw_answer_feed(&answer, old + cut, n - cut);
		gw_answer_feed(&answer, text, m);
		CHECK(!heard.n && heard.ends == 1 && heard.id == 2);
		CHECK(answer.skipped == n - cut);
	}
	/* cut at its end: its head waits for bytes that are the next frame's */
	for (size_t keep = 1; keep < n; keep++) {
		listen_anew();
		gw_answer_feed(&answer, old, keep);
		gw_answer_feed(&answer, text, m);
		gw_answer_feed(&answer, pad, sizeof(pad));
		CHECK(!heard.n && heard.ends == 1 && heard.id == 2);
	}
}

static void damage_is_not_believed(void)
{
	uint8_t text[64];

	for (size_t i = 0; i < GFP_HEAD + sizeof(two_runs); i++)
		for (int bit = 0; bit < 8; bit++) {
			size_t n = frame(text, GFP_PART, 9, two_runs,
					 sizeof(two_runs));

			listen_anew();
			text[i] ^= (uint8_t)(1 << bit);
			gw_answer_feed(&answer, text, n);
			CHECK(!heard.n && !heard.ends);
		}
}

static void nonsense_is_counted(void)
{
	static const struct {
		const char *bytes;
		size_t n;
		int ranges;
	} bad[] = {
		{ "", 0, 0 },		       /* no page size */
		{ "\x0b\x01\x01", 3, 0 },      /* too small pages */
		{ "\x11\x01\x01", 3, 0 },
		{ "\xff\x01\x01", 3, 0 },
		{ "\x0c\x01", 2, 0 },	       /* half a pair */
		{ "\x0c\x01\x00", 3, 0 },      /* a run of nothing */
		{ "\x0c\x01\x01\x01\x80", 5, 1 }, /* a number that goes on */
		{ "\x0c\x80\x80\x80\x80\x80\x80\x80\x80\x01\x01", 11, 0 },
		{ "\x0c\xff\xff\xff\xff\xff\x3f\x02", 8, 0 }, /* beyond 2^52 */
		{ "\x0c\x00\xff\xff\xff\xff\xff\xff\x3f", 9, 0 },
	};
	uint8_t text[64];

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		size_t n = frame(text, GFP_PART, 9, bad[i].bytes, bad[i].n);

		listen_anew();
		gw_answer_feed(&answer, text, n);
		CHECK(heard.n == bad[i].ranges && answer.bad == 1);
	}
	listen_anew();
	gw_answer_feed(&answer, text, frame(text, GFP_REQUEST, 9, "", 0));
	gw_answer_feed(&answer, text, frame(text, 99, 9, "", 0));
	CHECK(answer.bad == 2 && !heard.n && !heard.ends);
	/* the largest there is */
	listen_anew();
	gw_answer_feed(&answer, text,
		       frame(text, GFP_PART, 9,
			     "\x0c\x00\x80\x80\x80\x80\x80\x20", 8));
	CHECK(heard.n == 1 && !answer.bad && heard.len[0] == 1ULL << 52);
}

static void who_talks_nonsense_is_not_listened_to(void)
{
	static uint8_t noise[65536];
	uint64_t seed = test_seed();
	uint8_t text[64];
	size_t n;

	listen_anew();
	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)test_rand(&seed);
	for (int i = 0; i < 100; i++)
		gw_answer_feed(&answer, noise, sizeof(noise));
	CHECK(gw_answer_deaf(&answer));
	CHECK(answer.skipped <= GW_ANSWER_SKIPPED + sizeof(answer.buf));
	n = frame(text, GFP_END, 1, "", 0);
	gw_answer_feed(&answer, text, n);
	CHECK(!heard.ends);

	/* marks by the thousand: each costs a checksum */
	listen_anew();
	for (size_t i = 0; i + 8 <= sizeof(noise); i += 8) {
		memcpy(noise + i, GFP_MARK "\x01\x02\x7f\xff", 8);
	}
	for (int i = 0; i < 100; i++)
		gw_answer_feed(&answer, noise, sizeof(noise));
	CHECK(gw_answer_deaf(&answer) && answer.broken < 100);
	CHECK(!heard.n && !heard.ends);
}

/* --- the balloon ----------------------------------------------------------- */

static int interrupts;

static void config_changed(void *arg)
{
	interrupts++;
}

/* Block a at 0, block b at 1 GiB. */
static uint64_t map(void *arg, uint64_t addr, uint64_t len, const char **block,
		    uint64_t *offset)
{
	uint64_t base = addr >= 1 << 30 ? 1 << 30 : 0;

	*block = base ? "b" : "a";
	*offset = addr - base;
	if (*offset >= PAGES * GW_PAGE_SIZE)
		return 0;
	return len < PAGES * GW_PAGE_SIZE - *offset ?
		       len :
		       PAGES * GW_PAGE_SIZE - *offset;
}

static const struct gw_balloon_ops balloon_ops = { config_changed, map };
static struct gw_balloon balloon;

static void say_id(uint32_t id)
{
	uint8_t le[4] = { (uint8_t)id, (uint8_t)(id >> 8), (uint8_t)(id >> 16),
			  (uint8_t)(id >> 24) };

	gw_balloon_out(&balloon, le, 4);
}

static void balloon_follows_the_protocol(void)
{
	struct gw_balloon_stats s;
	uint32_t id;

	begin();
	interrupts = 0;
	gw_balloon_init(&balloon, &balloon_ops, NULL);
	CHECK(gw_balloon_cmd_id(&balloon) == GW_BALLOON_CMD_DONE);
	gw_balloon_in(&balloon, 0, 8192); /* nobody asked */
	CHECK(!gw_hint_open(&hint, &ram, &id, &err));
	gw_balloon_begin(&balloon, &hint, id);
	CHECK(gw_balloon_cmd_id(&balloon) == id && interrupts == 1);
	gw_balloon_in(&balloon, 0, 8192); /* does not say what it answers */
	say_id(id - 1);
	gw_balloon_in(&balloon, 0, 8192); /* answers an old question */
	gw_balloon_out(&balloon, "abcdefgh", 8);
	gw_balloon_out(&balloon, "", 0);
	CHECK(!stats().accepted);
	say_id(id);
	gw_balloon_in(&balloon, 4096, 8192);
	gw_balloon_in(&balloon, 1 << 30, 4096);
	CHECK(stats().accepted == 3 && gw_hint_absent(&hint, 1, 0));
	/* to the end of a block and beyond; no memory; around the end */
	gw_balloon_in(&balloon, 510 * 4096, 1 << 29);
	CHECK(stats().accepted == 5);
	gw_balloon_in(&balloon, 1 << 29, 4096);
	gw_balloon_in(&balloon, UINT64_MAX - 4095, 8192);
	CHECK(stats().accepted == 5);
	say_id(GW_BALLOON_CMD_STOP);
	gw_balloon_in(&balloon, 20 * 4096, 4096); /* after its own end */
	CHECK(stats().accepted == 5);
	/* it may begin again */
	say_id(id);
	gw_balloon_in(&balloon, 20 * 4096, 4096);
	CHECK(stats().accepted == 6);
	gw_hint_close(&hint);
	gw_balloon_in(&balloon, 30 * 4096, 4096); /* still on its way */
	gw_balloon_stop(&balloon);
	CHECK(gw_balloon_cmd_id(&balloon) == GW_BALLOON_CMD_STOP);
	gw_balloon_in(&balloon, 31 * 4096, 4096);
	say_id(id);
	gw_balloon_in(&balloon, 32 * 4096, 4096);
	gw_balloon_done(&balloon);
	CHECK(gw_balloon_cmd_id(&balloon) == GW_BALLOON_CMD_DONE);
	CHECK(interrupts == 3 && stats().accepted == 6);
	gw_balloon_get_stats(&balloon, &s);
	CHECK(s.ranges == 7 && s.ignored >= 7);
	gw_balloon_fini(&balloon);
	end();
}

static void balloon_with_poison_gives_no_hints(void)
{
	uint32_t id;

	begin();
	gw_balloon_init(&balloon, &balloon_ops, NULL);
	CHECK(!gw_hint_open(&hint, &ram, &id, &err));
	gw_balloon_begin(&balloon, &hint, id);
	gw_balloon_poison(&balloon, 0xaaaaaaaa);
	say_id(id);
	gw_balloon_in(&balloon, 0, 8192);
	CHECK(!stats().accepted);
	gw_balloon_poison(&balloon, 0);
	gw_balloon_in(&balloon, 0, 8192);
	CHECK(stats().accepted == 2);
	gw_balloon_reset(&balloon);
	gw_balloon_in(&balloon, 8192, 8192); /* another driver */
	CHECK(stats().accepted == 2);
	say_id(id);
	gw_balloon_in(&balloon, 8192, 8192);
	CHECK(stats().accepted == 4);
	gw_balloon_fini(&balloon);
	end();
}

int main(void)
{
	RUN(a_hint_takes_a_page_out_of_the_bulk);
	RUN(only_whole_pages_count);
	RUN(what_is_no_memory_is_refused);
	RUN(answers_to_another_question_are_dropped);
	RUN(a_page_that_was_sent_is_too_late);
	RUN(a_page_reported_written_is_absent_no_more);
	RUN(each_page_goes_to_one_of_two);
	RUN(an_answer_is_understood_in_pieces);
	RUN(a_cut_frame_is_skipped);
	RUN(damage_is_not_believed);
	RUN(nonsense_is_counted);
	RUN(who_talks_nonsense_is_not_listened_to);
	RUN(balloon_follows_the_protocol);
	RUN(balloon_with_poison_gives_no_hints);
	return test_done();
}
