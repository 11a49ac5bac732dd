// library-test.c: the C library against a scripted stand-in for the daemon: what it sends, what it bears, and how it fails.
//
// usage: library-test [NAME]...      prints "ok NAME" or "not ok NAME: why" for each case; exit status 1 if one failed
//
// Each case runs in a process of its own, all at once: some have to wait for 30 seconds.
#define _GNU_SOURCE
#include <ebpf_ckpt.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "fake-peer.h"

static const char* directory;

#define expect_error(call, number)                                                                                                \
  do {                                                                                                                            \
    errno = 0;                                                                                                                    \
    const int result = (call);                                                                                                    \
    if (result != -1 || errno != (number))                                                                                        \
      fail("%s returned %d (%s: %s), not " #number, "line " LINE(__LINE__) ": " #call, result, strerror(errno), ckpt_strerror()); \
    if (*ckpt_strerror() == 0) fail("%s left no text", "line " LINE(__LINE__) ": " #call);                                        \
  } while (0)

#define expect_success(call)                                                                                         \
  do {                                                                                                               \
    if ((call) != 0) fail("%s failed: %s: %s", "line " LINE(__LINE__) ": " #call, strerror(errno), ckpt_strerror()); \
    expect(*ckpt_strerror() == 0);                                                                                   \
  } while (0)

static void expect_text(const char* words) {
  if (strstr(ckpt_strerror(), words) == NULL) fail("\"%s\" does not say \"%s\"", ckpt_strerror(), words);
}

static void for_recover(void) {
  expected_marker = CKPT_READY_RESTORE;
  expected_file = CKPT_COMPLETE_RESTORE;
}

static void expect_right_calls(void) {
  if (count(&calls.wrong) != 0) fail("%u triggers had a wrong tag or path", count(&calls.wrong));
}

static pthread_t start(void* (*run)(void*), void* data) {
  pthread_t thread;
  expect(pthread_create(&thread, NULL, run, data) == 0);
  return thread;
}

// Descriptors of this process that are connected to `path`.
static int connections_to(const char* path, int* last) {
  int found = 0;
  for (int fd = 0; fd < 256; fd++) {
    struct sockaddr_un address = {.sun_family = 0};
    socklen_t size = sizeof address;
    if (getpeername(fd, (struct sockaddr*)&address, &size) != 0 || size <= sizeof(sa_family_t)) continue;
    if (strcmp(address.sun_path, path) != 0) continue;
    found++;
    *last = fd;
  }
  return found;
}

// ---- no daemon ----

static void no_socket(Peer* peer) {
  expect_error(savecontext(), ENOTCONN);
  expect_text(peer->path);
  expect_error(recovercontext(), ENOTCONN);
  expect_error(ckpt_forget("x"), ENOTCONN);
}

static void dead_socket(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  close(peer->listener);
  expect_error(savecontext(), ENOTCONN);
}

static void stream_socket(Peer* peer) {
  peer_listen(peer, SOCK_STREAM);
  expect_error(savecontext(), ENOTCONN);
}

static void long_path(Peer* peer) {
  (void)peer;
  char path[200];
  memset(path, 'x', sizeof path);
  path[sizeof path - 1] = 0;
  setenv(CKPT_SOCKET_ENV, path, 1);
  expect_error(savecontext(), ENOTCONN);
  expect_text("longer");
}

static void forbidden_socket(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  expect(chmod(peer->path, 0) == 0);
  if (geteuid() == 0) expect(setresuid(65534, 65534, 65534) == 0);
  expect_error(savecontext(), EPERM);
}

// ---- operations that go well ----

static void* serve_save(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_read(peer, CKPT_WIRE_SAVE);
  const struct ckpt_wire_request* const request = &peer->request;
  expect(request->parts == 0 && request->pages_per_trigger == 0 && request->report == 0 && request->name[0] == 0);
  expect(request->keep[0].start != 0 && request->keep[0].end > request->keep[0].start && request->keep[0].start % 4096 == 0);
  expect(request->keep[1].start == 0 && request->keep[1].end == 0);
  expect(count(&calls.opened) == 0);
  peer_go(peer);
  await(&calls.opened, 1);
  SAY(peer, .type = CKPT_WIRE_ARMED);
  sleep_ms(50);
  const unsigned opened = count(&calls.opened);
  sleep_ms(100);
  expect(count(&calls.opened) == opened);
  expect(count(&calls.accessed) == 0);
  SAY(peer, .type = CKPT_WIRE_BATCH, .triggers = 40, .total_pages = 100);
  await(&calls.accessed, 40);
  SAY(peer, .type = CKPT_WIRE_BATCH, .triggers = 2, .done_pages = 50, .total_pages = 100);
  await(&calls.accessed, 42);
  peer_done(peer);
  return NULL;
}

static void save(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_save, peer);
  expect_success(savecontext());
  pthread_join(thread, NULL);
  expect_right_calls();
  int fd = -1;
  expect(connections_to(peer->path, &fd) == 1);
  expect((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
}

static void* serve_named(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_begin(peer, CKPT_WIRE_RECOVER, 3, 0);
  expect(strcmp(peer->request.name, "one") == 0 && peer->request.parts == 0 && peer->request.pages_per_trigger == 1);
  const uint32_t serial = peer->request.serial;
  await(&calls.accessed, 3);
  peer_done(peer);
  peer_read(peer, CKPT_WIRE_FORGET);
  expect(strcmp(peer->request.name, "two") == 0 && peer->request.serial != serial);
  SAY(peer, .type = CKPT_WIRE_DONE);
  peer_read(peer, CKPT_WIRE_FORGET);
  SAY(peer, .type = CKPT_WIRE_FAILED, .error = ENOENT, .text = "Nothing is saved as two");
  return NULL;
}

static void recover_and_forget(Peer* peer) {
  for_recover();
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_named, peer);
  const struct ckpt_options options = {.size = sizeof options, .name = "one", .parts = CKPT_PART_HEAP, .pages_per_trigger = 1};
  expect_success(recovercontext_with(&options));
  expect_success(ckpt_forget("two"));
  expect_error(ckpt_forget("two"), ENOENT);
  expect(strcmp(ckpt_strerror(), "Nothing is saved as two") == 0);
  pthread_join(thread, NULL);
  expect_right_calls();
}

// ---- again, and waiting ----

static void* serve_slowly(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_read(peer, CKPT_WIRE_SAVE);
  peer_go(peer);
  sleep_ms(300);
  const unsigned opened = count(&calls.opened);
  if (opened < 5 || opened > 31) fail("the marker was opened %u times in 300 ms", opened);
  SAY(peer, .type = CKPT_WIRE_BATCH, .triggers = 1);
  await(&calls.accessed, 1);
  sleep_ms(300);
  const unsigned accessed = count(&calls.accessed);
  if (accessed < 5 || accessed > 32) fail("%u triggers were made in 300 ms", accessed);
  peer_done(peer);
  return NULL;
}

static void again(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_slowly, peer);
  expect_success(savecontext());
  pthread_join(thread, NULL);
  expect_right_calls();
}

static void on_alarm(int number) { (void)number; }

static void again_among_signals(Peer* peer) {
  struct sigaction action = {.sa_handler = on_alarm};
  const struct itimerval often = {.it_interval = {.tv_usec = 2000}, .it_value = {.tv_usec = 2000}};
  peer_listen(peer, SOCK_SEQPACKET);
  sigaction(SIGALRM, &action, NULL);
  sigset_t alarm;
  sigemptyset(&alarm);
  sigaddset(&alarm, SIGALRM);
  pthread_sigmask(SIG_BLOCK, &alarm, NULL);
  const pthread_t thread = start(serve_slowly, peer);
  pthread_sigmask(SIG_UNBLOCK, &alarm, NULL);
  expect(setitimer(ITIMER_REAL, &often, NULL) == 0);
  expect_success(savecontext());
  pthread_join(thread, NULL);
}

static void* serve_one_by_one(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_begin(peer, CKPT_WIRE_SAVE, 100, 1);
  await(&calls.accessed, 1);
  sleep_ms(100);
  const unsigned waited = count(&calls.accessed);
  if (waited < 2 || waited > 12) fail("%u triggers were made in 100 ms without MOVED", waited);
  for (unsigned i = 0; i < 50; i++) {
    const unsigned before = count(&calls.accessed);
    SAY(peer, .type = CKPT_WIRE_MOVED, .done_pages = i + 1, .total_pages = 100);
    await(&calls.accessed, before + 1);
  }
  SAY(peer, .type = CKPT_WIRE_BATCH, .triggers = 0, .done_pages = 50, .total_pages = 100);
  peer_done(peer);
  return NULL;
}

static void one_by_one(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_one_by_one, peer);
  expect_success(savecontext());
  pthread_join(thread, NULL);
  expect_right_calls();
}

static void* serve_unseeing(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_read(peer, CKPT_WIRE_SAVE);
  const uint32_t serial = peer->request.serial;
  peer_go(peer);
  peer_read(peer, CKPT_WIRE_CANCEL);
  expect(peer->request.serial == serial);
  SAY(peer, .type = CKPT_WIRE_FAILED, .error = ECANCELED, .text = "Cancelled");
  peer_serve(peer, CKPT_WIRE_SAVE);
  return NULL;
}

static void unseen_marker(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_unseeing, peer);
  const uint64_t begun = now_ms();
  expect_error(savecontext(), EIO);
  const uint64_t taken = now_ms() - begun;
  if (taken < 2500 || taken > 9000) fail("it took %u ms", (unsigned)taken);
  expect_text("marker");
  expect_success(savecontext());
  pthread_join(thread, NULL);
}

