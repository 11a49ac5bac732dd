// privileges.h: what this process may do, read from /proc, and how a refusal of the kernel is worded from it.
#pragma once

#include <cstdint>
#include <string>

#include "../error.h"

namespace ckpt::bpf {

// Numbers of <linux/capability.h>, which older headers lack in part.
enum Cap : int {
  kCapDacReadSearch = 2,
  kCapSysPtrace = 19,
  kCapSysAdmin = 21,
  kCapSysResource = 24,
  kCapPerfmon = 38,
  kCapBpf = 39,
  kCapCheckpointRestore = 40,
};

struct Privileges {
  uint64_t effective;    // capabilities
  int seccomp;           // 0 none, 1 strict, 2 filter
  uint64_t memlock;      // RLIMIT_MEMLOCK in force
  bool user_namespace;   // not the initial one: its capabilities do not count for bpf()
  std::string lockdown;  // "none", "integrity", "confidentiality"; empty where it cannot be read

  bool has(Cap cap) const { return effective >> cap & 1; }
  // What CAP_BPF and CAP_PERFMON grant, CAP_SYS_ADMIN grants too.
  bool may_load() const { return has(kCapSysAdmin) || (has(kCapBpf) && has(kCapPerfmon)); }
};

// Asked anew at each call.
Privileges privileges();

// The capabilities that loading and attaching lack: "CAP_BPF and CAP_PERFMON", empty if none.
std::string missing_capabilities(const Privileges& privileges);

// The error for a bpf() call that failed with `number`; `doing` fits "<doing> failed", `log` is what libbpf printed. It knows the common
// reasons; require_support() of probe.h looks further where a session cannot be had at all.
Error refusal(const char* doing, int number, const std::string& log = "");

}  // namespace ckpt::bpf
