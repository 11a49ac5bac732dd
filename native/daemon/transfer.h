// transfer.h: moves runs of one client, batch by batch: lays their pieces in copy_map, and moves itself what no program could.
#pragma once

#include <bitset>

#include "../engine/cutter.h"
#include "daemon.h"

namespace ckpt {

class Transfer {
 public:
  // `extent` of copy_map is the caller's. `runs` must outlive this. `by_program`: the program moves what it can; else the daemon moves all
  // that triggers claim.
  Transfer(Daemon& daemon, const Client& client, bpf::Phase phase, uint32_t extent, const std::vector<Run>& runs,
           uint32_t pages_per_trigger, bool by_program);

  // Lays the next batch, while the extent is lent to nobody. False if there is nothing left.
  bool next_batch();
  // Triggers that move the whole batch, if none is skipped.
  uint32_t triggers() const { return (count_ + budget_ - 1) / budget_; }

  // Sees to the pieces that triggers are through with. True if the batch is moved. Throws kUnreadable, kUnwritable, kUnmapped, kInternal.
  bool settle();
  // Takes over what no trigger has claimed yet: the client looks too rarely, or is held.
  void claim_rest();

  bool claimed_any() const;
  uint64_t pages() const { return pages_; }  // moved so far
  uint64_t bytes() const { return bytes_; }

 private:
  void finish(uint32_t index);
  void move_here(const ckpt_piece& piece);

  Daemon& daemon_;
  const Client& client_;
  const bpf::Phase phase_;
  ckpt_queue* const queue_;
  ckpt_piece* const pieces_;
  Cutter cutter_;
  const uint32_t pages_per_trigger_;
  const bool by_program_;
  uint32_t count_ = 0, budget_ = 1;
  uint32_t finished_ = 0;  // pieces of the batch that are moved
  std::bitset<CKPT_PIECES> moved_;
  uint64_t pages_ = 0, bytes_ = 0;
};

}  // namespace ckpt
