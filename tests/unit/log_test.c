/* SPDX-License-Identifier: BSD-3-Clause */
/* log_test.c - log filters, struct gw_error, cancellation, threads. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#define GW_LOG_MODULE "track"
#include "base/cancel.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/scope.h"
#include "base/thread.h"
#include "test.h"

static char data[] = "d";
static int calls;
static char last[2048];

static void sink(enum gw_log_level level, const char *module, const char *msg,
		 void *arg)
{
	calls++;
	snprintf(last, sizeof(last), "%d/%s/%s/%s", level, module, msg,
		 (char *)arg);
}

static bool configure(const char *spec)
{
	return gw_log_configure(spec, NULL) == 0;
}

static void nothing_is_printed_by_default(void)
{
	CHECK(!gw_log_enabled(GW_LOG_ERROR, "track"));
	gw_warn("nobody listens");
	gw_log_set(sink, data);
	CHECK(gw_log_enabled(GW_LOG_WARN, "track"));
	CHECK(!gw_log_enabled(GW_LOG_INFO, "track"));
	gw_warn("page %d", 7);
	CHECK(calls == 1 && !strcmp(last, "2/track/page 7/d"));
	gw_info("not shown");
	CHECK(calls == 1);
}

static void filters_by_module(void)
{
	CHECK(configure("info"));
	CHECK(gw_log_enabled(GW_LOG_INFO, "any"));
	CHECK(!gw_log_enabled(GW_LOG_DEBUG, "any"));
	CHECK(configure("error,track=trace,wire=none"));
	CHECK(gw_log_enabled(GW_LOG_TRACE, "track"));
	CHECK(!gw_log_enabled(GW_LOG_ERROR, "wire"));
	CHECK(!gw_log_enabled(GW_LOG_WARN, "chan"));
	CHECK(gw_log_enabled(GW_LOG_ERROR, "chan"));
	CHECK(configure("none"));
	CHECK(!gw_log_enabled(GW_LOG_ERROR, "track"));
	CHECK(configure("debug,"));
	CHECK(gw_log_enabled(GW_LOG_DEBUG, "track"));
}

static void bad_filters_change_nothing(void)
{
	static const char *const bad[] = {
		"loud",	     "=info",	"track=",      "track=loud", "info,,debug",
		"INFO",	     "infos",	"track=info=debug",
		"a-module-name-that-is-too-long=info",
		"a=none,b=none,c=none,d=none,e=none,f=none,g=none,h=none,i=none,j=none,k=none,l=none,m=none,n=none,o=none,p=none,q=none",
	};
	struct gw_error err;

	CHECK(configure("info,track=debug"));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memset(&err, 0, sizeof(err));
		if (gw_log_configure(bad[i], &err) != -EINVAL)
			fprintf(stderr, "'%s' is accepted\n", bad[i]);
		CHECK(err.fault == GW_FAULT_USAGE);
		CHECK(gw_log_enabled(GW_LOG_DEBUG, "track"));
		CHECK(!gw_log_enabled(GW_LOG_DEBUG, "wire"));
		CHECK(gw_log_enabled(GW_LOG_INFO, "a"));
	}
	CHECK(gw_log_configure("info,loud", &err) && strstr(err.msg, "'loud'"));
}

static void long_messages_are_cut(void)
{
	char s[5000];

	memset(s, 'x', sizeof(s));
	s[sizeof(s) - 1] = '\0';
	CHECK(configure("warn"));
	gw_warn("%s", s);
	CHECK(strlen(last) < GW_ERROR_MAX + 20 && strlen(last) > 1000);
}

static void errors_keep_code_fault_and_text(void)
{
	struct gw_error err = { 0 };

	CHECK(!gw_error_is_set(&err) && !gw_error_is_set(NULL));
	gw_error_prefix(&err, "nothing");
	CHECK(err.msg[0] == '\0');
	CHECK(gw_fail(&err, ENOSPC, "%d of %s", 3, "four") == -ENOSPC);
	CHECK(err.code == ENOSPC && err.fault == GW_FAULT_FAILED);
	CHECK(!strcmp(err.msg, "3 of four") && gw_error_is_set(&err));
	gw_error_prefix(&err, "channel %u", 2u);
	CHECK(!strcmp(err.msg, "channel 2: 3 of four"));
	CHECK(err.code == ENOSPC);
	CHECK(gw_fail_errno(&err, ENOENT, "opening %s", "x") == -ENOENT);
	CHECK(!strcmp(err.msg, "opening x: No such file or directory"));
	CHECK(gw_fail_as(&err, GW_FAULT_REFUSED, EPROTO, "no") == -EPROTO);
	CHECK(err.fault == GW_FAULT_REFUSED);
	CHECK(gw_fail(NULL, EIO, "nobody reads this") == -EIO);
	CHECK(gw_fail(&err, -EBUSY, "sign") == -EBUSY); /* forgiving */
	CHECK(gw_fail(&err, 0, "never a success") < 0 && err.code > 0);
}

