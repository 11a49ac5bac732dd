// rollback.cc: which memory of another process is rolled back, on real children that say themselves what they have done to theirs.
//
// usage: rollback [TEST]    prints "ok NAME" or "not ok NAME: why" for each check; exits with 1 if one failed
#include "daemon/rollback.h"

#include <linux/memfd.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/personality.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <ucontext.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "children.h"
#include "memory/pagemap.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#define GUARD_INSTALL 102  // MADV_GUARD_INSTALL, 6.13

namespace {

constexpr uint64_t kFixed = 0x200000000000;

char data_page[2 * kPage] = {1};
char bss[400 * kMiB];
volatile uint64_t canary = 0x1234;

// The page numbers below `pages` that a seed chooses: about a third.
std::vector<bool> chosen(uint64_t seed, uint64_t pages) {
  std::vector<bool> out(pages);
  for (uint64_t i = 0; i < pages; i++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    out[i] = (seed >> 60) < 5;
  }
  return out;
}

}  // namespace

// ------------------------------------------------------------------ what children do

namespace child {
namespace {

int memfd_of(uint64_t bytes, unsigned flags = 0) {
  const int fd = static_cast<int>(syscall(SYS_memfd_create, "rollback", flags));
  require(fd >= 0 && ftruncate(fd, static_cast<off_t>(bytes)) == 0, "make a memfd");
  return fd;
}

void protected_page(const char* name, int protection) {
  char* const page = map_alone(kPage);
  memset(page, 'p', kPage);
  require(mprotect(page, kPage, protection) == 0, "protect a page");
  tell(name, page);
}

void shared_memory() {
  char* const alone = map(4 * kPage, kReadWrite, MAP_SHARED | MAP_ANONYMOUS);
  alone[kPage] = 1;
  tell("shared_alone", alone);
  char* const memfd = map(4 * kPage, kReadWrite, MAP_SHARED, memfd_of(4 * kPage));
  memfd[2 * kPage] = 1;
  tell("memfd", memfd);
  const int id = shmget(IPC_PRIVATE, 4 * kPage, 0600);
  char* const sysv = static_cast<char*>(shmat(id, nullptr, 0));
  require(id >= 0 && sysv != MAP_FAILED && shmctl(id, IPC_RMID, nullptr) == 0, "attach SysV memory");
  sysv[3 * kPage] = 1;
  tell("sysv", sysv);
  const int sealed = memfd_of(kPage, MFD_ALLOW_SEALING);
  require(write(sealed, "x", 1) == 1 && fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE) == 0, "seal a memfd");
  tell("sealed", map(kPage, PROT_READ, MAP_SHARED, sealed));
}

void shared_with_a_child() {
  char* const both = map(4 * kPage, kReadWrite, MAP_SHARED | MAP_ANONYMOUS);
  both[0] = 1;
  tell("shared_both", both);
  const pid_t grandchild = fork();
  if (grandchild == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
  }
  require(grandchild > 0, "fork");
}

void kinds() {
  char* const heap = static_cast<char*>(malloc(3 * kPage));
  memset(heap, 'h', 3 * kPage);
  tell("heap", heap + kPage);
  data_page[kPage] = 2;
  tell("data", data_page);
  bss[200 * kMiB] = 1;
  tell("bss", bss + 200 * kMiB);
  tell("text", reinterpret_cast<void*>(&kinds));
  char* const big = map(64 * kMiB);
  big[10 * kMiB] = 1;
  tell("big", big + 10 * kMiB);
  tell("fixed", map(kPage, kReadWrite, kAnonymous | MAP_FIXED_NOREPLACE, -1, kFixed));
  protected_page("read_only", PROT_READ);
  protected_page("no_access", PROT_NONE);
  const int zero = open("/dev/zero", O_RDWR);
  tell("dev_zero", map_alone(kPage, kReadWrite, MAP_PRIVATE, zero));
  tell("file_shared", map_alone(kPage, kReadWrite, MAP_SHARED, file_of(kPage)));
  tell("file_private", map_alone(2 * kPage, kReadWrite, MAP_PRIVATE, file_of(kPage)));
  const char local = 0;
  tell("stack", &local);
  // Before what is not shared is made.
  shared_with_a_child();
  shared_memory();
  for (;;) next();
}

struct Block {
  char* start;
  uint64_t bytes, guard;
};

Block own_block() {
  pthread_attr_t attributes;
  void* start;
  size_t bytes, guard;
  require(pthread_getattr_np(pthread_self(), &attributes) == 0, "ask for its stack");
  pthread_attr_getstack(&attributes, &start, &bytes);
  pthread_attr_getguardsize(&attributes, &guard);
  pthread_attr_destroy(&attributes);
  return {static_cast<char*>(start), bytes, guard};
}

int stop_threads[2];
Block blocks[16];
pid_t tids[16];
int threads_ready[2];

// A thread that notes where its stack is, says so, and waits to be ended.
void* waiting_thread(void* argument) {
  const auto index = static_cast<char>(reinterpret_cast<uint64_t>(argument));
  blocks[static_cast<int>(index)] = own_block();
  tids[static_cast<int>(index)] = gettid();
  char letter;
  require(write(threads_ready[1], &index, 1) == 1, "say that a thread is there");
  require(read(stop_threads[0], &letter, 1) == 1, "wait");
  return nullptr;
}

pthread_t start_thread(uint64_t index, const pthread_attr_t* attributes = nullptr) {
  pthread_t thread;
  char letter;
  require(pthread_create(&thread, attributes, waiting_thread, reinterpret_cast<void*>(index)) == 0, "start a thread");
  require(read(threads_ready[0], &letter, 1) == 1, "hear of a thread");
  return thread;
}

void tell_block(uint64_t index) {
  char name[32];
  const auto say = [&](const char* what, uint64_t value) {
    snprintf(name, sizeof name, "%s%" PRIu64, what, index);
    tell(name, value);
  };
  say("start", address_of(blocks[index].start));
  say("bytes", blocks[index].bytes);
  say("guard", blocks[index].guard);
  say("tid", static_cast<uint64_t>(tids[index]));
}

void make_pipes() { require(pipe(stop_threads) == 0 && pipe(threads_ready) == 0, "make pipes"); }

// Wipes what the thread's descriptor says of its block.
void forget_block(pthread_t thread, const Block& block) {
  auto* const words = reinterpret_cast<uint64_t*>(thread);
  for (int i = 0; i < 280; i++)
    if (words[i] == address_of(block.start) - block.guard && words[i + 1] == block.bytes + block.guard) words[i] = words[i + 1] = 0;
}

void stacks() {
  make_pipes();
  // Where the first stack ends, memory of the same kind begins, and the kernel makes one mapping of both.
  char* const filler = map(16 * kMiB);
  require(munmap(filler, 16 * kMiB) == 0, "unmap");
  require(map(16 * kMiB, kReadWrite, kAnonymous | MAP_STACK | MAP_FIXED_NOREPLACE, -1, address_of(filler)) == filler, "map it again");
  pthread_t threads[5];
  for (uint64_t i = 0; i < 4; i++) threads[i] = start_thread(i);
  filler[0] = 1;
  tell("filler", filler);
  // One on a stack of its own, with data on both sides of it in one mapping.
  char* const given = map_alone(4 * kMiB);
  memset(given, 'g', 4 * kMiB);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstack(&attributes, given + kMiB + 512, kMiB);
  threads[4] = start_thread(4, &attributes);
  tell("given", given);
  for (uint64_t i = 0; i < 5; i++) tell_block(i);
  next();
  for (uint64_t i = 0; i < 4; i++) forget_block(threads[i], blocks[i]);
  for (;;) next();
}

int raw_thread(void*) {
  for (;;) syscall(SYS_pause);
}

void raw_clone() {
  char* const stack = map_alone(16 * kPage);
  char* const beside = map_alone(kPage);
  const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
  require(clone(raw_thread, stack + 16 * kPage, flags, nullptr) > 0, "clone");
  usleep(20000);
  tell("stack", stack);
  tell("beside", beside);
  for (;;) next();
}

ucontext_t outside, inside;

void coroutine_body() {
  tell("tid", static_cast<uint64_t>(gettid()));
  for (;;) next();
}

void* on_a_coroutine(void*) {
  getcontext(&inside);
  inside.uc_stack = {malloc(16 * kPage), 0, 16 * kPage};
  inside.uc_link = &outside;
  makecontext(&inside, coroutine_body, 0);
  swapcontext(&outside, &inside);
  return nullptr;
}

void coroutine() { on_a_coroutine(nullptr); }

void coroutine_in_a_thread() {
  pthread_t thread;
  require(pthread_create(&thread, nullptr, on_a_coroutine, nullptr) == 0, "start a thread");
  pthread_join(thread, nullptr);
}

constexpr uint64_t kOwnPages = 512;

void touch_chosen(char* start, uint64_t seed, bool write) {
  const std::vector<bool> pages = chosen(seed, kOwnPages);
  for (uint64_t i = 0; i < kOwnPages; i++) {
    auto* const byte = static_cast<volatile char*>(start + i * kPage);
    if (pages[i] && write) *byte = 'w';
    if (pages[i] && !write) (void)*byte;
  }
}

void own_pages() {
  char* const anonymous = map_alone(kOwnPages * kPage);
  madvise(anonymous, kOwnPages * kPage, MADV_NOHUGEPAGE);
  touch_chosen(anonymous, 1, true);
  touch_chosen(anonymous, 2, false);
  tell("anonymous", anonymous);
  char* const file = map_alone(kOwnPages * kPage, kReadWrite, MAP_PRIVATE, file_of(kOwnPages * kPage));
  touch_chosen(file, 3, true);
  touch_chosen(file, 4, false);
  tell("file", file);
  char* const swapped = map_alone(kOwnPages * kPage);
  madvise(swapped, kOwnPages * kPage, MADV_NOHUGEPAGE);
  touch_chosen(swapped, 5, true);
  madvise(swapped, kOwnPages * kPage, MADV_PAGEOUT);
  tell("swapped", swapped);
  char* const guarded = map_alone(4 * kPage);
  guarded[0] = 1;
  tell("guarded", guarded);
  tell("has_guard", madvise(guarded + kPage, kPage, GUARD_INSTALL) == 0);
  for (;;) next();
}

// Memory of every kind, filled, ruined, and summed up by the child itself.
struct Everything {
  char *heap, *anonymous, *holes, *file, *shared, *alias, *read_only;
} everything;
constexpr uint64_t kPart = 64 * kPage;

void fill(char* start, uint64_t bytes, uint64_t seed) {
  for (uint64_t i = 0; i < bytes; i += 8) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    memcpy(start + i, &seed, 8);
  }
}

