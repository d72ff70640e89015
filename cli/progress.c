/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * progress.c - live numbers: one line that is rewritten on a terminal, whole
 * lines elsewhere, JSON objects with --json. All but JSON goes to stderr.
 */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "cli/cli.h"
#include "control/stats.h"
#include "ram/block.h"

void cli_progress_init(struct cli_progress *p, bool json, bool quiet)
{
	memset(p, 0, sizeof(*p));
	p->json = json;
	p->quiet = quiet;
	p->tty = !json && !quiet && isatty(STDERR_FILENO);
}

/* The VM is protected: the last checkpoint, not the pass. */
static void format_checkpoint(const struct godwit_stats *s, bool late,
			      char *line, size_t len)
{
	char pause[32], size[32], lag[32], rate[32], every[32], flush[32];
	size_t n;

	gw_format_time(pause, sizeof(pause), s->checkpoint_pause_ns);
	gw_format_size(size, sizeof(size), s->checkpoint_bytes);
	gw_format_size(rate, sizeof(rate), s->bandwidth);
	gw_format_time(every, sizeof(every), s->checkpoint_interval_ns);
	n = (size_t)snprintf(line, len,
			     "protected %s checkpoint %-6llu pause %-8s %9s  ",
			     late ? "LATE" : "    ",
			     (unsigned long long)s->checkpoint, pause, size);
	if (s->checkpoint_lag_ns)
		n += (size_t)snprintf(line + n, len - n, "lag %-8s",
				      gw_format_time(lag, sizeof(lag),
						     s->checkpoint_lag_ns));
	else
		n += (size_t)snprintf(line + n, len - n, "flush %-8s",
				      gw_format_time(flush, sizeof(flush),
						     s->checkpoint_flush_ns));
	snprintf(line + n, len - n, "  at %8s/s  every %s", rate, every);
}

static void format(const struct godwit_stats *s, char *line, size_t len)
{
	char sent[32], rate[32], dirty[32], left[32], eta[32], slow[32] = "";
	char disks[32] = "";

	gw_format_size(sent, sizeof(sent), s->transferred);
	gw_format_size(rate, sizeof(rate), s->bandwidth);
	gw_format_size(dirty, sizeof(dirty),
		       s->dirty_pages_rate * GW_PAGE_SIZE);
	gw_format_size(left, sizeof(left), s->remaining);
	if (s->pass < 2)
		strcpy(dirty, "?");
	if (s->eta_ns >= 0)
		gw_format_time(eta, sizeof(eta), s->eta_ns);
	else
		strcpy(eta, "?");
	if (s->cpu_throttle_percentage)
		snprintf(slow, sizeof(slow), "  throttled %u%%",
			 s->cpu_throttle_percentage);
	if (s->disk_total)
		snprintf(disks, sizeof(disks), "  disks %u %%",
			 (unsigned int)(100.0 * (double)s->disk_done /
					(double)s->disk_total));
	snprintf(line, len,
		 "%-14s pass %-2u sent %8s at %8s/s  left %8s  ETA %-6s  dirtied %8s/s%s%s",
		 godwit_status_name(s->status), s->pass, sent, rate, left,
		 eta, dirty, slow, disks);
}

/* A line that wraps cannot be rewritten: the last column stays free. */
static int columns(void)
{
	struct winsize w;

	return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 1 ?
		       w.ws_col - 1 :
		       79;
}

/* Worth a line of its own off a terminal? A protection lasts: there it is the
 * first checkpoint, and what changes for the operator. */
static bool is_news(struct cli_progress *p, const struct godwit_stats *s)
{
	bool colo = s->status == GODWIT_STATUS_COLO;
	bool late = s->checkpoints_late != p->nlate;
	bool news = s->status != p->status || late != p->late ||
		    !s->checkpoint != !p->checkpoint ||
		    (!colo && s->pass != p->pass);

	p->status = s->status;
	p->pass = s->pass;
	p->late = late;
	p->nlate = s->checkpoints_late;
	p->checkpoint = s->checkpoint;
	return news;
}

void cli_progress_show(const struct godwit_stats *s, void *data)
{
	struct cli_progress *p = data;
	bool colo = s->status == GODWIT_STATUS_COLO, news = is_news(p, s);
	int64_t now = gw_now_ns();
	char line[256];

	if (p->quiet)
		return;
	if (p->json) {
		json_t *j = gw_stats_json(s, NULL);

		json_object_set_new(j, "event", json_string("progress"));
		cli_json(j);
		return;
	}
	/* Off a terminal: news, and otherwise a line a second, of a VM that is
	 * protected a minute. */
	if (!p->tty && !news &&
	    now - p->last_ns < (colo ? 60 : 1) * GW_NS_PER_S)
		return;
	p->last_ns = now;
	if (colo && s->checkpoint)
		format_checkpoint(s, p->late, line, sizeof(line));
	else
		format(s, line, sizeof(line));
	if (p->tty)
		fprintf(stderr, "\r\033[K%.*s", columns(), line);
	else
		fprintf(stderr, "%s\n", line);
	p->line_open = p->tty;
}

void cli_progress_end(struct cli_progress *p)
{
	if (p->line_open)
		fputc('\n', stderr);
	p->line_open = false;
}

void cli_summary_received(const struct godwit_stats *s)
{
	char a[32], b[32], c[32];

	printf("received: %s of RAM and %s of device state in %s; the VM is here now\n",
	       gw_format_size(a, sizeof(a), s->normal * GW_PAGE_SIZE),
	       gw_format_size(b, sizeof(b), s->device_bytes),
	       gw_format_time(c, sizeof(c), s->total_ns));
}

