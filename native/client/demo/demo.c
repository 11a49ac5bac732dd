/* SPDX-License-Identifier: MIT */
/*
 * demo.c: a program with no privilege that saves its memory, ruins every byte of it, and takes it back; `ebpf-ckpt demo` runs it.
 *
 * usage: ebpf-ckpt-demo MIB. Prints a JSON object a line: progress, steps with their checksums, and whether all was well.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../ebpf_ckpt.h"

#define MIB	   ((size_t)1 << 20)
#define BSS_MOST   (64 * MIB)
#define LEAST	   4 /* MiB */
#define BLOCK_MOST 65536

/* A heap as programs have it: many blocks of all sizes, found through each other. */
struct block {
	struct block *next;
	size_t words;
	uint64_t word[];
};

static uint64_t in_bss[BSS_MOST / sizeof(uint64_t)];
static uint64_t in_data = 42;

struct memory {
	struct block *blocks;
	uint64_t *mapped;
	size_t mapped_words, bss_words;
};

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void fill(uint64_t *words, size_t count, uint64_t *state)
{
	for (size_t i = 0; i < count; i++)
		words[i] = next_random(state);
}

static uint64_t mix(uint64_t sum, const uint64_t *words, size_t count)
{
	for (size_t i = 0; i < count; i++)
		sum = (sum ^ words[i]) * 0x100000001b3 + (sum >> 32);
	return sum;
}

static struct block *grow_heap(size_t bytes, uint64_t *state)
{
	struct block *blocks = NULL;

	while (bytes > 0) {
		size_t words = next_random(state) % (BLOCK_MOST / sizeof(uint64_t)) + 1;
		struct block *block = malloc(sizeof(*block) + words * sizeof(uint64_t));

		if (!block)
			return NULL;
		block->next = blocks;
		block->words = words;
		fill(block->word, words, state);
		blocks = block;
		bytes -= bytes < words * sizeof(uint64_t) ? bytes : words * sizeof(uint64_t);
	}
	return blocks;
}

static uint64_t checksum(const struct memory *memory)
{
	uint64_t sum = mix(in_data, in_bss, memory->bss_words);

	for (const struct block *block = memory->blocks; block; block = block->next)
		sum = mix(sum, block->word, block->words);
	return mix(sum, memory->mapped, memory->mapped_words);
}

/* Every byte changes, and the heap is not even laid out as it was. */
static void ruin(struct memory *memory, uint64_t *state)
{
	size_t freed = 0;

	in_data = ~in_data;
	for (size_t i = 0; i < memory->bss_words; i++)
		in_bss[i] = ~in_bss[i];
	for (size_t i = 0; i < memory->mapped_words; i++)
		memory->mapped[i] = ~memory->mapped[i];
	while (memory->blocks) {
		struct block *block = memory->blocks;

		memory->blocks = block->next;
		freed += block->words * sizeof(uint64_t);
		memset(block, 0xff, sizeof(*block) + block->words * sizeof(uint64_t));
		/* the allocator keeps its own notes below what it gave out */
		free(block);
	}
	memory->blocks = grow_heap(freed, state);
}

/* Nothing but the stack and a system call: it runs while memory is rolled back, and after a recover that failed half-way. */
__attribute__((format(printf, 1, 2))) static int tell(const char *format, ...)
{
	char line[512];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	return write(STDOUT_FILENO, line, length) == length ? 0 : -1;
}

static int tell_progress(const struct ckpt_progress *progress, void *data)
{
	uint64_t *bytes = data;

	*bytes = progress->total_bytes;
	return tell("{\"event\":\"progress\",\"phase\":\"%s\",\"donePages\":%" PRIu64 ",\"totalPages\":%" PRIu64 "}\n",
		    progress->phase == CKPT_SAVING ? "save" : "recover", progress->done_pages, progress->total_pages);
}

static double seconds_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec - then->tv_sec + (now.tv_nsec - then->tv_nsec) * 1e-9;
}

static bool step(const char *name, int (*act)(const struct ckpt_options *))
{
	struct timespec began;
	uint64_t bytes = 0;
	struct ckpt_options options = {.size = sizeof(options), .progress = tell_progress, .data = &bytes};

	clock_gettime(CLOCK_MONOTONIC, &began);
	if (act(&options)) {
		tell("{\"event\":\"failed\",\"step\":\"%s\",\"errno\":\"%s\",\"message\":\"%s\"}\n", name, strerrorname_np(errno),
		     ckpt_strerror());
		return false;
	}
	tell("{\"event\":\"step\",\"step\":\"%s\",\"bytes\":%" PRIu64 ",\"ms\":%.3f}\n", name, bytes, seconds_since(&began) * 1e3);
	return true;
}

static void tell_checksum(const char *when, uint64_t sum)
{
	tell("{\"event\":\"checksum\",\"when\":\"%s\",\"value\":\"%016" PRIx64 "\"}\n", when, sum);
}

int main(int argc, char **argv)
{
	size_t bytes = (argc > 1 ? strtoull(argv[1], NULL, 10) : 256) * MIB;
	uint64_t random = 0x9e3779b97f4a7c15, other = random >> 1;
	/* on the stack: a recover leaves it alone */
	struct memory memory = {0};
	uint64_t before, ruined, after;
	size_t bss_bytes;

	if (bytes < LEAST * MIB) {
		fprintf(stderr, "usage: ebpf-ckpt-demo MIB, at least %d\n", LEAST);
		return 2;
	}
	bss_bytes = bytes / 4 < BSS_MOST ? bytes / 4 : BSS_MOST;
	memory.bss_words = bss_bytes / sizeof(uint64_t);
	memory.mapped_words = (bytes - bss_bytes) / 2 / sizeof(uint64_t);
	memory.mapped = mmap(NULL, memory.mapped_words * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory.mapped == MAP_FAILED)
		return 1;
	fill(memory.mapped, memory.mapped_words, &random);
	fill(in_bss, memory.bss_words, &random);
	memory.blocks = grow_heap((bytes - bss_bytes) / 2, &random);
	struct block *blocks = memory.blocks;

	before = checksum(&memory);
	tell_checksum("before", before);
	if (!step("save", savecontext_with))
		return 1;
	ruin(&memory, &other);
	ruined = checksum(&memory);
	tell_checksum("ruined", ruined);
	if (!step("recover", recovercontext_with))
		return 1;
	memory.blocks = blocks;
	after = checksum(&memory);
	tell_checksum("after", after);
	/* the allocator is that of then as well, and works */
	ruin(&memory, &other);
	tell("{\"event\":\"end\",\"uid\":%d,\"ok\":%s}\n", getuid(), before == after && before != ruined ? "true" : "false");
	return before == after && before != ruined ? 0 : 1;
}
