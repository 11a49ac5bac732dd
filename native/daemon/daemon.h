// daemon.h: what all parts of the daemon share: its clients, its settings, and the places in copy_map.
#pragma once

#include <map>
#include <memory>

#include "../bpf/service.h"
#include "../rewind/arena.h"
#include "client.h"
#include "extents.h"
#include "loop.h"
#include "options.h"
#include "report.h"

namespace ckpt {

struct Daemon {
  Arena& arena;
  Loop& loop;
  Report& report;
  const ServeOptions& options;
  bpf::Service& service;
  bool kernel_writer;  // of restores

  std::map<pid_t, std::unique_ptr<Client>> clients;
  Extents extents = {};  // of copy_map; their numbers are also the operation numbers of library clients
  uint64_t pages_moved = 0;
  uint64_t trim_timer = 0;

  const bpf::Session& session() const { return service.session(); }

  // The client of a pid, made if there is none. Throws kUnknown if the process is gone.
  Client& client(pid_t pid);
  Client* find(pid_t pid);
  // Forgets a client that has no images, no operation and no connection: its descriptors are not kept.
  void forget_if_idle(pid_t pid);
  // Forgets a client whose process ended, and frees its images.
  void forget(pid_t pid);

  // Called when a client's process has ended, before it is forgotten. Set by those who have something of it.
  std::function<void(pid_t)> on_exit;

  void tell_totals();
  // Frees segments that nobody needs: now, what the pool holds beyond its bound; the rest after a time of rest.
  void trim_pool();
  void shrink_to(uint64_t keep) noexcept;
};

}  // namespace ckpt
