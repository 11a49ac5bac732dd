// roundtrip.c: saves its memory, ruins every byte of it, recovers it, looks at every byte, and goes on working.
//
// usage: roundtrip HEAP_MIB MMAP_MIB [--rounds N] [--pages-per-trigger N] [--shared] [--threads N] [--name NAME]
//
// Prints one line of JSON, {"ok":true,...}, or {"ok":false,...} with exit status 1. What it has to remember meanwhile lies on the stack.
#define _GNU_SOURCE
#include <ebpf_ckpt.h>
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define BSS_MIB 64
#define BLOCK_MAX (256 << 10)
#define THREADS_MAX 64
#define THREAD_BYTES (256 << 10)
#define STACK_WORDS 4096
#define CHURN 4000

typedef struct {
  uint64_t* at;
  size_t words;
  const char* kind;
} Block;

typedef struct {
  Block* block;
  size_t count;
} Blocks;

typedef struct {
  size_t heap_mib, mmap_mib;
  unsigned rounds, threads;
  bool shared, paced;
  struct ckpt_options options;
} Wishes;

// What the callback sees, on the stack of main().
typedef struct {
  enum ckpt_phase phase;
  unsigned calls, disorders;
  uint64_t done_pages, total_pages;
} Told;

typedef struct {
  double save_ms, recover_ms;
  unsigned save_calls, recover_calls;
  uint64_t pages;
} Figures;

static uint64_t in_bss[BSS_MIB * MIB / sizeof(uint64_t)];
static uint64_t in_data[32768] = {1, 2, 3};
static unsigned ready;
static unsigned stop;
static uint64_t* block_of_thread[THREADS_MAX];

__attribute__((noreturn)) static void fail(const char* step, const char* why) {
  // Memory may be half recovered: nothing that lies in the heap is used.
  char line[512];
  const int length = snprintf(line, sizeof line, "{\"ok\":false,\"step\":\"%s\",\"errno\":\"%s\",\"text\":\"%s\"}\n", step,
                              errno != 0 ? strerrorname_np(errno) : "", why);
  _exit(write(1, line, (size_t)length) == length ? 1 : 2);
}

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static uint64_t next_random(uint64_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  return *state ^= *state << 17;
}

// What word `at` of block `block` holds.
static uint64_t word_of(size_t block, size_t at) { return (at + 1) * 0x9e3779b97f4a7c15u ^ (block + 1) * 0xd6e8feb86659fd93u; }

static void fill(const Blocks* blocks) {
  for (size_t i = 0; i < blocks->count; i++)
    for (size_t at = 0; at < blocks->block[i].words; at++) blocks->block[i].at[at] = word_of(i, at);
}

// Every byte differs from before.
static void ruin(const Blocks* blocks) {
  for (size_t i = 0; i < blocks->count; i++)
    for (size_t at = 0; at < blocks->block[i].words; at++) blocks->block[i].at[at] = ~blocks->block[i].at[at];
}

static size_t wrong_words(const Blocks* blocks, const char** kind) {
  size_t wrong = 0;
  for (size_t i = 0; i < blocks->count; i++) {
    for (size_t at = 0; at < blocks->block[i].words; at++) {
      if (blocks->block[i].at[at] == word_of(i, at)) continue;
      wrong++;
      *kind = blocks->block[i].kind;
    }
  }
  return wrong;
}

static size_t words(const Blocks* blocks) {
  size_t sum = 0;
  for (size_t i = 0; i < blocks->count; i++) sum += blocks->block[i].words;
  return sum;
}

static void add(Blocks* blocks, uint64_t* at, size_t bytes, const char* kind) {
  if (at == NULL) fail("allocate", "There is not enough memory");
  blocks->block[blocks->count++] = (Block){at, bytes / sizeof(uint64_t), kind};
}

// Allocates and frees blocks of all sizes; a part of them stays. False if malloc() gave what is not its own to give.
static bool churn(uint64_t seed, bool leave) {
  enum { PLACES = 512 };
  unsigned char** const place = calloc(PLACES, sizeof *place);
  uint32_t* const size = calloc(PLACES, sizeof *size);
  bool right = place != NULL && size != NULL;
  for (int i = 0; right && i < CHURN; i++) {
    const size_t at = next_random(&seed) % PLACES;
    for (uint32_t byte = 0; byte < size[at]; byte++) right = right && place[at][byte] == (unsigned char)at;
    free(place[at]);
    size[at] = (uint32_t)(next_random(&seed) % (i % 16 == 0 ? 60000 : 600)) + 1;
    const bool zeroed = i % 3 == 0;
    place[at] = zeroed ? calloc(1, size[at]) : malloc(size[at]);
    for (uint32_t byte = 0; zeroed && byte < size[at]; byte++) right = right && place[at][byte] == 0;
    memset(place[at], (int)at, size[at]);
  }
  for (size_t at = 0; at < PLACES; at++)
    if (!leave || at % 2 == 0) free(place[at]);
  free(size);
  free(place);
  return right;
}

