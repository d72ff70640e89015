/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * migrate.c - the smallest program on libgodwit: live-migrate a VM that was
 * started by `godwit run`. usage: migrate VM URI
 */
#include <godwit.h>
#include <stdio.h>

static void progress(const struct godwit_stats *s, void *data)
{
	(void)data;
	printf("%s: pass %u, %llu bytes left\n", godwit_status_name(s->status),
	       s->pass, (unsigned long long)s->remaining);
}

int main(int argc, char **argv)
{
	struct godwit_error err = { 0 };
	struct godwit_vm *vm;
	struct godwit_op *op;
	int r;

	if (argc != 3) {
		fprintf(stderr, "usage: %s VM URI\n", argv[0]);
		return GODWIT_USAGE;
	}
	vm = godwit_vm_open(argv[1], &err);
	op = vm ? godwit_op_new(vm, NULL, progress, NULL, &err) : NULL;
	r = op ? godwit_migrate(op, argv[2], &err) : -1;
	if (r)
		fprintf(stderr, "%s\n", err.msg);
	godwit_op_free(op);
	godwit_vm_close(vm);
	return r ? (int)err.fault : 0;
}
