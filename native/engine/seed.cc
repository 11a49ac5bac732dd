// seed.cc: the seed's layout: one page a trigger, through the bounce buffer, guided by the entry in store_map or restore_map.
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "mover.h"

namespace ckpt {

namespace {

// Runs that stand in the entry at once; longer plans go in several parts. So few that all operations at once fit the smallest store_map,
// the preallocated one of kernels before 6.1.
constexpr size_t kRunsAtOnce = 8 * CKPT_CHUNK_MAPPINGS;
// data_map's allocator refills itself from an interrupt; this often we give it the time.
constexpr int kMemoryTries = 10000;

class PagePump {
 public:
  explicit PagePump(const Job& job)
      : job_(job),
        control_(bpf::seed_of(job.operation.session(), job.operation.number())),
        bounce_(bpf::bounce_of(job.operation.session(), job.operation.number())) {}

  void run() {
    for (size_t first = 0; first < job_.run_count; first += kRunsAtOnce) {
      load(first, std::min(kRunsAtOnce, job_.run_count - first));
      while (control_->run < control_->runs) step();
    }
  }

 private:
  void load(size_t first, size_t count) {
    std::vector<ckpt_mapping> plan(count);
    for (size_t i = 0; i < count; i++) {
      plan[i] = {};
      plan[i].start = job_.runs[first + i].addr;
      plan[i].end = job_.runs[first + i].range().end;
    }
    bpf::write_entry(job_.operation.session(), job_.operation.phase(), job_.operation.number(), plan);
    const uint32_t armed = control_->armed;
    *control_ = {};
    control_->armed = armed;
    control_->image = job_.image;
    control_->runs = static_cast<uint32_t>(count);
    runs_ = job_.runs + first;
  }

  // One page, however many triggers it takes.
  void step() {
    const uint64_t before = control_->moved;
    int stalled = 0, touched = 0, starved = 0;
    for (;;) {
      control_->state = CKPT_PIECE_NEW;
      job_.meter.about_to_move(next_piece());
      job_.operation.trigger(job_.kernel_writer);
      if (__atomic_load_n(&control_->moved, __ATOMIC_ACQUIRE) != before) break;
      if (control_->state == CKPT_PIECE_FAULT) {
        if (++touched > kTouchLimit) throw_unreachable();
        touch(job_, next_piece());
      } else if (control_->state == CKPT_PIECE_BAD) {
        refused(++starved);
      } else if (++stalled == kStallLimit) {
        throw_no_progress(next_piece().start);
      }
    }
    const Range piece{control_->addr, control_->addr + control_->length};
    if (control_->state == CKPT_PIECE_YOURS) memcpy(reinterpret_cast<void*>(piece.start), bounce_ + piece.start % kPage, piece.bytes());
    job_.meter.moved(piece);
    job_.meter.report();
  }

  // data_map said no: it may only be short of memory for a moment.
  void refused(int times) const {
    if (control_->error == -ENOMEM && times < kMemoryTries) {
      sched_yield();
      return;
    }
    if (control_->error == -ENOMEM || control_->error == -E2BIG)
      throw error(Code::kNoRoom, "data_map of the seed layout has no room for another page (%s); it holds %u at most",
                  errno_text(-control_->error).c_str(), bpf::seed_capacity());
    throw error_at(Code::kInternal, next_piece().start, "The page at 0x%llx was refused: %s",
                   static_cast<unsigned long long>(next_piece().start), errno_text(-control_->error).c_str());
  }

  [[noreturn]] void throw_unreachable() const {
    const uint64_t at = next_piece().start;
    throw error_at(job_.operation.phase() == Phase::kStore ? Code::kUnreadable : Code::kUnwritable, at,
                   "The page at 0x%llx cannot be reached, though it was touched %d times", static_cast<unsigned long long>(at),
                   kTouchLimit);
  }

  // What the next trigger will work on.
  Range next_piece() const {
    const Range run = runs_[control_->run].range();
    const uint64_t at = control_->next != 0 ? control_->next : run.start;
    return {at, std::min(run.end, page_down(at) + kPage)};
  }

  const Job& job_;
  ckpt_seed* const control_;
  char* const bounce_;
  const Run* runs_ = nullptr;
};

}  // namespace

void move_seed(const Job& job) { PagePump(job).run(); }

}  // namespace ckpt
