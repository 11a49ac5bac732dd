// rollback.h: which memory of a client is rolled back, and which is left alone.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../memory/target.h"
#include "../memory/threads.h"

namespace ckpt {

// Which kinds of memory; the values are those of ebpf_ckpt.h (CKPT_PART_...).
enum Parts : uint32_t {
  kPartHeap = 1,        // [heap]
  kPartData = 2,        // private file mappings: .data, .bss beside it, RELRO, of program and libraries
  kPartAnonymous = 4,   // other private anonymous mappings: .bss, mmap(), large malloc()
  kPartShared = 8,      // shared anonymous memory that no other process maps
  kPartSharedAll = 16,  // ... and also where others do
  kPartsDefault = kPartHeap | kPartData | kPartAnonymous | kPartShared,
};

// What an image of a client covers.
struct Coverage {
  uint32_t parts;
  std::vector<NamedMapping>
      mappings;             // that are rolled back, cut to what is: without stacks, kept ranges, and what lies beyond a file's end. Sorted
  std::vector<Range> left;  // stacks and kept ranges, in whole pages. Sorted, merged
  std::vector<Thread> threads;  // sorted by tid
};

// Looks at the process: `parts` as above; `keep` are ranges that the protocol needs (the library's own page). For each thread the whole
// stack is left alone. Throws kUnreadable naming a thread whose stack cannot be told from memory that would be rolled back, or a mapping of
// huge pages; kUnmapped if the process has ended or runs another program, kCapability.
Coverage cover(const Target& target, uint32_t parts, const std::vector<Range>& keep);

// The runs to capture: own pages of private mappings, data of shared ones. Sorted by address, merged.
std::vector<Range> captured_runs(const Target& target, const Coverage& coverage);

// A step that brings the layout of the process's memory back to what it was.
struct LayoutChange {
  enum Kind {
    kMap,       // private anonymous memory that is no longer mapped
    kGrowHeap,  // [heap], from where it ends now to where it ended
    kProtect,
  } kind;
  Range range;
  int protection;  // PROT_..., that of then
  bool needed;     // false: without it the process may only do more with its memory than it might then
};

// What has to change before an image that covers `then` can be restored: nearly always nothing. What was mapped since is left alone. Throws
// what require_restorable() does, but not for what these changes put back.
std::vector<LayoutChange> layout_changes(const Target& target, const Coverage& then, const Coverage& now);

// Throws if a restore of an image that covers `then` is impossible now, naming what stands in the way: kUnmapped (memory is gone, or is
// other memory; the first address), kBusy (a thread was born or ended since; the tid), kUnreadable (a thread runs on memory that would be
// written; the tid).
void require_restorable(const Target& target, const Coverage& then, const Coverage& now);

// What a restore leaves alone though `then` covers it: shared memory that other processes have come to map, unless kPartSharedAll is among
// the parts. Sorted, merged.
std::vector<Range> shared_since(const Coverage& then, const Coverage& now);

// What a restore has to do beside writing the image's runs: pages that are the process's own now, or hold data now, and were not at the
// checkpoint. Those of private file mappings get the file's bytes again, all others zeros. By what [heap] has grown it is zeros too: the C
// library's own record of its end is rolled back, and it takes what lies beyond for fresh.
struct Reset {
  Range range;
  std::shared_ptr<const NamedMapping> file;  // the private file mapping it lies in now, null: zeros
};
std::vector<Reset> resets(const Target& target, const Coverage& then, const std::vector<Range>& runs);

}  // namespace ckpt
