// zero.cc: see zero.h.
#include "zero.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "pagemap.h"

// 9457056ac426 ("mm: madvise: MADV_DONTNEED_LOCKED"), 5.18. Debian 12's libc has no name for it.
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

namespace ckpt {

namespace {

void clear(Range range) {
  if (!range.empty()) memset(reinterpret_cast<void*>(range.start), 0, range.bytes());
}

bool dropped(Range whole) {
  void* const at = reinterpret_cast<void*>(whole.start);
  return madvise(at, whole.bytes(), MADV_DONTNEED) == 0 || madvise(at, whole.bytes(), MADV_DONTNEED_LOCKED) == 0;
}

}  // namespace

void zero(Range range, const std::vector<Mapping>& mappings, int pagemap_fd, bool scan) {
  for (const Mapping& mapping : mappings) {
    const Range part{std::max(mapping.start, range.start), std::min(mapping.end, range.end)};
    const Range whole{page_up(part.start), page_down(part.end)};
    if (!mapping.anonymous || whole.empty()) {
      clear(part);
      continue;
    }
    clear({part.start, whole.start});
    clear({whole.end, part.end});
    if (dropped(whole)) continue;
    std::vector<Range> populated;
    populated_ranges(pagemap_fd, scan, whole, populated);
    for (const Range& pages : populated) clear(pages);
  }
}

}  // namespace ckpt
