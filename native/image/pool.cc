// pool.cc: see pool.h.
#include "pool.h"

#include <sys/mman.h>

#include <algorithm>

#include "../error.h"
#include "../memory/windows.h"
#include "bitmap.h"

namespace ckpt {

namespace {

// Small images come in numbers: the segment made for one of them has room for more, a quarter of what is live, within these bounds.
constexpr uint64_t kGrowLeast = (4u << 20) / kPage;
constexpr uint64_t kGrowMost = (64u << 20) / kPage;

PageBitmap bitmap_of(Pool& pool, uint32_t slot) { return PageBitmap(pool.taken[slot], pool.segments[slot].pages); }

void account_take(Pool& pool, Segment& segment, uint32_t pages) {
  segment.free_pages -= pages;
  pool.free_pages -= pages;
  pool.live_pages += pages;
}

// Before pages are taken: the push_back() that follows must not throw.
void make_room(std::vector<Extent>& extents) {
  if (extents.size() == extents.capacity()) extents.reserve(2 * extents.size() + 4);
}

// `extents` has room for one more.
bool take_whole(Pool& pool, uint32_t pages, std::vector<Extent>& extents) {
  for (uint32_t slot = 0; slot < pool.slots_used; slot++) {
    Segment& segment = pool.segments[slot];
    if (segment.state != SegmentState::kReady || segment.free_pages < pages) continue;
    if (segment.too_many != 0 && pages >= segment.too_many) continue;
    const PageSpan span = bitmap_of(pool, slot).take(pages, segment.hint);
    if (span.count == 0) {
      segment.too_many = pages;
      continue;
    }
    segment.hint = span.first + span.count;
    account_take(pool, segment, span.count);
    extents.push_back({slot, span.first, span.count});
    return true;
  }
  return false;
}

}  // namespace

bool pool_take(Pool& pool, uint64_t pages, std::vector<Extent>& extents) {
  if (pages == 0) return true;
  if (pool.free_pages < pages) return false;
  make_room(extents);
  if (pages <= kSegmentPagesMax && take_whole(pool, static_cast<uint32_t>(pages), extents)) return true;
  for (uint32_t slot = 0; slot < pool.slots_used && pages > 0; slot++) {
    Segment& segment = pool.segments[slot];
    if (segment.state != SegmentState::kReady) continue;
    for (uint32_t from = 0; pages > 0 && segment.free_pages > 0;) {
      make_room(extents);
      const PageSpan span = bitmap_of(pool, slot).take_some(from, static_cast<uint32_t>(std::min<uint64_t>(pages, segment.free_pages)));
      account_take(pool, segment, span.count);
      extents.push_back({slot, span.first, span.count});
      pages -= span.count;
      from = span.first + span.count;
    }
  }
  return true;
}

void pool_give(Pool& pool, const Extent* extents, size_t count) {
  for (size_t i = 0; i < count; i++) {
    Segment& segment = pool.segments[extents[i].slot];
    bitmap_of(pool, extents[i].slot).give({extents[i].first, extents[i].count});
    segment.free_pages += extents[i].count;
    segment.too_many = 0;
    segment.hint = extents[i].first;
    pool.free_pages += extents[i].count;
    pool.live_pages -= extents[i].count;
  }
}

uint32_t segment_size(const Pool& pool, uint64_t short_pages) {
  const uint64_t growth = short_pages >= kGrowMost ? 0 : std::clamp(pool.live_pages / 4, kGrowLeast, kGrowMost);
  const uint64_t pages = std::min<uint64_t>(std::max(short_pages, growth), kSegmentPagesMax);
  return static_cast<uint32_t>((pages + kPagesPerValue - 1) / kPagesPerValue * kPagesPerValue);
}

uint64_t pool_shortage(const Pool& pool, uint64_t pages) {
  if (pages <= pool.free_pages) return 0;
  uint64_t missing = pages - pool.free_pages, bytes = 0;
  while (missing > 0) {
    const uint32_t size = segment_size(pool, missing);
    bytes += size * kPage;
    missing -= std::min<uint64_t>(missing, size);
  }
  return bytes;
}

uint32_t pool_reserve(Pool& pool) {
  for (uint32_t slot = 0; slot < CKPT_SLOTS; slot++) {
    if (pool.segments[slot].state != SegmentState::kEmpty) continue;
    pool.segments[slot].state = SegmentState::kMaking;
    pool.slots_used = std::max(pool.slots_used, slot + 1);
    return slot;
  }
  throw error(Code::kNoRoom, "All %u segments of data_map are in use; dispose of checkpoints that are no longer needed", CKPT_SLOTS);
}

void segment_make(const bpf::Session& session, uint32_t slot, Segment& segment, uint32_t pages) {
  segment.fd = bpf::create_segment(pages / kPagesPerValue);
  try {
    bpf::set_slot(session, slot, segment.fd);
  } catch (...) {
    ::close(segment.fd);
    throw;
  }
  segment.pages = segment.free_pages = pages;
  segment.too_many = segment.hint = 0;
  segment.mapped = false;
}

void segment_free(const bpf::Session& session, uint32_t slot, Segment& segment) {
  bpf::clear_slot(session, slot);
  if (segment.mapped) unmap_window(segment_window(slot), segment.pages * kPage);
  ::close(segment.fd);
}

void pool_publish(Pool& pool, uint32_t slot) {
  pool.segments[slot].state = SegmentState::kReady;
  pool.free_pages += pool.segments[slot].free_pages;
  pool.outer_map_updates++;
}

void pool_abandon(Pool& pool, uint32_t slot) { pool.segments[slot].state = SegmentState::kEmpty; }

uint32_t pool_surplus(const Pool& pool, uint64_t keep) {
  if (pool.free_pages * kPage <= keep) return kNoSlot;
  const uint64_t excess = pool.free_pages - keep / kPage;
  // The smallest that covers the excess, or else the largest: what is left of the pool is as much as may be.
  uint32_t best = kNoSlot;
  for (uint32_t slot = 0; slot < pool.slots_used; slot++) {
    const Segment& segment = pool.segments[slot];
    if (segment.state != SegmentState::kReady || segment.free_pages != segment.pages) continue;
    const uint32_t pages = segment.pages, held = best == kNoSlot ? 0 : pool.segments[best].pages;
    if (held < excess ? pages > held : pages >= excess && pages < held) best = slot;
  }
  return best;
}

void pool_withdraw(Pool& pool, uint32_t slot) {
  pool.segments[slot].state = SegmentState::kMaking;
  pool.free_pages -= pool.segments[slot].pages;
  pool.outer_map_updates++;
}

bool segment_mapped(const Segment& segment) { return __atomic_load_n(&segment.mapped, __ATOMIC_ACQUIRE); }

void segment_map(uint32_t slot, Segment& segment, int protection) {
  if (segment_mapped(segment)) return;
  map_window(segment_window(slot), segment.pages * kPage, protection, segment.fd);
  __atomic_store_n(&segment.mapped, true, __ATOMIC_RELEASE);
}

const char* segment_window(uint32_t slot) { return reinterpret_cast<const char*>(kSegmentWindows + slot * kSegmentBytesMax); }

}  // namespace ckpt
