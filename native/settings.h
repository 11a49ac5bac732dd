// settings.h: what configure() sets, and the defaults.
#pragma once

#include <cstdint>

namespace ckpt {

struct Settings {
  uint64_t pool_bytes = uint64_t{1} << 30;  // the pool keeps at most this much free
  uint64_t max_bytes = 0;                   // ceiling of live bytes; 0: none
  uint32_t detach_after_ms = 1000;          // idle time after which the programs are detached
  uint32_t shrink_after_ms = 30000;         // idle time after which the pool is emptied
};

}  // namespace ckpt
