// cutter.h: cuts the runs of a plan into the pieces that triggers move.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../error.h"
#include "../image/image.h"

namespace ckpt {

constexpr uint32_t kPiecePagesMax = CKPT_PIECE_MAX / kPage;

inline Range range_of(const ckpt_piece& piece) { return {piece.addr, piece.addr + piece.length}; }

// The program calls a piece BAD, or says something that it cannot: a bug of ours.
inline Error refused(const ckpt_piece& piece) {
  return error_at(Code::kInternal, piece.addr, "Piece of %u bytes at 0x%llx, slot %u offset %u, was refused in state %u (%d)", piece.length,
                  static_cast<unsigned long long>(piece.addr), piece.slot, piece.offset, piece.state, piece.error);
}

// Cuts runs into pieces of at most `pages` pages that cross no element of a segment. Pages of the process and of the store coincide, so
// a piece ends on a page of both.
class Cutter {
 public:
  Cutter(const Run* runs, size_t count, uint32_t pages) : run_(runs), end_(runs + count), pages_(pages) {}

  bool next(ckpt_piece& piece) {
    if (run_ == end_) return false;
    const uint64_t at = run_->addr + done_;
    const uint32_t offset = run_->offset + done_;
    const uint64_t page_end = page_down(at) + pages_ * kPage;
    const uint32_t to_element = CKPT_VALUE - offset % CKPT_VALUE;
    const auto length = static_cast<uint32_t>(std::min({page_end - at, uint64_t{run_->length - done_}, uint64_t{to_element}}));
    piece = {at, run_->slot, offset, length, CKPT_PIECE_NEW, 0, 0};
    done_ += length;
    if (done_ == run_->length) run_++, done_ = 0;
    return true;
  }

 private:
  const Run* run_;
  const Run* end_;
  const uint32_t pages_;
  uint32_t done_ = 0;  // bytes of *run_ that are cut already
};

}  // namespace ckpt
