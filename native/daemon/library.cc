// library.cc: see library.h.
#include "library.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "../client/ebpf_ckpt.h"
#include "../error.h"

namespace ckpt {

namespace {

constexpr int kBacklog = 128;
constexpr uint64_t kCheckMs = 200;
constexpr uint64_t kPauseMs = 100;
constexpr int kAcceptsAtOnce = 16;
constexpr int kMostConnections = 4096;  // of a user
constexpr int kMostOfStrangers = 16;    // of a user who is not served
constexpr uint32_t kPartsKnown = kPartHeap | kPartData | kPartAnonymous | kPartShared | kPartSharedAll;

static_assert(uint32_t{kPartHeap} == CKPT_PART_HEAP && uint32_t{kPartData} == CKPT_PART_DATA &&
                  uint32_t{kPartAnonymous} == CKPT_PART_ANONYMOUS && uint32_t{kPartShared} == CKPT_PART_SHARED &&
                  uint32_t{kPartSharedAll} == CKPT_PART_SHARED_ALL,
              "the parts of ebpf_ckpt.h");

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw error(Code::kInternal, "The socket's path is too long: %s", path.c_str());
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

// Whether it can be served at all, as far as /proc tells; the program decides again, and for good. What is not dumpable belongs to root.
std::string refusal_of(const Client& client, uint32_t uid) {
  struct stat folder;
  if (fstatat(AT_FDCWD, ("/proc/" + std::to_string(client.pid)).c_str(), &folder, 0) != 0) return "This process is gone";
  if (folder.st_uid != uid) return "This process is not dumpable, or its effective user is not its real one: such are not served";
  return "";
}

// One connection speaks for a process: what another of its connections does must not touch the images of the first.
void require_owner(Client& client, uint64_t connection) {
  if (client.connection == 0) client.connection = connection;
  if (client.connection != connection) throw error(Code::kBusy, "Another connection of this process has contexts of its own");
}

std::vector<Range> keeps_of(const ckpt_wire_request& request) {
  std::vector<Range> keeps;
  for (const ckpt_wire_range& range : request.keep)
    if (range.start < range.end) keeps.push_back({page_down(range.start), page_up(range.end)});
  return keeps;
}

}  // namespace

Library::Library(Daemon& daemon) : daemon_(daemon) {
  const std::string& path = daemon.options.socket;
  const sockaddr_un address = address_of(path);
  const size_t slash = path.rfind('/');
  if (slash != std::string::npos && slash > 0) mkdir(path.substr(0, slash).c_str(), 0755);
  listener_ = Fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // Whoever held the lock before us is gone, and so is what listened here.
  unlink(path.c_str());
  if (!listener_ || bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      chmod(path.c_str(), 0666) != 0 || listen(listener_.get(), kBacklog) != 0)
    throw error(Code::kInternal, "Cannot listen at %s: %s", path.c_str(), errno_text(errno).c_str());
  daemon_.loop.watch(listener_.get(), [this] { accept(); });
}

Library::~Library() {
  daemon_.loop.forget(listener_.get());
  while (!connections_.empty()) close(connections_.begin()->first);
  unlink(daemon_.options.socket.c_str());
}

// A few at a time, and one message at a time below: whoever floods us waits for the others.
void Library::accept() {
  for (int i = 0; i < kAcceptsAtOnce; i++)
    if (!accept_one()) return;
}

bool Library::accept_one() {
  Fd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) {
    // No descriptors: the listener stays readable, and is left alone for a moment.
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
      daemon_.loop.forget(listener_.get());
      daemon_.loop.after(kPauseMs, [this] { daemon_.loop.watch(listener_.get(), [this] { accept(); }); });
    }
    return false;
  }
  ucred peer{};
  socklen_t length = sizeof peer;
  if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.pid == 0) return true;
  const auto of_uid =
      std::count_if(connections_.begin(), connections_.end(), [&](const auto& each) { return each.second.uid == peer.uid; });
  if (of_uid >= (is_served(peer.uid) ? kMostConnections : kMostOfStrangers)) return true;
  const uint64_t id = ++ids_;
  const int fd = socket.get();
  connections_.emplace(id, Connection{id, std::move(socket), peer.pid, peer.uid});
  daemon_.loop.watch(fd, [this, id] { receive(id); });
  return true;
}

