// zero.cc: see zero.h.
#include "zero.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace ckpt {

namespace {

void clear(Range range) {
  if (!range.empty()) memset(reinterpret_cast<void*>(range.start), 0, range.bytes());
}

}  // namespace

void zero(Range range, const std::vector<Mapping>& mappings) {
  for (const Mapping& mapping : mappings) {
    const Range part{std::max(mapping.start, range.start), std::min(mapping.end, range.end)};
    const Range whole{page_up(part.start), page_down(part.end)};
    // Locked pages refuse to be dropped.
    if (!mapping.anonymous || whole.empty() || madvise(reinterpret_cast<void*>(whole.start), whole.bytes(), MADV_DONTNEED) != 0) {
      clear(part);
      continue;
    }
    clear({part.start, whole.start});
    clear({whole.end, part.end});
  }
}

}  // namespace ckpt
