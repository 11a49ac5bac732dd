// inject.cc: see inject.h.
//
// How the kernel stops a thread decides how it may be let go. The thread is stopped where the kernel looks for its signals, on its way out
// of the system call that it waits in (PTRACE_EVENT_STOP). Calls are made between stops at their entry and exit: single steps would come as
// SIGTRAP, for which the kernel resets what the program ignores or blocks. Signals are blocked meanwhile, not taken and given back: they
// stay in their queues, in order and with all that they carry. At the end the thread is brought back to where signals are looked for: only
// from there does the kernel take up the call again that was interrupted, and stop the thread again if its process is.
#include "inject.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <linux/auxvec.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "../engine/clock.h"
#include "../error.h"

namespace ckpt {

namespace {

constexpr uint64_t kMillisecond = 1000000;
constexpr uint64_t kHoldMs = 1000;  // for a thread to be had
constexpr int kCallSeconds = 10;    // for all calls to return
constexpr unsigned kYields = 200;   // looks before it is worth sleeping between them
constexpr useconds_t kBetweenUs = 100;
constexpr int kSystemCallStop = SIGTRAP | 0x80;  // PTRACE_O_TRACESYSGOOD
constexpr uint64_t kKernelSignals = 8;           // bytes of the kernel's signal set
constexpr uint64_t kNever = UINT64_MAX;

Error refusal(const char* format, pid_t id) { return error(Code::kUnmapped, format, id); }
Error ended(pid_t tid) { return refusal("Thread %d has ended", tid); }

// A file of the process's own folder, always the same process's; none if the thread has ended.
std::optional<std::string> text_of(const Target& target, pid_t tid, const char* name) {
  const std::string path = "task/" + std::to_string(tid) + "/" + name;
  const Fd fd(openat(target.folder(), path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text(4096, '\0');
  const ssize_t got = fd ? read(fd.get(), &text[0], text.size()) : -1;
  if (got <= 0) return std::nullopt;
  text.resize(static_cast<size_t>(got));
  return text;
}

// What follows "Name:" in a status file.
std::string field(const std::string& status, const char* name) {
  const std::string start = std::string("\n") + name + ":\t";
  const size_t at = status.find(start);
  return at == std::string::npos ? "" : status.substr(at + start.size(), status.find('\n', at + 1) - at - start.size());
}

// ------------------------------------------------------------------ which thread

// Calls that the kernel always takes up again after an interruption that runs no handler. Others fail with EINTR: epoll_wait(), semop(),
// sigtimedwait(), sockets with a timeout.
constexpr long kTakenUpAgain[] = {
#ifdef SYS_poll
    SYS_poll,
#endif
#ifdef SYS_select
    SYS_select,
#endif
#ifdef SYS_pause
    SYS_pause,
#endif
    SYS_ppoll,  SYS_pselect6, SYS_futex, SYS_nanosleep, SYS_clock_nanosleep, SYS_rt_sigsuspend, SYS_wait4, SYS_waitid};

constexpr int kFiltered = 10;  // added to the rank

struct Candidate {
  int rank;  // lower is better: how much it is disturbed
  pid_t tid;

  bool filtered() const { return rank >= kFiltered; }
};

struct Candidates {
  std::vector<Candidate> threads;  // the best first
  std::string refused;             // why a thread that waits is not among them
};

// "0 0x3 ...": it waits in call 0; "-1 0x7ffd02 0x7f0003": it is stopped elsewhere; "running".
std::optional<int> rank_of(const std::string& status, const std::string& call) {
  const std::string state = field(status, "State");
  const long number = strtol(call.c_str(), nullptr, 10);
  if (state.empty() || call.empty() || call[0] < '0' || call[0] > '9') return std::nullopt;
  if (state[0] == 'T') return 0;
  if (state[0] != 'S') return std::nullopt;
  return std::find(std::begin(kTakenUpAgain), std::end(kTakenUpAgain), number) != std::end(kTakenUpAgain) ? 1 : 2;
}

void consider(const Target& target, pid_t tid, Candidates& out) {
  const std::optional<std::string> status = text_of(target, tid, "status"), call = text_of(target, tid, "syscall");
  if (!status || !call) return;
  const std::string tracer = field(*status, "TracerPid"), seccomp = field(*status, "Seccomp");
  if (!tracer.empty() && tracer != "0") {
    out.refused = "Thread " + std::to_string(tid) + " is traced by process " + tracer + " already";
  } else if (const std::optional<int> rank = rank_of(*status, *call)) {
    out.threads.push_back({seccomp.empty() || seccomp == "0" ? *rank : *rank + kFiltered, tid});
  }
}

Candidates candidates_of(const Target& target) {
  const int fd = openat(target.folder(), "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(fd < 0 ? nullptr : fdopendir(fd), closedir);
  if (!tasks) throw refusal("Process %d has ended", target.pid());
  Candidates out;
  while (const dirent* entry = readdir(tasks.get()))
    if (const pid_t tid = atoi(entry->d_name)) consider(target, tid, out);
  std::sort(out.threads.begin(), out.threads.end(),
            [](const Candidate& a, const Candidate& b) { return a.rank != b.rank ? a.rank < b.rank : a.tid < b.tid; });
  return out;
}

// ------------------------------------------------------------------ a thread that is traced

struct Stop {
  int signal, event;
};

class Tracee {
 public:
  explicit Tracee(pid_t tid) : tid_(tid) {}
  ~Tracee() { let_go(); }
  Tracee(const Tracee&) = delete;
  Tracee& operator=(const Tracee&) = delete;

  pid_t tid() const { return tid_; }

  // Throws kUnmapped if it may not be traced, does not stop in time, or ends.
  void stop(uint64_t deadline_ns) {
    if (ptrace(PTRACE_SEIZE, tid_, nullptr, PTRACE_O_TRACESYSGOOD) != 0) {
      if (errno == ESRCH) throw ended(tid_);
      throw error(Code::kUnmapped, "Thread %d cannot be traced: %s", tid_, errno_text(errno).c_str());
    }
    park(deadline_ns);
  }

  // As long as it is traced, seccomp does not look at its system calls: a filter might kill it for one that it never makes. Throws
  // kUnmapped.
  void suspend_filter() const {
    constexpr uintptr_t options = PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP;
    if (ptrace(PTRACE_SETOPTIONS, tid_, nullptr, reinterpret_cast<void*>(options)) == 0) return;
    throw error(Code::kUnmapped,
                "The system calls of thread %d are filtered by seccomp, which cannot be suspended without CAP_SYS_ADMIN: %s", tid_,
                errno_text(errno).c_str());
  }

  // Takes note of what it is to go on with, and keeps its signals waiting.
  void borrow() {
    original_ = registers();
    request(PTRACE_GETSIGMASK, kKernelSignals, &blocked_);
    uint64_t all = ~uint64_t{0};
    request(PTRACE_SETSIGMASK, kKernelSignals, &all);
    borrowed_ = true;
  }

  const machine::Registers& original() const { return original_; }

  int64_t call(uint64_t site, const SystemCall& call) {
    set_registers(machine::with_call(original_, site, call));
    to_system_call_stop();  // its entry
    to_system_call_stop();  // its exit
    return machine::result_of(registers());
  }

  uint64_t word(uint64_t address) const {
    errno = 0;
    const long word = ptrace(PTRACE_PEEKDATA, tid_, address, nullptr);
    if (errno != 0) throw refusal("The memory of thread %d cannot be read", tid_);
    return static_cast<uint64_t>(word);
  }

  // It goes on as it was. If it is not stopped now it is let go when our own thread ends.
  void let_go() noexcept {
    try {
      if (stopped_ && borrowed_) {
        park(kNever);
        request(PTRACE_SETSIGMASK, kKernelSignals, &blocked_);
        set_registers(original_);
      }
      if (stopped_) request(PTRACE_DETACH, 0, nullptr);
    } catch (const Error&) {
      // It was killed.
    }
    stopped_ = false;
  }

 private:
  void request(__ptrace_request what, uint64_t address, void* data) const {
    if (ptrace(what, tid_, address, data) == 0) return;
    if (errno == ESRCH) throw ended(tid_);
    throw error(Code::kInternal, "ptrace() request 0x%x of thread %d failed: %s", static_cast<unsigned>(what), tid_,
                errno_text(errno).c_str());
  }

  // With a signal it is as if that had not been stopped at.
  void resume(__ptrace_request how, int signal) {
    stopped_ = false;
    request(how, 0, reinterpret_cast<void*>(static_cast<uintptr_t>(signal)));
  }

  // To the place where signals are looked for. Those that come up before it is there are delivered.
  void park(uint64_t deadline_ns) {
    for (int signal = 0;;) {
      request(PTRACE_INTERRUPT, 0, nullptr);
      if (stopped_) resume(PTRACE_CONT, signal);
      const Stop stop = await(deadline_ns);
      if (stop.event == PTRACE_EVENT_STOP) return;
      signal = stop.signal == kSystemCallStop ? 0 : stop.signal;
    }
  }

  void to_system_call_stop() {
    for (int signal = 0;;) {
      resume(PTRACE_SYSCALL, signal);
      const Stop stop = await(kNever);
      if (stop.signal == kSystemCallStop) return;
      // SIGSTOP cannot be blocked: the process stops by it, this thread once it is let go. Any other is the answer to what we have it do.
      if (stop.event == 0 && stop.signal != SIGSTOP)
        throw error(Code::kUnmapped, "Thread %d cannot make system calls: signal %d came of it", tid_, stop.signal);
      signal = stop.event == 0 ? stop.signal : 0;
    }
  }

  // That it has ended is only looked at (WNOWAIT): it is others who wait for that.
  Stop await(uint64_t deadline_ns) {
    for (unsigned looks = 0;; looks++) {
      siginfo_t info{};
      const int rc = waitid(P_PID, static_cast<id_t>(tid_), &info, WSTOPPED | WEXITED | WNOWAIT | WNOHANG | __WALL | __WNOTHREAD);
      if (rc != 0 && errno != EINTR) throw ended(tid_);
      if (rc == 0 && info.si_pid == tid_) {
        if (info.si_code != CLD_TRAPPED && info.si_code != CLD_STOPPED) throw ended(tid_);
        stopped_ = true;
        return {info.si_status & 0xff, info.si_status >> 8};
      }
      if (now_ns() > deadline_ns) throw refusal("Thread %d does not stop", tid_);
      if (looks < kYields) {
        sched_yield();
      } else {
        usleep(kBetweenUs);
      }
    }
  }

  machine::Registers registers() const {
    machine::Registers registers{};
    iovec bytes{registers.bytes, sizeof registers.bytes};
    request(PTRACE_GETREGSET, NT_PRSTATUS, &bytes);
    registers.length = bytes.iov_len;
    return registers;
  }

  void set_registers(machine::Registers registers) const {
    iovec bytes{registers.bytes, registers.length};
    request(PTRACE_SETREGSET, NT_PRSTATUS, &bytes);
  }

  const pid_t tid_;
  machine::Registers original_{};
  uint64_t blocked_ = 0;
  bool borrowed_ = false, stopped_ = false;
};

// ------------------------------------------------------------------ taking hold

// Threads go by their numbers, and memory by the descriptor of `target`: after an execve() they are about different programs, one of which
// may have more rights than the client. The kernel gives each program 16 random bytes that no other knows.
void require_same_memory(const Target& target, const Tracee& tracee) {
  const std::optional<std::string> auxv = text_of(target, tracee.tid(), "auxv");
  uint64_t address = 0, theirs[2] = {};
  for (size_t at = 0; auxv && at + 16 <= auxv->size(); at += 16) {
    uint64_t entry[2];
    memcpy(entry, auxv->data() + at, sizeof entry);
    if (entry[0] == AT_RANDOM) address = entry[1];
  }
  const auto same = [&] {
    target.read({address, address + sizeof theirs}, theirs);
    return tracee.word(address) == theirs[0] && tracee.word(address + 8) == theirs[1];
  };
  try {
    if (address != 0 && same()) return;
  } catch (const Error&) {
    // Nothing is there in one of them.
  }
  throw refusal("Process %d has ended, or runs another program by now", target.pid());
}

// Where the thread can make a system call: the instruction it is at the end of, or one of those that the kernel gives each program, if it
// has been sent to a signal's handler meanwhile. 0: nowhere. A thread that came into the kernel otherwise may be in the midst of what must
// not be left.
uint64_t call_site(const Target& target, const machine::Registers& registers) {
  const std::string_view instruction = machine::call_instruction();
  const uint64_t after = machine::after_call(registers), at = after - instruction.size();
  if (after == 0) return 0;
  std::string bytes(instruction.size(), '\0');
  try {
    target.read({at, after}, &bytes[0]);
    if (bytes == instruction) return at;
  } catch (const Error&) {
    // Code that may be executed only.
  }
  for (const NamedMapping& mapping : target.mappings()) {
    if (mapping.name != "[vdso]") continue;
    bytes.resize(mapping.range().bytes());
    target.read(mapping.range(), &bytes[0]);
    const size_t found = bytes.find(instruction);
    return found == std::string::npos ? 0 : mapping.start + found;
  }
  return 0;
}

struct Held {
  std::unique_ptr<Tracee> tracee;
  uint64_t site;
};

std::optional<Held> hold(const Target& target, const Candidate& candidate, uint64_t deadline_ns) {
  auto tracee = std::make_unique<Tracee>(candidate.tid);
  tracee->stop(deadline_ns);
  require_same_memory(target, *tracee);
  if (candidate.filtered()) tracee->suspend_filter();
  tracee->borrow();
  const uint64_t site = call_site(target, tracee->original());
  if (site == 0) return std::nullopt;
  return Held{std::move(tracee), site};
}

Held hold_any(const Target& target) {
  if (machine::call_instruction().empty())
    throw error(Code::kUnmapped, "This architecture is not supported: nothing can be put back there");
  const uint64_t deadline_ns = now_ns() + kHoldMs * kMillisecond;
  std::string why = "No thread of process " + std::to_string(target.pid()) + " waits in a system call";
  do {
    const Candidates candidates = candidates_of(target);
    if (candidates.threads.empty() && !candidates.refused.empty()) throw error(Code::kUnmapped, "%s", candidates.refused.c_str());
    for (const Candidate& candidate : candidates.threads) {
      try {
        if (std::optional<Held> held = hold(target, candidate, deadline_ns)) return std::move(*held);
      } catch (const Error& reason) {
        // Another thread may do, if it is only that this one has ended.
        if (text_of(target, candidate.tid, "status")) throw error(Code::kUnmapped, "%s", reason.what());
        why = reason.what();
      }
    }
    usleep(1000);
  } while (now_ns() < deadline_ns);
  throw error(Code::kUnmapped, "%s", why.c_str());
}

std::vector<int64_t> make_all(Held& held, const std::vector<SystemCall>& calls) {
  std::vector<int64_t> results;
  for (const SystemCall& call : calls) {
    results.push_back(held.tracee->call(held.site, call));
    if (static_cast<uint64_t>(results.back()) != call.expected) break;
  }
  held.tracee->let_go();
  return results;
}

// The whole life of our thread. `target` is looked at only before `is_held` is told.
void work(const Target& target, std::promise<void> is_held, std::future<std::vector<SystemCall>> calls,
          std::promise<std::vector<int64_t>> results) {
  try {
    Held held = [&] {
      try {
        return hold_any(target);
      } catch (...) {
        is_held.set_exception(std::current_exception());
        throw;
      }
    }();
    is_held.set_value();
    results.set_value(make_all(held, calls.get()));
  } catch (...) {
    results.set_exception(std::current_exception());
  }
}

}  // namespace

Injection::Injection(const Target& target) {
  std::promise<void> is_held;
  std::promise<std::vector<int64_t>> results;
  std::future<void> held = is_held.get_future();
  results_ = results.get_future();
  worker_ = std::thread(work, std::cref(target), std::move(is_held), calls_.get_future(), std::move(results));
  try {
    held.get();
  } catch (...) {
    worker_.join();
    throw;
  }
}

Injection::~Injection() {
  if (!worker_.joinable()) return;
  calls_.set_value({});
  worker_.join();
}

std::vector<int64_t> Injection::make(std::vector<SystemCall> calls) {
  calls_.set_value(std::move(calls));
  if (results_.wait_for(std::chrono::seconds(kCallSeconds)) != std::future_status::ready) {
    // Its registers can only be put back when the call has returned.
    worker_.detach();
    throw error(Code::kNoProgress, "A system call that puts memory back does not return");
  }
  worker_.join();
  return results_.get();
}

}  // namespace ckpt
