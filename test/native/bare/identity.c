// identity.c: between save and recover this process becomes somebody else: no byte may be written then.
//
// usage: identity MODE SECONDS [OTHER]		gives up recovering after so long
//	none		nothing happens: memory comes back
//	setuid setgid seteuid caps dumpable	... dumpable: no longer
//	setuid+ setgid+ seteuid+		the same, and dumpable again: the kernel makes it undumpable when its ids change
//	fork		a child tries to recover what its parent saved
//	exec		executes itself (or OTHER, which may be a setuid copy of it)
//	exec-thread	the same from a second thread, which takes over the pid
#define _GNU_SOURCE
#include <linux/capability.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "protocol.h"

#define BYTES (2 * MIB)
#define ADDRESS ((void*)0x200000000000)
#define NOBODY 65534

char small[10000];

static char* allocate(void) {
  char* memory = mmap(ADDRESS, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (memory == MAP_FAILED) bad("mmap: %m");
  return memory;
}

// Expects that nobody recovers it, and that no byte changes.
static void expect_nothing(char* memory, double limit) {
  fill(memory, BYTES, 2);
  fill(small, sizeof small, 3);
  if (try_recover(limit)) bad("it was recovered");
  check("memory", memory, BYTES, 2);
  check(".bss", small, sizeof small, 3);
  say("nothing changed\n");
}

static void drop_caps(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2] = {{0}};
  if (syscall(SYS_capset, &header, data) != 0) bad("capset: %m");
}

static char* const* exec_args;

static void* exec_now(void* unused) {
  execv(exec_args[0], exec_args);
  bad("execv: %m");
  return unused;
}

static void exec_other(const char* mode, char* self, char* limit, char* other) {
  char* args[] = {other != NULL ? other : self, "after-exec", limit, NULL};
  exec_args = args;
  if (strcmp(mode, "exec-thread") == 0) {
    pthread_t thread;
    pthread_create(&thread, NULL, exec_now, NULL);
    pthread_join(thread, NULL);
  }
  exec_now(NULL);
}

static void become(const char* mode) {
  int error = 0;
  if (strncmp(mode, "setuid", 6) == 0)
    error = setuid(NOBODY);
  else if (strncmp(mode, "setgid", 6) == 0)
    error = setgid(NOBODY);
  else if (strncmp(mode, "seteuid", 7) == 0)
    error = seteuid(NOBODY);
  else if (strcmp(mode, "dumpable") == 0)
    error = prctl(PR_SET_DUMPABLE, 0);
  else if (strcmp(mode, "caps") == 0)
    drop_caps();
  else
    bad("unknown mode %s", mode);
  if (error == 0 && mode[strlen(mode) - 1] == '+') error = prctl(PR_SET_DUMPABLE, 1);
  if (error != 0) bad("%s: %m", mode);
}

int main(int count, char** args) {
  if (count < 3) bad("usage");
  const char* mode = args[1];
  double limit = atof(args[2]);
  char* memory = allocate();
  alarm((unsigned)limit + PROTOCOL_SECONDS * 2);
  if (strcmp(mode, "after-exec") == 0) {
    say("executed as %d\n", (int)geteuid());
    expect_nothing(memory, limit);
    say("ok\n");
    return 0;
  }
  fill(memory, BYTES, 1);
  fill(small, sizeof small, 1);
  save();
  if (strcmp(mode, "none") == 0) {
    fill(memory, BYTES, 2);
    fill(small, sizeof small, 2);
    recover();
    check("memory", memory, BYTES, 1);
    check(".bss", small, sizeof small, 1);
  } else if (strncmp(mode, "exec", 4) == 0) {
    exec_other(mode, args[0], args[2], args[3]);
  } else if (strcmp(mode, "fork") == 0) {
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
      expect_nothing(memory, limit);
      _exit(0);
    }
    if (waitpid(child, &status, 0) != child || status != 0) bad("the child is not right");
  } else {
    become(mode);
    expect_nothing(memory, limit);
  }
  say("ok\n");
  return 0;
}
