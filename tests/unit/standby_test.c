/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * standby_test.c - a standby and its primary in this process. The primary is
 * as simple as can be: it compares all of the VM's memory with a copy, sends
 * what differs, and can leave anything out or lie. What the standby runs is
 * checked byte for byte, and against what was acknowledged.
 */
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/scope.h"
#include "chan/fault.h"
#include "chan/lease.h"
#include "colo/standby.h"
#include "control/params.h"
#include "source/source.h"
#include "vm/synthetic.h"
#include "wire/checkpoint.h"
#include "wire/hello.h"
#include "wire/multifd.h"
#include "wire/ram.h"
#include "wire/section.h"

#define BLOCKS	   2
#define BYTES	   (2ul << 20)
#define TIMEOUT_MS 1500 /* a busy machine forgets a thread for a while */
#define PATIENCE_S 60 /* with a busy machine */

static uint64_t seed;
static char folder[] = "/tmp/gw-standby-XXXXXX";

/* --- the standby ---------------------------------------------------------- */

struct standby {
	struct gw_vm *vm;
	struct gw_listener *listener;
	struct godwit_params params;
	struct gw_cancel cancel;
	struct gw_progress progress;
	char control[128], cache[128];
	pthread_t thread;
	int r;
	bool took_over;
	struct gw_error err;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	char events[8192]; /* "what|" one behind the other */
	char last[1024];   /* detail of the last */
	int64_t taking_ns; /* when it began to take over */
};

static void event(const char *what, const char *detail, void *data)
{
	struct standby *s = data;
	size_t n;
	GW_LOCKED(&s->lock);

	n = strlen(s->events);
	snprintf(s->events + n, sizeof(s->events) - n, "%s|", what);
	snprintf(s->last, sizeof(s->last), "%s", detail);
	if (!strcmp(what, "taking over"))
		s->taking_ns = gw_now_ns();
	pthread_cond_broadcast(&s->changed);
}

static unsigned int count_event(struct standby *s, const char *what)
{
	char word[64];
	unsigned int n = 0;
	GW_LOCKED(&s->lock);

	snprintf(word, sizeof(word), "%s|", what);
	for (const char *p = s->events; (p = strstr(p, word)); p++)
		n++;
	return n;
}

/* Until it came for the @nth time. */
static void await_event(struct standby *s, const char *what, unsigned int nth)
{
	int64_t deadline = gw_deadline_ms(PATIENCE_S * 1000);

	while (count_event(s, what) < nth && gw_deadline_left_ms(deadline))
		usleep(2000);
	CHECK(count_event(s, what) >= nth);
	if (count_event(s, what) < nth)
		printf("  no '%s' (%u): %s: %s\n", what, nth, s->events,
		       s->last);
}

static void *run_standby(void *arg)
{
	struct standby *s = arg;
	struct gw_standby_config c = { .vm = s->vm,
				       .listener = s->listener,
				       .control = s->control,
				       .params = &s->params,
				       .cancel = &s->cancel,
				       .progress = &s->progress,
				       .event = event,
				       .data = s };

	s->r = gw_standby_run(&c, &s->took_over, &s->err);
	return NULL;
}

static struct gw_synthetic_config config(bool waiting)
{
	return (struct gw_synthetic_config){
		.name = "v",
		.seed = waiting ? 7 : 42,
		.nbytes = BYTES,
		.nblocks = BLOCKS,
		.populated = 200,
		.nthreads = waiting ? 0 : 2,
		.pages_per_s = 3000,
		.working_set = 128,
		.zero_percent = 10,
		.waiting = waiting,
	};
}

