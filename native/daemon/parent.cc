// parent.cc: PR_SET_PDEATHSIG, and the race with a parent that is dead before it is in force.
#include "parent.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

namespace ckpt {

void die_with(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) raise(SIGTERM);
}

pid_t die_with_caller() {
  const char* text = getenv(kParentVariable);
  if (!text) return 0;
  const pid_t parent = static_cast<pid_t>(strtol(text, nullptr, 10));
  unsetenv(kParentVariable);
  if (parent <= 0) return 0;
  die_with(parent);
  return parent;
}

}  // namespace ckpt
