// pagemap.h: which pages of an anonymous range hold data.
#pragma once

#include <vector>

#include "range.h"

namespace ckpt {

// Appends the populated parts of `range` (page-aligned, private anonymous memory), sorted and merged: pages present or swapped out.
// Pages never touched, and the shared zero page where the kernel tells it apart (PAGEMAP_SCAN, 6.7), are left out: they are zeros.
// `scan` says whether the kernel has PAGEMAP_SCAN. Throws kInternal.
void populated_ranges(int pagemap_fd, bool scan, Range range, std::vector<Range>& out);

}  // namespace ckpt
