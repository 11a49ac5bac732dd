// seed.c: the seed's loop written out: memory of every kind is saved, ruined to the last byte and taken back, as often as asked.
//
// usage: seed [OPTION...]
//	--heap --bss --mmap --shared MIB	how much of each (1, 1, 1, 1); .bss has 400 MiB, of which the last so many are touched
//	--rounds N --restores N			saves, and restores after each (1, 1)
//	--open fopen|open|openat|relative	how the markers are opened (fopen)
//	--sleep US				between two looks at the completion file (none: spins)
//	--remove after|before|never		when the markers are removed: after the wait, or before it; never: no file is removed at all
//	--no-touch				names lie in pages that nobody has touched
//	--hold					after each save a line on stdin is waited for
//	--limit SECONDS				gives up waiting (20)
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "bytes.h"

#define FIXED_ADDRESS ((void*)0x100000000000)
#define BSS_BYTES (400 * MIB + 65536)  // so much besides what is touched
#define WINDOW 65536                   // the kernel maps up to so many bytes around one that is touched

enum name { READY_CHECKPOINT, CHECKPOINT_COMPLETE, READY_RESTORE, RESTORE_COMPLETE, NAMES };

char big_bss[BSS_BYTES];
char small_bss[1234];
char data[100000] = "starts with something";
int rounds_done = 7;

const char near_names[NAMES][32] = {"/tmp/ready_to_checkpoint", "/tmp/checkpoint_complete", "/tmp/ready_to_restore",
                                    "/tmp/restore_complete"};
const char far_names[NAMES][WINDOW] __attribute__((aligned(WINDOW))) = {"/tmp/ready_to_checkpoint", "/tmp/checkpoint_complete",
                                                                        "/tmp/ready_to_restore", "/tmp/restore_complete"};

struct options {
  size_t heap, bss, mmap, shared;
  int rounds, restores, sleep_us;
  const char *open, *remove;
  bool no_touch, hold;
  double limit;
};

struct memory {
  char *heap, *fixed, *shared, *pieces[64];
};

static const char* name_of(const struct options* options, enum name name) {
  if (options->no_touch) return far_names[name];
  return near_names[name] + (strcmp(options->open, "relative") == 0 ? strlen("/tmp/") : 0);
}

// A page that is not in memory: our own page table says so.
static void untouch(const char* page) {
  uint64_t entry = 0;
  if (madvise((void*)page, WINDOW, MADV_DONTNEED) != 0) bad("madvise: %m");
  int pagemap = open("/proc/self/pagemap", O_RDONLY);
  if (pagemap < 0 || pread(pagemap, &entry, 8, (off_t)((uintptr_t)page / 4096 * 8)) != 8) bad("pagemap: %m");
  close(pagemap);
  if (entry >> 63) bad("the page of a name is in memory");
}

static void open_marker(const struct options* options, enum name name) {
  const char* path = name_of(options, name);
  if (options->no_touch) untouch(path);
  if (strcmp(options->open, "fopen") == 0) {
    FILE* file = fopen(path, "w");
    if (file != NULL) fclose(file);
    return;
  }
  int file = strcmp(options->open, "openat") == 0 ? openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0600)
                                                  : open(path, O_CREAT | O_RDWR, S_IRUSR | S_IWUSR);
  if (file >= 0) close(file);
}

// Returns how often it looked.
static long wait_for(const struct options* options, enum name marker, enum name complete) {
  const char* path = name_of(options, complete);
  double end = seconds() + options->limit;
  long looks = 1;
  if (options->no_touch) untouch(path);
  if (strcmp(options->remove, "before") == 0) remove(name_of(options, marker));
  while (access(path, F_OK) != 0) {
    if (options->sleep_us > 0) usleep((useconds_t)options->sleep_us);
    if (looks++ % 64 == 0 && seconds() > end) bad("waited in vain for %s", path);
  }
  if (strcmp(options->remove, "after") == 0) remove(name_of(options, marker));
  if (strcmp(options->remove, "never") != 0) remove(path);
  return looks;
}

static void fill_all(const struct options* options, struct memory* memory, uint64_t seed) {
  fill(memory->heap, options->heap, seed);
  fill(memory->fixed, options->mmap, seed + 1);
  fill(memory->shared, options->shared, seed + 2);
  fill(big_bss + BSS_BYTES - options->bss, options->bss, seed + 3);
  fill(small_bss, sizeof small_bss, seed + 4);
  fill(data, sizeof data, seed + 5);
  for (int i = 0; i < 64; i++) fill(memory->pieces[i], 1000, seed + 6 + (uint64_t)i);
}

static void check_all(const struct options* options, const struct memory* memory, uint64_t seed) {
  check("malloc", memory->heap, options->heap, seed);
  check("mmap", memory->fixed, options->mmap, seed + 1);
  check("shared", memory->shared, options->shared, seed + 2);
  check(".bss", big_bss + BSS_BYTES - options->bss, options->bss, seed + 3);
  check("small .bss", small_bss, sizeof small_bss, seed + 4);
  check(".data", data, sizeof data, seed + 5);
  for (int i = 0; i < 64; i++) check("a piece", memory->pieces[i], 1000, seed + 6 + (uint64_t)i);
}

