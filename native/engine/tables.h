// tables.h: the table of checkpoints in the arena. Every function takes the arena's lock to be held.
#pragma once

#include <vector>

#include "../rewind/arena.h"
#include "engine.h"

namespace ckpt {

// The live image a handle names. Throws kDisposed, or kUnknown for what never was or belongs to another thread.
Image& find_image(Arena& arena, uint64_t owner, Handle handle);

// What a new image holds; moved into the table by add_image().
struct ImageDraft {
  uint64_t id;
  Layout layout;
  uint64_t owner;
  uint64_t bytes, stored, pages;
  uint32_t mappings;
  Costs costs;
  const std::vector<Range>& regions;
  const std::vector<Run>& runs;
  const std::vector<Extent>& extents;
};
// Throws kNoRoom, with nothing changed.
Handle add_image(Arena& arena, const ImageDraft& draft);

// Takes an image out of use: its page store goes back to the pool. A seed image stays in the table, kRetired, until free_image().
void retire_image(Arena& arena, Image& image);
// What finalisers do: the image is out of use, and retired by the next retire_discarded().
void discard_image(Arena& arena, Image& image);
void retire_discarded(Arena& arena);
// Gives the table entry and its arrays back.
void free_image(Arena& arena, Image& image);

void poison(Arena& arena, Image& image);
// After `restored` (merged) came back whole: every poisoned image whose regions lie in it is clean.
void unpoison(Arena& arena, const std::vector<Range>& restored);
// Throws kPoisoned if a poisoned image's regions overlap any of `ranges` (merged).
void require_clean(Arena& arena, const std::vector<Range>& ranges);

}  // namespace ckpt