uint64_t sum_of(const char* start, uint64_t bytes) {
  uint64_t sum = 14695981039346656037u, word;
  for (uint64_t i = 0; i < bytes; i += 8) {
    memcpy(&word, start + i, 8);
    sum = (sum ^ word) * 1099511628211u;
  }
  return sum;
}

uint64_t sum_of_everything() {
  const Everything& e = everything;
  uint64_t sum = sum_of(data_page, sizeof data_page) ^ sum_of(bss, 2 * kMiB) * 3;
  const char* const parts[] = {e.heap, e.anonymous, e.holes, e.shared, e.alias, e.read_only};
  sum = sum * 31 + sum_of(e.file, kPart - kPage);
  for (const char* part : parts) sum = sum * 31 + sum_of(part, kPart);
  return sum;
}

void set_up_everything() {
  Everything& e = everything;
  e.heap = static_cast<char*>(malloc(kPart));
  e.anonymous = map_alone(kPart);
  e.holes = map_alone(kPart);
  e.file = map_alone(kPart, kReadWrite, MAP_PRIVATE, file_of(kPart - kPage));
  const int memfd = memfd_of(kPart);
  e.shared = map_alone(kPart, kReadWrite, MAP_SHARED, memfd);
  e.alias = map_alone(kPart, PROT_READ, MAP_SHARED, memfd);
  e.read_only = map_alone(kPart);
  fill(e.heap, kPart, 1);
  fill(e.anonymous, kPart, 2);
  fill(e.holes + 3 * kPage, 5 * kPage, 3);
  fill(e.file + 2 * kPage, 2 * kPage, 4);
  fill(e.shared, 7 * kPage, 5);
  fill(e.read_only, kPart, 6);
  fill(bss + kMiB, 3 * kPage, 7);
  require(mprotect(e.read_only, kPart, PROT_READ) == 0, "protect memory");
}

