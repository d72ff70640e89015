/* SPDX-License-Identifier: BSD-3-Clause */
/* thread.c - see thread.h. */
#include "base/thread.h"

#include <signal.h>

int gw_thread_start(pthread_t *thread, const char *name, void *(*fn)(void *),
		    void *arg, struct gw_error *err)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return gw_fail_errno(err, r, "starting thread %s", name);
	pthread_setname_np(*thread, name);
	return 0;
}
