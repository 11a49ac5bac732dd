// serve-bpf.cc: the daemon's BPF object against real clients: who is served, held, moved, and what ends that. Run it as root.
//
// usage: serve-bpf [nested]. A line for each check: "ok NAME" or "not ok NAME: why". `nested` is what serve-bpf runs of itself in a pid
// namespace of its own.
#include <poll.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <deque>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>

#include "bpf/service.h"
#include "memory/windows.h"
#include "rewind/arena.h"
#include "serve-child.h"

namespace {

using ckpt::bpf::Phase;
using ckpt::bpf::Service;
using client::Child;

constexpr uint32_t kNobody = 65534, kStranger = 12345;
constexpr uint32_t kExtent = 3, kOp = 5;
constexpr const char* kReady[] = {"ready_to_checkpoint", "ready_to_restore"};
constexpr const char* kComplete[] = {"/tmp/checkpoint_complete", "/tmp/restore_complete"};
constexpr Phase kPhases[] = {Phase::kStore, Phase::kRestore};

int failures = 0;

struct Failed {
  std::string why;
};

#define EXPECT(what)                                                                                          \
  do {                                                                                                        \
    if (!(what)) throw Failed{std::string(#what) + " does not hold (line " + std::to_string(__LINE__) + ")"}; \
  } while (0)

// A check, and what brings order again if it failed.
void check(const std::string& name, const std::function<void()>& body, const std::function<void()>& clean) {
  std::string why;
  try {
    body();
  } catch (const Failed& failed) {
    why = failed.why;
  } catch (const std::exception& error) {
    why = error.what();
  }
  if (!why.empty()) clean();
  printf(why.empty() ? "ok %s\n" : "not ok %s: %s\n", name.c_str(), why.c_str());
  fflush(stdout);
  failures += !why.empty();
}

std::string text(uint64_t number) { return std::to_string(number); }

// The service, and what a daemon does with it.
class Daemon {
 public:
  Daemon() : service_(session_, windows(), {0, kNobody}) {}

  Service& service() { return service_; }
  const ckpt::bpf::Session& session() const { return session_; }
  bool kernel_writer() const { return session_.kernel_writer; }
  uint64_t tag(uint32_t op) const { return CKPT_TAG(session_.nonce, 0, op); }

  // The next event; none if nothing comes for `ms`.
  std::optional<ckpt_event> next_event(int ms = 2000) {
    pollfd poll_fd{service_.events_fd(), POLLIN, 0};
    while (events_.empty() && poll(&poll_fd, 1, ms) > 0) take_all();
    if (events_.empty()) return std::nullopt;
    const ckpt_event event = events_.front();
    events_.pop_front();
    return event;
  }
  bool silent() { return !next_event(30); }
  // Nothing of a check is left to the next.
  void clean() {
    for (const Phase phase : kPhases) {
      for (const ckpt_key& key : service_.clients(phase)) service_.delete_client(phase, key.tgid, key.op);
    }
    take_all();
    events_.clear();
    unread_.clear();
  }
  // Whether a path of the child was reported as not in memory; at `address` if that is not 0.
  bool unread(const Child& child, uint64_t address) {
    take_all();
    return std::any_of(unread_.begin(), unread_.end(), [&](const ckpt_event& event) {
      return event.tgid == static_cast<uint32_t>(child.pid()) && (address == 0 || event.address == address);
    });
  }
  size_t count_events(uint32_t kind) {
    take_all();
    const size_t count = static_cast<size_t>(std::count_if(events_.begin(), events_.end(), [&](auto& e) { return e.kind == kind; }));
    events_.clear();
    return count;
  }

  // Whether this is what comes next; throws Failed otherwise.
  void told(uint32_t kind, const Child& child, Phase phase, uint32_t op) {
    const std::optional<ckpt_event> event = next_event();
    if (!event) throw Failed{"event " + text(kind) + " did not come"};
    const auto tgid = static_cast<uint32_t>(child.pid());
    if (event->kind != kind || event->tgid != tgid || event->op != op || event->phase != static_cast<uint32_t>(phase))
      throw Failed{"event " + text(kind) + " of " + text(tgid) + " was expected, but " + text(event->kind) + " of " + text(event->tgid) +
                   " came (operation " + text(event->op) + ", phase " + text(event->phase) + ")"};
  }

  std::optional<ckpt_client> entry(const Child& child, Phase phase, uint32_t op) {
    ckpt_client found{};
    if (!service_.read_client(phase, static_cast<uint32_t>(child.pid()), op, found)) return std::nullopt;
    return found;
  }
  uint32_t state(const Child& child, Phase phase, uint32_t op) {
    const std::optional<ckpt_client> found = entry(child, phase, op);
    return found ? found->state : 0;
  }
  void expect(const Child& child, Phase phase, uint32_t op) {
    ckpt_client entry{};
    entry.state = CKPT_CLIENT_EXPECTED;
    service_.write_client(phase, static_cast<uint32_t>(child.pid()), op, entry);
  }
  void forget(const Child& child, Phase phase, uint32_t op) { service_.delete_client(phase, static_cast<uint32_t>(child.pid()), op); }

  // ARMED -> MOVING, over an extent that is laid.
  void start(const Child& child, Phase phase, uint32_t op, uint32_t extent, uint32_t flags) {
    ckpt_client entry = *this->entry(child, phase, op);
    service_.lend(extent, phase, op, entry.identity);
    entry.state = CKPT_CLIENT_MOVING;
    entry.extent = extent;
    entry.flags = flags;
    service_.write_client(phase, static_cast<uint32_t>(child.pid()), op, entry);
  }

  // Lays pieces; nobody is at work there.
  ckpt_queue* lay(uint32_t extent, const std::vector<ckpt_piece>& pieces, uint32_t budget) {
    service_.take_back(extent);
    ckpt_queue* const queue = ckpt::bpf::queue_of(session_, extent);
    *queue = ckpt_queue{};
    std::copy(pieces.begin(), pieces.end(), ckpt::bpf::pieces_of(session_, extent));
    queue->count = static_cast<__u32>(pieces.size());
    queue->budget = budget;
    return queue;
  }

 private:
  static ckpt::bpf::Windows windows() {
    ckpt::arena();
    char* const base = reinterpret_cast<char*>(ckpt::kSessionWindows);
    return {base, base + ckpt::kSessionWindowBytes / 2};
  }
  // Paths that are not in memory are nothing special, every new process has some: they are kept apart. Somebody else's client is let go.
  void take_all() {
    service_.drain([this](const ckpt_event& event) {
      const auto pid = static_cast<pid_t>(event.tgid);
      if (event.kind == CKPT_EVENT_UNREAD) {
        unread_.push_back(event);
        service_.delete_client(Phase::kStore, event.tgid, CKPT_OP_UNREAD);
      } else if (Child::is_one(pid)) {
        events_.push_back(event);
      } else if (event.kind == CKPT_EVENT_ARMED || event.kind == CKPT_EVENT_HELD) {
        service_.delete_client(static_cast<Phase>(event.phase), event.tgid, event.op);
        kill(pid, SIGCONT);
      }
    });
  }

  ckpt::bpf::Session session_{};
  Service service_;
  std::deque<ckpt_event> events_, unread_;
};

// A segment in a slot, mapped.
class Segment {
 public:
  Segment(const Daemon& daemon, uint32_t slot) : session_(daemon.session()), slot_(slot), fd_(ckpt::bpf::create_segment(kValues)) {
    ckpt::bpf::set_slot(session_, slot, fd_.get());
    bytes_ = static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0));
    if (bytes_ == MAP_FAILED) throw std::runtime_error("mmap of a segment");
  }
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;
  ~Segment() {
    munmap(bytes_, kBytes);
    ckpt::bpf::clear_slot(session_, slot_);
  }
  char* bytes() const { return bytes_; }
  uint32_t slot() const { return slot_; }

 private:
  static constexpr uint32_t kValues = 2;
  static constexpr size_t kBytes = size_t{kValues} * CKPT_VALUE;
  const ckpt::bpf::Session& session_;
  const uint32_t slot_;
  const ckpt::Fd fd_;
  char* bytes_;
};

// Cuts the child's buffer into pieces of these lengths, repeated, none across an element.
std::vector<ckpt_piece> cut(uint64_t from, uint32_t bytes, uint32_t slot, const std::vector<uint32_t>& lengths) {
  std::vector<ckpt_piece> pieces;
  for (uint32_t at = 0; at < bytes;) {
    const uint32_t length = std::min({lengths[pieces.size() % lengths.size()], bytes - at, CKPT_VALUE - at % CKPT_VALUE});
    pieces.push_back(ckpt_piece{from + at, slot, at, length, CKPT_PIECE_NEW, 0, 0});
    at += length;
  }
  return pieces;
}

// All of a queue moved; says which piece did not.
void expect_moved(const Daemon& daemon, uint32_t extent) {
  const ckpt_queue* const queue = ckpt::bpf::queue_of(daemon.session(), extent);
  const ckpt_piece* const pieces = ckpt::bpf::pieces_of(daemon.session(), extent);
  if (queue->done == queue->count && queue->failed == 0) return;
  const ckpt_piece* const end = pieces + queue->count;
  const ckpt_piece* const piece = std::find_if(pieces, end, [](const ckpt_piece& p) { return p.state != CKPT_PIECE_DONE; });
  throw Failed{text(queue->done) + " of " + text(queue->count) + " pieces are through and " + text(queue->failed) + " failed; piece " +
               text(static_cast<uint64_t>(piece - pieces)) + " is in state " + (piece == end ? "-" : text(piece->state)) + ", cursor " +
               text(queue->next) + ", lock " + text(queue->lock)};
}

size_t same_bytes(const char* bytes, size_t count, uint64_t seed) {
  size_t same = 0;
  for (size_t i = 0; i < count; i++) same += bytes[i] == client::byte_at(i, seed);
  return same;
}

std::string look(const std::string& path, uint64_t tag = 0) { return "look " + path + " " + text(tag); }
std::string mark(const std::string& path, uint64_t tag = 0) { return "mark " + path + " " + text(tag); }

// A bare client at its marker, held.
void arm_bare(Daemon& daemon, const Child& child, Phase phase, const std::string& folder = "/tmp/") {
  child.order(mark(folder + kReady[static_cast<int>(phase)]));
  EXPECT(child.stops());
  daemon.told(CKPT_EVENT_ARMED, child, phase, CKPT_OP_BARE);
  EXPECT(daemon.state(child, phase, CKPT_OP_BARE) == CKPT_CLIENT_ARMED);
}

void arm_tagged(Daemon& daemon, const Child& child, Phase phase, uint32_t op) {
  daemon.expect(child, phase, op);
  child.tell(mark(kReady[static_cast<int>(phase)], daemon.tag(op)));
  daemon.told(CKPT_EVENT_ARMED, child, phase, op);
  EXPECT(daemon.state(child, phase, op) == CKPT_CLIENT_ARMED);
}

// Triggers until all is through: before 5.12 who loses the lock claims nothing, and from 7.x on a program is skipped while another run of
// it on the same CPU is preempted.
void trigger_all(const Child& child, uint64_t tag, const ckpt_queue& queue, int times, int threads) {
  const std::string order =
      "look-many " + std::string(kComplete[0]) + " " + text(tag) + " " + std::to_string(times) + " " + std::to_string(threads);
  for (int i = 0; i < 1000 && queue.done < queue.count; i++) child.tell(order);
}

// --- who is served ---

void refused_uid(Daemon& daemon) {
  const Child child(kStranger);
  for (const Phase phase : kPhases) {
    daemon.expect(child, phase, kOp);
    child.order(mark(kReady[static_cast<int>(phase)]));
    EXPECT(!child.stops());
    child.answer();
    child.tell(mark(kReady[static_cast<int>(phase)], daemon.tag(kOp)));
    EXPECT(!daemon.entry(child, phase, CKPT_OP_BARE));
    EXPECT(daemon.state(child, phase, kOp) == CKPT_CLIENT_EXPECTED);
    daemon.forget(child, phase, kOp);
  }
  child.tell("mark-unread ready_to_checkpoint");
  child.tell("mark-nowhere 10");
  EXPECT(!daemon.unread(child, 0));
  EXPECT(daemon.silent());
}

void refused_process(Daemon& daemon, const char* order) {
  const Child child;
  EXPECT(child.tell(order) == "0");
  child.order(mark("/tmp/ready_to_checkpoint"));
  EXPECT(!child.stops());
  child.answer();
  EXPECT(!daemon.entry(child, Phase::kStore, CKPT_OP_BARE));
  daemon.expect(child, Phase::kStore, kOp);
  child.tell(mark(kReady[0], daemon.tag(kOp)));
  EXPECT(daemon.state(child, Phase::kStore, kOp) == CKPT_CLIENT_EXPECTED);
  daemon.forget(child, Phase::kStore, kOp);
  EXPECT(daemon.silent());
}

void daemon_itself(Daemon& daemon) {
  for (const char* marker : kReady) client::open_path(marker, 0);
  EXPECT(daemon.silent());
  for (const Phase phase : kPhases) EXPECT(daemon.service().clients(phase).empty());
}

// --- markers ---

void bare_marker(Daemon& daemon, Phase phase, const std::string& folder) {
  const Child child(kNobody);
  arm_bare(daemon, child, phase, folder);
  EXPECT(daemon.entry(child, phase, CKPT_OP_BARE)->arms == 1);

  // Somebody continues it, and it opens the marker again: it is held again, and the daemon hears of it.
  child.go_on();
  child.order(mark(folder + kReady[static_cast<int>(phase)]));
  EXPECT(child.stops());
  daemon.told(CKPT_EVENT_ARMED, child, phase, CKPT_OP_BARE);
  child.go_on();
  EXPECT(daemon.silent());
  EXPECT(daemon.entry(child, phase, CKPT_OP_BARE)->arms == 2);
  daemon.forget(child, phase, CKPT_OP_BARE);
}

// The identity is what /proc says of the process.
void identity(Daemon& daemon) {
  const Child child(kNobody);
  arm_bare(daemon, child, Phase::kStore);
  const ckpt_identity is = daemon.entry(child, Phase::kStore, CKPT_OP_BARE)->identity;
  for (const uint32_t id : {is.uid, is.gid, is.suid, is.sgid, is.euid, is.egid, is.fsuid, is.fsgid}) EXPECT(id == kNobody);
  EXPECT(is.dumpable == 1 && is.mm != 0 && is.user_ns != 0 && is.cap_effective == 0 && is.cap_permitted == 0);

  std::string word;
  std::ifstream stat("/proc/" + text(static_cast<uint64_t>(child.pid())) + "/stat");
  for (int i = 0; i < 22; i++) stat >> word;
  EXPECT(is.start_time / (1'000'000'000 / static_cast<uint64_t>(sysconf(_SC_CLK_TCK))) == std::stoull(word));
  daemon.forget(child, Phase::kStore, CKPT_OP_BARE);

  const Child root;
  arm_bare(daemon, root, Phase::kStore);
  std::ifstream status("/proc/" + text(static_cast<uint64_t>(root.pid())) + "/status");
  while (status >> word && word != "CapEff:") continue;
  status >> word;
  EXPECT(daemon.entry(root, Phase::kStore, CKPT_OP_BARE)->identity.cap_effective == std::stoull(word, nullptr, 16));
  daemon.forget(root, Phase::kStore, CKPT_OP_BARE);
}

void near_markers(Daemon& daemon) {
  const Child child;
  for (const char* path : {"ready_to_checkpoin", "ready_to_checkpoints", "Ready_to_checkpoint", "./ready_to_checkpoint", "/tmp/ready_to_",
                           "/tmp/ready_to_restore/", "/tmp//ready_to_restore", "/ready_to_restore", "/tmp/tmp/ready_to_checkpoint"})
    child.tell(mark(path));
  EXPECT(daemon.silent());
  for (const Phase phase : kPhases) EXPECT(daemon.service().clients(phase).empty());
}

void tagged_marker(Daemon& daemon) {
  const Child child(kNobody);
  for (const Phase phase : kPhases) {
    const char* const marker = kReady[static_cast<int>(phase)];
    child.tell(mark(marker, daemon.tag(kOp)));
    EXPECT(!daemon.entry(child, phase, kOp));

    daemon.expect(child, phase, kOp);
    child.tell(mark(std::string("/tmp/") + marker, daemon.tag(kOp)));
    child.tell(mark(marker, daemon.tag(kOp + 1)));
    child.tell(mark(marker, daemon.tag(CKPT_OPS)));
    child.tell(mark(marker, daemon.tag(CKPT_OP_BARE)));
    child.tell(mark(marker, daemon.tag(kOp) ^ uint64_t{1} << 40));
    EXPECT(daemon.state(child, phase, kOp) == CKPT_CLIENT_EXPECTED);
    EXPECT(daemon.service().clients(phase).size() == 1);
    EXPECT(daemon.silent());

    child.tell(mark(marker, daemon.tag(kOp)));
    daemon.told(CKPT_EVENT_ARMED, child, phase, kOp);
    child.tell(mark(marker, daemon.tag(kOp)));
    EXPECT(daemon.silent());
    EXPECT(daemon.entry(child, phase, kOp)->arms == 1);
    daemon.forget(child, phase, kOp);
  }
}

void unread_marker(Daemon& daemon) {
  const Child child(kNobody);
  const uint64_t address = child.ask("mark-unread /tmp/ready_to_checkpoint");
  // Until the daemon has looked, it does not get past a completion file.
  child.order(look(kComplete[0]));
  EXPECT(child.stops());
  EXPECT(daemon.unread(child, address));
  daemon.told(CKPT_EVENT_HELD, child, Phase::kStore, CKPT_OP_UNREAD);
  EXPECT(!daemon.entry(child, Phase::kStore, CKPT_OP_BARE));
  child.go_on();

  // The daemon has looked: the next trigger arms.
  daemon.expect(child, Phase::kStore, CKPT_OP_BARE);
  child.order(look(kComplete[0]));
  EXPECT(child.stops());
  daemon.told(CKPT_EVENT_ARMED, child, Phase::kStore, CKPT_OP_BARE);
  daemon.forget(child, Phase::kStore, CKPT_OP_BARE);
}

void unread_flood(Daemon& daemon) {
  const Child child(kNobody);
  child.tell("mark-nowhere 20000");
  EXPECT(daemon.service().globals().unread > 0);
  EXPECT(daemon.service().globals().dropped == 0);
  child.order(mark("/tmp/ready_to_checkpoint"));
  EXPECT(child.stops());
  EXPECT(daemon.count_events(CKPT_EVENT_ARMED) == 1);
  daemon.forget(child, Phase::kStore, CKPT_OP_BARE);
}

void full_map(Daemon& daemon) {
  const Child child(kNobody);
  Service& service = daemon.service();
  constexpr uint32_t kFirst = 1u << 30;
  const uint32_t before = service.globals().full;
  // A few have unread paths now and then: they take room too.
  uint32_t filled = 0;
  try {
    for (; filled <= CKPT_CLIENTS; filled++) service.write_client(Phase::kStore, kFirst + filled, 0, ckpt_client{});
  } catch (const std::exception&) {
  }
  EXPECT(filled > CKPT_CLIENTS / 2 && filled <= CKPT_CLIENTS);
  child.order(mark(kReady[0]));
  EXPECT(!child.stops());
  child.answer();
  EXPECT(service.globals().full == before + 1);
  EXPECT(daemon.silent());
  for (uint32_t i = 0; i < CKPT_CLIENTS; i++) service.delete_client(Phase::kStore, kFirst + i, 0);
  EXPECT(service.clients(Phase::kStore).empty());
}

// --- moving ---

void capture(Daemon& daemon, bool bare) {
  const Child child(kNobody);
  const Segment segment(daemon, 7);
  const uint32_t op = bare ? CKPT_OP_BARE : kOp;
  const std::string trigger = bare ? look("checkpoint_complete") : look(kComplete[0], daemon.tag(kOp));
  child.tell("fill 11");
  const uint64_t address = child.ask("where");
  if (bare) {
    arm_bare(daemon, child, Phase::kStore);
  } else {
    arm_tagged(daemon, child, Phase::kStore, kOp);
  }
  const std::vector<ckpt_piece> pieces = cut(address, client::kBufferBytes, segment.slot(), {1, 4096, 300000, 77, 1u << 20, 12288});
  const ckpt_queue* const queue = daemon.lay(kExtent, pieces, 4);
  daemon.start(child, Phase::kStore, op, kExtent, 0);
  if (bare) child.go_on();

  for (size_t i = 0; i + 4 < pieces.size(); i += 4) {
    child.tell(trigger);
    EXPECT(queue->done == i + 4);
  }
  EXPECT(daemon.silent());
  child.tell(trigger);
  daemon.told(CKPT_EVENT_MOVED, child, Phase::kStore, op);
  child.tell(trigger);
  EXPECT(daemon.silent());
  expect_moved(daemon, kExtent);
  EXPECT(same_bytes(segment.bytes(), client::kBufferBytes, 11) == client::kBufferBytes);
  EXPECT(child.ask("count 11") == client::kBufferBytes);
  daemon.forget(child, Phase::kStore, op);
}

// Pieces that are not in memory, or make no sense, say so; the others move.
void failing_pieces(Daemon& daemon) {
  const Child child(kNobody);
  const Segment segment(daemon, 7);
  const uint64_t address = child.ask("where");
  child.tell("fill 12");
  arm_tagged(daemon, child, Phase::kStore, kOp);
  std::vector<ckpt_piece> pieces = cut(address, 5 * 4096, segment.slot(), {4096});
  pieces[1].addr = 8;
  pieces[2].slot = 8;
  pieces[3].length = 0;
  const ckpt_queue* const queue = daemon.lay(kExtent, pieces, 8);
  daemon.start(child, Phase::kStore, kOp, kExtent, CKPT_CLIENT_REPORT);
  child.tell(look(kComplete[0], daemon.tag(kOp)));
  daemon.told(CKPT_EVENT_MOVED, child, Phase::kStore, kOp);
  EXPECT(queue->done == 5 && queue->failed == 3);
  constexpr uint32_t kStates[] = {CKPT_PIECE_DONE, CKPT_PIECE_FAULT, CKPT_PIECE_BAD, CKPT_PIECE_BAD, CKPT_PIECE_DONE};
  for (int i = 0; i < 5; i++) EXPECT(ckpt::bpf::pieces_of(daemon.session(), kExtent)[i].state == kStates[i]);
  daemon.forget(child, Phase::kStore, kOp);
}

void restore_by_kernel(Daemon& daemon) {
  const Child child(kNobody);
  const Segment segment(daemon, 7);
  const uint64_t address = child.ask("where");
  for (size_t i = 0; i < client::kBufferBytes; i++) segment.bytes()[i] = client::byte_at(i, 13);
  arm_bare(daemon, child, Phase::kRestore);
  const std::vector<ckpt_piece> pieces = cut(address, client::kBufferBytes, segment.slot(), {70000, 5, 1u << 20});
  daemon.lay(kExtent, pieces, 512);
  daemon.start(child, Phase::kRestore, CKPT_OP_BARE, kExtent, CKPT_CLIENT_HOLD);
  child.go_on();
  child.order(look(kComplete[1]));
  EXPECT(!child.stops());
  child.answer();
  daemon.told(CKPT_EVENT_MOVED, child, Phase::kRestore, CKPT_OP_BARE);
  expect_moved(daemon, kExtent);
  EXPECT(child.ask("count 13") == client::kBufferBytes);
  daemon.forget(child, Phase::kRestore, CKPT_OP_BARE);
}

// The daemon writes: each trigger claims, and the client waits for it.
void restore_by_daemon(Daemon& daemon) {
  const Child child(kNobody);
  const Segment segment(daemon, 7);
  const uint64_t address = child.ask("where");
  child.tell("fill 14");
  arm_bare(daemon, child, Phase::kRestore);
  const std::vector<ckpt_piece> pieces = cut(address, 10 * 4096, segment.slot(), {4096});
  const ckpt_queue* const queue = daemon.lay(kExtent, pieces, 5);
  daemon.start(child, Phase::kRestore, CKPT_OP_BARE, kExtent, CKPT_CLIENT_HOLD | CKPT_CLIENT_YOURS);
  child.go_on();
  for (uint32_t done = 5; done <= 10; done += 5) {
    child.order(look(kComplete[1]));
    EXPECT(child.stops());
    daemon.told(CKPT_EVENT_MOVED, child, Phase::kRestore, CKPT_OP_BARE);
    EXPECT(queue->done == done && queue->failed == 0);
    child.go_on();
  }
  for (uint32_t i = 0; i < 10; i++) EXPECT(ckpt::bpf::pieces_of(daemon.session(), kExtent)[i].state == CKPT_PIECE_YOURS);
  EXPECT(child.ask("count 14") == client::kBufferBytes);
  daemon.forget(child, Phase::kRestore, CKPT_OP_BARE);
}

void reported(Daemon& daemon) {
  const Child child(kNobody);
  const Segment segment(daemon, 7);
  arm_tagged(daemon, child, Phase::kStore, kOp);
  daemon.lay(kExtent, cut(child.ask("where"), 6 * 4096, segment.slot(), {4096}), 1);
  daemon.start(child, Phase::kStore, kOp, kExtent, CKPT_CLIENT_REPORT);
  for (int i = 0; i < 6; i++) {
    child.tell(look(kComplete[0], daemon.tag(kOp)));
    daemon.told(CKPT_EVENT_MOVED, child, Phase::kStore, kOp);
  }
  child.tell(look(kComplete[0], daemon.tag(kOp)));
  EXPECT(daemon.silent());
  daemon.forget(child, Phase::kStore, kOp);
}

void foreign_triggers(Daemon& daemon) {
  const Child child(kNobody);
  const Segment segment(daemon, 7);
  arm_tagged(daemon, child, Phase::kStore, kOp);
  const ckpt_queue* const queue = daemon.lay(kExtent, cut(child.ask("where"), 4096, segment.slot(), {4096}), 1);
  daemon.start(child, Phase::kStore, kOp, kExtent, 0);
  child.tell(look(kComplete[0]));
  child.tell(look(kComplete[0], daemon.tag(kOp) ^ uint64_t{1} << 40));
  child.tell(look(kComplete[0], daemon.tag(kOp + 1)));
  child.tell(look(kComplete[1], daemon.tag(kOp)));
  child.tell(look("checkpoint_complete", daemon.tag(kOp)));
  child.tell(look("/tmp/checkpoint_complet", daemon.tag(kOp)));
  child.tell(look("/tmp/checkpoint_completed", daemon.tag(kOp)));
  EXPECT(queue->next == 0 && daemon.silent());
  child.tell(look(kComplete[0], daemon.tag(kOp)));
  EXPECT(queue->done == 1);
  daemon.told(CKPT_EVENT_MOVED, child, Phase::kStore, kOp);
  daemon.forget(child, Phase::kStore, kOp);
}

// --- marker and file again ---

// A bare client in the middle of a capture of four pieces.
const ckpt_queue* start_bare(Daemon& daemon, const Child& child, const Segment& segment) {
  const uint64_t address = child.ask("where");
  arm_bare(daemon, child, Phase::kStore);
  const ckpt_queue* const queue = daemon.lay(kExtent, cut(address, 4 * 4096, segment.slot(), {4096}), 1);
  daemon.start(child, Phase::kStore, CKPT_OP_BARE, kExtent, 0);
  child.go_on();
  return queue;
}

void stale_marker(Daemon& daemon) {
  const Child child(kNobody);
  const Segment segment(daemon, 7);
  const ckpt_queue* const queue = start_bare(daemon, child, segment);
  child.tell(look(kComplete[0]));
  EXPECT(queue->done == 1);
  child.order("mark-many /tmp/ready_to_checkpoint 100000");
  EXPECT(!child.stops());
  child.answer();
  EXPECT(daemon.silent());
  EXPECT(daemon.state(child, Phase::kStore, CKPT_OP_BARE) == CKPT_CLIENT_MOVING);
  EXPECT(daemon.entry(child, Phase::kStore, CKPT_OP_BARE)->stale == 1);

  child.order(look(kComplete[0]));
  EXPECT(child.stops());
  daemon.told(CKPT_EVENT_ARMED, child, Phase::kStore, CKPT_OP_BARE);
  const ckpt_client entry = *daemon.entry(child, Phase::kStore, CKPT_OP_BARE);
  EXPECT(entry.state == CKPT_CLIENT_ARMED && entry.arms == 2 && entry.stale == 0);
  EXPECT(queue->done == 1);
  daemon.forget(child, Phase::kStore, CKPT_OP_BARE);
}

void completion_seen(Daemon& daemon) {
  const Child child(kNobody);
  const Segment segment(daemon, 7);
  const ckpt_queue* const queue = start_bare(daemon, child, segment);
  for (int i = 0; i < 5; i++) child.tell(look(kComplete[0]));
  daemon.told(CKPT_EVENT_MOVED, child, Phase::kStore, CKPT_OP_BARE);
  EXPECT(queue->done == 4);
  ckpt::bpf::queue_of(daemon.session(), kExtent)->state = CKPT_QUEUE_FINISHED;
  for (int i = 0; i < 3; i++) child.tell(look(kComplete[0]));
  EXPECT(daemon.silent());
  EXPECT(queue->state == CKPT_QUEUE_SEEN);

  // What comes next is a new checkpoint.
  arm_bare(daemon, child, Phase::kStore);
  EXPECT(daemon.entry(child, Phase::kStore, CKPT_OP_BARE)->arms == 2);
  daemon.forget(child, Phase::kStore, CKPT_OP_BARE);
}

// --- what ends an operation ---

// The client is another process, or has other rights, at its next trigger: it ends, once, and nothing moves.
void ended(Daemon& daemon, const std::string& change, const std::string& said, bool bare) {
  const Child child;
  const Segment segment(daemon, 7);
  const uint64_t address = child.ask("where");
  const uint32_t op = bare ? CKPT_OP_BARE : kOp;
  const std::string trigger = look(kComplete[0], bare ? 0 : daemon.tag(kOp));
  if (bare) {
    arm_bare(daemon, child, Phase::kStore);
  } else {
    arm_tagged(daemon, child, Phase::kStore, kOp);
  }
  const ckpt_queue* const queue = daemon.lay(kExtent, cut(address, 8 * 4096, segment.slot(), {4096}), 1);
  daemon.start(child, Phase::kStore, op, kExtent, 0);
  if (bare) child.go_on();
  child.tell(trigger);
  EXPECT(queue->done == 1);

  EXPECT(child.tell(change) == said);
  for (int i = 0; i < 10; i++) child.tell(trigger);
  daemon.told(CKPT_EVENT_ENDED, child, Phase::kStore, op);
  EXPECT(daemon.silent());
  EXPECT(daemon.state(child, Phase::kStore, op) == CKPT_CLIENT_ENDED);
  EXPECT(queue->next == 1 && queue->done == 1);
  EXPECT(segment.bytes()[0] == 1 && segment.bytes()[4096] == 0);
  daemon.forget(child, Phase::kStore, op);
}

// An ARMED entry of what the process was is no reason not to arm what it is now.
void armed_before_exec(Daemon& daemon) {
  const Child child(kNobody);
  arm_bare(daemon, child, Phase::kStore);
  const ckpt_identity before = daemon.entry(child, Phase::kStore, CKPT_OP_BARE)->identity;
  child.go_on();
  EXPECT(child.tell("exec") == "ready");
  arm_bare(daemon, child, Phase::kStore);
  const ckpt_client after = *daemon.entry(child, Phase::kStore, CKPT_OP_BARE);
  EXPECT(after.arms == 2 && after.identity.exec_id > before.exec_id && after.identity.mm != before.mm);
  daemon.forget(child, Phase::kStore, CKPT_OP_BARE);
}

// --- extents ---

void others_extent(Daemon& daemon) {
  const Child owner(kNobody), thief(kNobody);
  const Segment segment(daemon, 7);
  arm_tagged(daemon, owner, Phase::kStore, kOp);
  arm_tagged(daemon, thief, Phase::kStore, kOp);
  const ckpt_queue* const queue = daemon.lay(kExtent, cut(owner.ask("where"), 4 * 4096, segment.slot(), {4096}), 1);
  daemon.start(thief, Phase::kStore, kOp, kExtent, 0);
  daemon.start(owner, Phase::kStore, kOp, kExtent, 0);
  thief.tell(look(kComplete[0], daemon.tag(kOp)));
  EXPECT(queue->next == 0);
  owner.tell(look(kComplete[0], daemon.tag(kOp)));
  EXPECT(queue->done == 1);
  daemon.service().take_back(kExtent);
  owner.tell(look(kComplete[0], daemon.tag(kOp)));
  EXPECT(queue->next == 1 && daemon.silent());
  EXPECT(daemon.service().globals().extent[kExtent].users == 0);
  daemon.forget(owner, Phase::kStore, kOp);
  daemon.forget(thief, Phase::kStore, kOp);
}

// Threads of one client trigger side by side: each piece moves, once.
void many_threads(Daemon& daemon) {
  const Child child(kNobody);
  const Segment segment(daemon, 7);
  const uint64_t address = child.ask("where");
  for (uint64_t round = 0; round < 20; round++) {
    child.tell("fill " + text(round));
    arm_tagged(daemon, child, Phase::kStore, kOp);
    const ckpt_queue* const queue = daemon.lay(kExtent, cut(address, client::kBufferBytes, segment.slot(), {4321}), 3);
    daemon.start(child, Phase::kStore, kOp, kExtent, 0);
    trigger_all(child, daemon.tag(kOp), *queue, 500, 4);
    EXPECT(daemon.count_events(CKPT_EVENT_MOVED) >= 1);
    expect_moved(daemon, kExtent);
    EXPECT(same_bytes(segment.bytes(), client::kBufferBytes, round) == client::kBufferBytes);
    daemon.forget(child, Phase::kStore, kOp);
  }
}

// A client triggers all the time from several threads while its extent goes to another and back: none of its bytes gets into the other's
// image, and nothing is written to its own once the extent was taken back.
void taken_back_under_way(Daemon& daemon) {
  constexpr uint32_t kBytes = CKPT_PIECES * 4096;
  const Child busy(kNobody), victim(kNobody);
  const Segment segment(daemon, 7), others(daemon, 8);
  const uint64_t from = busy.ask("where"), to = victim.ask("where");
  busy.tell("fill 1");
  busy.tell("spin " + std::string(kComplete[0]) + " " + text(daemon.tag(kOp)) + " 2");
  bool any = false;
  for (uint64_t round = 0; round < 100; round++) {
    victim.tell("fill " + text(round + 2));
    arm_tagged(daemon, busy, Phase::kStore, kOp);
    const ckpt_queue* const queue = daemon.lay(kExtent, cut(from, kBytes, segment.slot(), {4096}), 2);
    daemon.start(busy, Phase::kStore, kOp, kExtent, 0);
    usleep(static_cast<useconds_t>(round * 7 % 200));
    if (round % 2 == 0) daemon.forget(busy, Phase::kStore, kOp);
    daemon.service().take_back(kExtent);
    any |= queue->done > 0 && queue->done < queue->count;
    memset(segment.bytes(), 0, kBytes);
    daemon.count_events(CKPT_EVENT_MOVED);

    arm_tagged(daemon, victim, Phase::kStore, kOp);
    daemon.lay(kExtent, cut(to, kBytes, others.slot(), {4096}), 64);
    daemon.start(victim, Phase::kStore, kOp, kExtent, 0);
    trigger_all(victim, daemon.tag(kOp), *queue, 64, 1);
    expect_moved(daemon, kExtent);
    EXPECT(same_bytes(others.bytes(), kBytes, round + 2) == kBytes);
    EXPECT(std::all_of(segment.bytes(), segment.bytes() + kBytes, [](char byte) { return byte == 0; }));
    daemon.forget(victim, Phase::kStore, kOp);
    daemon.forget(busy, Phase::kStore, kOp);
    EXPECT(daemon.count_events(CKPT_EVENT_ENDED) == 0);
  }
  EXPECT(any);  // it was under way indeed
}

// --- no room ---

void full_ring(Daemon& daemon) {
  const Child reporter(kNobody), child(kNobody);
  const Segment segment(daemon, 7);
  const uint64_t address = reporter.ask("where");
  arm_tagged(daemon, reporter, Phase::kStore, kOp);
  for (int round = 0; round < 8; round++) {
    daemon.lay(kExtent, cut(address, CKPT_PIECES, segment.slot(), {1}), 1);
    daemon.start(reporter, Phase::kStore, kOp, kExtent, CKPT_CLIENT_REPORT);
    reporter.tell("look-many " + std::string(kComplete[0]) + " " + text(daemon.tag(kOp)) + " " + text(CKPT_PIECES) + " 1");
  }
  EXPECT(daemon.service().globals().dropped > 0);
  child.order(mark("/tmp/ready_to_checkpoint"));
  EXPECT(child.stops());
  EXPECT(daemon.count_events(CKPT_EVENT_ARMED) == 0);
  EXPECT(daemon.state(child, Phase::kStore, CKPT_OP_BARE) == CKPT_CLIENT_ARMED);
  EXPECT(daemon.service().clients(Phase::kStore).size() == 2);
  daemon.forget(child, Phase::kStore, CKPT_OP_BARE);
  daemon.forget(reporter, Phase::kStore, kOp);
}

// --- pid namespaces ---

void inner_client(Daemon& daemon) {
  const Child child(kNobody, CLONE_NEWPID);
  EXPECT(child.ask("pid") == 1);
  arm_bare(daemon, child, Phase::kRestore);
  daemon.forget(child, Phase::kRestore, CKPT_OP_BARE);
  child.go_on();
  arm_tagged(daemon, child, Phase::kStore, kOp);
  daemon.forget(child, Phase::kStore, kOp);
}

void outer_client(Daemon& daemon, const Child& outsider) {
  outsider.order(mark("/tmp/ready_to_checkpoint"));
  EXPECT(outsider.answers());
  outsider.answer();
  EXPECT(daemon.silent());
  EXPECT(daemon.service().clients(Phase::kStore).empty());
}

// The daemon in a pid namespace of its own, and somebody outside of it.
int run_nested() {
  const Child outsider(kNobody);
  if (unshare(CLONE_NEWPID) != 0) throw std::runtime_error("unshare");
  const pid_t inner = fork();
  if (inner == 0) {
    try {
      Daemon daemon;
      const auto check = [&](const std::string& name, const std::function<void()>& body) { ::check(name, body, [&] { daemon.clean(); }); };
      check("a daemon in a pid namespace counts as that does", [&] {
        const Child child(kNobody);
        EXPECT(child.ask("pid") == static_cast<uint64_t>(child.pid()));
        arm_bare(daemon, child, Phase::kStore);
        daemon.forget(child, Phase::kStore, CKPT_OP_BARE);
      });
      check("a daemon in a pid namespace serves the namespaces in it", [&] { inner_client(daemon); });
      check("a daemon in a pid namespace serves nobody outside", [&] { outer_client(daemon, outsider); });
    } catch (const std::exception& error) {
      printf("not ok nested: %s\n", error.what());
      failures++;
    }
    fflush(stdout);
    _exit(failures);
  }
  int status = 0;
  waitpid(inner, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int run_apart(const char* argument) {
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "serve-bpf", argument, nullptr);
    _exit(1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

// Not for a process in a chroot, and not everywhere for others.
bool user_namespaces() {
  const Child child;
  if (child.tell("userns") == "0") return true;
  printf("# no user namespaces to be had here\n");
  return false;
}

void run_all() {
  Daemon daemon;
  const auto check = [&](const std::string& name, const std::function<void()>& body) { ::check(name, body, [&] { daemon.clean(); }); };
  printf("# kernel writer: %s\n", daemon.kernel_writer() ? "yes" : "no");
  check("clients of other uids leave no trace", [&] { refused_uid(daemon); });
  check("a process that is not dumpable is refused", [&] { refused_process(daemon, "dumpable 0"); });
  check("a process with a saved uid of somebody else is refused", [&] { refused_process(daemon, "suid 12345"); });
  check("the daemon does not serve itself", [&] { daemon_itself(daemon); });
  for (const Phase phase : kPhases) {
    for (const char* folder : {"", "/tmp/"})
      check(std::string("a client at ") + folder + kReady[static_cast<int>(phase)] + " is held",
            [&] { bare_marker(daemon, phase, folder); });
  }
  check("an entry says what its client is", [&] { identity(daemon); });
  check("what is nearly a marker is none", [&] { near_markers(daemon); });
  check("a tagged marker binds the entry that the daemon made, and nothing else", [&] { tagged_marker(daemon); });
  check("a path that is not in memory is reported", [&] { unread_marker(daemon); });
  check("paths that are not in memory leave room for others", [&] { unread_flood(daemon); });
  check("a full map is counted", [&] { full_map(daemon); });

  check("a bare client's memory is captured to the byte", [&] { capture(daemon, true); });
  check("a library client's memory is captured to the byte", [&] { capture(daemon, false); });
  check("triggers with another tag move nothing", [&] { foreign_triggers(daemon); });
  check("pieces that cannot move say so", [&] { failing_pieces(daemon); });
  if (daemon.kernel_writer()) check("a client's memory is restored to the byte by the kernel", [&] { restore_by_kernel(daemon); });
  check("a client waits for the daemon to restore", [&] { restore_by_daemon(daemon); });
  check("each trigger is reported if asked for", [&] { reported(daemon); });

  check("a marker under way arms at the next trigger", [&] { stale_marker(daemon); });
  check("a client that looks for its finished file is told of once", [&] { completion_seen(daemon); });
  for (const bool bare : {true, false}) {
    const std::string kind = bare ? " ends a bare client" : " ends a library client";
    check("setuid()" + kind, [&] { ended(daemon, "setuid 65534", "0", bare); });
    check("execve()" + kind, [&] { ended(daemon, "exec", "ready", bare); });
    check("prctl(PR_SET_DUMPABLE, 0)" + kind, [&] { ended(daemon, "dumpable 0", "0", bare); });
    check("giving up a capability" + kind, [&] { ended(daemon, "drop 21", "0", bare); });
    if (user_namespaces()) check("a new user namespace" + kind, [&] { ended(daemon, "userns", "0", bare); });
  }
  check("a client that was ARMED before execve() arms again", [&] { armed_before_exec(daemon); });

  check("an entry with another's extent moves nothing", [&] { others_extent(daemon); });
  check("threads that trigger side by side move each piece once", [&] { many_threads(daemon); });
  check("an extent taken back under way is safe to lend again", [&] { taken_back_under_way(daemon); });
  check("a client of a pid namespace goes by its outer pid", [&] { inner_client(daemon); });
  check("events without room are counted, and their clients held", [&] { full_ring(daemon); });
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  // A pipe that takes the place of a closed standard descriptor would not pass exec.
  while (open("/dev/null", O_RDWR) <= STDERR_FILENO) continue;
  if (what == "child") return client::serve_orders();
  try {
    if (what == "nested") return run_nested();
    run_all();
  } catch (const std::exception& error) {
    printf("not ok serve-bpf: %s\n", error.what());
    return 1;
  }
  failures += run_apart("nested");
  return failures == 0 ? 0 : 1;
}
