// report.cc: the three reports: JSON lines, the status line, failures only.
#include "report.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "../engine/clock.h"
#include "loop.h"

namespace ckpt {

namespace {

constexpr uint64_t kPaceMs = 100;
constexpr int kPatienceMs = 1000;
constexpr size_t kChunk = 4096;  // a pipe that polls writable takes so much without waiting: PIPE_BUF

// Writes whole texts to a descriptor, whatever its reader does.
class Out {
 public:
  explicit Out(int fd) : fd_(fd) {}

  // False if the text, or its rest, was given up.
  bool write(const std::string& text) {
    size_t at = 0;
    while (at < text.size() && !gone_ && writable()) {
      const ssize_t length = ::write(fd_, text.data() + at, std::min(text.size() - at, kChunk));
      if (length > 0) at += static_cast<size_t>(length);
      if (length < 0 && errno != EINTR && errno != EAGAIN) gone_ = true;
    }
    if (at > 0) cut_ = at < text.size();
    return at == text.size();
  }

  // Whether the last thing that was written is the beginning of a text.
  bool cut() const { return cut_; }

 private:
  // Who does not read for a while is waited for no longer, until he reads again.
  bool writable() {
    pollfd out{fd_, POLLOUT, 0};
    int count;
    do count = poll(&out, 1, stuck_ ? 0 : kPatienceMs);
    while (count < 0 && errno == EINTR);
    stuck_ = count == 0;
    return count > 0;
  }

  int fd_;
  bool gone_ = false, stuck_ = false, cut_ = false;
};

// Lets something be told at most once in kPaceMs, and the last of it always.
class Pace {
 public:
  explicit Pace(std::function<void()> tell) : tell_(std::move(tell)) {}

  void use(Loop* loop) {
    flush();
    if (loop_ && timer_) loop_->cancel(timer_);
    timer_ = 0;
    loop_ = loop;
  }

  // There is something new.
  void touch() {
    pending_ = true;
    if (timer_) return;
    const uint64_t since = ms_since();
    if (since >= kPaceMs) return flush();
    if (!loop_) return;
    timer_ = loop_->after(kPaceMs - since, [this] {
      timer_ = 0;
      flush();
    });
  }

  // Tells what no timer will tell.
  void catch_up() {
    if (!timer_ && ms_since() >= kPaceMs) flush();
  }

  void flush() {
    if (!pending_) return;
    pending_ = false;
    told_ = now_ns();
    tell_();
  }

 private:
  uint64_t ms_since() const { return (now_ns() - told_) / 1000000; }

  std::function<void()> tell_;
  Loop* loop_ = nullptr;
  uint64_t timer_ = 0, told_ = 0;
  bool pending_ = false;
};

// Bytes of the well-formed UTF-8 character at `text`, 0 if there is none.
size_t utf8_length(const unsigned char* text, size_t left) {
  const unsigned char lead = text[0];
  const size_t length = lead < 0x80                    ? 1
                        : lead >= 0xc2 && lead <= 0xdf ? 2
                        : (lead & 0xf0) == 0xe0        ? 3
                        : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                       : 0;
  if (length == 0 || length > left) return 0;
  for (size_t i = 1; i < length; i++)
    if ((text[i] & 0xc0) != 0x80) return 0;
  // Longer than needed, a surrogate, or beyond the last character.
  if ((lead == 0xe0 && text[1] < 0xa0) || (lead == 0xed && text[1] > 0x9f)) return 0;
  if ((lead == 0xf0 && text[1] < 0x90) || (lead == 0xf4 && text[1] > 0x8f)) return 0;
  return length;
}

// `text` with every byte that is no part of UTF-8 replaced by U+FFFD, and every control character by what `control` makes of it.
template <typename Control>
std::string cleaned(const std::string& text, Control control) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_length(bytes + at, text.size() - at);
    if (length == 1)
      control(out, text[at]);
    else if (length == 0)
      out += "\xef\xbf\xbd";
    else
      out.append(text, at, length);
    at += length ? length : 1;
  }
  return out;
}

std::string json_string(const std::string& text) {
  return '"' +
         cleaned(text,
                 [](std::string& out, char c) {
                   char escaped[8];
                   snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned>(c));
                   if (c == '"' || c == '\\')
                     (out += '\\') += c;
                   else if (static_cast<unsigned char>(c) < 0x20)
                     out += escaped;
                   else
                     out += c;
                 }) +
         '"';
}

