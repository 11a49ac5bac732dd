// mover.h: moves the bytes of a plan, trigger by trigger.
#pragma once

#include "../image/image.h"
#include "meter.h"
#include "operation.h"

namespace ckpt {

struct Job {
  const Operation& operation;  // armed
  uint64_t image;
  const Run* runs;
  size_t run_count;
  uint32_t pages_per_trigger;  // 0: as many as one trigger may move
  bool kernel_writer;          // of a restore: the program writes; else user space does
  Meter& meter;
};

// Returns when every byte has been moved. Throws kUnreadable or kUnwritable naming the address, kNoProgress, kNoRoom (seed layout: data_map
// is full), kInternal, and whatever the observer throws.
void move(const Job& job);

void move_fast(const Job& job);
void move_seed(const Job& job);

// Triggers that may go by without anything moving before the operation gives up: a program can be skipped when it interrupts another.
constexpr int kStallLimit = 100000;
// Times a piece is faulted in: a page can be reclaimed again before the trigger comes.
constexpr int kTouchLimit = 64;

// Makes the memory of a piece that a program could not reach present.
void touch(const Job& job, Range piece);

[[noreturn]] void throw_no_progress(uint64_t address);

}  // namespace ckpt
