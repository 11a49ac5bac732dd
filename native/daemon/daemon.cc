// daemon.cc: see daemon.h.
#include "daemon.h"

#include <mutex>

#include "../engine/janitor.h"

namespace ckpt {

Client* Daemon::find(pid_t pid) {
  const auto found = clients.find(pid);
  return found == clients.end() ? nullptr : found->second.get();
}

Client& Daemon::client(pid_t pid) {
  // Its end may be known before its event has come, and another have its pid.
  if (const Client* const known = find(pid); known != nullptr && known->ended()) forget(pid);
  if (Client* const known = find(pid)) return *known;
  auto made = std::make_unique<Client>(pid);
  Client& client = *made;
  loop.watch(client.pidfd.get(), [this, pid] { forget(pid); });
  clients[pid] = std::move(made);
  return client;
}

void Daemon::forget_if_idle(pid_t pid) {
  const Client* const client = find(pid);
  if (client == nullptr || client->busy != Client::Busy::kNo || client->connection != 0 || client->poisoned || !client->images.empty())
    return;
  loop.forget(client->pidfd.get());
  clients.erase(pid);
}

void Daemon::forget(pid_t pid) {
  if (on_exit) on_exit(pid);
  Client* const client = find(pid);
  if (client == nullptr) return;
  const uint64_t freed = client->held_bytes();
  loop.forget(client->pidfd.get());
  clients.erase(pid);
  if (freed > 0) report.gone(pid, freed);
  tell_totals();
}

void Daemon::tell_totals() {
  Totals totals{};
  totals.pages_moved = pages_moved;
  for (const auto& [pid, client] : clients) {
    totals.clients++;
    totals.operations += client->busy != Client::Busy::kNo;
    totals.images += static_cast<uint32_t>(client->images.size());
    totals.held_bytes += client->held_bytes() + client->draft_bytes;
  }
  report.totals(totals);
  trim_pool();
}

void Daemon::trim_pool() {
  if (trim_timer != 0) return;
  uint64_t keep;
  {
    const std::lock_guard<Lock> guard(arena.lock);
    keep = arena.settings.pool_bytes;
    if (pool_surplus(arena.pool, 0) == kNoSlot) return;
  }
  // What is over the bound goes soon, the rest when nobody has wanted it for a while.
  shrink_to(keep);
  trim_timer = loop.after(arena.settings.shrink_after_ms, [this] {
    trim_timer = 0;
    shrink_to(0);
  });
}

// Called from where nothing may fail: what cannot be freed now is tried again.
void Daemon::shrink_to(uint64_t keep) noexcept {
  try {
    shrink_pool(arena, keep);
  } catch (const std::exception& reason) {
    report.warn(reason.what());
  }
}

}  // namespace ckpt
