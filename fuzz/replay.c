/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * replay.c - a main() for a fuzz target: runs every file of the corpus given
 * as arguments (files or folders) once, so that fuzzing's finds are ordinary
 * tests under any compiler. Also flips and cuts each file a few ways.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int inputs;

static void run(const uint8_t *data, size_t size)
{
	/* An exact copy, so that a sanitizer sees one byte too many. */
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
	inputs++;
}

static void mutate(uint8_t *data, size_t size)
{
	size_t step = size / 64 + 1;

	for (size_t i = 0; i < size; i += step) {
		uint8_t was = data[i];

		run(data, i); /* cut */
		data[i] ^= (uint8_t)(1u << (i % 8));
		run(data, size);
		data[i] = 0xff;
		run(data, size);
		data[i] = was;
	}
}

static int run_file(const char *path)
{
	static uint8_t data[1 << 20];
	FILE *f = fopen(path, "rb");
	size_t n;

	if (!f) {
		perror(path);
		return 1;
	}
	n = fread(data, 1, sizeof(data), f);
	fclose(f);
	run(data, n);
	mutate(data, n);
	return 0;
}

static int run_path(const char *path)
{
	struct stat st;
	struct dirent *e;
	int r = 0;
	DIR *d;

	if (stat(path, &st)) {
		perror(path);
		return 1;
	}
	if (!S_ISDIR(st.st_mode))
		return run_file(path);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		char sub[4096];

		snprintf(sub, sizeof(sub), "%s/%s", path, e->d_name);
		if (e->d_name[0] != '.')
			r |= run_path(sub);
	}
	closedir(d);
	return r;
}

int main(int argc, char **argv)
{
	int r = 0;

	for (int i = 1; i < argc; i++)
		r |= run_path(argv[i]);
	printf("%d inputs\n", inputs);
	if (!inputs) {
		fprintf(stderr, "no corpus: nothing was tested\n");
		return 1;
	}
	return r;
}
