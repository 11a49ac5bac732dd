// object.cc: loads an object through its skeleton; the programs and map sizes are chosen here, by what the kernel has.
#include "object.h"

#include <bpf/libbpf.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>

#include "../memory/range.h"
#include "privileges.h"
#include "probe.h"

extern "C" {
#include "../../bpf/serve_abi.h"
}
#include "ckpt.skel.h"
#include "seed.skel.h"
#include "serve.skel.h"

namespace ckpt::bpf {

namespace {

// While it lives, what libbpf prints is kept instead: its end is the verifier's reason. One at a time, as libbpf has one print function.
class Log {
 public:
  Log() : lock_(mutex_) {
    text_.clear();
    before_ = libbpf_set_print(keep);
  }
  ~Log() { libbpf_set_print(before_); }

  // The last lines that say something.
  std::string tail() const {
    constexpr size_t kLines = 3;
    std::string result;
    size_t end = text_.size(), lines = 0;
    while (end > 0 && lines < kLines) {
      const size_t start = text_.rfind('\n', end - 1);
      const size_t from = start == std::string::npos ? 0 : start + 1;
      const std::string line = text_.substr(from, end - from);
      if (says_something(line)) {
        result = result.empty() ? line : line + " | " + result;
        lines++;
      }
      end = start == std::string::npos ? 0 : start;
    }
    return result;
  }

 private:
  static bool says_something(const std::string& line) {
    return line.size() > 1 && line.find("-- END") == std::string::npos && line.find("processed ") != 0 &&
           line.find("failed to load object") == std::string::npos;
  }

  static int keep(libbpf_print_level level, const char* format, va_list arguments) {
    if (level == LIBBPF_DEBUG) return 0;
    constexpr size_t kKept = 4096;
    va_list again;
    va_copy(again, arguments);
    char* line = nullptr;
    const int length = vasprintf(&line, format, again);
    va_end(again);
    if (length < 0) return 0;
    text_.append(line);
    free(line);
    if (text_.size() > kKept) text_.erase(0, text_.size() - kKept);
    return length;
  }

  static std::mutex mutex_;
  static std::string text_;
  std::lock_guard<std::mutex> lock_;
  libbpf_print_fn_t before_;
};

std::mutex Log::mutex_;
std::string Log::text_;

// Room for the headers and for one walk of the longest kind, all of it paid for at once.
void preallocate_entries(bpf_map* map) {
  bpf_map__set_map_flags(map, 0);
  bpf_map__set_max_entries(map, CKPT_OPS + CKPT_CHUNKS);
}

// What differs between the skeletons: their names, their settings, which programs there are to choose from, and what has to be
// preallocated.
struct Fast {
  using Skeleton = ckpt_bpf;
  static Skeleton* open() { return ckpt_bpf__open(); }
  static int load(Skeleton* skeleton) { return ckpt_bpf__load(skeleton); }
  static void destroy(Skeleton* skeleton) { ckpt_bpf__destroy(skeleton); }
  // Where the kernel can be asked about single ranges nobody asks for a walk; the list's program is then the one without.
  static bpf_program* on_openat(Skeleton* s, const Features& features) {
    return !features.mapping_query && vma_walk() == Walk::kIterator ? s->progs.ckpt_arm_iter : s->progs.ckpt_arm_list;
  }
  static bpf_program* on_access(Skeleton* s, const Features& features) {
    return features.fetch_and_add ? s->progs.ckpt_move_fetch : s->progs.ckpt_move_lock;
  }
  void set(Skeleton*) const {}
  static void preallocate(Skeleton* s) {
    preallocate_entries(s->maps.store_map);
    preallocate_entries(s->maps.restore_map);
  }
  static bpf_map* events(Skeleton*) { return nullptr; }
};

struct Seed {
  using Skeleton = seed_bpf;
  static Skeleton* open() { return seed_bpf__open(); }
  static int load(Skeleton* skeleton) { return seed_bpf__load(skeleton); }
  static void destroy(Skeleton* skeleton) { seed_bpf__destroy(skeleton); }
  static bpf_program* on_openat(Skeleton* s, const Features&) {
    return vma_walk() == Walk::kIterator ? s->progs.seed_arm_iter : s->progs.seed_arm_list;
  }
  static bpf_program* on_access(Skeleton* s, const Features&) { return s->progs.seed_move; }
  void set(Skeleton*) const {}
  static void preallocate(Skeleton* s) {
    preallocate_entries(s->maps.store_map);
    preallocate_entries(s->maps.restore_map);
    bpf_map__set_map_flags(s->maps.data_map, 0);
    bpf_map__set_max_entries(s->maps.data_map, CKPT_SEED_PREALLOCATED);
  }
  static bpf_map* events(Skeleton*) { return nullptr; }
};

struct Serve {
  using Skeleton = serve_bpf;
  static Skeleton* open() { return serve_bpf__open(); }
  static int load(Skeleton* skeleton) { return serve_bpf__load(skeleton); }
  static void destroy(Skeleton* skeleton) { serve_bpf__destroy(skeleton); }
  static bpf_program* on_openat(Skeleton* s, const Features&) { return s->progs.serve_openat; }
  static bpf_program* on_access(Skeleton* s, const Features& features) {
    return features.fetch_and_add ? s->progs.serve_access_fetch : s->progs.serve_access_lock;
  }
  void set(Skeleton* s) const {
    s->rodata->allowed_count = static_cast<__u32>(uids.size());
    std::copy(uids.begin(), uids.end(), s->rodata->allowed);
  }
  static void preallocate(Skeleton*) {}  // they always are
  static bpf_map* events(Skeleton* s) { return s->maps.events; }

