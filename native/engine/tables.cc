// tables.cc: see tables.h.
#include "tables.h"

#include <algorithm>
#include <cstring>

namespace ckpt {

namespace {

unsigned long long number(uint64_t value) { return value; }

// The first of `ranges`, merged, that ends after `at`.
std::vector<Range>::const_iterator first_after(const std::vector<Range>& ranges, uint64_t at) {
  return std::upper_bound(ranges.begin(), ranges.end(), at, [](uint64_t value, const Range& range) { return value < range.end; });
}

// Whether all regions of an image lie in `ranges`, merged.
bool covers(const std::vector<Range>& ranges, const Image& image) {
  return std::all_of(image.regions, image.regions + image.region_count, [&](const Range& region) {
    const auto over = first_after(ranges, region.start);
    return region.empty() || (over != ranges.end() && over->start <= region.start && region.end <= over->end);
  });
}

template <typename F>
void for_each_poisoned(Arena& arena, F visit) {
  uint32_t left = arena.poisoned_images;
  for (uint32_t i = 0; i < arena.image_used && left > 0; i++) {
    Image& image = arena.images[i];
    if (image.state != ImageState::kLive || !image.poisoned) continue;
    left--;
    visit(image);
  }
}

template <typename T>
T* put(char*& at, const std::vector<T>& from) {
  T* const to = reinterpret_cast<T*>(at);
  if (!from.empty()) memcpy(at, from.data(), from.size() * sizeof(T));
  at += from.size() * sizeof(T);
  return to;
}

template <typename T>
uint64_t bytes_of(const std::vector<T>& items) {
  return items.size() * sizeof(T);
}

uint32_t take_entry(Arena& arena) {
  if (arena.image_free != kNoImage) {
    const uint32_t index = arena.image_free;
    arena.image_free = arena.images[index].next;
    return index;
  }
  if (arena.image_used == kImagesMax)
    throw error(Code::kNoRoom, "%u checkpoints are alive, the most there can be; dispose of those that are no longer needed", kImagesMax);
  return arena.image_used++;
}

}  // namespace

Image& find_image(Arena& arena, uint64_t owner, Handle handle) {
  if (handle.index < arena.image_used) {
    Image& image = arena.images[handle.index];
    if (image.state == ImageState::kLive && image.id == handle.generation && image.owner == owner) return image;
    if (image.state == ImageState::kLive && image.id == handle.generation)
      throw error(Code::kUnknown, "Checkpoint %llu belongs to another thread: restore and dispose of it there", number(handle.generation));
  }
  if (handle.generation == 0 || handle.generation > arena.ids)
    throw error(Code::kUnknown, "There is no checkpoint %llu in this process", number(handle.generation));
  throw error(Code::kDisposed, "Checkpoint %llu has been disposed", number(handle.generation));
}

Handle add_image(Arena& arena, const ImageDraft& draft) {
  const uint64_t bytes = std::max<uint64_t>(bytes_of(draft.regions) + bytes_of(draft.runs) + bytes_of(draft.extents), 1);
  void* const block = heap_take(arena, bytes);
  uint32_t index;
  try {
    index = take_entry(arena);
  } catch (...) {
    heap_give(arena, block, bytes);
    throw;
  }
  Image image{};
  image.id = draft.id;
  image.state = ImageState::kLive;
  image.layout = draft.layout;
  image.owner = draft.owner;
  image.bytes = draft.bytes;
  image.stored = draft.stored;
  image.pages = draft.pages;
  image.mappings = draft.mappings;
  image.costs = draft.costs;
  image.block = block;
  image.block_bytes = bytes;
  char* at = static_cast<char*>(block);
  image.regions = put(at, draft.regions);
  image.region_count = static_cast<uint32_t>(draft.regions.size());
  image.runs = put(at, draft.runs);
  image.run_count = static_cast<uint32_t>(draft.runs.size());
  image.extents = put(at, draft.extents);
  image.extent_count = static_cast<uint32_t>(draft.extents.size());
  arena.images[index] = image;
  arena.live_images++;
  return {index, image.id};
}

void discard_image(Arena& arena, Image& image) {
  if (image.poisoned) arena.poisoned_images--;
  image.poisoned = false;
  image.state = ImageState::kDiscarded;
  image.next = arena.discarded;
  arena.discarded = static_cast<uint32_t>(&image - arena.images);
}

void retire_discarded(Arena& arena) {
  while (arena.discarded != kNoImage) {
    Image& image = arena.images[arena.discarded];
    arena.discarded = image.next;
    retire_image(arena, image);
  }
}

void retire_image(Arena& arena, Image& image) {
  if (image.poisoned) arena.poisoned_images--;
  image.poisoned = false;
  arena.live_images--;
  pool_give(arena.pool, image.extents, image.extent_count);
  if (image.layout == Layout::kSeed) {
    image.state = ImageState::kRetired;
    image.next = arena.retired;
    arena.retired = static_cast<uint32_t>(&image - arena.images);
    arena.seed_pages -= image.pages;
    arena.seed_retired_pages += image.pages;
  } else {
    free_image(arena, image);
  }
}

void free_image(Arena& arena, Image& image) {
  if (image.state == ImageState::kRetired) arena.seed_retired_pages -= image.pages;
  heap_give(arena, image.block, image.block_bytes);
  const auto index = static_cast<uint32_t>(&image - arena.images);
  image = Image{};
  image.next = arena.image_free;
  arena.image_free = index;
}

void poison(Arena& arena, Image& image) {
  if (!image.poisoned) arena.poisoned_images++;
  image.poisoned = true;
}

void unpoison(Arena& arena, const std::vector<Range>& restored) {
  for_each_poisoned(arena, [&](Image& image) {
    if (!covers(restored, image)) return;
    image.poisoned = false;
    arena.poisoned_images--;
  });
}

void require_clean(Arena& arena, const std::vector<Range>& ranges) {
  for_each_poisoned(arena, [&](const Image& image) {
    for (uint32_t i = 0; i < image.region_count; i++) {
      const Range& region = image.regions[i];
      const auto near = first_after(ranges, region.start);
      if (region.empty() || near == ranges.end() || near->start >= region.end) continue;
      throw error_at(Code::kPoisoned, region.start,
                     "The bytes at 0x%llx are half restored since a restore of checkpoint %llu broke off: restore it, or another "
                     "checkpoint of the same regions, before taking a new one",
                     number(region.start), number(image.id));
    }
  });
}

}  // namespace ckpt