bool Library::is_served(uint32_t uid) const {
  const auto& uids = daemon_.options.uids;
  return std::find(uids.begin(), uids.end(), uid) != uids.end();
}

void Library::receive(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  ckpt_wire_request request;
  const ssize_t got = recv(found->second.socket.get(), &request, sizeof request, MSG_TRUNC);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got != sizeof request || request.version != CKPT_WIRE_VERSION) return close(id);
  request.name[sizeof request.name - 1] = 0;
  take(found->second, request);
}

void Library::take(Connection& connection, const ckpt_wire_request& request) {
  if (!connection.asked) connection.request = request;
  try {
    switch (request.type) {
      case CKPT_WIRE_SAVE:
      case CKPT_WIRE_RECOVER:
        return begin(connection, request);
      case CKPT_WIRE_FORGET:
        return forget_image(connection, request);
      case CKPT_WIRE_CANCEL:
        if (connection.asked) fail(connection, connection.request.serial, ECANCELED, "It was ended by the program's callback");
        return;
      default:
        throw error(Code::kInternal, "The daemon does not know request %u: is the library newer?", request.type);
    }
  } catch (const Error& reason) {
    fail(connection, request.serial, errno_of(reason.code()), reason.what());
  } catch (const std::exception& reason) {
    fail(connection, request.serial, EIO, reason.what());
  }
}

void Library::begin(Connection& connection, const ckpt_wire_request& request) {
  const bool save = request.type == CKPT_WIRE_SAVE;
  if (connection.asked) throw error(Code::kBusy, "An operation of this process is under way");
  if (!is_served(connection.uid))
    throw error(Code::kCapability, "The daemon does not serve user %u: --allow-uid %u would", connection.uid, connection.uid);
  if ((request.parts & ~kPartsKnown) != 0) throw error(Code::kInternal, "The daemon does not know all the parts asked for");
  Client& client = daemon_.client(connection.pid);
  const std::string refused = refusal_of(client, connection.uid);
  if (!refused.empty()) throw error(Code::kCapability, "%s", refused.c_str());
  if (client.busy != Client::Busy::kNo) throw error(Code::kBusy, "An operation of this process is under way already");
  require_owner(client, connection.id);
  if (!save && client.images.count(request.name) == 0)
    throw error(Code::kUnknown, "Nothing was saved under that name by this process as it is now");

  connection.extent = daemon_.extents.take();
  connection.asked = true;
  client.busy = Client::Busy::kLibrary;
  connection.last_done = 0;
  connection.since_ns = daemon_.loop.waited_ns();
  ckpt_client entry{};
  entry.state = CKPT_CLIENT_EXPECTED;
  const bpf::Phase phase = save ? bpf::Phase::kStore : bpf::Phase::kRestore;
  daemon_.service.write_client(phase, static_cast<uint32_t>(connection.pid), connection.extent, entry);
  ckpt_wire_reply go{};
  go.op = connection.extent;
  go.nonce = daemon_.session().nonce;
  send(connection, CKPT_WIRE_GO, go);
  daemon_.loop.after(kCheckMs, [this, id = connection.id] { check(id); });
}

void Library::forget_image(Connection& connection, const ckpt_wire_request& request) {
  Client* const client = daemon_.find(connection.pid);
  if (connection.asked) throw error(Code::kBusy, "An operation of this process is under way");
  if (client != nullptr) require_owner(*client, connection.id);
  if (client == nullptr || client->images.erase(request.name) == 0) throw error(Code::kUnknown, "Nothing was saved under that name");
  send(connection, CKPT_WIRE_DONE);
  daemon_.tell_totals();
}

