// mappings.h: the VMAs under a range, from whichever source this kernel has.
#pragma once

#include <linux/types.h>

#include <cstdint>
#include <vector>

#include "range.h"

extern "C" {
#include "../../bpf/abi.h"
}

namespace ckpt {

struct Mapping {
  uint64_t start, end;
  bool read, write, execute;
  bool shared;
  bool anonymous;  // private, with no file behind it: a page that was never touched reads as zeros

  Range range() const { return {start, end}; }
  int protection() const;  // PROT_...
};

// Appends the parts of mappings that lie in `range`, by PROCMAP_QUERY (6.11) on an open /proc/PID/maps. Throws kInternal.
void query_mappings(int maps_fd, Range range, std::vector<Mapping>& out);

// All mappings of this process, from /proc/self/maps. Throws kInternal.
std::vector<Mapping> read_mappings();

// All mappings of this process, from what a BPF walk recorded.
std::vector<Mapping> walked_mappings(const std::vector<ckpt_mapping>& walked);

// Appends the parts of `all` (sorted by address) that lie in `range`.
void clip_mappings(const std::vector<Mapping>& all, Range range, std::vector<Mapping>& out);

}  // namespace ckpt
