// touch.h: faults pages of this process in, so that BPF helpers, which never do, can read or write them.
#pragma once

#include "range.h"

namespace ckpt {

// Makes every page of `range` present and readable, or throws kUnreadable naming the first address that cannot be read.
void touch_for_read(Range range, bool populate);

// Makes every page of `range` present and writable without changing a byte: a page that only reads, the zero page or one shared since
// fork(), fails a kernel write for ever. The mapping must allow writing. Throws kUnwritable naming the first address that fails.
// `populate`: the kernel has MADV_POPULATE_READ and MADV_POPULATE_WRITE (5.14).
void touch_for_write(Range range, bool populate);

}  // namespace ckpt
