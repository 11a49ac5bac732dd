// layout.c: maps, unmaps and re-protects memory between save and recover, and tells what each ended as.
//
// usage: layout mapped|unmapped|shrunk|protected|closed	the recover succeeds
//        layout file|shared|taken SECONDS	it is refused: gives up after so long, and no byte has changed
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>

#include "protocol.h"

#define BYTES MIB
#define HALF (BYTES / 2)

static char* map(int flags, int file) {
  char* memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, flags, file, 0);
  if (memory == MAP_FAILED) bad("mmap: %m");
  return memory;
}

static char* map_anonymous(void) { return map(MAP_PRIVATE | MAP_ANONYMOUS, -1); }

static char* map_file(void) {
  int file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, BYTES) != 0) bad("a file: %m");
  return map(MAP_PRIVATE, file);
}

// The permissions of the mapping at an address: "rw-p".
static void permissions(const void* address, char to[5]) {
  char line[512];
  FILE* maps = fopen("/proc/self/maps", "r");
  if (maps == NULL) bad("maps: %m");
  while (fgets(line, sizeof line, maps) != NULL) {
    unsigned long start, end;
    if (sscanf(line, "%lx-%lx %4s", &start, &end, to) == 3 && start <= (unsigned long)address && (unsigned long)address < end) break;
  }
  fclose(maps);
}

static void protect(char* memory, int prot) {
  if (mprotect(memory, BYTES, prot) != 0) bad("mprotect: %m");
}

static void unmap(char* memory, size_t bytes) {
  if (munmap(memory, bytes) != 0) bad("munmap: %m");
}

// Another mapping in the place of the second half.
static void take(char* memory) {
  int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;
  if (mmap(memory + HALF, HALF, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) bad("mmap: %m");
}

static void expect_refused(char* kept, char* memory, double limit) {
  if (try_recover(limit)) bad("it was recovered");
  check("what stayed", kept, BYTES, 2);
  check("the half that stayed", memory, HALF, 2);
  say("nothing changed\n");
}

int main(int count, char** args) {
  if (count < 2) bad("usage");
  const char* mode = args[1];
  double limit = count > 2 ? atof(args[2]) : 1;
  char *kept = map_anonymous(), *memory, got[5] = "", *since = NULL;
  alarm((unsigned)limit + PROTOCOL_SECONDS * 2);
  if (strcmp(mode, "file") == 0) {
    memory = map_file();
  } else {
    memory = strcmp(mode, "shared") == 0 ? map(MAP_SHARED | MAP_ANONYMOUS, -1) : map_anonymous();
  }
  fill(kept, BYTES, 1);
  fill(memory, BYTES, 1);
  save();
  fill(kept, BYTES, 2);
  fill(memory, BYTES, 2);
  say("ruined\n");
  if (count > 2) {
    if (strcmp(mode, "taken") == 0) {
      take(memory);
    } else {
      unmap(memory + HALF, HALF);
    }
    expect_refused(kept, memory, limit);
  } else {
    if (strcmp(mode, "mapped") == 0) fill(since = map_anonymous(), BYTES, 3);
    if (strcmp(mode, "unmapped") == 0) unmap(memory, BYTES);
    if (strcmp(mode, "shrunk") == 0) unmap(memory + HALF, HALF);
    if (strcmp(mode, "protected") == 0) protect(memory, PROT_READ);
    if (strcmp(mode, "closed") == 0) protect(memory, PROT_NONE);
    recover();
    permissions(memory, got);
    say("protection %s\n", got);
    check("what stayed", kept, BYTES, 1);
    check("what was changed", memory, BYTES, 1);
    if (since != NULL) check("what was mapped since", since, BYTES, 3);
  }
  say("ok\n");
  return 0;
}
