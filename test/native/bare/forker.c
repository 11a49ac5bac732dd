// forker.c: a child forked before the save, or between save and recover, keeps its own copy of the memory; the parent's is rolled back.
//
// usage: forker before|between now|then	what memory shared by both is to hold after the recover: what it held now, or then
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>

#include "protocol.h"

#define BYTES (2 * MIB)

char* private, *shared;
int to_child[2];

static pid_t fork_child(uint64_t private_seed) {
  pid_t child = fork();
  if (child < 0) bad("fork: %m");
  if (child > 0) return child;
  char byte;
  close(to_child[1]);
  if (read(to_child[0], &byte, 1) != 1) bad("the parent is gone");
  check("the child's own memory", private, BYTES, private_seed);
  say("child undisturbed\n");
  _exit(0);
}

int main(int count, char** args) {
  if (count != 3) bad("usage");
  int before = strcmp(args[1], "before") == 0;
  uint64_t shared_seed = strcmp(args[2], "then") == 0 ? 11 : 12;
  pid_t child = 0;
  alarm(PROTOCOL_SECONDS * 3);
  if (pipe(to_child) != 0) bad("pipe: %m");
  private = malloc(BYTES);
  shared = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  fill(private, BYTES, 1);
  fill(shared, BYTES, 11);
  if (before) child = fork_child(1);
  save();
  fill(private, BYTES, 2);
  fill(shared, BYTES, 12);
  say("ruined\n");
  if (!before) child = fork_child(2);
  recover();
  check("the parent's memory", private, BYTES, 1);
  check("shared memory", shared, BYTES, shared_seed);
  int status;
  if (write(to_child[1], "", 1) != 1 || waitpid(child, &status, 0) != child) bad("the child is gone");
  if (status != 0) bad("the child is not right");
  say("ok\n");
  return 0;
}
