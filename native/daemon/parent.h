// parent.h: ends this process with the one that started it, where that one asks for it.
#pragma once

#include <sys/types.h>

namespace ckpt {

// The `ebpf-ckpt` command sets this to its own pid for the daemon, which must not outlive it.
constexpr const char* kParentVariable = "EBPF_CKPT_PARENT";

// SIGTERM when the process that started this one dies; at once if it has died already. `parent`: its pid, taken before we were forked.
void die_with(pid_t parent);

// The same if the environment asks for it. Takes the variable out of the environment. Returns the parent's pid, 0 if nobody asked.
pid_t die_with_caller();

}  // namespace ckpt
