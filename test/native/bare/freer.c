// freer.c: gives memory back to the kernel between save and recover, in every way in which ordinary programs do, and goes on with all of
// it.
//
// usage: freer [RESTORES [MIB]]
//
// Recovers so often (1). Another thread has so much in an arena of its own (8): of more than 128 MiB malloc() unmaps a part.
#define _GNU_SOURCE
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>

#include "protocol.h"

#define LARGE (64 * MIB)  // malloc() maps it, free() unmaps it
#define SMALL 20000
#define SMALLS 1500  // 30 MB at the end of the heap
#define PLACE MIB
#define ARENA_BLOCK 65536
#define ARENA_MOST 4000
#define ARENA_SHRINKS (144 * MIB)

struct blocks {
  char *large, *small[SMALLS], *place;
};

static void allocate(char** blocks, int count, size_t bytes, uint64_t seed) {
  for (int i = 0; i < count; i++) {
    blocks[i] = malloc(bytes);
    if (blocks[i] == NULL) bad("malloc failed");
    fill(blocks[i], bytes, seed + (uint64_t)i);
  }
}

// To the compiler, a block that was freed once stays freed.
static void forget_free(void* blocks) { __asm__ volatile("" : : "r"(blocks) : "memory"); }

static void check_blocks(const char* what, char** blocks, int count, size_t bytes, uint64_t seed) {
  forget_free(blocks);
  for (int i = 0; i < count; i++) check(what, blocks[i], bytes, seed + (uint64_t)i);
}

static void free_all(char** blocks, int count) {
  for (int i = 0; i < count; i++) free(blocks[i]);
}

// The other thread allocates in an arena of its own, and is told what to do, a letter each: locks and conditions would be rolled back.
static int orders[2], answers[2];

static void* other(void* bytes) {
  char *blocks[ARENA_MOST], order;
  int count = (int)((size_t)bytes / ARENA_BLOCK);
  while (read(orders[0], &order, 1) == 1) {
    if (order == 'a') allocate(blocks, count, ARENA_BLOCK, 9000);
    if (order == 'c') check_blocks("the other thread's memory", blocks, count, ARENA_BLOCK, 9000);
    if (order == 'f') free_all(blocks, count);
    if (order == 'f') malloc_trim(0);
    if (write(answers[1], &order, 1) != 1) bad("write: %m");
  }
  return bytes;
}

static void have_other(char order) {
  if (write(orders[1], &order, 1) != 1 || read(answers[0], &order, 1) != 1) bad("the other thread: %m");
}

// Bytes of the address space.
static size_t mapped(void) {
  char text[32] = "";
  int file = open("/proc/self/statm", O_RDONLY);
  if (file < 0 || read(file, text, sizeof text - 1) <= 0) bad("statm: %m");
  close(file);
  return strtoul(text, NULL, 10) * 4096;
}

static void protect(char* memory, size_t bytes, int prot) {
  if (mprotect(memory, bytes, prot) != 0) bad("mprotect: %m");
}

static void make(struct blocks* blocks) {
  allocate(&blocks->large, 1, LARGE, 1);
  allocate(blocks->small, SMALLS, SMALL, 100);
  blocks->place = mmap(NULL, PLACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (blocks->place == MAP_FAILED) bad("mmap: %m");
  fill(blocks->place, PLACE, 2);
  protect(blocks->place, PLACE / 4, PROT_READ);
  have_other('a');
}

static void give_back(struct blocks* blocks, size_t arena) {
  char* end = sbrk(0);
  free(blocks->large);
  free_all(blocks->small, SMALLS);
  malloc_trim(0);
  if ((char*)sbrk(0) > end - (size_t)SMALL * SMALLS / 2) bad("the heap has not shrunk");
  munmap(blocks->place + PLACE / 2, PLACE / 2);
  protect(blocks->place, PLACE / 4, PROT_READ | PROT_WRITE);
  fill(blocks->place, PLACE / 4, 3);
  protect(blocks->place + PLACE / 4, PLACE / 4, PROT_NONE);
  size_t before = mapped();
  have_other('f');
  if (arena >= ARENA_SHRINKS && mapped() > before - 16 * MIB) bad("the other thread's arena has not shrunk");
}

static void check_all(struct blocks* blocks) {
  forget_free(blocks);
  check("the large block", blocks->large, LARGE, 1);
  check_blocks("a small block", blocks->small, SMALLS, SMALL, 100);
  check("the place", blocks->place, PLACE, 2);
  have_other('c');
}

// As malloc() left off: it may take, grow and give back what it will.
static void go_on(struct blocks* blocks) {
  char* more[200];
  allocate(more, 200, 150000, 5000);
  check_blocks("a new block", more, 200, 150000, 5000);
  free_all(more, 200);
  blocks->large = realloc(blocks->large, 2 * LARGE);
  if (blocks->large == NULL) bad("realloc failed");
  check("the large block, grown", blocks->large, LARGE, 1);
  fill(blocks->place + PLACE / 4, PLACE - PLACE / 4, 4);
  free(blocks->large);
  free_all(blocks->small, SMALLS);
  have_other('f');
  have_other('a');
  have_other('c');
}

int main(int count, char** args) {
  struct blocks blocks;
  pthread_t thread;
  int restores = count > 1 ? atoi(args[1]) : 1;
  size_t arena = (count > 2 ? (size_t)atoi(args[2]) : 8) * MIB;
  mallopt(M_MMAP_THRESHOLD, 128 * 1024);  // and stays there, whatever is freed
  alarm(PROTOCOL_SECONDS * 2);
  if (arena / ARENA_BLOCK > ARENA_MOST) bad("usage");
  if (pipe(orders) != 0 || pipe(answers) != 0 || pthread_create(&thread, NULL, other, (void*)arena) != 0) bad("a thread: %m");
  // What fopen() of the markers allocates lies before the small blocks then, not at the end of the heap.
  fclose(fopen("/dev/null", "w"));
  make(&blocks);
  save();
  for (int i = 0; i < restores; i++) {
    give_back(&blocks, arena);
    say("given back\n");
    recover();
    check_all(&blocks);
  }
  go_on(&blocks);
  say("ok\n");
  return 0;
}
