// run.cc: the daemon beside the program, the program itself, and the signals between them and whoever started us.
//
// All signals that end a program are blocked here and taken one by one with sigtimedwait(), which tells who sent them. What the terminal
// sends
// (^C) has reached the program already: it is in the same process group. What a process sends was meant for the program. The `ebpf-ckpt`
// command cannot tell the two apart and passes everything on: what we got ourselves just before is not taken from it a second time.
#include "run.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

#include "../engine/clock.h"
#include "../error.h"
#include "../fd.h"
#include "complain.h"
#include "only_one.h"
#include "parent.h"
#include "report.h"
#include "serve.h"

extern "C" {
#include "../client/wire.h"
}

namespace ckpt {

namespace {

constexpr uint64_t kNsPerMs = 1000000;
constexpr uint64_t kSameMs = 1000;     // within this the command's copy of a signal follows the signal
constexpr uint64_t kGraceMs = 5000;    // from the caller's death to SIGKILL for the program
constexpr uint64_t kFinishMs = 10000;  // for our daemon to end
constexpr uint64_t kListenMs = 2000;   // for somebody else's to listen
constexpr int kNoProgram = 127, kNotExecutable = 126;

// The signals that are taken one by one: not those of faults, of job control, and of writing to nobody.
sigset_t taken_signals() {
  sigset_t set;
  sigfillset(&set);
  for (const int left : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT, SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT, SIGPIPE})
    sigdelset(&set, left);
  return set;
}

// What signals were before we touched them, for the program to have.
class SignalState {
 public:
  SignalState() {
    sigaction(SIGPIPE, nullptr, &pipe_);
    sigaction(SIGCHLD, nullptr, &child_);
    signal(SIGCHLD, SIG_DFL);  // ignored, it would take the exit status away
    const sigset_t taken = taken_signals();
    sigprocmask(SIG_BLOCK, &taken, &mask_);
  }
  void give_back() const {
    sigaction(SIGPIPE, &pipe_, nullptr);
    sigaction(SIGCHLD, &child_, nullptr);
    sigprocmask(SIG_SETMASK, &mask_, nullptr);
  }

 private:
  struct sigaction pipe_, child_;
  sigset_t mask_;
};

struct Pipe {
  Fd reader, writer;

  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw error(Code::kInternal, "A pipe cannot be made: %s", errno_text(errno).c_str());
    reader.reset(ends[0]);
    writer.reset(ends[1]);
  }
};

// Bytes that come before the writers are gone; -1: an error.
ssize_t read_all(const Fd& fd, void* to, size_t bytes) {
  ssize_t length;
  do length = read(fd.get(), to, bytes);
  while (length < 0 && errno == EINTR);
  return length;
}

pid_t fork_or_throw() {
  fflush(nullptr);
  const pid_t pid = fork();
  if (pid < 0) throw error(Code::kInternal, "A process cannot be started: %s", errno_text(errno).c_str());
  return pid;
}

ReportKind report_kind(const ServeOptions& options) { return options.json ? ReportKind::kJson : ReportKind::kQuiet; }

