// protect.cc: see protect.h.
#include "protect.h"

#include <sys/mman.h>

#include <cerrno>

#include "../error.h"

namespace ckpt {

namespace {

int protect(const Mapping& m, int protection) { return mprotect(reinterpret_cast<void*>(m.start), m.end - m.start, protection); }

}  // namespace

WritableScope::WritableScope(const std::vector<Mapping>& mappings) {
  lifted_.reserve(mappings.size());
  for (Mapping mapping : mappings) {
    if (mapping.write && mapping.read) continue;
    mapping.start = page_down(mapping.start);
    mapping.end = page_up(mapping.end);
    if (protect(mapping, mapping.protection() | PROT_READ | PROT_WRITE) != 0) {
      const int number = errno;
      restore();
      throw error_at(Code::kUnwritable, mapping.start, "The memory at 0x%llx is protected and cannot be made writable: %s",
                     static_cast<unsigned long long>(mapping.start), errno_text(number).c_str());
    }
    lifted_.push_back(mapping);
  }
}

WritableScope::~WritableScope() { restore(); }

void WritableScope::end() {
  const int number = restore();
  if (number != 0)
    throw error(Code::kInternal, "The bytes are back, but memory that was protected could not be protected again: %s",
                errno_text(number).c_str());
}

int WritableScope::restore() noexcept {
  int number = 0;
  for (const Mapping& mapping : lifted_)
    if (protect(mapping, mapping.protection()) != 0) number = errno;
  lifted_.clear();
  return number;
}

}  // namespace ckpt
