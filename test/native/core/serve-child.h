// serve-child.h: a client for serve-bpf.cc: a process that does as it is told, line by line, and says what came of it.
//
// mark PATH TAG        openat()                     fill SEED     the buffer, with bytes of its own
// look PATH TAG        access()                     count SEED    the bytes of the buffer that are those
// mark-many PATH N     openat(), so often           where         the address of the buffer
// look-many PATH TAG N THREADS                      pid           as it counts itself
// mark-unread PATH     openat() of a path that is not in memory; says where it was
// mark-nowhere N       openat() of an address where nothing is, so often
// spin PATH TAG THREADS   access() without end, aside
// setuid UID, suid UID, dumpable 0|1, drop CAPABILITY, userns, exec
#pragma once

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cinttypes>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "fd.h"

namespace client {

constexpr size_t kBufferBytes = size_t{4} << 20;

// No two neighbours, pages or seeds look alike.
inline char byte_at(uint64_t at, uint64_t seed) {
  uint64_t x = (at + 1) * 0x9e3779b97f4a7c15 ^ seed * 0xbf58476d1ce4e5b9;
  return static_cast<char>(x >> 56 ^ x >> 23);
}

inline void open_path(const char* path, uint64_t tag) {
  const long fd = syscall(SYS_openat, AT_FDCWD, path, 0L, tag);
  if (fd >= 0) close(static_cast<int>(fd));
}

inline void look_for(const char* path, uint64_t tag) { syscall(SYS_access, path, tag); }

inline void look_often(const std::string& path, uint64_t tag, int times, int threads) {
  std::vector<std::thread> others;
  for (int i = 0; i < threads; i++) {
    others.emplace_back([&] {
      for (int n = 0; n < times; n++) look_for(path.c_str(), tag);
    });
  }
  for (std::thread& other : others) other.join();
}

// Without end, from threads of their own.
inline void look_for_ever(const std::string& path, uint64_t tag, int threads) {
  for (int i = 0; i < threads; i++) {
    std::thread([path, tag] {
      for (;;) look_for(path.c_str(), tag);
    }).detach();
  }
}

// Takes one capability out of the permitted and effective sets.
inline int drop_capability(int capability) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) != 0) return -1;
  data[capability / 32].effective &= ~(1u << capability % 32);
  data[capability / 32].permitted &= ~(1u << capability % 32);
  return static_cast<int>(syscall(SYS_capset, &header, data));
}

// A path in a page of a file that nobody has touched through this mapping.
inline uint64_t mark_unread(const std::string& path) {
  const ckpt::Fd file(memfd_create("path", MFD_CLOEXEC));
  if (pwrite(file.get(), path.c_str(), path.size() + 1, 0) < 0) abort();
  void* const page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, file.get(), 0);
  open_path(static_cast<const char*>(page), 0);
  return reinterpret_cast<uint64_t>(page);
}

inline std::string obey(std::istringstream& words, char* buffer) {
  std::string word, path;
  uint64_t tag = 0, number = 0;
  words >> word;
  if (word == "mark") {
    words >> path >> tag;
    open_path(path.c_str(), tag);
  } else if (word == "look") {
    words >> path >> tag;
    look_for(path.c_str(), tag);
  } else if (word == "mark-many") {
    words >> path >> number;
    for (uint64_t i = 0; i < number; i++) open_path(path.c_str(), 0);
  } else if (word == "look-many") {
    int threads = 0;
    words >> path >> tag >> number >> threads;
    look_often(path, tag, static_cast<int>(number), threads);
  } else if (word == "spin") {
    int threads = 0;
    words >> path >> tag >> threads;
    look_for_ever(path, tag, threads);
  } else if (word == "mark-unread") {
    words >> path;
    return std::to_string(mark_unread(path));
  } else if (word == "mark-nowhere") {
    words >> number;
    for (uint64_t i = 0; i < number; i++) open_path(reinterpret_cast<const char*>(8), 0);
  } else if (word == "fill") {
    words >> number;
    for (size_t i = 0; i < kBufferBytes; i++) buffer[i] = byte_at(i, number);
  } else if (word == "count") {
    size_t same = 0;
    words >> number;
    for (size_t i = 0; i < kBufferBytes; i++) same += buffer[i] == byte_at(i, number);
    return std::to_string(same);
  } else if (word == "where") {
    return std::to_string(reinterpret_cast<uint64_t>(buffer));
  } else if (word == "pid") {
    return std::to_string(getpid());
  } else if (word == "setuid") {
    words >> number;
    return std::to_string(setresuid(static_cast<uid_t>(number), static_cast<uid_t>(number), static_cast<uid_t>(number)));
  } else if (word == "suid") {
    words >> number;
    const int result = setresuid(static_cast<uid_t>(-1), static_cast<uid_t>(-1), static_cast<uid_t>(number));
    return prctl(PR_GET_DUMPABLE) == 1 ? std::to_string(result) : "not dumpable any more";
  } else if (word == "drop") {
    words >> number;
    return std::to_string(drop_capability(static_cast<int>(number)));
  } else if (word == "userns") {
    return std::to_string(unshare(CLONE_NEWUSER));
  } else if (word == "dumpable") {
    words >> number;
    return std::to_string(prctl(PR_SET_DUMPABLE, number));
  } else if (word == "exec") {
    execl("/proc/self/exe", "serve-bpf", "child", nullptr);
    abort();
  } else {
    abort();
  }
  return "done";
}

