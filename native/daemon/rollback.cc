// rollback.cc: see rollback.h.
#include "rollback.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "../engine/plan.h"
#include "../memory/sharers.h"

namespace ckpt {

namespace {

using Mappings = std::vector<NamedMapping>;

unsigned long long hex(uint64_t address) { return address; }

bool starts_with(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }

FileId file_of(const NamedMapping& mapping) { return {mapping.device, mapping.inode}; }

Error gone(const Target& target) {
  return error(Code::kUnmapped, "The memory of process %d is gone: it has ended, or runs another program", target.pid());
}

// [vdso], [vvar], [vsyscall], [uprobes] and whatever kernels will invent: not the process's to write.
bool is_kernels(const NamedMapping& mapping) {
  return starts_with(mapping.name, "[") && mapping.name != "[heap]" && mapping.name != "[stack]" && !starts_with(mapping.name, "[anon");
}

bool is_shared_anonymous(const NamedMapping& mapping, const Backing& backing) {
  return mapping.shared && (backing.shm || backing.kind == Backing::kHuge) &&
         (mapping.name == "/dev/zero (deleted)" || mapping.name == "/anon_hugepage (deleted)" || starts_with(mapping.name, "/memfd:") ||
          starts_with(mapping.name, "/SYSV") || starts_with(mapping.name, "[anon_shmem:"));
}

// What lies behind mappings, asked once for each file.
class Backings {
 public:
  explicit Backings(const Target& target) : target_(target) {}

  const Backing& of(const NamedMapping& mapping) {
    const auto known = backings_.find(file_of(mapping));
    return known != backings_.end() ? known->second : backings_.emplace(file_of(mapping), target_.backing(mapping)).first->second;
  }

 private:
  const Target& target_;
  std::map<FileId, Backing> backings_;
};

// Tells for each mapping of a process, in order, whether it is rolled back.
class Choice {
 public:
  Choice(const Target& target, uint32_t parts, const Mappings& all) : target_(target), parts_(parts), all_(all), backings_(target) {
    for (const NamedMapping& mapping : all)
      if (mapping.execute && mapping.inode != 0) programs_.insert(file_of(mapping));
  }

  // The mappings to be rolled back, without what lies beyond their files' ends: nothing is kept there.
  Mappings taken() {
    find_sharers();
    Mappings out;
    for (size_t i = 0; i < all_.size(); i++) {
      const uint32_t part = part_of(i);
      if ((part & parts_) == 0) continue;
      const NamedMapping piece = all_[i].cut({all_[i].start, kept_end(all_[i])});
      if (!piece.range().empty()) out.push_back(piece);
    }
    return out;
  }

 private:
  // Bits of Parts, any of which takes the mapping; 0: never rolled back.
  uint32_t part_of(size_t i) {
    const NamedMapping& mapping = all_[i];
    if (mapping.anonymous) return anonymous_part(i);
    if (is_kernels(mapping) && !mapping.shared) return 0;
    const Backing& backing = backings_.of(mapping);
    const uint32_t part = mapping.shared ? shared_part(mapping, backing) : file_part(mapping, backing);
    if (backing.kind == Backing::kHuge && (part & parts_) != 0)
      throw error_at(Code::kUnreadable, mapping.start, "The memory at 0x%llx (%s) has huge pages of hugetlbfs, which cannot be rolled back",
                     hex(mapping.start), mapping.name.c_str());
    return part;
  }

  uint32_t anonymous_part(size_t i) const {
    const NamedMapping& mapping = all_[i];
    if (is_kernels(mapping) || mapping.name == "[stack]") return 0;
    if (mapping.name == "[heap]") return kPartHeap;
    return i > 0 && is_data(all_[i - 1]) && all_[i - 1].end == mapping.start ? kPartData : kPartAnonymous;
  }

  // The .data of a program or library: what follows it is its .bss.
  bool is_data(const NamedMapping& mapping) const {
    return !mapping.shared && mapping.write && mapping.inode != 0 && programs_.count(file_of(mapping)) != 0;
  }

