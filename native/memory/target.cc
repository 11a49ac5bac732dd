// target.cc: see target.h.
#include "target.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "pagemap.h"

namespace ckpt {

namespace {

constexpr uint64_t kMost = uint64_t{1} << 20;            // bytes of one read or write
constexpr uint64_t kSmallestHuge = uint64_t{2} << 20;    // bytes of a huge page
constexpr unsigned kHugetlbfsMagic = 0x958458f6;         // linux/magic.h
constexpr unsigned kZeroMajor = 1, kZeroMinor = 5;       // /dev/zero
constexpr int kUnwritableSeals = F_SEAL_WRITE | 0x0010;  // and F_SEAL_FUTURE_WRITE, of linux/fcntl.h of 5.1

unsigned long long hex(uint64_t address) { return address; }

// Opens a file of /proc/PID. What the kernel says of processes that are gone, or that we may not touch, differs between files and versions.
Fd open_of(pid_t pid, int folder, const char* name, int flags) {
  Fd fd(openat(folder, name, flags | O_CLOEXEC));
  if (fd) return fd;
  if (errno == ENOENT || errno == ESRCH) throw error(Code::kUnknown, "There is no process %d (any more)", pid);
  if (errno == EACCES || errno == EPERM)
    throw error(Code::kCapability, "The %s of process %d may not be opened: %s; that needs CAP_SYS_PTRACE", name, pid,
                errno_text(errno).c_str());
  throw error(Code::kInternal, "Cannot open the %s of process %d: %s", name, pid, errno_text(errno).c_str());
}

Fd open_folder(pid_t pid) {
  char path[32];
  snprintf(path, sizeof path, "/proc/%d", pid);
  return open_of(pid, AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
}

// All shared memory without a file of the user's lies on one tmpfs that the kernel mounts for itself: any memfd tells its number.
uint64_t shm_device() {
  static const uint64_t device = [] {
    const Fd fd(memfd_create("ebpf-ckpt", MFD_CLOEXEC));
    struct stat status {};
    if (!fd || fstat(fd.get(), &status) != 0) throw error(Code::kInternal, "Cannot make a memfd: %s", errno_text(errno).c_str());
    return status.st_dev;
  }();
  return device;
}

// Asks only where the answer can be yes: statfs() of a file system in user space waits for its server.
bool on_hugetlbfs(int fd, const struct statx& status) {
  struct statfs system {};
  return status.stx_blksize >= kSmallestHuge && fstatfs(fd, &system) == 0 && static_cast<unsigned>(system.f_type) == kHugetlbfsMagic;
}

Backing::Kind kind_of(int fd, const struct statx& status) {
  if (S_ISREG(status.stx_mode)) return on_hugetlbfs(fd, status) ? Backing::kHuge : Backing::kRegular;
  const bool zero = S_ISCHR(status.stx_mode) && status.stx_rdev_major == kZeroMajor && status.stx_rdev_minor == kZeroMinor;
  return zero ? Backing::kZero : Backing::kOther;
}

struct statx status_of(int fd, const NamedMapping& mapping) {
  struct statx status {};
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_SIZE | STATX_INO, &status) != 0)
    throw error_at(Code::kInternal, mapping.start, "Cannot tell what is mapped at 0x%llx (%s): %s", hex(mapping.start),
                   mapping.name.c_str(), errno_text(errno).c_str());
  return status;
}

void append(std::vector<Range>& out, Range range) {
  if (range.empty()) return;
  if (!out.empty() && out.back().end == range.start) {
    out.back().end = range.end;
  } else {
    out.push_back(range);
  }
}

}  // namespace

// mem comes first: if the process calls execve() in between, it is the old address space that we could write to, and that is gone.
Target::Target(pid_t pid) : pid_(pid), folder_(open_folder(pid)) {
  mem_ = open_of(pid, folder(), "mem", O_RDWR);
  maps_ = open_of(pid, folder(), "maps", O_RDONLY);
  smaps_ = open_of(pid, folder(), "smaps", O_RDONLY);
  pagemap_ = open_of(pid, folder(), "pagemap", O_RDONLY);
  scan_ = can_scan_pages(pagemap_.get());
}

