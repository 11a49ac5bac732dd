// children.h: what tests on real children share: a child that does as it is told, a letter a time, and what is checked of it.
//
// Children are the test program again, run as `PROGRAM child SCENARIO`: they set something up, tell where it lies, and do what they are
// told. They keep away from stdio and malloc() while they are rolled back: both live in the memory that is.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "daemon/rollback.h"

using ckpt::Code;
using ckpt::Coverage;
using ckpt::kPage;
using ckpt::Range;
using ckpt::Target;

constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr int kTellFd = 3, kHearFd = 4, kGivenFd = 5;

inline uint64_t address_of(const volatile void* at) { return reinterpret_cast<uint64_t>(at); }
inline char* at_address(uint64_t address) { return reinterpret_cast<char*>(address); }

// ------------------------------------------------------------------ what children do

namespace child {

using Scenarios = std::map<std::string, void (*)()>;

// How it waits to be told before it calls read().
inline void (*waits)() = [] {};

inline void tell(const char* name, uint64_t value) { dprintf(kTellFd, "%s %" PRIx64 "\n", name, value); }
inline void tell(const char* name, const volatile void* at) { tell(name, address_of(at)); }
inline void require(bool holds, const char* what) {
  if (holds) return;
  dprintf(2, "the child cannot %s: %s\n", what, strerror(errno));
  _exit(3);
}

// Says that all is told, and waits for the next letter.
inline char next() {
  char letter = 'q';
  require(write(kTellFd, "\n", 1) == 1, "tell");
  waits();
  if (read(kHearFd, &letter, 1) != 1 || letter == 'q') _exit(0);
  return letter;
}

inline char* map(uint64_t bytes, int protection = kReadWrite, int flags = kAnonymous, int fd = -1, uint64_t at = 0) {
  char* const got = static_cast<char*>(mmap(at_address(at), bytes, protection, flags, fd, 0));
  require(got != MAP_FAILED, "map memory");
  return got;
}

// A mapping that no other is merged with.
inline char* map_alone(uint64_t bytes, int protection = kReadWrite, int flags = kAnonymous, int fd = -1) {
  char* const room = map(bytes + 2 * kPage, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS);
  return map(bytes, protection, flags | MAP_FIXED, fd, address_of(room + kPage));
}

inline int file_of(uint64_t bytes) {
  char path[] = "/tmp/child-XXXXXX";
  const int fd = mkstemp(path);
  require(fd >= 0 && unlink(path) == 0, "make a file");
  static char page[kPage];
  for (uint64_t done = 0; done < bytes; done += kPage) {
    memset(page, static_cast<int>('a' + done / kPage % 26), kPage);
    require(write(fd, page, kPage) == kPage, "write a file");
  }
  return fd;
}

// For main(): does not return in a child.
inline void be_one_if_told(int argc, char** argv, const Scenarios& scenarios) {
  if (argc != 3 || strcmp(argv[1], "child") != 0) return;
  const auto scenario = scenarios.find(argv[2]);
  if (scenario != scenarios.end()) scenario->second();
  exit(2);
}

}  // namespace child

// ------------------------------------------------------------------ what is checked

inline int failures = 0;

inline void check(const std::string& name, bool holds, const std::string& why = "") {
  if (holds) {
    printf("ok %s\n", name.c_str());
  } else {
    printf("not ok %s: %s\n", name.c_str(), why.empty() ? "it does not hold" : why.c_str());
    failures++;
  }
  fflush(stdout);
}

inline std::string hex(uint64_t value) {
  char text[32];
  snprintf(text, sizeof text, "0x%" PRIx64, value);
  return text;
}

class Child {
 public:
  // Microseconds that it is given to be in read() once it has told all.
  static inline useconds_t settles = 0;

