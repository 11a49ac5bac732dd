// operation.cc: see operation.h.
#include "operation.h"

#include <sched.h>

#include <cstring>
#include <mutex>

#include "../bpf/probe.h"
#include "clock.h"
#include "janitor.h"

namespace ckpt {

namespace {

// A program can be skipped (nested in another, or its path not yet in memory), so a marker is opened again; this often and no more.
constexpr int kMarkerTries = 10000;
// mmap_lock is held for a moment by whoever changes the layout.
constexpr int kBusyTries = 1000;

uint32_t* armed_word(const bpf::Session& session, Layout layout, uint32_t number) {
  return layout == Layout::kSeed ? &bpf::seed_of(session, number)->armed : &bpf::queue_of(session, number)->armed;
}

// Takes a number if the session is up. False if it is not: the caller brings it up and asks again.
bool take_number(Arena& arena, SessionSlot& slot, uint32_t& number) {
  const std::lock_guard<Lock> guard(arena.lock);
  if (!slot.ready) return false;
  if (slot.busy == ~uint64_t{0})
    throw error(Code::kBusy, "%u checkpoints and restores are under way in this process, the most there can be", CKPT_OPS);
  static_assert(CKPT_OPS == 64, "busy is one bit an operation");
  number = static_cast<uint32_t>(__builtin_ctzll(~slot.busy));
  slot.busy |= uint64_t{1} << number;
  return true;
}

void bring_up(Arena& arena, SessionSlot& slot, Layout layout) {
  {
    const std::lock_guard<Lock> attaching(slot.attaching);
    if (!slot.session.loaded) bpf::load(slot.session, layout, session_windows(layout));
    bpf::attach(slot.session);
    const std::lock_guard<Lock> guard(arena.lock);
    slot.ready = true;
    slot.last_use_ns = now_ns();
  }
  janitor_wake(arena);
}

}  // namespace

Operation::Operation(Arena& arena, Layout layout, Phase phase)
    : arena_(arena), layout_(layout), phase_(phase), slot_(arena.sessions[static_cast<size_t>(layout)]) {
  while (!take_number(arena_, slot_, number_)) bring_up(arena_, slot_, layout_);
  __atomic_fetch_add(&slot_.session.globals->armed, 1, __ATOMIC_SEQ_CST);
}

Operation::~Operation() {
  bpf::delete_entry(slot_.session, phase_, number_, walked_ || seed());
  __atomic_fetch_sub(&slot_.session.globals->armed, 1, __ATOMIC_SEQ_CST);
  const std::lock_guard<Lock> guard(arena_.lock);
  arena_.triggers += triggers_;
  slot_.busy &= ~(uint64_t{1} << number_);
  slot_.last_use_ns = now_ns();
}

void Operation::arm() {
  const bool ask = !seed() && bpf::features().mapping_query;
  if (seed()) {
    memset(bpf::seed_of(session(), number_), 0, sizeof(ckpt_seed));
  } else {
    memset(bpf::queue_of(session(), number_), 0, sizeof(ckpt_queue));
  }
  open_marker(!ask);
  if (!ask) walk();
}

void Operation::open_marker(bool walk) {
  const uint32_t* const armed = armed_word(session(), layout_, number_);
  const uint32_t before = __atomic_load_n(armed, __ATOMIC_ACQUIRE);
  for (int i = 0; i < kMarkerTries; i++) {
    bpf::open_marker(session(), phase_, number_, walk);
    if (__atomic_load_n(armed, __ATOMIC_ACQUIRE) != before) return;
  }
  throw error(Code::kNoProgress,
              "The program on sys_enter_openat does not answer after %d openat() calls; was it detached, or are "
              "system calls of this process filtered?",
              kMarkerTries);
}

void Operation::walk() {
  ckpt_entry header{};
  std::vector<ckpt_mapping> recorded;
  for (int i = 0; i < kBusyTries; i++) {
    if (!bpf::read_entry(session(), phase_, number_, header, recorded))
      throw error(Code::kInternal, "Operation %u has no entry after its marker was opened", number_);
    if (header.walk != CKPT_WALK_BUSY && header.walk != CKPT_WALK_MORE) break;
    if (header.walk == CKPT_WALK_BUSY) sched_yield();
    open_marker(true);
  }
  all_ = header.walk == CKPT_WALK_DONE ? walked_mappings(recorded) : read_mappings();
  walked_ = true;
}

void Operation::mappings_under(Range range, std::vector<Mapping>& out) const {
  if (walked_) {
    clip_mappings(all_, range, out);
  } else {
    query_mappings(arena_.maps_fd, range, out);
  }
}

}  // namespace ckpt
