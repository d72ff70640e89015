/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * thread.h - threads with a name and every signal blocked, so that signals
 * stay with whoever embeds the library.
 */
#ifndef GW_BASE_THREAD_H
#define GW_BASE_THREAD_H

#include <pthread.h>

#include "base/error.h"

/* @name: at most 15 bytes. Return: 0 or -errno. Join with pthread_join(). */
int gw_thread_start(pthread_t *thread, const char *name, void *(*fn)(void *),
		    void *arg, struct gw_error *err) GW_MUST_CHECK;

#endif
