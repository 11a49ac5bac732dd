// tracepoint.cc: finds tracefs where it is mounted or makes a private instance, and attaches through perf_event_open().
#include "tracepoint.h"

#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "../error.h"
#include "privileges.h"

namespace ckpt::bpf {

namespace {

constexpr const char* kMounts[] = {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"};
constexpr int kMaxPrograms = 64;  // on one tracepoint: BPF_TRACE_MAX_PROGS

// <sys/mount.h> has these from glibc 2.36 on.
constexpr unsigned kFsopenCloexec = 1;
constexpr unsigned kFsmountCloexec = 1;
constexpr unsigned kFsconfigCreate = 6;

// The number in a file below a folder; -1 with errno if there is none.
int read_id(int folder, const char* path) {
  Fd file(openat(folder, path, O_RDONLY | O_CLOEXEC));
  if (!file) return -1;
  char text[32] = {};
  if (read(file.get(), text, sizeof(text) - 1) <= 0) return -1;
  return atoi(text);
}

// A tracefs that nobody else sees: a mount that is attached nowhere.
Fd private_tracefs() {
  Fd context(static_cast<int>(syscall(SYS_fsopen, "tracefs", kFsopenCloexec)));
  if (!context) return Fd();
  if (syscall(SYS_fsconfig, context.get(), kFsconfigCreate, nullptr, nullptr, 0) != 0) return Fd();
  return Fd(static_cast<int>(syscall(SYS_fsmount, context.get(), kFsmountCloexec, 0)));
}

// Why an id cannot be had, from what the mounted and the private tracefs said.
Error unreachable(const char* name, int mounted, int own) {
  if (privileges().lockdown == "confidentiality")
    return error(Code::kLockdown, "The id of the tracepoint %s is hidden: the kernel is locked down (confidentiality)", name);
  if (mounted == EACCES || mounted == EPERM)
    return error(Code::kTracepoint, "The id of the tracepoint %s cannot be read: tracefs is mounted, but closed to this process", name);
  if (own == EACCES)
    return error(Code::kTracepoint,
                 "The id of the tracepoint %s cannot be read: /sys/kernel/tracing is not mounted, and a private tracefs is closed to this "
                 "process, which is "
                 "not root and lacks CAP_DAC_READ_SEARCH",
                 name);
  if (own != ENOENT)
    return error(Code::kTracepoint,
                 "The id of the tracepoint %s cannot be read: /sys/kernel/tracing is not mounted, and without CAP_SYS_ADMIN there is no "
                 "private tracefs (%s)",
                 name, errno_text(own).c_str());
  return error(Code::kKernel, "This kernel has no tracepoint %s (CONFIG_FTRACE_SYSCALLS)", name);
}

// How many programs sit on the tracepoint of an event; -1 if that cannot be told.
int count_programs(int event) {
  // struct perf_event_query_bpf: ids_len, prog_cnt, ids[]
  __u32 answer[2 + kMaxPrograms] = {kMaxPrograms};
  if (ioctl(event, PERF_EVENT_IOC_QUERY_BPF, answer) != 0) return -1;
  return static_cast<int>(answer[1]);
}

// Programs come and go: waits up to 0.3 s in all for a place to become free.
bool set_program(int event, int program) {
  constexpr useconds_t kWaits[] = {10000, 20000, 40000, 80000, 150000};
  for (const useconds_t wait : kWaits) {
    if (ioctl(event, PERF_EVENT_IOC_SET_BPF, program) == 0) return true;
    if (errno != E2BIG) return false;
    usleep(wait);
  }
  return ioctl(event, PERF_EVENT_IOC_SET_BPF, program) == 0;
}

Fd open_event(uint32_t type, uint64_t config) {
  perf_event_attr attributes{};
  attributes.type = type;
  attributes.size = sizeof(attributes);
  attributes.config = config;
  return Fd(static_cast<int>(syscall(SYS_perf_event_open, &attributes, -1, 0, -1, PERF_FLAG_FD_CLOEXEC)));
}

}  // namespace

int tracepoint_id(const char* name, std::string* how) {
  const std::string path = std::string("events/syscalls/") + name + "/id";
  int refused = 0;  // by the mount that should be there; the other is behind debugfs, which is closed to most anyway
  for (const char* mount : kMounts) {
    const int id = read_id(AT_FDCWD, (std::string(mount) + "/" + path).c_str());
    if (id > 0) {
      if (how) *how = "mounted";
      return id;
    }
    if (refused == 0) refused = errno;
  }

  const Fd tracefs = private_tracefs();
  const int id = tracefs ? read_id(tracefs.get(), path.c_str()) : -1;
  if (id <= 0) throw unreachable(name, refused, errno);
  if (how) *how = "private";
  return id;
}

int perf_event_refusal() { return open_event(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY) ? 0 : errno; }

Fd attach_program(int program_fd, const char* tracepoint) {
  // The event names one CPU, as it must name something; the program sits on the tracepoint itself and runs on all.
  const std::string doing = std::string("attaching to ") + tracepoint;
  Fd event = open_event(PERF_TYPE_TRACEPOINT, static_cast<uint64_t>(tracepoint_id(tracepoint)));
  if (!event) throw refusal(doing.c_str(), errno == EACCES ? EPERM : errno);
  if (!set_program(event.get(), program_fd)) {
    const int number = errno;
    if (number == E2BIG)
      throw error(Code::kBusy, "The tracepoint %s is full: %d programs are attached to it. Detach one (bpftool perf show lists them)",
                  tracepoint, count_programs(event.get()));
    throw refusal(doing.c_str(), number);
  }
  if (ioctl(event.get(), PERF_EVENT_IOC_ENABLE, 0) != 0) throw refusal(doing.c_str(), errno);
  return event;
}

}  // namespace ckpt::bpf
