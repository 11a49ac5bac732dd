// report.h: what the daemon tells its user: a status line on a terminal, or an event a line as JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ckpt {

class Loop;

struct Totals {
  uint32_t clients, images, operations;
  uint64_t held_bytes;   // of page stores
  uint64_t pages_moved;  // since the start
};

// An operation, as it is told.
struct Told {
  int pid;
  uint32_t uid;
  bool bare;
  bool restore;
  std::string name;  // of the context; empty: the default
};

class Report {
 public:
  virtual ~Report() = default;
  virtual void ready(int pid, const std::string& socket, const char* writer, const std::vector<uint32_t>& uids) = 0;
  virtual void held(const Told& told, const std::string& why) = 0;  // a bare client waits: "another client of the same /tmp is served"
  virtual void armed(const Told& told) = 0;
  virtual void planned(const Told& told, uint64_t pages, uint64_t bytes, uint32_t mappings) = 0;
  virtual void progress(const Told& told, uint64_t done_pages, uint64_t total_pages, uint64_t done_bytes, uint64_t total_bytes) = 0;
  virtual void done(const Told& told, uint64_t pages, uint64_t bytes, uint64_t ns, const char* writer) = 0;
  virtual void failed(const Told& told, const char* error, const std::string& message) = 0;  // error: "ENOENT"
  virtual void gone(int pid, uint64_t freed_bytes) = 0;                                      // a client with images ended
  virtual void warn(const std::string& message) = 0;
  virtual void totals(const Totals& totals) = 0;  // called after each change
  virtual void stopping(const std::string& why) = 0;
  // Totals and the status line come at most ten times a second: the last of a burst is told by a timer of this loop. To be called with null
  // before the loop ends. Without a loop it is told with the next event.
  virtual void pace(Loop* loop) = 0;
};

// JSON: one object a line on stdout: {"event":"done","pid":12,"uid":1000,"kind":"bare","phase":"checkpoint","name":"",...}. Status: a line
// on stderr, repainted at most ten times a second if stderr is a terminal; messages of failed() and warn() as lines of their own. Quiet:
// only failures and warnings. None of them ends or hangs the process because of its reader: one that has gone is told nothing more, one
// that does not read for a second misses events, and is told how many.
enum class ReportKind { kStatus, kJson, kQuiet };
Report& report_to(ReportKind kind);  // lives as long as the process

}  // namespace ckpt
