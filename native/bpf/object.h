// object.h: a BPF object opened, set up, verified by the kernel and reduced to descriptors. All of libbpf's loading is behind it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../fd.h"
#include "session.h"

namespace ckpt::bpf {

struct Features;

struct Object {
  Fd data_map, store_map, restore_map, copy_map;
  Fd globals_map;         // the object's .bss
  size_t globals_bytes;   // of it, whole pages
  size_t globals_offset;  // of ckpt_globals (serve.bpf.c: ckpt_serve_globals) in it
  Fd on_openat, on_access;
  Fd events;  // serve.bpf.c: the ring buffer
};

// Throws kCapability, kKernel, kLockdown, kNoRoom, kInternal.
Object load_object(Layout layout, uint32_t nonce, const Features& features);
// The daemon's, for clients of these real uids. Throws the same.
Object load_serve_object(const std::vector<uint32_t>& uids, uint32_t nonce, const Features& features);

}  // namespace ckpt::bpf
