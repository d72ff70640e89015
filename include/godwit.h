/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * godwit.h - move running virtual machines from outside the VMM.
 *
 * Read from top to bottom: errors, log, parameters, statistics, VMs, and the
 * operations, migrate, receive and restore. The library never prints, never
 * exits, never touches signal handlers and keeps no global state but the log
 * function. An operation runs in the thread that calls it; its callbacks are
 * called from that thread. Strings are UTF-8 and stay valid as long as the
 * object they came from.
 */
#ifndef GODWIT_H
#define GODWIT_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GODWIT_API __attribute__((visibility("default")))

/* "0.1.0" */
GODWIT_API const char *godwit_version(void);

/* --- errors ------------------------------------------------------------ */

/*
 * What a failure means for the VM; also the exit codes of the command line.
 * Unless it says otherwise the VM still runs (or rests) where it was.
 */
enum godwit_fault {
	GODWIT_OK = 0,
	GODWIT_FAILED = 1,
	GODWIT_USAGE = 2,     /* impossible arguments */
	GODWIT_INPUT = 3,     /* bad or damaged input */
	GODWIT_VERIFY = 4,    /* source and destination RAM differ */
	GODWIT_CONVERGE = 5,  /* the guest dirties faster than can be sent */
	GODWIT_REFUSED = 6,   /* the peer said no */
	GODWIT_CANCELLED = 7,
	GODWIT_UNCERTAIN = 8, /* after the hand-over began: text says who owns
				 the VM and what to do */
};

/* Filled by whoever fails; the caller owns it; NULL is allowed everywhere. */
struct godwit_error {
	int code;		 /* errno value, > 0 once set */
	enum godwit_fault fault;
	char msg[1024];		 /* one line */
};

/* --- log --------------------------------------------------------------- */

enum godwit_log_level {
	GODWIT_LOG_ERROR = 1,
	GODWIT_LOG_WARN,
	GODWIT_LOG_INFO,
	GODWIT_LOG_DEBUG,
	GODWIT_LOG_TRACE,
};

typedef void (*godwit_log_fn)(int level, const char *module, const char *msg,
			      void *data);

/*
 * Silent until set. @filter: "LEVEL" or "LEVEL,MODULE=LEVEL,...", e.g.
 * "info,track=debug". Call before other threads use the library.
 * Return: 0, -EINVAL.
 */
GODWIT_API int godwit_set_log(godwit_log_fn fn, void *data, const char *filter,
			      struct godwit_error *err);

/* --- states ------------------------------------------------------------ */

/* QEMU's MigrationStatus, as far as it happens here. */
enum godwit_status {
	GODWIT_STATUS_NONE,
	GODWIT_STATUS_SETUP,
	GODWIT_STATUS_ACTIVE,
	GODWIT_STATUS_PRE_SWITCHOVER, /* the VM stands, last pass */
	GODWIT_STATUS_DEVICE,	      /* device state, hand-over */
	GODWIT_STATUS_COMPLETED,
	GODWIT_STATUS_FAILED,
	GODWIT_STATUS_CANCELLING,
	GODWIT_STATUS_CANCELLED,
	GODWIT_STATUS_COLO, /* protected: checkpoint after checkpoint */
};

/* "pre-switchover" and so on, QEMU's spelling. */
GODWIT_API const char *godwit_status_name(enum godwit_status s);

/* --- parameters -------------------------------------------------------- */