static void* serve_nothing(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_read(peer, CKPT_WIRE_SAVE);
  peer_read(peer, CKPT_WIRE_CANCEL);
  return NULL;
}

static void silent_daemon(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_nothing, peer);
  const uint64_t begun = now_ms();
  expect_error(savecontext(), EIO);
  const uint64_t taken = now_ms() - begun;
  if (taken < 29000 || taken > 60000) fail("it took %u ms", (unsigned)taken);
  expect_text("30 seconds");
  pthread_join(thread, NULL);
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  if (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec > 1) fail("it was busy while it waited");
}

// The socket's queue is full, and nobody accepts.
static void stopped_daemon(Peer* peer) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  peer_listen(peer, SOCK_SEQPACKET);
  expect(listen(peer->listener, 0) == 0);
  strcpy(address.sun_path, peer->path);
  for (;;) {
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);
    if (connect(fd, (struct sockaddr*)&address, sizeof address) != 0) break;
  }
  expect(errno == EAGAIN);
  expect_error(savecontext(), ENOTCONN);
  expect_text("stopped");
}

static void* serve_repeating(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_begin(peer, CKPT_WIRE_SAVE, 1, 0);
  struct ckpt_wire_reply same = {.type = CKPT_WIRE_MOVED, .serial = peer->request.serial, .done_pages = 1, .total_pages = 100};
  for (;;) {
    if (send(peer->fd, &same, sizeof same, MSG_NOSIGNAL) < 0) fail("send: %s", strerror(errno));
    if (recv(peer->fd, &peer->request, sizeof peer->request, MSG_DONTWAIT) > 0) break;
  }
  expect(peer->request.type == CKPT_WIRE_CANCEL);
  return NULL;
}

