/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * live.h - fields of struct godwit_params that may be changed while an
 * operation runs (the limits on bandwidth and downtime, the throttle): the
 * thread that changes one stores it whole, the engine loads it whole, each
 * time it wants to know. No order between two fields is promised.
 *
 *	uint64_t bps = GW_LIVE(params->max_bandwidth);
 */
#ifndef GW_BASE_LIVE_H
#define GW_BASE_LIVE_H

#define GW_LIVE(field)		 __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define GW_LIVE_SET(field, value) \
	__atomic_store_n(&(field), (value), __ATOMIC_RELAXED)

#endif
