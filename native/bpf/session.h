// session.h: a loaded BPF object in force: its maps, its two attachments, and the two syscalls that drive it.
//
// The state is plain data: it lives in the arena (rewind/arena.h), so that a rewind of the process does not roll back what the
// kernel holds for us. Nothing of libbpf survives load().
#pragma once

#include <linux/types.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

extern "C" {
#include "../../bpf/abi.h"
}

namespace ckpt::bpf {

enum class Layout : uint32_t { kFast, kSeed };
enum class Phase : uint32_t { kStore, kRestore };

// Where the session's shared memory is mapped: addresses inside the arena, given by its owner.
struct Windows {
  void* copy;     // copy_bytes(layout) bytes
  void* globals;  // the object's .bss: a page, or as many as serve_abi.h makes it
};

struct Session {
  Layout layout;
  bool loaded;
  bool attached;
  bool kernel_writer;  // the programs were loaded with bpf_probe_write_user
  uint32_t nonce;      // of every tag, see abi.h
  uint32_t tgid;       // ours, as the kernel counts
  // Map and program descriptors, close-on-exec.
  int data_map, store_map, restore_map, copy_map;
  int on_openat, on_access;      // programs
  int perf_openat, perf_access;  // attachments, -1 while detached
  void* copy;                    // copy_map, mapped read-write
  ckpt_globals* globals;         // mapped read-write
  void* globals_window;          // where, ...
  size_t globals_bytes;          // ... and how much
  // The markers, in memory that is always present: the programs cannot read a path that is not.
  char ready[2][CKPT_PATH_MAX];     // by Phase
  char complete[2][CKPT_PATH_MAX];  // by Phase
};

// Bytes of copy_map in a layout.
size_t copy_bytes(Layout layout);

// Loads the object and learns our own tgid. Leaves `session` as it was when it throws (kCapability, kKernel, kNoBtf, kLockdown,
// kTracepoint, kBusy, kNoRoom, kInternal). The session is attached when this returns.
void load(Session& session, Layout layout, const Windows& windows);

struct Features;
struct Object;

// The same with an object that `make` loads for a nonce. Its globals begin as ckpt_globals do.
using MakeObject = std::function<Object(uint32_t nonce, const Features& features)>;
void load(Session& session, Layout layout, const Windows& windows, const MakeObject& make);

// Detaches, and gives back maps, programs and windows. Nothing to do when it is not loaded.
void unload(Session& session) noexcept;

// Attaches the two programs; nothing to do when they are. 0.3-0.5 ms each. Throws kTracepoint, kCapability, kBusy (64 programs on the
// tracepoint: it waits and tries again first, then says how many are attached), kInternal.
void attach(Session& session);

// Detaches them. The kernel takes 50-90 ms for each: never on a hot path.
void detach(Session& session);

// The header of the queue of an operation, and its pieces (fast layout).
inline ckpt_queue* queue_of(const Session& s, uint32_t op) {
  return static_cast<ckpt_queue*>(s.copy) + static_cast<size_t>(op) * CKPT_EXTENT;
}
inline ckpt_piece* pieces_of(const Session& s, uint32_t op) { return reinterpret_cast<ckpt_piece*>(queue_of(s, op) + 1); }

// The control page and the bounce buffer of an operation (seed layout).
inline ckpt_seed* seed_of(const Session& s, uint32_t op) {
  return reinterpret_cast<ckpt_seed*>(static_cast<char*>(s.copy) + size_t{CKPT_SEED_CTL(op)} * CKPT_PAGE);
}
inline char* bounce_of(const Session& s, uint32_t op) { return static_cast<char*>(s.copy) + size_t{CKPT_SEED_BOUNCE(op)} * CKPT_PAGE; }

// Opens the marker, while globals->armed is not 0: the program makes (or re-uses) the operation's entry, and walks the VMAs if `walk`. What
// came of it stands in the queue's (seed: control page's) `armed` and in the entry; an openat() that the program missed does nothing.
inline void open_marker(const Session& s, Phase phase, uint32_t op, bool walk) {
  // No directory has this descriptor, so nothing is looked up; -100 would be AT_FDCWD.
  constexpr long kNoDirectory = -1;
  syscall(SYS_openat, kNoDirectory, s.ready[static_cast<size_t>(phase)], 0L, CKPT_TAG(s.nonce, walk ? CKPT_TAG_WALK : 0, op));
}

// One trigger. `yours`: what is restored is left to user space, even where the kernel may write.
inline void trigger(const Session& s, Phase phase, uint32_t op, bool yours = false) {
  syscall(SYS_access, s.complete[static_cast<size_t>(phase)], CKPT_TAG(s.nonce, yours ? CKPT_TAG_YOURS : 0, op));
}

// Reads all mappings that the walk recorded in an operation's entry, header into `header`. False if there is no entry.
bool read_entry(const Session& s, Phase phase, uint32_t op, ckpt_entry& header, std::vector<ckpt_mapping>& mappings);

// Puts `mappings` in the operation's entry in place of what the walk recorded (seed layout: the plan). Throws kNoRoom, kInternal.
void write_entry(const Session& s, Phase phase, uint32_t op, const std::vector<ckpt_mapping>& mappings);

// Deletes the entry, and its chunks if it may have any beyond the header; it is no error if there are none.
void delete_entry(const Session& s, Phase phase, uint32_t op, bool chunks);

// Segments (fast layout). Makes an array of `values` x CKPT_VALUE bytes; returns its descriptor. Throws kNoRoom, kInternal.
int create_segment(uint32_t values);
// Fills or empties a slot of data_map. Waits for an RCU grace period, 8-20 ms: never on a hot path.
void set_slot(const Session& s, uint32_t slot, int segment_fd);
void clear_slot(const Session& s, uint32_t slot);

// Seed layout: deletes elements; those that are not there are no error. False if the kernel refuses. Allocates nothing.
bool delete_pages(const Session& s, const ckpt_page_key* keys, size_t count) noexcept;
// Elements that data_map of the seed layout has room for on this kernel.
uint32_t seed_capacity();

}  // namespace ckpt::bpf
