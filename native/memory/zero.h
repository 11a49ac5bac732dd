// zero.h: makes bytes of this process zero, giving whole pages back where that does it.
#pragma once

#include <vector>

#include "mappings.h"

namespace ckpt {

// Zeroes `range`; `mappings` are the writable parts that lie under it. Whole pages of private anonymous memory are dropped and come back
// as zeros when they are touched; the rest is overwritten. Never-touched pages of locked memory stay untouched: they are looked for by
// `pagemap_fd`, with PAGEMAP_SCAN if `scan`.
void zero(Range range, const std::vector<Mapping>& mappings, int pagemap_fd, bool scan);

}  // namespace ckpt