static void repeating_daemon(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_repeating, peer);
  expect_error(savecontext(), EIO);
  expect_text("Nothing new");
  pthread_join(thread, NULL);
}

// ---- the daemon dies ----

enum { AFTER_REQUEST, AFTER_GO, AFTER_ARMED, AFTER_BATCH, AFTER_MOVED, DEATHS };

static void* serve_and_die(void* data) {
  Peer* const peer = data;
  for (int death = 0; death < DEATHS; death++) {
    peer_accept(peer);
    peer_read(peer, CKPT_WIRE_SAVE);
    if (death >= AFTER_GO) peer_go(peer);
    if (death >= AFTER_ARMED) SAY(peer, .type = CKPT_WIRE_ARMED);
    if (death >= AFTER_BATCH) SAY(peer, .type = CKPT_WIRE_BATCH, .triggers = 2, .wait = 1, .total_pages = 100);
    if (death >= AFTER_MOVED) SAY(peer, .type = CKPT_WIRE_MOVED, .done_pages = 1, .total_pages = 100);
    peer_close(peer);
  }
  peer_accept(peer);
  peer_serve(peer, CKPT_WIRE_SAVE);
  peer_close(peer);
  return NULL;
}

static void death(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_and_die, peer);
  for (int death = 0; death < DEATHS; death++) {
    expect_error(savecontext(), ECONNRESET);
    expect_text("died");
  }
  expect_success(savecontext());
  // Between two calls: no SIGPIPE, one error, and then a new connection.
  pthread_join(thread, NULL);
  expect_error(recovercontext(), ECONNRESET);
  expect_text("lost");
  close(peer->listener);
  expect_error(recovercontext(), ENOTCONN);
}

