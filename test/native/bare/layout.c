// layout.c: maps, unmaps and re-protects memory between save and recover, and tells what each ended as.
//
// usage: layout mapped|protected|closed		the recover succeeds
//        layout unmapped|shrunk SECONDS	it is refused: gives up after so long, and no byte has changed
#define _GNU_SOURCE
#include <sys/mman.h>

#include "protocol.h"

#define BYTES MIB
#define HALF (BYTES / 2)

static char* map(void) {
  char* memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) bad("mmap: %m");
  return memory;
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

static void refused(char* kept, char* memory, size_t offset, size_t bytes, double limit) {
  munmap(memory + offset, bytes);
  if (try_recover(limit)) bad("it was recovered");
  check("what stayed", kept, BYTES, 2);
  if (offset > 0) check("the half that stayed", memory, offset, 2);
  say("nothing changed\n");
}

int main(int count, char** args) {
  if (count < 2) bad("usage");
  const char* mode = args[1];
  double limit = count > 2 ? atof(args[2]) : 1;
  char *kept = map(), *memory = map(), got[5] = "", *since = NULL;
  int prot = strcmp(mode, "protected") == 0 ? PROT_READ : PROT_NONE;
  bool protects = strcmp(mode, "protected") == 0 || strcmp(mode, "closed") == 0;
  alarm((unsigned)limit + PROTOCOL_SECONDS * 2);
  fill(kept, BYTES, 1);
  fill(memory, BYTES, 1);
  save();
  fill(kept, BYTES, 2);
  fill(memory, BYTES, 2);
  say("ruined\n");
  if (strcmp(mode, "unmapped") == 0) {
    refused(kept, memory, 0, BYTES, limit);
  } else if (strcmp(mode, "shrunk") == 0) {
    refused(kept, memory, HALF, HALF, limit);
  } else {
    if (strcmp(mode, "mapped") == 0) fill(since = map(), BYTES, 3);
    if (protects) protect(memory, prot);
    recover();
    permissions(memory, got);
    say("protection %s\n", got);
    if (protects) protect(memory, PROT_READ | PROT_WRITE);
    check("what stayed", kept, BYTES, 1);
    check("what was re-protected", memory, BYTES, 1);
    if (since != NULL) check("what was mapped since", since, BYTES, 3);
  }
  say("ok\n");
  return 0;
}
