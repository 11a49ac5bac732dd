// threads.h: the threads of another process, and where the stack of each lies.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "target.h"

namespace ckpt {

struct Thread {
  pid_t tid;
  uint64_t start_time;     // clock ticks since boot, as /proc/PID/task/TID/stat has it
  uint64_t stack_pointer;  // 0: it is running
  uint64_t robust_list;    // head of its list of robust futexes; 0: none. The C library keeps it in the thread's descriptor
};

// All threads that have not ended, sorted by tid. Throws kCapability, kInternal.
std::vector<Thread> read_threads(const Target& target);

// The whole stack of a thread, to the page, with the descriptor and the TLS that the C library keeps at its upper end, and with its guard
// pages if they belong to the block. The main thread's is the mapping [stack]. Throws kUnreadable, naming the thread, if it cannot be told.
Range stack_of(const Target& target, const Thread& thread, const std::vector<NamedMapping>& mappings);

// The mapping that an address lies in, null if there is none.
const NamedMapping* mapping_at(const std::vector<NamedMapping>& mappings, uint64_t address);

}  // namespace ckpt
