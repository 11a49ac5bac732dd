// notify.h: tells a service manager how the daemon is (the protocol of sd_notify).
#pragma once

namespace ckpt {

// Sends a state ("READY=1", "STOPPING=1") to NOTIFY_SOCKET, if there is one. Never fails.
void notify_manager(const char* state) noexcept;

}  // namespace ckpt
