// mixed.c: asks for a save over the socket, and before anything comes of it opens the marker of the bare protocol.
//
// usage: mixed touched|untouched leaves|stays	the marker's name in memory or not; the connection closes after that, or the save goes on
#define _GNU_SOURCE
#include <fcntl.h>

#include "peer.h"

#define MARKER "/tmp/ready_to_checkpoint"
#define LOOKS 200

// A page that has the name and is not in this process's page tables yet.
static const char* untouched(void) {
  const int file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, 4096) != 0 || pwrite(file, MARKER, sizeof MARKER, 0) != sizeof MARKER) bad("a file: %m");
  const char* const name = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
  if (name == MAP_FAILED) bad("mmap: %m");
  return name;
}

int main(int count, char** args) {
  struct peer peer;
  if (count != 3) bad("usage");
  fill(map(MIB, MAP_PRIVATE), MIB, 1);
  const char* const name = strcmp(args[1], "untouched") == 0 ? untouched() : MARKER;
  dial(&peer);
  ask(&peer, CKPT_WIRE_SAVE, CKPT_PART_ANONYMOUS, 1);
  expect("save", answer(&peer), "go");
  syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CREAT, 0600);
  usleep(50000);
  access("/tmp/checkpoint_complete", F_OK);
  if (strcmp(args[2], "leaves") == 0)
    close(peer.socket);
  else
    expect("the save", end(&peer), "ok");
  for (int i = 0; i < LOOKS && access("/tmp/checkpoint_complete", F_OK) != 0; i++) usleep(1000);
  say("ok\n");
  return 0;
}