void ruin() {
  Everything& e = everything;
  fill(data_page, sizeof data_page, 100);
  fill(bss, 2 * kMiB, 101);
  require(mprotect(e.read_only, kPart, kReadWrite) == 0, "lift a protection");
  for (char* part : {e.heap, e.anonymous, e.holes, e.shared, e.read_only}) fill(part, kPart, 102);
  fill(e.file, kPart - kPage, 103);
  require(madvise(e.anonymous + kPage, 3 * kPage, MADV_DONTNEED) == 0, "drop pages");
  require(mprotect(e.anonymous + 8 * kPage, kPage, PROT_NONE) == 0, "forbid a page");
  require(mprotect(e.file + 9 * kPage, kPage, PROT_READ) == 0, "protect a page of a file");
  require(mprotect(e.shared + 5 * kPage, 2 * kPage, PROT_READ) == 0, "protect shared memory");
}

void lift_protections() {
  for (char* part : {everything.anonymous, everything.file, everything.shared})
    require(mprotect(part, kPart, kReadWrite) == 0, "lift a protection");
}

void round_trip() {
  set_up_everything();
  tell("alias", everything.alias);
  for (;;) {
    char* since;
    switch (next()) {
      case 's':
        tell("sum", sum_of_everything());
        break;
      case 'r':
        ruin();
        since = map_alone(kPart);
        fill(since, kPart, 104);
        tell("since", since);
        break;
      case 'u':
        lift_protections();
        break;
    }
  }
}

void becomes_another() {
  if ((personality(0xffffffff) & ADDR_NO_RANDOMIZE) == 0) {
    personality(ADDR_NO_RANDOMIZE);
    execl("/proc/self/exe", "rollback", "child", "exec", nullptr);
  }
  tell("canary", &canary);
  next();
  execl("/proc/self/exe", "rollback", "child", "exec", nullptr);
}

void births() {
  make_pipes();
  start_thread(0);
  for (uint64_t index = 1;;) {
    switch (next()) {
      case 'b':
        start_thread(index);
        tell("tid", static_cast<uint64_t>(tids[index++]));
        break;
      case 'e':
        require(write(stop_threads[1], "", 1) == 1, "end a thread");
        usleep(50000);
        break;
      case 'n':
        prctl(PR_SET_NAME, ") R 1 (2 3)");
        break;
    }
  }
}