static void standby_init(struct standby *s, enum gw_synthetic_fault fault)
{
	struct gw_synthetic_config c = config(true);

	memset(s, 0, sizeof(*s));
	c.fault = fault;
	s->vm = gw_synthetic_open(&c, &s->err);
	/* Whatever firmware left there. */
	for (int i = 0; i < BLOCKS; i++)
		CHECK(pwrite(s->vm->ram.block[i].fd, "litter", 6, 5 * 4096) ==
		      6);
	s->listener = gw_chan_listen("tcp:127.0.0.1:0", &s->err);
	godwit_params_init(&s->params);
	s->params.timeout_ns = TIMEOUT_MS * GW_NS_PER_MS;
	snprintf(s->control, sizeof(s->control), "%s/standby.sock", folder);
	CHECK(!gw_cancel_init(&s->cancel, &s->err));
	gw_progress_init(&s->progress, NULL, NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
}

static void standby_start(struct standby *s)
{
	CHECK(!pthread_create(&s->thread, NULL, run_standby, s));
	await_event(s, "listening", 1);
}

static void standby_fini(struct standby *s)
{
	gw_vm_close(s->vm);
	gw_listener_close(s->listener);
	gw_progress_fini(&s->progress);
	gw_cancel_fini(&s->cancel);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	/* It cleans up behind itself. */
	CHECK(access(s->control, F_OK) && errno == ENOENT);
}

/* --- the primary ---------------------------------------------------------- */

#define CHECKPOINTS 64

/* What it gets wrong. */
enum lie {
	HONEST,
	LIE_SEQ,
	LIE_HASH,
	LIE_BASE,
	LIE_PART,
	LIE_FLAGS,
	LIE_EARLY,   /* CHECKPOINT before the table */
	LIE_END,     /* the section ends all RAM */
	LIE_GO,	     /* GO, which no last checkpoint was before */
	LIE_STRANGE, /* a record that has no place here */
	LIE_STATE,   /* more state than is possible */
	LIES,
};

struct primary {
	struct gw_vm *vm;
	struct gw_chan *chan;
	struct gw_reader in;
	struct gw_writer out;
	struct gw_ram_encoder encoder;
	struct gw_lease_holder *lease;
	uint8_t *copy[BLOCKS];
	uint64_t seq, acked;
	uint64_t writes[CHECKPOINTS]; /* of the VM, at each checkpoint */
	uint64_t generation;
	int64_t timeout_ns, fence_ns;
	int64_t until;	    /* atomic: the lease's */
	bool failover, bye; /* came */
	enum lie lie;
	struct gw_error err;
};

static void renew(int64_t until_ns, void *arg)
{
	struct primary *p = arg;

	if (until_ns > 0)
		__atomic_store_n(&p->until, until_ns, __ATOMIC_RELEASE);
}

static void primary_init(struct primary *p)
{
	struct gw_synthetic_config c = config(false);
	struct gw_vm_checkpoint_options o = { 0 };

	memset(p, 0, sizeof(*p));
	c.base_every = 3;
	p->vm = gw_synthetic_open(&c, &p->err);
	for (int i = 0; i < BLOCKS; i++)
		p->copy[i] = calloc(1, BYTES);
	CHECK(!gw_ram_map(&p->vm->ram, false, &p->err));
	CHECK_OK(p->vm->ops->checkpoint->begin(p->vm, &o, &p->err), &p->err);
	p->generation = UINT64_MAX;
}

/* Not a word more. */
static void primary_cut(struct primary *p)
{
	gw_lease_holder_free(p->lease);
	p->lease = NULL;
	if (p->chan)
		gw_reader_fini(&p->in);
	gw_chan_close(p->chan);
	p->chan = NULL;
}

static void primary_fini(struct primary *p)
{
	struct gw_error err;

	primary_cut(p);
	CHECK_OK(p->vm->ops->checkpoint->end(p->vm, false, "test", &err), &err);
	gw_vm_close(p->vm);
	for (int i = 0; i < BLOCKS; i++)
		free(p->copy[i]);
}

/* A standby that listens, and a primary that is about to come. */
static void meet(struct standby *s, struct primary *p)
{
	standby_init(s, GW_SYNTHETIC_SOUND);
	primary_init(p);
	standby_start(s);
}

static void part(struct standby *s, struct primary *p)
{
	primary_fini(p);
	standby_fini(s);
}

static struct gw_hello hello_of(struct primary *p)
{
	struct gw_hello h = { .source = true,
			      .features =
				      GW_FEATURE_CHECKPOINT | GW_FEATURE_FILL,
			      .required = GW_FEATURE_CHECKPOINT,
			      .running = true,
			      .page_bytes = GW_PAGE_SIZE,
			      .ram = p->vm->ram };

	snprintf(h.name, sizeof(h.name), "%s", p->vm->info.name);
	snprintf(h.godwit, sizeof(h.godwit), "test");
	snprintf(h.vmm, sizeof(h.vmm), "%s", p->vm->info.vmm);
	snprintf(h.machine, sizeof(h.machine), "%s", p->vm->info.machine);
	snprintf(h.arch, sizeof(h.arch), "%s", p->vm->info.arch);
	return h;
}

static int join_lease(struct primary *p, const char *uri,
		      const struct gw_hello *theirs)
{
	struct gw_multifd_hello h = { .id = 0 };
	struct gw_writer w;
	struct gw_chan *chan = gw_chan_connect(uri, 5000, NULL, &p->err);

	if (!chan)
		return -p->err.code;
	memcpy(h.uuid, theirs->session, sizeof(h.uuid));
	gw_writer_init(&w, gw_chan_flush, chan);
	gw_multifd_put_hello(&w, &h);
	if (gw_write_flush(&w, &p->err)) {
		gw_chan_close(chan);
		return -p->err.code;
	}
	p->timeout_ns = theirs->timeout_ms * GW_NS_PER_MS;
	p->fence_ns = p->timeout_ns / 10 * 9;
	p->lease = gw_lease_hold(chan, p->timeout_ns, p->fence_ns, renew, p,
				 &p->err);
	return p->lease ? gw_lease_first(p->lease, 20000, &p->err) : -EIO;
}

static int put_table(struct primary *p)
{
	struct gw_section s = { .id = 1,
				.idstr = "ram",
				.version_id = GW_RAM_VERSION };

	gw_section_put_long(&p->out, GW_ITEM_SECTION_START, &s);
	gw_ram_put_table(&p->out, &p->vm->ram);
	gw_ram_put_eos(&p->out);
	gw_section_put_footer(&p->out, 1);
	return gw_write_flush(&p->out, &p->err);
}

/* @fault: what befalls its connection. Return: 0 or -errno in p->err. */
static int primary_connect(struct primary *p, struct standby *s,
			   const char *fault)
{
	struct gw_hello mine = hello_of(p), theirs;
	unsigned int features;
	int r;

	memset(&p->err, 0, sizeof(p->err));
	p->chan = gw_chan_connect(gw_listener_uri(s->listener), 5000, NULL,
				  &p->err);
	if (p->chan && fault)
		p->chan = gw_chan_fault(p->chan, fault, &p->err);
	if (!p->chan)
		return -p->err.code;
	p->chan->read_timeout_ms = p->chan->write_timeout_ms =
		PATIENCE_S * 1000;
	CHECK(!gw_reader_init(&p->in, gw_chan_refill, p->chan, 4096, &p->err));
	gw_writer_init(&p->out, gw_chan_flush, p->chan);
	memset(&p->encoder, 0, sizeof(p->encoder));
	for (int i = 0; i < BLOCKS; i++)
		memset(p->copy[i], 0, BYTES);
	p->seq = p->acked = 0;
	r = gw_hello_put(&p->out, &mine, &p->err);
	if (!r)
		r = gw_write_flush(&p->out, &p->err);
	if (!r && gw_hello_get(&p->in, &theirs))
		r = gw_read_check(&p->in, &p->err);
	if (r)
		return r;
	r = gw_hello_agree(&mine, &theirs, &features, &p->err);
	if (!r)
		r = join_lease(p, gw_listener_uri(s->listener), &theirs);
	gw_hello_fini(&theirs);
	if (!r && p->lie != LIE_EARLY)
		r = put_table(p);
	return r;
}

static int put_pages(struct primary *p)
{
	enum gw_item item =
		p->lie == LIE_END ? GW_ITEM_SECTION_END : GW_ITEM_SECTION_PART;
	int r = 0;

	gw_section_put_short(&p->out, item, 1);
	for (int i = 0; i < BLOCKS; i++)
		for (uint64_t at = 0; at < BYTES && !r; at += GW_PAGE_SIZE) {
			const struct gw_ramblock *b = &p->vm->ram.block[i];
			static const uint8_t zero[GW_PAGE_SIZE];

			if (!memcmp(p->copy[i] + at, b->host + at,
				    GW_PAGE_SIZE))
				continue;
			memcpy(p->copy[i] + at, b->host + at, GW_PAGE_SIZE);
			if (memcmp(b->host + at, zero, GW_PAGE_SIZE))
				gw_ram_put_page(&p->out, &p->encoder, b->idstr,
						at, p->copy[i] + at);
			else
				gw_ram_put_zero(&p->out, &p->encoder, b->idstr,
						at);
			if (p->out.niov > GW_WRITER_IOV - 8)
				r = gw_write_flush(&p->out, &p->err);
		}
	gw_ram_put_eos(&p->out);
	gw_section_put_footer(&p->out, 1);
	return r ? r : gw_write_flush(&p->out, &p->err);
}

static int put_state(struct primary *p, enum gw_record_type type,
		     const void *state, size_t len)
{
	const uint8_t *at = state;
	int r = 0;

	while (len && !r) {
		/* in pieces, as a large one comes */
		uint32_t n = len < 3000 ? (uint32_t)len : 3000;

		gw_record_put(&p->out, type, true, n);
		gw_write_bytes(&p->out, at, n);
		r = gw_write_flush(&p->out, &p->err);
		at += n;
		len -= n;
	}
	return r;
}

/* Return: 0 when the ACK of @seq (0: something else) came; -errno. */
static int hear(struct primary *p, uint64_t seq)
{
	struct gw_record rec;
	struct gw_error said;
	uint64_t acked;
	int64_t ns;
	bool not_here;

	for (;;) {
		if (gw_read_u8(&p->in) != GW_ITEM_RECORD ||
		    gw_record_get(&p->in, &rec))
			return gw_read_check(&p->in, &p->err)
				       ? -p->err.code
				       : gw_fail(&p->err, EPROTO, "no record");
		if (rec.type == GW_RECORD_ACK) {
			if (gw_record_get_ack(&p->in, &rec, &acked, &ns))
				return gw_read_check(&p->in, &p->err);
			CHECK(acked == seq);
			p->acked = acked;
			return 0;
		}
		if (rec.type == GW_RECORD_ERROR) {
			CHECK(!gw_record_get_error(&p->in, &rec, "standby",
						   &said, &not_here));
			CHECK(!not_here || seq == 0);
			p->err = said;
			return -said.code;
		}
		p->failover |= rec.type == GW_RECORD_FAILOVER;
		p->bye |= rec.type == GW_RECORD_BYE;
		if (!seq && rec.type != GW_RECORD_FAILOVER)
			return rec.type == GW_RECORD_RUNNING ||
					       rec.type == GW_RECORD_BYE
				       ? 0
				       : -EPROTO;
		if (p->bye)
			return gw_fail(&p->err, ECANCELED, "BYE");
	}
}

static uint64_t hash(const struct gw_vm_state *st)
{
	uint8_t *all = malloc(st->nbase + st->npart);
	uint64_t h;

	memcpy(all, st->base, st->nbase);
	memcpy(all + st->nbase, st->part, st->npart);
	h = XXH3_64bits(all, st->nbase + st->npart);
	free(all);
	return h;
}

static int put_checkpoint(struct primary *p, const struct gw_vm_state *st,
			  uint32_t flags)
{
	struct gw_checkpoint c = {
		.seq = p->seq + (p->lie == LIE_SEQ),
		.pause_ns = 1000,
		.interval_ns = 1000000,
		.nbase = st->nbase + (p->lie == LIE_BASE ? 8 : 0),
		.npart = st->npart - (p->lie == LIE_PART ? 1 : 0),
		.hash = hash(st) ^ (p->lie == LIE_HASH),
		.flags = flags | (p->lie == LIE_FLAGS ? 0x80 : 0),
		.running = 1
	};
	int r = 0;

	if (st->generation != p->generation)
		r = put_state(p, GW_RECORD_STATE_BASE, st->base, st->nbase);
	p->generation = st->generation;
	if (!r)
		r = put_state(p, GW_RECORD_DEVICE, st->part, st->npart);
	gw_record_put_checkpoint(&p->out, &c);
	return r ? r : gw_write_flush(&p->out, &p->err);
}

/* One checkpoint, acknowledged. */
static int primary_checkpoint(struct primary *p, uint32_t flags)
{
	const struct gw_vm_checkpoint_ops *ops = p->vm->ops->checkpoint;
	struct gw_vm_state st;
	int r = ops->stop(p->vm, &p->err);

	if (!r)
		r = ops->state_begin(p->vm, &p->err);
	if (!r)
		r = ops->state_end(p->vm, &st, &p->err);
	if (r)
		return r;
	p->writes[++p->seq % CHECKPOINTS] = gw_synthetic_writes(p->vm);
	if (p->lie != LIE_EARLY)
		r = put_pages(p);
	if (!r)
		r = put_checkpoint(p, &st, flags);
	if (!(flags & GW_CHECKPOINT_LAST) &&
	    ops->cont(p->vm, p->failover ? &p->err : NULL))
		CHECK(!"cont");
	return r ? r : hear(p, p->seq);
}

static int primary_checkpoints(struct primary *p, unsigned int n)
{
	int r = 0;

	while (n-- && !r) {
		r = primary_checkpoint(p, 0);
		usleep(3000);
	}
	return r;
}

static int say(struct primary *p, enum gw_record_type type)
{
	gw_record_put(&p->out, type, true, type == GW_RECORD_GO);
	if (type == GW_RECORD_GO)
		gw_write_u8(&p->out, 1);
	return gw_write_flush(&p->out, &p->err);
}

/* The VM is given up after a last checkpoint. */
static int primary_give(struct primary *p)
{
	int r = primary_checkpoint(p, GW_CHECKPOINT_LAST);

	if (!r)
		r = say(p, GW_RECORD_GO);
	return r ? r : hear(p, 0);
}

/* --- both ------------------------------------------------------------------
 */

static void join(struct standby *s)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += PATIENCE_S;
	if (pthread_timedjoin_np(s->thread, NULL, &t)) {
		CHECK(!"it ends by itself");
		printf("  %s: %s\n", s->events, s->last);
		gw_cancel_request(&s->cancel);
		pthread_join(s->thread, NULL);
	}
	if (s->r)
		printf("  standby: %s\n", s->err.msg);
}

