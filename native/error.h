// error.h: the one exception type of the native side, and its stable codes.
#pragma once

#include <cerrno>
#include <cstdint>
#include <exception>
#include <string>

namespace ckpt {

// Each code is ERR_CKPT_ followed by the name in error.cc; lib/errors.ts documents them for users.
enum class Code {
  kCapability,   // a capability is missing: the message names it
  kKernel,       // this kernel lacks something we cannot do without
  kNoBtf,        // no /sys/kernel/btf/vmlinux
  kLockdown,     // the kernel is locked down against what was asked for
  kTracepoint,   // the tracepoint ids cannot be reached
  kNoRoom,       // a ceiling, a cgroup or the machine has no room for the bytes
  kRegionMoved,  // a region is elsewhere than at its checkpoint
  kRegionShrunk,
  kRegionDetached,
  kUnmapped,    // memory of the target is no longer mapped
  kUnreadable,  // a page cannot be read, even after touching it
  kUnwritable,  // a page cannot be written, even after touching it and lifting its protection
  kUnknown,     // no such checkpoint in this thread
  kDisposed,    // the checkpoint was disposed
  kPoisoned,    // the bytes are half restored
  kAborted,     // by signal, callback or the end of a Worker
  kReentrant,   // called from a progress callback
  kBusy,        // the tracepoint or the operation table is full
  kNoProgress,  // triggers do not move anything
  kSecondCopy,  // another copy of the addon owns this process
  kForked,      // a child made by fork() without exec
  kInternal,    // a bug of ours or an unexpected refusal of the kernel: the message has the errno
};

const char* code_name(Code code);

class Error : public std::exception {
 public:
  Error(Code code, std::string message, uint64_t address = 0) : code_(code), message_(std::move(message)), address_(address) {}

  const char* what() const noexcept override { return message_.c_str(); }
  Code code() const noexcept { return code_; }
  // The address the error is about, 0 where there is none.
  uint64_t address() const noexcept { return address_; }

 private:
  Code code_;
  std::string message_;
  uint64_t address_;
};

// printf-style message.
[[gnu::format(printf, 2, 3)]] Error error(Code code, const char* format, ...);
// The same, about an address.
[[gnu::format(printf, 3, 4)]] Error error_at(Code code, uint64_t address, const char* format, ...);

// "Operation not permitted (EPERM)"
std::string errno_text(int number);

}  // namespace ckpt
