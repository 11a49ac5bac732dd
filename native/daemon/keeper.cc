// keeper.cc: the keeper's whole life, and the sweep through the entry maps.
//
// When is nobody held any more? A process that dies gives up its descriptors, and with the last one of an attachment the kernel takes the
// program off its tracepoint; only after that does a pidfd say that the process has ended (exit_files() and exit_task_work() come before
// exit_notify() in do_exit()). The channel's end of file comes between: it says too little. So the keeper waits for the pidfd. A program
// that was running on another CPU may still have sent a SIGSTOP that arrives after the sweep: it sweeps once more.
#include "keeper.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../error.h"

extern "C" {
#include "../../bpf/serve_abi.h"
}

namespace ckpt {

namespace {

constexpr useconds_t kBetweenSweeps = 100 * 1000;
constexpr char kGuard = 'g';  // comes with the two maps
constexpr char kEnd = 'e';    // nobody is left to be continued

// State and start time (field 22) in a stat file of /proc; false if the process is gone.
bool read_stat(int folder, const char* path, char& state, uint64_t& start_ticks) {
  const Fd file(openat(folder, path, O_RDONLY | O_CLOEXEC));
  char text[1024];
  const ssize_t length = file ? read(file.get(), text, sizeof(text) - 1) : -1;
  if (length <= 0) return false;
  text[length] = '\0';
  // The name is in parentheses and may hold anything; nothing after it does.
  const char* rest = strrchr(text, ')');
  unsigned long long start = 0;
  if (!rest || sscanf(rest, ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &state, &start) != 2)
    return false;
  start_ticks = start;
  return true;
}

// Whether any thread is in state T. The first one may have ended while others go on.
bool has_stopped_thread(int process) {
  const int tasks_fd = openat(process, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* tasks = tasks_fd >= 0 ? fdopendir(tasks_fd) : nullptr;
  if (!tasks) return false;
  bool stopped = false;
  while (const dirent* entry = stopped ? nullptr : readdir(tasks)) {
    char path[32], state;
    uint64_t ticks;
    snprintf(path, sizeof(path), "%.10s/stat", entry->d_name);
    stopped = entry->d_name[0] != '.' && read_stat(tasks_fd, path, state, ticks) && state == 'T';
  }
  closedir(tasks);
  return stopped;
}

// Continues the process if it is stopped and the one that armed. A pid may have passed to another process, before or while we look: the
// pidfd is taken first and the signal goes through it.
void continue_process(pid_t pid, uint64_t start_time_ns) {
  const Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  char path[32];
  snprintf(path, sizeof(path), "/proc/%d", pid);
  const Fd process(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
  char state;
  uint64_t start_ticks;
  if (!pidfd || !process || !read_stat(process.get(), "stat", state, start_ticks)) return;
  const auto ns_per_tick = 1000000000u / static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
  if (start_ticks != start_time_ns / ns_per_tick || !has_stopped_thread(process.get())) return;
  syscall(SYS_pidfd_send_signal, pidfd.get(), SIGCONT, nullptr, 0);
}

void sweep(int map) {
  ckpt_key key, next;
  ckpt_client client;
  bool first = true;
  // A key that is deleted meanwhile makes the walk begin anew: bounded, so that it ends.
  for (uint32_t i = 0; i < 4 * CKPT_CLIENTS && bpf_map_get_next_key(map, first ? nullptr : &key, &next) == 0; i++) {
    first = false;
    key = next;
    if ((key.op == CKPT_OP_BARE || key.op == CKPT_OP_UNREAD) && bpf_map_lookup_elem(map, &key, &client) == 0 &&
        (client.flags & CKPT_CLIENT_FREE) == 0)
      continue_process(static_cast<pid_t>(key.tgid), client.identity.start_time);
  }
}

// Closes all descriptors but one.
void close_others(int kept) {
  const auto close_from = [](unsigned first, unsigned last) {
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0) return;
    for (long fd = first, end = sysconf(_SC_OPEN_MAX); fd < end && fd <= static_cast<long>(last); fd++) close(static_cast<int>(fd));
  };
  if (kept > 0) close_from(0, static_cast<unsigned>(kept) - 1);
  close_from(static_cast<unsigned>(kept) + 1, ~0u);
}

// The keeper's side.
class Watcher {
 public:
  Watcher(pid_t daemon, int channel) : daemon_(daemon), channel_(channel), pidfd_(static_cast<int>(syscall(SYS_pidfd_open, daemon, 0))) {}

  // Returns when there is nothing left to do.
  void watch() {
    while (alive()) {
      pollfd ends[] = {{channel_.get(), POLLIN, 0}, {pidfd_.get(), POLLIN, 0}};
      // Where there is no pidfd our own parent tells, and has to be asked now and then.
      poll(ends, 2, pidfd_ ? -1 : 50);
      if (ends[0].revents && !receive()) return;
    }
    while (channel_)
      if (!receive()) return;
    continue_held(store_.get(), restore_.get());
    usleep(kBetweenSweeps);
    continue_held(store_.get(), restore_.get());
  }

 private:
  bool alive() const {
    if (getppid() != daemon_) return false;
    pollfd end{pidfd_.get(), POLLIN, 0};
    return !pidfd_ || poll(&end, 1, 0) == 0;
  }

  // Takes a message; false if it is the last. At the end of file the channel goes, and we wait for the process itself.
  bool receive() {
    char kind = 0;
    iovec data{&kind, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))];
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t length = recvmsg(channel_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (length <= 0) {
      channel_.reset();
      return true;
    }
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    if (kind == kGuard && header && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(2 * sizeof(int))) {
      int maps[2];
      memcpy(maps, CMSG_DATA(header), sizeof(maps));
      store_.reset(maps[0]);
      restore_.reset(maps[1]);
    }
    return kind != kEnd;
  }

  pid_t daemon_;
  Fd channel_, pidfd_, store_, restore_;
};

[[noreturn]] void keep(pid_t daemon, int channel) {
  prctl(PR_SET_NAME, "ebpf-ckpt-keep");
  prctl(PR_SET_PDEATHSIG, 0);
  setsid();  // what kills the daemon's process group, or its terminal, leaves the keeper
  close_others(channel);
  for (int i = 0; i < 3; i++)
    if (i != channel) open("/dev/null", O_RDWR);
  if (chdir("/") != 0) _exit(1);
  Watcher(daemon, channel).watch();
  _exit(0);
}

}  // namespace

void continue_held(int store_map, int restore_map) noexcept {
  if (store_map >= 0) sweep(store_map);
  if (restore_map >= 0) sweep(restore_map);
}

Keeper::Keeper() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    throw error(Code::kInternal, "The keeper's channel cannot be made: %s", errno_text(errno).c_str());
  channel_.reset(ends[0]);
  const Fd theirs(ends[1]);

  // It is born with all signals blocked and never lets one in: there is no moment in which it can be ended politely.
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  const pid_t daemon = getpid();
  pid_ = fork();
  if (pid_ == 0) keep(daemon, theirs.get());
  const int number = errno;
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (pid_ < 0) throw error(Code::kInternal, "The keeper cannot be started: %s", errno_text(number).c_str());
}

Keeper::~Keeper() {
  send(channel_.get(), &kEnd, 1, MSG_NOSIGNAL);
  channel_.reset();
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) continue;
}

void Keeper::guard(int store_map, int restore_map) {
  const int maps[] = {store_map, restore_map};
  char kind = kGuard;
  iovec data{&kind, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(maps))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(maps));
  memcpy(CMSG_DATA(header), maps, sizeof(maps));
  if (sendmsg(channel_.get(), &message, MSG_NOSIGNAL) != 1)
    throw error(Code::kInternal, "The keeper cannot be told what to guard: %s", errno_text(errno).c_str());
}

}  // namespace ckpt