// For a terminal: a client chooses the names of its contexts, and must not move the cursor with them. C1 controls are two bytes of UTF-8
// from c2 80.
std::string plain_text(const std::string& text) {
  std::string out = cleaned(text, [](std::string& clean, char c) { clean += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c; });
  for (size_t at = 0; at + 1 < out.size(); at++)
    if (out[at] == '\xc2' && static_cast<unsigned char>(out[at + 1]) < 0xa0) out.replace(at, 2, "?");
  return out;
}

const char* phase_of(const Told& told) { return told.restore ? "restore" : "checkpoint"; }

std::string mib(uint64_t bytes) {
  char text[32];
  snprintf(text, sizeof(text), "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

std::string list(const std::vector<uint32_t>& numbers, const char* between) {
  std::string text;
  for (const uint32_t number : numbers) text += (text.empty() ? "" : between) + std::to_string(number);
  return text;
}

// One event under construction.
class Event {
 public:
  explicit Event(const char* name) : text_("{\"event\":\"" + std::string(name) + '"') {}
  Event(const char* name, const Told& told) : Event(name) {
    number("pid", static_cast<uint64_t>(told.pid)).number("uid", told.uid).string("kind", told.bare ? "bare" : "library");
    string("phase", phase_of(told)).string("name", told.name);
  }

  Event& number(const char* name, uint64_t value) { return raw(name, std::to_string(value)); }
  Event& string(const char* name, const std::string& value) { return raw(name, json_string(value)); }
  Event& raw(const char* name, const std::string& value) {
    text_ += ",\"" + std::string(name) + "\":" + value;
    return *this;
  }
  std::string line() const { return text_ + "}\n"; }

 private:
  std::string text_;
};

class JsonReport : public Report {
 public:
  void ready(int pid, const std::string& socket, const char* writer, const std::vector<uint32_t>& uids) override {
    Event event("ready");
    event.number("pid", static_cast<uint64_t>(pid)).string("socket", socket).string("writer", writer);
    tell(event.raw("uids", "[" + list(uids, ",") + "]"));
  }
  void held(const Told& told, const std::string& why) override { tell(Event("held", told).string("why", why)); }
  void armed(const Told& told) override { tell(Event("armed", told)); }
  void planned(const Told& told, uint64_t pages, uint64_t bytes, uint32_t mappings) override {
    tell(Event("planned", told).number("pages", pages).number("bytes", bytes).number("mappings", mappings));
  }
  void progress(const Told& told, uint64_t done_pages, uint64_t total_pages, uint64_t done_bytes, uint64_t total_bytes) override {
    Event event("progress", told);
    event.number("donePages", done_pages).number("totalPages", total_pages);
    tell(event.number("doneBytes", done_bytes).number("totalBytes", total_bytes));
  }
  void done(const Told& told, uint64_t pages, uint64_t bytes, uint64_t ns, const char* writer) override {
    char ms[32];
    snprintf(ms, sizeof(ms), "%" PRIu64 ".%03u", ns / 1000000, static_cast<unsigned>(ns / 1000 % 1000));
    tell(Event("done", told).number("pages", pages).number("bytes", bytes).raw("ms", ms).string("writer", writer));
  }
  void failed(const Told& told, const char* error, const std::string& message) override {
    tell(Event("failed", told).string("error", error).string("message", message));
  }
  void gone(int pid, uint64_t freed_bytes) override {
    tell(Event("gone").number("pid", static_cast<uint64_t>(pid)).number("freedBytes", freed_bytes));
  }
  void warn(const std::string& message) override { tell(Event("warning").string("message", message)); }
  void totals(const Totals& totals) override {
    totals_ = totals;
    pace_.touch();
  }
  void stopping(const std::string& why) override {
    pace_.flush();
    write(Event("stopping").string("why", why));
  }
  void pace(Loop* loop) override { pace_.use(loop); }

 private:
  void tell(const Event& event) {
    pace_.catch_up();
    write(event);
  }

  void tell_totals() {
    Event event("totals");
    event.number("clients", totals_.clients).number("images", totals_.images).number("operations", totals_.operations);
    write(event.number("heldBytes", totals_.held_bytes).number("pagesMoved", totals_.pages_moved));
  }

  void write(const Event& event) {
    if (lost_ != 0) {
      const std::string message = std::to_string(lost_) + " events are missing here: they were not read in time";
      if (out_.write((out_.cut() ? "\n" : "") + Event("warning").string("message", message).line())) lost_ = 0;
    }
    if (lost_ == 0 && out_.write(event.line())) return;
    lost_++;
  }

  Out out_{STDOUT_FILENO};
  Totals totals_{};
  uint64_t lost_ = 0;
  Pace pace_{[this] { tell_totals(); }};
};

// What is said on stderr whoever looks at it: failures and warnings.
class QuietReport : public Report {
 public:
  void ready(int, const std::string&, const char*, const std::vector<uint32_t>&) override {}
  void held(const Told&, const std::string&) override {}
  void armed(const Told&) override {}
  void planned(const Told&, uint64_t, uint64_t, uint32_t) override {}
  void progress(const Told&, uint64_t, uint64_t, uint64_t, uint64_t) override {}
  void done(const Told&, uint64_t, uint64_t, uint64_t, const char*) override {}
  void failed(const Told& told, const char* error, const std::string& message) override {
    say("process " + std::to_string(told.pid) + ": " + phase_of(told) + name_of(told) + " failed: " + message + " (" + error + ")");
  }
  void gone(int, uint64_t) override {}
  void warn(const std::string& message) override { say(message); }
  void totals(const Totals&) override {}
  void stopping(const std::string&) override {}
  void pace(Loop*) override {}

 protected:
  // A line of its own.
  virtual void say(const std::string& text) { out_.write("ebpf-ckpt-daemon: " + plain_text(text) + "\n"); }

  Out out_{STDERR_FILENO};

 private:
  static std::string name_of(const Told& told) { return told.name.empty() ? "" : " '" + told.name + "'"; }
};

class StatusReport : public QuietReport {
 public:
  void ready(int pid, const std::string& socket, const char* writer, const std::vector<uint32_t>& uids) override {
    say("process " + std::to_string(pid) + " serves uids " + list(uids, ", ") + " at " + socket + ", " + writer + " writer");
  }
  void progress(const Told& told, uint64_t done_pages, uint64_t total_pages, uint64_t, uint64_t) override {
    const uint64_t percent = total_pages ? done_pages * 100 / total_pages : 100;
    now_ = std::string(phase_of(told)) + " of process " + std::to_string(told.pid) + ": " + std::to_string(percent) + "%";
    pace_.touch();
  }
  void done(const Told&, uint64_t, uint64_t, uint64_t, const char*) override { clear_now(); }
  void failed(const Told& told, const char* error, const std::string& message) override {
    clear_now();
    QuietReport::failed(told, error, message);
  }
  void totals(const Totals& totals) override {
    totals_ = totals;
    pace_.touch();
  }
  void stopping(const std::string& why) override { say("stopping: " + why); }
  void pace(Loop* loop) override {
    pace_.use(loop);
    if (!loop) wipe();
  }

 private:
  static bool on_terminal() {
    const char* term = getenv("TERM");
    return isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0);
  }

  void clear_now() {
    now_.clear();
    pace_.touch();
  }

  void wipe() {
    if (painted_) out_.write("\r\x1b[K");
    painted_ = false;
  }

  void say(const std::string& text) override {
    wipe();
    QuietReport::say(text);
    pace_.touch();
  }

  void paint() {
    if (!terminal_) return;
    const auto count = [](uint32_t number, const char* what) { return std::to_string(number) + " " + what + (number == 1 ? "" : "s"); };
    std::string line = count(totals_.clients, "client") + ", " + count(totals_.images, "image") + ", " + mib(totals_.held_bytes) +
                       " held, " + std::to_string(totals_.pages_moved) + " pages moved";
    if (totals_.operations > 0) line += ", " + std::to_string(totals_.operations) + " under way";
    if (!now_.empty()) line += "; " + now_;
    winsize size{};
    const size_t width = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : 79;
    painted_ = out_.write("\r\x1b[K" + line.substr(0, width)) || painted_;
  }

  const bool terminal_ = on_terminal();
  bool painted_ = false;
  Totals totals_{};
  std::string now_;  // what is under way
  Pace pace_{[this] { paint(); }};
};

}  // namespace

Report& report_to(ReportKind kind) {
  signal(SIGPIPE, SIG_IGN);  // write() says it too
  if (kind == ReportKind::kJson) {
    static JsonReport json;
    return json;
  }
  if (kind == ReportKind::kStatus) {
    static StatusReport status;
    return status;
  }
  static QuietReport quiet;
  return quiet;
}

}  // namespace ckpt
