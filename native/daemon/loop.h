// loop.h: the daemon's event loop: descriptors and deadlines, one thread.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>

#include "../fd.h"

namespace ckpt {

class Loop {
 public:
  Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // Calls `ready` whenever `fd` is readable or has hung up, until forget(). The descriptor stays the caller's, who forgets it before
  // closing it. A callback may watch, forget and cancel anything, itself too. Throws kInternal.
  void watch(int fd, std::function<void()> ready);
  void forget(int fd);

  // Calls `due` once, after `ms` milliseconds. The id names it for cancel(); ids never repeat.
  uint64_t after(uint64_t ms, std::function<void()> due);
  void cancel(uint64_t id);

  // Nanoseconds that the loop has waited for something to happen: a clock that stands still while callbacks work. Who waits for somebody
  // else measures by it, so that our own work is not taken for his.
  uint64_t waited_ns() const { return waited_ns_; }

  // Gets what callbacks throw; without it exceptions go through.
  std::function<void(const std::exception&)> on_error;

  // Runs until stop().
  void run();
  void stop() { stopped_ = true; }

 private:
  int next_timeout() const;  // ms, -1: none
  void run_due();
  void guarded(const std::function<void()>& callback) const;
  void run_ready(uint64_t tag);

  struct Timer {
    uint64_t id;
    std::function<void()> due;
  };
  struct Watch {
    uint32_t generation;  // tells a descriptor from a later one of the same number
    std::function<void()> ready;
  };
  Fd epoll_;
  std::map<int, std::shared_ptr<Watch>> watched_;
  uint32_t generations_ = 0;
  std::multimap<uint64_t, Timer> timers_;  // by deadline, ns of CLOCK_MONOTONIC
  uint64_t timer_ids_ = 0;
  uint64_t waited_ns_ = 0;
  bool stopped_ = false;
};

}  // namespace ckpt
