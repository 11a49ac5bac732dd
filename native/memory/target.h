// target.h: another process's memory: its mappings, its populated pages, reading and writing, all bound to the mm it has now.
//
// The descriptors of /proc/PID/mem, maps and pagemap are bound to the address space at the time of opening: after an execve(), or once the
// pid belongs to somebody else, they reach nobody's memory. process_vm_writev() is not used for that reason: it goes by pid.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "../error.h"
#include "../fd.h"
#include "mappings.h"

namespace ckpt {

// What lies behind a mapping of a file.
struct Backing {
  enum Kind {
    kRegular,
    kZero,  // /dev/zero: a private mapping of it is anonymous memory
    kHuge,  // hugetlbfs, and memory of huge pages
    kOther,
  } kind;
  uint64_t size;  // bytes, of a regular one
  bool shm;       // the kernel's own tmpfs: shared anonymous memory, memfd, SysV
  bool sealed;    // shm that nobody can write to by a new mapping or by write()
};

class Target {
 public:
  // Opens the process. Throws kUnknown if it is gone, kCapability if it may not be read, kInternal.
  explicit Target(pid_t pid);

  pid_t pid() const { return pid_; }
  // /proc/PID, for openat(): always this process's, never that of a later one with its number.
  int folder() const { return folder_.get(); }
  // Whether the address space still exists.
  bool alive() const;

  // All its mappings, in order of address; empty if its address space is gone. Throws kInternal.
  std::vector<NamedMapping> mappings() const;

  // Throws kCapability, kUnmapped if there is no such mapping (any more), kInternal.
  Backing backing(const NamedMapping& mapping) const;

  // Appends the pages of a private mapping that are the process's own: anonymous, present or swapped out. Pages of the file that it never
  // wrote, and the shared zero page where the kernel tells it apart, are left out. Sorted, neighbours merged. Throws kInternal.
  void own_pages(const Mapping& mapping, std::vector<Range>& out) const;

  // Appends the parts of a shared mapping that hold data in the memory behind it (SEEK_DATA through /proc/PID/map_files), whoever wrote it;
  // all of it where the file cannot tell. Throws what backing() does.
  void shared_data(const NamedMapping& mapping, std::vector<Range>& out) const;

  // Bytes of the file behind a private file mapping at `range` (within `mapping`): what the process would read had it never written there.
  // What lies beyond the file's end reads as zeros. Throws kUnreadable, and what backing() does.
  void file_bytes(const NamedMapping& mapping, Range range, void* to) const;

  // Whether the process could make a mapping writable, or it is: shared memory of others, attached read-only, it could not.
  bool may_write(const NamedMapping& mapping) const;

  // Reads or writes bytes, whatever the protection, faulting pages in. Throws kUnreadable / kUnwritable naming the first address that
  // cannot be reached; a process that has ended, or whose address space is gone, is kUnmapped.
  void read(Range range, void* to) const;
  void write(Range range, const void* from) const;
  // Writes zeros.
  void clear(Range range) const;

 private:
  Fd open_behind(const NamedMapping& mapping, int flags) const;
  uint64_t write_behind(Range range, const char* from) const;
  Error gone(uint64_t address) const;

  pid_t pid_;
  Fd folder_;  // /proc/PID
  Fd mem_, maps_, smaps_, pagemap_;
  bool scan_ = false;  // the kernel has PAGEMAP_SCAN
};

}  // namespace ckpt
