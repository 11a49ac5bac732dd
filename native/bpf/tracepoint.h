// tracepoint.h: tracepoint ids, with or without a mounted tracefs, and attaching a program to one.
#pragma once

#include <string>

#include "../fd.h"

namespace ckpt::bpf {

// The id of events/syscalls/`name`. Throws kTracepoint saying why it cannot be had, kLockdown, kKernel. `how`, if given, gets "mounted" or
// "private".
int tracepoint_id(const char* name, std::string* how = nullptr);

// Why this process may not open events on a whole CPU, as attaching must: an errno, 0 if it may.
int perf_event_refusal();

// Attaches a program; the descriptor returned is the attachment. Throws kBusy after backing off, kCapability, kInternal.
Fd attach_program(int program_fd, const char* tracepoint);

}  // namespace ckpt::bpf
