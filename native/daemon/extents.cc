// extents.cc: see extents.h.
#include "extents.h"

#include "../error.h"

namespace ckpt {

static_assert(CKPT_OPS == 64, "one bit an extent");

uint32_t Extents::take() {
  if (in_use_ == ~uint64_t{0}) throw error(Code::kBusy, "%u operations are under way, the most there can be", CKPT_OPS);
  const auto extent = static_cast<uint32_t>(__builtin_ctzll(~in_use_));
  in_use_ |= uint64_t{1} << extent;
  return extent;
}

}  // namespace ckpt