// Runs while memory changes under it: its stack must not.
static void* watch(void* data) {
  uint64_t mine[STACK_WORDS];
  uintptr_t wrong = 0;
  const size_t number = (size_t)data;
  for (size_t i = 0; i < STACK_WORDS; i++) mine[i] = word_of(number, i);
  block_of_thread[number] = malloc(THREAD_BYTES);
  __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
  while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
    for (size_t i = 0; i < STACK_WORDS; i++) wrong += ((volatile uint64_t*)mine)[i] != word_of(number, i);
    nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
  }
  return (void*)wrong;
}

static void start_threads(const Wishes* wishes, pthread_t* threads, Blocks* blocks) {
  for (size_t i = 0; i < wishes->threads; i++)
    if (pthread_create(&threads[i], NULL, watch, (void*)i) != 0) fail("threads", "A thread could not be started");
  while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) < wishes->threads) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  for (size_t i = 0; i < wishes->threads; i++) add(blocks, block_of_thread[i], THREAD_BYTES, "heap of a thread");
}

static void end_threads(const Wishes* wishes, const pthread_t* threads) {
  __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
  for (size_t i = 0; i < wishes->threads; i++) {
    void* wrong;
    if (pthread_join(threads[i], &wrong) != 0) fail("threads", "A thread could not be joined");
    if (wrong != NULL) fail("threads", "The stack of a thread changed");
  }
}

static Blocks allocate(const Wishes* wishes) {
  uint64_t seed = 88172645463325252u;
  Blocks blocks = {.block = calloc(wishes->heap_mib * MIB / 512 + THREADS_MAX + 4, sizeof(Block))};
  if (blocks.block == NULL) fail("allocate", "There is not enough memory");
  for (size_t left = wishes->heap_mib * MIB; left >= 1024;) {
    size_t bytes = (1024 + next_random(&seed) % BLOCK_MAX) & ~(size_t)7;
    if (bytes > left) bytes = left;
    add(&blocks, malloc(bytes), bytes, "heap");
    left -= bytes;
  }
  if (wishes->mmap_mib > 0) {
    const int kind = MAP_ANONYMOUS | (wishes->shared ? MAP_SHARED : MAP_PRIVATE);
    void* const at = mmap(NULL, wishes->mmap_mib * MIB, PROT_READ | PROT_WRITE, kind, -1, 0);
    add(&blocks, at == MAP_FAILED ? NULL : at, wishes->mmap_mib * MIB, "mmap");
  }
  add(&blocks, in_bss, sizeof in_bss, "bss");
  add(&blocks, in_data, sizeof in_data, "data");
  return blocks;
}

static int on_progress(const struct ckpt_progress* progress, void* data) {
  Told* const told = data;
  if (progress->phase != told->phase || progress->done_pages <= told->done_pages || progress->done_pages > progress->total_pages)
    told->disorders++;
  told->calls++;
  told->done_pages = progress->done_pages;
  told->total_pages = progress->total_pages;
  return 0;
}

// A call with a callback on top of the wishes.
static void perform(const char* step, const Wishes* wishes, Told* told, double* ms) {
  struct ckpt_options options = wishes->options;
  const bool save = told->phase == CKPT_SAVING;
  if (wishes->paced) options.progress = on_progress, options.data = told;
  errno = 0;
  const double begun = now_ms();
  const int result = save ? savecontext_with(&options) : recovercontext_with(&options);
  *ms = now_ms() - begun;
  if (result != 0) fail(step, ckpt_strerror());
  errno = 0;
  if (*ckpt_strerror() != 0) fail(step, "There is a text after success");
  if (!wishes->paced) return;
  if (told->disorders != 0) fail(step, "Progress went astray");
  if (told->calls == 0 || told->done_pages != told->total_pages) fail(step, "Progress did not reach the end");
}