// Ruins every byte, what never was touched too, and goes on allocating and freeing, as a program that went wrong.
static void ruin(const struct options* options, struct memory* memory, int seed) {
  fill_all(options, memory, 1000000 + (uint64_t)seed);
  memset(big_bss, 0x55, 65536);
  memset(memory->fixed + options->mmap, 0x55, 65536);
  rounds_done = -1;
  for (int i = 0; i < 64; i += 2) {
    free(memory->pieces[i]);
    memory->pieces[i] = malloc(2000);
    memset(memory->pieces[i], 0x66, 2000);
  }
  // More than the heap had: it grows.
  for (int i = 0; i < 500; i++) memset(malloc(1000), 0x77, 1000);
}

// malloc() goes on where it was then: what it gives has to be as it would have been.
static void check_malloc(void) {
  char* fresh[500];
  for (int i = 0; i < 500; i++) {
    fresh[i] = calloc(1, 1000);
    for (int at = 0; at < 1000; at++)
      if (fresh[i][at] != 0) bad("calloc() gives memory that is not zero");
    memset(fresh[i], i, 1000);
  }
  for (int i = 0; i < 500; i++)
    for (int at = 0; at < 1000; at++)
      if (fresh[i][at] != (char)i) bad("malloc() gives the same memory twice");
  for (int i = 0; i < 500; i++) free(fresh[i]);
}

static void check_untouched(const char* what, const char* bytes, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (bytes[i] != 0) bad("%s that was never touched is not zero at %zu", what, i);
}

static void go_round(const struct options* options, struct memory* memory, int round) {
  uint64_t seed = (uint64_t)round * 100;
  fill_all(options, memory, seed);
  rounds_done = round;
  struct memory then = *memory;

  open_marker(options, READY_CHECKPOINT);
  long looks = wait_for(options, READY_CHECKPOINT, CHECKPOINT_COMPLETE);
  say("saved %ld\n", looks);
  check_all(options, memory, seed);
  if (options->hold) {
    char byte;
    do {
      if (read(STDIN_FILENO, &byte, 1) != 1) bad("stdin ended");
    } while (byte != '\n');
  }

  for (int i = 0; i < options->restores; i++) {
    ruin(options, memory, i);
    say("ruined\n");
    open_marker(options, READY_RESTORE);
    looks = wait_for(options, READY_RESTORE, RESTORE_COMPLETE);
    say("recovered %ld\n", looks);
    *memory = then;
    check_all(options, memory, seed);
    check_untouched(".bss", big_bss, 65536);
    check_untouched("mmap", memory->fixed + options->mmap, 65536);
    check_malloc();
    if (rounds_done != round) bad("a variable is %d, not %d", rounds_done, round);
  }
}

static struct memory allocate(const struct options* options) {
  struct memory memory;
  memory.heap = malloc(options->heap);
  memory.fixed = mmap(FIXED_ADDRESS, options->mmap + 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  memory.shared = mmap(NULL, options->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory.heap == NULL || memory.fixed == MAP_FAILED || memory.shared == MAP_FAILED) bad("no memory: %m");
  for (int i = 0; i < 64; i++) memory.pieces[i] = malloc(1000);
  return memory;
}

// True if the argument is `name`: its value is in *value.
static bool is(char*** args, const char* name, const char** value) {
  if (strcmp(**args, name) != 0) return false;
  if ((*args)[1] == NULL) bad("%s needs a value", name);
  *value = *++*args;
  return true;
}

static struct options parse(char** args) {
  struct options options = {.heap = MIB, .bss = MIB, .mmap = MIB, .shared = MIB, .rounds = 1, .restores = 1, .limit = 20};
  options.open = "fopen";
  options.remove = "after";
  const char* value;
  for (args++; *args != NULL; args++) {
    if (is(&args, "--heap", &value))
      options.heap = (size_t)(atof(value) * (double)MIB);
    else if (is(&args, "--bss", &value))
      options.bss = (size_t)(atof(value) * (double)MIB);
    else if (is(&args, "--mmap", &value))
      options.mmap = (size_t)(atof(value) * (double)MIB);
    else if (is(&args, "--shared", &value))
      options.shared = (size_t)(atof(value) * (double)MIB);
    else if (is(&args, "--rounds", &value))
      options.rounds = atoi(value);
    else if (is(&args, "--restores", &value))
      options.restores = atoi(value);
    else if (is(&args, "--open", &value))
      options.open = value;
    else if (is(&args, "--sleep", &value))
      options.sleep_us = atoi(value);
    else if (is(&args, "--remove", &value))
      options.remove = value;
    else if (is(&args, "--limit", &value))
      options.limit = atof(value);
    else if (strcmp(*args, "--no-touch") == 0)
      options.no_touch = true;
    else if (strcmp(*args, "--hold") == 0)
      options.hold = true;
    else
      bad("unknown option %s", *args);
  }
  return options;
}

int main(int count, char** args) {
  (void)count;
  struct options options = parse(args);
  if (strcmp(options.open, "relative") == 0 && chdir("/tmp") != 0) bad("chdir: %m");
  alarm((unsigned)(options.limit * 3));
  struct memory memory = allocate(&options);
  for (int round = 0; round < options.rounds; round++) go_round(&options, &memory, round);
  free(memory.heap);
  for (int i = 0; i < 64; i++) free(memory.pieces[i]);
  say("ok\n");
  return 0;
}
