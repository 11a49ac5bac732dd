// inject.cc: the layout of another process's memory put back by system calls that it is made to make, on real children.
//
// usage: inject [TEST]    prints "ok NAME" or "not ok NAME: why" for each check; exits with 1 if one failed
#include "daemon/inject.h"

#include <dirent.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/select.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <fstream>
#include <sstream>
#include <thread>

#include "children.h"
#include "daemon/layout.h"

namespace {

using ckpt::Injection;
using ckpt::LayoutChange;

constexpr uint64_t kHeapBytes = 3 * kMiB;
constexpr uint64_t kBlockBytes = 8 * kMiB;

}  // namespace

// ------------------------------------------------------------------ what children do

namespace child {
namespace {

// How it waits to be told: by read() itself, or by another call before.
const char* waits_in = "read";
uint32_t never = 0;

void wait_for_letter() {
  pollfd hear{kHearFd, POLLIN, 0};
  const std::string how = waits_in;
  if (how == "poll") {
    require(poll(&hear, 1, -1) == 1, "poll");
  } else if (how == "ppoll") {
    sigset_t none;
    sigemptyset(&none);
    require(ppoll(&hear, 1, nullptr, &none) == 1, "ppoll");
  } else if (how == "select") {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(kHearFd, &set);
    require(select(kHearFd + 1, &set, nullptr, nullptr, nullptr) == 1, "select");
  } else if (how == "nanosleep" || how == "futex") {
    // In slices, each to its end. errno is rolled back too: it shall not change between them.
    errno = ETIMEDOUT;
    while (poll(&hear, 1, 0) == 0) {
      timespec slice{0, 50 * 1000 * 1000};
      const long rc = how == "futex" ? syscall(SYS_futex, &never, FUTEX_WAIT, 0, &slice, nullptr, 0) : nanosleep(&slice, nullptr);
      require(how == "futex" ? rc == -1 && errno == ETIMEDOUT : rc == 0, "sleep undisturbed");
    }
  }
}

void fill(char* memory, uint64_t bytes, uint64_t seed) {
  for (uint64_t at = 0; at < bytes; at += 8) {
    const uint64_t word = (seed + 1) * 0x9e3779b97f4a7c15u ^ at * 0xbf58476d1ce4e5b9u;
    memcpy(memory + at, &word, 8);
  }
}

void protect(char* memory, uint64_t bytes, int protection) { require(mprotect(memory, bytes, protection) == 0, "protect memory"); }
void unmap(char* memory, uint64_t bytes) { require(munmap(memory, bytes) == 0, "unmap memory"); }

// One of each kind of memory that can be put back.
struct Memory {
  char *block, *pieces, *read_only, *code, *reserve, *protect[4], *file, *read_file, *shared, *closed, *heap;

  void make() {
    fill(block = map_alone(kBlockBytes), kBlockBytes, 1);
    fill(pieces = map_alone(16 * kPage), 16 * kPage, 2);
    fill(read_only = map_alone(4 * kPage), 4 * kPage, 3);
    child::protect(read_only, 4 * kPage, PROT_READ);
    fill(code = map_alone(4 * kPage), 4 * kPage, 4);
    child::protect(code, 4 * kPage, PROT_READ | PROT_EXEC);
    // As the C library makes an arena: the front of what is reserved may be used.
    reserve = map_alone(64 * kPage, PROT_NONE, kAnonymous | MAP_NORESERVE);
    child::protect(reserve, 16 * kPage, kReadWrite);
    fill(reserve, 16 * kPage, 5);
    for (uint64_t i = 0; i < 4; i++) fill(protect[i] = map_alone(4 * kPage), 4 * kPage, 6 + i);
    file = map_alone(8 * kPage, kReadWrite, MAP_PRIVATE, file_of(8 * kPage));
    fill(file, 4 * kPage, 10);
    read_file = map_alone(8 * kPage, PROT_READ, MAP_PRIVATE, file_of(8 * kPage));
    fill(shared = map_alone(4 * kPage, kReadWrite, MAP_SHARED | MAP_ANONYMOUS), 4 * kPage, 11);
    fill(closed = map_alone(4 * kPage, kReadWrite, MAP_SHARED | MAP_ANONYMOUS), 4 * kPage, 12);
    heap = static_cast<char*>(sbrk(0));
    heap += -address_of(heap) & (kPage - 1);
    require(brk(heap + kHeapBytes) == 0, "grow the heap");
    fill(heap, kHeapBytes, 13);
    child::protect(heap + kMiB, 4 * kPage, PROT_READ);
    child::protect(heap + 2 * kMiB, 4 * kPage, PROT_READ);
  }

