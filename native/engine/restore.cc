// restore.cc: a restore, from validation to finish.
#include <sys/mman.h>

#include <mutex>

#include "../bpf/probe.h"
#include "../memory/protect.h"
#include "../memory/touch.h"
#include "../memory/zero.h"
#include "mover.h"
#include "plan.h"
#include "tables.h"

namespace ckpt {

namespace {

// Holds an image for the time of its restore: it cannot be disposed of, so its arrays stay.
class Restoring {
 public:
  Restoring(Arena& arena, uint64_t owner, Handle handle) : arena_(arena), image_(find(arena, owner, handle)) {}
  ~Restoring() {
    const std::lock_guard<Lock> guard(arena_.lock);
    image_.restoring--;
  }
  Restoring(const Restoring&) = delete;
  Restoring& operator=(const Restoring&) = delete;

  Image& image() const { return image_; }

 private:
  static Image& find(Arena& arena, uint64_t owner, Handle handle) {
    const std::lock_guard<Lock> guard(arena.lock);
    Image& image = find_image(arena, owner, handle);
    if (image.restoring > 0) throw error(Code::kReentrant, "Checkpoint %llu is being restored", static_cast<unsigned long long>(image.id));
    image.restoring++;
    return image;
  }

  Arena& arena_;
  Image& image_;
};

// What a restore writes.
struct Target {
  std::vector<Range> regions;  // of the checkpoint, merged
  std::vector<Range> zeros;    // never touched at the checkpoint, or grown since
};

void require_in_place(const Image& image, const std::vector<Range>& now) {
  if (now.size() != image.region_count)
    throw error(Code::kInternal, "%zu regions given for a checkpoint of %u", now.size(), image.region_count);
  for (uint32_t i = 0; i < image.region_count; i++) {
    const Range& then = image.regions[i];
    if (then.empty()) continue;
    if (now[i].start != then.start)
      throw error_at(Code::kRegionMoved, now[i].start, "regions[%u] lies elsewhere than when checkpoint %llu was made", i,
                     static_cast<unsigned long long>(image.id));
    if (now[i].end < then.end)
      throw error_at(Code::kRegionShrunk, now[i].start, "regions[%u] has %llu bytes, and had %llu when checkpoint %llu was made", i,
                     static_cast<unsigned long long>(now[i].bytes()), static_cast<unsigned long long>(then.bytes()),
                     static_cast<unsigned long long>(image.id));
  }
}

Target plan_restore(const Image& image, const std::vector<Range>& now) {
  Target target;
  target.regions = merged({image.regions, image.regions + image.region_count});
  target.zeros = holes(target.regions, image.runs, image.run_count);
  for (uint32_t i = 0; i < image.region_count; i++) {
    const Range& then = image.regions[i];
    target.zeros.push_back({then.empty() ? now[i].start : then.end, now[i].end});
  }
  target.zeros = merged(std::move(target.zeros));
  return target;
}

// Everything the restore writes to, checked to be mapped.
std::vector<Mapping> mappings_of(const Operation& operation, const Target& target) {
  std::vector<Range> all = target.regions;
  all.insert(all.end(), target.zeros.begin(), target.zeros.end());
  std::vector<Mapping> mappings, part;
  for (const Range& range : merged(std::move(all))) {
    part.clear();
    operation.mappings_under(range, part);
    require_mapped(range, part);
    mappings.insert(mappings.end(), part.begin(), part.end());
  }
  return mappings;
}

bool use_kernel_writer(Writer writer, const bpf::Session& session) {
  if (writer == Writer::kUser) return false;
  if (session.kernel_writer || writer == Writer::kAuto) return session.kernel_writer;
  const bpf::Support support = bpf::support();
  if (support.lockdown != "none")
    throw error(Code::kLockdown,
                "The kernel writer is not available: this kernel is in lockdown (%s), which refuses bpf_probe_write_user; "
                "use writer 'user' or 'auto'",
                support.lockdown.c_str());
  throw error(Code::kCapability,
              "The kernel writer is not available: bpf_probe_write_user needs CAP_SYS_ADMIN; use writer 'user' or 'auto'");
}

// A file may have been truncated under its mapping: a store of ours would then end in SIGBUS. The kernel is asked to fault such pages in
// before anything changes, and says so instead.
void require_backed(const std::vector<Mapping>& mappings) {
  for (const Mapping& mapping : mappings)
    if (!mapping.anonymous) touch_for_write(mapping.range(), bpf::features().populate);
}

void map_segments(Arena& arena, const Image& image) {
  for (uint32_t i = 0; i < image.extent_count; i++) {
    const uint32_t slot = image.extents[i].slot;
    if (segment_mapped(arena.pool.segments[slot])) continue;
    const std::lock_guard<Lock> mapping(arena.mapping);
    segment_map(slot, arena.pool.segments[slot], PROT_READ);
  }
}

// Zeros come first: what a grown region gained may be part of another region's bytes.
void write_back(const Target& target, const std::vector<Mapping>& mappings, const Job& job) {
  std::vector<Mapping> under;
  for (const Range& range : target.zeros) {
    under.clear();
    clip_mappings(mappings, range, under);
    zero(range, under, job.operation.arena().pagemap_fd, bpf::features().page_scan);
  }
  move(job);
}

}  // namespace

RestoreInfo restore(uint64_t owner, Handle handle, const std::vector<Range>& regions, const Options& options) {
  Arena& a = arena();
  const Restoring restoring(a, owner, handle);
  Image& image = restoring.image();
  require_in_place(image, regions);
  const Target target = plan_restore(image, regions);

  Operation operation(a, image.layout, Phase::kRestore);
  const bool kernel_writer = use_kernel_writer(options.writer, operation.session());
  operation.arm();
  const std::vector<Mapping> mappings = mappings_of(operation, target);
  WritableScope writable(mappings);
  require_backed(mappings);
  if (!kernel_writer) map_segments(a, image);

  Meter meter(Phase::kRestore, options.observer, image.pages, image.stored);
  try {
    write_back(target, mappings, {operation, image.id, image.runs, image.run_count, options.pages_per_trigger, kernel_writer, meter});
  } catch (...) {
    const std::lock_guard<Lock> guard(a.lock);
    poison(a, image);
    throw;
  }
  writable.end();
  const Costs costs = meter.costs(operation);
  const std::lock_guard<Lock> guard(a.lock);
  unpoison(a, target.regions);
  image.restores++;
  return {kernel_writer ? Writer::kKernel : Writer::kUser, image.bytes, image.pages, costs.ns, costs.triggers, costs.retries};
}

}  // namespace ckpt
