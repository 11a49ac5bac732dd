// bare.h: clients without a library: held at the marker, one at a time for each /tmp, told by files.
//
// A bare client is held twice. At the marker: until it is its turn and no stale completion file lies there. And at its first look for the
// completion file: only then is it through with opening, writing and closing the marker, which touches memory, so only then is planned.
#pragma once

#include <deque>

#include "client_operation.h"
#include "completion.h"

namespace ckpt {

class Bare {
 public:
  explicit Bare(Daemon& daemon) : daemon_(daemon) {}

  // Events of the programs.
  void armed(const ckpt_event& event);
  void moved(const ckpt_event& event);
  void ended(const ckpt_event& event);
  // A path was opened that was not in memory: if it is a marker, its client is served like any other, though it could not be held.
  void unread(const ckpt_event& event);
  // Such a client looked for a completion file before that, and is held.
  void held(const ckpt_event& event);
  // Events were lost: takes up every armed entry that it does not know.
  void sweep();

  void client_gone(pid_t pid);
  // At the daemon's end: restores that have begun are carried through, so that nobody is left with half of his memory of then.
  void finish_restores();
  // When the programs are detached: nobody is held any more.
  void let_all_go();

 private:
  using Place = std::pair<uint64_t, uint64_t>;  // device and inode of a /tmp

  enum class Step {
    kWaiting,   // for its turn
    kLooking,   // let go; its first look for the completion file is awaited
    kStopping,  // held at that look; awaited until all its threads have stopped
    kMoving,
    kFinished,  // the completion file is there, and not yet noticed
  };

  // A client being served or waiting.
  struct Visit {
    uint64_t id;
    pid_t pid;
    bpf::Phase phase;
    Folder folder;
    Step step = Step::kWaiting;
    bool held = false;
    uint64_t since_ns = 0;   // of the step
    uint64_t last_done = 0;  // pages, when it was last looked at for a stall
    uint64_t looked_ns = 0;  // when it was first known to have looked for the completion file
    int remakes = 0;         // of the completion file
    std::unique_ptr<ClientOperation> operation;
  };

  struct Turn {
    pid_t current = 0;
    std::deque<pid_t> waiting;
  };

  Visit* find(pid_t pid);
  void enter(pid_t pid, bpf::Phase phase, bool held);
  void begin_next(Place place);
  void let_look(Visit& visit);
  void at_first_look(Visit& visit);
  void await_stop(pid_t pid, uint64_t id, uint64_t deadline_ns);
  void plan(Visit& visit);
  void finish(Visit& visit);
  void fail(Visit& visit, int number, const std::string& message);
  void leave(pid_t pid);
  void end_visit(pid_t pid, bool with_entry);
  void go_on(Visit& visit);
  void keep_entry(const Visit& visit, uint32_t state);
  void set_step(Visit& visit, Step step);
  void look_after(Visit& visit);
  void check(pid_t pid, uint64_t id);
  bool noticed(Visit& visit);
  void make_file(const Visit& visit);
  bool stalled(Visit& visit);
  Told told(const Visit& visit) const;
  template <typename Work>
  void guarded(Visit& visit, Work work);

  Daemon& daemon_;
  std::map<pid_t, Visit> visits_;
  std::map<Place, Turn> turns_;
  uint64_t ids_ = 0;
};

}  // namespace ckpt
