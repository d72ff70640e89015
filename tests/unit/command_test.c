/* SPDX-License-Identifier: BSD-3-Clause */
/* command_test.c - a user's command: arguments, environment, its end. */
#include "test.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/command.h"

#define LONG_MS 60000

static struct gw_error err;

static int run(const char *command)
{
	static const char *const args[] = { "primary", "a b", "tcp:x:1", NULL };
	static const char *const env[] = { "GODWIT_ROLE=primary",
					   "GW_TEST_OLD=new", NULL };

	memset(&err, 0, sizeof(err));
	return gw_command_run(command, args, env, LONG_MS, NULL, &err);
}

static void says_how_it_ended(void)
{
	CHECK(run("exit 0;") == 0);
	CHECK(run("exit 3;") == 3);
	CHECK(run("kill -9 $$;") == 128 + SIGKILL);
	CHECK(run("/nonexistent/command") == 127);
}

static void gets_arguments_and_environment(void)
{
	setenv("GW_TEST_OLD", "old", 1);
	CHECK(run("f() { test $# = 4 -a \"$1 $2 $3 $4\" = 'x primary a b tcp:x:1'; }; f x") == 0);
	CHECK(run("test $GODWIT_ROLE$GW_TEST_OLD = primarynew && exit 7;") == 7);
	CHECK(run("test -n \"$PATH\" && exit 0;") == 0);
	CHECK(run("read x || exit 5;") == 5); /* stdin is empty */
}

/* Also what it started. */
static void is_killed_in_time(void)
{
	char command[128], path[] = "/tmp/gw-command-XXXXXX";
	int fd = mkstemp(path), r;
	int64_t t0 = gw_now_ns();

	CHECK(fd >= 0);
	snprintf(command, sizeof(command),
		 "(sleep 1; echo late >> %s) & sleep 1000;", path);
	r = gw_command_run(command, NULL, NULL, 50, NULL, &err);
	CHECK(r == -ETIMEDOUT && strstr(err.msg, "within 50 ms"));
	CHECK(gw_now_ns() - t0 < LONG_MS * GW_NS_PER_MS);
	usleep(1500000);
	CHECK(lseek(fd, 0, SEEK_END) == 0);
	close(fd);
	unlink(path);
}

static void is_cancelled(void)
{
	struct gw_cancel c;

	CHECK(!gw_cancel_init(&c, &err));
	gw_cancel_request(&c);
	CHECK(gw_command_run("sleep 1000;", NULL, NULL, -1, &c, &err) ==
	      -ECANCELED);
	gw_cancel_fini(&c);
}

/* Nobody knows what it said, so it did not say yes. */
static void a_lost_status_is_no_success(void)
{
	signal(SIGCHLD, SIG_IGN);
	CHECK(run("exit 0;") == -ECHILD);
	signal(SIGCHLD, SIG_DFL);
}

int main(void)
{
	RUN(says_how_it_ended);
	RUN(gets_arguments_and_environment);
	RUN(is_killed_in_time);
	RUN(is_cancelled);
	RUN(a_lost_status_is_no_success);
	return test_done();
}
