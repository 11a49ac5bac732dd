// plan.h: which bytes an operation moves: regions into runs, runs into places in a page store.
#pragma once

#include <vector>

#include "../image/image.h"
#include "operation.h"

namespace ckpt {

struct CapturePlan {
  std::vector<Range> runs;  // sorted, disjoint: the parts of the regions that hold data
  uint64_t pages;           // pages the runs touch
  uint64_t stored;          // bytes of the runs
  uint32_t mappings;        // VMAs under the regions
};

// Sorted, overlaps and neighbours merged, empty ones dropped.
std::vector<Range> merged(std::vector<Range> ranges);

// The parts of `ranges` that `others` do not cover; both merged.
std::vector<Range> subtract(const std::vector<Range>& ranges, const std::vector<Range>& others);

// The runs of `regions` (merged). Whole pages of private anonymous memory that were never touched are left out; everything else is taken,
// to the byte. Throws kUnmapped.
CapturePlan plan_capture(const Operation& operation, const std::vector<Range>& regions);

// Gives each run its place: the extents are filled in order, a run is cut where its extent ends.
std::vector<Run> place(const std::vector<Range>& runs, const std::vector<Extent>& extents);
// The same without a page store (seed layout): the address is the place.
std::vector<Run> unplaced(const std::vector<Range>& runs);

// The parts of `regions` (merged) that no run covers: they were never touched at the time of the checkpoint.
std::vector<Range> holes(const std::vector<Range>& regions, const Run* runs, size_t count);

// Throws kUnmapped if `mappings`, the parts under `range`, leave any of it out.
void require_mapped(Range range, const std::vector<Mapping>& mappings);

}  // namespace ckpt
