// bare.cc: see bare.h.
#include "bare.h"

#include <signal.h>

#include <algorithm>
#include <cstring>

#include "../engine/clock.h"
#include "../error.h"

namespace ckpt {

namespace {

constexpr uint64_t kMillisecond = 1000000;
constexpr uint64_t kStopMs = 5000;   // a thread in uninterruptible sleep does not stop
constexpr uint64_t kCheckMs = 2;     // how often a visit under way is looked at: nobody tells us that a file was removed
constexpr uint64_t kHelpMs = 20;     // a client that looks less often than that is not waited for
constexpr uint64_t kNoticeMs = 500;  // who has seen the completion file has removed it by then, or leaves it to us
constexpr int kRemakes = 3;

uint32_t key_of(pid_t pid) { return static_cast<uint32_t>(pid); }

bpf::Phase phase_of(const ckpt_event& event) { return event.phase == 0 ? bpf::Phase::kStore : bpf::Phase::kRestore; }

// The phase of a marker as a bare client may spell it; false if it is none.
bool marker_phase(const char* path, bpf::Phase& phase) {
  if (strncmp(path, CKPT_FOLDER, strlen(CKPT_FOLDER)) == 0) path += strlen(CKPT_FOLDER);
  if (strcmp(path, CKPT_READY_STORE) == 0) {
    phase = bpf::Phase::kStore;
  } else if (strcmp(path, CKPT_READY_RESTORE) == 0) {
    phase = bpf::Phase::kRestore;
  } else {
    return false;
  }
  return true;
}

}  // namespace

Bare::Visit* Bare::find(pid_t pid) {
  const auto found = visits_.find(pid);
  return found == visits_.end() ? nullptr : &found->second;
}

Told Bare::told(const Visit& visit) const {
  const Client* const client = daemon_.find(visit.pid);
  return {visit.pid, client ? client->identity.uid : 0, true, visit.phase == bpf::Phase::kRestore, ""};
}

void Bare::set_step(Visit& visit, Step step) {
  visit.step = step;
  visit.since_ns = daemon_.loop.waited_ns();
}

void Bare::go_on(Visit& visit) {
  visit.held = false;
  if (const Client* const client = daemon_.find(visit.pid)) client->signal(SIGCONT);
}

// Invariant: while a client is held, it has an entry with its start time, by which the keeper finds it.
void Bare::keep_entry(const Visit& visit, uint32_t state) {
  const Client& client = *daemon_.find(visit.pid);
  ckpt_client entry{};
  entry.identity = client.identity;
  if (entry.identity.start_time == 0) entry.identity.start_time = client.start_time();
  entry.state = state;
  daemon_.service.write_client(visit.phase, key_of(visit.pid), CKPT_OP_BARE, entry);
}

// What goes wrong with one client is said, and the client goes on.
template <typename Work>
void Bare::guarded(Visit& visit, Work work) {
  try {
    work();
  } catch (const Error& reason) {
    fail(visit, errno_of(reason.code()), reason.what());
  } catch (const std::exception& reason) {
    fail(visit, EIO, reason.what());
  }
}

void Bare::fail(Visit& visit, int number, const std::string& message) {
  daemon_.report.failed(told(visit), strerrorname_np(number), message);
  leave(visit.pid);
}

// Ends a visit, in whatever step: its entry goes, it is let go, and the next has its turn.
void Bare::leave(pid_t pid) {
  end_visit(pid, true);
  Client* const client = daemon_.find(pid);
  if (client != nullptr && client->busy == Client::Busy::kBare) client->busy = Client::Busy::kNo;
  daemon_.forget_if_idle(pid);
  daemon_.tell_totals();
}

void Bare::end_visit(pid_t pid, bool with_entry) {
  const auto found = visits_.find(pid);
  if (found == visits_.end()) return;
  Visit& visit = found->second;
  const Place place{visit.folder.device(), visit.folder.inode()};
  visit.operation.reset();
  if (with_entry) daemon_.service.delete_client(visit.phase, key_of(pid), CKPT_OP_BARE);
  if (visit.held) go_on(visit);
  visits_.erase(found);

  Turn& turn = turns_[place];
  turn.waiting.erase(std::remove(turn.waiting.begin(), turn.waiting.end(), pid), turn.waiting.end());
  if (turn.current == pid) turn.current = 0;
  // Not from here: a row of clients that all fail must not nest.
  daemon_.loop.after(0, [this, place] { begin_next(place); });
}

void Bare::armed(const ckpt_event& event) {
  const auto pid = static_cast<pid_t>(event.tgid);
  const bpf::Phase phase = phase_of(event);
  try {
    // The entry may be gone: what ended a visit in that very moment took it along. Its client is held all the same.
    ckpt_client entry;
    const bool bound = daemon_.service.read_client(phase, event.tgid, CKPT_OP_BARE, entry) && entry.state == CKPT_CLIENT_ARMED;
    Client& client = daemon_.client(pid);
    if (client.busy == Client::Busy::kLibrary) throw error(Code::kBusy, "It is served through the library at the moment");
    if (bound) client.bind(entry.identity);
    Visit* const visit = find(pid);
    if (event.by_trigger && visit == nullptr) {
      // Its visit is over; the look was on its way.
      daemon_.service.delete_client(phase, event.tgid, CKPT_OP_BARE);
      client.signal(SIGCONT);
      return daemon_.forget_if_idle(pid);
    }
    if (visit != nullptr) visit->held = true;
    // A look that was not awaited is that of a client which opened its marker again: it is a new visit.
    if (event.by_trigger && bound && visit != nullptr && visit->phase == phase && visit->step == Step::kLooking)
      return at_first_look(*visit);
    enter(pid, phase, true);
  } catch (const std::exception& reason) {
    daemon_.report.warn("Process " + std::to_string(pid) + " is not served: " + reason.what());
    daemon_.service.delete_client(phase, event.tgid, CKPT_OP_BARE);
    leave(pid);
    kill(pid, SIGCONT);
  }
}

// At a marker: whatever the client was at before is over.
void Bare::enter(pid_t pid, bpf::Phase phase, bool held) {
  Client& client = daemon_.client(pid);
  if (client.busy == Client::Busy::kLibrary) throw error(Code::kBusy, "It is served through the library at the moment");
  Folder folder(pid);
  if (Visit* const before = find(pid)) {
    held = held || before->held;
    before->held = false;  // it stays so, and keeps the entry of the marker
    end_visit(pid, before->phase != phase);
  }
  client.busy = Client::Busy::kBare;
  const Place place{folder.device(), folder.inode()};
  Visit& visit = visits_.emplace(pid, Visit{++ids_, pid, phase, std::move(folder)}).first->second;
  visit.held = held;
  daemon_.report.armed(told(visit));
  Turn& turn = turns_[place];
  turn.waiting.push_back(pid);
  if (turn.current == 0 && turn.waiting.size() == 1) return begin_next(place);
  // One whose marker was not read in time would take another's completion file for its own.
  keep_entry(visit, CKPT_CLIENT_ARMED);
  if (!visit.held) client.signal(SIGSTOP);
  visit.held = true;
  daemon_.report.held(told(visit), "process " + std::to_string(turn.current) + " of the same /tmp is served");
}

void Bare::begin_next(Place place) {
  const auto found = turns_.find(place);
  if (found == turns_.end() || found->second.current != 0) return;
  Turn& turn = found->second;
  if (turn.waiting.empty()) {
    turns_.erase(found);
    return;
  }
  const pid_t pid = turn.waiting.front();
  turn.waiting.pop_front();
  turn.current = pid;
  Visit& visit = *find(pid);
  guarded(visit, [&] { let_look(visit); });
}

void Bare::let_look(Visit& visit) {
  if (!visit.folder.remove(visit.phase))
    throw error(Code::kInternal, "Something that is no file lies where the completion file of process %d has to be", visit.pid);
  keep_entry(visit, CKPT_CLIENT_EXPECTED);
  set_step(visit, Step::kLooking);
  daemon_.loop.after(kCheckMs, [this, pid = visit.pid, id = visit.id] { check(pid, id); });
  if (visit.held) go_on(visit);
}

void Bare::at_first_look(Visit& visit) {
  set_step(visit, Step::kStopping);
  await_stop(visit.pid, visit.id, daemon_.loop.waited_ns() + kStopMs * kMillisecond);
}

void Bare::await_stop(pid_t pid, uint64_t id, uint64_t deadline_ns) {
  Visit* const visit = find(pid);
  if (visit == nullptr || visit->id != id || visit->step != Step::kStopping) return;
  // All extents may be in use: it is held, and can wait.
  if (daemon_.find(pid)->stopped() && daemon_.extents.any()) return guarded(*visit, [&] { plan(*visit); });
  if (daemon_.loop.waited_ns() > deadline_ns)
    return fail(*visit, ETIMEDOUT, "Its threads do not stop, or too many operations are under way");
  daemon_.loop.after(1, [=] { await_stop(pid, id, deadline_ns); });
}

void Bare::plan(Visit& visit) {
  Client& client = *daemon_.find(visit.pid);
  Wish wish{visit.phase, CKPT_OP_BARE, "", kPartsDefault, {}, daemon_.options.pages_per_trigger, daemon_.options.pages_per_trigger != 0};
  if (daemon_.options.shared) wish.parts |= kPartSharedAll;
  const uint32_t extent = daemon_.extents.take();
  visit.operation = std::make_unique<ClientOperation>(daemon_, client, std::move(wish), extent);
  ClientOperation& operation = *visit.operation;
  operation.plan();
  set_step(visit, Step::kMoving);
  if (operation.all_at_once()) {
    operation.carry_through();
    operation.open(false);  // so that its look for the file is seen
    return finish(visit);
  }
  operation.open(operation.writes_here());
  go_on(visit);
}

void Bare::moved(const ckpt_event& event) {
  const auto pid = static_cast<pid_t>(event.tgid);
  Visit* const visit = find(pid);
  if (visit == nullptr || visit->step != Step::kMoving) {
    if (event.held) kill(pid, SIGCONT);
    return;
  }
  visit->held = visit->held || event.held;
  guarded(*visit, [&] {
    if (visit->operation->advance()) return finish(*visit);
    if (visit->held) go_on(*visit);
  });
}

void Bare::finish(Visit& visit) {
  // First: a client that runs may find the file as soon as it is there, and that look must be seen.
  __atomic_store_n(&bpf::queue_of(daemon_.session(), visit.operation->extent())->state, CKPT_QUEUE_FINISHED, __ATOMIC_SEQ_CST);
  // Before it can open the next marker, which makes the entry that of a held client again.
  if (!visit.held) visit.operation->set_free();
  make_file(visit);
  set_step(visit, Step::kFinished);
  if (visit.held) go_on(visit);
}

void Bare::ended(const ckpt_event& event) {
  const auto pid = static_cast<pid_t>(event.tgid);
  if (Visit* const visit = find(pid)) {
    fail(*visit, ESTALE, "It is no longer the process that armed: execve(), its credentials or its dumpability came between");
  } else {
    daemon_.service.delete_client(phase_of(event), event.tgid, CKPT_OP_BARE);
  }
  Client* const client = daemon_.find(pid);
  if (client != nullptr && client->busy == Client::Busy::kNo) client->drop();
  daemon_.forget_if_idle(pid);
}

void Bare::held(const ckpt_event& event) {
  const auto pid = static_cast<pid_t>(event.tgid);
  Visit* const visit = find(pid);
  if (visit != nullptr && visit->step == Step::kWaiting) {
    visit->held = true;
  } else {
    kill(pid, SIGCONT);
  }
}

void Bare::unread(const ckpt_event& event) {
  const auto pid = static_cast<pid_t>(event.tgid);
  bpf::Phase phase;
  try {
    const Target target(pid);
    char path[CKPT_PATH_MAX] = {};
    // To the end of the page at most: what follows need not be there.
    const uint64_t end = std::min<uint64_t>(event.address + sizeof path - 1, page_up(event.address + 1));
    target.read({event.address, end}, path);
    if (end == page_up(event.address + 1) && memchr(path, 0, end - event.address) == nullptr)
      target.read({end, event.address + sizeof path - 1}, path + (end - event.address));
    const Visit* const visit = find(pid);
    const auto known = [&] {
      return visit != nullptr && visit->phase == phase && (visit->step == Step::kWaiting || visit->step == Step::kLooking);
    };
    if (marker_phase(path, phase) && !known()) enter(pid, phase, false);
  } catch (const std::exception&) {
    // It is gone, or the address was never any good: the call has failed without us.
  }
  // Last: until it has an entry of its own, this one tells the keeper of it.
  daemon_.service.delete_client(bpf::Phase::kStore, event.tgid, CKPT_OP_UNREAD);
}

void Bare::sweep() {
  ckpt_event event{};
  event.op = CKPT_OP_BARE;
  event.held = true;
  std::vector<pid_t> moving;
  for (const auto& [pid, visit] : visits_)
    if (visit.step == Step::kMoving && visit.operation->triggered()) moving.push_back(pid);
  for (const pid_t pid : moving) {
    event.tgid = key_of(pid);
    moved(event);
  }
  for (const bpf::Phase phase : {bpf::Phase::kStore, bpf::Phase::kRestore})
    for (const ckpt_key& key : daemon_.service.clients(phase)) {
      ckpt_client entry;
      if (key.op != CKPT_OP_BARE || !daemon_.service.read_client(phase, key.tgid, key.op, entry) || entry.state != CKPT_CLIENT_ARMED)
        continue;
      const Visit* const visit = find(static_cast<pid_t>(key.tgid));
      if (visit != nullptr && (visit->step == Step::kWaiting || visit->step == Step::kStopping)) continue;
      event.tgid = key.tgid;
      event.phase = static_cast<uint32_t>(phase);
      event.by_trigger = visit != nullptr && visit->step == Step::kLooking;
      armed(event);
    }
}

// Whether the client has seen its completion file, as far as can be told. One that is gone before its client looked for it was removed by
// somebody else, who was late with removing his own: it is made again.
bool Bare::noticed(Visit& visit) {
  // In this order: whoever removes it has looked before.
  const bool there = visit.folder.exists(visit.phase);
  const ckpt_queue* const queue = bpf::queue_of(daemon_.session(), visit.operation->extent());
  const bool looked = __atomic_load_n(&queue->state, __ATOMIC_SEQ_CST) == CKPT_QUEUE_SEEN;
  if (looked && !there) return true;
  if (looked) {
    if (visit.looked_ns == 0) visit.looked_ns = now_ns();
    return now_ns() - visit.looked_ns > kNoticeMs * kMillisecond;
  }
  if (there) return false;
  if (visit.remakes == kRemakes) return true;
  visit.remakes++;
  make_file(visit);
  return false;
}

void Bare::make_file(const Visit& visit) {
  const ckpt_identity& who = visit.operation->identity();
  visit.folder.create(visit.phase, who.fsuid, who.fsgid);
}

bool Bare::stalled(Visit& visit) {
  const uint64_t done = visit.operation ? visit.operation->done_pages() : 0;
  if (done != visit.last_done) {
    visit.last_done = done;
    visit.since_ns = daemon_.loop.waited_ns();
  }
  return daemon_.loop.waited_ns() - visit.since_ns > daemon_.options.stall_ms * kMillisecond;
}

// What time does to a visit. It may be over after this.
void Bare::look_after(Visit& visit) {
  switch (visit.step) {
    case Step::kLooking:
      if (stalled(visit)) fail(visit, ETIMEDOUT, "It opened the marker and does not look for the completion file");
      return;
    case Step::kMoving: {
      if (stalled(visit)) return fail(visit, ETIMEDOUT, "It stopped looking for the completion file half-way");
      const bool rare = visit.operation->triggered() && daemon_.loop.waited_ns() - visit.since_ns > kHelpMs * kMillisecond;
      if (rare && daemon_.options.pages_per_trigger == 0 && visit.operation->move_rest()) finish(visit);
      return;
    }
    case Step::kFinished:
      if (noticed(visit) || stalled(visit)) leave(visit.pid);
      return;
    default:
      return;
  }
}

void Bare::check(pid_t pid, uint64_t id) {
  const auto same = [&] {
    Visit* const visit = find(pid);
    return visit != nullptr && visit->id == id ? visit : nullptr;
  };
  if (Visit* const visit = same()) guarded(*visit, [&] { look_after(*visit); });
  if (same() != nullptr) daemon_.loop.after(kCheckMs, [=] { check(pid, id); });
}

void Bare::finish_restores() {
  std::vector<pid_t> under_way;
  for (const auto& [pid, visit] : visits_)
    if (visit.step == Step::kMoving && visit.operation->changed()) under_way.push_back(pid);
  for (const pid_t pid : under_way)
    guarded(*find(pid), [&] {
      find(pid)->operation->carry_through();
      finish(*find(pid));
    });
}

void Bare::let_all_go() {
  for (auto& [pid, visit] : visits_)
    if (visit.held) go_on(visit);
}

void Bare::client_gone(pid_t pid) {
  if (Visit* const visit = find(pid)) {
    visit->held = false;
    leave(pid);
  }
  for (const bpf::Phase phase : {bpf::Phase::kStore, bpf::Phase::kRestore}) daemon_.service.delete_client(phase, key_of(pid), CKPT_OP_BARE);
}

}  // namespace ckpt
