// touch.cc: see touch.h.
#include "touch.h"

#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "../error.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

namespace ckpt {

namespace {

Range whole_pages(Range range) { return {page_down(range.start), page_up(range.end)}; }

bool madvised(Range range, int advice) {
  int rc;
  do rc = madvise(reinterpret_cast<void*>(range.start), range.bytes(), advice);
  while (rc != 0 && (errno == EINTR || errno == EAGAIN));
  return rc == 0;
}

// Reads a byte through the kernel, which says EFAULT where a load of ours would be killed.
bool byte_readable(uint64_t address) {
  char byte;
  const iovec to{&byte, 1}, from{reinterpret_cast<void*>(address), 1};
  return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1;
}

}  // namespace

void touch_for_read(Range range, bool populate) {
  const Range pages = whole_pages(range);
  if (populate && madvised(pages, MADV_POPULATE_READ)) return;
  for (uint64_t at = pages.start; at < pages.end; at += kPage)
    if (!byte_readable(at))
      throw error_at(Code::kUnreadable, at, "The page at 0x%llx cannot be read: it is unmapped, protected or beyond its file's end",
                     static_cast<unsigned long long>(at));
}

void touch_for_write(Range range, bool populate) {
  const Range pages = whole_pages(range);
  if (populate && madvised(pages, MADV_POPULATE_WRITE)) return;
  for (uint64_t at = pages.start; at < pages.end; at += kPage) {
    if (populate ? !madvised({at, at + kPage}, MADV_POPULATE_WRITE) : !byte_readable(at))
      throw error_at(Code::kUnwritable, at, "The page at 0x%llx cannot be written: %s", static_cast<unsigned long long>(at),
                     errno_text(errno).c_str());
    // An atomic add of nothing: a write fault that loses no other thread's write.
    if (!populate) __atomic_fetch_add(reinterpret_cast<char*>(at), 0, __ATOMIC_RELAXED);
  }
}

}  // namespace ckpt
