// client.cc: see client.h.
#include "client.h"

#include <dirent.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "../error.h"

namespace ckpt {

namespace {

// <sys/syscall.h> of older libcs lacks them; the numbers are the same everywhere.
constexpr long kPidfdSendSignal = 424;
constexpr long kPidfdOpen = 434;

Fd open_pidfd(pid_t pid) {
  Fd fd(static_cast<int>(syscall(kPidfdOpen, pid, 0)));
  if (!fd) throw error(Code::kUnknown, "Process %d is gone: %s", pid, errno_text(errno).c_str());
  return fd;
}

// The state letter of a thread; 0 if it is gone. The name before it may hold any character but is the last thing in parentheses.
char state_of(const std::string& stat) {
  std::ifstream file(stat);
  std::string line;
  std::getline(file, line);
  const size_t end = line.rfind(')');
  return end == std::string::npos || end + 2 >= line.size() ? 0 : line[end + 2];
}

}  // namespace

Client::Client(pid_t pid) : pid(pid), pidfd(open_pidfd(pid)), target(pid) {}

uint64_t Client::held_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, image] : images)
    for (const auto& store : image->stores)
      for (const Extent& extent : store->extents()) bytes += extent.count * kPage;
  return bytes;
}

void Client::bind(const ckpt_identity& seen) {
  if (same_identity(identity, seen)) return;
  drop();
  target = Target(pid);
  identity = seen;
}

void Client::drop() noexcept {
  images.clear();
  poisoned = false;
  identity = {};
}

void Client::signal(int number) const noexcept { syscall(kPidfdSendSignal, pidfd.get(), number, nullptr, 0); }

bool Client::ended() const {
  pollfd fd{pidfd.get(), POLLIN, 0};
  return poll(&fd, 1, 0) == 1;
}

uint64_t Client::start_time() const {
  constexpr int kField = 22, kAfterName = 3;
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const size_t end = line.rfind(')');
  if (end == std::string::npos) return 0;
  std::istringstream words(line.substr(end + 2));
  std::string word;
  for (int field = kAfterName; field < kField; field++) words >> word;
  uint64_t ticks = 0;
  words >> ticks;
  return ticks * (1000000000u / static_cast<uint64_t>(sysconf(_SC_CLK_TCK)));
}

bool Client::stopped() const {
  const std::string folder = "/proc/" + std::to_string(pid) + "/task";
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(opendir(folder.c_str()), closedir);
  if (!tasks) return false;
  while (const dirent* entry = readdir(tasks.get())) {
    if (entry->d_name[0] == '.') continue;
    const char state = state_of(folder + "/" + entry->d_name + "/stat");
    // A leader that has called pthread_exit() is a zombie until the last thread ends.
    if (state != 'T' && state != 't' && state != 'Z' && state != 0) return false;
  }
  return true;
}

}  // namespace ckpt