void changes() {
  char* const memory = map_alone(8 * kPage);
  memset(memory, 'm', 8 * kPage);
  const int fd = memfd_of(8 * kPage);
  char* const shared = map_alone(8 * kPage, kReadWrite, MAP_SHARED, fd);
  memset(shared, 's', 8 * kPage);
  const int file = file_of(8 * kPage);
  char* const mapped = map_alone(8 * kPage, kReadWrite, MAP_PRIVATE, file);
  mapped[0] = 1;
  tell("memory", memory);
  tell("shared", shared);
  tell("mapped", mapped);
  for (;;) {
    switch (next()) {
      case 'u':
        munmap(memory + 3 * kPage, kPage);
        break;
      case 'f':
        map(kPage, kReadWrite, MAP_PRIVATE | MAP_FIXED, file, address_of(memory + 3 * kPage));
        break;
      case 'a':
        map(kPage, kReadWrite, kAnonymous | MAP_FIXED, -1, address_of(memory + 3 * kPage));
        break;
      case 'p':
        mprotect(memory + 2 * kPage, kPage, PROT_NONE);
        break;
      case 't':
        require(ftruncate(fd, 5 * kPage) == 0, "truncate");
        break;
      case 'g':
        require(ftruncate(fd, 8 * kPage) == 0, "grow");
        break;
      case 'o':
        require(mmap(mapped + kPage, kPage, kReadWrite, MAP_PRIVATE | MAP_FIXED, file, 5 * kPage) != MAP_FAILED, "map another place");
        break;
    }
  }
}

void huge(unsigned flags) {
  char* const at =
      static_cast<char*>(mmap(nullptr, 2 * kMiB, kReadWrite, static_cast<int>(flags | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE), -1, 0));
  tell("huge", at == MAP_FAILED ? 0 : address_of(at));
  for (;;) next();
}
void huge_private() { huge(MAP_PRIVATE); }
void huge_shared() { huge(MAP_SHARED); }

// Every other page is protected, and all hold data.
void many(uint64_t mappings) {
  char* const memory = map_alone(mappings * kPage);
  for (uint64_t i = 0; i < mappings; i++) memory[i * kPage] = 1;
  for (uint64_t i = 0; i < mappings; i += 2) require(mprotect(memory + i * kPage, kPage, PROT_READ) == 0, "protect a page");
  tell("memory", memory);
  next();
  for (uint64_t i = 1; i < mappings; i += 4) memory[i * kPage] = 2;
  for (;;) next();
}
void many_5000() { many(5000); }
void many_20000() { many(20000); }

const Scenarios kScenarios = {
    {"kinds", kinds},
    {"stacks", stacks},
    {"raw", raw_clone},
    {"coroutine", coroutine},
    {"coroutine2", coroutine_in_a_thread},
    {"own", own_pages},
    {"round", round_trip},
    {"exec", becomes_another},
    {"births", births},
    {"changes", changes},
    {"huge", huge_private},
    {"huge2", huge_shared},
    {"5000", many_5000},
    {"20000", many_20000},
};

}  // namespace
}  // namespace child

// ------------------------------------------------------------------ what is checked

namespace {

bool covers(const Coverage& coverage, uint64_t address) { return ckpt::mapping_at(coverage.mappings, address) != nullptr; }

bool holds(const std::vector<Range>& ranges, Range range) {
  return std::any_of(ranges.begin(), ranges.end(), [&](const Range& r) { return r.start <= range.start && range.end <= r.end; });
}

std::vector<Range> within(const std::vector<Range>& ranges, Range frame) {
  std::vector<Range> out;
  for (const Range& range : ranges) {
    const Range part{std::max(range.start, frame.start), std::min(range.end, frame.end)};
    if (!part.empty()) out.push_back(part);
  }
  return out;
}

std::string text_of(const std::vector<Range>& ranges) {
  std::string text = std::to_string(ranges.size()) + " ranges";
  for (size_t i = 0; i < std::min<size_t>(ranges.size(), 4); i++) text += " " + hex(ranges[i].start) + "-" + hex(ranges[i].end);
  return text;
}

bool same(const std::vector<Range>& a, const std::vector<Range>& b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](Range x, Range y) { return x.start == y.start && x.end == y.end; });
}

// Compares with what sscanf() makes of the same lines.
void check_parser(const Target& target, const char* scenario) {
  const std::unique_ptr<FILE, int (*)(FILE*)> maps(fopen(("/proc/" + std::to_string(target.pid()) + "/maps").c_str(), "re"), fclose);
  const std::vector<ckpt::NamedMapping> mappings = target.mappings();
  char line[8192], flags[5], ours[5], name[4096];
  size_t lines = 0, wrong = 0;
  for (; fgets(line, sizeof line, maps.get()) != nullptr; lines++) {
    unsigned long long start, end, offset, inode;
    unsigned major, minor;
    *name = '\0';
    sscanf(line, "%llx-%llx %4s %llx %x:%x %llu %4095[^\n]", &start, &end, flags, &offset, &major, &minor, &inode, name);
    if (lines >= mappings.size()) continue;
    const ckpt::NamedMapping& m = mappings[lines];
    snprintf(ours, sizeof ours, "%c%c%c%c", m.read ? 'r' : '-', m.write ? 'w' : '-', m.execute ? 'x' : '-', m.shared ? 's' : 'p');
    const bool anonymous = flags[3] == 'p' && inode == 0 && major == 0 && minor == 0;
    wrong += m.start != start || m.end != end || m.offset != offset || m.inode != inode || m.device != makedev(major, minor) ||
             m.name != name || strcmp(flags, ours) != 0 || m.anonymous != anonymous;
  }
  check(std::string("all lines of maps are understood: ") + scenario, lines == mappings.size() && lines > 10 && wrong == 0,
        std::to_string(wrong) + " of " + std::to_string(lines) + " differ, " + std::to_string(mappings.size()) + " read");
}

