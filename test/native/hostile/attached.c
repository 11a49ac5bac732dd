// attached.c: a System V segment that others may only read.
//
// usage: attached owner	makes one, says its number; at a line changes it, at the next looks whether it is as it was left
//        attached reader NUMBER	saves it, waits for a line, recovers
#define _GNU_SOURCE
#include <sys/shm.h>

#include "peer.h"

#define BYTES 65536

static void own(void) {
  const int id = shmget(IPC_PRIVATE, BYTES, IPC_CREAT | 0644);
  char* memory = shmat(id, NULL, 0);
  if (id < 0 || memory == (void*)-1) bad("a segment: %m");
  fill(memory, BYTES, 1);
  say("segment %d\n", id);
  wait_for_line();
  shmctl(id, IPC_RMID, NULL);  // it ends with its last user
  fill(memory, BYTES, 2);
  say("changed\n");
  wait_for_line();
  check("the segment", memory, BYTES, 2);
}

static void only_read(int id) {
  struct peer peer;
  fill(map(BYTES, MAP_PRIVATE), BYTES, 3);
  if (shmat(id, NULL, 0) != (void*)-1 || errno != EACCES) bad("it may write to it");
  if (shmat(id, NULL, SHM_RDONLY) == (void*)-1) bad("shmat: %m");
  dial(&peer);
  ask(&peer, CKPT_WIRE_SAVE, CKPT_PART_ANONYMOUS | CKPT_PART_SHARED_ALL, 0);
  say("save: %s\n", end(&peer));
  wait_for_line();
  ask(&peer, CKPT_WIRE_RECOVER, 0, 0);
  say("recover: %s\n", end(&peer));
}

int main(int count, char** args) {
  if (count == 3)
    only_read(atoi(args[2]));
  else
    own();
  say("ok\n");
  return 0;
}