  static uint32_t file_part(const NamedMapping& mapping, const Backing& backing) {
    if (backing.kind == Backing::kOther) return 0;
    return backing.kind == Backing::kZero || mapping.name == "/anon_hugepage (deleted)" ? kPartAnonymous : kPartData;
  }

  uint32_t shared_part(const NamedMapping& mapping, const Backing& backing) const {
    if (!is_shared_anonymous(mapping, backing)) return 0;
    if (!mapping.write && (backing.sealed || !target_.may_write(mapping))) return 0;  // not the process's to change
    return others_.count(file_of(mapping)) != 0 ? kPartSharedAll : kPartShared | kPartSharedAll;
  }

  uint64_t kept_end(const NamedMapping& mapping) {
    if (mapping.anonymous) return mapping.end;
    const Backing& backing = backings_.of(mapping);
    if (backing.kind == Backing::kZero) return mapping.end;
    const uint64_t kept = page_up(backing.size) - std::min(page_up(backing.size), mapping.offset);
    return mapping.start + std::min(mapping.range().bytes(), kept);
  }

  void find_sharers() {
    if ((parts_ & kPartShared) == 0 || (parts_ & kPartSharedAll) != 0) return;  // the answer changes nothing
    std::set<FileId> files;
    for (const NamedMapping& mapping : all_)
      if (mapping.shared && mapping.inode != 0 && is_shared_anonymous(mapping, backings_.of(mapping))) files.insert(file_of(mapping));
    others_ = mapped_by_others(target_.pid(), files);
  }

