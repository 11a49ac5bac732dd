// fast.cc: the fast layout: batches of pieces in copy_map, moved between the process and mapped segments.
#include <algorithm>
#include <cstring>
#include <vector>

#include "../memory/copy.h"
#include "cutter.h"
#include "mover.h"

namespace ckpt {

namespace {

// The queue of one operation, filled batch after batch. Only this thread triggers it.
class Queue {
 public:
  explicit Queue(const Job& job)
      : job_(job),
        header_(bpf::queue_of(job.operation.session(), job.operation.number())),
        pieces_(bpf::pieces_of(job.operation.session(), job.operation.number())),
        pages_per_trigger_(job.pages_per_trigger == 0 ? kPiecePagesMax : job.pages_per_trigger) {}

  void run() {
    Cutter cutter(job_.runs, job_.run_count, std::min(pages_per_trigger_, kPiecePagesMax));
    for (;;) {
      uint32_t count = 0;
      while (count < CKPT_PIECES && cutter.next(pieces_[count])) count++;
      if (count == 0) return;
      drain(count);
    }
  }

 private:
  // Moves a batch; pieces whose memory was not there are touched and make the next, smaller batch.
  void drain(uint32_t count) {
    for (int tries = 0; count > 0; tries++) {
      move_batch(count);
      count = keep_faulted(count);
      for (uint32_t i = 0; i < count; i++) {
        if (tries == kTouchLimit)
          throw error_at(job_.operation.phase() == Phase::kStore ? Code::kUnreadable : Code::kUnwritable, pieces_[i].addr,
                         "The %u bytes at 0x%llx cannot be reached, though they were touched %d times (the helper returned %d)",
                         pieces_[i].length, static_cast<unsigned long long>(pieces_[i].addr), kTouchLimit, pieces_[i].error);
        touch(job_, range_of(pieces_[i]));
        pieces_[i].state = CKPT_PIECE_NEW;
      }
    }
  }

  void move_batch(uint32_t count) {
    header_->next = header_->done = header_->failed = 0;
    header_->count = count;
    int stalled = 0;
    for (uint32_t seen = 0; seen < count;) {
      header_->budget = budget(seen, count);
      job_.meter.about_to_move({pieces_[seen].addr, range_of(pieces_[seen + header_->budget - 1]).end});
      job_.operation.trigger(job_.kernel_writer);
      const uint32_t done = __atomic_load_n(&header_->done, __ATOMIC_ACQUIRE);
      if (done == seen) {
        if (++stalled == kStallLimit) throw_no_progress(pieces_[seen].addr);
        continue;
      }
      stalled = 0;
      for (; seen < done; seen++) finish(pieces_[seen]);
      job_.meter.report();
    }
  }

  // How many pieces the next trigger claims: as many as have no more pages together than it may move, and at least one.
  uint32_t budget(uint32_t first, uint32_t count) const {
    const uint32_t most = std::min<uint32_t>(count - first, CKPT_BUDGET_MAX);
    uint64_t pages = range_of(pieces_[first]).pages();
    uint32_t pieces = 1;
    while (pieces < most && (pages += range_of(pieces_[first + pieces]).pages()) <= pages_per_trigger_) pieces++;
    return pieces;
  }

  void finish(const ckpt_piece& piece) {
    switch (piece.state) {
      case CKPT_PIECE_YOURS:
        write_back(piece);
        [[fallthrough]];
      case CKPT_PIECE_DONE:
        job_.meter.moved(range_of(piece));
        break;
      case CKPT_PIECE_FAULT:
        break;
      default:
        throw refused(piece);
    }
  }

  void write_back(const ckpt_piece& piece) const {
    void* const to = reinterpret_cast<void*>(piece.addr);
    const char* const from = segment_window(piece.slot) + piece.offset;
    if (job_.meter.total_bytes() >= kStreamFrom) {
      stream_copy(to, from, piece.length);
    } else {
      memcpy(to, from, piece.length);
    }
  }

  uint32_t keep_faulted(uint32_t count) {
    if (header_->failed == 0) return 0;
    ckpt_piece* const end =
        std::remove_if(pieces_, pieces_ + count, [](const ckpt_piece& piece) { return piece.state != CKPT_PIECE_FAULT; });
    return static_cast<uint32_t>(end - pieces_);
  }

  const Job& job_;
  ckpt_queue* const header_;
  ckpt_piece* const pieces_;
  const uint32_t pages_per_trigger_;
};

}  // namespace

void move_fast(const Job& job) { Queue(job).run(); }

}  // namespace ckpt
