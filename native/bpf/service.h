// service.h: the daemon's BPF object in force: who may be served, the entries of clients, and the events that the programs send.
//
// Its maps are a Session like any other, so that page stores, segments and the pool work with it unchanged.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <vector>

#include "../fd.h"
#include "session.h"

extern "C" {
#include "../../bpf/serve_abi.h"
}

struct ring_buffer;  // of libbpf

namespace ckpt::bpf {

class Service {
 public:
  // Loads serve.bpf.c for clients of these real uids, attaches its programs, and leaves maps and windows in `session` (layout kFast,
  // loaded, attached). `session` must outlive this. Throws what load() of session.h does, and kInternal for none or more than
  // CKPT_UIDS_MAX.
  Service(Session& session, const Windows& windows, const std::vector<uint32_t>& uids);
  ~Service();  // detaches; entries, maps and descriptors go
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  // Readable (poll, epoll) when there are events.
  int events_fd() const;
  // Hands over what there is, in order. Does not wait. What `take` throws comes out; events after that one wait for the next call.
  void drain(const std::function<void(const ckpt_event&)>& take);

  // Entries. `tgid` as the daemon's pid namespace counts.
  bool read_client(Phase phase, uint32_t tgid, uint32_t op, ckpt_client& client) const;   // false: no such entry
  void write_client(Phase phase, uint32_t tgid, uint32_t op, const ckpt_client& client);  // throws kNoRoom, kInternal
  // A client that runs may have opened its marker in this very moment: then its entry goes though it is ARMED, and the event comes after.
  // An ARMED event without an entry is answered by an EXPECTED entry and SIGCONT: the next trigger arms.
  void delete_client(Phase phase, uint32_t tgid, uint32_t op) noexcept;
  // The keys of all clients of a phase (without CKPT_OP_UNREAD): what is there when events were lost.
  std::vector<ckpt_key> clients(Phase phase) const;

  // Extents are lent to one operation at a time, and its triggers reach no other: an entry alone lets nothing move. Lends one, laid, to the
  // process that `borrower` describes; the entry may become MOVING before or after.
  void lend(uint32_t extent, Phase phase, uint32_t op, const ckpt_identity& borrower) noexcept;
  // Takes it back: no trigger is at work in it when this returns, and none will be. To be called before its queue or pieces are changed,
  // and before the memory they point to is given to another image. Throws kInternal if somebody stays in it for longer than can be.
  void take_back(uint32_t extent);

  const ckpt_serve_globals& globals() const { return *globals_; }
  const Session& session() const { return session_; }

 private:
  Session& session_;
  ckpt_serve_globals* globals_ = nullptr;
  Fd ring_;
  ring_buffer* reader_ = nullptr;
  const std::function<void(const ckpt_event&)>* take_ = nullptr;  // while drain() runs
  std::exception_ptr thrown_;                                     // by it
};

}  // namespace ckpt::bpf
