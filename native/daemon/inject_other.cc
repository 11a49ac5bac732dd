// inject_other.cc: see inject.h: architectures for which there is nothing yet.
#if !(defined(__x86_64__) && defined(__LP64__))

#include "inject.h"

namespace ckpt::machine {

std::string_view call_instruction() { return {}; }
uint64_t after_call(const Registers&) { return 0; }
Registers with_call(Registers registers, uint64_t, const SystemCall&) { return registers; }
int64_t result_of(const Registers&) { return -1; }

}  // namespace ckpt::machine

#endif