/* Names, ranges and defaults: godwit(1), "Parameters". */
struct godwit_params {
	uint64_t max_bandwidth;	     /* bytes/s while the VM runs; 0: no limit */
	int64_t downtime_limit_ns;   /* 300 ms */
	int64_t handover_timeout_ns; /* 5 s, for the destination to be ready */
	int64_t connect_timeout_ns;  /* 10 s */
	int64_t idle_timeout_ns;     /* 30 s without a byte: the peer is gone */
	uint32_t max_passes;	     /* 0: no limit */
	uint32_t stall_passes;	     /* 10: give up after so many passes that
					did not lower what is left */
	bool verify;		     /* hash every page on both sides */
	bool native;		     /* QEMU's own stream, also to a plain QEMU */
	bool paused;		     /* what arrives or is restored stays
					paused */
	bool switchover_ack;	     /* receive: the plain QEMU that sends has
					capability switchover-ack */
	const char *tracker;	     /* "auto", "pagemap-scan", "uffd-wp" */
	bool to_qemu;		     /* migrate: a plain QEMU waits there */
	bool live;		     /* save: the VM runs meanwhile */
	bool stop;		     /* save: it stays stopped afterwards */
	bool quit;		     /* save: its QEMU ends afterwards */
	const char *format;	     /* save: "mapped-ram", "stream" */
	uint32_t channels;	     /* threads, or connections, that carry pages;
					0: 1 to migrate, 2 for files */
	bool direct_io;		     /* save, restore: pages by O_DIRECT */
	bool xbzrle;		     /* pages sent before go as differences */
	uint64_t cache_size;	     /* bytes of pages to take them from; 64 MiB */
	bool skip_zero_pages;	     /* on: the first pass leaves zero pages out
					where the destination promises zeros */
	const char *compress;	     /* "none", "zlib", "zstd", "auto" */
	uint32_t compress_level;     /* 0: the method's own default */
	bool auto_converge;	     /* slow the vCPUs down while passes do not
					get smaller */
	uint32_t cpu_throttle_initial, cpu_throttle_increment,
		max_cpu_throttle;	  /* percent of time taken from them */
	uint32_t throttle_trigger_threshold; /* percent of the bytes sent in a
						pass that were dirtied again */
	int64_t max_downtime_ns;     /* 0: none; rather this downtime, at the
					least that is left, than giving up */
	const char *disks;	     /* "none", "full", "incremental" */
	const char *free_page_hint;  /* "none", "agent": ask the one in the guest
					which pages need not be sent */
	/* protect, standby */
	int64_t interval_ns;	     /* from one checkpoint to the next; 100 ms */
	int64_t timeout_ns;	     /* standby: the primary is silent for so long:
					take over; 1 s */
	int64_t fence_after_ns;	     /* primary: without an answer for so long the
					VM stops; 0: 0.6 of the standby's timeout */
	bool fence;		     /* off: it runs on unprotected instead */
	const char *arbiter;	     /* a command that decides; "": none */
	bool hold_network;	     /* output waits for the checkpoint that
					contains its cause */
	const char *cache;	     /* standby: keep the checkpoint in this file;
					"": in memory */
	bool cache_sync;	     /* that outlives a power failure: the disk
					is waited for at each checkpoint */
	uint32_t flush_threads;	     /* standby; 0: as many as CPUs */
};

GODWIT_API void godwit_params_init(struct godwit_params *p);

/* --- statistics -------------------------------------------------------- */

