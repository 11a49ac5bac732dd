// pool.h: the segments of data_map that page stores are cut from, and which of their pages are free.
//
// Plain data in the arena, under its lock; whoever calls holds it unless a function says otherwise.
#pragma once

#include <cstdint>
#include <vector>

#include "../bpf/session.h"
#include "image.h"

namespace ckpt {

constexpr uint32_t kPagesPerValue = CKPT_VALUE / kPage;
constexpr uint32_t kSegmentPagesMax = CKPT_SEGMENT_VALUES * kPagesPerValue;
constexpr uint64_t kSegmentBytesMax = uint64_t{kSegmentPagesMax} * kPage;

enum class SegmentState : uint32_t {
  kEmpty,   // the slot is free
  kMaking,  // being made or being freed, outside the lock
  kReady,
};

struct Segment {
  SegmentState state;
  uint32_t pages;
  uint32_t free_pages;
  uint32_t too_many;  // so many pages in a row were not to be had since pages last came back; 0: not known
  uint32_t hint;      // where the next search begins: pages came back or were last taken there
  int fd;
  bool mapped;  // at segment_window(slot), read-only
};

struct Pool {
  uint64_t live_pages;         // held by images
  uint64_t free_pages;         // in kReady segments
  uint64_t outer_map_updates;  // data_map entries set or cleared so far
  uint32_t slots_used;         // slots ever used: no search goes further
  Segment segments[CKPT_SLOTS];
  uint64_t taken[CKPT_SLOTS][kSegmentPagesMax / 64];  // a bit a page; only what a segment has is ever touched
};

constexpr uint32_t kNoSlot = CKPT_SLOTS;

// Takes `pages` from the segments that are there: in one piece if any has it, else in as few as first fit gives. False, and nothing
// taken, if they have too few. If it throws (no memory for `extents`), `extents` says what was taken.
bool pool_take(Pool& pool, uint64_t pages, std::vector<Extent>& extents);
void pool_give(Pool& pool, const Extent* extents, size_t count);

// Bytes of new segments that a store of `pages` would need.
uint64_t pool_shortage(const Pool& pool, uint64_t pages);

// Reserves a slot for a segment of `pages` or so; its state is kMaking. Throws kNoRoom if all slots are taken.
uint32_t pool_reserve(Pool& pool);
// Without the lock: makes the segment of a reserved slot and puts it into data_map. Throws kNoRoom, kInternal.
void segment_make(const bpf::Session& session, uint32_t slot, Segment& segment, uint32_t pages);
// Without the lock: takes it out of data_map and frees it. Throws kInternal, with nothing changed.
void segment_free(const bpf::Session& session, uint32_t slot, Segment& segment);
// A reserved slot becomes part of the pool, or free again.
void pool_publish(Pool& pool, uint32_t slot);
void pool_abandon(Pool& pool, uint32_t slot);

// A wholly free segment to free if the pool keeps more than `keep` bytes, kNoSlot if there is none.
uint32_t pool_surplus(const Pool& pool, uint64_t keep);
// Takes a wholly free segment out of the pool; its state is kMaking.
void pool_withdraw(Pool& pool, uint32_t slot);

// Whether a segment that an image holds pages of is mapped; needs no lock.
bool segment_mapped(const Segment& segment);
// Maps it, if it is not; one caller at a time. An image must hold pages of it, so that it is not freed meanwhile. 70 us per MiB: the page
// tables are filled at once.
// `protection`: PROT_READ, and PROT_WRITE for who moves bytes into it that no program could.
void segment_map(uint32_t slot, Segment& segment, int protection);

// Pages of the next segment, given that `short_pages` are missing: what is asked for if that is much, else room to grow.
uint32_t segment_size(const Pool& pool, uint64_t short_pages);

// Where a segment is mapped.
const char* segment_window(uint32_t slot);

}  // namespace ckpt