  // Writes over what is left afterwards, where that can be.
  void ruin() {
    memset(reserve, 'x', 16 * kPage);
    child::protect(reserve + 16 * kPage, 8 * kPage, kReadWrite);
    memset(reserve + 16 * kPage, 'x', 8 * kPage);
    memset(pieces, 'x', 16 * kPage);
    unmap(block, kBlockBytes);
    unmap(pieces + 3 * kPage, 4 * kPage);
    unmap(pieces + 12 * kPage, 4 * kPage);
    unmap(read_only, 4 * kPage);
    unmap(code + kPage, 2 * kPage);
    unmap(reserve + 12 * kPage, 40 * kPage);
    const int protections[] = {PROT_READ, PROT_NONE, kReadWrite | PROT_EXEC, PROT_READ | PROT_EXEC};
    for (int i = 0; i < 4; i++) {
      memset(protect[i], 'x', 4 * kPage);
      child::protect(protect[i] + kPage, 2 * kPage, protections[i]);
    }
    memset(file, 'x', 8 * kPage);
    child::protect(file, 8 * kPage, PROT_NONE);
    child::protect(read_file, 8 * kPage, kReadWrite);
    memset(read_file, 'x', 8 * kPage);
    memset(shared, 'x', 4 * kPage);
    child::protect(shared, 4 * kPage, PROT_READ);
    memset(closed, 'x', 4 * kPage);
    child::protect(closed, 4 * kPage, PROT_NONE);
    memset(heap, 'x', kMiB);
    unmap(heap + kPage, 2 * kPage);
    require(brk(heap + kMiB + 2 * kPage) == 0, "shrink the heap");
  }

