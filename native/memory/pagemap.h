// pagemap.h: which pages of a range hold data of the process.
#pragma once

#include <vector>

#include "range.h"

namespace ckpt {

// Appends the populated parts of `range` (page-aligned, private anonymous memory), sorted and merged: pages present or swapped out.
// Pages never touched, and the shared zero page where the kernel tells it apart (PAGEMAP_SCAN, 6.7), are left out: they are zeros.
// `scan` says whether the kernel has PAGEMAP_SCAN. Throws kInternal.
void populated_ranges(int pagemap_fd, bool scan, Range range, std::vector<Range>& out);

// The same of any private memory, of this or another process: only its own pages, which are anonymous. Pages of a file that it never
// wrote are left out if `file` says that there may be any, and so are guard pages (MADV_GUARD_INSTALL) where the kernel tells them apart:
// the scan from 6.16 on, the entries from 6.15 on. None if the address space is gone.
void own_ranges(int pagemap_fd, bool scan, bool file, Range range, std::vector<Range>& out);

// Whether the kernel has PAGEMAP_SCAN.
bool can_scan_pages(int pagemap_fd);

}  // namespace ckpt