/* It runs there as it was at a checkpoint that the primary may count on. */
static void check_took_over(struct standby *s, struct primary *p)
{
	struct gw_error err = { 0 };
	uint64_t n;

	join(s);
	CHECK(!s->r && s->took_over);
	if (!s->took_over)
		return;
	CHECK(gw_synthetic_running(s->vm));
	CHECK_OK(gw_synthetic_check(s->vm, &err), &err);
	n = gw_synthetic_writes(s->vm);
	/* The acknowledgement of the next may have been lost. */
	CHECK(n == p->writes[p->acked % CHECKPOINTS] ||
	      (p->seq == p->acked + 1 && n == p->writes[p->seq % CHECKPOINTS]));
	CHECK(s->progress.now.status == GODWIT_STATUS_COMPLETED);
}

/* Not before the primary, as far as it knows, had to stop it. */
static void check_in_time(struct standby *s, struct primary *p)
{
	int64_t until = __atomic_load_n(&p->until, __ATOMIC_ACQUIRE);

	CHECK(p->timeout_ns == s->params.timeout_ns);
	CHECK(s->taking_ns - (until - p->fence_ns) >= p->timeout_ns);
}

static char *ask(struct standby *s, const char *command)
{
	struct gw_error err = { 0 };
	char *answer =
		gw_standby_ask(s->control, command, PATIENCE_S * 1000, &err);

	CHECK(answer);
	if (!answer)
		printf("  %s: %s\n", command, err.msg);
	return answer;
}

