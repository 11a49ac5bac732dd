// fake-peer.h: what library-test.c stands on: a scripted stand-in for the daemon, and a count of the triggers that the library makes.
//
// The stand-in is a thread of the test on a socket of its own. No BPF program sees the tagged system calls here: a seccomp filter turns
// them into signals, whose handler notes them.
#pragma once

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <linux/types.h>

#include "../../../bpf/abi.h"
#include "../../../native/client/wire.h"

#define NONCE 0x89abcdefu
#define OP 7u
#define PATIENCE_MS 20000

typedef struct {
  const char* path;
  int listener;
  int fd;
  struct ckpt_wire_request request;  // the last one read
} Peer;

static const char* case_name;

// Ends the case.
__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char* format, ...) {
  char text[512];
  va_list values;
  va_start(values, format);
  vsnprintf(text, sizeof text, format, values);
  va_end(values);
  printf("not ok %s: %s\n", case_name, text);
  fflush(stdout);
  _exit(1);
}

#define TEXT(x) #x
#define LINE(x) TEXT(x)
#define expect(condition)                                                 \
  do {                                                                    \
    if (!(condition)) fail("%s", "line " LINE(__LINE__) ": " #condition); \
  } while (0)

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void sleep_ms(unsigned ms) {
  struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
  while (nanosleep(&left, &left) != 0) {
  }
}

// The triggers, as they were made.
static struct { unsigned opened, accessed, wrong; } calls;
static const char* expected_marker = CKPT_READY_STORE;
static const char* expected_file = CKPT_COMPLETE_STORE;

static unsigned count(const unsigned* number) { return __atomic_load_n(number, __ATOMIC_SEQ_CST); }

static void on_call(int number, siginfo_t* info, void* context) {
  (void)number;
  ucontext_t* const at = context;
#ifdef __x86_64__
  greg_t* const registers = at->uc_mcontext.gregs;
  const int open = info->si_syscall == SYS_openat;
  const uint64_t tag = (uint64_t)registers[open ? REG_R10 : REG_RSI];
  const char* const path = (const char*)registers[open ? REG_RSI : REG_RDI];
  registers[REG_RAX] = open ? -EBADF : -EINVAL;
#else
  unsigned long long* const registers = at->uc_mcontext.regs;
  const int open = info->si_syscall == SYS_openat;
  const uint64_t tag = registers[open ? 3 : 2];
  const char* const path = (const char*)registers[1];
  registers[0] = (unsigned long long)(open ? -EBADF : -EINVAL);
#endif
  const int right = tag == CKPT_TAG(NONCE, 0, OP) && strcmp(path, open ? expected_marker : expected_file) == 0;
  if (!right) __atomic_fetch_add(&calls.wrong, 1, __ATOMIC_SEQ_CST);
  __atomic_fetch_add(open ? &calls.opened : &calls.accessed, 1, __ATOMIC_SEQ_CST);
}

// From here on this thread's tagged system calls, and those of its threads to come, are counted.
static void count_calls(void) {
#ifdef SYS_access
  const unsigned access_number = SYS_access, access_mode = 1;
#else
  const unsigned access_number = SYS_faccessat, access_mode = 2;
#endif
#define ARGUMENT(n) (offsetof(struct seccomp_data, args) + 8 * (n))
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, access_number, 3, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ARGUMENT(3)),
      BPF_JUMP(BPF_JMP | BPF_JA, 1, 0, 0),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ARGUMENT(access_mode)),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (unsigned)CKPT_TAG_OURS, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
  struct sigaction action = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO | SA_NODEFER};
  expect(sigaction(SIGSYS, &action, NULL) == 0);
  expect(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  expect(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void await(const unsigned* number, unsigned least) {
  const uint64_t until = now_ms() + PATIENCE_MS;
  while (count(number) < least) {
    if (now_ms() > until) fail("%u triggers came where %u were awaited", count(number), least);
    sleep_ms(1);
  }
}

static void peer_listen(Peer* peer, int type) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strcpy(address.sun_path, peer->path);
  peer->listener = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  expect(peer->listener >= 0);
  expect(bind(peer->listener, (struct sockaddr*)&address, sizeof address) == 0);
  expect(listen(peer->listener, 8) == 0);
}

static void peer_accept(Peer* peer) {
  peer->fd = accept4(peer->listener, NULL, NULL, SOCK_CLOEXEC);
  expect(peer->fd >= 0);
}

static void peer_close(Peer* peer) {
  close(peer->fd);
  peer->fd = -1;
}

// Reads a request of this type.
static void peer_read(Peer* peer, uint32_t type) {
  const ssize_t size = recv(peer->fd, &peer->request, sizeof peer->request, MSG_TRUNC);
  if (size != sizeof peer->request) fail("a request of %zd bytes came where type %u was awaited", size, type);
  if (peer->request.type != type) fail("a request of type %u came where type %u was awaited", peer->request.type, type);
  expect(peer->request.version == CKPT_WIRE_VERSION);
}

static void peer_send(Peer* peer, const void* message, size_t size) {
  expect(send(peer->fd, message, size, MSG_NOSIGNAL) == (ssize_t)size);
}

static void peer_say(Peer* peer, struct ckpt_wire_reply reply) {
  reply.serial = peer->request.serial;
  peer_send(peer, &reply, sizeof reply);
}

#define SAY(peer, ...) peer_say(peer, (struct ckpt_wire_reply){__VA_ARGS__})

static void peer_go(Peer* peer) { SAY(peer, .type = CKPT_WIRE_GO, .op = OP, .nonce = NONCE); }

// Answers an operation up to its first batch.
static void peer_begin(Peer* peer, uint32_t type, uint32_t triggers, uint32_t wait) {
  const unsigned before = count(&calls.opened);
  peer_read(peer, type);
  peer_go(peer);
  await(&calls.opened, before + 1);
  SAY(peer, .type = CKPT_WIRE_ARMED);
  SAY(peer, .type = CKPT_WIRE_BATCH, .triggers = triggers, .wait = wait, .total_pages = 100, .total_bytes = 409600);
}

static void peer_done(Peer* peer) { SAY(peer, .type = CKPT_WIRE_DONE, .done_pages = 100, .total_pages = 100); }

// A whole operation.
static void peer_serve(Peer* peer, uint32_t type) {
  peer_begin(peer, type, 1, 0);
  peer_done(peer);
}
