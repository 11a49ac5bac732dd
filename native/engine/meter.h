// meter.h: counts what an operation has moved, and tells the observer.
#pragma once

#include "clock.h"
#include "engine.h"
#include "operation.h"

namespace ckpt {

class Meter {
 public:
  Meter(Phase phase, Observer* observer, uint64_t total_pages, uint64_t total_bytes)
      : observer_(observer), progress_{phase, 0, 0, 0, total_pages, 0, total_bytes} {}

  void retried() { retries_++; }

  void moved(Range piece) {
    progress_.address = piece.start;
    progress_.done_pages += piece.pages();
    progress_.done_bytes += piece.bytes();
    unreported_ = true;
  }

  // Before each trigger. Only a callback of the observer can have changed what is there.
  void about_to_move(Range span) {
    if (!reported_) return;
    reported_ = false;
    observer_->about_to_move(span);
  }

  // After each trigger. Whatever the observer throws goes through.
  void report() {
    if (observer_ == nullptr || !unreported_) return;
    unreported_ = false;
    reported_ = true;
    progress_.page = progress_.done_pages - 1;
    observer_->progress(progress_);
  }

  uint64_t total_bytes() const { return progress_.total_bytes; }
  bool complete() const { return progress_.done_bytes == progress_.total_bytes; }

  Costs costs(const Operation& operation) const { return {now_ns() - start_ns_, operation.triggers(), retries_}; }

 private:
  Observer* observer_;
  Progress progress_;
  uint64_t retries_ = 0;
  bool unreported_ = false;  // something moved since the last report
  bool reported_ = false;    // the observer was called since the last trigger
  uint64_t start_ns_ = now_ns();
};

}  // namespace ckpt