static void pages(const struct godwit_stats *s, const char *where)
{
	char a[32], b[32], c[32], d[32];

	printf("pages: %llu normal, %llu zero, %llu zero and left out\n",
	       (unsigned long long)s->normal, (unsigned long long)s->duplicate,
	       (unsigned long long)s->skipped);
	printf("%s: %s for %s of RAM, %s of it in use; device state %s\n",
	       where, gw_format_size(a, sizeof(a), s->transferred),
	       gw_format_size(b, sizeof(b), s->total),
	       gw_format_size(c, sizeof(c), s->populated),
	       gw_format_size(d, sizeof(d), s->device_bytes));
}

/* What need not move did not: the sum, then of what. */
static void saved(const struct godwit_stats *s)
{
	const struct {
		uint64_t npages;
		const char *what;
	} part[] = {
		{ s->unpopulated, "never populated" },
		{ s->given_back, "given back" },
		{ s->hinted, "free" },
		{ s->skipped + s->duplicate, "zero" },
	};
	char size[32], time[32];
	const char *comma = "";
	uint64_t nbytes;
	int64_t ns;

	gw_stats_saved(s, &nbytes, &ns);
	printf("not sent: %s", gw_format_size(size, sizeof(size), nbytes));
	for (size_t i = 0; i < sizeof(part) / sizeof(*part); i++) {
		if (!part[i].npages)
			continue;
		printf("%s %s %s", *comma ? comma : ":",
		       gw_format_size(size, sizeof(size),
				      part[i].npages * GW_PAGE_SIZE),
		       part[i].what);
		comma = ",";
	}
	printf("; %s at this rate\n", gw_format_time(time, sizeof(time), ns));
}

static void throttled(const struct godwit_stats *s)
{
	if (s->cpu_throttle_most)
		printf("auto-converge: up to %u %% of the CPU time was taken from the guest\n",
		       s->cpu_throttle_most);
}

/* What QEMU itself says; it counts no device state and no holes. */
static void summary_native(const struct godwit_stats *s)
{
	char a[32], b[32], c[32], d[32];

	printf("migrated in %s, downtime %s (stopped here to running there), %u passes, by QEMU itself\n",
	       gw_format_time(a, sizeof(a), s->total_ns),
	       gw_format_time(b, sizeof(b), s->downtime_ns), s->pass);
	printf("pages: %llu normal, %llu zero; on the wire: %s for %s of RAM\n",
	       (unsigned long long)s->normal, (unsigned long long)s->duplicate,
	       gw_format_size(c, sizeof(c), s->transferred),
	       gw_format_size(d, sizeof(d), s->total));
}

void cli_summary_migrated(const struct godwit_stats *s)
{
	char a[32], b[32];

	if (!s->tracker) { /* native */
		summary_native(s);
		return;
	}
	printf("migrated in %s, downtime %s (stopped here to running there), %u passes, tracker %s\n",
	       gw_format_time(a, sizeof(a), s->total_ns),
	       gw_format_time(b, sizeof(b), s->downtime_ns), s->pass,
	       s->tracker);
	pages(s, "on the wire");
	saved(s);
	throttled(s);
	if (s->disk_total)
		printf("disks: %s copied, %s on the wire\n",
		       gw_format_size(a, sizeof(a), s->disk_done),
		       gw_format_size(b, sizeof(b), s->disk_transferred));
	if (s->verified)
		printf("verified: %llu pages compared, all equal\n",
		       (unsigned long long)s->verified);
}

void cli_summary_stored(const struct godwit_stats *s)
{
	char a[32], b[32], c[32];

	printf("received: %s of RAM and %s of device state in %s; the file is complete\n",
	       gw_format_size(a, sizeof(a), s->normal * GW_PAGE_SIZE),
	       gw_format_size(b, sizeof(b), s->device_bytes),
	       gw_format_time(c, sizeof(c), s->total_ns));
}

void cli_summary_restored(const struct godwit_stats *s)
{
	char a[32], b[32], c[32];

	printf("restored: %s of RAM and %s of device state in %s; the VM is here now\n",
	       gw_format_size(a, sizeof(a), s->normal * GW_PAGE_SIZE),
	       gw_format_size(b, sizeof(b), s->device_bytes),
	       gw_format_time(c, sizeof(c), s->total_ns));
}

void cli_summary_saved(const struct godwit_stats *s)
{
	char a[32], b[32];

	printf("saved in %s, %u passes", gw_format_time(a, sizeof(a),
							s->total_ns),
	       s->pass);
	if (s->downtime_ns)
		printf(", the VM stood for %s",
		       gw_format_time(b, sizeof(b), s->downtime_ns));
	printf("\n");
	pages(s, "written");
	throttled(s);
}

void cli_summary_checkpoints(const struct godwit_stats *s)
{
	char a[32], b[32], c[32];

	if (!s->checkpoint)
		return;
	printf("%llu checkpoints", (unsigned long long)s->checkpoint);
	if (s->checkpoint_pause_max_ns)
		printf(", the VM stood for %s (median), %s (p99), %s (at most)",
		       gw_format_time(a, sizeof(a), s->checkpoint_pause_p50_ns),
		       gw_format_time(b, sizeof(b), s->checkpoint_pause_p99_ns),
		       gw_format_time(c, sizeof(c),
				      s->checkpoint_pause_max_ns));
	printf("\n");
}

void cli_summary_sent(const struct godwit_stats *s)
{
	char a[32], b[32];

	printf("sent %s in %s: %llu pages normal, %llu zero; the VM is there now\n",
	       gw_format_size(a, sizeof(a), s->transferred),
	       gw_format_time(b, sizeof(b), s->total_ns),
	       (unsigned long long)s->normal,
	       (unsigned long long)s->duplicate);
}
