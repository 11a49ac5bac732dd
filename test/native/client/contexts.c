// contexts.c: named contexts, back and forth as a script says, with a counter in heap, .data and .bss that tells which of them is in force.
//
// usage: contexts SCRIPT       e.g. "save a; save b; recover a; recover b; forget a; recover a"
//
//   save, recover, forget [NAME]   NAME may be left out: the default context
//   sleep MS, pause                pause: until a line comes on stdin
//   fork                           a child goes on with the script, this process waits for it and ends as it does
//
// Each step counts one up before it begins, and prints "STEP: ok heap=1 data=1 bss=1" or "STEP: ENOENT heap=1 data=1 bss=1: why".
#define _GNU_SOURCE
#include <ebpf_ckpt.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// stdio's own state is rolled back with all the rest, so lines are written at once.
#define say(...) dprintf(STDOUT_FILENO, __VA_ARGS__)

static unsigned* in_heap;
static unsigned in_data = 1000;
static unsigned in_bss;

static void count_up(void) {
  ++*in_heap;
  ++in_data;
  ++in_bss;
}

static int sleep_ms(const char* ms) {
  const long wanted = atol(ms);
  return nanosleep(&(struct timespec){.tv_sec = wanted / 1000, .tv_nsec = wanted % 1000 * 1000000}, NULL);
}

static int pause_for_line(void) {
  char byte;
  ssize_t got;
  while ((got = read(STDIN_FILENO, &byte, 1)) == 1 && byte != '\n') {
  }
  return got == 1 ? 0 : -1;
}

static int go_on_in_child(void) {
  const pid_t child = fork();
  if (child <= 0) return child;
  int status;
  if (waitpid(child, &status, 0) != child) return -1;
  exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static int perform(const char* what, const char* name) {
  const struct ckpt_options options = {.size = sizeof options, .name = name};
  if (strcmp(what, "save") == 0) return savecontext_with(&options);
  if (strcmp(what, "recover") == 0) return recovercontext_with(&options);
  if (strcmp(what, "forget") == 0) return ckpt_forget(name);
  if (strcmp(what, "fork") == 0) return go_on_in_child();
  if (strcmp(what, "pause") == 0) return pause_for_line();
  if (strcmp(what, "sleep") == 0 && name != NULL) return sleep_ms(name);
  fprintf(stderr, "contexts: no such step: '%s'\n", what);
  exit(2);
}

// The words of a step lie in `step`, on the stack.
static void run_step(char* step) {
  char *rest, *const what = strtok_r(step, " ", &rest), *const name = strtok_r(NULL, " ", &rest);
  if (what == NULL) return;
  count_up();
  errno = 0;
  const int result = perform(what, name);
  const char* const outcome = result == 0 ? "ok" : strerrorname_np(errno);
  const char* const text = ckpt_strerror();
  say("%s%s%s: %s heap=%u data=%u bss=%u%s%s\n", what, name != NULL ? " " : "", name != NULL ? name : "", outcome, *in_heap, in_data - 1000,
      in_bss, result != 0 && *text != 0 ? ": " : "", result != 0 ? text : "");
}

int main(int count, char** args) {
  if (count != 2) {
    fprintf(stderr, "usage: contexts SCRIPT\n");
    return 2;
  }
  in_heap = calloc(1, sizeof *in_heap);
  if (in_heap == NULL) return 1;
  for (const char* at = args[1]; *at != 0;) {
    char step[256];
    const size_t length = strcspn(at, ";");
    if (length >= sizeof step) return 2;
    memcpy(step, at, length);
    step[length] = 0;
    run_step(step);
    at += length + (at[length] == ';');
  }
  return 0;
}
