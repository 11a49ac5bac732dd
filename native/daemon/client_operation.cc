// client_operation.cc: see client_operation.h.
#include "client_operation.h"

#include <unistd.h>

#include <algorithm>

#include "../engine/clock.h"
#include "../engine/plan.h"
#include "../error.h"
#include "layout.h"

namespace ckpt {

namespace {

// A client that runs meanwhile may touch new pages as long as it likes.
constexpr int kLateRounds = 8;
constexpr uint64_t kMiB = 1 << 20;

unsigned long long mebibytes(uint64_t bytes) { return (bytes + kMiB - 1) / kMiB; }

void require_ceiling(const char* option, const std::string& whose, uint64_t ceiling, uint64_t held, uint64_t need) {
  if (ceiling == 0 || held + need <= ceiling) return;
  throw error(Code::kNoRoom, "The image needs %llu MiB; %s %llu MiB already, and %s allows %llu", mebibytes(need), whose.c_str(),
              mebibytes(held), option, mebibytes(ceiling));
}

std::vector<Range> ranges_of(const std::vector<Run>& runs) {
  std::vector<Range> ranges;
  ranges.reserve(runs.size());
  for (const Run& run : runs) ranges.push_back(run.range());
  return merged(std::move(ranges));
}

// The parts of `runs` outside of `ranges`; both sorted.
std::vector<Run> without(const std::vector<Run>& runs, const std::vector<Range>& ranges) {
  if (ranges.empty()) return runs;
  std::vector<Run> out;
  for (const Run& run : runs)
    for (const Range& part : subtract({run.range()}, ranges))
      out.push_back(
          {part.start, static_cast<uint32_t>(part.bytes()), run.slot, run.offset + static_cast<uint32_t>(part.start - run.addr), 0});
  return out;
}

bool by_address(const Run& a, const Run& b) { return a.addr < b.addr; }

}  // namespace

int errno_of(Code code) {
  switch (code) {
    case Code::kNoRoom:
      return ENOSPC;
    case Code::kUnmapped:
      return EFAULT;
    case Code::kBusy:
    case Code::kReentrant:
      return EBUSY;
    case Code::kUnknown:
    case Code::kDisposed:
      return ENOENT;
    case Code::kPoisoned:
      return ENOTRECOVERABLE;
    case Code::kAborted:
      return ECANCELED;
    case Code::kCapability:
      return EPERM;
    case Code::kNoProgress:
      return ETIMEDOUT;
    default:
      return EIO;
  }
}

ClientOperation::ClientOperation(Daemon& daemon, Client& client, Wish wish, uint32_t extent)
    : daemon_(daemon), client_(client), wish_(std::move(wish)), extent_(extent), identity_(client.identity), began_ns_(now_ns()) {}

ClientOperation::~ClientOperation() {
  // A bare client's entry may be needed on: bare.cc sees to it.
  if (wish_.op != CKPT_OP_BARE) daemon_.service.delete_client(wish_.phase, static_cast<uint32_t>(client_.pid), wish_.op);
  if (!complete_ && changed_ && same_identity(client_.identity, identity_)) client_.poisoned = true;
  client_.draft_bytes = 0;
  try {
    // A trigger may still be copying into pages that are about to be freed.
    daemon_.service.take_back(extent_);
    daemon_.extents.give(extent_);
  } catch (const Error& reason) {
    // The extent is never used again, and neither are the pages.
    daemon_.report.warn(reason.what());
    if (draft_) (void)draft_.release();
    if (image_) (void)new std::shared_ptr<const ClientImage>(image_);
  }
}

Told ClientOperation::told() const {
  return {client_.pid, identity_.uid, wish_.op == CKPT_OP_BARE, wish_.phase == bpf::Phase::kRestore, wish_.name};
}

void ClientOperation::plan() {
  if (wish_.phase == bpf::Phase::kStore) {
    plan_save();
  } else {
    plan_recover();
  }
}

void ClientOperation::plan_save() {
  if (client_.poisoned) throw error(Code::kPoisoned, "A recover of this process broke off half-way: recover it before saving again");
  draft_ = std::make_unique<ClientImage>();
  draft_->coverage = cover(client_.target, wish_.parts, wish_.keep);
  add_runs(captured_runs(client_.target, draft_->coverage));
  // The first trigger also proves that the address space is the one that armed.
  if (total_pages_ == 0) throw error(Code::kUnmapped, "There is nothing to save: no memory of this process is rolled back");
  daemon_.report.planned(told(), total_pages_, total_bytes_, static_cast<uint32_t>(draft_->coverage.mappings.size()));
}

void ClientOperation::add_runs(const std::vector<Range>& ranges) {
  uint64_t pages = 0;
  for (const Range& range : ranges) pages += range.pages();
  require_ceilings(pages);
  draft_->stores.push_back(std::make_unique<PageStore>(daemon_.arena, daemon_.session(), pages));
  draft_->pages += pages;
  draft_->bytes += pages * kPage;
  client_.draft_bytes = draft_->bytes;
  total_pages_ = draft_->pages;
  total_bytes_ = draft_->bytes;
  begin_transfer(place(ranges, draft_->stores.back()->extents()));
  draft_->runs.insert(draft_->runs.end(), runs_.begin(), runs_.end());
}

void ClientOperation::require_ceilings(uint64_t pages) const {
  const uint64_t need = draft_->bytes + pages * kPage, mine = client_.held_bytes();
  uint64_t of_uid = 0, of_all = 0;
  for (const auto& [pid, other] : daemon_.clients) {
    // Our own draft is in `need`.
    const uint64_t held = other->held_bytes() + (other.get() == &client_ ? 0 : other->draft_bytes);
    of_all += held;
    if (other->identity.uid == identity_.uid) of_uid += held;
  }
  require_ceiling("--max-process", "this process holds", daemon_.options.max_process_bytes, mine, need);
  require_ceiling("--max-uid", "its user holds", daemon_.options.max_uid_bytes, of_uid, need);
  require_ceiling("--max", "all clients hold", daemon_.options.max_bytes, of_all, need);
}

void ClientOperation::begin_transfer(const std::vector<Run>& runs) {
  if (transfer_) {
    moved_pages_ += transfer_->pages();
    moved_bytes_ += transfer_->bytes();
  }
  runs_ = runs;
  const bool by_program = wish_.phase == bpf::Phase::kStore || daemon_.kernel_writer;
  transfer_ = std::make_unique<Transfer>(daemon_, client_, wish_.phase, extent_, runs_, wish_.pages_per_trigger, by_program);
  next_batch();
}

// The pieces change only while no trigger is at them.
bool ClientOperation::next_batch() {
  daemon_.service.take_back(extent_);
  const bool any = transfer_->next_batch();
  daemon_.service.lend(extent_, wish_.phase, wish_.op, identity_);
  return any;
}

void ClientOperation::plan_recover() {
  const auto found = client_.images.find(wish_.name);
  if (found == client_.images.end()) {
    const std::string which = wish_.name.empty() ? "" : " under the name '" + wish_.name + "'";
    throw error(Code::kUnknown, "Nothing was saved%s by this process as it is now: an execve() or a change of credentials ends what was",
                which.c_str());
  }
  image_ = found->second;
  const ClientImage& image = *image_;
  const Coverage now = restorable(image.coverage);
  // What is not written back is not reset either: both runs and left out memory are out of its reach.
  const std::vector<Range> shared = shared_since(image.coverage, now);
  std::vector<Range> untouched = ranges_of(image.runs);
  untouched.insert(untouched.end(), shared.begin(), shared.end());
  const std::vector<Reset> back = resets(client_.target, image.coverage, merged(std::move(untouched)));
  total_pages_ = image.pages;
  total_bytes_ = image.bytes;
  for (const Range& range : shared) {
    const std::vector<Range> left = subtract({range}, subtract({range}, ranges_of(image.runs)));
    for (const Range& part : left) total_pages_ -= part.pages(), total_bytes_ -= part.bytes();
  }
  daemon_.report.planned(told(), total_pages_, total_bytes_, static_cast<uint32_t>(image.coverage.mappings.size()));
  changed_ = true;
  put_back(back);
  begin_transfer(without(image.runs, shared));
}

// What is covered now, once the layout is that of then again.
Coverage ClientOperation::restorable(const Coverage& then) {
  const Target& target = client_.target;
  Coverage now = cover(target, then.parts, then.left);
  const std::vector<LayoutChange> changes = layout_changes(target, then, now);
  if (!changes.empty()) {
    put_layout_back(target, changes, [this] { changed_ = true; });
    now = cover(target, then.parts, then.left);
  }
  require_restorable(target, then, now);
  return now;
}

void ClientOperation::put_back(const std::vector<Reset>& resets) {
  std::vector<char> bytes;
  for (const Reset& reset : resets) {
    if (reset.file == nullptr) {
      client_.target.clear(reset.range);
      continue;
    }
    for (uint64_t at = reset.range.start, end; at < reset.range.end; at = end) {
      end = std::min(reset.range.end, at + kMiB);
      bytes.resize(end - at);
      client_.target.file_bytes(*reset.file, {at, end}, bytes.data());
      client_.target.write({at, end}, bytes.data());
    }
  }
}

void ClientOperation::open(bool hold) { write_entry(hold ? CKPT_CLIENT_HOLD : 0); }

void ClientOperation::set_free() { write_entry(CKPT_CLIENT_FREE); }

void ClientOperation::write_entry(uint32_t flags) {
  ckpt_client entry{};
  entry.identity = identity_;
  entry.state = CKPT_CLIENT_MOVING;
  entry.extent = extent_;
  entry.flags = flags | (wish_.report ? CKPT_CLIENT_REPORT : 0) | (writes_here() ? CKPT_CLIENT_YOURS : 0);
  daemon_.service.write_client(wish_.phase, static_cast<uint32_t>(client_.pid), wish_.op, entry);
}

bool ClientOperation::all_at_once() const { return triggers() == 0 || (writes_here() && wish_.pages_per_trigger == 0 && !wish_.report); }

bool ClientOperation::settle() {
  const uint64_t before = done_pages();
  const bool drained = transfer_->settle();
  if (done_pages() != before) daemon_.report.progress(told(), done_pages(), total_pages_, done_bytes(), total_bytes_);
  return drained;
}

bool ClientOperation::advance() {
  while (settle()) {
    if (next_batch()) return false;
    if (wish_.phase == bpf::Phase::kRestore || !add_late_pages()) {
      complete();
      return true;
    }
  }
  return false;
}

bool ClientOperation::move_rest() {
  for (;;) {
    transfer_->claim_rest();
    if (advance()) return true;
    // A trigger is still at its pieces: it says so when it is through.
    if (transfer_->claimed_any()) return false;
  }
}

void ClientOperation::carry_through() {
  constexpr int kTries = 1000;
  constexpr useconds_t kTriggerUs = 1000;
  for (int i = 0; i < kTries; i++) {
    if (move_rest()) return;
    usleep(kTriggerUs);
  }
  throw error(Code::kNoProgress, "A trigger of process %d does not end", client_.pid);
}

bool ClientOperation::add_late_pages() {
  if (++late_rounds_ > kLateRounds) return false;
  std::sort(draft_->runs.begin(), draft_->runs.end(), by_address);
  const std::vector<Range> late = subtract(captured_runs(client_.target, draft_->coverage), ranges_of(draft_->runs));
  if (late.empty()) return false;
  add_runs(late);
  return true;
}

void ClientOperation::complete() {
  if (!same_identity(client_.identity, identity_))
    throw error(Code::kUnknown, "This process is no longer the one that asked, or has gone away from the daemon");
  complete_ = true;
  if (wish_.phase == bpf::Phase::kStore) {
    std::sort(draft_->runs.begin(), draft_->runs.end(), by_address);
    client_.images[wish_.name] = std::shared_ptr<const ClientImage>(std::move(draft_));
    client_.draft_bytes = 0;
  } else {
    client_.poisoned = false;
  }
  const char* const writer = wish_.phase == bpf::Phase::kStore ? "" : daemon_.kernel_writer ? "kernel" : "user";
  daemon_.report.done(told(), done_pages(), done_bytes(), now_ns() - began_ns_, writer);
  daemon_.tell_totals();
}

}  // namespace ckpt
