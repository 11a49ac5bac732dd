// threads.cc: see threads.h.
#include "threads.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "../error.h"

namespace ckpt {

namespace {

// How far below its stack pointer a thread's stack is taken to reach if nothing tells.
constexpr uint64_t kReach = uint64_t{1} << 20;

// The text of /proc/PID/task/TID/NAME; none if the thread has ended.
std::optional<std::string> text_of(const Target& target, pid_t tid, const char* name) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "task/%d/%s", tid, name);
  const Fd fd(openat(target.folder(), path, O_RDONLY | O_CLOEXEC));
  const ssize_t got = fd ? read(fd.get(), text, sizeof text) : -1;
  if (got >= 0) return std::string(text, static_cast<size_t>(got));
  if (errno == ENOENT || errno == ESRCH) return std::nullopt;
  const Code code = errno == EPERM || errno == EACCES ? Code::kCapability : Code::kInternal;
  throw error(code, "Cannot read the %s of thread %d of process %d: %s", name, tid, target.pid(), errno_text(errno).c_str());
}

// "0 0x3 0x7ffd01 0x1 0x0 0x0 0x0 0x7ffd02 0x7f0003", "-1 0x7ffd02 0x7f0003" or "running": the last but one.
uint64_t stack_pointer_in(const std::string& syscall) {
  const size_t last = syscall.rfind(' ');
  if (last == std::string::npos || last == 0) return 0;
  const size_t before = syscall.rfind(' ', last - 1);
  return before == std::string::npos ? 0 : strtoull(syscall.c_str() + before, nullptr, 16);
}

// Field 22; the second is the name, which may contain anything. None of a thread that has ended.
std::optional<uint64_t> start_time_in(const std::string& stat) {
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos || name_end + 2 >= stat.size()) return std::nullopt;
  const char state = stat[name_end + 2];
  if (state == 'Z' || state == 'X') return std::nullopt;
  size_t at = name_end + 2;
  for (int field = 3; field < 22 && at != std::string::npos; field++) at = stat.find(' ', at + 1);
  if (at == std::string::npos) return std::nullopt;
  return strtoull(stat.c_str() + at, nullptr, 10);
}

uint64_t robust_list_of(pid_t tid) {
  robust_list_head* head = nullptr;
  size_t bytes = 0;
  if (syscall(SYS_get_robust_list, tid, &head, &bytes) == 0) return reinterpret_cast<uint64_t>(head);
  if (errno == ESRCH) return 0;
  const Code code = errno == EPERM ? Code::kCapability : Code::kInternal;
  throw error(code, "Cannot ask for the robust list of thread %d: %s", tid, errno_text(errno).c_str());
}

// get_robust_list() goes by tid; the last look, at a file of the process's own folder, tells that it was a thread of it.
std::optional<Thread> read_thread(const Target& target, pid_t tid) {
  const std::optional<std::string> syscall = text_of(target, tid, "syscall");
  if (!syscall) return std::nullopt;
  Thread thread{tid, 0, stack_pointer_in(*syscall), robust_list_of(tid)};
  const std::optional<std::string> stat = text_of(target, tid, "stat");
  const std::optional<uint64_t> start = stat ? start_time_in(*stat) : std::nullopt;
  if (!start) return std::nullopt;
  thread.start_time = *start;
  return thread;
}

Error cannot_tell(const Thread& thread, const char* why) {
  return error(Code::kUnreadable, "Where the stack of thread %d lies cannot be told: %s", thread.tid, why);
}

