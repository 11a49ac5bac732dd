// inject_x86_64.cc: see inject.h: registers and system calls of x86-64.
#if defined(__x86_64__) && defined(__LP64__)

#include <sys/user.h>

#include <cstring>

#include "inject.h"

namespace ckpt::machine {

namespace {

constexpr uint64_t kUserCode = 0x33;  // the code segment of 64-bit programs

bool read(const Registers& registers, user_regs_struct& to) {
  if (registers.length != sizeof to) return false;  // of a 32-bit program
  memcpy(&to, registers.bytes, sizeof to);
  return true;
}

}  // namespace

std::string_view call_instruction() { return "\x0f\x05"; }

uint64_t after_call(const Registers& registers) {
  user_regs_struct user;
  // orig_rax is the number of the call, or -1 if it was an interrupt or a fault.
  const bool entered = read(registers, user) && user.cs == kUserCode && static_cast<int32_t>(user.orig_rax) >= 0;
  return entered ? user.rip : 0;
}

Registers with_call(Registers registers, uint64_t site, const SystemCall& call) {
  user_regs_struct user;
  read(registers, user);
  user.rip = site;
  user.orig_rax = ~uint64_t{0};
  user.rax = static_cast<uint64_t>(call.number);
  user.rdi = call.arguments[0];
  user.rsi = call.arguments[1];
  user.rdx = call.arguments[2];
  user.r10 = call.arguments[3];
  user.r8 = call.arguments[4];
  user.r9 = call.arguments[5];
  memcpy(registers.bytes, &user, sizeof user);
  return registers;
}

int64_t result_of(const Registers& registers) {
  user_regs_struct user;
  return read(registers, user) ? static_cast<int64_t>(user.rax) : -1;
}

}  // namespace ckpt::machine

#endif