static void long_errors_are_cut(void)
{
	struct gw_error err = { 0 };
	char s[3 * GW_ERROR_MAX];

	memset(s, 'y', sizeof(s));
	s[sizeof(s) - 1] = '\0';
	gw_fail_errno(&err, EIO, "%s", s);
	CHECK(strlen(err.msg) == GW_ERROR_MAX - 1);
	gw_error_prefix(&err, "front");
	CHECK(!strncmp(err.msg, "front: yyy", 10));
	CHECK(strlen(err.msg) == GW_ERROR_MAX - 1);
	gw_error_prefix(&err, "%s", s);
	CHECK(strlen(err.msg) == GW_ERROR_MAX - 1);
}

static void *cancel_later(void *arg)
{
	usleep(20000);
	gw_cancel_request(arg);
	return NULL;
}

static void cancel_ends_a_wait(void)
{
	struct gw_error err = { 0 };
	struct gw_cancel c;
	pthread_t th;
	int p[2];

	REQUIRE(pipe(p) == 0);
	CHECK_OK(gw_cancel_init(&c, &err), &err);
	CHECK(!gw_cancel_requested(&c) && !gw_cancel_requested(NULL));
	CHECK(gw_wait_fd(p[0], POLLIN, gw_deadline_ms(5), &c) == -ETIMEDOUT);
	CHECK(gw_wait_fd(p[0], POLLIN, gw_deadline_ms(5), NULL) == -ETIMEDOUT);
	CHECK(gw_wait_fd(p[1], POLLOUT, 0, &c) == 0);
	CHECK_OK(gw_thread_start(&th, "canceller", cancel_later, &c, &err),
		 &err);
	CHECK(gw_wait_fd(p[0], POLLIN, 0, &c) == -ECANCELED);
	pthread_join(th, NULL);
	gw_cancel_request(&c); /* again: fine */
	CHECK(gw_cancel_requested(&c));
	/* Cancelled wins over ready; both ends after hang-up are ready. */
	CHECK(gw_wait_fd(p[1], POLLOUT, 0, &c) == -ECANCELED);
	close(p[1]);
	CHECK(gw_wait_fd(p[0], POLLIN, 0, NULL) == 0);
	CHECK(gw_cancel_fail(&err) == -ECANCELED);
	CHECK(err.fault == GW_FAULT_CANCELLED);
	close(p[0]);
	gw_cancel_fini(&c);
	gw_cancel_fini(&c);
}

static void *look_around(void *arg)
{
	sigset_t set;
	bool *ok = arg;
	char name[16] = "";

	usleep(20000); /* the name is given after the start */
	pthread_getname_np(pthread_self(), name, sizeof(name));
	pthread_sigmask(SIG_BLOCK, NULL, &set);
	*ok = sigismember(&set, SIGTERM) && sigismember(&set, SIGINT) &&
	      !strcmp(name, "gw-looks");
	return NULL;
}

static void threads_have_names_and_no_signals(void)
{
	sigset_t before, after;
	bool ok = false;
	pthread_t th;

	pthread_sigmask(SIG_BLOCK, NULL, &before);
	CHECK(gw_thread_start(&th, "gw-looks", look_around, &ok, NULL) == 0);
	pthread_join(th, NULL);
	pthread_sigmask(SIG_BLOCK, NULL, &after);
	CHECK(ok);
	CHECK(sigismember(&after, SIGTERM) == sigismember(&before, SIGTERM));
}

static void deadlines(void)
{
	CHECK(gw_deadline_ms(-1) == 0);
	CHECK(gw_deadline_left_ms(0) == -1);
	CHECK(gw_deadline_left_ms(gw_now_ns() - 1) == 0);
	CHECK(gw_deadline_left_ms(gw_deadline_ms(100000)) > 90000);
	CHECK(gw_deadline_left_ms(gw_deadline_ms(1)) <= 1);
	CHECK(gw_deadline_left_ms(INT64_MAX) == 0x7fffffff);
}

static void scopes_clean_up(void)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	int p[2], kept;

	REQUIRE(pipe(p) == 0);
	{
		gw_autoclose int a = p[0];
		gw_autoclose int b = p[1];
		gw_autofree char *s = strdup("freed, says asan");

		CHECK(s != NULL && a >= 0);
		kept = gw_take_fd(&b);
		GW_LOCKED(&m);
		CHECK(pthread_mutex_trylock(&m) == EBUSY);
	}
	CHECK(pthread_mutex_trylock(&m) == 0);
	pthread_mutex_unlock(&m);
	signal(SIGPIPE, SIG_IGN);
	CHECK(write(kept, "x", 1) == -1 && errno == EPIPE);
	close(kept);
}

int main(void)
{
	RUN(nothing_is_printed_by_default);
	RUN(filters_by_module);
	RUN(bad_filters_change_nothing);
	RUN(long_messages_are_cut);
	RUN(errors_keep_code_fault_and_text);
	RUN(long_errors_are_cut);
	RUN(cancel_ends_a_wait);
	RUN(threads_have_names_and_no_signals);
	RUN(deadlines);
	RUN(scopes_clean_up);
	return test_done();
}