/* Counted in pages of 4096 bytes, bytes and nanoseconds. */
struct godwit_stats {
	enum godwit_status status;
	uint32_t pass;		      /* QEMU's dirty-sync-count */
	uint64_t total;		      /* RAM of the VM, bytes */
	uint64_t populated;	      /* of it in use when we began, bytes */
	uint64_t remaining;	      /* still to send in this pass, bytes */
	uint64_t transferred;	      /* written to the channel, bytes */
	uint64_t normal;	      /* pages sent whole */
	uint64_t duplicate;	      /* zero pages sent as such */
	uint64_t skipped;	      /* zero pages that the first pass left out:
					 the destination has zeros there */
	uint64_t unpopulated;	      /* pages never populated: neither read nor
					 sent */
	uint64_t given_back;	      /* pages that the VM gave back meanwhile:
					 not read, zero at the destination */
	uint64_t dirty_pages_rate;    /* pages/s dirtied, last pass */
	uint64_t bandwidth;	      /* bytes/s, last window */
	uint64_t device_bytes;	      /* device state */
	uint64_t verified;	      /* pages compared equal; 0: not asked for */
	int64_t total_ns;	      /* since the operation began */
	int64_t setup_ns;
	int64_t expected_downtime_ns; /* estimate; -1: none yet */
	int64_t eta_ns;		      /* to completion at this rate; -1: none */
	int64_t downtime_ns;	      /* stopped here to running there */
	const char *tracker;	      /* the one in use */
	uint64_t precopy_bytes;	      /* of transferred: while the VM ran */
	uint64_t downtime_bytes;      /* while it stood */
	uint64_t pages_per_second;    /* sent, last window */
	/* channels and compression */
	uint32_t channels;	      /* connections besides the main one */
	uint64_t multifd_bytes;	      /* of transferred: on those */
	uint64_t compress_pages;      /* pages that went compressed */
	uint64_t compress_in, compress_out; /* their bytes, before and after */
	const char *compress;	      /* method in use, NULL: none */
	char compress_why[160];	      /* what `auto` chose and why; "" */
	/* XBZRLE; cache_size 0: off */
	uint64_t xbzrle_cache_size;   /* bytes */
	uint64_t xbzrle_bytes;	      /* of deltas, and of overflowed pages */
	uint64_t xbzrle_pages;	      /* found in the cache */
	uint64_t xbzrle_same;	      /* of those: unchanged, not sent at all */
	uint64_t xbzrle_cache_miss;   /* pages */
	uint64_t xbzrle_overflow;     /* pages whose delta was too long */
	double xbzrle_cache_miss_rate; /* last pass: misses per page looked up */
	double xbzrle_encoding_rate;  /* last pass: bytes of pages per byte sent */
	/* convergence */
	uint32_t cpu_throttle_percentage; /* now; 0: not throttled */
	uint32_t cpu_throttle_most;	  /* the most that it was */
	/* disks; disk_total 0: none are copied */
	uint64_t disk_total;	   /* to copy, with what the guest adds */
	uint64_t disk_done;	   /* of it */
	uint64_t disk_transferred; /* bytes sent for that */
	/* free page hints, pages; all 0 unless somebody was asked */
	bool hint_asked;
	uint64_t hinted;	      /* said to be free, so not sent in bulk */
	uint64_t hinted_late;	      /* sent before, or never populated */
	uint64_t hinted_stale;	      /* answers to another question, or too
					 late for any */
	uint64_t hinted_refused;      /* ranges that are not the VM's memory */
	uint64_t hinted_absent;	      /* with verify: never sent, and so not
					 compared with the source: zero there */
	/* checkpoints; all 0 unless protecting (either side) */
	uint64_t checkpoint;	      /* the last one that is safe; from 1 */
	uint64_t checkpoint_pages;    /* of that one, also those sent before the
					 VM stood */
	uint64_t checkpoint_paused_pages; /* of them: copied while it stood */
	uint64_t checkpoint_bytes;    /* on the wire, of that one */
	int64_t checkpoint_pause_ns;  /* the VM stood for it */
	int64_t checkpoint_pause_p50_ns, checkpoint_pause_p99_ns,
		checkpoint_pause_max_ns; /* of the last 4096 */
	int64_t checkpoint_interval_ns; /* from the one before to that one */
	int64_t checkpoint_lag_ns;    /* stood still to acknowledged */
	int64_t checkpoint_flush_ns;  /* standby: into the VM's RAM */
	uint64_t checkpoints_late;    /* so many until now were acknowledged
					 later than an interval after the VM
					 stood still */
};

/* Called at most ten times a second and at every change of status. */
typedef void (*godwit_progress_fn)(const struct godwit_stats *stats,
				   void *data);

/* --- VMs --------------------------------------------------------------- */

struct godwit_vm;

/*
 * Attach to a QEMU: the NAME given to `godwit run`, or
 * "qmp=PATH,agent=PATH"; "qmp=PATH" is enough for a native migration. One
 * attachment at a time. NULL with @err.
 */
GODWIT_API struct godwit_vm *godwit_vm_open(const char *vm,
					    struct godwit_error *err);
GODWIT_API void godwit_vm_close(struct godwit_vm *vm);

/* --- operations -------------------------------------------------------- */

struct godwit_op;

/* A cancellable operation on @vm (NULL: on files alone), for one use. NULL
 * with @err. */
GODWIT_API struct godwit_op *godwit_op_new(struct godwit_vm *vm,
					   const struct godwit_params *params,
					   godwit_progress_fn progress,
					   void *data,
					   struct godwit_error *err);
GODWIT_API void godwit_op_free(struct godwit_op *op);

/* Any thread, also a signal handler. Before the hand-over the VM goes on at
 * the source; afterwards it is too late and nothing happens. */