  // It can go on with all of it.
  void use() const {
    memset(block, 'u', kBlockBytes);
    memset(pieces, 'u', 16 * kPage);
    child::protect(reserve, 64 * kPage, kReadWrite);
    for (uint64_t i = 16 * kPage; i < 64 * kPage; i++) require(reserve[i] == 0, "find fresh memory in a reserve");
    for (char* memory : protect) memset(memory, 'u', 4 * kPage);
    memset(file, 'u', 8 * kPage);
    memset(shared, 'u', 4 * kPage);
    memset(closed, 'u', 4 * kPage);
    memset(heap, 'u', kMiB);
    require(brk(heap + 2 * kHeapBytes) == 0, "grow the heap further");
    memset(heap + kHeapBytes, 'u', kHeapBytes);
    require(brk(heap + kHeapBytes) == 0, "shrink the heap");
  }
};

void layout() {
  // On the stack, which is not rolled back.
  Memory memory;
  memory.make();
  tell("block", memory.block);
  tell("heap", memory.heap);
  for (;;) {
    switch (next()) {
      case 'r':
        memory.ruin();
        break;
      case 'u':
        memory.use();
        break;
    }
  }
}

void layout_in_poll() { waits_in = "poll", layout(); }
void layout_in_ppoll() { waits_in = "ppoll", layout(); }
void layout_in_select() { waits_in = "select", layout(); }
void layout_in_nanosleep() { waits_in = "nanosleep", layout(); }
void layout_in_futex() { waits_in = "futex", layout(); }

void* computes(void*) {
  for (volatile uint64_t x = 0;; x = x + 1) {
  }
}
void* pauses(void*) {
  for (;;) pause();
}

void layout_among_threads() {
  pthread_t thread;
  require(pthread_create(&thread, nullptr, computes, nullptr) == 0, "start a thread");
  for (int i = 0; i < 5; i++) require(pthread_create(&thread, nullptr, pauses, nullptr) == 0, "start a thread");
  layout();
}

// What cannot be put back, a letter each.
void refused() {
  char* const file = map_alone(4 * kPage, kReadWrite, MAP_PRIVATE, file_of(4 * kPage));
  char* const shared = map_alone(4 * kPage, kReadWrite, MAP_SHARED | MAP_ANONYMOUS);
  char* const taken = map_alone(4 * kPage);
  char* const plain = map_alone(4 * kPage);
  const int fd = static_cast<int>(syscall(SYS_memfd_create, "inject", 0));
  require(fd >= 0 && ftruncate(fd, 4 * kPage) == 0, "make a memfd");
  char* const cut = map_alone(4 * kPage, kReadWrite, MAP_SHARED, fd);
  for (char* memory : {file, shared, taken, plain, cut}) fill(memory, 4 * kPage, address_of(memory));
  tell("file", file), tell("shared", shared), tell("taken", taken), tell("plain", plain), tell("cut", cut);
  for (;;) {
    switch (next()) {
      case 'p':
        unmap(plain, 4 * kPage);
        break;
      case 'P':
        map(4 * kPage, kReadWrite, kAnonymous | MAP_FIXED, -1, address_of(plain));
        break;
      case 'w':
        protect(plain, 4 * kPage, kReadWrite | PROT_EXEC);
        break;
      case 'f':
        unmap(file + kPage, kPage);
        break;
      case 's':
        unmap(shared + 2 * kPage, kPage);
        break;
      case 't':
        map(kPage, kReadWrite, MAP_PRIVATE | MAP_FIXED, file_of(kPage), address_of(taken + kPage));
        break;
      case 'c':
        require(ftruncate(fd, kPage) == 0, "truncate");
        break;
    }
  }
}

// One page that it unmaps when told, and nothing else.
char* simple() {
  char* const page = map_alone(kPage);
  memset(page, 's', kPage);
  tell("page", page);
  return page;
}

void do_simple(char letter, char* page) {
  if (letter == 'u') unmap(page, kPage);
  if (letter == 'h') kill(getpid(), SIGSTOP);
  if (letter == 'v') require(page[0] == 's' && page[kPage - 1] == 's', "find its page");
}

void simply() {
  char* const page = simple();
  for (;;) do_simple(next(), page);
}
void simply_in_poll() { waits_in = "poll", simply(); }

// A filter that ends it for every call that puts memory back.
void filtered() {
  char* const page = simple();
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_brk, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
  const sock_fprog program{sizeof filter / sizeof *filter, filter};
  bool rests = true;
  while (rests) {
    const char letter = next();
    if (letter == 'w') protect(page, kPage, kReadWrite | PROT_EXEC);
    rests = letter != 'f';
  }
  require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "filter its calls");
  for (;;) {
    const char letter = next();
    do_simple(letter, page);
    if (letter == 'm') map(kPage);
  }
}

// Once told, it computes for ever, with a page unmapped.
void busy() {
  char* const page = simple();
  next();
  unmap(page, kPage);
  require(write(kTellFd, "\n", 1) == 1, "tell");
  computes(nullptr);
}

// What signals did, in memory that is not rolled back: others map it too.
struct Seen {
  std::atomic<uint32_t> plain, queued, out_of_order, interrupted;
};
Seen* seen;

void on_plain(int) { seen->plain++; }
void on_queued(int, siginfo_t* info, void*) {
  if (info->si_code != SI_QUEUE || static_cast<uint32_t>(info->si_value.sival_int) != seen->queued) seen->out_of_order++;
  seen->queued++;
}

void handle() {
  struct sigaction action {};
  action.sa_handler = on_plain;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  action.sa_handler = nullptr;
  action.sa_sigaction = on_queued;
  sigaction(SIGRTMIN, &action, nullptr);
}

void signals() {
  seen = reinterpret_cast<Seen*>(map(kPage, kReadWrite, MAP_SHARED, kGivenFd));
  handle();
  tell("handler", reinterpret_cast<void*>(&on_plain));
  char* const page = simple();
  for (;;) do_simple(next(), page);
}

// Everything of a signal's state that a tracer can spoil: ignored, blocked, blocked and handled, pending.
void dispositions() {
  seen = reinterpret_cast<Seen*>(map(kPage, kReadWrite, MAP_SHARED, kGivenFd));
  handle();
  signal(SIGTRAP, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  for (int number : {SIGTRAP, SIGUSR1, SIGSEGV, SIGRTMIN}) sigaddset(&set, number);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  raise(SIGUSR1);
  for (int i = 0; i < 3; i++) sigqueue(getpid(), SIGRTMIN, {i});
  char* const page = simple();
  for (;;) {
    const char letter = next();
    do_simple(letter, page);
    if (letter == 'd') sigprocmask(SIG_UNBLOCK, &set, nullptr);
  }
}

// Waits 400 ms in one call after the other, and tells what came of each.
void restarts() {
  char* const page = simple();
  const auto timed = [](const char* name, const std::function<long()>& wait) {
    const auto start = std::chrono::steady_clock::now();
    const long rc = wait();
    const int number = rc < 0 ? errno : 0;
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start).count();
    dprintf(kTellFd, "%s-ms %" PRIx64 "\n%s-errno %x\n", name, static_cast<uint64_t>(ms), name, static_cast<unsigned>(number));
  };
  timespec time{0, 400 * 1000 * 1000};
  timeval tv{0, 400 * 1000};
  timed("nanosleep", [&] { return nanosleep(&time, nullptr); });
  timed("clock_nanosleep", [&] { return -clock_nanosleep(CLOCK_REALTIME, 0, &time, nullptr); });
  timed("poll", [&] { return poll(nullptr, 0, 400); });
  timed("ppoll", [&] { return ppoll(nullptr, 0, &time, nullptr); });
  timed("select", [&] { return select(0, nullptr, nullptr, nullptr, &tv); });
  timed("futex", [&] { return syscall(SYS_futex, &never, FUTEX_WAIT, 0, &time, nullptr, 0); });
  for (;;) do_simple(next(), page);
}

// Its address space goes on in another process when it has become another program.
void leaves_memory() {
  char* const page = simple();
  alignas(16) static char stack[16384];
  const auto stay = [](void*) -> int {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
  };
  require(next() == 'x', "be told to");
  unmap(page, kPage);
  require(clone(stay, stack + sizeof stack, CLONE_VM | SIGCHLD, nullptr) > 0, "clone");
  execl("/proc/self/exe", "inject", "child", "simple", nullptr);
  _exit(4);
}

const Scenarios kScenarios = {
    {"layout", layout},
    {"layout-poll", layout_in_poll},
    {"layout-ppoll", layout_in_ppoll},
    {"layout-select", layout_in_select},
    {"layout-nanosleep", layout_in_nanosleep},
    {"layout-futex", layout_in_futex},
    {"layout-threads", layout_among_threads},
    {"refused", refused},
    {"simple", simply},
    {"simple-poll", simply_in_poll},
    {"filtered", filtered},
    {"busy", busy},
    {"signals", signals},
    {"dispositions", dispositions},
    {"restarts", restarts},
    {"leaves", leaves_memory},
};

}  // namespace
}  // namespace child

// ------------------------------------------------------------------ what is checked

namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The state letters of all threads, sorted.
std::string states_of(pid_t pid) {
  std::string states;
  const std::string folder = "/proc/" + std::to_string(pid) + "/task";
  DIR* const tasks = opendir(folder.c_str());
  while (const dirent* entry = tasks ? readdir(tasks) : nullptr) {
    if (entry->d_name[0] == '.') continue;
    const std::string stat = read_file(folder + "/" + entry->d_name + "/stat");
    if (const size_t end = stat.rfind(')'); end != std::string::npos) states += stat[end + 2];
  }
  if (tasks) closedir(tasks);
  std::sort(states.begin(), states.end());
  return states;
}

bool eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 3000; i++) {
    if (holds()) return true;
    usleep(1000);
  }
  return false;
}

bool all_stopped(pid_t pid) {
  return eventually([&] {
    const std::string states = states_of(pid);
    return !states.empty() && states.find_first_not_of('T') == std::string::npos;
  });
}

// Whether it wakes when it is continued: that it is stopped no more.
bool goes_on(pid_t pid) {
  kill(pid, SIGCONT);
  return eventually([&] { return states_of(pid).find_first_of("Tt") == std::string::npos; });
}

child::Seen* shared_seen(int& fd) {
  fd = static_cast<int>(syscall(SYS_memfd_create, "seen", 0));
  if (fd < 0 || ftruncate(fd, kPage) != 0) throw ckpt::error(Code::kInternal, "No memfd");
  return static_cast<child::Seen*>(mmap(nullptr, kPage, kReadWrite, MAP_SHARED, fd, 0));
}

// Whether it is stopped at the end of a system call.
bool in_call(pid_t pid) {
  const std::string call = read_file("/proc/" + std::to_string(pid) + "/syscall");
  return !call.empty() && call[0] >= '0' && call[0] <= '9';
}

// As the daemon finds its clients.
void stop_in_call(const Child& child) {
  for (child.stop(); !in_call(child.pid()); child.stop()) {
    child.go_on();
    usleep(1000);
  }
}

// As the daemon does it. Returns how many changes the layout took.
size_t recover(const Target& target, const Saved& saved, bool* changed = nullptr) {
  Coverage now = ckpt::cover(target, ckpt::kPartsDefault, saved.coverage.left);
  const std::vector<LayoutChange> changes = ckpt::layout_changes(target, saved.coverage, now);
  if (!changes.empty()) {
    ckpt::put_layout_back(target, changes, [&] {
      if (changed) *changed = true;
    });
    now = ckpt::cover(target, ckpt::kPartsDefault, saved.coverage.left);
  }
  ckpt::require_restorable(target, saved.coverage, now);
  put_contents_back(target, saved);
  return changes.size();
}

// Every byte that is covered, read from outside, and every protection: empty if something is not mapped.
std::string picture_of(const Target& target, const Coverage& coverage) {
  std::string protections, contents;
  std::vector<char> bytes;
  const std::vector<ckpt::NamedMapping> now = target.mappings();
  for (const ckpt::NamedMapping& mapping : coverage.mappings) {
    uint64_t mapped = 0;
    for (const ckpt::NamedMapping& part : now) {
      if (part.end <= mapping.start || part.start >= mapping.end) continue;
      const Range range = part.cut(mapping.range()).range();
      mapped += range.bytes();
      for (uint64_t at = range.start; at < range.end; at += kPage) protections += static_cast<char>('0' + part.protection());
      bytes.resize(range.bytes());
      target.read(range, bytes.data());
      contents.append(bytes.data(), bytes.size());
    }
    if (mapped != mapping.range().bytes()) return "";
  }
  return protections + contents;
}

size_t descriptors() {
  size_t count = 0;
  DIR* const folder = opendir("/proc/self/fd");
  while (readdir(folder)) count++;
  closedir(folder);
  return count;
}

size_t threads() { return states_of(getpid()).size(); }

// What a tracer must leave as it found it.
std::string signal_state(pid_t pid) {
  std::istringstream status(read_file("/proc/" + std::to_string(pid) + "/status"));
  std::string state;
  for (std::string line; std::getline(status, line);)
    if (line.compare(0, 3, "Sig") == 0 || line.compare(0, 3, "Shd") == 0 || line.compare(0, 6, "Tracer") == 0) state += line + "; ";
  return state;
}

// ------------------------------------------------------------------ the tests

void round_of(const std::string& scenario, bool held) {
  const std::string name = scenario + (held ? ", held" : ", waiting");
  Child child(scenario.c_str());
  const Target target(child.pid());
  if (held) stop_in_call(child);
  const Saved saved = save(target);
  const std::string before = picture_of(target, saved.coverage);
  if (held) goes_on(child.pid());
  for (int i = 0; i < 2; i++) {
    child.tell('r');
    usleep(5000);  // into the call it waits in, most likely
    if (held) stop_in_call(child);
    check("the layout is another one: " + name, picture_of(target, saved.coverage).empty());
    bool changed = false;
    const Refusal refusal = refusal_of([&] { recover(target, saved, &changed); });
    check("it is put back: " + name, !refusal.thrown && changed, refusal.text());
    check("every byte and every protection is as it was: " + name, picture_of(target, saved.coverage) == before);
    check("then nothing has to change any more: " + name, recover(target, saved) == 0);
    if (held) {
      check("all its threads are stopped afterwards: " + name, all_stopped(child.pid()), states_of(child.pid()));
      int status;
      check("its parent has not been told that it stopped again: " + name, waitpid(child.pid(), &status, WUNTRACED | WNOHANG) == 0);
      check("and it goes on when it is continued: " + name, goes_on(child.pid()), states_of(child.pid()));
    }
    const Refusal broken = refusal_of([&] { child.tell('u'); });
    check("it can use all of its memory: " + name, !broken.thrown, broken.text());
  }
}

