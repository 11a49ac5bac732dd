// options.cc: getopt_long() and the checks of each value.
#include "options.h"

#include <getopt.h>
#include <linux/types.h>
#include <pwd.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

extern "C" {
#include "../../bpf/serve_abi.h"
#include "../client/wire.h"
}

namespace ckpt {

namespace {

constexpr uint64_t kMaxPages = CKPT_PIECE_MAX / CKPT_PAGE;  // of one trigger
constexpr uint64_t kMaxMiB = uint64_t{1} << 34;
constexpr double kMaxStall = 86400;

// Values beyond every character, so that getopt's optopt tells a long option.
enum Key { kSocket = 256, kAllowUid, kPages, kWriter, kShared, kMaxProcess, kMaxUid, kMax, kStall, kJson, kQuiet, kHelp, kVersion };

const option kLongOptions[] = {
    {"socket", required_argument, nullptr, kSocket},
    {"allow-uid", required_argument, nullptr, kAllowUid},
    {"pages-per-trigger", required_argument, nullptr, kPages},
    {"writer", required_argument, nullptr, kWriter},
    {"shared", no_argument, nullptr, kShared},
    {"max-process", required_argument, nullptr, kMaxProcess},
    {"max-uid", required_argument, nullptr, kMaxUid},
    {"max", required_argument, nullptr, kMax},
    {"stall", required_argument, nullptr, kStall},
    {"json", no_argument, nullptr, kJson},
    {"quiet", no_argument, nullptr, kQuiet},
    {"help", no_argument, nullptr, kHelp},
    {"version", no_argument, nullptr, kVersion},
    {nullptr, 0, nullptr, 0},
};

std::string name_of(int key) {
  for (const option* o = kLongOptions; o->name; o++)
    if (o->val == key) return std::string("--") + o->name;
  return std::string("-") + static_cast<char>(key);
}

[[noreturn]] void expect(int key, const std::string& what, const char* got) {
  throw UsageError("Expected " + name_of(key) + " to be " + what + ", got '" + got + "'");
}

bool is_number(const char* text, uint64_t& value) {
  if (*text == '\0' || strspn(text, "0123456789") != strlen(text)) return false;
  errno = 0;
  value = strtoull(text, nullptr, 10);
  return errno == 0;
}

uint64_t whole_number(int key, const char* text, uint64_t least, uint64_t most, const char* unit) {
  uint64_t value;
  if (is_number(text, value) && value >= least && value <= most) return value;
  expect(key, std::string("a whole number") + unit + " from " + std::to_string(least) + " to " + std::to_string(most), text);
}

uint64_t bytes_of(const char* text, int key) { return whole_number(key, text, 1, kMaxMiB, " of MiB") << 20; }

uint32_t uid_of(const char* text) {
  uint64_t uid;
  if (is_number(text, uid)) return static_cast<uint32_t>(whole_number(kAllowUid, text, 0, UINT32_MAX - 1, ""));
  const passwd* entry = getpwnam(text);
  if (!entry) expect(kAllowUid, "the name or number of a user", text);
  return entry->pw_uid;
}

WriterChoice writer_of(const char* text) {
  static const std::map<std::string, WriterChoice> writers{
      {"auto", WriterChoice::kAuto}, {"kernel", WriterChoice::kKernel}, {"user", WriterChoice::kUser}};
  const auto found = writers.find(text);
  if (found == writers.end()) expect(kWriter, "auto, kernel or user", text);
  return found->second;
}

uint32_t stall_of(const char* text) {
  char* end = nullptr;
  const double seconds = strtod(text, &end);
  if (end == text || *end != '\0' || !(seconds >= 0.001 && seconds <= kMaxStall)) expect(kStall, "seconds, from 0.001 to 86400", text);
  return static_cast<uint32_t>(std::lround(seconds * 1000));
}

std::string socket_of(const std::string& path) {
  if (!path.empty() && path.size() < sizeof(sockaddr_un::sun_path)) return path;
  expect(kSocket, "a path of 1 to " + std::to_string(sizeof(sockaddr_un::sun_path) - 1) + " bytes", path.c_str());
}

void add_uid(ServeOptions& options, uint32_t uid) {
  if (std::find(options.uids.begin(), options.uids.end(), uid) == options.uids.end()) options.uids.push_back(uid);
  if (options.uids.size() <= CKPT_UIDS_MAX) return;
  throw UsageError("Expected --allow-uid at most so often that " + std::to_string(CKPT_UIDS_MAX) +
                   " users are served, root and one's own among them");
}

void take(Command& command, int key, const char* value) {
  ServeOptions& serve = command.serve;
  switch (key) {
    case kSocket:
      serve.socket = socket_of(value);
      break;
    case kAllowUid:
      add_uid(serve, uid_of(value));
      break;
    case kPages:
      serve.pages_per_trigger = static_cast<uint32_t>(whole_number(key, value, 1, kMaxPages, ""));
      break;
    case kWriter:
      serve.writer = writer_of(value);
      break;
    case kShared:
      serve.shared = true;
      break;
    case kMaxProcess:
      serve.max_process_bytes = bytes_of(value, key);
      break;
    case kMaxUid:
      serve.max_uid_bytes = bytes_of(value, key);
      break;
    case kMax:
      serve.max_bytes = bytes_of(value, key);
      break;
    case kStall:
      serve.stall_ms = stall_of(value);
      break;
    case kJson:
      serve.json = true;
      break;
    case kQuiet:
      serve.quiet = true;
      break;
  }
}

// What getopt_long() did not like. `word` is the argument it stopped at.
[[noreturn]] void reject(int result, int key, const char* word) {
  if (result == ':') throw UsageError("Option " + name_of(key) + " needs a value");
  if (key > 255) throw UsageError("Option " + name_of(key) + " takes no value");
  if (key != 0) throw UsageError("Unknown option -" + std::string(1, static_cast<char>(key)));
  throw UsageError("Unknown option " + std::string(word, strcspn(word, "=")));
}

ServeOptions defaults() {
  ServeOptions options;
  const char* socket = getenv(CKPT_SOCKET_ENV);
  options.socket = socket && *socket ? socket : CKPT_SOCKET;
  add_uid(options, 0);
  add_uid(options, getuid());
  return options;
}

Command::Kind kind_of(const std::string& word) {
  if (word == "serve") return Command::kServe;
  if (word == "run") return Command::kRun;
  if (word == "--help" || word == "-h") return Command::kHelp;
  if (word == "--version" || word == "-v") return Command::kVersion;
  throw UsageError((word[0] == '-' ? "Unknown option " : "Unknown command ") + word);
}

}  // namespace

Command parse_command(int argc, char** argv) {
  if (argc < 2) throw UsageError("Expected a command");
  Command command{kind_of(argv[1]), defaults(), {}};
  if (command.kind == Command::kHelp || command.kind == Command::kVersion) return command;

  // The command's name stands where getopt expects the program's. '+': PROGRAM's options are not ours. ':': a missing value is told apart.
  const int count = argc - 1;
  char** const words = argv + 1;
  optind = 0;
  opterr = 0;
  for (int key; (key = getopt_long(count, words, "+:hv", kLongOptions, nullptr)) != -1;) {
    if (key == '?' || key == ':') reject(key, optopt, words[std::max(optind - 1, 0)]);
    if (key == kHelp || key == 'h') return {Command::kHelp, {}, {}};
    if (key == kVersion || key == 'v') return {Command::kVersion, {}, {}};
    take(command, key, optarg);
  }
  socket_of(command.serve.socket);  // it may have come from the environment
  command.program.assign(words + optind, words + count);
  if (command.kind == Command::kServe && !command.program.empty()) throw UsageError("Unexpected argument " + command.program[0]);
  if (command.kind == Command::kRun && command.program.empty()) throw UsageError("Expected a program after run");
  return command;
}

std::string usage() {
  return "Usage: ebpf-ckpt-daemon serve [OPTION]...\n"
         "       ebpf-ckpt-daemon run [OPTION]... -- PROGRAM [ARGUMENT]...\n"
         "\n"
         "Saves the memory of C programs that ask for it, and brings it back. `run` starts a program beside a daemon of its own, or beside "
         "the\n"
         "one that serves already, and ends as the program does.\n"
         "\n"
         "Options:\n"
         "  --socket PATH          where the C library finds the daemon (default $" CKPT_SOCKET_ENV ", else " CKPT_SOCKET
         ")\n"
         "  --allow-uid UID|NAME   serve the programs of this user, besides root's and one's own; may be given again\n"
         "  --pages-per-trigger N  pace of programs without the library: 1 is page by page, 256 the most (default: as many as may be)\n"
         "  --writer WRITER        who puts bytes back: auto, kernel or user (default auto: the kernel where it may)\n"
         "  --shared               programs without the library: roll back shared anonymous memory that others map too\n"
         "  --max-process MiB      most memory held for one process\n"
         "  --max-uid MiB          ... for one user\n"
         "  --max MiB              ... in all\n"
         "  --stall SECONDS        give an operation up after so long without a trigger (default 10)\n"
         "  --json                 an event a line on stdout\n"
         "  --quiet                no status line: failures and warnings only\n"
         "  -h, --help             this text\n"
         "  -v, --version          the version of ebpf-ckpt\n";
}

}  // namespace ckpt