static void* serve_half(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_begin(peer, CKPT_WIRE_RECOVER, 2, 0);
  await(&calls.accessed, 2);
  peer_close(peer);
  peer_accept(peer);
  peer_serve(peer, CKPT_WIRE_RECOVER);
  expected_marker = CKPT_READY_STORE;
  expected_file = CKPT_COMPLETE_STORE;
  peer_serve(peer, CKPT_WIRE_SAVE);
  return NULL;
}

static void death_in_a_recover(Peer* peer) {
  for_recover();
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_half, peer);
  expect_error(recovercontext(), ECONNRESET);
  expect_text("half recovered");
  expect_error(savecontext(), ENOTRECOVERABLE);
  expect_success(recovercontext());
  expect_success(savecontext());
  pthread_join(thread, NULL);
}

// ---- messages that make no sense ----

static const struct nonsense {
  const char* what;
  int after_go;  // 1: after GO, 2: after BATCH
  size_t size;
  struct ckpt_wire_reply reply;
} nonsenses[] = {
    {"too short", 0, 4, {.type = CKPT_WIRE_GO}},
    {"too long", 0, sizeof(struct ckpt_wire_reply) + 1, {.type = CKPT_WIRE_GO}},
    {"no type", 0, 0, {.type = 0}},
    {"an unknown type", 0, 0, {.type = 99}},
    {"GO with an operation that is none", 0, 0, {.type = CKPT_WIRE_GO, .op = 0xffff, .nonce = NONCE}},
    {"GO with an operation that fits no tag", 0, 0, {.type = CKPT_WIRE_GO, .op = 0x10001, .nonce = NONCE}},
    {"ARMED before GO", 0, 0, {.type = CKPT_WIRE_ARMED}},
    {"BATCH before GO", 0, 0, {.type = CKPT_WIRE_BATCH, .triggers = 1}},
    {"MOVED before GO", 0, 0, {.type = CKPT_WIRE_MOVED}},
    {"DONE before GO", 0, 0, {.type = CKPT_WIRE_DONE}},
    {"FAILED without an error", 0, 0, {.type = CKPT_WIRE_FAILED}},
    {"FAILED with an error that is none", 0, 0, {.type = CKPT_WIRE_FAILED, .error = -EIO}},
    {"GO twice", 1, 0, {.type = CKPT_WIRE_GO, .op = OP, .nonce = NONCE}},
    {"MOVED before BATCH", 1, 0, {.type = CKPT_WIRE_MOVED}},
    {"more triggers than there are pieces", 1, 0, {.type = CKPT_WIRE_BATCH, .triggers = CKPT_PIECES + 1}},
    {"GO after BATCH", 2, 0, {.type = CKPT_WIRE_GO, .op = OP, .nonce = NONCE}},
    {"ARMED after BATCH", 2, 0, {.type = CKPT_WIRE_ARMED}},
};
#define NONSENSES (sizeof nonsenses / sizeof nonsenses[0])

static void* serve_nonsense(void* data) {
  Peer* const peer = data;
  for (size_t i = 0; i < NONSENSES; i++) {
    char message[sizeof(struct ckpt_wire_reply) + 1] = {0};
    struct ckpt_wire_reply reply = nonsenses[i].reply;
    peer_accept(peer);
    peer_read(peer, CKPT_WIRE_SAVE);
    if (nonsenses[i].after_go >= 1) peer_go(peer);
    if (nonsenses[i].after_go >= 2) SAY(peer, .type = CKPT_WIRE_BATCH, .triggers = 1);
    reply.serial = peer->request.serial;
    memcpy(message, &reply, sizeof reply);
    peer_send(peer, message, nonsenses[i].size != 0 ? nonsenses[i].size : sizeof reply);
    // The library lets go of whoever talks so.
    while (recv(peer->fd, message, sizeof message, 0) > 0) {
    }
    peer_close(peer);
  }
  return NULL;
}

static void nonsense(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_nonsense, peer);
  for (size_t i = 0; i < NONSENSES; i++) {
    errno = 0;
    const int result = savecontext();
    if (result != -1 || errno != EIO) fail("%s: %d, %s: %s", nonsenses[i].what, result, strerror(errno), ckpt_strerror());
    expect_text("makes no sense");
  }
  pthread_join(thread, NULL);
}

