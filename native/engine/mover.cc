// mover.cc: see mover.h. What both layouts share.
#include "mover.h"

#include "../bpf/probe.h"
#include "../memory/touch.h"

namespace ckpt {

void move(const Job& job) {
  if (job.run_count == 0) return;
  if (job.operation.seed()) {
    move_seed(job);
  } else {
    move_fast(job);
  }
  if (!job.meter.complete()) throw error(Code::kInternal, "The plan ended before its last byte was moved");
}

void touch(const Job& job, Range piece) {
  job.meter.retried();
  if (job.operation.phase() == Phase::kStore) {
    touch_for_read(piece, bpf::features().populate);
  } else {
    touch_for_write(piece, bpf::features().populate);
  }
}

void throw_no_progress(uint64_t address) {
  throw error_at(Code::kNoProgress, address,
                 "%d access() calls moved nothing at 0x%llx; was the program on sys_enter_access detached, or are system calls of this "
                 "process filtered?",
                 kStallLimit, static_cast<unsigned long long>(address));
}

}  // namespace ckpt