/* Does the answer to @command have @text in it? */
static bool answers(struct standby *s, const char *command, const char *text)
{
	gw_autofree char *answer = ask(s, command);
	bool yes = answer && strstr(answer, text);

	if (!yes)
		printf("  %s: %s\n", command, answer ? answer : "-");
	return yes;
}

static void takes_over_when_the_primary_is_silent(void)
{
	struct standby s;
	struct primary p;

	meet(&s, &p);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 8), &p.err);
	CHECK(p.acked == 8);
	CHECK(answers(&s, "status", "\"state\":\"protected\""));
	CHECK(answers(&s, "status", "\"checkpoint\":8,"));
	primary_cut(&p);
	check_took_over(&s, &p);
	check_in_time(&s, &p);
	CHECK(s.progress.now.checkpoint == 8);
	part(&s, &p);
}

/* A primary that lives, however seldom it has something, keeps its VM. */
static void a_lease_is_enough_to_stay(void)
{
	struct standby s;
	struct primary p;

	standby_init(&s, GW_SYNTHETIC_SOUND);
	s.params.idle_timeout_ns = 2 * GW_NS_PER_S;
	s.params.timeout_ns = 5 * GW_NS_PER_S;
	primary_init(&p);
	standby_start(&s);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 2), &p.err);
	usleep(4000000);
	CHECK_OK(primary_checkpoints(&p, 2), &p.err);
	CHECK(!count_event(&s, "taking over"));
	primary_cut(&p);
	check_took_over(&s, &p);
	part(&s, &p);
}

/* Wherever the connection is cut: in pages, in the state, in CHECKPOINT. */
static void takes_over_wherever_it_is_cut(void)
{
	for (int i = 0; i < 12; i++) {
		struct standby s;
		struct primary p;
		char fault[64];
		uint64_t at = 3000 + test_rand(&seed) % (6u << 20);
		int r;

		meet(&s, &p);
		snprintf(fault, sizeof(fault), "cut-write=%" PRIu64, at);
		r = primary_connect(&p, &s, fault);
		while (!r)
			r = primary_checkpoint(&p, 0);
		primary_cut(&p);
		if (count_event(&s, "protected") || p.acked) {
			check_took_over(&s, &p);
			check_in_time(&s, &p);
		} else {
			await_event(&s, "incomplete", 1);
			CHECK(answers(&s, "failover", "nothing to take over"));
			gw_cancel_request(&s.cancel);
			join(&s);
			CHECK(s.r == -ECANCELED && !s.took_over);
		}
		part(&s, &p);
	}
}

