// capture.cc: a checkpoint, from arm to finish.
#include <mutex>

#include "mover.h"
#include "plan.h"
#include "store.h"
#include "tables.h"

namespace ckpt {

namespace {

struct Capture {
  uint64_t owner;
  const std::vector<Range>& regions;  // as given
  const std::vector<Range>& whole;    // merged
  const Options& options;
  uint64_t id;
};

Costs move_all(const Capture& capture, const Operation& operation, const CapturePlan& plan, const std::vector<Run>& runs) {
  Meter meter(Phase::kStore, capture.options.observer, plan.pages, plan.stored);
  move({operation, capture.id, runs.data(), runs.size(), capture.options.pages_per_trigger, false, meter});
  return meter.costs(operation);
}

Handle commit(const Capture& capture, Arena& arena, const CapturePlan& plan, const std::vector<Run>& runs,
              const std::vector<Extent>& extents, const Costs& costs) {
  uint64_t bytes = 0;
  for (const Range& range : capture.whole) bytes += range.bytes();
  return add_image(arena, {capture.id, capture.options.layout, capture.owner, bytes, plan.stored, plan.pages, plan.mappings, costs,
                           capture.regions, runs, extents});
}

Handle capture_fast(const Capture& capture, const Operation& operation, const CapturePlan& plan) {
  PageStore store(operation.arena(), operation.session(), plan.pages);
  const std::vector<Run> runs = place(plan.runs, store.extents());
  const Costs costs = move_all(capture, operation, plan, runs);
  const std::lock_guard<Lock> guard(operation.arena().lock);
  const Handle handle = commit(capture, operation.arena(), plan, runs, store.extents(), costs);
  store.keep();
  return handle;
}

Handle capture_seed(const Capture& capture, const Operation& operation, const CapturePlan& plan) {
  const std::vector<Run> runs = unplaced(plan.runs);
  SeedStore store(operation, capture.id, runs, plan.pages);
  const Costs costs = move_all(capture, operation, plan, runs);
  const std::lock_guard<Lock> guard(operation.arena().lock);
  const Handle handle = commit(capture, operation.arena(), plan, runs, {}, costs);
  store.keep();
  return handle;
}

}  // namespace

Handle capture(uint64_t owner, const std::vector<Range>& regions, const Options& options) {
  Arena& a = arena();
  const std::vector<Range> whole = merged(regions);
  uint64_t id;
  {
    const std::lock_guard<Lock> guard(a.lock);
    require_clean(a, whole);
    id = ++a.ids;
  }
  Operation operation(a, options.layout, Phase::kStore);
  operation.arm();
  const CapturePlan plan = plan_capture(operation, whole);
  const Capture capture{owner, regions, whole, options, id};
  return options.layout == Layout::kSeed ? capture_seed(capture, operation, plan) : capture_fast(capture, operation, plan);
}

}  // namespace ckpt