  const Target& target_;
  const uint32_t parts_;
  const Mappings& all_;
  Backings backings_;
  std::set<FileId> programs_;  // mapped executable somewhere
  std::set<FileId> others_;    // shared memory that other processes map too
};

// `mappings` without `ranges`; both sorted.
Mappings without(const Mappings& mappings, const std::vector<Range>& ranges) {
  Mappings out;
  size_t first = 0;  // of the ranges that do not lie below the mapping
  for (const NamedMapping& mapping : mappings) {
    while (first < ranges.size() && ranges[first].end <= mapping.start) first++;
    uint64_t at = mapping.start;
    for (size_t i = first; i < ranges.size() && ranges[i].start < mapping.end; i++) {
      if (at < ranges[i].start) out.push_back(mapping.cut({at, ranges[i].start}));
      at = std::max(at, ranges[i].end);
    }
    if (at < mapping.end) out.push_back(mapping.cut({at, mapping.end}));
  }
  return out;
}

// A thread that runs elsewhere than on its stack (a coroutine, a signal handler with a stack of its own) would have its frames rolled back.
void require_own_stacks(const Mappings& taken, const std::vector<Thread>& threads) {
  for (const Thread& thread : threads)
    if (thread.stack_pointer != 0 && mapping_at(taken, thread.stack_pointer - 1) != nullptr)
      throw error_at(Code::kUnreadable, thread.stack_pointer,
                     "Thread %d runs on memory that would be rolled back, at 0x%llx, not on its stack", thread.tid,
                     hex(thread.stack_pointer));
}

void append(std::vector<Range>& out, Range range) {
  if (range.empty()) return;
  if (!out.empty() && out.back().end >= range.start) {
    out.back().end = std::max(out.back().end, range.end);
  } else {
    out.push_back(range);
  }
}

void append_data(const Target& target, const NamedMapping& mapping, std::vector<Range>& out) {
  if (mapping.shared) {
    target.shared_data(mapping, out);
  } else {
    target.own_pages(mapping, out);
  }
}

void require_same_threads(const std::vector<Thread>& then, const std::vector<Thread>& now) {
  auto before = then.begin(), after = now.begin();
  for (; before != then.end() || after != now.end(); ++before, ++after) {
    const bool ended = after == now.end() || (before != then.end() && before->tid < after->tid);
    if (ended) throw error(Code::kBusy, "Thread %d has ended since the checkpoint", before->tid);
    if (before == then.end() || after->tid < before->tid) throw error(Code::kBusy, "Thread %d was born since the checkpoint", after->tid);
    if (before->start_time != after->start_time)
      throw error(Code::kBusy, "Thread %d has ended since the checkpoint, and another was born with its number", before->tid);
  }
}

// Whether what was mapped at `then` is still the same memory, or the same place of the same file, as far as `now` reaches.
bool is_same(const NamedMapping& then, const NamedMapping& now) {
  if (then.shared != now.shared || then.anonymous != now.anonymous) return false;
  if (then.anonymous) return !is_kernels(now);
  return file_of(then) == file_of(now) && then.offset - then.start == now.offset - now.start;
}

void require_kept(Backings& backings, const NamedMapping& then, const NamedMapping& now) {
  if (now.anonymous) return;
  const Backing& backing = backings.of(now);
  const uint64_t end = std::min(then.end, now.end), kept = page_up(backing.size);
  if (backing.kind == Backing::kZero || now.offset + (end - now.start) <= kept) return;
  const uint64_t at = now.start + std::max(kept, now.offset) - now.offset;
  throw error_at(Code::kUnmapped, std::max(at, then.start),
                 "The file behind the memory at 0x%llx (%s) has been truncated since the checkpoint", hex(at), now.name.c_str());
}

// Walks through `then` in order of address: calls `gone` for each part of a mapping where nothing is now, `there` for each where something
// is.
template <typename Gone, typename There>
void compare(const Mappings& then, const Mappings& now, Gone gone, There there) {
  size_t next = 0;
  for (const NamedMapping& mapping : then) {
    while (next < now.size() && now[next].end <= mapping.start) next++;
    uint64_t at = mapping.start;
    for (size_t i = next; at < mapping.end; i++) {
      const uint64_t start = i < now.size() ? std::min(now[i].start, mapping.end) : mapping.end;
      if (at < start) gone(mapping, Range{at, start});
      at = std::max(at, start);
      if (at == mapping.end) break;
      const Range part{at, std::min(now[i].end, mapping.end)};
      there(mapping, now[i], part);
      at = part.end;
    }
  }
}

Error unmapped(uint64_t address) { return error_at(Code::kUnmapped, address, "The memory at 0x%llx is no longer mapped", hex(address)); }

void require_same(Backings& backings, const NamedMapping& then, const NamedMapping& now, uint64_t address) {
  if (!is_same(then, now))
    throw error_at(Code::kUnmapped, address, "The memory at 0x%llx is not what was mapped there at the checkpoint", hex(address));
  require_kept(backings, then, now);
}

void require_mapped(const Target& target, const Mappings& then) {
  const Mappings now = target.mappings();
  if (now.empty()) throw gone(target);
  Backings backings(target);
  const auto nothing = [](const NamedMapping&, Range range) { throw unmapped(range.start); };
  compare(then, now, nothing,
          [&](const NamedMapping& was, const NamedMapping& is, Range part) { require_same(backings, was, is, part.start); });
}

// Gathers layout changes in order of address, neighbours of a kind as one.
class Changes {
 public:
  Changes(const Mappings& then, const Mappings& now) : now_(now) {
    for (const NamedMapping& mapping : now)
      if (is_heap(mapping)) heap_now_ = mapping.end;
    for (const NamedMapping& mapping : then)
      if (is_heap(mapping)) heap_then_ = std::max(heap_then_, mapping.vma.end);
  }

  void gone(const NamedMapping& was, Range range) {
    if (!was.anonymous) throw unmapped(range.start);
    if (!is_heap(was) || range.start < heap_now_) return add(LayoutChange::kMap, range, was.protection(), true);
    grow_heap(heap_now_ == 0 ? was.vma.start : heap_now_);
    if (was.protection() != kOfHeap) add(LayoutChange::kProtect, range, was.protection(), true);
  }