/* The one that comes then is served. */
static void listens_on_when_the_first_copy_is_lost(void)
{
	struct standby s;
	struct primary p;

	meet(&s, &p);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(put_pages(&p), &p.err);
	primary_cut(&p);
	await_event(&s, "incomplete", 1);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	p.generation = UINT64_MAX;
	CHECK_OK(primary_checkpoints(&p, 3), &p.err);
	primary_cut(&p);
	check_took_over(&s, &p);
	part(&s, &p);
}

/* --- in good order -------------------------------------------------------- */

struct question {
	struct standby *s;
	const char *command;
	char *answer;
	pthread_t thread;
};

static void *question(void *arg)
{
	struct question *q = arg;

	q->answer = ask(q->s, q->command);
	return NULL;
}

static void hands_over_when_told(void)
{
	struct question q = { .command = "failover" };
	struct standby s;
	struct primary p;

	standby_init(&s, GW_SYNTHETIC_SOUND);
	s.params.handover_timeout_ns = PATIENCE_S * GW_NS_PER_S;
	primary_init(&p);
	standby_start(&s);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 3), &p.err);
	q.s = &s;
	CHECK(!pthread_create(&q.thread, NULL, question, &q));
	/* The standby is asked while it waits for a record. */
	while (!p.failover && !primary_checkpoint(&p, 0))
		usleep(20000);
	CHECK(p.failover && !count_event(&s, "taking over"));
	CHECK_OK(primary_give(&p), &p.err);
	pthread_join(q.thread, NULL);
	CHECK(q.answer && strstr(q.answer, "\"state\":\"running\"") &&
	      !strstr(q.answer, "error"));
	free(q.answer);
	check_took_over(&s, &p);
	CHECK(gw_synthetic_writes(s.vm) == p.writes[p.seq % CHECKPOINTS]);
	part(&s, &p);
}

/* One that lives but does not do what FAILOVER says keeps it. */
static void says_when_the_primary_does_not_hand_over(void)
{
	struct standby s;
	struct primary p;

	standby_init(&s, GW_SYNTHETIC_SOUND);
	s.params.handover_timeout_ns = 200 * GW_NS_PER_MS;
	primary_init(&p);
	standby_start(&s);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 2), &p.err);
	CHECK(answers(&s, "failover", "did not hand the VM over in time"));
	CHECK_OK(primary_checkpoints(&p, 2), &p.err);
	CHECK(p.failover);
	CHECK(answers(&s, "status", "\"state\":\"protected\""));
	primary_cut(&p);
	check_took_over(&s, &p);
	part(&s, &p);
}

static void ends_when_the_primary_says_so(void)
{
	struct standby s;
	struct primary p;

	meet(&s, &p);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 2), &p.err);
	CHECK(gw_lease_give_back(p.lease, false, PATIENCE_S * 1000));
	CHECK_OK(say(&p, GW_RECORD_BYE), &p.err);
	CHECK_OK(hear(&p, 0), &p.err);
	CHECK(p.bye);
	join(&s);
	CHECK(!s.r && !s.took_over && !gw_synthetic_running(s.vm));
	part(&s, &p);
}

/* Whatever is on its way over the other connection, and even if nothing is. */
static void ends_when_the_primary_leaves_the_lease(void)
{
	for (unsigned int checkpoints = 0; checkpoints < 3; checkpoints++) {
		struct standby s;
		struct primary p;

		meet(&s, &p);
		CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
		CHECK_OK(primary_checkpoints(&p, checkpoints), &p.err);
		gw_record_put(&p.out, GW_RECORD_DEVICE, true, 100);
		CHECK_OK(gw_write_flush(&p.out, &p.err), &p.err);
		CHECK(gw_lease_give_back(p.lease, true, PATIENCE_S * 1000));
		join(&s);
		CHECK(!s.r && !s.took_over && !gw_synthetic_running(s.vm));
		CHECK(count_event(&s, "ended") == 1);
		CHECK(!count_event(&s, "failed"));
		primary_cut(&p);
		part(&s, &p);
	}
}

/* A lease that was given back is the primary's word too. */
static void does_not_take_over_what_was_given_back(void)
{
	struct standby s;
	struct primary p;

	meet(&s, &p);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 2), &p.err);
	CHECK(gw_lease_give_back(p.lease, false, PATIENCE_S * 1000));
	primary_cut(&p);
	await_event(&s, "given back", 1);
	CHECK(answers(&s, "failover", "nothing to take over"));
	gw_cancel_request(&s.cancel);
	join(&s);
	CHECK(s.r == -ECANCELED && !s.took_over);
	part(&s, &p);
}

/* An error of the primary's means that the VM stays there. */
static void listens_on_when_the_primary_fails(void)
{
	struct gw_error why;
	struct standby s;
	struct primary p;

	meet(&s, &p);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 2), &p.err);
	gw_fail(&why, EIO, "a disk broke");
	gw_record_put_error(&p.out, &why, false);
	CHECK_OK(gw_write_flush(&p.out, &p.err), &p.err);
	await_event(&s, "ended", 1);
	CHECK(strstr(s.last, "a disk broke"));
	primary_cut(&p);
	usleep(2 * TIMEOUT_MS * 1000);
	CHECK(!count_event(&s, "taking over"));
	gw_cancel_request(&s.cancel);
	join(&s);
	CHECK(s.r == -ECANCELED);
	part(&s, &p);
}

static void leaves_in_good_order(void)
{
	struct standby s;
	struct primary p;

	meet(&s, &p);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 2), &p.err);
	gw_cancel_request(&s.cancel);
	CHECK(hear(&p, 0) == 0 && p.bye);
	/* Another connection: END may come after BYE. */
	for (int i = 0; i < 1000 && gw_lease_held(p.lease) == GW_LEASE_HELD;
	     i++)
		usleep(10000);
	CHECK(gw_lease_held(p.lease) == GW_LEASE_ENDED);
	primary_cut(&p);
	join(&s);
	CHECK(s.r == -ECANCELED && s.err.fault == GW_FAULT_CANCELLED);
	CHECK(!s.took_over && !gw_synthetic_running(s.vm));
	CHECK(s.vm->info.waiting);
	part(&s, &p);
}

