/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * scope.h - cleanup at the end of a scope (gcc and clang).
 *
 *	gw_autofree char *s = strdup(x);	free(s)
 *	gw_autoclose int fd = open(...);	close(fd) unless negative
 *	return gw_take_fd(&fd);			hand it over instead
 */
#ifndef GW_BASE_SCOPE_H
#define GW_BASE_SCOPE_H

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static inline void gw_cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void gw_cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void gw_cleanup_unlock(pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock(*m);
}

#define gw_autofree  __attribute__((cleanup(gw_cleanup_free)))
#define gw_autoclose __attribute__((cleanup(gw_cleanup_close)))

#define GW_PASTE_(a, b) a##b
#define GW_PASTE(a, b)	GW_PASTE_(a, b)

/* Hold @mutex until the end of the enclosing scope. */
#define GW_LOCKED(mutex)                                                      \
	__attribute__((cleanup(gw_cleanup_unlock), unused)) pthread_mutex_t * \
		GW_PASTE(gw_lock_, __LINE__) =                                \
			(pthread_mutex_lock(mutex), (mutex))

static inline int gw_take_fd(int *fd)
{
	int r = *fd;

	*fd = -1;
	return r;
}

#endif
