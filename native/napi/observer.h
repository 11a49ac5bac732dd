// observer.h: progress of an operation, told to a JavaScript callback that may do anything to the regions.
#pragma once

#include <napi.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "../engine/engine.h"
#include "convert.h"

namespace ckpt::napi {

// The callback threw, or its Worker is being terminated. The exception stays pending in the environment while the core unwinds.
struct Thrown {};

// Calls the callback, and then looks again at every region that is about to be moved: one that the callback detached, transferred or
// shrunk has no memory any more where the plan says. (A buffer that grew in place is the same to a view of fixed length, and does no harm.)
class CallbackObserver : public Observer {
 public:
  CallbackObserver(napi_env env, napi_value callback, napi_value regions, const std::vector<Range>& ranges)
      : env_(env), callback_(callback), regions_(regions), ranges_(ranges), order_(ranges.size()), reach_(ranges.size()) {
    napi_get_undefined(env, &undefined_);
    std::iota(order_.begin(), order_.end(), 0);
    std::sort(order_.begin(), order_.end(), [&](uint32_t a, uint32_t b) { return ranges[a].start < ranges[b].start; });
    uint64_t reach = 0;
    for (size_t i = 0; i < order_.size(); i++) reach_[i] = reach = std::max(reach, ranges[order_[i]].end);
  }

  void progress(const Progress& progress) override {
    const Napi::HandleScope scope(env_);
    call(progress);
  }

  void about_to_move(Range span) override {
    const Napi::HandleScope scope(env_);
    const auto first = static_cast<size_t>(std::upper_bound(reach_.begin(), reach_.end(), span.start) - reach_.begin());
    for (size_t i = first; i < order_.size() && ranges_[order_[i]].start < span.end; i++) require_in_place(order_[i]);
  }

 private:
  void call(const Progress& progress) {
    const uint64_t numbers[] = {progress.page,        progress.address,    progress.done_pages,
                                progress.total_pages, progress.done_bytes, progress.total_bytes};
    constexpr size_t kCount = sizeof(numbers) / sizeof(numbers[0]);
    napi_value arguments[kCount];
    for (size_t i = 0; i < kCount; i++) napi_create_double(env_, static_cast<double>(numbers[i]), &arguments[i]);
    if (napi_call_function(env_, undefined_, callback_, kCount, arguments, nullptr) != napi_ok) throw Thrown{};
  }

  void require_in_place(uint32_t index) const {
    const Range now = to_range(env_, regions_, index), then = ranges_[index];
    if (now.start == then.start && now.end == then.end) return;
    throw error_at(Code::kRegionDetached, then.start, "regions[%u] was detached, transferred or shrunk by a progress callback", index);
  }

  napi_env env_;
  napi_value callback_, regions_, undefined_;
  const std::vector<Range>& ranges_;
  std::vector<uint32_t> order_;  // of the regions, by address
  std::vector<uint64_t> reach_;  // the furthest end of the regions up to each place of that order
};

// Runs `operation(ranges, options)` over the regions, observed if JavaScript gave a callback.
template <typename Operation>
auto observed(napi_env env, const Napi::Value& regions, const Napi::Value& callback, Options options, Operation operation) {
  const std::vector<Range> ranges = to_ranges(env, regions);
  if (callback.IsUndefined()) return operation(ranges, options);
  CallbackObserver observer(env, callback, regions, ranges);
  options.observer = &observer;
  return operation(ranges, options);
}

}  // namespace ckpt::napi