/* --- a cache file ----------------------------------------------------------
 */

static void copy_file(const char *from, const char *to)
{
	char command[300];

	snprintf(command, sizeof(command), "cp --sparse=always %s %s", from,
		 to);
	CHECK(!system(command));
}

/* What is in the file at any moment is what a killed standby leaves. */
static void starts_again_from_its_file(void)
{
	struct standby s, again;
	struct primary p;

	standby_init(&s, GW_SYNTHETIC_SOUND);
	standby_init(&again, GW_SYNTHETIC_SOUND);
	snprintf(s.cache, sizeof(s.cache), "%s/cache", folder);
	snprintf(again.cache, sizeof(again.cache), "%s/cache2", folder);
	s.params.cache = s.cache;
	again.params.cache = again.cache;
	primary_init(&p);
	standby_start(&s);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 5), &p.err);
	CHECK_OK(put_pages(&p), &p.err); /* not complete */
	usleep(50000);
	copy_file(s.cache, again.cache);
	gw_cancel_request(&s.cancel);
	join(&s);
	standby_start(&again);
	CHECK(count_event(&again, "restored") == 1);
	usleep(3 * TIMEOUT_MS * 1000);
	CHECK(!count_event(&again, "taking over"));
	CHECK(answers(&again, "status", "\"checkpoint\":5,"));
	CHECK(answers(&again, "failover", "\"state\":\"running\""));
	check_took_over(&again, &p);
	CHECK(gw_synthetic_writes(again.vm) == p.writes[5]);
	part(&s, &p);
	standby_fini(&again);
	unlink(s.cache);
	unlink(again.cache);
}

/* --- the VMM ----------------------------------------------------------------
 */

static void a_vmm_that_fails_is_replaced(void)
{
	static const enum gw_synthetic_fault faults[] = {
		GW_SYNTHETIC_FAIL_LOAD, GW_SYNTHETIC_FAIL_RUN
	};

	for (int i = 0; i < 2; i++) {
		struct standby s;
		struct primary p;

		standby_init(&s, faults[i]);
		primary_init(&p);
		standby_start(&s);
		CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
		CHECK_OK(primary_checkpoints(&p, 3), &p.err);
		primary_cut(&p);
		check_took_over(&s, &p);
		CHECK(count_event(&s, "replacing") == 1);
		part(&s, &p);
	}
}

/* Noticed while nothing is wrong yet. */
static void a_vmm_that_ended_is_replaced_early(void)
{
	struct standby s;
	struct primary p;
	int64_t deadline;

	meet(&s, &p);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 3), &p.err);
	s.vm->info.waiting = false; /* now check() fails */
	deadline = gw_deadline_ms(PATIENCE_S * 1000);
	while (!count_event(&s, "replacing") && gw_deadline_left_ms(deadline))
		CHECK_OK(primary_checkpoints(&p, 5), &p.err);
	CHECK(s.vm->info.waiting);
	CHECK_OK(primary_checkpoints(&p, 3), &p.err);
	primary_cut(&p);
	check_took_over(&s, &p);
	part(&s, &p);
}

/* --- who else comes ----------------------------------------------------------
 */

static void a_second_primary_is_refused(void)
{
	struct standby s;
	struct primary p, q;

	standby_init(&s, GW_SYNTHETIC_SOUND);
	primary_init(&p);
	primary_init(&q);
	standby_start(&s);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 2), &p.err);
	/* It gets a greeting, so the reason is the next thing it reads. */
	CHECK(primary_connect(&q, &s, NULL) < 0 && !q.lease);
	CHECK(hear(&q, 0) < 0);
	CHECK(strstr(q.err.msg, "protects the VM of"));
	CHECK_OK(primary_checkpoints(&p, 2), &p.err);
	primary_cut(&p);
	check_took_over(&s, &p);
	primary_fini(&p);
	primary_fini(&q);
	standby_fini(&s);
}

/* A migration is not what a standby waits for. */
static void a_migration_is_refused(void)
{
	struct gw_synthetic_config c = config(false);
	struct gw_progress progress;
	struct godwit_params params;
	struct gw_error err = { 0 };
	struct gw_source_config sc = { .params = &params,
				       .progress = &progress };
	struct standby s;

	standby_init(&s, GW_SYNTHETIC_SOUND);
	standby_start(&s);
	godwit_params_init(&params);
	gw_progress_init(&progress, NULL, NULL);
	sc.vm = gw_synthetic_open(&c, &err);
	sc.uri = gw_listener_uri(s.listener);
	sc.chan = gw_chan_connect(sc.uri, 5000, NULL, &err);
	REQUIRE(sc.vm && sc.chan);
	CHECK(gw_source_run(&sc, &err) < 0);
	CHECK(err.fault == GW_FAULT_REFUSED);
	CHECK(gw_synthetic_running(sc.vm));
	gw_chan_close(sc.chan);
	await_event(&s, "refused", 1);
	gw_vm_close(sc.vm);
	gw_progress_fini(&progress);
	gw_cancel_request(&s.cancel);
	join(&s);
	standby_fini(&s);
}

static void strangers_change_nothing(void)
{
	static const char *const words[] = { "", "GET / HTTP/1.0\r\n\r\n",
					     "QEVM\0\0\0\3", "GODWIT\r\n" };
	struct gw_error err = { 0 };
	struct standby s;
	struct primary p;

	meet(&s, &p);
	for (int i = 0; i < 4; i++) {
		struct gw_chan *c = gw_chan_connect(gw_listener_uri(s.listener),
						    5000, NULL, &err);

		REQUIRE(c);
		CHECK(!gw_chan_write(c, words[i], strlen(words[i]), &err));
		gw_chan_close(c);
	}
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 2), &p.err);
	primary_cut(&p);
	check_took_over(&s, &p);
	part(&s, &p);
}