GODWIT_API void godwit_op_cancel(struct godwit_op *op);

/*
 * Change the parameter @name of an operation, also while it runs; any thread.
 * @value as on the command line, "64M". Of those that cannot change any more
 * (godwit(1) names the ones that can) -EBUSY.
 */
GODWIT_API int godwit_op_set(struct godwit_op *op, const char *name,
			     const char *value, struct godwit_error *err);

/*
 * Live-migrate to the godwit that listens at @uri, with the parameter `native`
 * also to a plain QEMU that waits there. Return: 0 when the VM runs there (its
 * source VMM then stands in `postmigrate`), or -errno with @err.
 */
GODWIT_API int godwit_migrate(struct godwit_op *op, const char *uri,
			      struct godwit_error *err);

/*
 * Listen at @uri and accept one migration into a VM that waits for one, from a
 * godwit or from a plain QEMU (`migrate`, without postcopy-ram).
 * @listening (may be NULL) is told where, with the real port for port 0.
 *
 * A plain QEMU with capability return-path gives its VM up only when it is
 * complete here, and runs it on after any failure. Without the capability it
 * gives it up with the last byte.
 */
GODWIT_API int godwit_receive(struct godwit_op *op, const char *uri,
			      void (*listening)(const char *uri, void *data),
			      struct godwit_error *err);

/*
 * The same into a file: what a plain QEMU sends is stored as @format ("stream"
 * or "mapped-ram"), which QEMU and godwit_restore() can read. The file appears
 * under its name when it is complete. @op was made without a VM.
 */
GODWIT_API int godwit_receive_file(struct godwit_op *op, const char *uri,
				   const char *path, const char *format,
				   void (*listening)(const char *uri,
						     void *data),
				   struct godwit_error *err);

/*
 * Load the stored VM @path, a stream or mapped-ram file of QEMU or godwit, into
 * a VM that waits. It runs if it ran when it was stored and parameter paused
 * is off. A damaged file leaves the VM waiting.
 */
GODWIT_API int godwit_restore(struct godwit_op *op, const char *path,
			      struct godwit_error *err);

/*
 * Save the VM in the file @path, as params.format says, in a form that plain
 * QEMU loads too (mapped-ram: QEMU >= 9.0). The file appears under its name
 * when all of it is on disk. Then the VM goes on, unless params.stop or .quit.
 * Return: 0, or -errno with @err: the VM goes on, and there is no new file.
 */
GODWIT_API int godwit_save(struct godwit_op *op, const char *path,
			   struct godwit_error *err);

/*
 * Send the VM in the file @path ("-": standard input) to what listens at @uri:
 * a plain QEMU (-incoming) or a godwit that receives. @op has no VM. The file
 * is left as it is; whoever runs a VM from it twice does so knowingly.
 */
GODWIT_API int godwit_send(struct godwit_op *op, const char *path,
			   const char *uri, struct godwit_error *err);

/*
 * Protect the VM: copy it to the standby at @uri while it runs, then send it a
 * checkpoint every params.interval until cancelled (Ctrl-C: 0, the VM runs on
 * here, unprotected, and the standby is told and ends) or until the standby
 * takes over in an orderly way (0; status GODWIT_STATUS_COMPLETED, and the VM
 * runs there).
 *
 * Return: 0, or -errno with @err: GODWIT_FAILED the VM runs on here
 * unprotected; GODWIT_UNCERTAIN it was fenced: it stands still here, because
 * the standby may have taken over.
 */
GODWIT_API int godwit_protect(struct godwit_op *op, const char *uri,
			      struct godwit_error *err);

/*
 * Wait at @uri for a primary and keep its last complete checkpoint. When it is
 * silent for params.timeout, or on godwit_failover(), the VM runs here from
 * that checkpoint. @event (may be NULL) is told "listening URI", "protected",
 * "taking over: REASON" and so on.
 *
 * Return: 0 with *@took_over when the VM runs here; 0 without it when the
 * primary ended its protection and keeps the VM; -errno with @err.
 */
GODWIT_API int godwit_standby(struct godwit_op *op, const char *uri,
			      void (*event)(const char *what,
					    const char *detail, void *data),
			      bool *took_over, struct godwit_error *err);