static void* serve_failures(void* data) {
  Peer* const peer = data;
  struct ckpt_wire_reply reply = {.type = CKPT_WIRE_FAILED, .error = ENOSPC};
  peer_accept(peer);
  peer_read(peer, CKPT_WIRE_SAVE);
  SAY(peer, .type = CKPT_WIRE_FAILED, .error = EPERM, .text = "User 1000 is not served: 100% sure, %s");
  peer_begin(peer, CKPT_WIRE_SAVE, 2, 0);
  await(&calls.accessed, 2);
  memset(reply.text, 'x', sizeof reply.text);
  peer_say(peer, reply);
  peer_read(peer, CKPT_WIRE_SAVE);
  reply.serial = peer->request.serial - 1;
  peer_send(peer, &reply, sizeof reply);
  peer_go(peer);
  peer_send(peer, &reply, sizeof reply);
  SAY(peer, .type = CKPT_WIRE_BATCH, .triggers = 1);
  peer_done(peer);
  return NULL;
}

static void failures(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_failures, peer);
  expect_error(savecontext(), EPERM);
  expect(strcmp(ckpt_strerror(), "User 1000 is not served: 100% sure, %s") == 0);
  expect_error(savecontext(), ENOSPC);
  expect(strlen(ckpt_strerror()) == CKPT_TEXT_MAX - 1);
  // Those of another operation say nothing.
  expect_success(savecontext());
  pthread_join(thread, NULL);
}

// ---- progress ----

typedef struct {
  unsigned told;
  uint64_t last;
  enum ckpt_phase phase;
  unsigned end_at;    // returns 1 there ...
  unsigned accessed;  // ... when so many triggers were made
  int nested;         // what a call from inside returned ...
  int nested_errno;
} Told;

static int on_progress(const struct ckpt_progress* progress, void* data) {
  Told* const told = data;
  expect(progress->phase == told->phase && progress->total_pages == 100);
  expect(progress->done_pages > told->last);
  told->last = progress->done_pages;
  told->accessed = count(&calls.accessed);
  return ++told->told == told->end_at;
}

static void* serve_progress(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_begin(peer, CKPT_WIRE_RECOVER, 4, 1);
  expect(peer->request.report == 1);
  SAY(peer, .type = CKPT_WIRE_MOVED, .done_pages = 10, .total_pages = 100);
  SAY(peer, .type = CKPT_WIRE_MOVED, .done_pages = 10, .total_pages = 100);
  SAY(peer, .type = CKPT_WIRE_MOVED, .done_pages = 9, .total_pages = 100);
  SAY(peer, .type = CKPT_WIRE_MOVED, .done_pages = 20, .total_pages = 100);
  SAY(peer, .type = CKPT_WIRE_BATCH, .triggers = 1, .wait = 1, .done_pages = 30, .total_pages = 100);
  peer_done(peer);
  return NULL;
}

static void progress(Peer* peer) {
  for_recover();
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_progress, peer);
  Told told = {.phase = CKPT_RECOVERING};
  expect_success(recovercontext_with(&(struct ckpt_options){.size = sizeof(struct ckpt_options), .progress = on_progress, .data = &told}));
  expect(told.told == 4 && told.last == 100);
  pthread_join(thread, NULL);
}

static void* serve_cancel(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_begin(peer, CKPT_WIRE_SAVE, 100, 1);
  const uint32_t serial = peer->request.serial;
  SAY(peer, .type = CKPT_WIRE_MOVED, .done_pages = 1, .total_pages = 100);
  SAY(peer, .type = CKPT_WIRE_MOVED, .done_pages = 2, .total_pages = 100);
  peer_read(peer, CKPT_WIRE_CANCEL);
  expect(peer->request.serial == serial);
  // Not another trigger, and not another word to the callback.
  const unsigned before = count(&calls.accessed);
  SAY(peer, .type = CKPT_WIRE_MOVED, .done_pages = 3, .total_pages = 100);
  sleep_ms(100);
  expect(count(&calls.accessed) == before);
  SAY(peer, .type = CKPT_WIRE_FAILED, .error = ECANCELED, .text = "The progress callback ended it");

  // It was through already.
  peer_begin(peer, CKPT_WIRE_SAVE, 1, 1);
  SAY(peer, .type = CKPT_WIRE_MOVED, .done_pages = 50, .total_pages = 100);
  SAY(peer, .type = CKPT_WIRE_MOVED, .done_pages = 99, .total_pages = 100);
  peer_done(peer);
  peer_read(peer, CKPT_WIRE_CANCEL);
  return NULL;
}

