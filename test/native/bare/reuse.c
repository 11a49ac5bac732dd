// reuse.c: a process saves and ends; another with the same pid and the same addresses asks for what it saved.
//
// usage: reuse SECONDS TIMES		as root; gives up recovering after so long
#define _GNU_SOURCE
#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "protocol.h"

#define BYTES MIB

// A child with a pid that was in use before.
static pid_t fork_as(pid_t pid) {
  struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&pid, .set_tid_size = 1};
  return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

static void first_life(char* memory) {
  fill(memory, BYTES, 1);
  save();
  _exit(0);
}

static void second_life(char* memory, double limit) {
  fill(memory, BYTES, 2);
  if (try_recover(limit)) bad("it was recovered");
  check("memory", memory, BYTES, 2);
  say("nothing changed\n");
  // It is served as itself.
  fill(memory, BYTES, 3);
  save();
  fill(memory, BYTES, 4);
  recover();
  check("memory", memory, BYTES, 3);
  _exit(0);
}

static void end_of(pid_t child) {
  int status;
  if (waitpid(child, &status, 0) != child || status != 0) bad("process %d ended with %x", (int)child, status);
}

int main(int count, char** args) {
  if (count != 3) bad("usage");
  double limit = atof(args[1]);
  alarm((unsigned)limit + PROTOCOL_SECONDS * 3);
  for (int i = 0; i < atoi(args[2]); i++) {
    char* memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pid_t first = fork();
    if (first == 0) first_life(memory);
    end_of(first);
    pid_t second = fork_as(first);
    if (second < 0) bad("clone3: %m");
    if (second == 0) second_life(memory, limit);
    if (second != first) bad("the pid is another");
    end_of(second);
    munmap(memory, BYTES);
  }
  say("ok\n");
  return 0;
}
