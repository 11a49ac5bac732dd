// pagemap.cc: see pagemap.h.
#include "pagemap.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "../error.h"

namespace ckpt {

namespace {

// linux/fs.h of 6.7: commit 52526ca7fdb9 ("fs/proc/task_mmu: implement IOCTL to get and optionally clear info about PTEs"). Debian 12 has
// older headers.
struct ScanArg {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct ScanRegion {
  uint64_t start, end, categories;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArg);
constexpr uint64_t kPageFile = 1 << 2, kPagePresent = 1 << 3, kPageSwapped = 1 << 4, kPagePfnZero = 1 << 5, kPageGuard = 1 << 8;

// Of an entry of /proc/PID/pagemap.
enum : uint64_t {
  kEntryPresent = uint64_t{1} << 63,
  kEntrySwapped = uint64_t{1} << 62,
  kEntryFile = uint64_t{1} << 61,  // or shared anonymous
  kEntryGuard = uint64_t{1} << 58,
};

void append(std::vector<Range>& out, size_t first, uint64_t start, uint64_t end) {
  if (out.size() > first && out.back().end == start) {
    out.back().end = end;
  } else {
    out.push_back({start, end});
  }
}

// Pages that are present or swapped out, without those of a category in `without`.
ScanArg scan_of(Range range, uint64_t without) {
  ScanArg arg{};
  arg.size = sizeof arg;
  arg.start = range.start;
  arg.end = range.end;
  arg.category_inverted = arg.category_mask = without;
  arg.category_anyof_mask = arg.return_mask = kPagePresent | kPageSwapped;
  return arg;
}

bool scan_succeeds(int fd, uint64_t without) {
  ScanArg arg = scan_of({0, kPage}, without);
  return ioctl(fd, kPagemapScan, &arg) >= 0;
}

void scan_pages(int fd, Range range, uint64_t without, std::vector<Range>& out) {
  const size_t first = out.size();
  ScanRegion regions[512];
  ScanArg arg = scan_of(range, without);
  arg.vec = reinterpret_cast<uint64_t>(regions);
  arg.vec_len = std::size(regions);
  while (arg.start < range.end) {
    const int count = ioctl(fd, kPagemapScan, &arg);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno == ESRCH) return;  // the address space is gone
      throw error_at(Code::kInternal, arg.start, "PAGEMAP_SCAN failed: %s", errno_text(errno).c_str());
    }
    for (int i = 0; i < count; i++) append(out, first, regions[i].start, regions[i].end);
    // With a full vector, 6.18 was seen to return a walk_end that lies before its last region.
    const uint64_t reached = count > 0 ? std::max<uint64_t>(arg.walk_end, regions[count - 1].end) : arg.walk_end;
    if (reached <= arg.start) throw error_at(Code::kInternal, arg.start, "PAGEMAP_SCAN does not advance");
    arg.start = reached;
  }
}

// Pages that are present or swapped out and whose entry has no bit of `without`. `gone_is_none`: an address space that is gone has no
// pages.
void read_pagemap(int fd, Range range, uint64_t without, bool gone_is_none, std::vector<Range>& out) {
  const size_t first = out.size();
  uint64_t entries[2048];
  for (uint64_t at = range.start; at < range.end;) {
    const uint64_t want = std::min<uint64_t>(std::size(entries), (range.end - at) / kPage);
    const ssize_t got = pread(fd, entries, want * sizeof *entries, static_cast<off_t>(at / kPage * sizeof *entries));
    if (got == 0 && gone_is_none) return;
    if (got < static_cast<ssize_t>(sizeof *entries))
      throw error_at(Code::kInternal, at, "Cannot read the pagemap of a process: %s", errno_text(got < 0 ? errno : EIO).c_str());
    for (uint64_t i = 0; i < static_cast<uint64_t>(got) / sizeof *entries; i++, at += kPage)
      if ((entries[i] & (kEntryPresent | kEntrySwapped)) != 0 && (entries[i] & without) == 0) append(out, first, at, at + kPage);
  }
}

}  // namespace

void populated_ranges(int pagemap_fd, bool scan, Range range, std::vector<Range>& out) {
  if (range.empty()) return;
  if (scan) {
    scan_pages(pagemap_fd, range, kPagePfnZero, out);
  } else {
    read_pagemap(pagemap_fd, range, 0, false, out);
  }
}

void own_ranges(int pagemap_fd, bool scan, bool file, Range range, std::vector<Range>& out) {
  if (range.empty()) return;
  if (scan) {
    static const uint64_t guard = scan_succeeds(pagemap_fd, kPageGuard) ? kPageGuard : 0;
    // Asking for FILE is not free: 8 ms per GB.
    scan_pages(pagemap_fd, range, kPagePfnZero | guard | (file ? kPageFile : 0), out);
  } else {
    read_pagemap(pagemap_fd, range, kEntryFile | kEntryGuard, true, out);
  }
}

bool can_scan_pages(int pagemap_fd) { return scan_succeeds(pagemap_fd, kPagePfnZero); }

}  // namespace ckpt