static void cancel(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_cancel, peer);
  Told told = {.phase = CKPT_SAVING, .end_at = 2};
  const struct ckpt_options options = {.size = sizeof options, .progress = on_progress, .data = &told};
  expect_error(savecontext_with(&options), ECANCELED);
  expect(told.told == 2 && told.accessed == count(&calls.accessed));
  told = (Told){.phase = CKPT_SAVING, .end_at = 2};
  expect_success(savecontext_with(&options));
  expect(told.told == 2);
  pthread_join(thread, NULL);
}

static int call_from_inside(const struct ckpt_progress* progress, void* data) {
  Told* const told = data;
  (void)progress;
  told->told++;
  told->nested = savecontext();
  told->nested_errno = errno;
  expect_text("callback");
  return 0;
}

static void* serve_once(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_serve(peer, CKPT_WIRE_SAVE);
  return NULL;
}

static void call_from_callback(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_once, peer);
  Told told = {.told = 0};
  expect_success(
      savecontext_with(&(struct ckpt_options){.size = sizeof(struct ckpt_options), .progress = call_from_inside, .data = &told}));
  expect(told.told == 1 && told.nested == -1 && told.nested_errno == EBUSY);
  pthread_join(thread, NULL);
}

// ---- options ----

static void* serve_twice(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_serve(peer, CKPT_WIRE_SAVE);
  expect(peer->request.parts == CKPT_PART_SHARED_ALL && strlen(peer->request.name) == CKPT_NAME_MAX);
  peer_serve(peer, CKPT_WIRE_SAVE);
  expect(peer->request.parts == 0 && strcmp(peer->request.name, "short") == 0);
  return NULL;
}

static void options(Peer* peer) {
  struct {
    struct ckpt_options known;
    char beyond[16];
  } large = {.known = {.size = sizeof large, .parts = CKPT_PART_SHARED_ALL}};
  char name[CKPT_NAME_MAX + 2] = {0};
  const size_t sizes[] = {0, 1, sizeof(size_t) - 1, 4097, SIZE_MAX};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    large.known.size = sizes[i];
    expect_error(savecontext_with(&large.known), EINVAL);
  }
  large.known.size = sizeof large;
  large.beyond[15] = 1;
  expect_error(savecontext_with(&large.known), EINVAL);
  expect_error(recovercontext_with(&large.known), EINVAL);
  large.beyond[15] = 0;
  large.known.parts = 32;
  expect_error(savecontext_with(&large.known), EINVAL);
  large.known.parts = CKPT_PART_SHARED_ALL;
  memset(name, 'n', CKPT_NAME_MAX + 1);
  large.known.name = name;
  expect_error(savecontext_with(&large.known), EINVAL);
  expect_error(ckpt_forget(name), EINVAL);

  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_twice, peer);
  name[CKPT_NAME_MAX] = 0;
  expect_success(savecontext_with(&large.known));
  // Of an older header: what lies beyond its size is not looked at.
  large.known.size = offsetof(struct ckpt_options, parts);
  large.known.name = "short";
  expect_success(savecontext_with(&large.known));
  pthread_join(thread, NULL);
  expect(strcmp(ckpt_version(), "0.1.0") == 0);
}

// ---- threads ----

#define CALLERS 4
#define CALLS 25

