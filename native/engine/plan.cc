// plan.cc: see plan.h.
#include "plan.h"

#include <algorithm>

#include "../bpf/probe.h"
#include "../memory/pagemap.h"

namespace ckpt {

namespace {

void append(std::vector<Range>& runs, Range run) {
  if (run.empty()) return;
  if (!runs.empty() && runs.back().end == run.start) {
    runs.back().end = run.end;
  } else {
    runs.push_back(run);
  }
}

// The part of a private anonymous mapping that a region covers: its whole pages where they hold data, and the pages it covers in part.
void append_populated(const Operation& operation, Range part, std::vector<Range>& runs) {
  const Range whole{page_up(part.start), page_down(part.end)};
  if (whole.empty()) return append(runs, part);
  append(runs, {part.start, whole.start});
  std::vector<Range> populated;
  populated_ranges(operation.arena().pagemap_fd, bpf::features().page_scan, whole, populated);
  for (const Range& range : populated) append(runs, range);
  append(runs, {whole.end, part.end});
}

}  // namespace

std::vector<Range> merged(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.start < b.start; });
  std::vector<Range> out;
  for (const Range& range : ranges) {
    if (range.empty()) continue;
    if (!out.empty() && range.start <= out.back().end) {
      out.back().end = std::max(out.back().end, range.end);
    } else {
      out.push_back(range);
    }
  }
  return out;
}

std::vector<Range> subtract(const std::vector<Range>& ranges, const std::vector<Range>& others) {
  std::vector<Range> out;
  auto other = others.begin();
  for (const Range& range : ranges) {
    uint64_t at = range.start;
    while (other != others.end() && other->end <= at) ++other;
    for (auto over = other; over != others.end() && over->start < range.end; ++over) {
      append(out, {at, over->start});
      at = over->end;
    }
    append(out, {at, range.end});
  }
  return out;
}

void require_mapped(Range range, const std::vector<Mapping>& mappings) {
  uint64_t at = range.start;
  for (const Mapping& mapping : mappings) {
    if (mapping.start > at) break;
    at = std::max(at, mapping.end);
  }
  if (at < range.end) throw error_at(Code::kUnmapped, at, "The memory at 0x%llx is not mapped", static_cast<unsigned long long>(at));
}

CapturePlan plan_capture(const Operation& operation, const std::vector<Range>& regions) {
  CapturePlan plan{};
  std::vector<Mapping> mappings;
  for (const Range& region : regions) {
    mappings.clear();
    operation.mappings_under(region, mappings);
    require_mapped(region, mappings);
    plan.mappings += static_cast<uint32_t>(mappings.size());
    for (const Mapping& mapping : mappings) {
      if (mapping.anonymous) {
        append_populated(operation, mapping.range(), plan.runs);
      } else {
        append(plan.runs, mapping.range());
      }
    }
  }
  for (const Range& run : plan.runs) {
    plan.pages += run.pages();
    plan.stored += run.bytes();
  }
  return plan;
}

std::vector<Run> place(const std::vector<Range>& runs, const std::vector<Extent>& extents) {
  std::vector<Run> placed;
  placed.reserve(runs.size());
  size_t extent = 0;
  uint32_t used = 0;  // pages of that extent
  for (const Range& run : runs) {
    for (uint64_t at = run.start; at < run.end;) {
      if (used == extents[extent].count) extent++, used = 0;
      const Extent& to = extents[extent];
      const uint64_t end = std::min(run.end, page_down(at) + (to.count - used) * kPage);
      const Range part{at, end};
      const auto offset = static_cast<uint32_t>((to.first + used) * kPage + at % kPage);
      placed.push_back({at, static_cast<uint32_t>(part.bytes()), to.slot, offset, 0});
      used += static_cast<uint32_t>(part.pages());
      at = end;
    }
  }
  return placed;
}

std::vector<Run> unplaced(const std::vector<Range>& runs) {
  std::vector<Run> out;
  constexpr uint64_t kMost = uint64_t{1} << 30;  // a length has 32 bits
  for (const Range& run : runs)
    for (uint64_t at = run.start, end; at < run.end; at = end) {
      end = std::min(run.end, page_down(at) + kMost);
      out.push_back({at, static_cast<uint32_t>(end - at), 0, 0, 0});
    }
  return out;
}

std::vector<Range> holes(const std::vector<Range>& regions, const Run* runs, size_t count) {
  std::vector<Range> covered;
  covered.reserve(count);
  for (size_t i = 0; i < count; i++) covered.push_back(runs[i].range());
  return subtract(regions, covered);
}

}  // namespace ckpt
