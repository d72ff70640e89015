/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * trace.h - static probes (USDT, provider "godwit") where <sys/sdt.h> exists,
 * nothing otherwise. The list of probes is in docs/internals/tracing.md.
 */
#ifndef GW_BASE_TRACE_H
#define GW_BASE_TRACE_H

#ifdef GW_HAVE_SDT
#include <sys/sdt.h>
#define GW_TRACE1(probe, a)	     DTRACE_PROBE1(godwit, probe, a)
#define GW_TRACE2(probe, a, b)	     DTRACE_PROBE2(godwit, probe, a, b)
#define GW_TRACE3(probe, a, b, c)    DTRACE_PROBE3(godwit, probe, a, b, c)
#else
#define GW_TRACE1(probe, a)	     ((void)(a))
#define GW_TRACE2(probe, a, b)	     ((void)(a), (void)(b))
#define GW_TRACE3(probe, a, b, c)    ((void)(a), (void)(b), (void)(c))
#endif

#endif