/* What does not fit ends the protection, said and not swallowed; the lease
 * still decides, from what was complete before. */
static void lies_are_found_out(void)
{
	for (enum lie lie = LIE_SEQ; lie < LIES; lie++) {
		struct standby s;
		struct primary p;
		static uint8_t much[3000];
		int r;

		meet(&s, &p);
		if (lie == LIE_EARLY)
			p.lie = lie;
		CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
		if (lie != LIE_EARLY)
			CHECK_OK(primary_checkpoints(&p, 2), &p.err);
		p.lie = lie;
		if (lie == LIE_GO)
			r = say(&p, GW_RECORD_GO);
		else if (lie == LIE_STRANGE)
			r = say(&p, GW_RECORD_READY);
		else
			r = 0;
		for (unsigned int n = 0; lie == LIE_STATE && !r && n < 30000;
		     n++)
			r = put_state(&p, GW_RECORD_DEVICE, much, sizeof(much));
		if (!r && lie != LIE_GO && lie != LIE_STRANGE &&
		    lie != LIE_STATE)
			r = primary_checkpoint(&p, 0);
		else
			r = hear(&p, UINT64_MAX);
		CHECK(r < 0);
		if (r == -ECONNRESET || r == -EPIPE || !p.err.msg[0])
			printf("  lie %d: %d %s\n", lie, r, p.err.msg);
		CHECK(lie == LIE_STATE || p.err.fault == GW_FAULT_INPUT);
		p.acked = lie == LIE_EARLY ? 0 : 2;
		p.seq = p.acked;
		primary_cut(&p);
		if (lie == LIE_EARLY) {
			await_event(&s, "incomplete", 1);
			gw_cancel_request(&s.cancel);
			join(&s);
			CHECK(!s.took_over);
		} else {
			check_took_over(&s, &p);
		}
		part(&s, &p);
	}
}

/* --- the arbiter and the socket
 * ------------------------------------------------ */

static void the_arbiter_has_the_last_word(void)
{
	char command[200], yes[128];
	struct standby s;
	struct primary p;

	snprintf(yes, sizeof(yes), "%s/yes", folder);
	snprintf(command, sizeof(command),
		 "sh -c 'test \"$GODWIT_ROLE $1 $2\" = \"standby standby v\" "
		 "&& test -e %s' --",
		 yes);
	standby_init(&s, GW_SYNTHETIC_SOUND);
	s.params.arbiter = command;
	primary_init(&p);
	standby_start(&s);
	CHECK_OK(primary_connect(&p, &s, NULL), &p.err);
	CHECK_OK(primary_checkpoints(&p, 2), &p.err);
	primary_cut(&p);
	await_event(&s, "failed", 1);
	CHECK(!gw_synthetic_running(s.vm));
	CHECK(answers(&s, "failover", "says no"));
	CHECK(!gw_synthetic_running(s.vm));
	fclose(fopen(yes, "w"));
	CHECK(answers(&s, "failover", "\"state\":\"running\""));
	check_took_over(&s, &p);
	unlink(yes);
	part(&s, &p);
}

static void the_control_socket_is_private(void)
{
	struct gw_error err = { 0 };
	struct gw_chan *silent[3];
	struct standby s, other;
	struct stat st;
	FILE *f;

	standby_init(&s, GW_SYNTHETIC_SOUND);
	standby_init(&other, GW_SYNTHETIC_SOUND);
	standby_start(&s);
	CHECK(!stat(s.control, &st) && (st.st_mode & 07777) == 0600);
	CHECK(!pthread_create(&other.thread, NULL, run_standby, &other));
	join(&other);
	CHECK(other.r == -EBUSY);
	for (int i = 0; i < 3; i++) {
		char uri[160];

		snprintf(uri, sizeof(uri), "unix:%s", s.control);
		silent[i] = gw_chan_connect(uri, 5000, NULL, &err);
		CHECK(silent[i]);
	}
	CHECK(answers(&s, "status", "\"state\":\"listening\""));
	CHECK(answers(&s, "failover", "nothing to take over"));
	CHECK(answers(&s, "reboot", "unknown command"));
	for (int i = 0; i < 3; i++)
		gw_chan_close(silent[i]);
	gw_cancel_request(&s.cancel);
	join(&s);
	standby_fini(&s);
	/* What somebody left is replaced if it is nobody's. */
	f = fopen(other.control, "w");
	CHECK(f);
	fclose(f);
	unlink(other.control);
	standby_fini(&other);
}

/* --- the real primary
 * ------------------------------------------------------------ */

static struct gw_cancel child_cancel;

static void on_signal(int sig)
{
	gw_cancel_request(&child_cancel);
}

/* --primary URI SEED PARAMETER=VALUE...: this program, as the other host. */
static int be_primary(int argc, char **argv)
{
	struct gw_synthetic_config c = config(false);
	struct godwit_params params;
	struct gw_progress progress;
	struct gw_error err = { 0 };
	struct gw_source_config sc = { .uri = argv[2],
				       .protect = true,
				       .params = &params,
				       .cancel = &child_cancel,
				       .progress = &progress };
	int r;

	c.seed = strtoull(argv[3], NULL, 0);
	c.base_every = 4;
	sc.vm = gw_synthetic_open(&c, &err);
	godwit_params_init(&params);
	for (int i = 4; i < argc; i++)
		if (gw_param_assign(&params, GW_USE_PROTECT, argv[i], &err))
			return 9;
	gw_progress_init(&progress, NULL, NULL);
	if (!sc.vm || gw_cancel_init(&child_cancel, &err))
		return 8;
	signal(SIGINT, on_signal);
	sc.chan = gw_chan_connect(argv[2], 5000, &child_cancel, &err);
	r = sc.chan ? gw_source_run(&sc, &err) : 1;
	if (r)
		fprintf(stderr, "  primary: %s\n", err.msg);
	gw_chan_close(sc.chan);
	if (!r && gw_synthetic_running(sc.vm) ==
			  (progress.now.status == GODWIT_STATUS_COMPLETED))
		r = 7;
	gw_vm_close(sc.vm);
	return r ? 1 : 0;
}

