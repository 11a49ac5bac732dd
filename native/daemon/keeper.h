// keeper.h: the process that continues held clients if the daemon dies.
//
// The BPF program holds a bare client by SIGSTOP. Whatever ends the daemon must not leave it so: the keeper, forked before anything is
// attached, waits for the daemon's end and then continues every process that has a bare entry in store_map or restore_map and is stopped.
// The maps outlive the daemon because the keeper has descriptors of them; it must have none of the attachments.
#pragma once

#include <sys/types.h>

#include "../fd.h"

namespace ckpt {

class Keeper {
 public:
  // Forks. To be called before threads are started and before anything is loaded. Throws kInternal.
  Keeper();
  // Ends it, without continuing anybody: the daemon has done so.
  ~Keeper();
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  // Hands it the two entry maps (SCM_RIGHTS). Throws kInternal.
  void guard(int store_map, int restore_map);

  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  Fd channel_;
};

// Continues every process that has a bare entry in one of the maps and is stopped. Both the keeper and the daemon at its end use it.
void continue_held(int store_map, int restore_map) noexcept;

}  // namespace ckpt
