// only_one.h: one daemon for each pid namespace; the lock names its holder.
#pragma once

#include <string>

#include "../fd.h"

namespace ckpt {

// Held until the object or the process ends. The file is /run/ebpf-ckpt/pid-<inode of the pid namespace>.lock; it holds the holder's pid.
class OnlyOne {
 public:
  // Throws kBusy: "Another daemon serves this pid namespace already: process 123 (/path/to/ebpf-ckpt-daemon)"; kInternal.
  OnlyOne();

 private:
  Fd file_;
};

// The pid in the lock, if somebody holds it; 0 if nobody serves, or if we may not look (the file is its owner's: whoever can open it can
// lock it).
int who_serves();

}  // namespace ckpt