  void there(const NamedMapping& was, const NamedMapping& is, Range part) {
    if (was.protection() != is.protection())
      add(LayoutChange::kProtect, part, was.protection(), (was.protection() & ~is.protection()) != 0);
  }

  std::vector<LayoutChange> all() { return std::move(changes_); }

 private:
  static constexpr int kOfHeap = PROT_READ | PROT_WRITE;

  static bool is_heap(const NamedMapping& mapping) { return mapping.name == "[heap]"; }

  void grow_heap(uint64_t from) {
    if (grown_) return;
    grown_ = true;
    // brk() keeps a page free between the heap and what follows.
    for (const NamedMapping& mapping : now_)
      if (mapping.end > from && mapping.start < heap_then_ + kPage)
        throw error_at(Code::kUnmapped, from,
                       "The memory at 0x%llx is no longer mapped: [heap] has shrunk, and something else is at 0x%llx now", hex(from),
                       hex(mapping.start));
    changes_.push_back({LayoutChange::kGrowHeap, {from, heap_then_}, kOfHeap, true});
  }

  void add(LayoutChange::Kind kind, Range range, int protection, bool needed) {
    if (!changes_.empty()) {
      LayoutChange& last = changes_.back();
      if (last.kind == kind && last.range.end == range.start && last.protection == protection) {
        last.range.end = range.end;
        last.needed |= needed;
        return;
      }
    }
    changes_.push_back({kind, range, protection, needed});
  }

  const Mappings& now_;
  uint64_t heap_now_ = 0, heap_then_ = 0;  // where [heap] ends, 0: there is none
  bool grown_ = false;
  std::vector<LayoutChange> changes_;
};

// The mappings with anonymous neighbours as one: asking for pages costs by the question, on older kernels that of 512 pages.
Mappings joined(const Mappings& mappings) {
  Mappings out;
  for (const NamedMapping& mapping : mappings) {
    if (!out.empty() && out.back().anonymous && mapping.anonymous && out.back().end == mapping.start) {
      out.back().end = mapping.end;
    } else {
      out.push_back(mapping);
    }
  }
  return out;
}

// Subtracts runs from ranges that come in order of address.
class Subtraction {
 public:
  explicit Subtraction(const std::vector<Range>& runs) : next_(runs.begin()), end_(runs.end()) {}

  template <typename Take>
  void from(Range range, Take take) {
    while (next_ != end_ && next_->end <= range.start) ++next_;
    uint64_t at = range.start;
    for (auto run = next_; run != end_ && run->start < range.end; ++run) {
      if (at < run->start) take(Range{at, run->start});
      at = std::max(at, run->end);
    }
    if (at < range.end) take(Range{at, range.end});
  }

