// mappings.cc: see mappings.h.
#include "mappings.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <memory>

#include "../error.h"

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

}  // namespace

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

std::vector<Mapping> read_mappings() {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(fopen("/proc/self/maps", "re"), fclose);
  if (!file) throw error(Code::kInternal, "Cannot read /proc/self/maps: %s", errno_text(errno).c_str());
  std::vector<Mapping> all;
  char line[8192];
  while (fgets(line, sizeof line, file.get()) != nullptr) {
    uint64_t start, end, inode;
    char flags[5], device[32];
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*x %31s %" SCNu64, &start, &end, flags, device, &inode) != 5) continue;
    const bool shared = flags[3] == 's';
    all.push_back(
        {start, end, flags[0] == 'r', flags[1] == 'w', flags[2] == 'x', shared, !shared && inode == 0 && strcmp(device, "00:00") == 0});
  }
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
