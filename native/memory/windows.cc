// windows.cc: see windows.h.
#include "windows.h"

#include <sys/mman.h>

#include <cerrno>

#include "../error.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

namespace ckpt {

namespace {

void* address_of(const void* at) { return const_cast<void*>(at); }

void keep_private(void* at, size_t bytes) {
  madvise(at, bytes, MADV_DONTFORK);
  madvise(at, bytes, MADV_DONTDUMP);
}

}  // namespace

bool reserve_windows() {
  void* const want = reinterpret_cast<void*>(kArenaBase);
  void* const got = mmap(want, kReservedBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (got == MAP_FAILED) return false;
  if (got != want) {  // before 4.17 the flag is only a hint
    munmap(got, kReservedBytes);
    errno = EEXIST;
    return false;
  }
  keep_private(got, kReservedBytes);
  return true;
}

void release_windows() { munmap(reinterpret_cast<void*>(kArenaBase), kReservedBytes); }

void map_window(const void* at, size_t bytes, int protection, int fd) {
  const int kind = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
  if (mmap(address_of(at), bytes, protection, kind | MAP_FIXED, fd, 0) == MAP_FAILED)
    throw error(Code::kNoRoom, "Cannot map %zu bytes of our own memory: %s", bytes, errno_text(errno).c_str());
  keep_private(address_of(at), bytes);
}

void unmap_window(const void* at, size_t bytes) {
  mmap(address_of(at), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  keep_private(address_of(at), bytes);
}

}  // namespace ckpt
