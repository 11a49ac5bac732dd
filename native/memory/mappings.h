// mappings.h: the VMAs under a range, from whichever source this kernel has.
#pragma once

#include <linux/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
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

// A VMA with what /proc/PID/maps says of its file.
struct NamedMapping : Mapping {
  uint64_t offset;   // of `start`: bytes into the file
  uint64_t device;   // makedev()
  uint64_t inode;    // 0: none
  std::string name;  // "[heap]", "[stack]", a path, or empty
  Range vma;         // the whole VMA, where this is only a part of it

  // What lies in `part`.
  NamedMapping cut(Range part) const;
};

// A line of /proc/PID/maps. `mapping` has no name: that is `name`, valid during the call only.
using TakeMapping = std::function<void(const NamedMapping& mapping, std::string_view name)>;

// Hands over all mappings of an open /proc/PID/maps, in order of address: none if the address space is gone. Throws kInternal.
void scan_maps(int maps_fd, const TakeMapping& take);

// Appends the parts of mappings that lie in `range`, by PROCMAP_QUERY (6.11) on an open /proc/PID/maps. Throws kInternal.
void query_mappings(int maps_fd, Range range, std::vector<Mapping>& out);

// All mappings of this process, from /proc/self/maps. Throws kInternal.
std::vector<Mapping> read_mappings();

// All mappings of this process, from what a BPF walk recorded.
std::vector<Mapping> walked_mappings(const std::vector<ckpt_mapping>& walked);

// Appends the parts of `all` (sorted by address) that lie in `range`.
void clip_mappings(const std::vector<Mapping>& all, Range range, std::vector<Mapping>& out);

}  // namespace ckpt