void test_round_trip() {
  for (const char* how : {"", "-poll", "-ppoll", "-select", "-nanosleep", "-futex"}) round_of(std::string("layout") + how, false);
  round_of("layout", true);
  round_of("layout-threads", true);
  round_of("layout-threads", false);
}

void test_changes() {
  Child child("layout");
  const Target target(child.pid());
  const Saved saved = save(target);
  const auto changes = [&] {
    return ckpt::layout_changes(target, saved.coverage, ckpt::cover(target, ckpt::kPartsDefault, saved.coverage.left));
  };
  check("as long as nothing changes, nothing has to be changed", changes().empty());
  child.tell('r');
  size_t maps = 0, heaps = 0, protects = 0, surplus = 0;
  bool whole = false, heap = false;
  for (const LayoutChange& change : changes()) {
    (change.kind == LayoutChange::kMap ? maps : change.kind == LayoutChange::kGrowHeap ? heaps : protects)++;
    surplus += !change.needed;
    whole |= change.kind == LayoutChange::kMap && change.range.start == child["block"] && change.range.bytes() == kBlockBytes;
    heap |= change.kind == LayoutChange::kGrowHeap && change.range.end == child["heap"] + kHeapBytes;
  }
  check("[heap] grows once, to where it ended", heaps == 1 && heap, std::to_string(heaps));
  check("what was unmapped in one piece is mapped in one piece", whole);
  // block, twice in pieces, read-only, code, the reserve's two protections, within the heap.
  check("each piece is mapped once", maps == 8, std::to_string(maps));
  // Four, the two files, shared and closed, and what the heap had lost of its read-only parts.
  check("each piece is protected once", protects == 10, std::to_string(protects));
  // To be executed, and of the file.
  check("what may be left out is what takes permissions away", surplus == 2, std::to_string(surplus));
}

void test_refused() {
  struct {
    char letter;
    const char *part, *message;
    uint64_t offset;
  } const cases[] = {
      {'f', "file", "no longer mapped", kPage},
      {'s', "shared", "no longer mapped", 2 * kPage},
      {'t', "taken", "not what was mapped", kPage},
      {'c', "cut", "truncated", kPage},
  };
  for (const auto& [letter, part, message, offset] : cases) {
    Child child("refused");
    const Target target(child.pid());
    const Saved saved = save(target);
    child.tell('p');
    child.tell(letter);
    bool changed = false;
    const Refusal refusal = refusal_of([&] { recover(target, saved, &changed); });
    check(std::string("refused, by its address: ") + part, refusal.is(Code::kUnmapped, message) && refusal.address == child[part] + offset,
          refusal.text());
    char byte;
    const bool still = refusal_of([&] { target.read({child["plain"], child["plain"] + 1}, &byte); }).thrown;
    check(std::string("and before anything has changed: ") + part, still && !changed);
  }
}

bool is_mapped(const Target& target, uint64_t address) {
  char byte;
  return !refusal_of([&] { target.read({address, address + 1}, &byte); }).thrown;
}

// The page is unmapped; a recover is refused, and has changed nothing.
void expect_refused(const std::string& name, Child& child, const Target& target, const Saved& saved, const std::string& why) {
  bool changed = false;
  const auto start = std::chrono::steady_clock::now();
  const Refusal refusal = refusal_of([&] { recover(target, saved, &changed); });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  check("refused: " + name, refusal.is(Code::kUnmapped, why) && refusal.address == child["page"], refusal.text());
  check("in time, and nothing has changed: " + name, seconds < 3 && !changed && !is_mapped(target, child["page"]), std::to_string(seconds));
}

void test_traced() {
  Child child("simple");
  const Target target(child.pid());
  const Saved saved = save(target);
  child.tell('u');
  int ready[2];
  char byte;
  if (pipe(ready) != 0) return check("a pipe can be had", false);
  const pid_t tracer = fork();
  if (tracer == 0) {
    if (ptrace(PTRACE_SEIZE, child.pid(), nullptr, nullptr) == 0 && write(ready[1], "", 1) == 1)
      for (;;) pause();
    _exit(1);
  }
  close(ready[1]);
  check("somebody traces it", read(ready[0], &byte, 1) == 1);
  close(ready[0]);
  expect_refused("it is traced already", child, target, saved, "is traced by process " + std::to_string(tracer));
  kill(tracer, SIGKILL);
  waitpid(tracer, nullptr, 0);
  const Refusal refusal = refusal_of([&] { recover(target, saved); });
  check("once it is not traced any more it is put back", !refusal.thrown && is_mapped(target, child["page"]), refusal.text());
  child.tell('v');
}