Library::Connection* Library::with_op(uint32_t tgid, uint32_t op) {
  for (auto& [id, connection] : connections_)
    if (connection.asked && connection.extent == op && static_cast<uint32_t>(connection.pid) == tgid) return &connection;
  return nullptr;
}

Told Library::told(const Connection& connection) const {
  return {connection.pid, connection.uid, false, connection.request.type == CKPT_WIRE_RECOVER, connection.request.name};
}

template <typename Work>
void Library::guarded(Connection& connection, Work work) {
  const uint32_t serial = connection.request.serial;
  try {
    work();
  } catch (const Error& reason) {
    fail(connection, serial, errno_of(reason.code()), reason.what());
  } catch (const std::exception& reason) {
    fail(connection, serial, EIO, reason.what());
  }
}

void Library::armed(const ckpt_event& event) {
  Connection* const connection = with_op(event.tgid, event.op);
  // The marker may have been opened twice: the second time there is an operation already.
  if (connection == nullptr || connection->operation) return;
  guarded(*connection, [&] { plan(*connection); });
}

void Library::plan(Connection& connection) {
  const ckpt_wire_request& request = connection.request;
  const bpf::Phase phase = request.type == CKPT_WIRE_SAVE ? bpf::Phase::kStore : bpf::Phase::kRestore;
  ckpt_client entry;
  if (!daemon_.service.read_client(phase, static_cast<uint32_t>(connection.pid), connection.extent, entry) ||
      entry.state != CKPT_CLIENT_ARMED)
    return;
  Client& client = *daemon_.find(connection.pid);
  client.bind(entry.identity);
  send(connection, CKPT_WIRE_ARMED);
  daemon_.report.armed(told(connection));
  Wish wish{phase,
            connection.extent,
            request.name,
            request.parts ? request.parts : uint32_t{kPartsDefault},
            keeps_of(request),
            request.pages_per_trigger,
            request.report != 0};
  connection.operation = std::make_unique<ClientOperation>(daemon_, client, std::move(wish), connection.extent);
  ClientOperation& operation = *connection.operation;
  operation.plan();
  if (operation.all_at_once()) {
    operation.carry_through();
    return end(connection);
  }
  operation.open(false);
  batch(connection);
}

void Library::batch(Connection& connection) {
  const ClientOperation& operation = *connection.operation;
  ckpt_wire_reply reply{};
  reply.triggers = operation.triggers();
  reply.wait = operation.wish().report || operation.writes_here();
  send(connection, CKPT_WIRE_BATCH, reply);
}

void Library::moved(const ckpt_event& event) {
  Connection* const connection = with_op(event.tgid, event.op);
  if (connection == nullptr || !connection->operation) return;
  guarded(*connection, [&] {
    ClientOperation& operation = *connection->operation;
    if (operation.advance()) return end(*connection);
    send(*connection, CKPT_WIRE_MOVED);
    if (!operation.triggered()) batch(*connection);
  });
}

// The operation is complete.
void Library::end(Connection& connection) {
  send(connection, CKPT_WIRE_DONE);
  connection.operation.reset();
  connection.asked = false;
  free_client(connection.pid);
}

void Library::free_client(pid_t pid) {
  Client* const client = daemon_.find(pid);
  if (client != nullptr && client->busy == Client::Busy::kLibrary) client->busy = Client::Busy::kNo;
  daemon_.tell_totals();
}

void Library::ended(const ckpt_event& event) {
  Connection* const connection = with_op(event.tgid, event.op);
  if (connection == nullptr) return;
  if (Client* const client = daemon_.find(connection->pid)) client->drop();
  fail(*connection, connection->request.serial, ENOENT,
       "This process is no longer the one that saved: its credentials or its dumpability changed");
}

