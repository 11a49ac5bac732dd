// protect.h: lifts the protection of mappings for the time of a restore.
#pragma once

#include <vector>

#include "mappings.h"

namespace ckpt {

// Made writable while this lives, as they were when it ends.
class WritableScope {
 public:
  // Mappings that are writable already are left alone. Throws kUnwritable, with everything as it was.
  explicit WritableScope(const std::vector<Mapping>& mappings);
  // As they were, as far as that goes.
  ~WritableScope();
  WritableScope(const WritableScope&) = delete;
  WritableScope& operator=(const WritableScope&) = delete;

  // Gives the protections back now. Throws kInternal if the kernel refuses.
  void end();

 private:
  int restore() noexcept;  // 0, or why not

  std::vector<Mapping> lifted_;  // page-aligned, with the protection to give back
};

}  // namespace ckpt
