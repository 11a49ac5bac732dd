// saver.c: saves some MiB of secrets, tells how long that took, and keeps them saved.
//
// usage: saver MIB plan|end	waits for a line once it is planned, or once it is saved
#define _GNU_SOURCE
#include "peer.h"
#include "secret.h"

static void pause_at(const char* step, const char* wanted) {
  if (strcmp(step, wanted) == 0) wait_for_line();
}

int main(int count, char** args) {
  struct peer peer;
  if (count != 3) bad("usage");
  const size_t bytes = (size_t)atoi(args[1]) * MIB;
  memset(map(bytes, MAP_PRIVATE), SECRET, bytes);
  const double began = seconds();
  dial(&peer);
  ask(&peer, CKPT_WIRE_SAVE, CKPT_PART_ANONYMOUS, 0);
  if (go_on(&peer, CKPT_WIRE_BATCH) == CKPT_WIRE_BATCH) {
    say("planned\n");
    pause_at("plan", args[2]);
  }
  const char* const outcome = peer.reply.type == CKPT_WIRE_FAILED ? strerrorname_np(peer.reply.error) : end(&peer);
  say("save: %s after %d ms\n", outcome, (int)((seconds() - began) * 1000));
  pause_at("end", args[2]);
  wait_for_line();
  return 0;
}