void Library::fail(Connection& connection, uint32_t serial, int number, const std::string& message) {
  daemon_.report.failed(told(connection), strerrorname_np(number), message);
  ckpt_wire_reply reply{};
  reply.error = number;
  strncpy(reply.text, message.c_str(), sizeof reply.text - 1);
  if (serial == connection.request.serial) abandon(connection);
  reply.serial = serial;
  send(connection, CKPT_WIRE_FAILED, reply);
}

// Ends the operation under way, whatever has come of it.
void Library::abandon(Connection& connection) {
  if (!connection.asked) return;
  connection.asked = false;
  if (connection.operation) {
    connection.operation.reset();
  } else {
    const bpf::Phase phase = connection.request.type == CKPT_WIRE_SAVE ? bpf::Phase::kStore : bpf::Phase::kRestore;
    daemon_.service.delete_client(phase, static_cast<uint32_t>(connection.pid), connection.extent);
    daemon_.extents.give(connection.extent);
  }
  free_client(connection.pid);
}

void Library::close(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  abandon(connection);
  daemon_.loop.forget(connection.socket.get());
  const pid_t pid = connection.pid;
  connections_.erase(found);
  Client* const client = daemon_.find(pid);
  if (client == nullptr || client->connection != id) return;
  client->connection = 0;
  const uint64_t freed = client->held_bytes();
  client->drop();
  if (freed > 0) daemon_.report.gone(pid, freed);
  daemon_.forget_if_idle(pid);
  daemon_.tell_totals();
}

void Library::sweep() {
  std::vector<uint64_t> asked;
  for (const auto& [id, connection] : connections_)
    if (connection.asked) asked.push_back(id);
  for (const uint64_t id : asked) {
    const Connection& connection = connections_.at(id);
    ckpt_event event{};
    event.tgid = static_cast<uint32_t>(connection.pid);
    event.op = connection.extent;
    if (connection.operation) {
      moved(event);
    } else {
      armed(event);
    }
  }
}

// The socket may live on in a child.
void Library::client_gone(pid_t pid) {
  std::vector<uint64_t> gone;
  for (const auto& [id, connection] : connections_)
    if (connection.pid == pid) gone.push_back(id);
  for (const uint64_t id : gone) close(id);
}

void Library::finish_recovers() {
  for (auto& [id, connection] : connections_) {
    if (!connection.operation || !connection.operation->changed()) continue;
    guarded(connection, [&, &who = connection] {
      who.operation->carry_through();
      end(who);
    });
  }
}

void Library::send(Connection& connection, uint32_t type, ckpt_wire_reply reply) {
  reply.type = type;
  if (reply.serial == 0) reply.serial = connection.request.serial;
  if (const ClientOperation* const operation = connection.operation.get()) {
    reply.done_pages = operation->done_pages();
    reply.total_pages = operation->total_pages();
    reply.done_bytes = operation->done_bytes();
    reply.total_bytes = operation->total_bytes();
  }
  // The library reads one answer for each thing it does, so there is room; whoever does not read is cut off by his own stall.
  ::send(connection.socket.get(), &reply, sizeof reply, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// Gives up an operation whose client does nothing for it.
void Library::check(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end() || !found->second.asked) return;
  Connection& connection = found->second;
  const uint64_t done = connection.operation ? connection.operation->done_pages() : 0;
  if (done != connection.last_done) connection.since_ns = daemon_.loop.waited_ns();
  connection.last_done = done;
  if (daemon_.loop.waited_ns() - connection.since_ns > daemon_.options.stall_ms * uint64_t{1000000})
    return fail(connection, connection.request.serial, ETIMEDOUT,
                connection.operation ? "The program stopped triggering half-way"
                                     : "The marker was not seen: is the process allowed to be served, and are its system calls filtered?");
  daemon_.loop.after(kCheckMs, [this, id] { check(id); });
}

}  // namespace ckpt
