// arena.h: everything of ours that must outlive a rewind of the process, in one place at a fixed address.
//
// No image contains the arena and no restore touches it; it is plain data. Invariant: what `lock` guards is read and written under it;
// the others are taken
// first, never while `lock` is held and never two of them at once, and may be held across system calls that sleep.
#pragma once

#include <cstdint>

#include "../bpf/session.h"
#include "../image/image.h"
#include "../image/pool.h"
#include "../memory/windows.h"
#include "../settings.h"
#include "lock.h"

namespace ckpt {

constexpr uint32_t kImagesMax = 65536;  // checkpoints alive at once
constexpr uint32_t kNoImage = ~0u;

// One BPF session in use.
struct SessionSlot {
  Lock attaching;  // held while the session is loaded, attached or detached
  bpf::Session session;
  bool ready;            // loaded and attached; guarded by `lock`
  uint64_t busy;         // bit n: operation n is under way
  uint64_t last_use_ns;  // CLOCK_MONOTONIC
};

struct Arena {
  uint64_t magic;
  char library[4096];  // the file whose copy of this code owns the arena
  Lock lock;
  Lock sweeping;  // held while elements of a retired seed image are deleted
  Lock mapping;   // held while a segment is mapped

  Settings settings;
  uint64_t owners;  // given out so far
  uint64_t ids;     // of images, given out so far
  uint64_t triggers;
  SessionSlot sessions[2];  // by Layout
  int pagemap_fd, maps_fd;  // of this process

  uint64_t seed_pages, seed_retired_pages;  // elements in the seed session's data_map: of live images, and of retired ones
  uint32_t image_free;                      // head of the list of free table entries
  uint32_t image_used;                      // table entries ever used
  uint32_t discarded;                       // head of the list of images that finalisers gave up
  uint32_t retired;                         // head of the list of seed images whose elements are still in the kernel
  uint32_t live_images, poisoned_images;
  uint64_t last_dispose_ns;
  Image images[kImagesMax];
  Pool pool;

  uint32_t janitor_word;  // futex: changes when there is work
  bool janitor_running;
  bool janitor_idle;  // asleep without a deadline

  uint64_t heap_open;  // bytes of the heap that can be accessed
  uint64_t heap_taken[kHeapBytes / kPage / 64];
};

// The arena of this process. Throws kSecondCopy if another copy of this code has it, kForked in a child that has none.
Arena& arena();

// The same for paths that must not throw: null instead.
Arena* find_arena() noexcept;

// Where the shared memory of a session is mapped.
inline bpf::Windows session_windows(bpf::Layout layout) {
  char* const base = reinterpret_cast<char*>(kSessionWindows + static_cast<size_t>(layout) * kSessionWindowBytes);
  return {base, base + kSessionWindowBytes / 2};
}

// A block of the arena's heap, page-aligned, not cleared. Both take the lock to be held. Throws kNoRoom.
void* heap_take(Arena& arena, uint64_t bytes);
void heap_give(Arena& arena, void* block, uint64_t bytes);

}  // namespace ckpt
