// notify.cc: one datagram to the socket that the service manager named.
#include "notify.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "../fd.h"

namespace ckpt {

void notify_manager(const char* state) noexcept {
  const char* path = getenv("NOTIFY_SOCKET");
  if (!path || (path[0] != '/' && path[0] != '@') || path[1] == '\0') return;
  const size_t length = strlen(path);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (length > sizeof(address.sun_path)) return;
  memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';  // abstract: its name begins with a zero and ends with its length

  const Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return;
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  sendto(socket.get(), state, strlen(state), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address), bytes);
}

}  // namespace ckpt