// What comes of it in a process of its own, without CAP_SYS_ADMIN.
Refusal without_privilege(const std::function<void()>& work) {
  int ends[2];
  Refusal refusal;
  if (pipe(ends) != 0) return refusal;
  const pid_t pid = fork();
  if (pid == 0) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) != 0) _exit(1);
    data[0].effective &= ~(1u << CAP_SYS_ADMIN);
    if (syscall(SYS_capset, &header, data) != 0) _exit(1);
    refusal = refusal_of(work);
    dprintf(ends[1], "%d %" PRIx64 " %d %s", refusal.thrown, refusal.address, static_cast<int>(refusal.code), refusal.message.c_str());
    _exit(0);
  }
  char text[1024] = {}, message[1024] = {};
  int thrown = 0, code = 0;
  close(ends[1]);
  for (size_t at = 0; at < sizeof text - 1;) {
    const ssize_t got = read(ends[0], text + at, sizeof text - 1 - at);
    if (got <= 0) break;
    at += static_cast<size_t>(got);
  }
  close(ends[0]);
  waitpid(pid, nullptr, 0);
  sscanf(text, "%d %" SCNx64 " %d %1000[^\n]", &thrown, &refusal.address, &code, message);
  refusal.thrown = thrown != 0, refusal.code = static_cast<Code>(code), refusal.message = message;
  return refusal;
}

void test_filtered() {
  Child child("filtered");
  const Target target(child.pid());
  const Saved saved = save(target);
  const uint64_t page = child["page"];
  child.tell('w');
  child.tell('f');
  const auto changes = [&] { return ckpt::layout_changes(target, saved.coverage, ckpt::cover(target, ckpt::kPartsDefault, {})); };
  const auto put_back = [&] { ckpt::put_layout_back(target, changes(), [] {}); };
  const Refusal surplus = without_privilege(put_back);
  check("a filter does not matter where a protection may as well stay", !surplus.thrown && !changes().empty(), surplus.text());
  child.tell('u');
  const Refusal filtered = without_privilege(put_back);
  check("refused: its system calls are filtered, and we may not suspend that",
        filtered.is(Code::kUnmapped, "filtered by seccomp") && filtered.address == page && !is_mapped(target, page), filtered.text());
  for (int i = 0; i < 3; i++) {
    child.tell('u');
    const Refusal refusal = refusal_of([&] { recover(target, saved); });
    check("a filter that would end it for the calls is suspended for them", !refusal.thrown && is_mapped(target, page), refusal.text());
    child.tell('v');
  }
  child.send('m');
  const int status = child.reap();
  check("and in force again afterwards", WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, std::to_string(status));
}

void test_busy() {
  Child child("busy");
  const Target target(child.pid());
  const Saved saved = save(target);
  child.tell('u');
  expect_refused("it computes", child, target, saved, "waits in a system call");
  check("and goes on computing", states_of(child.pid()) == "R", states_of(child.pid()));
  child.stop();
  expect_refused("it was stopped while it computed", child, target, saved, "waits in a system call");
  check("and is still stopped", all_stopped(child.pid()), states_of(child.pid()));
}

void test_another_program() {
  Child child("leaves");
  const Target target(child.pid());
  const Saved saved = save(target);
  const uint64_t page = child["page"];
  child.tell('x');
  check("its address space outlives its execve()", target.alive() && !is_mapped(target, page));
  const std::string before = read_file("/proc/" + std::to_string(child.pid()) + "/maps");
  const Refusal refusal = refusal_of([&] { Injection injection(target); });
  check("the program that runs there now is not made to do anything", refusal.is(Code::kUnmapped, "another program"), refusal.text());
  check("and its layout stays", read_file("/proc/" + std::to_string(child.pid()) + "/maps") == before);
  child.tell('v');
}

void test_calls() {
  Child child("simple-poll");
  const Target target(child.pid());
  const auto made = [&](const std::vector<ckpt::SystemCall>& calls) { return Injection(target).make(calls); };
  const auto pid = static_cast<uint64_t>(child.pid());
  check("calls return what they return",
        made({{SYS_getpid, {}, pid}, {SYS_getppid, {}, 0}}) == std::vector<int64_t>{child.pid(), getpid()});
  check("the first that fails is the last", made({{SYS_close, {999}, 0}, {SYS_getpid, {}, pid}}) == std::vector<int64_t>{-EBADF});
  const uint64_t page = child["page"];
  check("nothing is mapped over what is there",
        made({{SYS_mmap, {page, kPage, PROT_READ, kAnonymous | MAP_FIXED_NOREPLACE, ~uint64_t{0}, 0}, page}}) ==
            std::vector<int64_t>{-EEXIST});
  { const Injection none(target); }
  check("it can be let go without a call", eventually([&] { return states_of(child.pid()) == "S"; }), states_of(child.pid()));
  child.tell('v');
}

