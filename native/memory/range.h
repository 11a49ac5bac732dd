// range.h: a contiguous range of bytes in a process.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ckpt {

constexpr uint64_t kPage = 4096;

constexpr uint64_t page_down(uint64_t address) { return address & ~(kPage - 1); }
constexpr uint64_t page_up(uint64_t address) { return page_down(address + kPage - 1); }

struct Range {
  uint64_t start;
  uint64_t end;  // exclusive

  uint64_t bytes() const { return end - start; }
  bool empty() const { return start >= end; }
  // Pages the range touches, whole or in part.
  uint64_t pages() const { return empty() ? 0 : (page_up(end) - page_down(start)) / kPage; }
};

}  // namespace ckpt