// The block that the thread's stack was made from, as its descriptor tells. glibc notes start and length in two words that follow one
// another, some way behind the robust list; where exactly depends on its version. No other two words describe mapped memory that ends just
// behind the descriptor.
std::optional<Range> described_stack(const Target& target, const Thread& thread, const NamedMapping& mapping,
                                     const std::vector<NamedMapping>& mappings) {
  constexpr uint64_t kDescriptor = 4096;  // bytes behind the robust list to look at; it has 2304 in all
  constexpr uint64_t kLeast = 16384;      // PTHREAD_STACK_MIN
  const uint64_t at = thread.robust_list;
  uint64_t words[kDescriptor / sizeof(uint64_t)];
  const uint64_t bytes = std::min<uint64_t>(kDescriptor, mapping.end - at) / sizeof *words * sizeof *words;
  target.read({at, at + bytes}, words);
  for (uint64_t i = 0; i + 1 < bytes / sizeof *words; i++) {
    const uint64_t start = words[i], length = words[i + 1];
    const uint64_t end = start + length;
    if (start >= at || length < kLeast || end <= at || end > at + 2 * kDescriptor) continue;
    if (mapping_at(mappings, start) != nullptr) return Range{page_down(start), page_up(end)};
  }
  return std::nullopt;
}

// By what lies around it: a stack ends with the descriptor, and begins above its guard page. Other memory may have been merged with it at
// both ends.
Range surrounded_stack(const Thread& thread, const NamedMapping& mapping, const std::vector<NamedMapping>& mappings) {
  const uint64_t end = page_up(thread.robust_list + 1);
  const NamedMapping* const below = mapping_at(mappings, mapping.start - 1);
  const bool guarded = below != nullptr && below->protection() == 0;
  if (guarded) return {mapping.start, end};
  if (thread.stack_pointer == 0) throw cannot_tell(thread, "it is running");
  if (thread.stack_pointer <= mapping.start || thread.stack_pointer > end) throw cannot_tell(thread, "it runs on another one");
  return {std::max(mapping.start, page_down(thread.stack_pointer - 1) - std::min(page_down(thread.stack_pointer - 1), kReach)), end};
}

// All that is known of a thread that the C library did not make.
Range foreign_stack(const Thread& thread, const std::vector<NamedMapping>& mappings) {
  if (thread.stack_pointer == 0) throw cannot_tell(thread, "it is running, and has no robust list");
  const NamedMapping* const mapping = mapping_at(mappings, thread.stack_pointer - 1);
  if (mapping == nullptr) throw cannot_tell(thread, "its stack pointer points nowhere");
  const uint64_t page = page_down(thread.stack_pointer - 1);
  return {std::max(mapping->start, page - std::min(page, kReach)), mapping->end};
}

}  // namespace

std::vector<Thread> read_threads(const Target& target) {
  const int fd = openat(target.folder(), "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(fd < 0 ? nullptr : fdopendir(fd), closedir);
  std::vector<Thread> threads;
  if (!tasks && (errno == ENOENT || errno == ESRCH)) return threads;
  if (!tasks) throw error(Code::kInternal, "Cannot list the threads of process %d: %s", target.pid(), errno_text(errno).c_str());
  while (const dirent* entry = readdir(tasks.get())) {
    const pid_t tid = atoi(entry->d_name);
    if (tid <= 0) continue;
    if (const std::optional<Thread> thread = read_thread(target, tid)) threads.push_back(*thread);
  }
  std::sort(threads.begin(), threads.end(), [](const Thread& a, const Thread& b) { return a.tid < b.tid; });
  return threads;
}

Range stack_of(const Target& target, const Thread& thread, const std::vector<NamedMapping>& mappings) {
  if (thread.tid == target.pid()) {
    for (const NamedMapping& mapping : mappings)
      if (mapping.name == "[stack]") return mapping.range();
    throw cannot_tell(thread, "the process has no [stack]");
  }
  const NamedMapping* const mapping = thread.robust_list == 0 ? nullptr : mapping_at(mappings, thread.robust_list);
  if (mapping == nullptr) return foreign_stack(thread, mappings);
  const std::optional<Range> described = described_stack(target, thread, *mapping, mappings);
  return described ? *described : surrounded_stack(thread, *mapping, mappings);
}

const NamedMapping* mapping_at(const std::vector<NamedMapping>& mappings, uint64_t address) {
  const auto found =
      std::upper_bound(mappings.begin(), mappings.end(), address, [](uint64_t at, const NamedMapping& m) { return at < m.end; });
  return found == mappings.end() || found->start > address ? nullptr : &*found;
}

}  // namespace ckpt