/*
 * Tell the standby of VM @name on this host to take over now. A primary that
 * answers makes a last checkpoint and gives the VM up, so that nothing is
 * lost. @status (may be NULL): only ask, and get one line of JSON, the
 * caller's to free. Return: 0 when the VM runs here, -errno with @err.
 */
GODWIT_API int godwit_failover(const char *name, char **status,
			       struct godwit_error *err);

/* What a destination says of itself. */
struct godwit_peer {
	char godwit[32], vmm[64], name[64];
};

/* Ask the godwit at @uri whether it would take this VM; nothing moves and it
 * goes on listening. Return: 0 with @peer, or -errno with what differs. */
GODWIT_API int godwit_probe(struct godwit_op *op, const char *uri,
			    struct godwit_peer *peer,
			    struct godwit_error *err);

/*
 * Free page hints, for a VMM that knows which pages its guest does not use. A
 * hint may only say what the guest knew after it was asked, so: @fn is called
 * with an id when hints are wanted, and with 0 when they no longer are. Ask
 * the guest then, not before; what it says is an answer to that id. A page it
 * uses again at any time is sent, as it was written. Call it before the
 * operation begins; @fn is called from the operation's thread and must not
 * wait.
 */
typedef void (*godwit_hints_fn)(uint32_t id, void *data);
GODWIT_API void godwit_op_want_hints(struct godwit_op *op, godwit_hints_fn fn,
				     void *data);

/*
 * Bytes [@offset, @offset + @length) of RAM block @block were free when the
 * guest, asked because of @id, looked. Only whole pages count. What the
 * destination has there is zeros, or what the guest wrote since. Any thread.
 * Return: 0, also for pages that were sent already; -ESTALE: hints for @id are
 * not wanted any more, or not yet; -EINVAL: there is no such memory.
 */
GODWIT_API int godwit_hint_free(struct godwit_op *op, uint32_t id,
				const char *block, uint64_t offset,
				uint64_t length);

/*
 * The device's side of virtio-balloon's free page hinting (virtio 1.2, 5.5.6.6,
 * VIRTIO_BALLOON_F_FREE_PAGE_HINT), for a VMM with that device. It knows no
 * virtqueue: give it the elements of the free page queue in their order, and
 * show the driver what godwit_balloon_cmd_id() says as free_page_hint_cmd_id.
 */
struct godwit_balloon;

struct godwit_balloon_ops {
	/* cmd_id changed: raise a configuration interrupt. NULL: none */
	void (*config_changed)(void *data);
	/* Where is guest physical @addr? Name the RAM block in *@block, the
	 * place in it in *@offset. Return: how much of @len lies there in one
	 * piece, 0: it is no memory. */
	uint64_t (*map)(void *data, uint64_t addr, uint64_t len,
			const char **block, uint64_t *offset);
};

/* One per device; @ops must outlive it. NULL with @err. */
GODWIT_API struct godwit_balloon *
godwit_balloon_new(const struct godwit_balloon_ops *ops, void *data,
		   struct godwit_error *err);
GODWIT_API void godwit_balloon_free(struct godwit_balloon *b);

/* Before the operation @op begins: its hints are to come from @b. */
GODWIT_API void godwit_balloon_use(struct godwit_balloon *b,
				   struct godwit_op *op);

/* After it, before @op is freed: the driver may have its pages back. */
GODWIT_API void godwit_balloon_done(struct godwit_balloon *b);

GODWIT_API uint32_t godwit_balloon_cmd_id(struct godwit_balloon *b);

/* An element that the driver wrote, and one that it gives to be written to:
 * a free range. One thread at a time. */
GODWIT_API void godwit_balloon_out(struct godwit_balloon *b, const void *buf,
				   uint64_t len);
GODWIT_API void godwit_balloon_in(struct godwit_balloon *b, uint64_t addr,
				  uint64_t len);

/* The driver wrote poison_val; it reset the device. */
GODWIT_API void godwit_balloon_poison(struct godwit_balloon *b,
				      uint32_t value);
GODWIT_API void godwit_balloon_reset(struct godwit_balloon *b);

/* A copy of the current numbers; any thread. */
GODWIT_API void godwit_op_stats(struct godwit_op *op,
				struct godwit_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
