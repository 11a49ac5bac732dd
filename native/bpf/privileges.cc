// privileges.cc: reads /proc/self/status and securityfs, and words refusals.
#include "privileges.h"

#include <sys/resource.h>

#include <fstream>

#include "probe.h"

namespace ckpt::bpf {

namespace {

// The word in brackets of "none [integrity] confidentiality".
std::string lockdown_level() {
  std::ifstream file("/sys/kernel/security/lockdown");
  std::string line;
  if (!std::getline(file, line)) return "";
  const size_t open = line.find('['), close = line.find(']');
  if (open == std::string::npos || close == std::string::npos || close < open) return "";
  return line.substr(open + 1, close - open - 1);
}

bool in_user_namespace() {
  std::ifstream file("/proc/self/uid_map");
  uint64_t inside, outside, count;
  if (!(file >> inside >> outside >> count)) return false;
  return inside != 0 || outside != 0 || count != UINT32_MAX;
}

Error not_permitted(const char* doing, const std::string& why, const std::string& tail) {
  const Privileges mine = privileges();
  const std::string missing = missing_capabilities(mine);
  if (!missing.empty()) return error(Code::kCapability, "%s failed: %s. This process lacks %s", doing, why.c_str(), missing.c_str());
  if (mine.memlock != RLIM_INFINITY && !features().memory_cgroup)
    return error(Code::kNoRoom,
                 "%s failed: %s. Before kernel 5.11 BPF maps count against RLIMIT_MEMLOCK, which is %llu bytes: raise it (ulimit -l, "
                 "LimitMEMLOCK=)",
                 doing, why.c_str(), static_cast<unsigned long long>(mine.memlock));
  return error(Code::kCapability, "%s failed: %s. A security module or a seccomp filter may forbid it.%s", doing, why.c_str(),
               tail.c_str());
}

}  // namespace

Privileges privileges() {
  Privileges result{};
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("CapEff:", 0) == 0) result.effective = std::stoull(line.substr(7), nullptr, 16);
    if (line.rfind("Seccomp:", 0) == 0) result.seccomp = std::stoi(line.substr(8));
  }
  rlimit memlock;
  result.memlock = getrlimit(RLIMIT_MEMLOCK, &memlock) == 0 ? memlock.rlim_cur : RLIM_INFINITY;
  result.user_namespace = in_user_namespace();
  result.lockdown = lockdown_level();
  return result;
}

std::string missing_capabilities(const Privileges& privileges) {
  if (privileges.may_load()) return "";
  if (privileges.has(kCapBpf)) return "CAP_PERFMON";
  if (privileges.has(kCapPerfmon)) return "CAP_BPF";
  return "CAP_BPF and CAP_PERFMON";
}

Error refusal(const char* doing, int number, const std::string& log) {
  const std::string why = errno_text(number), tail = log.empty() ? "" : " The kernel said: " + log;
  switch (number) {
    case EPERM:
      return not_permitted(doing, why, tail);
    case ENOMEM:
    case E2BIG:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
      return error(Code::kNoRoom, "%s failed: %s.%s", doing, why.c_str(), tail.c_str());
    default:
      return error(Code::kInternal, "%s failed: %s.%s", doing, why.c_str(), tail.c_str());
  }
}

}  // namespace ckpt::bpf
