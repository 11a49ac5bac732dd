// threads.c: threads that compute on their own stacks, and threads that sleep in the kernel, are undisturbed while the main thread saves
// and recovers.
//
// usage: threads [COMPUTING BLOCKED ROUNDS]	(2 4 2)
//        threads born|ended SECONDS		a thread is born or ends between the two calls: gives up recovering after so long
#include <pthread.h>
#include <sys/mman.h>

#include "protocol.h"

#define LOCAL 20000
#define HEAP (2 * MIB)

volatile int stop;
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t never = PTHREAD_COND_INITIALIZER;
int pipe_ends[2];
char* heap;
char global[50000];

// Each step changes all of a local array in a way that the next step undoes: a byte that somebody else wrote stays wrong.
static void* compute(void* unused) {
  (void)unused;
  unsigned char mine[LOCAL];
  uint64_t steps = 0;
  for (int i = 0; i < LOCAL; i++) mine[i] = (unsigned char)(i * 7);
  while (!stop) {
    unsigned char key = (unsigned char)(steps * 31 + 1);
    for (int i = 0; i < LOCAL; i++) mine[i] ^= key;
    for (int i = 0; i < LOCAL; i++)
      if ((mine[i] ^ key) != (unsigned char)(i * 7)) bad("a computing thread's local array differs at %d in step %lu", i, steps);
    for (int i = 0; i < LOCAL; i++) mine[i] ^= key;
    steps++;
  }
  return (void*)(uintptr_t)steps;
}

static void* block(void* how) {
  char mine[LOCAL], byte;
  uint64_t seed = (uintptr_t)&mine;
  fill(mine, sizeof mine, seed);
  if (how != NULL) {
    if (read(pipe_ends[0], &byte, 1) != 1) bad("a blocked thread's read failed: %m");
  } else {
    pthread_mutex_lock(&mutex);
    while (!stop) pthread_cond_wait(&never, &mutex);
    pthread_mutex_unlock(&mutex);
  }
  check("a blocked thread's local array", mine, sizeof mine, seed);
  return (void*)1;
}

static void round_trip(int round) {
  uint64_t seed = (uint64_t)round;
  fill(heap, HEAP, seed);
  fill(global, sizeof global, seed);
  save();
  fill(heap, HEAP, 77);
  fill(global, sizeof global, 77);
  say("ruined\n");
  recover();
  check("heap", heap, HEAP, seed);
  check(".bss", global, sizeof global, seed);
}

static void end_all(pthread_t* threads, int count, int blocked) {
  pthread_mutex_lock(&mutex);
  stop = 1;
  pthread_cond_broadcast(&never);
  pthread_mutex_unlock(&mutex);
  for (int i = 0; i < blocked; i++)
    if (write(pipe_ends[1], "", 1) != 1) bad("write: %m");
  for (int i = 0; i < count; i++) {
    void* result;
    pthread_join(threads[i], &result);
    if (result == NULL) bad("thread %d did nothing", i);
  }
}

static void* nothing(void* unused) { return unused; }

// The threads are not those of then: nothing may be written.
static void changed(const char* what, double limit) {
  pthread_t thread;
  int ended = strcmp(what, "ended") == 0;
  if (ended) pthread_create(&thread, NULL, block, &pipe_ends);
  usleep(20000);
  fill(heap, HEAP, 1);
  save();
  fill(heap, HEAP, 2);
  say("ruined\n");
  if (ended) {
    if (write(pipe_ends[1], "", 1) != 1) bad("write: %m");
    pthread_join(thread, NULL);
  } else {
    pthread_create(&thread, NULL, block, &pipe_ends);
    usleep(20000);
  }
  if (try_recover(limit)) bad("it was recovered");
  check("heap", heap, HEAP, 2);
  say("nothing changed\n");
}

int main(int count, char** args) {
  if (pipe(pipe_ends) != 0) bad("pipe: %m");
  heap = malloc(HEAP);
  // The first thread makes malloc() and the loader allocate what they keep.
  pthread_t first;
  pthread_create(&first, NULL, nothing, NULL);
  pthread_join(first, NULL);
  if (count > 2 && args[1][0] >= 'a') {
    changed(args[1], atof(args[2]));
    say("ok\n");
    _exit(0);
  }
  int computing = count > 1 ? atoi(args[1]) : 2, blocked = count > 2 ? atoi(args[2]) : 4, rounds = count > 3 ? atoi(args[3]) : 2;
  pthread_t threads[128];
  if (computing + blocked > 128) bad("too many threads");
  alarm(PROTOCOL_SECONDS * 3);
  for (int i = 0; i < computing; i++) pthread_create(&threads[i], NULL, compute, NULL);
  for (int i = 0; i < blocked; i++) pthread_create(&threads[computing + i], NULL, block, i % 2 ? &pipe_ends : NULL);
  usleep(50000);
  for (int round = 0; round < rounds; round++) round_trip(round);
  end_all(threads, computing + blocked, blocked / 2);
  say("ok\n");
  return 0;
}
