// shared.c: saves nothing but shared memory, shares it with a child after that, recovers, and saves once more.
//
// usage: shared PACE	pages for each trigger, 0: as many as may be
#define _GNU_SOURCE
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "peer.h"

static pid_t share(void) {
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
  }
  return child;
}

int main(int count, char** args) {
  struct peer peer;
  if (count != 2) bad("usage");
  const uint32_t pace = (uint32_t)atoi(args[1]);
  fill(map(MIB, MAP_SHARED), MIB, 1);
  dial(&peer);
  ask(&peer, CKPT_WIRE_SAVE, CKPT_PART_SHARED, pace);
  expect("save", end(&peer), "ok");
  const pid_t child = share();
  ask(&peer, CKPT_WIRE_RECOVER, 0, pace);
  say("recover: %s\n", end(&peer));
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  ask(&peer, CKPT_WIRE_SAVE, CKPT_PART_SHARED, pace);
  expect("the save after that", end(&peer), "ok");
  say("ok\n");
  return 0;
}