static const char ways[][4][20] = {
	{ "interval=5ms" },
	{ "interval=5ms", "xbzrle=on", "cache-size=4M" },
	{ "interval=5ms", "channels=2" },
	{ "interval=150ms", "channels=3", "xbzrle=on", "compress=zstd" },
};
#define WAYS 4

static pid_t start_primary(struct standby *s, int way)
{
	char number[32];
	const char *argv[10] = { "standby_test", "--primary",
				 gw_listener_uri(s->listener), number };
	pid_t pid;

	for (int i = 0; i < 4 && ways[way][i][0]; i++)
		argv[4 + i] = ways[way][i];
	snprintf(number, sizeof(number), "%" PRIu64, test_rand(&seed));
	pid = fork();
	if (!pid) {
		execv("/proc/self/exe", (char **)(uintptr_t)argv);
		_exit(9);
	}
	return pid;
}

static int end_primary(pid_t pid)
{
	int status = -1;

	CHECK(waitpid(pid, &status, 0) == pid);
	return status;
}

static void takes_over_from_a_killed_primary(void)
{
	for (int i = 0; i < 3 * WAYS; i++) {
		struct gw_error err = { 0 };
		struct standby s;
		pid_t pid;
		int status;

		standby_init(&s, GW_SYNTHETIC_SOUND);
		standby_start(&s);
		pid = start_primary(&s, i % WAYS);
		await_event(&s, "protected", 1);
		usleep((useconds_t)(test_rand(&seed) % 600000));
		kill(pid, SIGKILL);
		status = end_primary(pid);
		CHECK(WIFSIGNALED(status));
		join(&s);
		CHECK(!s.r && s.took_over && gw_synthetic_running(s.vm));
		CHECK_OK(gw_synthetic_check(s.vm, &err), &err);
		CHECK(gw_synthetic_writes(s.vm) > 0);
		standby_fini(&s);
	}
}

static void the_real_primary_hands_over(void)
{
	for (int way = 0; way < WAYS; way++) {
		struct gw_error err = { 0 };
		struct standby s;
		pid_t pid;

		standby_init(&s, GW_SYNTHETIC_SOUND);
		s.params.handover_timeout_ns = PATIENCE_S * GW_NS_PER_S;
		standby_start(&s);
		pid = start_primary(&s, way);
		await_event(&s, "protected", 1);
		CHECK(answers(&s, "failover", "\"state\":\"running\""));
		CHECK(end_primary(pid) == 0);
		join(&s);
		CHECK(!s.r && s.took_over && gw_synthetic_running(s.vm));
		CHECK(strstr(s.events, "taking over|running|"));
		CHECK_OK(gw_synthetic_check(s.vm, &err), &err);
		standby_fini(&s);
	}
}

/* Ctrl-C, there or here: the VM goes on there. */
static void either_side_may_end_it(void)
{
	for (int i = 0; i < 2 * WAYS; i++) {
		struct standby s;
		bool there = i % 2;
		pid_t pid;
		int status;

		standby_init(&s, GW_SYNTHETIC_SOUND);
		standby_start(&s);
		pid = start_primary(&s, i / 2);
		await_event(&s, "protected", 1);
		usleep((useconds_t)(test_rand(&seed) % 200000));
		if (there)
			kill(pid, SIGINT);
		else
			gw_cancel_request(&s.cancel);
		status = end_primary(pid);
		CHECK(WIFEXITED(status) &&
		      WEXITSTATUS(status) == (there ? 0 : 1));
		join(&s);
		CHECK(s.r == (there ? 0 : -ECANCELED) && !s.took_over);
		standby_fini(&s);
	}
}

int main(int argc, char **argv)
{
	if (argc > 3 && !strcmp(argv[1], "--primary"))
		return be_primary(argc, argv);
	seed = test_seed();
	CHECK(mkdtemp(folder));
	RUN(takes_over_when_the_primary_is_silent);
	RUN(a_lease_is_enough_to_stay);
	RUN(takes_over_wherever_it_is_cut);
	RUN(listens_on_when_the_first_copy_is_lost);
	RUN(hands_over_when_told);
	RUN(says_when_the_primary_does_not_hand_over);
	RUN(ends_when_the_primary_says_so);
	RUN(ends_when_the_primary_leaves_the_lease);
	RUN(does_not_take_over_what_was_given_back);
	RUN(listens_on_when_the_primary_fails);
	RUN(leaves_in_good_order);
	RUN(starts_again_from_its_file);
	RUN(a_vmm_that_fails_is_replaced);
	RUN(a_vmm_that_ended_is_replaced_early);
	RUN(a_second_primary_is_refused);
	RUN(a_migration_is_refused);
	RUN(strangers_change_nothing);
	RUN(lies_are_found_out);
	RUN(the_arbiter_has_the_last_word);
	RUN(the_control_socket_is_private);
	RUN(takes_over_from_a_killed_primary);
	RUN(the_real_primary_hands_over);
	RUN(either_side_may_end_it);
	CHECK(!rmdir(folder));
	return test_done();
}
