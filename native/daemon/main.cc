// main.cc: the daemon's executable: from the command line to an exit status.
#include <cstdio>

#include "complain.h"
#include "options.h"
#include "parent.h"
#include "report.h"
#include "run.h"
#include "serve.h"

namespace {

int execute(const ckpt::Command& command, pid_t parent) {
  switch (command.kind) {
    case ckpt::Command::kHelp:
      fputs(ckpt::usage().c_str(), stdout);
      return 0;
    case ckpt::Command::kVersion:
      puts(CKPT_VERSION);
      return 0;
    case ckpt::Command::kRun:
      return ckpt::run_program(command, parent);
    case ckpt::Command::kServe:
      break;
  }
  auto kind = command.serve.quiet ? ckpt::ReportKind::kQuiet : ckpt::ReportKind::kStatus;
  if (command.serve.json) kind = ckpt::ReportKind::kJson;
  return ckpt::serve(command.serve, ckpt::report_to(kind), -1);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const pid_t parent = ckpt::die_with_caller();
    return execute(ckpt::parse_command(argc, argv), parent);
  } catch (...) {
    return ckpt::complain();
  }
}