void check_part(const Target& target, const Child& child, const char* name, uint32_t part) {
  const uint32_t all = ckpt::kPartsDefault | ckpt::kPartSharedAll;
  check(std::string("is rolled back: ") + name, covers(ckpt::cover(target, part, {}), child[name]));
  const uint32_t others = part >= ckpt::kPartShared ? all & ~(ckpt::kPartShared | ckpt::kPartSharedAll) : all & ~part;
  check(std::string("is left alone without its part: ") + name, !covers(ckpt::cover(target, others, {}), child[name]));
}

void test_kinds() {
  const Child child("kinds");
  const Target target(child.pid());
  check_parser(target, "kinds");
  check_part(target, child, "heap", ckpt::kPartHeap);
  for (const char* name : {"data", "bss", "text", "file_private"}) check_part(target, child, name, ckpt::kPartData);
  for (const char* name : {"big", "fixed", "read_only", "no_access", "dev_zero"}) check_part(target, child, name, ckpt::kPartAnonymous);
  for (const char* name : {"shared_alone", "memfd", "sysv"}) check_part(target, child, name, ckpt::kPartShared);
  check_part(target, child, "shared_both", ckpt::kPartSharedAll);
  check("shared memory that another process maps is left alone",
        !covers(ckpt::cover(target, ckpt::kPartsDefault, {}), child["shared_both"]));

  const uint32_t all = ckpt::kPartsDefault | ckpt::kPartSharedAll;
  const Coverage whole = ckpt::cover(target, all, {{child["big"] + 100, child["big"] + 200}});
  for (const char* name : {"file_shared", "sealed", "stack"})
    check(std::string("is always left alone: ") + name, !covers(whole, child[name]));
  check("what lies beyond the end of a file is not covered", !covers(whole, child["file_private"] + kPage));
  check("a kept range is left alone in whole pages, and no more", !covers(whole, child["big"]) && covers(whole, child["big"] + kPage) &&
                                                                      covers(whole, child["big"] - 1) &&
                                                                      holds(whole.left, {child["big"], child["big"] + kPage}));
  const bool kernels = std::any_of(whole.mappings.begin(), whole.mappings.end(), [](const auto& m) { return m.name.rfind("[v", 0) == 0; });
  check("[vdso] and its like are left alone", !kernels);
  for (const char* name : {"shared_alone", "memfd", "sysv", "shared_both"}) {
    const std::vector<Range> runs = within(ckpt::captured_runs(target, whole), {child[name], child[name] + 4 * kPage});
    const uint64_t page = child[name] + kPage * (name[1] == 'h' ? name[7] == 'a' : name[0] == 'm' ? 2 : 3);
    check(std::string("only the data of shared memory is captured: ") + name, same(runs, {{page, page + kPage}}),
          std::to_string(runs.size()) + " runs");
  }
}

Range block_of(const Child& child, int index) {
  const std::string number = std::to_string(index);
  const uint64_t start = child["start" + number];
  return {start - child["guard" + number], start + child["bytes" + number]};
}

void check_stacks(const Child& child, const Target& target, const std::string& how) {
  const Coverage coverage = ckpt::cover(target, ckpt::kPartsDefault, {});
  uint64_t bytes = 0;
  for (const ckpt::NamedMapping& mapping : target.mappings())
    if (mapping.name == "[stack]") bytes += mapping.range().bytes();
  for (int i = 0; i < 4; i++) {
    const Range block = block_of(child, i), stack{child["start" + std::to_string(i)], block.end};
    check("the whole stack of thread " + std::to_string(i) + " is left alone, " + how, holds(coverage.left, stack), hex(stack.start));
    bytes += how == "as described" ? block.bytes() : stack.bytes();
  }
  const uint64_t given = child["given"];
  bytes += kMiB + kPage;
  check("a given stack is left alone to the page, " + how, holds(coverage.left, {given + kMiB, given + 2 * kMiB + kPage}) &&
                                                               covers(coverage, given + kMiB - 1) &&
                                                               covers(coverage, given + 2 * kMiB + kPage));
  uint64_t left = 0;
  for (const Range& range : coverage.left) left += range.bytes();
  check("nothing else is left alone, " + how, left == bytes, std::to_string(left) + " instead of " + std::to_string(bytes) + " bytes");
  check("memory that was merged with a stack is rolled back, " + how, covers(coverage, child["filler"]));
}

