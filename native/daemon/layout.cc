// layout.cc: see layout.h.
//
// Memory that is mapped again is plain: that it was locked, named, or advised to be this or that is not brought back.
#include "layout.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <optional>

#include "../error.h"
#include "inject.h"

namespace ckpt {

namespace {

unsigned long long hex(uint64_t address) { return address; }

const char* what_happened(const LayoutChange& change) {
  return change.kind == LayoutChange::kProtect ? "has another protection than at the checkpoint" : "is no longer mapped";
}

SystemCall call_for(const LayoutChange& change) {
  const uint64_t start = change.range.start, end = change.range.end, bytes = change.range.bytes();
  const auto protection = static_cast<uint64_t>(change.protection);
  switch (change.kind) {
    case LayoutChange::kMap:
      return {SYS_mmap, {start, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, ~uint64_t{0}, 0}, start};
    case LayoutChange::kGrowHeap:
      return {SYS_brk, {end}, end};
    default:
      return {SYS_mprotect, {start, bytes, protection}, 0};
  }
}

// mmap() and mprotect() return an errno, brk() the end that stays.
std::string why_of(const LayoutChange& change, int64_t result) {
  return change.kind == LayoutChange::kGrowHeap ? "[heap] does not grow" : errno_text(static_cast<int>(-result));
}

}  // namespace

void put_layout_back(const Target& target, const std::vector<LayoutChange>& changes, const std::function<void()>& changing) {
  std::vector<SystemCall> calls;
  for (const LayoutChange& change : changes) calls.push_back(call_for(change));
  std::optional<Injection> injection;
  try {
    injection.emplace(target);
  } catch (const Error& reason) {
    const auto needed = std::find_if(changes.begin(), changes.end(), [](const LayoutChange& change) { return change.needed; });
    if (needed == changes.end()) return;
    throw error_at(Code::kUnmapped, needed->range.start, "The memory at 0x%llx %s, and that cannot be put back: %s",
                   hex(needed->range.start), what_happened(*needed), reason.what());
  }
  changing();
  const std::vector<int64_t> results = injection->make(calls);
  const size_t last = results.size() - 1;
  if (results.size() == calls.size() && static_cast<uint64_t>(results[last]) == calls[last].expected) return;
  const LayoutChange& failed = changes[last];
  throw error_at(Code::kUnmapped, failed.range.start, "The memory at 0x%llx %s, and that could not be put back: %s",
                 hex(failed.range.start), what_happened(failed), why_of(failed, results[last]).c_str());
}

}  // namespace ckpt