static void* serve_many(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  for (int i = 0; i < CALLERS * CALLS; i++) {
    char more;
    peer_begin(peer, CKPT_WIRE_SAVE, 1, 0);
    expect(recv(peer->fd, &more, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    peer_done(peer);
  }
  return NULL;
}

static void* call_often(void* data) {
  (void)data;
  for (int i = 0; i < CALLS; i++) expect_success(savecontext());
  return NULL;
}

static void threads(Peer* peer) {
  pthread_t callers[CALLERS];
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_many, peer);
  for (int i = 0; i < CALLERS; i++) callers[i] = start(call_often, NULL);
  for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
  pthread_join(thread, NULL);
  int fd;
  expect(connections_to(peer->path, &fd) == 1);
}

static pthread_barrier_t both_failed;

static void* fail_by_name(void* data) {
  (void)data;
  char name[CKPT_NAME_MAX + 2];
  memset(name, 'n', sizeof name);
  name[sizeof name - 1] = 0;
  expect_error(ckpt_forget(name), EINVAL);
  pthread_barrier_wait(&both_failed);
  expect_text("name");
  return NULL;
}

static void* fail_by_parts(void* data) {
  (void)data;
  expect_error(savecontext_with(&(struct ckpt_options){.size = sizeof(struct ckpt_options), .parts = 64}), EINVAL);
  pthread_barrier_wait(&both_failed);
  expect_text("parts");
  return NULL;
}

static void* fail_and_end(void* data) {
  expect_error(savecontext(), ENOTCONN);
  return data;
}

static void texts_of_threads(Peer* peer) {
  (void)peer;
  pthread_barrier_init(&both_failed, NULL, 2);
  const pthread_t one = start(fail_by_name, NULL), other = start(fail_by_parts, NULL);
  pthread_join(one, NULL);
  pthread_join(other, NULL);
  expect(*ckpt_strerror() == 0);
  // More threads than there is room for.
  for (int i = 0; i < 200; i++) pthread_join(start(fail_and_end, NULL), NULL);
  expect_error(savecontext(), ENOTCONN);
}

// ---- other processes ----

static void expect_child(pid_t child) {
  int status;
  expect(child > 0 && waitpid(child, &status, 0) == child);
  if (status != 0) fail("the child ended with status 0x%x", (unsigned)status);
}

static void* serve_two_connections(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_serve(peer, CKPT_WIRE_SAVE);
  const int first = peer->fd;
  peer_accept(peer);
  peer_read(peer, CKPT_WIRE_FORGET);
  SAY(peer, .type = CKPT_WIRE_FAILED, .error = ENOENT, .text = "Nothing is saved");
  peer->fd = first;
  peer_read(peer, CKPT_WIRE_FORGET);
  SAY(peer, .type = CKPT_WIRE_DONE);
  return NULL;
}

static void fork_child(Peer* peer) {
  int parents, childs;
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_two_connections, peer);
  expect_success(savecontext());
  expect(connections_to(peer->path, &parents) == 1);
  const pid_t child = fork();
  if (child == 0) {
    expect(*ckpt_strerror() == 0);
    expect_error(ckpt_forget(NULL), ENOENT);
    expect(connections_to(peer->path, &childs) == 1);
    _exit(0);
  }
  expect_child(child);
  expect_success(ckpt_forget(NULL));
  pthread_join(thread, NULL);
}

// The child has the pid of its parent, each in a namespace of its own.
static void fork_same_pid(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  expect(unshare(geteuid() == 0 ? CLONE_NEWPID : CLONE_NEWUSER | CLONE_NEWPID) == 0);
  const pid_t first = fork();
  if (first == 0) {
    expect(getpid() == 1);
    const pthread_t thread = start(serve_two_connections, peer);
    expect_success(savecontext());
    // Threads and namespaces do not go together, so a child does it that has none.
    const pid_t second = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
    if (second == 0) {
      expect(syscall(SYS_getpid) == 1);
      expect_error(ckpt_forget(NULL), ENOENT);
      _exit(0);
    }
    expect_child(second);
    expect_success(ckpt_forget(NULL));
    pthread_join(thread, NULL);
    _exit(0);
  }
  expect_child(first);
}

static void* save_slowly(void* data) {
  expect_success(savecontext());
  return data;
}

static void* serve_across_fork(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_begin(peer, CKPT_WIRE_SAVE, 1, 0);
  const int first = peer->fd;
  const struct ckpt_wire_request request = peer->request;
  peer_accept(peer);
  peer_read(peer, CKPT_WIRE_FORGET);
  SAY(peer, .type = CKPT_WIRE_DONE);
  peer->fd = first;
  peer->request = request;
  peer_done(peer);
  return NULL;
}

static void fork_amid_a_save(Peer* peer) {
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_across_fork, peer), saver = start(save_slowly, NULL);
  await(&calls.accessed, 1);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    expect_success(ckpt_forget(NULL));
    _exit(0);
  }
  expect_child(child);
  pthread_join(saver, NULL);
  pthread_join(thread, NULL);
}

static int call_in_shared_memory(void* data) {
  (void)data;
  errno = 0;
  return savecontext() == -1 && errno == EPERM && strstr(ckpt_strerror(), "vfork") != NULL ? 0 : 1;
}

static void* serve_and_forget(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_serve(peer, CKPT_WIRE_SAVE);
  peer_read(peer, CKPT_WIRE_FORGET);
  SAY(peer, .type = CKPT_WIRE_DONE);
  return NULL;
}

static void vfork_child(Peer* peer) {
  static char stack[256 << 10] __attribute__((aligned(16)));
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_and_forget, peer);
  expect_success(savecontext());
  expect_child(clone(call_in_shared_memory, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL));
  expect_success(ckpt_forget(NULL));
  pthread_join(thread, NULL);
}

