// transfer.cc: see transfer.h.
#include "transfer.h"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>

#include "../bpf/probe.h"
#include "../error.h"

namespace ckpt {

namespace {

// Who claims has to do it as the loaded program does: bpf/claim.h.
uint32_t claim(ckpt_queue& queue, uint32_t pieces) {
  if (bpf::features().fetch_and_add) return __atomic_fetch_add(&queue.next, pieces, __ATOMIC_SEQ_CST);
  while (__atomic_add_fetch(&queue.lock, 1, __ATOMIC_SEQ_CST) != 1) __atomic_fetch_sub(&queue.lock, 1, __ATOMIC_SEQ_CST);
  const uint32_t first = queue.next;
  __atomic_store_n(&queue.next, first + pieces, __ATOMIC_SEQ_CST);
  __atomic_fetch_sub(&queue.lock, 1, __ATOMIC_SEQ_CST);
  return first;
}

char* bytes_of(Arena& arena, const ckpt_piece& piece) {
  const std::lock_guard<Lock> mapping(arena.mapping);
  segment_map(piece.slot, arena.pool.segments[piece.slot], PROT_READ | PROT_WRITE);
  return const_cast<char*>(segment_window(piece.slot)) + piece.offset;
}

}  // namespace

Transfer::Transfer(Daemon& daemon, const Client& client, bpf::Phase phase, uint32_t extent, const std::vector<Run>& runs,
                   uint32_t pages_per_trigger, bool by_program)
    : daemon_(daemon),
      client_(client),
      phase_(phase),
      queue_(bpf::queue_of(daemon.session(), extent)),
      pieces_(bpf::pieces_of(daemon.session(), extent)),
      cutter_(runs.data(), runs.size(), pages_per_trigger == 0 ? kPiecePagesMax : std::min(pages_per_trigger, kPiecePagesMax)),
      pages_per_trigger_(pages_per_trigger),
      by_program_(by_program) {}

bool Transfer::next_batch() {
  uint64_t largest = 1;
  count_ = 0;
  while (count_ < CKPT_PIECES && cutter_.next(pieces_[count_])) largest = std::max(largest, range_of(pieces_[count_++]).pages());
  // A trigger copies with preemption off, so it gets no more pages than the largest piece may have. What it only claims costs it nothing.
  const uint64_t most = pages_per_trigger_ != 0 ? pages_per_trigger_ : by_program_ ? kPiecePagesMax : uint64_t{CKPT_BUDGET_MAX} * largest;
  budget_ = static_cast<uint32_t>(std::clamp<uint64_t>(most / largest, 1, CKPT_BUDGET_MAX));
  finished_ = 0;
  moved_.reset();

  *queue_ = {0, count_, budget_, 0, 0, 0, 0, CKPT_QUEUE_OPEN};
  return count_ > 0;
}

bool Transfer::claimed_any() const { return __atomic_load_n(&queue_->next, __ATOMIC_ACQUIRE) > 0; }

bool Transfer::settle() {
  // Acquire: whoever sees the count sees what the triggers wrote. While one of them is still at it, its event is to come.
  const uint32_t done = __atomic_load_n(&queue_->done, __ATOMIC_ACQUIRE);
  if (done < std::min(__atomic_load_n(&queue_->next, __ATOMIC_ACQUIRE), count_)) return false;
  for (uint32_t i = 0; i < count_ && finished_ < done; i++)
    if (!moved_[i] && __atomic_load_n(&pieces_[i].state, __ATOMIC_ACQUIRE) != CKPT_PIECE_NEW) finish(i);
  return finished_ == count_;
}

void Transfer::claim_rest() {
  const uint32_t first = claim(*queue_, count_);
  if (first >= count_) return;
  for (uint32_t i = first; i < count_; i++) pieces_[i].state = CKPT_PIECE_YOURS;
  __atomic_fetch_add(&queue_->done, count_ - first, __ATOMIC_SEQ_CST);
}

void Transfer::finish(uint32_t index) {
  const ckpt_piece& piece = pieces_[index];
  switch (piece.state) {
    case CKPT_PIECE_YOURS:
    case CKPT_PIECE_FAULT:
      move_here(piece);
      break;
    case CKPT_PIECE_DONE:
      break;
    default:
      throw refused(piece);
  }
  moved_[index] = true;
  finished_++;
  const Range range = range_of(piece);
  pages_ += range.pages();
  bytes_ += range.bytes();
  daemon_.pages_moved += range.pages();
}

void Transfer::move_here(const ckpt_piece& piece) {
  char* const bytes = bytes_of(daemon_.arena, piece);
  if (phase_ == bpf::Phase::kStore) {
    client_.target.read(range_of(piece), bytes);
  } else {
    client_.target.write(range_of(piece), bytes);
  }
}

}  // namespace ckpt
