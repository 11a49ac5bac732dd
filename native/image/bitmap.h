// bitmap.h: which pages of an area are taken; first fit, one bit a page.
#pragma once

#include <cstdint>

namespace ckpt {

struct PageSpan {
  uint32_t first;
  uint32_t count;  // 0: none
};

// A view over words that belong to somebody else (the arena). A set bit is a taken page.
class PageBitmap {
 public:
  PageBitmap(uint64_t* words, uint32_t pages) : words_(words), pages_(pages) {}

  // Takes `want` pages in a row that are free, the first from `hint` on, or else the first of all. Count 0 if there are none.
  PageSpan take(uint32_t want, uint32_t hint = 0) {
    const PageSpan span = hint > 0 ? take_from(hint, want) : PageSpan{0, 0};
    return span.count != 0 ? span : take_from(0, want);
  }

  // Takes the first free pages there are from `from` on, at most `most`.
  PageSpan take_some(uint32_t from, uint32_t most) {
    const uint32_t at = next_free(from);
    if (at >= pages_) return {0, 0};
    const PageSpan span{at, next_taken(at, most) - at};
    fill(span, true);
    return span;
  }

  void give(PageSpan span) { fill(span, false); }

 private:
  PageSpan take_from(uint32_t from, uint32_t want) {
    for (uint32_t at = next_free(from); at < pages_;) {
      const uint32_t end = next_taken(at, want);
      if (end - at >= want) {
        fill({at, want}, true);
        return {at, want};
      }
      at = next_free(end);
    }
    return {0, 0};
  }

  // The first free page at or after `from`, `pages_` if there is none.
  uint32_t next_free(uint32_t from) const {
    for (uint32_t word = from / 64; word * 64 < pages_; word++) {
      uint64_t free = ~words_[word];
      if (word == from / 64) free &= ~0ull << (from % 64);
      if (free != 0) return clip(word * 64 + static_cast<uint32_t>(__builtin_ctzll(free)));
    }
    return pages_;
  }

  // The first taken page after `from`, looking no further than `most` pages.
  uint32_t next_taken(uint32_t from, uint32_t most) const {
    const uint32_t limit = most < pages_ - from ? from + most : pages_;
    for (uint32_t word = from / 64; word * 64 < limit; word++) {
      uint64_t taken = words_[word];
      if (word == from / 64) taken &= ~0ull << (from % 64);
      if (taken == 0) continue;
      const uint32_t at = word * 64 + static_cast<uint32_t>(__builtin_ctzll(taken));
      return at < limit ? at : limit;
    }
    return limit;
  }

  void fill(PageSpan span, bool taken) {
    for (uint32_t at = span.first, end = span.first + span.count; at < end;) {
      const uint32_t bit = at % 64, count = end - at < 64 - bit ? end - at : 64 - bit;
      const uint64_t mask = (count == 64 ? ~0ull : ((1ull << count) - 1)) << bit;
      if (taken) {
        words_[at / 64] |= mask;
      } else {
        words_[at / 64] &= ~mask;
      }
      at += count;
    }
  }

  uint32_t clip(uint32_t page) const { return page < pages_ ? page : pages_; }

  uint64_t* words_;
  uint32_t pages_;
};

}  // namespace ckpt
