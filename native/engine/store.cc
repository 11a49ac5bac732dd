// store.cc: see store.h.
#include "store.h"

#include <iterator>
#include <mutex>

#include "../memory/headroom.h"
#include "tables.h"

namespace ckpt {

namespace {

// Makes one segment for a store that lacks `missing` pages. The slow part, an RCU grace period, runs without the lock.
void add_segment(Arena& arena, const bpf::Session& session, uint64_t missing) {
  uint32_t slot, pages;
  {
    const std::lock_guard<Lock> guard(arena.lock);
    pages = segment_size(arena.pool, missing);
    slot = pool_reserve(arena.pool);
  }
  try {
    segment_make(session, slot, arena.pool.segments[slot], pages);
  } catch (...) {
    const std::lock_guard<Lock> guard(arena.lock);
    pool_abandon(arena.pool, slot);
    throw;
  }
  const std::lock_guard<Lock> guard(arena.lock);
  pool_publish(arena.pool, slot);
}

// Throws kNoRoom if `pages` more would pass Settings::max_bytes. Under the lock.
void require_ceiling(const Arena& arena, uint64_t pages) {
  const uint64_t ceiling = arena.settings.max_bytes, live = live_bytes(arena), need = pages * kPage;
  if (ceiling == 0 || live + need <= ceiling) return;
  throw error(Code::kNoRoom, "The checkpoint needs %llu bytes; %llu are held by live checkpoints, and maxBytes is %llu",
              static_cast<unsigned long long>(need), static_cast<unsigned long long>(live), static_cast<unsigned long long>(ceiling));
}

// Elements of the seed layout cost about twice their bytes: each is a kmalloc of 8 KiB.
constexpr uint64_t kSeedElementBytes = 2 * kPage;

bool take_elements(Arena& arena, uint64_t pages) {
  const std::lock_guard<Lock> guard(arena.lock);
  retire_discarded(arena);
  require_ceiling(arena, pages);
  if (arena.seed_pages + arena.seed_retired_pages + pages > bpf::seed_capacity()) return false;
  arena.seed_pages += pages;
  return true;
}

// False if the kernel refuses: then some are left. Allocates nothing, as it runs when memory is short.
bool delete_elements(const bpf::Session& session, uint64_t image, const Run* runs, size_t count) noexcept {
  ckpt_page_key keys[512];
  size_t filled = 0;
  for (size_t i = 0; i < count; i++)
    for (uint64_t at = page_down(runs[i].addr); at < runs[i].range().end; at += kPage) {
      keys[filled++] = {image, at};
      if (filled < std::size(keys)) continue;
      if (!bpf::delete_pages(session, keys, filled)) return false;
      filled = 0;
    }
  return bpf::delete_pages(session, keys, filled);
}

}  // namespace

uint64_t live_bytes(const Arena& arena) { return (arena.pool.live_pages + arena.seed_pages) * kPage; }

PageStore::PageStore(Arena& arena, const bpf::Session& session, uint64_t pages) : arena_(arena) {
  for (;;) {
    uint64_t missing, shortage;
    {
      const std::lock_guard<Lock> guard(arena_.lock);
      retire_discarded(arena_);
      require_ceiling(arena_, pages);
      if (take(pages)) return;
      missing = pages - arena_.pool.free_pages;
      shortage = pool_shortage(arena_.pool, pages);
    }
    require_headroom(shortage);
    add_segment(arena_, session, missing);
  }
}

bool PageStore::take(uint64_t pages) {
  try {
    return pool_take(arena_.pool, pages, extents_);
  } catch (...) {
    pool_give(arena_.pool, extents_.data(), extents_.size());
    throw;
  }
}

PageStore::~PageStore() {
  if (kept_) return;
  const std::lock_guard<Lock> guard(arena_.lock);
  pool_give(arena_.pool, extents_.data(), extents_.size());
}

SeedStore::SeedStore(const Operation& operation, uint64_t image, const std::vector<Run>& runs, uint64_t pages)
    : operation_(operation), image_(image), runs_(runs), pages_(pages) {
  Arena& arena = operation.arena();
  require_headroom(pages * kSeedElementBytes);
  // Disposed images hold elements until they are swept: the janitor may be at it, or we are.
  for (bool swept = true; !take_elements(arena, pages); swept = sweep_seed_image(arena))
    if (!swept)
      throw error(Code::kNoRoom,
                  "The seed layout holds at most %u pages (%u MiB) in all here, and the checkpoint has %llu; use layout 'fast'",
                  bpf::seed_capacity(), bpf::seed_capacity() / 256, static_cast<unsigned long long>(pages));
}

SeedStore::~SeedStore() {
  if (kept_) return;
  // What cannot be deleted stays counted.
  if (!delete_elements(operation_.session(), image_, runs_.data(), runs_.size())) return;
  const std::lock_guard<Lock> guard(operation_.arena().lock);
  operation_.arena().seed_pages -= pages_;
}

bool sweep_seed_image(Arena& arena) {
  const bpf::Session& session = arena.sessions[static_cast<size_t>(Layout::kSeed)].session;
  const std::lock_guard<Lock> sweeping(arena.sweeping);
  Image* image;
  {
    const std::lock_guard<Lock> guard(arena.lock);
    if (arena.retired == kNoImage) return false;
    image = &arena.images[arena.retired];
    arena.retired = image->next;
  }
  const bool deleted = delete_elements(session, image->id, image->runs, image->run_count);
  const std::lock_guard<Lock> guard(arena.lock);
  if (deleted) {
    free_image(arena, *image);
  } else {
    image->next = arena.retired;
    arena.retired = static_cast<uint32_t>(image - arena.images);
  }
  return deleted;
}

}  // namespace ckpt
