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
  std::map<std::string, ClientImage> images;
  bool poisoned = false;  // a restore broke off: half of its memory is of then, half of now
  bool busy = false;      // an operation is under way or waits
  bool connected = false;

  uint64_t held_bytes() const;
  // Takes note of the identity that a program saw. If it is another than before, all images end and the address space is opened anew.
  void bind(const ckpt_identity& seen);
  // It is not the process any more that its images are of.
  void drop() noexcept;
  void signal(int number) const noexcept;
  // Every thread is stopped, by a signal or a tracer.
  bool stopped() const;
};

}  // namespace ckpt
