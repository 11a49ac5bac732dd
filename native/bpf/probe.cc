// probe.cc: asks the kernel by trying: small programs, ioctls on /proc, its type information. No version is ever compared.
#include "probe.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

#include "../error.h"
#include "../fd.h"
#include "privileges.h"
#include "tracepoint.h"

namespace ckpt::bpf {

namespace {

// --- by a small program ---

// Helpers and opcodes, numbered as in <linux/bpf.h>; older headers lack some.
constexpr int kHelperProbeWriteUser = 36;
constexpr int kHelperProbeReadKernel = 113;
constexpr int kHelperGetCurrentTaskBtf = 158;
constexpr int kHelperKtimeGetCoarseNs = 160;
constexpr __u8 kCall = 0x85, kExit = 0x95, kMovImmediate = 0xb7, kMovRegister = 0xbf, kAddImmediate = 0x07, kStoreImmediate64 = 0x7a,
               kAtomic64 = 0xdb;
constexpr __u8 kFrame = 10;           // the register
constexpr __s32 kFetchAndAdd = 0x01;  // BPF_ADD | BPF_FETCH
constexpr __u8 kPseudoKfunc = 2;

constexpr bpf_insn insn(__u8 code, __u8 dst, __u8 src, __s16 off, __s32 imm) {
  bpf_insn result{};
  result.code = code;
  result.dst_reg = dst & 0xf;
  result.src_reg = src & 0xf;
  result.off = off;
  result.imm = imm;
  return result;
}

constexpr bpf_insn set(__u8 dst, __s32 value) { return insn(kMovImmediate, dst, 0, 0, value); }
constexpr bpf_insn copy(__u8 dst, __u8 src) { return insn(kMovRegister, dst, src, 0, 0); }
constexpr bpf_insn add(__u8 dst, __s32 value) { return insn(kAddImmediate, dst, 0, 0, value); }
constexpr bpf_insn call(__s32 helper) { return insn(kCall, 0, 0, 0, helper); }
constexpr bpf_insn call_kfunc(__s32 id) { return insn(kCall, 0, kPseudoKfunc, 0, id); }
constexpr bpf_insn zero_on_stack() { return insn(kStoreImmediate64, kFrame, 0, -8, 0); }
constexpr bpf_insn leave() { return insn(kExit, 0, 0, 0, 0); }

// Whether a program of these instructions loads: 0, or the errno.
template <size_t n>
int try_program(const std::array<bpf_insn, n>& program, bpf_prog_type type = BPF_PROG_TYPE_TRACEPOINT) {
  LIBBPF_OPTS(bpf_prog_load_opts, options);
  const Fd fd(bpf_prog_load(type, "ckpt_probe", "Dual MIT/GPL", program.data(), n, &options));
  return fd ? 0 : errno;
}

int try_empty() { return try_program(std::array{set(0, 0), leave()}); }

// Added in 4.8: 96ae52279594 ("bpf: Add bpf_probe_write_user BPF helper to be called in tracers").
// Taken away under lockdown since 5.14: 51e1bb9eeaf7 ("bpf: Add lockdown check for probe_write_user helper").
int try_kernel_writer() {
  return try_program(
      std::array{zero_on_stack(), set(1, 0), copy(2, kFrame), add(2, -8), set(3, 8), call(kHelperProbeWriteUser), set(0, 0), leave()});
}

// What lockdown=confidentiality takes away, and CO-RE cannot do without.
int try_kernel_read() {
  return try_program(
      std::array{zero_on_stack(), copy(1, kFrame), add(1, -8), set(2, 8), set(3, 0), call(kHelperProbeReadKernel), set(0, 0), leave()});
}

// Added in 5.12: 5ca419f2864a ("bpf: Add BPF_FETCH field / create atomic_fetch_add instruction").
int try_fetch_and_add() {
  return try_program(std::array{zero_on_stack(), set(1, 1), insn(kAtomic64, kFrame, 1, -8, kFetchAndAdd), set(0, 0), leave()});
}

// Maps are charged to the memory cgroup since 5.11, which has nothing to ask for; d05512618056 ("bpf: Add bpf_ktime_get_coarse_ns
// helper") came in the same release, and libbpf too takes it as the sign.
int try_memory_cgroup() { return try_program(std::array{call(kHelperKtimeGetCoarseNs), set(0, 0), leave()}, BPF_PROG_TYPE_SOCKET_FILTER); }

// Added in 6.7: 4ac454682158 ("bpf: Introduce task_vma open-coded iterator kfuncs").
int try_iterator(__s32 make, __s32 destroy) {
  return try_program(std::array{call(kHelperGetCurrentTaskBtf), copy(2, 0), copy(1, kFrame), add(1, -8), set(3, 0), call_kfunc(make),
                                copy(1, kFrame), add(1, -8), call_kfunc(destroy), set(0, 0), leave()});
}

// --- by the kernel's types ---

struct BtfFree {
  void operator()(btf* types) const { btf__free(types); }
};
using Btf = std::unique_ptr<btf, BtfFree>;

// A member of a struct, or of the anonymous structs and unions in it.
bool has_member(const btf* types, __u32 id, const char* name) {
  const btf_type* type = btf__type_by_id(types, id);
  if (!type || !btf_is_composite(type)) return false;
  const btf_member* member = btf_members(type);
  for (int i = 0; i < btf_vlen(type); i++, member++) {
    const char* member_name = btf__name_by_offset(types, member->name_off);
    if (strcmp(member_name, name) == 0) return true;
    if (!*member_name && has_member(types, member->type, name)) return true;
  }
  return false;
}

Walk find_walk(const btf* types) {
  const int make = btf__find_by_name_kind(types, "bpf_iter_task_vma_new", BTF_KIND_FUNC);
  const int destroy = btf__find_by_name_kind(types, "bpf_iter_task_vma_destroy", BTF_KIND_FUNC);
  if (make > 0 && destroy > 0 && try_iterator(make, destroy) == 0) return Walk::kIterator;

  // Gone in 6.1: 763ecb035029 ("mm: remove the vma linked list").
  const int mm = btf__find_by_name_kind(types, "mm_struct", BTF_KIND_STRUCT);
  return mm > 0 && has_member(types, static_cast<__u32>(mm), "mmap") ? Walk::kList : Walk::kNone;
}

// Added in 6.1: 7c8199e24fa0 ("bpf: Introduce any context BPF specific memory allocator."). Before it, a tracing program that uses a
// map with elements allocated at run time made the kernel print a warning; 96da3f7d489d ("bpf: Remove tracing program restriction on
// map types") ended that in the same release.
bool find_map_allocation() {
  const Btf types{btf__load_vmlinux_btf()};
  return types && btf__find_by_name_kind(types.get(), "bpf_mem_alloc", BTF_KIND_STRUCT) > 0;
}

// --- by ioctl() and madvise() ---

size_t page_size() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

// A page of our own to ask about.
class ProbePage {
 public:
  ProbePage() : page_(mmap(nullptr, page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {}
  ProbePage(const ProbePage&) = delete;
  ProbePage& operator=(const ProbePage&) = delete;
  ~ProbePage() {
    if (page_ != MAP_FAILED) munmap(page_, page_size());
  }
  void* get() const { return page_; }
  uint64_t address() const { return reinterpret_cast<uint64_t>(page_); }

 private:
  void* page_;
};

// Added in 6.7: 52526ca7fdb9 ("fs/proc/task_mmu: implement IOCTL to get and optionally clear info about PTEs").
bool try_page_scan() {
  struct Scan {
    uint64_t size, flags, start, end, walk_end, regions, regions_count, max_pages, inverted, all_of, any_of, returned;
  };
  struct Region {
    uint64_t start, end, categories;
  };
  constexpr uint64_t kPresent = 1 << 3;
  const ProbePage page;
  Region region{};
  Scan scan{};
  scan.size = sizeof(scan);
  scan.start = page.address();
  scan.end = page.address() + page_size();
  scan.regions = reinterpret_cast<uint64_t>(&region);
  scan.regions_count = 1;
  scan.any_of = scan.returned = kPresent;
  const Fd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  return pagemap && ioctl(pagemap.get(), _IOWR('f', 16, Scan), &scan) >= 0;
}

// Added in 6.11: ed5d583a88a9 ("fs/procfs: implement efficient VMA querying API for /proc/<pid>/maps").
bool try_mapping_query() {
  struct Query {
    uint64_t size, flags, address, start, end, vma_flags, vma_page_size, offset, inode;
    uint32_t device_major, device_minor, name_size, build_id_size;
    uint64_t name, build_id;
  };
  const ProbePage page;
  Query query{};
  query.size = sizeof(query);
  query.address = page.address();
  const Fd maps(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
  return maps && ioctl(maps.get(), _IOWR('f', 17, Query), &query) == 0;
}

// Added in 5.14: 4ca9b3859dac ("mm/madvise: introduce MADV_POPULATE_(READ|WRITE) to prefault page tables").
bool try_populate() {
  constexpr int kPopulateRead = 22;
  const ProbePage page;
  return madvise(page.get(), page_size(), kPopulateRead) == 0;
}

// While it lives, libbpf says nothing: what fails here is an answer.
class Quiet {
 public:
  Quiet() : before_(libbpf_set_print(nullptr)) {}
  ~Quiet() { libbpf_set_print(before_); }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;

 private:
  libbpf_print_fn_t before_;
};

Features ask() {
  const Quiet quiet;
  Features has{};
  libbpf_set_memlock_rlim(0);  // before the first program: the limit is ours to raise, and only if need be
  has.btf = access("/sys/kernel/btf/vmlinux", R_OK) == 0;
  has.bpf_errno = try_empty();
  if (has.bpf_errno == 0) has.bpf_errno = try_kernel_read();
  has.bpf = has.bpf_errno == 0;
  has.writer_errno = try_kernel_writer();
  has.kernel_writer = has.writer_errno == 0;
  has.fetch_and_add = try_fetch_and_add() == 0;
  has.memory_cgroup = try_memory_cgroup() == 0;
  has.page_scan = try_page_scan();
  has.mapping_query = try_mapping_query();
  has.populate = try_populate();
  // A kernel that scans pages is younger than that, and its types need not be read.
  has.map_allocation = has.page_scan || find_map_allocation();
  return has;
}

// --- what it means, and what to do about it ---

constexpr uint64_t kSessionBytes = 32u << 20;  // what the maps of a session take at most, before any page store

struct Finding {
  Code code;
  std::string message, fix;
  bool fatal;
};

constexpr char kGrant[] =
    "setcap cap_bpf,cap_perfmon,cap_dac_read_search+ep \"$(readlink -f \"$(command -v node)\")\"; in a systemd unit "
    "AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_DAC_READ_SEARCH; in a container --cap-add=BPF --cap-add=PERFMON "
    "--cap-add=DAC_READ_SEARCH";
constexpr char kGrantWriter[] =
    "not needed, restores work without it; setcap cap_bpf,cap_perfmon,cap_dac_read_search,cap_sys_admin+ep \"$(readlink -f \"$(command -v "
    "node)\")\", AmbientCapabilities=CAP_SYS_ADMIN in a systemd unit, --cap-add=SYS_ADMIN for a container";
constexpr char kOpenTracefs[] =
    "mount -t tracefs tracefs /sys/kernel/tracing (if it is not; in a container -v /sys/kernel/tracing:/sys/kernel/tracing:ro), then mount "
    "-o remount,mode=750,gid=GROUP /sys/kernel/tracing for a group of this process, or CAP_DAC_READ_SEARCH: ";
constexpr char kUnlock[] = "boot without lockdown=confidentiality on the kernel's command line";
constexpr char kSeccomp[] =
    "allow bpf and perf_event_open in the filter; in a container --security-opt seccomp=PROFILE.json with both allowed";
constexpr char kUserNamespace[] = "run it outside of user namespaces: not under unshare -U, in a container with --userns=host";
constexpr char kAudit[] = "look for the denial: ausearch -m AVC, dmesg";

// Lockdown where securityfs does not say: it is what refuses a helper to one who has the capability for it.
std::string lockdown_of(const Features& has, const Privileges& mine) {
  if (!mine.lockdown.empty()) return mine.lockdown;
  if (has.kernel_writer) return "none";
  if (mine.user_namespace || !mine.has(kCapSysAdmin)) return "unknown";
  if (try_empty() != 0) return "unknown";
  return has.bpf ? "integrity" : "confidentiality";
}

Finding why_no_bpf(const Features& has, const Privileges& mine, const std::string& lockdown) {
  const std::string why = errno_text(has.bpf_errno), missing = missing_capabilities(mine);
  if (lockdown == "confidentiality")
    return {Code::kLockdown, "The kernel is locked down (confidentiality): BPF programs may not read memory", kUnlock, true};
  if (has.bpf_errno != EPERM) return {Code::kKernel, "A BPF tracepoint program does not load: " + why, "", true};
  if (!missing.empty()) return {Code::kCapability, "Loading BPF programs needs " + missing + ", which this process lacks", kGrant, true};
  if (mine.user_namespace)
    return {Code::kCapability, "This process runs in a user namespace: capabilities for bpf() count in the initial one only",
            kUserNamespace, true};
  if (mine.seccomp != 0)
    return {Code::kCapability, "bpf() is refused though the capabilities are there: a seccomp filter is in force", kSeccomp, true};
  return {Code::kCapability, "bpf() is refused though the capabilities are there (" + why + "): a security module may forbid it", kAudit,
          true};
}

// Some distributions' kernels know levels beyond 2 and there want CAP_SYS_ADMIN where CAP_PERFMON should do.
Finding why_no_perf_event(int number, const Privileges& mine) {
  const std::string why = errno_text(number);
  int paranoid = 0;
  std::ifstream("/proc/sys/kernel/perf_event_paranoid") >> paranoid;
  if (number == EACCES && paranoid > 2 && !mine.has(kCapSysAdmin))
    return {Code::kCapability,
            "perf_event_open() is refused: kernel.perf_event_paranoid is " + std::to_string(paranoid) +
                ", and this kernel then wants CAP_SYS_ADMIN",
            "sysctl kernel.perf_event_paranoid=2, or grant CAP_SYS_ADMIN", true};
  if (mine.seccomp != 0)
    return {Code::kCapability, "perf_event_open() is refused (" + why + "): a seccomp filter is in force", kSeccomp, true};
  return {Code::kCapability, "perf_event_open() is refused (" + why + "): a security module may forbid it", kAudit, true};
}

// Before 5.11 the maps of a session, and then every page store, count against a limit that is 64 KiB by default.
Finding too_little_memlock(const Privileges& mine) {
  return {
      Code::kNoRoom, "Before kernel 5.11 BPF maps count against RLIMIT_MEMLOCK, which is " + std::to_string(mine.memlock) + " bytes here",
      "ulimit -l unlimited; in a systemd unit LimitMEMLOCK=infinity; in a container --ulimit memlock=-1; or grant CAP_SYS_RESOURCE", true};
}

Finding why_no_writer(const Features& has, const Privileges& mine, const std::string& lockdown) {
  if (lockdown == "integrity")
    return {Code::kLockdown,
            "The kernel is locked down (integrity, as with Secure Boot) and does not let BPF write: user space puts the bytes back",
            "not needed, restores work without it; boot without lockdown=integrity", false};
  if (!mine.has(kCapSysAdmin))
    return {Code::kCapability, "The kernel writer needs CAP_SYS_ADMIN, which this process lacks: user space puts the bytes back",
            kGrantWriter, false};
  return {Code::kKernel, "The kernel writer is refused (" + errno_text(has.writer_errno) + "): user space puts the bytes back", "", false};
}

std::vector<Finding> findings(const Support& state, const Privileges& mine, const std::vector<Finding>& tracepoint) {
  const Features& has = state.features;
  std::vector<Finding> found;
  if (!has.bpf) found.push_back(why_no_bpf(has, mine, state.lockdown));
  if (!has.btf)
    found.push_back({Code::kNoBtf, "The kernel's types are missing: /sys/kernel/btf/vmlinux cannot be read",
                     "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y; in a container make /sys visible", true});
  found.insert(found.end(), tracepoint.begin(), tracepoint.end());
  if (has.bpf) {
    if (const int number = perf_event_refusal()) found.push_back(why_no_perf_event(number, mine));
    if (!has.memory_cgroup && mine.memlock < kSessionBytes && !mine.has(kCapSysResource)) found.push_back(too_little_memlock(mine));
    if (!has.kernel_writer) found.push_back(why_no_writer(has, mine, state.lockdown));
  }
  return found;
}

std::vector<Finding> look(Support& state) {
  const Privileges mine = privileges();
  const auto capability = [&mine](const char* name, Cap cap, const char* needed_for) {
    return Capability{name, mine.has(cap), needed_for};
  };
  state.features = features();
  utsname system;
  if (uname(&system) == 0) {
    state.release = system.release;
    state.machine = system.machine;
  }
  state.seccomp = mine.seccomp;
  state.lockdown = lockdown_of(state.features, mine);
  state.capabilities = {
      capability("CAP_BPF", kCapBpf, "loading the programs and maps"),
      capability("CAP_PERFMON", kCapPerfmon, "reading memory in the programs, and attaching them"),
      capability("CAP_DAC_READ_SEARCH", kCapDacReadSearch, "reading tracepoint ids where tracefs is closed to others"),
      capability("CAP_SYS_ADMIN", kCapSysAdmin, "the kernel writer, and tracepoint ids where tracefs is not mounted"),
      capability("CAP_SYS_PTRACE", kCapSysPtrace, "restoring other processes from user space"),
      capability("CAP_CHECKPOINT_RESTORE", kCapCheckpointRestore, "bringing ended threads back in a rewind"),
  };

  std::vector<Finding> tracepoint;
  try {
    tracepoint_id("sys_enter_openat", &state.tracefs);
    tracepoint_id("sys_enter_access");
    state.tracepoints = true;
  } catch (const Error& reason) {
    state.tracefs = reason.what();
    const std::string fix = reason.code() == Code::kTracepoint ? std::string(kOpenTracefs) + kGrant : "";
    tracepoint.push_back({reason.code(), reason.what(), fix, true});
  }
  std::vector<Finding> found = findings(state, mine, tracepoint);
  std::stable_partition(found.begin(), found.end(), [](const Finding& finding) { return finding.fatal; });
  return found;
}

}  // namespace

const Features& features() {
  static const Features has = ask();
  return has;
}

Walk vma_walk() {
  static const Walk walk = [] {
    const Quiet quiet;
    const Btf types{btf__load_vmlinux_btf()};
    return types ? find_walk(types.get()) : Walk::kNone;
  }();
  return walk;
}

Support support() {
  Support state{};
  state.walk = vma_walk();
  for (Finding& found : look(state))
    state.problems.push_back(Problem{code_name(found.code), std::move(found.message), std::move(found.fix), found.fatal});
  return state;
}

void require_support() {
  Support state{};
  for (const Finding& found : look(state)) {
    if (found.fatal) throw Error(found.code, found.fix.empty() ? found.message : found.message + " What helps: " + found.fix);
  }
}

}  // namespace ckpt::bpf
