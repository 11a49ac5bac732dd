// complain.cc: an exception as a line on stderr and an exit status.
#include "complain.h"

#include <cstdio>
#include <exception>

#include "../error.h"
#include "options.h"

namespace ckpt {

int complain() noexcept {
  try {
    throw;
  } catch (const UsageError& error) {
    fprintf(stderr, "ebpf-ckpt-daemon: %s\n\n%s", error.what(), usage().c_str());
    return 2;
  } catch (const Error& error) {
    fprintf(stderr, "ebpf-ckpt-daemon: %s: %s\n", code_name(error.code()), error.what());
  } catch (const std::exception& error) {
    fprintf(stderr, "ebpf-ckpt-daemon: %s: %s\n", code_name(Code::kInternal), error.what());
  }
  return 1;
}

}  // namespace ckpt
