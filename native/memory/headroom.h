// headroom.h: how many more bytes this process may take before its cgroup or the machine runs out.
#pragma once

#include <cstdint>
#include <string>

namespace ckpt {

struct Headroom {
  uint64_t bytes;
  std::string limit;  // what ends there: "cgroup /sys/fs/cgroup/app.slice (memory.max 512 MiB)", "the machine's free memory"
};

// The tightest of memory.max (and memory.limit_in_bytes) of every cgroup this process is in, up to the root, and MemAvailable.
// Page cache counts as free. 50-100 us.
Headroom memory_headroom();

// Throws kNoRoom if `need` bytes are more than there is room for.
void require_headroom(uint64_t need);

}  // namespace ckpt
