// object.h: a BPF object opened, set up, verified by the kernel and reduced to descriptors. All of libbpf's loading is behind it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../fd.h"
#include "session.h"

namespace ckpt::bpf {

struct Features;

struct Object {
  Fd data_map, store_map, restore_map, copy_map;
  Fd globals_map;         // the object's .bss
  size_t globals_offset;  // of ckpt_globals in it
  Fd on_openat, on_access;
};

// Throws kCapability, kKernel, kLockdown, kNoRoom, kInternal.
Object load_object(Layout layout, uint32_t nonce, const Features& features);

}  // namespace ckpt::bpf