  const std::vector<uint32_t>& uids;
};

// Before 5.11 maps count against RLIMIT_MEMLOCK: raised as far as this process may.
void raise_memlock() {
  rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
  if (setrlimit(RLIMIT_MEMLOCK, &limit) == 0) return;
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_MEMLOCK, &limit);
}

Fd duplicate(int fd) {
  Fd copy(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy) throw error(Code::kNoRoom, "duplicating a BPF descriptor failed: %s", errno_text(errno).c_str());
  return copy;
}

Error load_failure(int number, const std::string& reason) {
  // The verifier says no in these ways, and they mean something else everywhere else.
  if (number == EACCES || number == EINVAL || number == E2BIG || number == ENOSPC)
    return error(Code::kInternal, "This kernel's verifier refused our BPF programs: %s: %s", errno_text(number).c_str(), reason.c_str());
  return refusal("loading the BPF programs", number, reason);
}

// While it lives, this thread takes no signals: the verifier breaks off with EAGAIN at each (c3494801cd17, "bpf: check pending signals
// while verifying programs"), and a process whose children stop and go on gets many.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

template <typename Kind>
Object load_kind(const Kind& kind, uint32_t nonce, const Features& features) {
  Log log;
  std::unique_ptr<typename Kind::Skeleton, void (*)(typename Kind::Skeleton*)> skeleton(Kind::open(), Kind::destroy);
  if (!skeleton) throw refusal("opening the BPF object", errno, log.tail());

  skeleton->rodata->nonce = nonce;
  skeleton->rodata->kernel_writer = features.kernel_writer;
  kind.set(skeleton.get());
  bpf_program* const on_openat = Kind::on_openat(skeleton.get(), features);
  bpf_program* const on_access = Kind::on_access(skeleton.get(), features);
  bpf_program__set_autoload(on_openat, true);
  bpf_program__set_autoload(on_access, true);
  if (!features.map_allocation) Kind::preallocate(skeleton.get());

  if (!features.memory_cgroup) raise_memlock();
  const int failed = [&] {
    const SignalsBlocked blocked;
    return Kind::load(skeleton.get());
  }();
  if (failed) throw load_failure(-failed, log.tail());

  Object object;
  object.data_map = duplicate(bpf_map__fd(skeleton->maps.data_map));
  object.store_map = duplicate(bpf_map__fd(skeleton->maps.store_map));
  object.restore_map = duplicate(bpf_map__fd(skeleton->maps.restore_map));
  object.copy_map = duplicate(bpf_map__fd(skeleton->maps.copy_map));
  object.globals_map = duplicate(bpf_map__fd(skeleton->maps.bss));
  object.globals_bytes = page_up(bpf_map__value_size(skeleton->maps.bss));
  object.globals_offset = reinterpret_cast<char*>(&skeleton->bss->globals) - reinterpret_cast<char*>(skeleton->bss);
  object.on_openat = duplicate(bpf_program__fd(on_openat));
  object.on_access = duplicate(bpf_program__fd(on_access));
  if (bpf_map* const events = Kind::events(skeleton.get())) object.events = duplicate(bpf_map__fd(events));
  return object;
}

}  // namespace

Object load_object(Layout layout, uint32_t nonce, const Features& features) {
  return layout == Layout::kFast ? load_kind(Fast{}, nonce, features) : load_kind(Seed{}, nonce, features);
}

Object load_serve_object(const std::vector<uint32_t>& uids, uint32_t nonce, const Features& features) {
  if (uids.empty() || uids.size() > CKPT_UIDS_MAX)
    throw error(Code::kInternal, "Clients of %zu uids cannot be served: it takes 1 to %u", uids.size(), CKPT_UIDS_MAX);
  return load_kind(Serve{uids}, nonce, features);
}

}  // namespace ckpt::bpf
