// options.h: the daemon's command line, parsed and checked.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace ckpt {

enum class WriterChoice { kAuto, kKernel, kUser };

struct ServeOptions {
  std::string socket;              // default CKPT_SOCKET of client/wire.h, or its environment variable
  std::vector<uint32_t> uids;      // who is served; always the daemon's own and 0
  uint32_t pages_per_trigger = 0;  // pace of bare clients; 0: as many as may be
  WriterChoice writer = WriterChoice::kAuto;
  bool shared = false;             // bare clients: roll back shared anonymous memory that others map too
  uint64_t max_process_bytes = 0;  // ceilings of held bytes; 0: none
  uint64_t max_uid_bytes = 0;
  uint64_t max_bytes = 0;
  uint32_t stall_ms = 10000;         // without a trigger for that long an operation is given up
  bool json = false, quiet = false;  // events as JSON lines; no status line
};

struct Command {
  enum Kind { kServe, kRun, kHelp, kVersion } kind;
  ServeOptions serve;
  std::vector<std::string> program;  // of run: PROGRAM ARGS
};

// What the user typed makes no sense: said with the usage, exit status 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws UsageError naming the option.
Command parse_command(int argc, char** argv);

// The text of --help.
std::string usage();

}  // namespace ckpt
