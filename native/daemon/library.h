// library.h: clients that use the C library: their connections, and the messages of client/wire.h.
#pragma once

#include "client_operation.h"

extern "C" {
#include "../client/wire.h"
}

namespace ckpt {

class Library {
 public:
  // Listens at options.socket, which everybody may connect to. Throws kInternal.
  explicit Library(Daemon& daemon);
  ~Library();  // the socket goes
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  // Events of the programs.
  void armed(const ckpt_event& event);
  void moved(const ckpt_event& event);
  void ended(const ckpt_event& event);

  // Events were lost: looks at every operation under way.
  void sweep();

  void client_gone(pid_t pid);
  // At the daemon's end: recovers that have begun are carried through, so that nobody is left with half of his memory of then.
  void finish_recovers();

 private:
  struct Connection {
    uint64_t id;
    Fd socket;
    pid_t pid;
    uint32_t uid;
    // The operation under way: between GO and the marker there is an extent only.
    bool asked = false;
    ckpt_wire_request request{};
    uint32_t extent = 0;
    std::unique_ptr<ClientOperation> operation;
    uint64_t last_done = 0, since_ns = 0;
  };

  void accept();
  bool accept_one();
  void receive(uint64_t id);
  void take(Connection& connection, const ckpt_wire_request& request);
  void begin(Connection& connection, const ckpt_wire_request& request);
  void forget_image(Connection& connection, const ckpt_wire_request& request);
  void plan(Connection& connection);
  void batch(Connection& connection);
  void end(Connection& connection);
  void fail(Connection& connection, uint32_t serial, int number, const std::string& message);
  void abandon(Connection& connection);
  void free_client(pid_t pid);
  bool is_served(uint32_t uid) const;
  void close(uint64_t id);
  void send(Connection& connection, uint32_t type, ckpt_wire_reply reply = {});
  void check(uint64_t id);
  Connection* with_op(uint32_t tgid, uint32_t op);
  Told told(const Connection& connection) const;
  template <typename Work>
  void guarded(Connection& connection, Work work);

  Daemon& daemon_;
  Fd listener_;
  std::map<uint64_t, Connection> connections_;
  uint64_t ids_ = 0;
};

}  // namespace ckpt