  explicit Child(const char* scenario, int given = -1) {
    int from[2], to[2];
    if (pipe2(from, O_CLOEXEC) != 0 || pipe2(to, O_CLOEXEC) != 0) throw ckpt::error(Code::kInternal, "No pipe");
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      // First out of the way of each other.
      const int tell = fcntl(from[1], F_DUPFD, 10), hear = fcntl(to[0], F_DUPFD, 10), third = given < 0 ? -1 : fcntl(given, F_DUPFD, 10);
      dup2(tell, kTellFd), dup2(hear, kHearFd);
      if (third >= 0) dup2(third, kGivenFd);
      close(tell), close(hear);
      execl("/proc/self/exe", program_invocation_short_name, "child", scenario, nullptr);
      _exit(127);
    }
    tell_ = ckpt::Fd(to[1]), hear_ = ckpt::Fd(from[0]);
    close(to[0]), close(from[1]);
    listen();
  }
  ~Child() {
    if (pid_ == 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  uint64_t operator[](const std::string& name) const {
    const auto found = known_.find(name);
    if (found == known_.end()) throw ckpt::error(Code::kInternal, "The child has not told %s", name.c_str());
    return found->second;
  }
  void send(char letter) const {
    if (write(tell_.get(), &letter, 1) != 1) throw ckpt::error(Code::kInternal, "The child does not listen");
  }
  // Until the empty line; then the child waits, or is about to.
  void listen() {
    std::string line;
    for (char letter;;) {
      if (read(hear_.get(), &letter, 1) != 1) throw ckpt::error(Code::kInternal, "The child ended: status 0x%x", reap());
      if (letter != '\n') {
        line += letter;
        continue;
      }
      if (line.empty()) break;
      const size_t blank = line.find(' ');
      known_[line.substr(0, blank)] = strtoull(line.c_str() + blank, nullptr, 16);
      line.clear();
    }
    if (settles > 0) usleep(settles);
  }
  void tell(char letter) {
    send(letter);
    listen();
  }
  void stop() const {
    kill(pid_, SIGSTOP);
    await_stop();
  }
  void await_stop() const {
    int status;
    if (waitpid(pid_, &status, WUNTRACED) != pid_ || !WIFSTOPPED(status)) throw ckpt::error(Code::kInternal, "The child does not stop");
  }
  void go_on() const { kill(pid_, SIGCONT); }
  // How it ended, and it is nobody's any more.
  int reap() {
    int status = -1;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return status;
  }

 private:
  pid_t pid_;
  ckpt::Fd tell_, hear_;
  std::map<std::string, uint64_t> known_;
};

struct Refusal {
  bool thrown = false;
  Code code{};
  std::string message;
  uint64_t address = 0;

  bool is(Code wanted, const std::string& part) const { return thrown && code == wanted && message.find(part) != std::string::npos; }
  std::string text() const {
    return thrown ? std::string(ckpt::code_name(code)) + " " + message + " at " + hex(address) : "nothing was refused";
  }
};

inline Refusal refusal_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const ckpt::Error& reason) {
    return {true, reason.code(), reason.what(), reason.address()};
  }
  return {};
}

struct Saved {
  Coverage coverage;
  std::vector<Range> runs;
  std::vector<std::vector<char>> bytes;
};

inline Saved save(const Target& target) {
  Saved saved{ckpt::cover(target, ckpt::kPartsDefault, {}), {}, {}};
  saved.runs = ckpt::captured_runs(target, saved.coverage);
  for (const Range& run : saved.runs) {
    saved.bytes.emplace_back(run.bytes());
    target.read(run, saved.bytes.back().data());
  }
  return saved;
}

// Of memory that lies where it lay. Returns how many pages were none at the save.
inline uint64_t put_contents_back(const Target& target, const Saved& saved) {
  uint64_t pages = 0;
  std::vector<char> bytes;
  for (const ckpt::Reset& reset : ckpt::resets(target, saved.coverage, saved.runs)) {
    pages += reset.range.pages();
    if (!reset.file) {
      target.clear(reset.range);
      continue;
    }
    bytes.resize(reset.range.bytes());
    target.file_bytes(*reset.file, reset.range, bytes.data());
    target.write(reset.range, bytes.data());
  }
  for (size_t i = 0; i < saved.runs.size(); i++) target.write(saved.runs[i], saved.bytes[i].data());
  return pages;
}

// All tests, or the one that is named. Returns what main() does.
template <size_t N>
int run_tests(int argc, char** argv, const std::pair<const char*, void (*)()> (&tests)[N]) {
  for (const auto& [name, test] : tests) {
    if (argc == 2 && strcmp(argv[1], name) != 0) continue;
    const Refusal refusal = refusal_of(test);
    if (refusal.thrown) check(std::string("goes through: ") + name, false, refusal.text());
  }
  return failures == 0 ? 0 : 1;
}
