/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * alloc_test.c - no allocation on the data path: ten passes of a migration
 * between two synthetic VMs, with malloc counted from the second pass on.
 */
#include "test.h"

#include <pthread.h>
#include <sys/socket.h>

#include "dest/dest.h"
#include "source/source.h"
#include "vm/synthetic.h"

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t m);
extern void *__libc_realloc(void *p, size_t n);
void *malloc(size_t n);
void *calloc(size_t n, size_t m);
void *realloc(void *p, size_t n);

#define MAX_PASSES 13

static int watching, allocations;

static void count(void)
{
	if (__atomic_load_n(&watching, __ATOMIC_RELAXED))
		__atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
}

void *malloc(size_t n)
{
	count();
	return __libc_malloc(n);
}

void *calloc(size_t n, size_t m)
{
	count();
	return __libc_calloc(n, m);
}

void *realloc(void *p, size_t n)
{
	count();
	return __libc_realloc(p, n);
}

static unsigned int last_pass;
static int counted;

static void watch(const struct godwit_stats *s, void *data)
{
	__atomic_store_n(&watching,
			 s->status == GODWIT_STATUS_ACTIVE && s->pass >= 2,
			 __ATOMIC_RELAXED);
	/* What comes after the last look is giving up, told in JSON. */
	if (s->status == GODWIT_STATUS_ACTIVE)
		counted = __atomic_load_n(&allocations, __ATOMIC_RELAXED);
	last_pass = s->pass;
}

static struct gw_progress progress_b;
static struct godwit_params params;

static void *receive(void *arg)
{
	struct gw_dest_config *c = arg;
	struct gw_error err;

	return gw_dest_run(c, &err) ? c : NULL;
}

static void ten_passes_allocate_nothing(void)
{
	struct gw_synthetic_config sc = { .name = "a", .nbytes = 16 << 20,
					  .nblocks = 1, .nthreads = 2,
					  .working_set = 4096,
					  /* so that the destination cannot lag a pass
					   * behind in its buffers */
					  .populated = 4096 };
	static struct gw_progress progress_a;
	struct gw_source_config a = { 0 };
	struct gw_dest_config b = { 0 };
	struct gw_error err = { 0 };
	pthread_t t;
	int fd[2];

	godwit_params_init(&params);
	params.max_passes = MAX_PASSES;
	params.stall_passes = 0;
	params.downtime_limit_ns = 1;
	gw_progress_init(&progress_a, watch, NULL);
	gw_progress_init(&progress_b, NULL, NULL);
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
	a.vm = gw_synthetic_open(&sc, &err);
	sc.waiting = true;
	b.vm = gw_synthetic_open(&sc, &err);
	a.chan = gw_chan_from_fd(fd[0], "b", &err);
	b.chan = gw_chan_from_fd(fd[1], "a", &err);
	a.params = b.params = &params;
	a.progress = &progress_a;
	b.progress = &progress_b;
	REQUIRE(!pthread_create(&t, NULL, receive, &b));
	CHECK(gw_source_run(&a, &err) < 0); /* it is made not to converge */
	CHECK(err.fault == GW_FAULT_CONVERGE);
	watching = 0;
	pthread_join(t, NULL);
	CHECK(last_pass >= 10);
	CHECK(counted == 0);
	gw_vm_close(a.vm);
	gw_vm_close(b.vm);
	gw_chan_close(a.chan);
	gw_chan_close(b.chan);
}

int main(void)
{
	RUN(ten_passes_allocate_nothing);
	printf("%u passes, %d allocations\n", last_pass, counted);
	return test_done();
}