// Whether a daemon listens there: it may be one whose lock we may not look into.
bool answers(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return false;
  memcpy(address.sun_path, path.data(), path.size());
  const Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  return socket && connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

// Waits until the daemon that serves already, process `holder`, listens: it may have begun just now.
void await_daemon(int holder, const std::string& path, Report& report) {
  const uint64_t deadline = now_ns() + kListenMs * kNsPerMs;
  while (!answers(path)) {
    if (now_ns() > deadline || who_serves() != holder) {
      report.warn("Process " + std::to_string(holder) + " serves already, but not at " + path +
                  ": programs with the C library will not find it");
      return;
    }
    usleep(20000);
  }
}

// The daemon's process, from its birth.
[[noreturn]] void be_daemon(const ServeOptions& options, const SignalState& signals, pid_t parent, int ready_fd) {
  int status = 1;
  try {
    die_with(parent);
    setsid();
    signals.give_back();
    status = serve(options, report_to(report_kind(options)), ready_fd);
  } catch (...) {
    status = complain();
  }
  fflush(nullptr);
  _exit(status);
}

// A daemon of our own, for as long as the program runs.
class OwnDaemon {
 public:
  // Returns when it is ready. Throws kInternal if it cannot be started; what it says itself is on stderr then.
  OwnDaemon(const ServeOptions& options, const SignalState& signals) {
    Pipe ready;
    const pid_t parent = getpid();
    pid_ = fork_or_throw();
    if (pid_ == 0) {
      ready.reader.reset();
      be_daemon(options, signals, parent, ready.writer.get());
    }
    ready.writer.reset();
    char byte;
    if (read_all(ready.reader, &byte, 1) == 1) return;
    end();
    throw error(Code::kInternal, "The daemon did not start");
  }
  ~OwnDaemon() { end(); }
  OwnDaemon(const OwnDaemon&) = delete;
  OwnDaemon& operator=(const OwnDaemon&) = delete;

  pid_t pid() const { return pid_; }
  // It has ended and was waited for.
  void ended() { pid_ = -1; }

 private:
  void end() {
    if (pid_ < 0) return;
    kill(pid_, SIGTERM);
    const uint64_t deadline = now_ns() + kFinishMs * kNsPerMs;
    while (waitpid(pid_, nullptr, WNOHANG) == 0) {
      if (now_ns() > deadline) kill(pid_, SIGKILL);
      usleep(5000);
    }
    pid_ = -1;
  }

  pid_t pid_ = -1;
};

// The program, from its birth to its exec.
[[noreturn]] void be_program(const Command& command, const SignalState& signals, int failed_fd) {
  std::vector<char*> words;
  for (const std::string& word : command.program) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  setenv(CKPT_SOCKET_ENV, command.serve.socket.c_str(), 1);
  signals.give_back();
  execvp(words[0], words.data());
  const int number = errno;
  _exit(write(failed_fd, &number, sizeof(number)) < 0 ? 1 : kNotExecutable);
}

// Starts the program; 0, or the errno of its exec.
int start_program(const Command& command, const SignalState& signals, pid_t& pid) {
  Pipe failed;
  pid = fork_or_throw();
  if (pid == 0) be_program(command, signals, failed.writer.get());
  failed.writer.reset();
  int number = 0;
  if (read_all(failed.reader, &number, sizeof(number)) != sizeof(number)) return 0;
  waitpid(pid, nullptr, 0);
  return number;
}

// Waits for the program, passing signals on. Returns its wait status.
class Watch {
 public:
  Watch(pid_t program, OwnDaemon* daemon, pid_t caller, Report& report)
      : program_(program), daemon_(daemon), caller_(caller), report_(report) {}

  int until_end() {
    const sigset_t taken = taken_signals();
    while (!has_ended()) {
      siginfo_t info;
      const timespec second{1, 0};
      const int number = sigtimedwait(&taken, &info, kill_at_ ? &second : nullptr);
      if (number > 0 && number != SIGCHLD) pass_on(number, info);
      if (kill_at_ && now_ns() > kill_at_) kill(program_, SIGKILL);
    }
    return status_;
  }

 private:
  // Takes note of children that ended.
  bool has_ended() {
    if (daemon_ && daemon_->pid() > 0 && waitpid(daemon_->pid(), nullptr, WNOHANG) == daemon_->pid()) {
      daemon_->ended();
      report_.warn("The daemon has ended before the program");
    }
    return waitpid(program_, &status_, WNOHANG) == program_;
  }

  void pass_on(int number, const siginfo_t& info) {
    const uint64_t now = now_ns();
    const bool from_caller = caller_ > 0 && info.si_code <= 0 && info.si_pid == caller_;
    if (from_caller && getppid() != caller_) {
      kill_at_ = now + kGraceMs * kNsPerMs;
    } else if (from_caller) {
      const auto seen = seen_.find(number);
      if (seen != seen_.end() && now - seen->second < kSameMs * kNsPerMs) return;
    } else {
      seen_[number] = now;
    }
    if (info.si_code <= 0) kill(program_, number);
  }

  pid_t program_;
  OwnDaemon* daemon_;
  pid_t caller_;
  Report& report_;
  int status_ = 0;
  uint64_t kill_at_ = 0;
  std::map<int, uint64_t> seen_;  // signal -> when it last came from anybody but the caller
};

// As the program ended; by a signal without a core file of ours.
int end_like(int status) {
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  const int number = WTERMSIG(status);
  prctl(PR_SET_DUMPABLE, 0);
  signal(number, SIG_DFL);
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, number);
  sigprocmask(SIG_UNBLOCK, &only, nullptr);
  raise(number);
  return 128 + number;  // the first process of a container survives
}

}  // namespace

int run_program(const Command& command, pid_t parent) {
  const SignalState signals;
  int status;
  {
    Report& report = report_to(report_kind(command.serve));
    std::unique_ptr<OwnDaemon> daemon;
    if (const int holder = who_serves())
      await_daemon(holder, command.serve.socket, report);
    else if (!answers(command.serve.socket))
      daemon = std::make_unique<OwnDaemon>(command.serve, signals);

    pid_t program;
    const int refused = start_program(command, signals, program);
    if (refused != 0) {
      fprintf(stderr, "ebpf-ckpt-daemon: %s cannot be run: %s\n", command.program[0].c_str(), errno_text(refused).c_str());
      return refused == ENOENT ? kNoProgram : kNotExecutable;
    }
    status = Watch(program, daemon.get(), parent, report).until_end();
  }
  return end_like(status);
}

}  // namespace ckpt
