// complain.h: how the daemon's executable says that it cannot go on.
#pragma once

namespace ckpt {

// Within a catch block: says the exception on stderr, as `ebpf-ckpt-daemon: CODE: message` (a UsageError with the usage), and returns the
// exit status.
int complain() noexcept;

}  // namespace ckpt
