// engine.h: the public face of the C++ core: capture and restore of regions, dispose, settings, figures.
//
// Knows no JavaScript: the addon, and later the C library and the daemon, use the same functions. All state lives in the arena, shared
// by every thread of the process; callers hold a Handle. Everything throws ckpt::Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../bpf/session.h"
#include "../error.h"
#include "../memory/range.h"
#include "../settings.h"

namespace ckpt {

using bpf::Layout;
using bpf::Phase;

// Names a checkpoint. The generation is the checkpoint's id, which never repeats: a handle to a disposed checkpoint never names another.
struct Handle {
  uint32_t index;
  uint64_t generation;
};

// The piece just moved. Bytes and pages count what is moved, not the holes between (never-touched pages move nothing).
struct Progress {
  Phase phase;
  uint64_t page;     // 0-based: of the last page moved, in the order of the plan
  uint64_t address;  // of the first byte of the last piece moved
  uint64_t done_pages, total_pages;
  uint64_t done_bytes, total_bytes;
};

// Called after each trigger, on the calling thread, with no lock held. Throwing aborts the operation.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void progress(const Progress& progress) = 0;
  // Called after progress(), before anything within `span` is moved: the place to look whether the memory is still there.
  virtual void about_to_move(Range span) = 0;
};

enum class Writer : uint32_t { kAuto, kKernel, kUser };

struct Options {
  Layout layout = Layout::kFast;   // of a capture; a restore follows its image
  uint32_t pages_per_trigger = 0;  // 0: as many as one trigger may move; the seed layout always moves one
  Writer writer = Writer::kAuto;   // of a restore
  Observer* observer = nullptr;    // may be null
};

// What is known of a checkpoint, and what its making cost.
struct Info {
  uint64_t id;  // 1, 2, ...; never repeats in this process
  Layout layout;
  uint64_t bytes;     // of the regions, holes included
  uint64_t pages;     // stored
  uint64_t stored;    // bytes in the page store, holes excluded
  uint32_t mappings;  // VMAs the regions touch
  uint32_t runs;
  bool poisoned;      // a restore of it broke off: the regions are half restored
  uint64_t restores;  // completed
  uint64_t capture_ns;
  uint64_t triggers;  // of the capture
  uint64_t retries;   // pieces that had to be faulted in first
};

struct RestoreInfo {
  Writer writer;  // the one used: kKernel or kUser
  uint64_t bytes, pages, restore_ns, triggers, retries;
};

struct Stats {
  uint32_t checkpoints;        // alive in the process
  uint32_t operations;         // under way
  uint32_t segments;           // inner maps in data_map
  bool attached;               // any of our programs is attached
  uint64_t live_bytes;         // of page stores that images hold
  uint64_t pooled_bytes;       // free in segments kept for the next image
  uint64_t outer_map_updates;  // updates and deletions of data_map entries so far
  uint64_t triggers;           // so far
};

// Takes the arena, or throws kSecondCopy naming the file of the copy that has it. Called once for each thread's environment; returns the
// owner number to pass below.
uint64_t open_owner();
// Disposes of all that an owner still has.
void close_owner(uint64_t owner) noexcept;

// Checkpoints the bytes of `regions` (overlaps are fine). Whole or absent: if it throws, nothing of it remains.
Handle capture(uint64_t owner, const std::vector<Range>& regions, const Options& options);

// Puts every byte back. `regions` are the same objects as they stand now, in the order of the capture: a moved or shrunk one is refused
// before anything changes; bytes that one has grown by since are zeroed. If it throws after the first byte changed, the target is
// poisoned: it says so, and may be restored again.
RestoreInfo restore(uint64_t owner, Handle handle, const std::vector<Range>& regions, const Options& options);

// Gives the page store back to the pool. kUnknown, kDisposed; kReentrant while a restore of it is under way.
void dispose(uint64_t owner, Handle handle);
// For finalisers: only enqueues; never throws.
void discard(uint64_t owner, Handle handle) noexcept;

Info info(uint64_t owner, Handle handle);
// True if the checkpoint is alive.
bool alive(uint64_t owner, Handle handle) noexcept;

Settings settings();
void configure(const Settings& settings);
// Frees what the pool holds and detaches the programs, if nothing is under way; returns when it is done. Slow (RCU grace periods).
void trim();
Stats stats();

}  // namespace ckpt
