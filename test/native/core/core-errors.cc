// core-errors.cc: brings about what JavaScript cannot, against the core itself, and prints the code of the error that comes of it.
//
// usage: core-errors CASE
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "rewind/arena.h"

namespace {

using ckpt::Handle;
using ckpt::Range;

uint64_t owner;
std::vector<char> memory(100000, 1);

std::vector<Range> regions() {
  const auto start = reinterpret_cast<uint64_t>(memory.data());
  return {{start, start + memory.size()}};
}

Handle capture(const ckpt::Options& options = {}) { return ckpt::capture(owner, regions(), options); }

std::string code_of(const std::function<void()>& call) {
  try {
    call();
    return "none";
  } catch (const ckpt::Error& error) {
    return ckpt::code_name(error.code());
  }
}

// Holds its operation open until told.
class Holding : public ckpt::Observer {
 public:
  Holding(std::atomic<int>& arrived, std::atomic<bool>& leave) : arrived_(arrived), leave_(leave) {}
  void progress(const ckpt::Progress&) override {
    arrived_++;
    while (!leave_) usleep(1000);
  }
  void about_to_move(Range) override {}

 private:
  std::atomic<int>& arrived_;
  std::atomic<bool>& leave_;
};

// A child made by fork() without exec, and its parent afterwards.
std::string forked() {
  capture();
  int result[2];
  if (pipe(result) != 0) return "pipe";
  const pid_t child = fork();
  if (child == 0) {
    const std::string code = code_of([] { capture(); });
    ckpt::discard(owner, {0, 1});
    ckpt::close_owner(owner);
    _exit(write(result[1], code.data(), code.size()) < 0);
  }
  close(result[1]);
  char text[64] = "";
  int status = 0;
  if (read(result[0], text, sizeof text - 1) < 0 || waitpid(child, &status, 0) != child || status != 0) return "the child died";
  return std::string(text) + ", parent: " + code_of([] { capture(); });
}

// The programs are gone though we hold them for attached.
std::string detached() {
  capture();
  ckpt::bpf::detach(ckpt::arena().sessions[0].session);
  return code_of([] { capture(); });
}

// Handles that were never given out, and one that belongs to another thread's environment.
std::string unknown() {
  const Handle mine = capture();
  const uint64_t other = ckpt::open_owner();
  std::string codes = code_of([&] { ckpt::restore(other, mine, regions(), {}); });
  codes += " " + code_of([&] { ckpt::dispose(owner, {mine.index, mine.generation + 1}); });
  codes += " " + code_of([&] { ckpt::dispose(owner, {~0u, 0}); });
  codes += " " + code_of([&] { ckpt::dispose(owner, mine); });
  return codes + " " + code_of([&] { ckpt::dispose(owner, mine); });
}

// As many operations under way as there can be, and one more.
std::string crowded() {
  capture();
  std::atomic<int> arrived{0};
  std::atomic<bool> leave{false};
  Holding holding(arrived, leave);
  ckpt::Options held;
  held.observer = &holding;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < CKPT_OPS; i++) threads.emplace_back([&] { capture(held); });
  while (arrived < static_cast<int>(CKPT_OPS)) usleep(1000);
  const std::string code = code_of([] { capture(); });
  leave = true;
  for (std::thread& thread : threads) thread.join();
  return code + ", then: " + code_of([] { capture(); });
}

// How often the program answers each of these openat() calls, which carry our tag: the marker itself, and what is nearly it.
std::string markers() {
  capture();
  const ckpt::bpf::Session& session = ckpt::arena().sessions[0].session;
  const uint32_t op = CKPT_OPS - 1;
  __atomic_fetch_add(&session.globals->armed, 1, __ATOMIC_SEQ_CST);
  std::string answers;
  for (const char* path : {"ready_to_checkpoint", "ready_to_checkpoin", "ready_to_checkpoints", "Ready_to_checkpoint",
                           "/ready_to_checkpoint", "ready_to_checkpoint/", "", "/tmp/checkpoint_complete"}) {
    ckpt_queue* const queue = ckpt::bpf::queue_of(session, op);
    const uint32_t before = queue->armed;
    for (int i = 0; i < 100; i++) syscall(SYS_openat, -1L, path, 0L, CKPT_TAG(session.nonce, 0, op));
    answers += queue->armed == before ? '-' : '+';
  }
  __atomic_fetch_sub(&session.globals->armed, 1, __ATOMIC_SEQ_CST);
  return answers;
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, std::string (*)()> cases{
      {"forked", forked}, {"detached", detached}, {"unknown", unknown}, {"crowded", crowded}, {"markers", markers}};
  const auto found = cases.find(argc == 2 ? argv[1] : "");
  if (found == cases.end()) return 2;
  owner = ckpt::open_owner();
  puts(found->second().c_str());
  ckpt::close_owner(owner);
  return 0;
}
