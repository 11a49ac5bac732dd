// extents.h: which extents of copy_map are in use.
#pragma once

#include <cstdint>

#include "../bpf/session.h"

namespace ckpt {

class Extents {
 public:
  // Throws kBusy if all are in use.
  uint32_t take();
  bool any() const { return in_use_ != ~uint64_t{0}; }
  void give(uint32_t extent) { in_use_ &= ~(uint64_t{1} << extent); }

 private:
  uint64_t in_use_ = 0;
};

}  // namespace ckpt
