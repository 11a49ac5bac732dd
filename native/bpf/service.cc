// service.cc: see service.h.
#include "service.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <tuple>
#include <utility>

#include "../error.h"
#include "object.h"
#include "privileges.h"

namespace ckpt::bpf {

namespace {

static_assert(offsetof(ckpt_serve_globals, armed) == offsetof(ckpt_globals, armed) &&
                  offsetof(ckpt_serve_globals, tgid) == offsetof(ckpt_globals, tgid),
              "the hello of session.cc finds its words");

// A trigger is through in milliseconds; a virtual machine may have its CPU taken away meanwhile.
constexpr std::chrono::seconds kTriggerLimit{10};

ckpt_key client_key(uint32_t tgid, uint32_t op) { return ckpt_key{tgid, op, 0, 0}; }

int entry_map(const Session& session, Phase phase) { return phase == Phase::kStore ? session.store_map : session.restore_map; }

}  // namespace

Service::Service(Session& session, const Windows& windows, const std::vector<uint32_t>& uids) : session_(session) {
  load(session, Layout::kFast, windows, [&](uint32_t nonce, const Features& has) {
    Object object = load_serve_object(uids, nonce, has);
    ring_ = std::move(object.events);
    return object;
  });
  globals_ = reinterpret_cast<ckpt_serve_globals*>(session.globals);

  const auto take = [](void* self, void* data, size_t) {
    auto* const service = static_cast<Service*>(self);
    try {
      (*service->take_)(*static_cast<const ckpt_event*>(data));
      return 0;
    } catch (...) {
      service->thrown_ = std::current_exception();
      return -1;
    }
  };
  reader_ = ring_buffer__new(ring_.get(), take, this, nullptr);
  if (!reader_) {
    const int number = errno;
    unload(session_);
    throw refusal("mapping the ring buffer of events", number);
  }
}

Service::~Service() {
  ring_buffer__free(reader_);
  unload(session_);
}

int Service::events_fd() const { return ring_buffer__epoll_fd(reader_); }

void Service::drain(const std::function<void(const ckpt_event&)>& take) {
  take_ = &take;
  const int taken = ring_buffer__consume(reader_);
  take_ = nullptr;
  if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
  if (taken < 0) throw refusal("reading the ring buffer of events", -taken);
}

bool Service::read_client(Phase phase, uint32_t tgid, uint32_t op, ckpt_client& client) const {
  const ckpt_key key = client_key(tgid, op);
  if (bpf_map_lookup_elem(entry_map(session_, phase), &key, &client) == 0) return true;
  if (errno == ENOENT) return false;
  throw refusal("reading the entry of a client", errno);
}

void Service::write_client(Phase phase, uint32_t tgid, uint32_t op, const ckpt_client& client) {
  const ckpt_key key = client_key(tgid, op);
  if (bpf_map_update_elem(entry_map(session_, phase), &key, &client, BPF_ANY) == 0) return;
  if (errno == E2BIG) throw error(Code::kNoRoom, "There are %u operations of clients under way, the most there can be", CKPT_CLIENTS);
  throw refusal("writing the entry of a client", errno);
}

void Service::delete_client(Phase phase, uint32_t tgid, uint32_t op) noexcept {
  const ckpt_key key = client_key(tgid, op);
  bpf_map_delete_elem(entry_map(session_, phase), &key);
}

std::vector<ckpt_key> Service::clients(Phase phase) const {
  const int map = entry_map(session_, phase);
  std::vector<ckpt_key> keys;
  ckpt_key next;
  // An entry that goes while we stand on it sends us back to the start; entries that were seen before are left out of the result below.
  for (const ckpt_key* at = nullptr; keys.size() < 2 * size_t{CKPT_CLIENTS} && bpf_map_get_next_key(map, at, &next) == 0; at = &keys.back())
    keys.push_back(next);
  const auto order = [](const ckpt_key& a, const ckpt_key& b) { return std::tie(a.tgid, a.op) < std::tie(b.tgid, b.op); };
  const auto same = [](const ckpt_key& a, const ckpt_key& b) { return a.tgid == b.tgid && a.op == b.op; };
  std::sort(keys.begin(), keys.end(), order);
  keys.erase(std::unique(keys.begin(), keys.end(), same), keys.end());
  keys.erase(std::remove_if(keys.begin(), keys.end(), [](const ckpt_key& key) { return key.op == CKPT_OP_UNREAD; }), keys.end());
  return keys;
}

void Service::lend(uint32_t extent, Phase phase, uint32_t op, const ckpt_identity& borrower) noexcept {
  ckpt_extent& lent = globals_->extent[extent];
  lent.borrower = borrower;
  lent.phase = static_cast<__u32>(phase);
  lent.op = op;
  __atomic_store_n(&lent.open, 1, __ATOMIC_SEQ_CST);
}

void Service::take_back(uint32_t extent) {
  using Clock = std::chrono::steady_clock;
  ckpt_extent& lent = globals_->extent[extent];
  // The counterpart is enter_extent() of entries.h: it counts itself first and looks then, we close first and count then.
  __atomic_store_n(&lent.open, 0, __ATOMIC_SEQ_CST);
  const Clock::time_point limit = Clock::now() + kTriggerLimit;
  while (__atomic_load_n(&lent.users, __ATOMIC_SEQ_CST) != 0) {
    if (Clock::now() > limit)
      throw error(Code::kInternal, "A trigger has been at work in extent %u for %lld s", extent,
                  static_cast<long long>(kTriggerLimit.count()));
    sched_yield();
  }
}

}  // namespace ckpt::bpf
