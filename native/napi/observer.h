// observer.h: progress of an operation, told to a JavaScript callback that may do anything to the regions.
#pragma once

#include <napi.h>

#include <vector>

#include "../engine/engine.h"
#include "convert.h"

namespace ckpt::napi {

// The callback threw, or its Worker is being terminated. The exception stays pending in the environment while the core unwinds.
struct Thrown {};

// Calls the callback, then looks at every region again: one that the callback detached, transferred or shrunk has no memory any more
// where the plan says. (A buffer that grew in place is the same to a view of fixed length, and does no harm.)
class CallbackObserver : public Observer {
 public:
  CallbackObserver(napi_env env, napi_value callback, napi_value regions, const std::vector<Range>& ranges)
      : env_(env), callback_(callback), regions_(regions), ranges_(ranges) {
    napi_get_undefined(env, &undefined_);
  }

  void progress(const Progress& progress) override {
    const Napi::HandleScope scope(env_);
    call(progress);
    for (uint32_t i = 0; i < ranges_.size(); i++) {
      const Range now = to_range(env_, regions_, i);
      if (now.start == ranges_[i].start && now.end == ranges_[i].end) continue;
      throw error_at(Code::kRegionDetached, ranges_[i].start, "regions[%u] was detached, transferred or shrunk by a progress callback", i);
    }
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

  napi_env env_;
  napi_value callback_, regions_, undefined_;
  const std::vector<Range>& ranges_;
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
