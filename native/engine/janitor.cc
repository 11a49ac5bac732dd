// janitor.cc: see janitor.h.
#include "janitor.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <exception>
#include <mutex>

#include "clock.h"
#include "store.h"
#include "tables.h"

namespace ckpt {

namespace {

constexpr uint64_t kNever = ~uint64_t{0};
constexpr uint64_t kMillisecond = 1000000;
constexpr uint64_t kLeastSleep = 10 * kMillisecond;

uint64_t last_use(const Arena& arena) {
  return std::max({arena.sessions[0].last_use_ns, arena.sessions[1].last_use_ns, arena.last_dispose_ns});
}

uint64_t detach_deadline(const Arena& arena, const SessionSlot& slot, uint64_t now) {
  if (!slot.ready) return kNever;
  return (slot.busy != 0 ? now : slot.last_use_ns) + arena.settings.detach_after_ms * kMillisecond;
}

uint64_t shrink_deadline(const Arena& arena) {
  if (pool_surplus(arena.pool, 0) == kNoSlot) return kNever;
  return last_use(arena) + arena.settings.shrink_after_ms * kMillisecond;
}

void detach_due(Arena& arena, SessionSlot& slot) {
  const uint64_t now = now_ns();
  {
    const std::lock_guard<Lock> guard(arena.lock);
    if (detach_deadline(arena, slot, now) > now) return;
  }
  detach_if_unused(arena, slot, now - std::min(now, arena.settings.detach_after_ms * kMillisecond));
}

void shrink_due(Arena& arena) {
  uint64_t keep;
  {
    const std::lock_guard<Lock> guard(arena.lock);
    retire_discarded(arena);
    keep = shrink_deadline(arena) <= now_ns() ? 0 : arena.settings.pool_bytes;
  }
  shrink_pool(arena, keep);
}

// What is due now. A chore that fails, for want of memory or because the kernel refuses, keeps no other from being done; it is tried
// again at the next round.
void work(Arena& arena) {
  const auto chore = [](auto call) {
    try {
      call();
    } catch (const std::exception&) {
    }
  };
  chore([&] {
    while (sweep_seed_image(arena)) continue;
  });
  for (SessionSlot& slot : arena.sessions) chore([&] { detach_due(arena, slot); });
  chore([&] { shrink_due(arena); });
}

// When the next round is due. kNever is told to dispose(), which then has to wake us.
uint64_t next_round(Arena& arena) {
  constexpr uint64_t kRetry = 100 * kMillisecond;
  const std::lock_guard<Lock> guard(arena.lock);
  const uint64_t now = now_ns();
  const bool left_over = arena.retired != kNoImage || pool_surplus(arena.pool, arena.settings.pool_bytes) != kNoSlot;
  const uint64_t detach = std::min(detach_deadline(arena, arena.sessions[0], now), detach_deadline(arena, arena.sessions[1], now));
  const uint64_t next = std::min({detach, shrink_deadline(arena), left_over ? now + kRetry : kNever});
  arena.janitor_idle = next == kNever;
  return next;
}

void sleep_until(Arena& arena, uint32_t seen, uint64_t deadline) {
  if (deadline == kNever) return futex_wait(&arena.janitor_word, seen);
  const uint64_t now = now_ns(), left = std::max<uint64_t>(deadline > now ? deadline - now : 0, kLeastSleep);
  const timespec timeout{static_cast<time_t>(left / 1000000000u), static_cast<long>(left % 1000000000u)};
  futex_wait(&arena.janitor_word, seen, &timeout);
}

void* run(void* argument) {
  Arena& arena = *static_cast<Arena*>(argument);
  pthread_setname_np(pthread_self(), "ebpf-ckpt");
  for (;;) {
    const uint32_t seen = __atomic_load_n(&arena.janitor_word, __ATOMIC_ACQUIRE);
    work(arena);
    sleep_until(arena, seen, next_round(arena));
  }
}

bool start(Arena& arena) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, 256 << 10);
  // Signals are the program's, not ours.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const bool started = pthread_create(&thread, &attributes, run, &arena) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return started;
}

}  // namespace

void janitor_wake(Arena& arena) noexcept {
  __atomic_fetch_add(&arena.janitor_word, 1, __ATOMIC_RELEASE);
  futex_wake(&arena.janitor_word, 1);
  const std::lock_guard<Lock> guard(arena.lock);
  arena.janitor_idle = false;
  if (!arena.janitor_running) arena.janitor_running = start(arena);
}

void shrink_pool(Arena& arena, uint64_t keep) {
  const bpf::Session& session = arena.sessions[static_cast<size_t>(Layout::kFast)].session;
  for (;;) {
    uint32_t slot;
    {
      const std::lock_guard<Lock> guard(arena.lock);
      slot = pool_surplus(arena.pool, keep);
      if (slot == kNoSlot) return;
      pool_withdraw(arena.pool, slot);
    }
    // From here to the end nobody else knows the slot.
    try {
      segment_free(session, slot, arena.pool.segments[slot]);
    } catch (...) {
      const std::lock_guard<Lock> guard(arena.lock);
      pool_publish(arena.pool, slot);
      throw;
    }
    const std::lock_guard<Lock> guard(arena.lock);
    pool_abandon(arena.pool, slot);
  }
}

void detach_if_unused(Arena& arena, SessionSlot& slot, uint64_t unused_since_ns) {
  const std::lock_guard<Lock> attaching(slot.attaching);
  {
    const std::lock_guard<Lock> guard(arena.lock);
    if (!slot.ready || slot.busy != 0 || slot.last_use_ns > unused_since_ns) return;
    // Whoever comes now waits until this is done, and attaches again: the kernel would make it wait too.
    slot.ready = false;
  }
  bpf::detach(slot.session);
}

}  // namespace ckpt
