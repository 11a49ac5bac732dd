// peer.h: the messages of native/client/wire.h, spoken raw: so that what the C library would never say can be said too.
//
// A peer lies on the stack: that is not rolled back.
#ifndef PEER_H
#define PEER_H

#include <errno.h>
#include <linux/types.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "../../../bpf/abi.h"
#include "../../../native/client/ebpf_ckpt.h"
#include "../../../native/client/wire.h"
#include "../bare/bytes.h"

#define SILENT_MS 2000

struct peer {
  int socket;
  struct ckpt_wire_request request;
  struct ckpt_wire_reply reply;  // the last one: it says what is to be done next
  uint64_t tag;
};

static inline void dial(struct peer* peer) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char* path = getenv(CKPT_SOCKET_ENV);
  memset(peer, 0, sizeof *peer);
  if (path == NULL || strlen(path) >= sizeof address.sun_path) bad("no " CKPT_SOCKET_ENV);
  strcpy(address.sun_path, path);
  peer->socket = socket(AF_UNIX, SOCK_SEQPACKET, 0);
  if (connect(peer->socket, (struct sockaddr*)&address, sizeof address) != 0) bad("connect: %m");
}

// With a pace every trigger is answered.
static inline void ask(struct peer* peer, uint32_t type, uint32_t parts, uint32_t pace) {
  peer->request = (struct ckpt_wire_request){.version = CKPT_WIRE_VERSION,
                                             .type = type,
                                             .serial = peer->request.serial + 1,
                                             .parts = parts,
                                             .pages_per_trigger = pace,
                                             .report = pace != 0};
  memset(&peer->reply, 0, sizeof peer->reply);
  if (send(peer->socket, &peer->request, sizeof peer->request, 0) != sizeof peer->request) bad("send: %m");
}

// The next message; false: none within so many ms.
static inline bool hear(struct peer* peer, int ms) {
  struct pollfd wait = {peer->socket, POLLIN, 0};
  if (poll(&wait, 1, ms) != 1) return false;
  if (recv(peer->socket, &peer->reply, sizeof peer->reply, 0) != sizeof peer->reply) bad("the daemon hung up");
  if (peer->reply.type == CKPT_WIRE_GO) peer->tag = CKPT_TAG(peer->reply.nonce, 0, peer->reply.op);
  return true;
}

// What the last message asks for: the marker, triggers, or nothing.
static inline void act(const struct peer* peer, bool again) {
  const bool save = peer->request.type == CKPT_WIRE_SAVE;
  uint32_t triggers = peer->reply.type == CKPT_WIRE_MOVED;
  if (peer->reply.type == CKPT_WIRE_BATCH) triggers = again || peer->reply.wait ? 1 : peer->reply.triggers;
  if (peer->reply.type == CKPT_WIRE_GO) syscall(SYS_openat, -1, save ? CKPT_READY_STORE : CKPT_READY_RESTORE, 0, peer->tag);
  for (; triggers > 0; triggers--) syscall(SYS_access, save ? CKPT_COMPLETE_STORE : CKPT_COMPLETE_RESTORE, peer->tag);
}

// Goes on as the library does, up to a message of this type, or the end.
static inline uint32_t go_on(struct peer* peer, uint32_t type) {
  bool again = false;
  for (int silent = 0; silent < SILENT_MS; silent += CKPT_AGAIN_MS) {
    act(peer, again);
    again = !hear(peer, CKPT_AGAIN_MS);
    if (again) continue;
    const uint32_t got = peer->reply.type;
    if (got == type || got == CKPT_WIRE_DONE || got == CKPT_WIRE_FAILED) return got;
    silent = 0;
  }
  bad("the daemon says no more");
}

// To the end: "ok", or the name of the error.
static inline const char* end(struct peer* peer) {
  return go_on(peer, CKPT_WIRE_DONE) == CKPT_WIRE_DONE ? "ok" : strerrorname_np(peer->reply.error);
}

// The answer to what is not an operation under way.
static inline const char* answer(struct peer* peer) {
  if (!hear(peer, SILENT_MS)) bad("no answer");
  if (peer->reply.type == CKPT_WIRE_FAILED) return strerrorname_np(peer->reply.error);
  return peer->reply.type == CKPT_WIRE_GO ? "go" : "ok";
}

static inline void expect(const char* what, const char* got, const char* wanted) {
  if (strcmp(got, wanted) != 0) bad("%s: %s", what, got);
}

static inline char* map(size_t bytes, int flags) {
  char* memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) bad("mmap: %m");
  return memory;
}

static inline void wait_for_line(void) {
  char byte = 0;
  while (byte != '\n')
    if (read(STDIN_FILENO, &byte, 1) != 1) bad("stdin ended");
}

#endif
