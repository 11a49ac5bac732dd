// copy.h: copies of many pages that do not wait for the cache.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ckpt {

// From here on a restore streams: what it writes would not stay in a core's cache anyway.
constexpr uint64_t kStreamFrom = 8 << 20;

// Copies like memcpy, past the cache: a store to memory that is overwritten whole need not read it first. Meant for `to` and `from` at
// the same offset within a page; it is correct for any.
void stream_copy(void* to, const void* from, size_t bytes);

}  // namespace ckpt
