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

void WritableScope::restore() noexcept {
  for (const Mapping& mapping : lifted_) protect(mapping, mapping.protection());
  lifted_.clear();
}

}  // namespace ckpt
