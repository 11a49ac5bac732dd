// serve.h: the daemon: clients, their images and operations, from the first marker to the last byte.
#pragma once

#include "options.h"
#include "report.h"

namespace ckpt {

// Serves until SIGTERM or SIGINT; returns the exit status. `ready_fd`: gets one byte when clients may come, -1: none. Throws Error if it
// cannot begin.
int serve(const ServeOptions& options, Report& report, int ready_fd);

}  // namespace ckpt
