// probe.h: what this kernel and this process's privileges allow; the one place where that is asked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ckpt::bpf {

enum class Walk : uint32_t { kNone, kIterator, kList };

// What stands between this process and a checkpoint, or between it and the better of two ways.
struct Problem {
  std::string code;     // an ERR_CKPT_ code
  std::string message;  // one sentence: what is missing
  std::string fix;      // the command or unit setting that grants it, empty if nothing can
  bool fatal;           // checkpoints do not work because of it
};

struct Capability {
  const char* name;  // "CAP_BPF"
  bool effective;
  const char* needed_for;
};

// Kernel features. Asked once a process and kept; nothing in it changes while the kernel runs.
struct Features {
  bool btf;             // /sys/kernel/btf/vmlinux is readable
  bool bpf;             // a tracepoint program loads
  bool kernel_writer;   // ... with bpf_probe_write_user
  bool fetch_and_add;   // ... with an atomic fetch-and-add (5.12)
  bool page_scan;       // PAGEMAP_SCAN (6.7)
  bool mapping_query;   // PROCMAP_QUERY (6.11)
  bool populate;        // MADV_POPULATE_READ and _WRITE (5.14)
  bool map_allocation;  // hash elements may be allocated as a tracing program inserts them (6.1)
  bool memory_cgroup;   // maps are charged to the memory cgroup, not to RLIMIT_MEMLOCK (5.11)
  int bpf_errno;        // why not `bpf`
  int writer_errno;     // why not `kernel_writer`
};
const Features& features();

// How the programs can walk the VMAs. Kept too, but asked only when it is needed: the kernel's types have to be read, 10 ms, and where it
// has the iterator, it takes another 40 ms for each program that uses it to find out what that is.
Walk vma_walk();

// Everything `doctor` and support() tell. Asked anew at each call but for Features.
struct Support {
  Features features;
  Walk walk;
  std::string release;   // "6.18.44"
  std::string machine;   // "x86_64"
  std::string lockdown;  // "none", "integrity", "confidentiality", "unknown"
  std::string tracefs;   // how tracepoint ids are reached: "mounted", "private", or why not
  bool tracepoints;      // both ids were read
  int seccomp;           // 0 none, 1 strict, 2 filter
  std::vector<Capability> capabilities;
  std::vector<Problem> problems;  // fatal ones first
};
Support support();

// Throws the first fatal problem as an Error.
void require_support();

}  // namespace ckpt::bpf
