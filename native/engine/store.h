// store.h: the page store of one image being made: pages of segments, given back unless kept.
#pragma once

#include <vector>

#include "operation.h"

namespace ckpt {

class PageStore {
 public:
  // Takes `pages` from the pool, making segments of the session's data_map where it has too few. Throws kNoRoom before anything is made.
  PageStore(Arena& arena, const bpf::Session& session, uint64_t pages);
  ~PageStore();
  PageStore(const PageStore&) = delete;
  PageStore& operator=(const PageStore&) = delete;

  const std::vector<Extent>& extents() const { return extents_; }
  // From here on an image owns the pages.
  void keep() { kept_ = true; }

 private:
  bool take(uint64_t pages);

  Arena& arena_;
  std::vector<Extent> extents_;
  bool kept_ = false;
};

// The elements of one image of the seed layout: deleted again unless kept.
class SeedStore {
 public:
  // Reserves room for `pages` elements. Throws kNoRoom before anything is made.
  SeedStore(const Operation& operation, uint64_t image, const std::vector<Run>& runs, uint64_t pages);
  ~SeedStore();
  SeedStore(const SeedStore&) = delete;
  SeedStore& operator=(const SeedStore&) = delete;

  void keep() { kept_ = true; }

 private:
  const Operation& operation_;
  const uint64_t image_;
  const std::vector<Run>& runs_;
  const uint64_t pages_;
  bool kept_ = false;
};

// Deletes the elements of a retired image and frees its table entry, one image a call, without the lock meanwhile. False if there is
// none, or the kernel refuses.
bool sweep_seed_image(Arena& arena);

// The bytes that images hold, both layouts.
uint64_t live_bytes(const Arena& arena);

}  // namespace ckpt
