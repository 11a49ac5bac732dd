// image.h: a checkpoint's metadata: its regions, its runs, and where their bytes lie in the page stores.
//
// Plain data in the arena; the arrays are one block of the arena's heap.
#pragma once

#include <cstdint>

#include "../bpf/session.h"
#include "../memory/range.h"

namespace ckpt {

// A contiguous range of the process and its place in a segment. Both start at the same offset within a page, so that a page of the
// process is a page of the store.
struct Run {
  uint64_t addr;
  uint32_t length;  // bytes
  uint32_t slot;
  uint32_t offset;  // bytes into the segment
  uint32_t pad;

  Range range() const { return {addr, addr + length}; }
};

// Pages of one segment.
struct Extent {
  uint32_t slot;
  uint32_t first;  // page of the segment
  uint32_t count;  // pages
};

struct Costs {
  uint64_t ns;
  uint64_t triggers;
  uint64_t retries;  // pieces that had to be faulted in first
};

enum class ImageState : uint32_t {
  kFree,       // the table entry is unused
  kLive,       // restorable
  kDiscarded,  // given up by a finaliser; still holds its page store
  kRetired,    // disposed; the janitor still has to take its elements out of the kernel
};

struct Image {
  uint64_t id;  // 1, 2, ...: also the generation of its handle
  ImageState state;
  bpf::Layout layout;
  uint64_t owner;
  uint32_t restoring;  // restores under way: it cannot be disposed
  bool poisoned;
  uint32_t next;  // in the list of free or of discarded table entries

  uint64_t bytes;   // of the regions, holes included
  uint64_t stored;  // bytes of the runs
  uint64_t pages;   // pages of the runs
  uint32_t mappings;
  uint64_t restores;
  Costs costs;

  Range* regions;  // as given, in that order
  uint32_t region_count;
  Run* runs;  // sorted by address
  uint32_t run_count;
  Extent* extents;
  uint32_t extent_count;
  void* block;  // of the arena's heap: holds the three arrays
  uint64_t block_bytes;
};

}  // namespace ckpt