void test_restarts() {
  {
    int from[2];
    if (pipe2(from, O_CLOEXEC) != 0) return check("a pipe can be had", false);
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int tell = fcntl(from[1], F_DUPFD, 10), hear = open("/dev/null", O_RDONLY);
      dup2(hear, kHearFd), dup2(tell, kTellFd);
      execl("/proc/self/exe", "inject", "child", "restarts", nullptr);
      _exit(127);
    }
    close(from[1]);
    std::string told;
    std::thread reader([&] {
      char bytes[512];
      for (ssize_t got; (got = read(from[0], bytes, sizeof bytes)) > 0;) told.append(bytes, static_cast<size_t>(got));
    });
    usleep(50 * 1000);
    size_t injected = 0;
    // It ends when its waits are over.
    while (waitpid(pid, nullptr, WNOHANG) == 0) {
      injected += !refusal_of([&] {
                     const Target target(pid);
                     Injection(target).make({{SYS_getpid, {}, static_cast<uint64_t>(pid)}});
                   }).thrown;
      usleep(30 * 1000);
    }
    reader.join();
    close(from[0]);
    check("it was interrupted often", injected > 5, std::to_string(injected));
    std::map<std::string, uint64_t> values;
    std::istringstream lines(told);
    std::string name, value;
    while (lines >> name >> value) values[name] = strtoull(value.c_str(), nullptr, 16);
    for (const char* call : {"nanosleep", "clock_nanosleep", "poll", "ppoll", "select", "futex"}) {
      const uint64_t ms = values[std::string(call) + "-ms"], number = values[std::string(call) + "-errno"];
      const uint64_t expected = strcmp(call, "futex") == 0 ? ETIMEDOUT : 0;
      check(std::string("a wait goes on to its end, and no longer: ") + call, ms >= 399 && ms < 900 && number == expected,
            std::to_string(ms) + " ms, errno " + std::to_string(number));
    }
  }
}

void test_signals() {
  int fd;
  child::Seen* const seen = shared_seen(fd);
  for (const bool held : {false, true}) {
    new (seen) child::Seen{};
    const std::string name = held ? ", held" : ", waiting";
    Child child("signals", fd);
    const Target target(child.pid());
    const Saved saved = save(target);
    std::atomic<bool> over{false};
    uint32_t plain = 0, queued = 0;
    bool lost = false;
    // One by one, so that none is merged with another; and in crowds, which are queued.
    std::thread sender([&] {
      while (!over) {
        plain++;
        kill(child.pid(), SIGUSR1);
        for (int i = 0; i < 20; i++)
          if (sigqueue(child.pid(), SIGRTMIN, {static_cast<int>(queued)}) == 0) queued++;
        lost |= !eventually([&] { return seen->plain >= plain || (held && over); });
        usleep(200);
      }
    });
    Refusal refusal;
    for (int i = 0; i < 100 && !refusal.thrown; i++)
      refusal = refusal_of([&] {
        child.tell('u');
        if (held) child.send('h'), child.await_stop();
        recover(target, saved);
        if (held && !all_stopped(child.pid())) throw ckpt::error(Code::kInternal, "It is not stopped");
        if (held) goes_on(child.pid()), child.listen();
        child.tell('v');
      });
    over = true;
    if (held) goes_on(child.pid());
    sender.join();
    check("signals do not stand in the way" + name, !refusal.thrown, refusal.text());
    check("no signal is lost" + name, eventually([&] { return seen->plain == plain && seen->queued == queued; }) && !lost,
          std::to_string(seen->plain) + " of " + std::to_string(plain) + ", " + std::to_string(seen->queued) + " of " +
              std::to_string(queued));
    usleep(20000);
    check("none comes twice" + name, seen->plain == plain && seen->queued == queued);
    check("all come in order with what they carry" + name, seen->out_of_order == 0 && queued > 1000, std::to_string(queued));
  }
  close(fd);
}

void test_stops() {
  Child child("simple-poll");
  const Target target(child.pid());
  const Saved saved = save(target);
  std::atomic<bool> over{false};
  std::thread stopper([&] {
    unsigned seed = 1;
    while (!over) {
      kill(child.pid(), SIGSTOP);
      usleep(rand_r(&seed) % 500);
      kill(child.pid(), SIGCONT);
      usleep(rand_r(&seed) % 500);
    }
  });
  int failed = 0;
  std::string why;
  for (int i = 0; i < 300 && failed == 0; i++) {
    const Refusal refusal = refusal_of([&] {
      child.tell('u');
      recover(target, saved);
      child.tell('v');
    });
    if (refusal.thrown) failed++, why = refusal.text();
  }
  over = true;
  stopper.join();
  check("it may be stopped and continued by others meanwhile", failed == 0, why);
  kill(child.pid(), SIGSTOP);
  check("and stops as ever", all_stopped(child.pid()), states_of(child.pid()));
  check("and goes on as ever", goes_on(child.pid()), states_of(child.pid()));
}

void test_dispositions() {
  int fd;
  child::Seen* const seen = shared_seen(fd);
  new (seen) child::Seen{};
  Child child("dispositions", fd);
  const Target target(child.pid());
  const Saved saved = save(target);
  const std::string before = signal_state(child.pid());
  child.tell('u');
  const Refusal refusal = refusal_of([&] { recover(target, saved); });
  check("it is put back with signals blocked, ignored and pending", !refusal.thrown, refusal.text());
  check("and all of them are as before", signal_state(child.pid()) == before, signal_state(child.pid()) + " instead of " + before);
  child.tell('v');
  child.tell('d');
  check("what was pending comes, once", seen->plain == 1 && seen->queued == 3 && seen->out_of_order == 0);
  close(fd);
}

