// copy.cc: see copy.h.
#include "copy.h"

#include <cstring>

#include "range.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace ckpt {

#if defined(__x86_64__)

namespace {

constexpr size_t kLine = 64;
// Four pages side by side keep as many DRAM rows open as the prefetcher and the write-combining buffers can follow: 11.5 GB/s where one
// page after another reaches 7.8 and memcpy of 1 MiB 7.1 (512 MiB on a 2-core virtual machine).
constexpr size_t kAbreast = 4;
constexpr size_t kBlock = kAbreast * kPage;

void stream_line(char* to, const char* from) {
  const auto* const source = reinterpret_cast<const __m128i*>(from);
  auto* const target = reinterpret_cast<__m128i*>(to);
  const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
  const __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
  _mm_stream_si128(target, a);
  _mm_stream_si128(target + 1, b);
  _mm_stream_si128(target + 2, c);
  _mm_stream_si128(target + 3, d);
}

void stream_block(char* to, const char* from) {
  for (size_t line = 0; line < kPage; line += kLine)
    for (size_t page = 0; page < kBlock; page += kPage) stream_line(to + page + line, from + page + line);
}

}  // namespace

void stream_copy(void* to, const void* from, size_t bytes) {
  auto* target = static_cast<char*>(to);
  const auto* source = static_cast<const char*>(from);
  const auto head = static_cast<size_t>(page_up(reinterpret_cast<uint64_t>(target)) - reinterpret_cast<uint64_t>(target));
  if (bytes >= head + kBlock) {
    memcpy(target, source, head);
    target += head, source += head, bytes -= head;
    for (; bytes >= kBlock; target += kBlock, source += kBlock, bytes -= kBlock) stream_block(target, source);
    _mm_sfence();  // streamed stores are ordered with no others until here
  }
  memcpy(target, source, bytes);
}

#else

void stream_copy(void* to, const void* from, size_t bytes) { memcpy(to, from, bytes); }

#endif

}  // namespace ckpt
