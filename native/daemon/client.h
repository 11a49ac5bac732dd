// client.h: a process that is served: who it is, and the images it has.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../bpf/service.h"
#include "../engine/store.h"
#include "../fd.h"
#include "../memory/target.h"
#include "rollback.h"

namespace ckpt {

struct ClientImage {
  Coverage coverage;
  std::vector<Run> runs;                           // sorted by address
  std::vector<std::unique_ptr<PageStore>> stores;  // never kept: they go with the image
  uint64_t pages = 0, bytes = 0;
};

inline bool same_identity(const ckpt_identity& a, const ckpt_identity& b) { return memcmp(&a, &b, sizeof a) == 0; }

// Invariant: `target` reaches the address space that `identity` names. It was opened after a program had seen that identity, and every byte
// that is read from it or written to it follows a trigger at which a program saw the same identity again.
struct Client {
  explicit Client(pid_t pid);

  const pid_t pid;
  const Fd pidfd;  // readable when the process has ended
  Target target;
  ckpt_identity identity{};  // all zeros until it first armed
  // Shared with the operation that restores from one: an image that is dropped meanwhile keeps its pages until that is over.
  std::map<std::string, std::shared_ptr<const ClientImage>> images;
  uint64_t draft_bytes = 0;                                   // of the image being made
  bool poisoned = false;                                      // a restore broke off: half of its memory is of then, half of now
  enum class Busy { kNo, kBare, kLibrary } busy = Busy::kNo;  // an operation is under way or waits, and whose it is
  uint64_t connection = 0;                                    // the one that speaks for this process, 0: none

  uint64_t held_bytes() const;
  // Takes note of the identity that a program saw. If it is another than before, all images end and the address space is opened anew.
  void bind(const ckpt_identity& seen);
  // It is not the process any more that its images are of.
  void drop() noexcept;
  void signal(int number) const noexcept;
  bool ended() const;
  // As ckpt_identity has it, to the tick of /proc; 0 if the process is gone.
  uint64_t start_time() const;
  // Every thread is stopped, by a signal or a tracer.
  bool stopped() const;
};

}  // namespace ckpt
