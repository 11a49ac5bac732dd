// run.h: `run -- PROGRAM`: a program beside a daemon of its own, or beside the one that serves already.
//
// The terminal is the program's: the daemon has a session of its own, so that ^C and ^Z are not for it, and shows no status line.
#pragma once

#include <sys/types.h>

#include "options.h"

namespace ckpt {

// Starts a daemon unless one serves this pid namespace, waits until it is ready, starts the program, passes signals on, and stops the
// daemon it started. Returns the program's exit status; if a signal ended it, ends this process by the same one. 127: there is no such
// program, 126: it cannot be executed, 1: no daemon. `parent`: of the process that this one must not outlive (parent.h), 0: none. If it
// dies the program gets SIGTERM, and SIGKILL if it is still there five seconds later.
int run_program(const Command& command, pid_t parent);

}  // namespace ckpt
