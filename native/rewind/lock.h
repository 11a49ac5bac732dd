// lock.h: a mutex that is one word of plain memory, so that it can live in the arena and be taken without libc.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>

namespace ckpt {

inline void futex_wait(uint32_t* word, uint32_t expected, const timespec* timeout = nullptr) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, timeout, nullptr, 0);
}
inline void futex_wake(uint32_t* word, int waiters) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, waiters, nullptr, nullptr, 0); }

// 0 free, 1 held, 2 held and waited for. Zeroed memory is a free lock.
class Lock {
 public:
  void lock() {
    uint32_t seen = 0;
    if (__atomic_compare_exchange_n(&word_, &seen, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
    if (seen != 2) seen = __atomic_exchange_n(&word_, 2, __ATOMIC_ACQUIRE);
    while (seen != 0) {
      futex_wait(&word_, 2);
      seen = __atomic_exchange_n(&word_, 2, __ATOMIC_ACQUIRE);
    }
  }
  void unlock() {
    if (__atomic_exchange_n(&word_, 0, __ATOMIC_RELEASE) == 2) futex_wake(&word_, 1);
  }

 private:
  uint32_t word_;
};

}  // namespace ckpt