void test_stacks() {
  Child child("stacks");
  const Target target(child.pid());
  const uint64_t top = block_of(child, 0).end;
  const std::vector<ckpt::NamedMapping> mappings = target.mappings();
  check("the first stack is merged with other memory",
        top == child["filler"] && ckpt::mapping_at(mappings, top) == ckpt::mapping_at(mappings, top - 1), hex(top));
  check_stacks(child, target, "as described");
  child.tell('f');
  check_stacks(child, target, "by its surroundings");

  const Child raw("raw");
  const Coverage coverage = ckpt::cover(Target(raw.pid()), ckpt::kPartsDefault, {});
  check("the stack of a thread without a C library is left alone", holds(coverage.left, {raw["stack"], raw["stack"] + 16 * kPage}));
  check("and what lies beside is not", covers(coverage, raw["beside"]));
  for (const char* scenario : {"coroutine", "coroutine2"}) {
    const Child coroutine(scenario);
    const Refusal refusal = refusal_of([&] { ckpt::cover(Target(coroutine.pid()), ckpt::kPartsDefault, {}); });
    check(std::string("refused by its number: a thread on a coroutine's stack, ") + scenario,
          refusal.is(Code::kUnreadable, "Thread " + std::to_string(coroutine["tid"]) + " "), refusal.text());
    const bool unrolled = !refusal_of([&] { ckpt::cover(Target(coroutine.pid()), ckpt::kPartData, {}); }).thrown;
    check(std::string("but not if that memory is left alone, ") + scenario, unrolled);
  }
}

// The pages that the seeds choose, as ranges.
std::vector<Range> pages_of(uint64_t start, const std::vector<uint64_t>& seeds) {
  std::vector<bool> any(child::kOwnPages);
  for (uint64_t seed : seeds) {
    const std::vector<bool> pages = chosen(seed, child::kOwnPages);
    for (uint64_t i = 0; i < child::kOwnPages; i++) any[i] = any[i] || pages[i];
  }
  std::vector<Range> out;
  for (uint64_t i = 0; i < child::kOwnPages; i++) {
    const uint64_t page = start + i * kPage;
    if (!any[i]) continue;
    if (!out.empty() && out.back().end == page) {
      out.back().end += kPage;
    } else {
      out.push_back({page, page + kPage});
    }
  }
  return out;
}

