// inject.h: system calls that a process makes because we want it to: its address space is changed by nobody else.
//
// One of its threads that waits in a system call, or is stopped at the end of one, is made by ptrace() to execute others, and then goes on
// as if nothing had been: with its registers, its signals, and the call it waits in. What ptrace() holds belongs to a thread, so ours is
// one of its own, which ends with the injection: whatever becomes of it, nobody stays traced.
#pragma once

#include <array>
#include <future>
#include <string_view>
#include <thread>
#include <vector>

#include "../memory/target.h"

namespace ckpt {

struct SystemCall {
  long number;
  std::array<uint64_t, 6> arguments;
  uint64_t expected;  // what it returns if all is well
};

class Injection {
 public:
  // Stops a thread of the process; nothing else of it changes. Throws kUnmapped, saying why there is none that could be had.
  explicit Injection(const Target& target);
  // The thread goes on.
  ~Injection();
  Injection(const Injection&) = delete;
  Injection& operator=(const Injection&) = delete;

  // Makes the calls in order, to the first that returns something else than is expected, and lets the thread go on. Once, and with at least
  // one call. Returns what each returned that was made: an address, a number, or a negative errno. Throws kUnmapped if the process ends
  // meanwhile, kNoProgress if a call does not return; it is let go on when that does.
  std::vector<int64_t> make(std::vector<SystemCall> calls);

 private:
  std::promise<std::vector<SystemCall>> calls_;
  std::future<std::vector<int64_t>> results_;
  std::thread worker_;
};

// What depends on the architecture: inject_ARCHITECTURE.cc.
namespace machine {

// As PTRACE_GETREGSET has them.
struct Registers {
  alignas(16) unsigned char bytes[1024];
  size_t length;
};

// The bytes of the instruction that makes a system call; empty where all this is not implemented.
std::string_view call_instruction();

// Where the thread goes on, if it came into the kernel by a system call and is a program of this architecture; else 0.
uint64_t after_call(const Registers& registers);

// As they have to be to make a call by the instruction at `site`; what is not of the call stays. The kernel has nothing to restart then.
Registers with_call(Registers registers, uint64_t site, const SystemCall& call);

int64_t result_of(const Registers& registers);

}  // namespace machine

}  // namespace ckpt