// A program that closes all descriptors that it does not know, and opens others.
static void* serve_again(void* data) {
  Peer* const peer = data;
  peer_accept(peer);
  peer_serve(peer, CKPT_WIRE_SAVE);
  peer_accept(peer);
  peer_read(peer, CKPT_WIRE_FORGET);
  SAY(peer, .type = CKPT_WIRE_FAILED, .error = ENOENT, .text = "Nothing is saved");
  return NULL;
}

static void closed_by_program(Peer* peer) {
  int fd, stranger[2];
  char byte;
  peer_listen(peer, SOCK_SEQPACKET);
  const pthread_t thread = start(serve_again, peer);
  expect_success(savecontext());
  expect(connections_to(peer->path, &fd) == 1);
  expect(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, stranger) == 0);
  expect(dup2(stranger[0], fd) == fd);
  close(stranger[0]);
  expect_error(ckpt_forget(NULL), ENOENT);
  expect(recv(stranger[1], &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
  expect(write(fd, "x", 1) == 1);
  pthread_join(thread, NULL);
}

// ---- the cases ----

static const struct test {
  const char* name;
  void (*run)(Peer*);
} tests[] = {
    {"no socket", no_socket},
    {"a socket that nobody listens at", dead_socket},
    {"a socket of another kind", stream_socket},
    {"a path that is too long", long_path},
    {"a socket that this user may not use", forbidden_socket},
    {"save", save},
    {"recover and forget", recover_and_forget},
    {"system calls that were skipped are made again", again},
    {"... among signals", again_among_signals},
    {"one by one, waiting for MOVED", one_by_one},
    {"a marker that nobody sees", unseen_marker},
    {"a daemon that says nothing", silent_daemon},
    {"a daemon that accepts nobody", stopped_daemon},
    {"a daemon that repeats itself", repeating_daemon},
    {"a daemon that dies", death},
    {"a daemon that dies in a recover", death_in_a_recover},
    {"messages that make no sense", nonsense},
    {"failures", failures},
    {"progress", progress},
    {"cancel", cancel},
    {"a call from the callback", call_from_callback},
    {"options", options},
    {"threads that call at once", threads},
    {"each thread has its own text", texts_of_threads},
    {"a child made by fork()", fork_child},
    {"... with the pid of its parent", fork_same_pid},
    {"... amid a save", fork_amid_a_save},
    {"a child that shares memory", vfork_child},
    {"a connection that the program closed", closed_by_program},
};
#define TESTS (sizeof tests / sizeof tests[0])

static pid_t begin(const struct test* test, int index) {
  fflush(stdout);
  const pid_t child = fork();
  if (child != 0) return child;
  static char path[108];
  snprintf(path, sizeof path, "%s/%d", directory, index);
  setenv(CKPT_SOCKET_ENV, path, 1);
  case_name = test->name;
  alarm(120);
  signal(SIGPIPE, SIG_DFL);
  count_calls();
  test->run(&(Peer){.path = path, .fd = -1});
  unlink(path);
  printf("ok %s\n", test->name);
  fflush(stdout);
  _exit(0);
}

static int wanted(const struct test* test, int count, char** names) {
  for (int i = 1; i < count; i++)
    if (strcmp(names[i], test->name) == 0) return 1;
  return count == 1;
}

int main(int count, char** args) {
  char folder[] = "/tmp/library-test-XXXXXX";
  pid_t children[TESTS] = {0};
  int failed = 0, ran = 0;
  directory = mkdtemp(folder);
  if (directory == NULL || chmod(directory, 0755) != 0) return perror(folder), 2;
  for (size_t i = 0; i < TESTS; i++)
    if (wanted(&tests[i], count, args)) children[i] = begin(&tests[i], (int)i), ran++;
  for (size_t i = 0; i < TESTS; i++) {
    int status;
    if (children[i] == 0) continue;
    if (children[i] < 0 || waitpid(children[i], &status, 0) < 0) return perror("fork"), 2;
    if (status == 0) continue;
    failed++;
    // A case that failed by itself has said why.
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 1) printf("not ok %s: ended with status 0x%x\n", tests[i].name, (unsigned)status);
  }
  for (size_t i = 0; i < TESTS; i++) {
    char path[128];
    snprintf(path, sizeof path, "%s/%zu", directory, i);
    unlink(path);
  }
  rmdir(directory);
  return failed != 0 || ran == 0;
}
