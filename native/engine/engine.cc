// engine.cc: owners, handles, settings and figures; capture() and restore() have files of their own.
#include "engine.h"

#include <mutex>

#include "../rewind/arena.h"
#include "clock.h"
#include "janitor.h"
#include "store.h"
#include "tables.h"

namespace ckpt {

namespace {

// After pages went back to the pool: whether the janitor has to hear of it. Under the lock.
bool janitor_needed(Arena& a) {
  a.last_dispose_ns = now_ns();
  return a.janitor_idle || a.retired != kNoImage || pool_surplus(a.pool, a.settings.pool_bytes) != kNoSlot;
}

}  // namespace

uint64_t open_owner() {
  Arena& a = arena();
  const std::lock_guard<Lock> guard(a.lock);
  return ++a.owners;
}

void close_owner(uint64_t owner) noexcept {
  Arena* const ours = find_arena();
  if (ours == nullptr) return;
  Arena& a = *ours;
  bool wake;
  {
    const std::lock_guard<Lock> guard(a.lock);
    for (uint32_t i = 0; i < a.image_used; i++)
      if (a.images[i].state == ImageState::kLive && a.images[i].owner == owner) retire_image(a, a.images[i]);
    wake = janitor_needed(a);
  }
  if (wake) janitor_wake(a);
}

void dispose(uint64_t owner, Handle handle) {
  Arena& a = arena();
  bool wake;
  {
    const std::lock_guard<Lock> guard(a.lock);
    Image& image = find_image(a, owner, handle);
    if (image.restoring > 0)
      throw error(Code::kReentrant, "Checkpoint %llu is being restored; dispose of it after that",
                  static_cast<unsigned long long>(image.id));
    retire_image(a, image);
    wake = janitor_needed(a);
  }
  if (wake) janitor_wake(a);
}

void discard(uint64_t owner, Handle handle) noexcept {
  Arena* const ours = find_arena();
  if (ours == nullptr) return;
  Arena& a = *ours;
  {
    const std::lock_guard<Lock> guard(a.lock);
    if (handle.index >= a.image_used) return;
    Image& image = a.images[handle.index];
    if (image.state != ImageState::kLive || image.id != handle.generation || image.owner != owner || image.restoring > 0) return;
    discard_image(a, image);
  }
  janitor_wake(a);
}

Info info(uint64_t owner, Handle handle) {
  Arena& a = arena();
  const std::lock_guard<Lock> guard(a.lock);
  const Image& i = find_image(a, owner, handle);
  return {i.id,        i.layout,   i.bytes,    i.pages,    i.stored,         i.mappings,
          i.run_count, i.poisoned, i.restores, i.costs.ns, i.costs.triggers, i.costs.retries};
}

bool alive(uint64_t owner, Handle handle) noexcept {
  Arena* const ours = find_arena();
  if (ours == nullptr) return false;
  Arena& a = *ours;
  const std::lock_guard<Lock> guard(a.lock);
  if (handle.index >= a.image_used) return false;
  const Image& image = a.images[handle.index];
  return image.state == ImageState::kLive && image.id == handle.generation && image.owner == owner;
}

Settings settings() {
  Arena& a = arena();
  const std::lock_guard<Lock> guard(a.lock);
  return a.settings;
}

void configure(const Settings& settings) {
  Arena& a = arena();
  {
    const std::lock_guard<Lock> guard(a.lock);
    a.settings = settings;
  }
  janitor_wake(a);
}

void trim() {
  Arena& a = arena();
  {
    const std::lock_guard<Lock> guard(a.lock);
    retire_discarded(a);
  }
  while (sweep_seed_image(a)) continue;
  for (SessionSlot& slot : a.sessions) detach_if_unused(a, slot, now_ns());
  shrink_pool(a, 0);
}

Stats stats() {
  Arena& a = arena();
  const std::lock_guard<Lock> guard(a.lock);
  Stats s{};
  s.checkpoints = a.live_images;
  for (const SessionSlot& slot : a.sessions) {
    s.operations += static_cast<uint32_t>(__builtin_popcountll(slot.busy));
    s.attached = s.attached || slot.ready;
  }
  for (uint32_t slot = 0; slot < a.pool.slots_used; slot++) s.segments += a.pool.segments[slot].state != SegmentState::kEmpty;
  s.live_bytes = live_bytes(a);
  s.pooled_bytes = a.pool.free_pages * kPage;
  s.outer_map_updates = a.pool.outer_map_updates;
  s.triggers = a.triggers;
  return s;
}

}  // namespace ckpt
