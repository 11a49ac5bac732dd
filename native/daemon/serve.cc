// serve.cc: see serve.h.
#include "serve.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <optional>

#include "../bpf/probe.h"
#include "../error.h"
#include "bare.h"
#include "keeper.h"
#include "library.h"
#include "notify.h"
#include "only_one.h"

namespace ckpt {

namespace {

constexpr uint64_t kSweepMs = 200;

// The signals that end the daemon, as a descriptor.
class EndSignals {
 public:
  EndSignals() {
    sigemptyset(&signals_);
    for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals_, number);
    sigprocmask(SIG_BLOCK, &signals_, nullptr);
    fd_ = Fd(signalfd(-1, &signals_, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd_) throw error(Code::kInternal, "signalfd failed: %s", errno_text(errno).c_str());
  }
  int fd() const { return fd_.get(); }
  int take() const {
    signalfd_siginfo info{};
    return read(fd_.get(), &info, sizeof info) == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
  }

 private:
  sigset_t signals_;
  Fd fd_;
};

// Each client takes a handful of descriptors.
void raise_descriptor_limit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

bool choose_kernel_writer(WriterChoice choice, const bpf::Session& session) {
  if (choice == WriterChoice::kUser) return false;
  if (choice == WriterChoice::kKernel && !session.kernel_writer)
    throw error(Code::kLockdown, "The kernel writer is not available here: bpf_probe_write_user is refused; use --writer user or auto");
  return session.kernel_writer;
}

bpf::Session& session_of(Arena& arena) { return arena.sessions[static_cast<size_t>(bpf::Layout::kFast)].session; }

class Serving {
 public:
  Serving(const ServeOptions& options, Report& report)
      : arena_(arena()),
        service_(session_of(arena_), session_windows(bpf::Layout::kFast), options.uids),
        daemon_{arena_, loop_, report, options, service_, choose_kernel_writer(options.writer, service_.session()), {}},
        bare_(daemon_),
        library_(daemon_) {
    daemon_.on_exit = [this](pid_t pid) {
      bare_.client_gone(pid);
      library_.client_gone(pid);
    };
    loop_.on_error = [&report](const std::exception& reason) { report.warn(reason.what()); };
    loop_.watch(service_.events_fd(), [this] { service_.drain([this](const ckpt_event& event) { dispatch(event); }); });
    loop_.watch(signals_.fd(), [this] { stop(signals_.take()); });
    keeper_.guard(service_.session().store_map, service_.session().restore_map);
    report.pace(&loop_);
    watch_for_losses();
  }

  // Nobody is held any more once the programs are detached, and whoever was goes on.
  ~Serving() {
    bare_.finish_restores();
    library_.finish_recovers();
    daemon_.report.pace(nullptr);
    bpf::detach(session_of(arena_));
    bare_.let_all_go();
    continue_held(service_.session().store_map, service_.session().restore_map);
  }

  void run() { loop_.run(); }

 private:
  void dispatch(const ckpt_event& event) {
    const bool bare = event.op == CKPT_OP_BARE;
    switch (event.kind) {
      case CKPT_EVENT_ARMED:
        return bare ? bare_.armed(event) : library_.armed(event);
      case CKPT_EVENT_MOVED:
        return bare ? bare_.moved(event) : library_.moved(event);
      case CKPT_EVENT_ENDED:
        return bare ? bare_.ended(event) : library_.ended(event);
      case CKPT_EVENT_UNREAD:
        return bare_.unread(event);
      case CKPT_EVENT_HELD:
        return bare_.held(event);
      default:
        return;
    }
  }

  void stop(int number) {
    daemon_.report.stopping(number != 0 ? strsignal(number) : "asked to");
    notify_manager("STOPPING=1");
    loop_.stop();
  }

  // The ring had no room, or a map was full: the entries tell what the events did not.
  void watch_for_losses() {
    const ckpt_serve_globals& globals = service_.globals();
    if (globals.dropped != dropped_) {
      bare_.sweep();
      library_.sweep();
    }
    if (globals.full != full_) daemon_.report.warn("More processes wanted to be served at once than there is room for");
    dropped_ = globals.dropped;
    full_ = globals.full;
    loop_.after(kSweepMs, [this] { watch_for_losses(); });
  }

  Keeper keeper_;  // forked before anything is there to inherit
  EndSignals signals_;
  Loop loop_;
  Arena& arena_;
  bpf::Service service_;
  Daemon daemon_;
  Bare bare_;
  Library library_;
  uint32_t dropped_ = 0, full_ = 0;
};

}  // namespace

int serve(const ServeOptions& options, Report& report, int ready_fd) {
  const OnlyOne only_one;
  raise_descriptor_limit();
  Serving serving(options, report);
  const char* const writer = choose_kernel_writer(options.writer, session_of(arena())) ? "kernel" : "user";
  report.ready(getpid(), options.socket, writer, options.uids);
  notify_manager("READY=1");
  if (ready_fd >= 0 && write(ready_fd, "", 1) != 1) return 1;
  serving.run();
  return 0;
}

}  // namespace ckpt