// A signal with a handler comes with the SIGSTOP: the thread stops at the handler's first instruction, far from any system call.
void test_handler() {
  int fd;
  child::Seen* const seen = shared_seen(fd);
  new (seen) child::Seen{};
  Child child("signals", fd);
  const Target target(child.pid());
  const Saved saved = save(target);
  uint32_t sent = 0, at_handler = 0;
  Refusal refusal;
  for (; sent < 2000 && at_handler < 10 && !refusal.thrown; sent++) {
    child.tell('u');
    usleep(500);
    kill(child.pid(), SIGUSR1);
    child.stop();
    const std::string call = read_file("/proc/" + std::to_string(child.pid()) + "/syscall");
    const bool begins = in_call(child.pid()) && strtoull(call.c_str() + call.rfind(' '), nullptr, 16) == child["handler"];
    at_handler += begins;
    if (begins) refusal = refusal_of([&] { recover(target, saved); });
    goes_on(child.pid());
    if (begins && !refusal.thrown) child.tell('v');
  }
  check("a client that stops as a handler begins is served", !refusal.thrown, refusal.text());
  check("which happened", at_handler > 0);
  check("and its handlers run, once each", eventually([&] { return seen->plain == sent; }), std::to_string(seen->plain));
  close(fd);
}

// 0: put back; 1: refused as gone; 2: otherwise.
int put_back_or_gone(const Target& target, const std::vector<LayoutChange>& changes) {
  const Refusal refusal = refusal_of([&] { ckpt::put_layout_back(target, changes, [] {}); });
  return !refusal.thrown ? 0 : refusal.code == Code::kUnmapped ? 1 : 2;
}

void test_killed() {
  int counts[3] = {}, wrong = 0;
  unsigned seed = 7;
  for (int i = 0; i < 200; i++) {
    Child child("simple-poll");
    const Target target(child.pid());
    const Saved saved = save(target);
    child.tell('u');
    const std::vector<LayoutChange> changes =
        ckpt::layout_changes(target, saved.coverage, ckpt::cover(target, ckpt::kPartsDefault, saved.coverage.left));
    const auto us = static_cast<useconds_t>(rand_r(&seed) % (i % 2 == 0 ? 400 : 1500));
    const auto kill_it = [&] {
      usleep(us);
      kill(child.pid(), SIGKILL);
    };
    int status = 0;
    if (i % 2 == 0) {
      std::thread killer(kill_it);
      counts[put_back_or_gone(target, changes)]++;
      killer.join();
      status = child.reap();
    } else {
      int result;
      const pid_t beside = fork();
      if (beside == 0) _exit(put_back_or_gone(target, changes));
      kill_it();
      status = child.reap();
      waitpid(beside, &result, 0);
      counts[WIFEXITED(result) ? WEXITSTATUS(result) : 2]++;
    }
    wrong += !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL;
  }
  printf("# killed meanwhile: %d when it was put back, %d before\n", counts[0], counts[1]);
  check("whoever is killed meanwhile is refused as gone", counts[2] == 0 && counts[1] > 0, std::to_string(counts[2]));
  check("and its parent hears how it ended, and from nobody else", wrong == 0, std::to_string(wrong));
}

void test_endurance() {
  Child child("simple-poll");
  const Target target(child.pid());
  const Saved saved = save(target);
  child.tell('u');
  recover(target, saved);
  const size_t fds = descriptors(), our_threads = threads();
  const std::string before = picture_of(target, saved.coverage);
  const auto start = std::chrono::steady_clock::now();
  int failed = 0;
  for (int i = 0; i < 1000; i++) {
    child.tell('u');
    // On a loaded machine no thread may be had within the second that is allowed: that is said, and may be tried again.
    const auto refused = [&] { return refusal_of([&] { recover(target, saved); }).thrown; };
    failed += refused() && refused();
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  printf("# 1,000 rounds: %.2f s\n", seconds);
  check("a thousand rounds", failed == 0, std::to_string(failed));
  check("leave no descriptor", descriptors() == fds, std::to_string(descriptors()));
  check("and no thread", threads() == our_threads, std::to_string(threads()));
  check("and the same memory", picture_of(target, saved.coverage) == before);
  child.send('q');
  check("and a child like any other", child.reap() == 0);
  check("and no zombie", waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD);
}

}  // namespace

int main(int argc, char** argv) {
  child::waits = child::wait_for_letter;
  child::be_one_if_told(argc, argv, child::kScenarios);
  // Otherwise a child's memory changes when it calls a function for the first time, and when it runs on another CPU.
  setenv("LD_BIND_NOW", "1", 1);
  setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0", 1);
  const std::pair<const char*, void (*)()> tests[] = {
      {"round trip", test_round_trip},
      {"changes", test_changes},
      {"refused", test_refused},
      {"traced", test_traced},
      {"filtered", test_filtered},
      {"busy", test_busy},
      {"another program", test_another_program},
      {"calls", test_calls},
      {"restarts", test_restarts},
      {"signals", test_signals},
      {"stops", test_stops},
      {"dispositions", test_dispositions},
      {"handler", test_handler},
      {"killed", test_killed},
      {"endurance", test_endurance},
  };
  return run_tests(argc, argv, tests);
}
