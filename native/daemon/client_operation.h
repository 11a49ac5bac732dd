// client_operation.h: one save or recover of a client under way: planned, moved batch by batch, committed or abandoned. How the client is
// told is not its concern.
#pragma once

#include <memory>

#include "daemon.h"
#include "transfer.h"

namespace ckpt {

struct Wish {
  bpf::Phase phase;
  uint32_t op;  // of the key: a library client's extent, or CKPT_OP_BARE
  std::string name;
  uint32_t parts;           // of a save
  std::vector<Range> keep;  // of a save
  uint32_t pages_per_trigger;
  bool report;  // an event at each trigger
};

class ClientOperation {
 public:
  // The client has been bound. `extent` is taken by the caller and given back by this. Throws kBusy, kUnknown (nothing to recover),
  // kPoisoned.
  ClientOperation(Daemon& daemon, Client& client, Wish wish, uint32_t extent);
  // Abandons it unless it is complete: what was saved so far is freed; what was recovered so far leaves the client poisoned.
  ~ClientOperation();
  ClientOperation(const ClientOperation&) = delete;
  ClientOperation& operator=(const ClientOperation&) = delete;

  // Plans, while the client waits or is held, and lays the first batch. Of a recover, what needs no image is put back at once (pages that
  // were not there at the save). Throws kNoRoom, kUnmapped, kBusy, kUnreadable, ...
  void plan();

  // Lets the client's triggers move: the entry is MOVING from here on.
  void open(bool hold);
  // All is moved, and the client is on its own: what stops it from here on is none of ours.
  void set_free();

  // After CKPT_EVENT_MOVED. True when everything is moved and the image is in force (or the memory back).
  bool advance();

  // Moves what is left without the client: it is held, or looks too rarely. As advance().
  bool move_rest();

  // The same to the very end. Throws kNoProgress if a trigger does not come to its end.
  void carry_through();

  // A recover whose bytes the daemon writes, at no pace that the client chose, is best done in one go while the client waits; and what has
  // nothing to be triggered is done.
  bool all_at_once() const;

  // As the program saw it when the operation began.
  const ckpt_identity& identity() const { return identity_; }
  bool triggered() const { return transfer_ && transfer_->claimed_any(); }
  uint32_t triggers() const { return transfer_->triggers(); }
  // A recover that has written something.
  bool changed() const { return changed_; }
  bool writes_here() const { return wish_.phase == bpf::Phase::kRestore && !daemon_.kernel_writer; }

  const Wish& wish() const { return wish_; }
  Client& client() const { return client_; }
  uint32_t extent() const { return extent_; }
  uint64_t done_pages() const { return moved_pages_ + (transfer_ ? transfer_->pages() : 0); }
  uint64_t done_bytes() const { return moved_bytes_ + (transfer_ ? transfer_->bytes() : 0); }
  uint64_t total_pages() const { return total_pages_; }
  uint64_t total_bytes() const { return total_bytes_; }
  Told told() const;

 private:
  void plan_save();
  void plan_recover();
  void add_runs(const std::vector<Range>& ranges);
  bool add_late_pages();
  void require_ceilings(uint64_t pages) const;
  bool next_batch();
  bool settle();
  void begin_transfer(const std::vector<Run>& runs);
  Coverage restorable(const Coverage& then);
  void write_entry(uint32_t flags);
  void put_back(const std::vector<Reset>& resets);
  void complete();

  Daemon& daemon_;
  Client& client_;
  const Wish wish_;
  const uint32_t extent_;
  const ckpt_identity identity_;
  std::unique_ptr<ClientImage> draft_;        // of a save
  std::shared_ptr<const ClientImage> image_;  // of a recover: its pages stay until this ends
  std::vector<Run> runs_;                     // of the transfer under way
  std::unique_ptr<Transfer> transfer_;
  uint64_t moved_pages_ = 0, moved_bytes_ = 0;  // by transfers before this one
  uint64_t total_pages_ = 0, total_bytes_ = 0;
  uint64_t began_ns_;
  int late_rounds_ = 0;
  bool changed_ = false;  // a recover has written something
  bool complete_ = false;
};

// What an error is to a client.
int errno_of(Code code);

}  // namespace ckpt
