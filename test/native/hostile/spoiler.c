// spoiler.c: half-way through its restore it makes the end impossible, and goes on looking.
//
// usage: spoiler directory	lies where the completion file has to be
//        spoiler unmapped	by another thread: half of what was saved
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "../bare/protocol.h"

#define BYTES (4 * MIB)
#define HALF (BYTES / 2)
#define LOOKS 50  // until it is half-way
#define SECONDS 1.5

static int orders[2], answers[2];

static void* unmapper(void* memory) {
  char byte;
  if (read(orders[0], &byte, 1) != 1 || munmap((char*)memory + HALF, HALF) != 0 || write(answers[1], &byte, 1) != 1) bad("munmap: %m");
  pause();
  return NULL;
}

static void spoil(const char* mode) {
  char byte = 0;
  if (strcmp(mode, "directory") == 0) {
    if (mkdir("/tmp/restore_complete", 0755) != 0) bad("mkdir: %m");
  } else if (write(orders[1], &byte, 1) != 1 || read(answers[0], &byte, 1) != 1) {
    bad("the other thread: %m");
  }
  say("spoiled\n");
}

int main(int count, char** args) {
  pthread_t thread;
  struct stat found;
  if (count != 2) bad("usage");
  char* memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || pipe(orders) != 0 || pipe(answers) != 0 || pthread_create(&thread, NULL, unmapper, memory) != 0)
    bad("setting up: %m");
  fill(memory, BYTES, 1);
  save();
  const int file = open("/tmp/ready_to_restore", O_CREAT | O_WRONLY, 0600);
  close(file);
  const double end = seconds() + (getenv("CKPT_TEST_SLOW") ? 20 * SECONDS : SECONDS);
  for (int looks = 0; seconds() < end; looks++) {
    const bool there = access("/tmp/restore_complete", F_OK) == 0;
    if (there && stat("/tmp/restore_complete", &found) == 0 && S_ISREG(found.st_mode)) bad("it was told that it is restored");
    if (looks == LOOKS) spoil(args[1]);
  }
  say("gave up\n");
  return 0;
}
