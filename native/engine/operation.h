// operation.h: one checkpoint or restore under way: its number, its entry in store_map or restore_map, its hold on the session.
#pragma once

#include <vector>

#include "../memory/mappings.h"
#include "../rewind/arena.h"
#include "engine.h"

namespace ckpt {

class Operation {
 public:
  // Loads and attaches the session if it is not, and takes a number. Throws what bpf::load() and bpf::attach() do, and kBusy.
  Operation(Arena& arena, Layout layout, Phase phase);
  ~Operation();
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

  // Opens the marker until the program has made the entry. Where the kernel cannot be asked about single ranges, and always in the
  // seed layout, the program walks the VMAs into it too. Throws kNoProgress.
  void arm();

  // The parts of this process's mappings that lie in `range`. After arm().
  void mappings_under(Range range, std::vector<Mapping>& out) const;

  const bpf::Session& session() const { return slot_.session; }
  Arena& arena() const { return arena_; }
  Phase phase() const { return phase_; }
  uint32_t number() const { return number_; }
  bool seed() const { return layout_ == Layout::kSeed; }

  uint64_t triggers() const { return triggers_; }

  // Triggers once.
  void trigger(bool kernel_writer) const {
    triggers_++;
    bpf::trigger(slot_.session, phase_, number_, !kernel_writer);
  }

 private:
  void open_marker(bool walk);
  void walk();

  Arena& arena_;
  const Layout layout_;
  const Phase phase_;
  SessionSlot& slot_;
  uint32_t number_ = 0;
  mutable uint64_t triggers_ = 0;  // counted whatever becomes of the operation
  bool walked_ = false;
  std::vector<Mapping> all_;  // if walked_
};

// Programs are attached while an operation runs and for Settings::detach_after_ms after; see janitor.h.

}  // namespace ckpt