 private:
  std::vector<Range>::const_iterator next_, end_;
};

// `then`, as it is mapped now: cut where mappings begin and end now.
Mappings as_mapped_now(const Mappings& then, const Mappings& now) {
  Mappings out;
  size_t next = 0;
  for (const NamedMapping& mapping : then) {
    while (next < now.size() && now[next].end <= mapping.start) next++;
    for (size_t i = next; i < now.size() && now[i].start < mapping.end; i++)
      if (is_same(mapping, now[i])) out.push_back(now[i].cut(mapping.range()));
  }
  return out;
}

// Where [heap] is now and was nothing at `then`.
Mappings heap_growth(const Coverage& then, const Mappings& now) {
  if ((then.parts & kPartHeap) == 0) return {};
  std::vector<Range> known = then.left;
  for (const NamedMapping& mapping : then.mappings) known.push_back(mapping.range());
  Mappings heap;
  for (const NamedMapping& mapping : now)
    if (mapping.name == "[heap]") heap.push_back(mapping);
  return without(heap, merged(known));
}

// A thread that runs has no stack pointer to be known; the one that waits for us has just called, and will be waiting in a moment.
std::vector<Thread> settled_threads(const Target& target) {
  constexpr int kTries = 10;
  constexpr useconds_t kMoment = 1000;
  std::vector<Thread> threads = read_threads(target);
  const auto runs = [](const Thread& thread) { return thread.stack_pointer == 0; };
  for (int i = 0; i < kTries && std::any_of(threads.begin(), threads.end(), runs); i++) {
    usleep(kMoment);
    threads = read_threads(target);
  }
  return threads;
}

}  // namespace

Coverage cover(const Target& target, uint32_t parts, const std::vector<Range>& keep) {
  const Mappings all = target.mappings();
  if (all.empty()) throw gone(target);
  Coverage coverage;
  coverage.parts = parts;
  coverage.threads = settled_threads(target);
  std::vector<Range> left;
  for (const Range& range : keep) left.push_back({page_down(range.start), page_up(range.end)});
  for (const Thread& thread : coverage.threads) left.push_back(stack_of(target, thread, all));
  coverage.left = merged(left);
  coverage.mappings = without(Choice(target, parts, all).taken(), coverage.left);
  require_own_stacks(coverage.mappings, coverage.threads);
  return coverage;
}

std::vector<Range> captured_runs(const Target& target, const Coverage& coverage) {
  std::vector<Range> found, runs;
  for (const NamedMapping& mapping : joined(coverage.mappings)) {
    found.clear();
    append_data(target, mapping, found);
    for (const Range& range : found) append(runs, range);
  }
  if (!target.alive()) throw gone(target);
  return runs;
}

std::vector<LayoutChange> layout_changes(const Target& target, const Coverage& then, const Coverage& now) {
  require_same_threads(then.threads, now.threads);
  require_own_stacks(then.mappings, now.threads);
  const Mappings mapped = target.mappings();
  if (mapped.empty()) throw gone(target);
  Backings backings(target);
  Changes changes(then.mappings, mapped);
  compare(
      then.mappings, mapped, [&](const NamedMapping& was, Range range) { changes.gone(was, range); },
      [&](const NamedMapping& was, const NamedMapping& is, Range part) {
        require_same(backings, was, is, part.start);
        changes.there(was, is, part);
      });
  return changes.all();
}

void require_restorable(const Target& target, const Coverage& then, const Coverage& now) {
  require_same_threads(then.threads, now.threads);
  require_mapped(target, then.mappings);
  require_own_stacks(then.mappings, now.threads);
}

std::vector<Range> shared_since(const Coverage& then, const Coverage& now) {
  std::vector<Range> out;
  size_t next = 0;
  for (const NamedMapping& mapping : then.mappings) {
    while (next < now.mappings.size() && now.mappings[next].end <= mapping.start) next++;
    const bool taken = next < now.mappings.size() && now.mappings[next].start < mapping.end;
    if (mapping.shared && !taken) append(out, mapping.range());
  }
  return out;
}

std::vector<Reset> resets(const Target& target, const Coverage& then, const std::vector<Range>& runs) {
  std::vector<Reset> out;
  std::vector<Range> found;
  Subtraction remains(runs);
  const Mappings now = target.mappings();
  if (now.empty()) throw gone(target);
  Mappings mappings = as_mapped_now(then.mappings, now);
  for (const NamedMapping& mapping : heap_growth(then, now)) mappings.push_back(mapping);
  std::sort(mappings.begin(), mappings.end(), [](const NamedMapping& a, const NamedMapping& b) { return a.start < b.start; });
  for (const NamedMapping& mapping : joined(mappings)) {
    std::shared_ptr<const NamedMapping> file;
    if (!mapping.shared && !mapping.anonymous) file = std::make_shared<const NamedMapping>(mapping);
    found.clear();
    append_data(target, mapping, found);
    for (const Range& range : found) remains.from(range, [&](Range rest) { out.push_back({rest, file}); });
  }
  if (!target.alive()) throw gone(target);
  return out;
}

}  // namespace ckpt