void test_own_pages() {
  const Child child("own");
  const Target target(child.pid());
  const std::vector<Range> runs = ckpt::captured_runs(target, ckpt::cover(target, ckpt::kPartsDefault, {}));
  const auto in = [&](const char* name) { return within(runs, {child[name], child[name] + child::kOwnPages * kPage}); };
  const ckpt::Fd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  const bool scan = ckpt::can_scan_pages(pagemap.get());
  // Without PAGEMAP_SCAN the zero page looks like any other.
  const std::vector<uint64_t> anonymous = scan ? std::vector<uint64_t>{1} : std::vector<uint64_t>{1, 2};
  const auto compare = [&](const std::string& name, const char* part, const std::vector<uint64_t>& seeds) {
    const std::vector<Range> found = in(part), expected = pages_of(child[part], seeds);
    check(name, same(found, expected), text_of(found) + " instead of " + text_of(expected));
  };
  compare("own pages of anonymous memory are those that it wrote", "anonymous", anonymous);
  compare("own pages of a private file mapping are those that it wrote", "file", {3});
  compare("pages that were told to swap out are own pages", "swapped", {5});
  uint64_t entries[child::kOwnPages], swapped = 0;
  const ckpt::Fd others(open(("/proc/" + std::to_string(child.pid()) + "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  if (pread(others.get(), entries, sizeof entries, static_cast<off_t>(child["swapped"] / kPage * 8)) == sizeof entries)
    for (uint64_t entry : entries) swapped += entry >> 62 & 1;
  if (getenv("EXPECT_SWAP") != nullptr) check("and some of them were swapped out", swapped > 0);
  printf("# PAGEMAP_SCAN: %s, swapped out: %" PRIu64 " pages, guard pages: %s\n", scan ? "yes" : "no", swapped,
         child["has_guard"] ? "yes" : "no");
  if (child["has_guard"])
    check("guard pages are not own pages",
          same(within(runs, {child["guarded"], child["guarded"] + 4 * kPage}), {{child["guarded"], child["guarded"] + kPage}}));
}

uint64_t recover(const Target& target, const Saved& saved) {
  ckpt::require_restorable(target, saved.coverage, ckpt::cover(target, ckpt::kPartsDefault, {}));
  return put_contents_back(target, saved);
}

// Of every byte that is covered, read from outside.
uint64_t sum_of(const Target& target, const Coverage& coverage) {
  uint64_t sum = 0;
  std::vector<char> bytes;
  for (const ckpt::NamedMapping& mapping : coverage.mappings)
    for (uint64_t at = mapping.start, end; at < mapping.end; at = end) {
      end = std::min(mapping.end, at + kMiB);
      bytes.resize(end - at);
      target.read({at, end}, bytes.data());
      sum = sum * 31 + child::sum_of(bytes.data(), bytes.size()) + at;
    }
  return sum;
}

void test_round_trip() {
  Child child("round");
  child.tell('s');
  const uint64_t told = child["sum"];
  const Target target(child.pid());
  child.stop();
  const Saved saved = save(target);
  const uint64_t before = sum_of(target, saved.coverage);
  child.go_on();
  for (int round = 1; round <= 3; round++) {
    const std::string times = " (" + std::to_string(round) + ")";
    child.tell('r');
    child.stop();
    check("ruined" + times, sum_of(target, saved.coverage) != before);
    std::vector<char> since(child::kPart), still(child::kPart);
    target.read({child["since"], child["since"] + child::kPart}, since.data());
    const uint64_t reset = recover(target, saved);
    check("pages that were none at the save are reset" + times, reset > 0);
    check("every covered byte is back" + times, sum_of(target, saved.coverage) == before);
    target.read({child["since"], child["since"] + child::kPart}, still.data());
    check("memory mapped since is left alone" + times, since == still && since[5] != 0);
    child.go_on();
    child.tell('u');
    child.tell('s');
    check("the child finds its memory as it was" + times, child["sum"] == told);
  }
}

void test_exec() {
  Child child("exec");
  const Target target(child.pid());
  const uint64_t at = child["canary"];
  const std::vector<ckpt::NamedMapping> mappings = target.mappings();
  const Coverage coverage = ckpt::cover(target, ckpt::kPartsDefault, {});
  uint64_t value = 0;
  target.read({at, at + 8}, &value);
  check("the memory of the first program is read", value == 0x1234 && target.alive());
  child.tell('x');
  check("the second program lies where the first did", child["canary"] == at, hex(child["canary"]));
  value = 0x6666;
  const Refusal write = refusal_of([&] { target.write({at, at + 8}, &value); });
  check("a write after execve() is refused", write.is(Code::kUnmapped, "") && write.address == at, write.text());
  const Refusal read = refusal_of([&] { target.read({at, at + 8}, &value); });
  check("and so is a read", read.is(Code::kUnmapped, ""), read.text());
  Target(child.pid()).read({at, at + 8}, &value);
  check("the second program's memory has not changed", value == 0x1234, hex(value));
  std::vector<Range> own;
  for (const ckpt::NamedMapping& mapping : mappings)
    if (mapping.inode == 0) target.own_pages(mapping, own);
  check("the old address space has no mappings and no pages", !target.alive() && target.mappings().empty() && own.empty());
  const Refusal covered = refusal_of([&] { ckpt::cover(target, ckpt::kPartsDefault, {}); });
  check("it cannot be covered", covered.is(Code::kUnmapped, ""), covered.text());
  const Refusal captured = refusal_of([&] { ckpt::captured_runs(target, coverage); });
  check("it cannot be captured", captured.is(Code::kUnmapped, "gone"), captured.text());
  const Refusal none = refusal_of([] { Target missing(0x3ffffff); });
  check("a process that does not exist is unknown", none.is(Code::kUnknown, "67108863"), none.text());
}

Refusal restorable(const Target& target, const Coverage& then) {
  return refusal_of([&] { ckpt::require_restorable(target, then, ckpt::cover(target, ckpt::kPartsDefault, {})); });
}

void test_threads() {
  Child child("births");
  const Target target(child.pid());
  const Coverage one = ckpt::cover(target, ckpt::kPartsDefault, {});
  child.tell('n');
  check("a thread's start is read behind whatever name it has",
        !restorable(target, one).thrown && ckpt::read_threads(target)[0].start_time != 0);
  child.tell('b');
  const std::string tid = std::to_string(child["tid"]);
  const Refusal born = restorable(target, one);
  check("a thread born since is refused by its number", born.is(Code::kBusy, "Thread " + tid + " was born"), born.text());
  const Coverage two = ckpt::cover(target, ckpt::kPartsDefault, {});
  check("the threads are three", two.threads.size() == 3);
  child.tell('e');
  const Refusal ended = restorable(target, two);
  check("a thread ended since is refused by its number", ended.is(Code::kBusy, " has ended"), ended.text());
  Coverage other = ckpt::cover(target, ckpt::kPartsDefault, {});
  other.threads[0].start_time++;
  const Refusal reused = restorable(target, other);
  check("a number taken by another thread is refused", reused.is(Code::kBusy, "born with its number"), reused.text());
}

void test_changes() {
  Child child("changes");
  const Target target(child.pid());
  const Coverage then = ckpt::cover(target, ckpt::kPartsDefault, {});
  const auto refused_at = [&](const std::string& name, char letter, uint64_t address, const char* part) {
    child.tell(letter);
    const Refusal refusal = restorable(target, then);
    check(name, refusal.is(Code::kUnmapped, part) && refusal.address == address && refusal.message.find(hex(address)) != std::string::npos,
          refusal.text());
  };
  child.tell('p');
  const Refusal changed = restorable(target, then);
  check("a changed protection is no hindrance", !changed.thrown, changed.text());
  refused_at("unmapped memory is refused by its address", 'u', child["memory"] + 3 * kPage, "no longer mapped");
  refused_at("a file in its place is refused", 'f', child["memory"] + 3 * kPage, "is not what was mapped");
  child.tell('a');
  const Refusal again = restorable(target, then);
  check("anonymous memory in the place of anonymous memory is as good", !again.thrown, again.text());
  refused_at("a truncated memfd is refused", 't', child["shared"] + 5 * kPage, "truncated");
  child.tell('g');
  const Refusal grown = restorable(target, then);
  check("and taken when it has grown again", !grown.thrown, grown.text());
  refused_at("another place of the same file is refused", 'o', child["mapped"] + kPage, "is not what was mapped");
}

void test_writing() {
  Child child("changes");
  const Target target(child.pid());
  child.tell('u');
  const uint64_t at = child["memory"], hole = at + 3 * kPage;
  std::vector<char> bytes(8 * kPage, 'x');
  const Refusal write = refusal_of([&] { target.write({at + 100, at + 5 * kPage}, bytes.data()); });
  check("a write names the first page that cannot be reached", write.is(Code::kUnwritable, hex(hole)) && write.address == hole,
        write.text());
  const Refusal read = refusal_of([&] { target.read({at + 100, at + 5 * kPage}, bytes.data()); });
  check("a read too", read.is(Code::kUnreadable, hex(hole)) && read.address == hole, read.text());
}

void test_huge() {
  const std::pair<const char*, uint32_t> kinds[] = {{"huge", ckpt::kPartAnonymous}, {"huge2", ckpt::kPartShared}};
  for (const auto& [scenario, part] : kinds) {
    const Child child(scenario);
    const Target target(child.pid());
    const uint32_t all = ckpt::kPartsDefault;
    check(std::string("huge pages can be had: ") + scenario, child["huge"] != 0);
    const Refusal refusal = refusal_of([&] { ckpt::cover(target, all, {}); });
    check(std::string("huge pages are refused by name: ") + scenario,
          refusal.is(Code::kUnreadable, "/anon_hugepage (deleted)") && refusal.address == child["huge"], refusal.text());
    const uint32_t without = all & ~part;
    check(std::string("but not if they are left alone: ") + scenario, !refusal_of([&] { ckpt::cover(target, without, {}); }).thrown);
  }
}

// Milliseconds of everything that a save and a recover ask, the best of three.
double time_of(const char* scenario, uint64_t mappings) {
  Child child(scenario);
  const Target target(child.pid());
  const Coverage then = ckpt::cover(target, ckpt::kPartsDefault, {});
  std::vector<Range> runs = ckpt::captured_runs(target, then);
  const Range memory{child["memory"], child["memory"] + mappings * kPage};
  check_parser(target, scenario);
  check(std::string("all of many mappings is one run: ") + scenario, holds(runs, memory));
  // As if every fourth page had not been there.
  std::vector<Range> fewer;
  for (const Range& run : runs)
    if (run.start < memory.start || run.start >= memory.end) fewer.push_back(run);
  for (uint64_t at = memory.start; at < memory.end; at += 4 * kPage) fewer.push_back({at, at + kPage});
  std::sort(fewer.begin(), fewer.end(), [](Range a, Range b) { return a.start < b.start; });
  child.tell('w');
  double best = 1e9;
  for (int i = 0; i < 3; i++) {
    const auto start = std::chrono::steady_clock::now();
    const Coverage now = ckpt::cover(target, ckpt::kPartsDefault, {});
    ckpt::captured_runs(target, now);
    ckpt::require_restorable(target, then, now);
    const std::vector<ckpt::Reset> reset = ckpt::resets(target, then, fewer);
    best = std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    uint64_t pages = 0;
    for (const ckpt::Reset& r : reset) pages += r.range.start >= memory.start && r.range.end <= memory.end ? r.range.pages() : 0;
    if (i == 0) check(std::string("three quarters of them are reset: ") + scenario, pages == mappings / 4 * 3, std::to_string(pages));
  }
  return best;
}

void test_many() {
  const double few = time_of("5000", 5000), more = time_of("20000", 20000);
  printf("# 5,000 mappings: %.1f ms, 20,000: %.1f ms\n", few, more);
  check("four times the mappings take about four times as long", more < 10 * few, std::to_string(more / few) + " times");
}

}  // namespace

int main(int argc, char** argv) {
  child::be_one_if_told(argc, argv, child::kScenarios);
  Child::settles = 5000;
  const std::pair<const char*, void (*)()> tests[] = {
      {"kinds", test_kinds},     {"stacks", test_stacks},   {"own pages", test_own_pages}, {"round trip", test_round_trip},
      {"exec", test_exec},       {"threads", test_threads}, {"changes", test_changes},     {"writing", test_writing},
      {"huge pages", test_huge}, {"many", test_many},
  };
  return run_tests(argc, argv, tests);
}