// The child's main(): until its input ends.
inline int serve_orders() {
  char* const buffer = static_cast<char*>(mmap(nullptr, kBufferBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  memset(buffer, 1, kBufferBytes);
  puts("ready");
  fflush(stdout);
  for (char line[512]; fgets(line, sizeof line, stdin) != nullptr;) {
    std::istringstream words(line);
    puts(obey(words, buffer).c_str());
    fflush(stdout);
  }
  return 0;
}

// The parent's side. Ends the child when it goes.
class Child {
 public:
  // A uid of -1: ours. `flags`: of clone(), besides SIGCHLD.
  explicit Child(int uid = -1, unsigned long flags = 0) {
    int orders[2], answers[2];
    if (pipe2(orders, O_CLOEXEC) != 0 || pipe2(answers, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    pid_ = static_cast<pid_t>(syscall(SYS_clone, flags | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
    if (pid_ == 0) {
      dup2(orders[0], 0);
      dup2(answers[1], 1);
      const auto id = static_cast<uid_t>(uid);
      if (uid >= 0 && (setresgid(id, id, id) != 0 || setresuid(id, id, id) != 0)) _exit(3);
      execl("/proc/self/exe", "serve-bpf", "child", nullptr);
      _exit(3);
    }
    close(orders[0]);
    close(answers[1]);
    orders_.reset(orders[1]);
    answers_.reset(answers[0]);
    all().insert(pid_);
    if (pid_ < 0 || answer() != "ready") throw std::runtime_error("a child did not start");
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }
  // Whether it is, or was, one of ours.
  static bool is_one(pid_t pid) { return all().count(pid) != 0; }

  void order(const std::string& line) const {
    const std::string text = line + "\n";
    if (write(orders_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) throw std::runtime_error("a child is gone");
  }
  std::string answer() const {
    std::string line;
    for (char c; read(answers_.get(), &c, 1) == 1 && c != '\n';) line += c;
    return line;
  }
  std::string tell(const std::string& line) const {
    order(line);
    return answer();
  }
  uint64_t ask(const std::string& line) const { return std::stoull(tell(line)); }

  // Whether it stops (answers) within some seconds; false if it answers (stops) instead.
  bool stops() const {
    for (int i = 0; i < 5000; i++) {
      int status = 0;
      if (waitpid(pid_, &status, WUNTRACED | WNOHANG) == pid_) return WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP;
      if (answered()) {
        usleep(20000);  // a signal may be on its way
        return waitpid(pid_, &status, WUNTRACED | WNOHANG) == pid_ && WIFSTOPPED(status);
      }
      usleep(1000);
    }
    return false;
  }
  // Whether there is an answer within some seconds.
  bool answers() const {
    for (int i = 0; i < 5000 && !answered(); i++) usleep(1000);
    return answered();
  }
  // Lets it go on to the end of what it was told.
  std::string go_on() const {
    kill(pid_, SIGCONT);
    return answer();
  }

 private:
  static std::set<pid_t>& all() {
    static std::set<pid_t> pids;
    return pids;
  }
  bool answered() const {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(answers_.get(), &set);
    timeval none{0, 0};
    return select(answers_.get() + 1, &set, nullptr, nullptr, &none) > 0;
  }

  pid_t pid_ = -1;
  ckpt::Fd orders_, answers_;
};

}  // namespace client