// Of an address space that is gone nothing can be read, not even that there is nothing at an address.
bool Target::alive() const {
  char byte;
  return pread(mem_.get(), &byte, 1, 0) != 0;
}

Error Target::gone(uint64_t address) const {
  return error_at(Code::kUnmapped, address, "The memory of process %d is gone: it has ended, or runs another program", pid_);
}

std::vector<NamedMapping> Target::mappings() const {
  std::vector<NamedMapping> all;
  scan_maps(maps_.get(), [&all](const NamedMapping& mapping, std::string_view name) {
    all.push_back(mapping);
    all.back().name = name;
  });
  return all;
}

// map_files goes by pid: the caller sees to it that no other program's file is written to.
Fd Target::open_behind(const NamedMapping& mapping, int flags) const {
  char path[64];
  snprintf(path, sizeof path, "map_files/%" PRIx64 "-%" PRIx64, mapping.vma.start, mapping.vma.end);
  Fd fd(openat(folder(), path, flags | O_CLOEXEC));
  if (fd) return fd;
  const std::string why = errno_text(errno);
  if (errno == ENOENT || errno == ESRCH)
    throw error_at(Code::kUnmapped, mapping.start, "The mapping at 0x%llx is gone", hex(mapping.start));
  if (errno == EPERM || errno == EACCES)
    throw error_at(Code::kCapability, mapping.start,
                   "What is mapped at 0x%llx (%s) may not be opened: %s; that needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN",
                   hex(mapping.start), mapping.name.c_str(), why.c_str());
  throw error_at(Code::kInternal, mapping.start, "Cannot open what is mapped at 0x%llx (%s): %s", hex(mapping.start), mapping.name.c_str(),
                 why.c_str());
}

Backing Target::backing(const NamedMapping& mapping) const {
  const Fd path = open_behind(mapping, O_PATH);
  const struct statx status = status_of(path.get(), mapping);
  Backing backing{kind_of(path.get(), status), status.stx_size, mapping.device == shm_device(), false};
  if (!backing.shm) return backing;
  const Fd fd = open_behind(mapping, O_RDONLY);
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  backing.sealed = seals >= 0 && (seals & kUnwritableSeals) != 0;
  return backing;
}

void Target::own_pages(const Mapping& mapping, std::vector<Range>& out) const {
  own_ranges(pagemap_.get(), scan_, !mapping.anonymous, mapping.range(), out);
}

