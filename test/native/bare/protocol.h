// protocol.h: the two loops of the bare protocol for the programs that are about something else; seed.c has every dialect of them.
#ifndef PROTOCOL_H
#define PROTOCOL_H

#include <stdbool.h>

#include "bytes.h"

// False: nothing came of it within so many seconds.
static inline bool ask(const char* marker, const char* complete, double limit) {
  double end = seconds() + limit;
  FILE* file = fopen(marker, "w");
  if (file != NULL) fclose(file);
  bool came;
  while (!(came = access(complete, F_OK) == 0) && seconds() < end) {
  }
  remove(marker);
  if (came) remove(complete);
  return came;
}

static inline bool try_save(double limit) { return ask("/tmp/ready_to_checkpoint", "/tmp/checkpoint_complete", limit); }
static inline bool try_recover(double limit) { return ask("/tmp/ready_to_restore", "/tmp/restore_complete", limit); }

#define PROTOCOL_SECONDS 60  // long enough for a crowd on a slow machine

static inline void save(void) {
  if (!try_save(PROTOCOL_SECONDS)) bad("nobody saved it");
  say("saved\n");
}

static inline void recover(void) {
  if (!try_recover(PROTOCOL_SECONDS)) bad("nobody recovered it");
  say("recovered\n");
}

#endif