static void expect_whole(const char* step, const Blocks* blocks) {
  const char* kind = "";
  if (wrong_words(blocks, &kind) == 0) return;
  char text[128];
  snprintf(text, sizeof text, "%zu of %zu words are wrong, the last in %s", wrong_words(blocks, &kind), words(blocks), kind);
  errno = 0;
  fail(step, text);
}

static void run_round(const Wishes* wishes, const Blocks* blocks, unsigned round, Figures* figures) {
  const char* kind;
  Told told = {.phase = CKPT_RECOVERING};
  if (!churn(round + 1, true)) fail("churn", "malloc() went wrong before the recover");
  ruin(blocks);
  if (wrong_words(blocks, &kind) != words(blocks)) fail("ruin", "Not every byte is ruined");
  // The table of the blocks is in the heap as well.
  memset(blocks->block, 0xff, blocks->count * sizeof(Block));
  perform("recover", wishes, &told, &figures->recover_ms);
  figures->recover_calls = told.calls;
  expect_whole("verify", blocks);
  if (!churn(round + 100, false)) fail("verify", "malloc() or calloc() gives memory that is not as it should be");
  expect_whole("verify after churn", blocks);
}

static unsigned long number_of(const char* text, unsigned long most) {
  char* end;
  const unsigned long number = strtoul(text, &end, 10);
  if (*text == 0 || *end != 0 || number > most) {
    fprintf(stderr, "roundtrip: expected a number of at most %lu, not '%s'\n", most, text);
    exit(2);
  }
  return number;
}

static Wishes read_wishes(int count, char** args) {
  static const struct option known[] = {{"rounds", 1, NULL, 'r'}, {"pages-per-trigger", 1, NULL, 'p'},
                                        {"shared", 0, NULL, 's'}, {"threads", 1, NULL, 't'},
                                        {"name", 1, NULL, 'n'},   {0}};
  Wishes wishes = {.rounds = 2, .options = {.size = sizeof wishes.options}};
  for (int option; (option = getopt_long(count, args, "", known, NULL)) != -1;) {
    if (option == 'r') wishes.rounds = (unsigned)number_of(optarg, 1000000);
    if (option == 'p') wishes.paced = true, wishes.options.pages_per_trigger = (uint32_t)number_of(optarg, UINT32_MAX);
    if (option == 's') wishes.shared = true;
    if (option == 't') wishes.threads = (unsigned)number_of(optarg, THREADS_MAX);
    if (option == 'n') wishes.options.name = optarg;
    if (option == '?') exit(2);
  }
  if (count - optind != 2) {
    fprintf(stderr, "usage: roundtrip HEAP_MIB MMAP_MIB [--rounds N] [--pages-per-trigger N] [--shared] [--threads N] [--name NAME]\n");
    exit(2);
  }
  wishes.heap_mib = number_of(args[optind], 1 << 20);
  wishes.mmap_mib = number_of(args[optind + 1], 1 << 20);
  return wishes;
}

int main(int count, char** args) {
  const Wishes wishes = read_wishes(count, args);
  pthread_t threads[THREADS_MAX];
  Figures figures = {0};
  Told told = {.phase = CKPT_SAVING};
  // Memory that was saved must still be mapped at the recover: free() is not to give it back to the kernel.
  mallopt(M_TRIM_THRESHOLD, -1);
  churn(4711, true);
  Blocks blocks = allocate(&wishes);
  start_threads(&wishes, threads, &blocks);
  fill(&blocks);

  perform("save", &wishes, &told, &figures.save_ms);
  figures.save_calls = told.calls;
  expect_whole("after the save", &blocks);
  for (unsigned round = 0; round < wishes.rounds; round++) run_round(&wishes, &blocks, round, &figures);
  if (ckpt_forget(wishes.options.name) != 0) fail("forget", ckpt_strerror());
  if (recovercontext_with(&wishes.options) != -1 || errno != ENOENT) fail("forget", "What was forgotten is still there");

  end_threads(&wishes, threads);
  printf("{\"ok\":true,\"bytes\":%zu,\"rounds\":%u,\"saveMs\":%.3f,\"recoverMs\":%.3f,\"saveCalls\":%u,\"recoverCalls\":%u}\n",
         words(&blocks) * sizeof(uint64_t), wishes.rounds, figures.save_ms, figures.recover_ms, figures.save_calls, figures.recover_calls);
  return 0;
}