void Target::shared_data(const NamedMapping& mapping, std::vector<Range>& out) const {
  const Fd file = open_behind(mapping, O_RDONLY);
  const uint64_t end = mapping.offset + mapping.range().bytes();
  for (uint64_t at = mapping.offset; at < end;) {
    const off_t data = lseek(file.get(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return;  // no more data
    const off_t hole = data < 0 ? -1 : lseek(file.get(), data, SEEK_HOLE);
    const Range found = hole < 0 ? Range{at, end} : Range{page_down(static_cast<uint64_t>(data)), page_up(static_cast<uint64_t>(hole))};
    const uint64_t from = std::max(found.start, at), to = std::min(found.end, end);
    if (from < to) append(out, {mapping.start + (from - mapping.offset), mapping.start + (to - mapping.offset)});
    at = std::max(found.end, at + kPage);
  }
}

void Target::file_bytes(const NamedMapping& mapping, Range range, void* to) const {
  const Fd file = open_behind(mapping, O_RDONLY);
  const uint64_t first = mapping.offset + (range.start - mapping.start);
  for (uint64_t done = 0; done < range.bytes();) {
    char* const at = static_cast<char*>(to) + done;
    const ssize_t got = pread(file.get(), at, range.bytes() - done, static_cast<off_t>(first + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      throw error_at(Code::kUnreadable, range.start + done, "Cannot read what is mapped at 0x%llx (%s): %s", hex(range.start + done),
                     mapping.name.c_str(), errno_text(errno).c_str());
    if (got == 0) {  // beyond its end
      memset(at, 0, range.bytes() - done);
      return;
    }
    done += static_cast<uint64_t>(got);
  }
}

void Target::read(Range range, void* to) const {
  for (uint64_t at = range.start; at < range.end;) {
    char* const here = static_cast<char*>(to) + (at - range.start);
    const ssize_t got = pread(mem_.get(), here, std::min(range.end - at, kMost), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) throw gone(at);
    if (got < 0) throw error_at(Code::kUnreadable, at, "The memory at 0x%llx cannot be read: %s", hex(at), errno_text(errno).c_str());
    at += static_cast<uint64_t>(got);
  }
}

void Target::write(Range range, const void* from) const {
  for (uint64_t at = range.start; at < range.end;) {
    const char* const here = static_cast<const char*>(from) + (at - range.start);
    const ssize_t got = pwrite(mem_.get(), here, std::min(range.end - at, kMost), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) throw gone(at);
    const std::string why = got < 0 ? errno_text(errno) : "";
    const uint64_t done = got < 0 ? write_behind({at, range.end}, here) : static_cast<uint64_t>(got);
    if (done == 0) throw error_at(Code::kUnwritable, at, "The memory at 0x%llx cannot be written: %s", hex(at), why.c_str());
    at += done;
  }
}

// VmFlags has "mw" for VM_MAYWRITE. It stands at the end of the mapping's entry, which begins with a line as in maps.
bool Target::may_write(const NamedMapping& mapping) const {
  if (mapping.write) return true;
  char header[64];
  const int length = snprintf(header, sizeof header, "%" PRIx64 "-%" PRIx64 " ", mapping.vma.start, mapping.vma.end);
  std::string text;
  char block[16384];
  for (off_t at = 0;;) {
    const ssize_t got = pread(smaps_.get(), block, sizeof block, at);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    text.append(block, static_cast<size_t>(got));
    const size_t entry = text.compare(0, static_cast<size_t>(length), header) == 0 ? 0 : text.find(std::string("\n") + header);
    if (entry == std::string::npos) {
      text.erase(0, text.size() - std::min(text.size(), sizeof header));  // a header may be cut in two
      continue;
    }
    const size_t flags = text.find("\nVmFlags:", entry + 1);
    const size_t end = flags == std::string::npos ? flags : text.find('\n', flags + 1);
    if (end != std::string::npos) return text.substr(flags, end - flags + 1).find(" mw") != std::string::npos;
  }
}

// A shared mapping that is read-only now refuses writes even by /proc/PID/mem, but its memory does not. Returns the bytes that were
// written, from the start of `range` on. What maps and map_files say is compared: after an execve() they are about different programs.
uint64_t Target::write_behind(Range range, const char* from) const {
  const std::vector<NamedMapping> all = mappings();
  const auto after = [](uint64_t address, const NamedMapping& mapping) { return address < mapping.end; };
  const auto found = std::upper_bound(all.begin(), all.end(), range.start, after);
  if (found == all.end() || found->start > range.start || !found->shared || found->write || found->device != shm_device()) return 0;
  if (!may_write(*found)) return 0;
  const Fd file = open_behind(*found, O_WRONLY);
  const struct statx status = status_of(file.get(), *found);
  if (status.stx_ino != found->inode || makedev(status.stx_dev_major, status.stx_dev_minor) != found->device) return 0;
  const NamedMapping part = found->cut(range);
  if (part.offset >= status.stx_size) return 0;
  const uint64_t bytes = std::min<uint64_t>({part.range().bytes(), status.stx_size - part.offset, kMost});
  const ssize_t got = pwrite(file.get(), from, bytes, static_cast<off_t>(part.offset));
  if (got <= 0) return 0;
  // Nothing can be kept in what the last page has beyond the end of the file.
  return part.offset + static_cast<uint64_t>(got) == status.stx_size
             ? std::min(page_up(status.stx_size) - part.offset, part.range().bytes())
             : static_cast<uint64_t>(got);
}

void Target::clear(Range range) const {
  static char zeros[kMost];  // never written, and not constant: so it takes no room in the executable
  for (uint64_t at = range.start; at < range.end;) {
    const uint64_t end = std::min(range.end, at + kMost);
    write({at, end}, zeros);
    at = end;
  }
}

}  // namespace ckpt
