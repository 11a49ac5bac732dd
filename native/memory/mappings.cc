// mappings.cc: see mappings.h.
#include "mappings.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "../error.h"
#include "../fd.h"

namespace ckpt {

namespace {

// linux/fs.h of 6.11: commit ed5d583a88a9 ("fs/procfs: implement efficient VMA querying API for /proc/<pid>/maps"). Debian 12 has older
// headers.
struct ProcmapQuery {
  uint64_t size, query_flags, query_addr;
  uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
  uint32_t dev_major, dev_minor;
  uint32_t vma_name_size, build_id_size;
  uint64_t vma_name_addr, build_id_addr;
};
constexpr unsigned long kProcmapQuery = _IOWR('f', 17, ProcmapQuery);
constexpr uint64_t kQueryCoveringOrNext = 0x10;
enum : uint64_t { kVmaReadable = 1, kVmaWritable = 2, kVmaExecutable = 4, kVmaShared = 8 };

Mapping clipped(Mapping mapping, Range range) {
  mapping.start = std::max(mapping.start, range.start);
  mapping.end = std::min(mapping.end, range.end);
  return mapping;
}

// What a line of /proc/PID/maps is read with: a number, or what lies between two of them.
class Cursor {
 public:
  explicit Cursor(std::string_view line) : at_(line.data()), end_(line.data() + line.size()) {}

  uint64_t number(int base) {
    uint64_t value = 0;
    at_ = std::from_chars(at_, end_, value, base).ptr;
    return value;
  }
  char next() { return at_ < end_ ? *at_++ : '\0'; }
  std::string_view rest() {
    while (at_ < end_ && *at_ == ' ') at_++;
    return {at_, static_cast<size_t>(end_ - at_)};
  }

 private:
  const char *at_, *end_;
};

// "559eb1c5b000-559eb1c5d000 r--p 00000000 fe:00 1234    /usr/bin/cat"
void take_line(std::string_view line, const TakeMapping& take) {
  Cursor cursor(line);
  NamedMapping mapping{};
  mapping.start = cursor.number(16), cursor.next();
  mapping.end = cursor.number(16), cursor.next();
  mapping.vma = mapping.range();
  mapping.read = cursor.next() == 'r';
  mapping.write = cursor.next() == 'w';
  mapping.execute = cursor.next() == 'x';
  mapping.shared = cursor.next() == 's', cursor.next();
  mapping.offset = cursor.number(16), cursor.next();
  const auto major = static_cast<unsigned>(cursor.number(16));
  cursor.next();
  const auto minor = static_cast<unsigned>(cursor.number(16));
  cursor.next();
  mapping.device = makedev(major, minor);
  mapping.inode = cursor.number(10);
  mapping.anonymous = !mapping.shared && mapping.inode == 0 && mapping.device == 0;
  take(mapping, cursor.rest());
}

// Takes the complete lines of the first `bytes`; moves what remains to the front and returns its length.
size_t take_lines(std::vector<char>& buffer, size_t bytes, const TakeMapping& take) {
  std::string_view text(buffer.data(), bytes);
  for (size_t length; (length = text.find('\n')) != text.npos; text.remove_prefix(length + 1)) take_line(text.substr(0, length), take);
  memmove(buffer.data(), text.data(), text.size());
  return text.size();
}

}  // namespace

NamedMapping NamedMapping::cut(Range part) const {
  NamedMapping piece(*this);
  piece.start = std::max(start, part.start);
  piece.end = std::min(end, part.end);
  if (inode != 0) piece.offset += piece.start - start;
  return piece;
}

int Mapping::protection() const { return (read ? PROT_READ : 0) | (write ? PROT_WRITE : 0) | (execute ? PROT_EXEC : 0); }

void query_mappings(int maps_fd, Range range, std::vector<Mapping>& out) {
  for (uint64_t at = range.start; at < range.end;) {
    ProcmapQuery query{};
    query.size = sizeof query;
    query.query_flags = kQueryCoveringOrNext;
    query.query_addr = at;
    if (ioctl(maps_fd, kProcmapQuery, &query) != 0) {
      if (errno == ENOENT) return;  // nothing from here on
      throw error_at(Code::kInternal, at, "PROCMAP_QUERY failed: %s", errno_text(errno).c_str());
    }
    if (query.vma_start >= range.end) return;
    const bool shared = (query.vma_flags & kVmaShared) != 0;
    const Mapping mapping{query.vma_start,
                          query.vma_end,
                          (query.vma_flags & kVmaReadable) != 0,
                          (query.vma_flags & kVmaWritable) != 0,
                          (query.vma_flags & kVmaExecutable) != 0,
                          shared,
                          !shared && query.inode == 0 && query.dev_major == 0 && query.dev_minor == 0};
    out.push_back(clipped(mapping, range));
    at = query.vma_end;
  }
}

void scan_maps(int maps_fd, const TakeMapping& take) {
  std::vector<char> buffer(uint64_t{64} << 10);
  size_t kept = 0;  // bytes of a line that is not complete yet
  for (off_t at = 0;;) {
    if (kept == buffer.size()) buffer.resize(2 * buffer.size());
    const ssize_t got = pread(maps_fd, buffer.data() + kept, buffer.size() - kept, at);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0 || (got < 0 && errno == ESRCH)) return;  // the end, or the process is
    if (got < 0) throw error(Code::kInternal, "Cannot read the mappings of a process: %s", errno_text(errno).c_str());
    at += got;
    kept = take_lines(buffer, kept + static_cast<size_t>(got), take);
  }
}

std::vector<Mapping> read_mappings() {
  const Fd maps(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
  if (!maps) throw error(Code::kInternal, "Cannot read /proc/self/maps: %s", errno_text(errno).c_str());
  std::vector<Mapping> all;
  scan_maps(maps.get(), [&all](const NamedMapping& mapping, std::string_view) { all.push_back(mapping); });
  return all;
}

std::vector<Mapping> walked_mappings(const std::vector<ckpt_mapping>& walked) {
  std::vector<Mapping> all;
  all.reserve(walked.size());
  for (const ckpt_mapping& m : walked) {
    const bool shared = (m.flags & 8) != 0;
    all.push_back(
        {m.start, m.end, (m.flags & 1) != 0, (m.flags & 2) != 0, (m.flags & 4) != 0, shared, !shared && (m.kind & CKPT_KIND_FILE) == 0});
  }
  return all;
}

void clip_mappings(const std::vector<Mapping>& all, Range range, std::vector<Mapping>& out) {
  auto it = std::upper_bound(all.begin(), all.end(), range.start, [](uint64_t at, const Mapping& m) { return at < m.end; });
  for (; it != all.end() && it->start < range.end; ++it) out.push_back(clipped(*it, range));
}

}  // namespace ckpt
