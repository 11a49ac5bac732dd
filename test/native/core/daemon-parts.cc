// daemon-parts.cc: the parts of the daemon one by one, against real processes, files, sockets and maps: what no client can bring about at
// will.
//
// Prints "ok NAME" or "not ok NAME: why" for each; exit status 1 if any failed. Runs as root, in a pid and a mount namespace of its own
// with an empty /run, so that it meets nobody's daemon.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "daemon/completion.h"
#include "daemon/keeper.h"
#include "daemon/loop.h"
#include "daemon/notify.h"
#include "daemon/only_one.h"
#include "daemon/options.h"
#include "daemon/report.h"
#include "engine/clock.h"
#include "error.h"

extern "C" {
#include "../../../bpf/serve_abi.h"
}

namespace {

using ckpt::Fd;
using ckpt::bpf::Phase;

constexpr uint32_t kUid = 12345, kGid = 23456;

void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

// A system call that must succeed.
int must(int result, const std::string& what) {
  require(result >= 0, what + ": " + strerror(errno));
  return result;
}

// The ckpt::Error that `call` throws.
ckpt::Error error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ckpt::Error& error) {
    return error;
  }
  throw std::runtime_error("nothing was thrown");
}

void require_says(const ckpt::Error& error, const std::string& words) {
  require(std::string(error.what()).find(words) != std::string::npos, std::string("it says: ") + error.what());
}

std::string content(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void put(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

// Waits up to two seconds for something to come true.
bool eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 200; i++) {
    if (holds()) return true;
    usleep(10000);
  }
  return holds();
}

// A child process that runs `body` and then, unless that ends it, sleeps until it is killed.
class Child {
 public:
  // Returns when `body` is through; throws if it threw.
  explicit Child(const std::function<void()>& body) {
    int ends[2];
    must(pipe2(ends, O_CLOEXEC), "pipe");
    pid_ = must(fork(), "fork");
    if (pid_ == 0) be(body, ends[1]);
    close(ends[1]);
    char text[512] = {};
    const bool silent = read(ends[0], text, sizeof(text) - 1) <= 0;
    close(ends[0]);
    if (silent || text[0] != '.') {
      end(SIGKILL);
      throw std::runtime_error(std::string("the child failed: ") + text);
    }
  }
  ~Child() { end(SIGKILL); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  // Returns its wait status.
  int end(int number) {
    int status = 0;
    if (pid_ < 0) return status;
    kill(pid_, number);
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }

 private:
  [[noreturn]] static void be(const std::function<void()>& body, int said) {
    try {
      body();
      if (write(said, ".", 1) != 1) _exit(1);
    } catch (const std::exception& error) {
      _exit(write(said, error.what(), strlen(error.what())) < 0 ? 2 : 3);
    }
    for (;;) pause();
  }

  pid_t pid_ = -1;
};

// Runs `body` in a child with its stdout in a pipe; returns what it wrote. `reads`: runs here meanwhile, with the pipe.
std::string output_of(const std::function<void()>& body, const std::function<void(int)>& before_reading = nullptr) {
  int ends[2];
  must(pipe2(ends, O_CLOEXEC), "pipe");
  fflush(stdout);
  const pid_t pid = must(fork(), "fork");
  if (pid == 0) {
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    close(ends[1]);
    body();
    _exit(0);
  }
  close(ends[1]);
  const Fd reader(ends[0]);
  if (before_reading) before_reading(reader.get());
  std::string text;
  char some[4096];
  for (ssize_t length; (length = read(reader.get(), some, sizeof(some))) > 0;) text.append(some, static_cast<size_t>(length));
  int status = 0;
  waitpid(pid, &status, 0);
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the writer ended with wait status " + std::to_string(status));
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::stringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// ---- loop

struct TwoPipes {
  int a[2], b[2];
  TwoPipes() {
    must(pipe2(a, O_CLOEXEC), "pipe");
    must(pipe2(b, O_CLOEXEC), "pipe");
  }
  ~TwoPipes() {
    for (const int fd : {a[0], a[1], b[0], b[1]}) close(fd);
  }
  void write_both() const { require(write(a[1], "x", 1) == 1 && write(b[1], "x", 1) == 1, "write"); }
};

void loop_forgets_others() {
  ckpt::Loop loop;
  const TwoPipes pipes;
  int calls = 0;
  // Whoever comes first forgets both: the other must not be called, though its event is in the same batch.
  const auto ready = [&] {
    calls++;
    loop.forget(pipes.a[0]);
    loop.forget(pipes.b[0]);
  };
  loop.watch(pipes.a[0], ready);
  loop.watch(pipes.b[0], ready);
  pipes.write_both();
  loop.after(50, [&] { loop.stop(); });
  loop.run();
  require(calls == 1, std::to_string(calls) + " calls");
}

void loop_same_number() {
  ckpt::Loop loop;
  const TwoPipes pipes;
  Fd fresh[2];
  int ends[2], calls = 0, wrong = 0;
  must(pipe2(ends, O_CLOEXEC), "pipe");
  fresh[0].reset(ends[0]);
  fresh[1].reset(ends[1]);
  // Whoever comes first puts a silent pipe in the other's place, under the same number.
  const auto replace = [&](int other) {
    calls++;
    loop.forget(pipes.a[0]);
    loop.forget(pipes.b[0]);
    must(dup3(fresh[0].get(), other, O_CLOEXEC), "dup3");
    loop.watch(other, [&] { wrong++; });
  };
  loop.watch(pipes.a[0], [&] { replace(pipes.b[0]); });
  loop.watch(pipes.b[0], [&] { replace(pipes.a[0]); });
  pipes.write_both();
  loop.after(50, [&] { loop.stop(); });
  loop.run();
  require(calls == 1 && wrong == 0, std::to_string(calls) + " calls, " + std::to_string(wrong) + " for the one before");
}

void loop_hang_up() {
  ckpt::Loop loop;
  int ends[2];
  must(pipe2(ends, O_CLOEXEC), "pipe");
  const Fd reader(ends[0]);
  close(ends[1]);
  bool told = false;
  loop.watch(reader.get(), [&] { told = true, loop.stop(); });
  loop.after(1000, [&] { loop.stop(); });
  loop.run();
  require(told, "nobody was told");
}

void loop_timers() {
  ckpt::Loop loop;
  std::string order;
  const uint64_t start = ckpt::now_ns();
  loop.after(60, [&] { order += 'c', loop.stop(); });
  const uint64_t cancelled = loop.after(40, [&] { order += 'x'; });
  loop.after(20, [&] { order += 'a', loop.cancel(cancelled), loop.after(0, [&] { order += 'b'; }); });
  loop.run();
  require(order == "abc", order);
  require(ckpt::now_ns() - start >= 60000000, "too early");
}

void loop_exceptions() {
  ckpt::Loop loop;
  loop.after(0, [] { throw std::runtime_error("through"); });
  std::string caught;
  try {
    loop.run();
  } catch (const std::exception& error) {
    caught = error.what();
  }
  loop.after(0, [&] { loop.stop(); });
  loop.run();
  require(caught == "through", "it did not come through");
}

// ---- report

void report_escapes() {
  const ckpt::Told told{12, 1000, true, false, std::string("a\"\\\n\x01\0b\x7f", 8)};
  const std::string text = output_of([&] {
    ckpt::Report& report = ckpt::report_to(ckpt::ReportKind::kJson);
    report.held(told, "\xff\xc3\xa4\xed\xa0\x80\xf0\x9f\x98\x80\xc3");
    report.warn("\xc0\xaf");
  });
  const std::string bad = "\xef\xbf\xbd";
  require(text ==
              "{\"event\":\"held\",\"pid\":12,\"uid\":1000,\"kind\":\"bare\",\"phase\":\"checkpoint\",\"name\":"
              "\"a\\\"\\\\\\u000a\\u0001\\u0000b\x7f\","
              "\"why\":\"" +
                  bad + "\xc3\xa4" + bad + bad + bad + "\xf0\x9f\x98\x80" + bad +
                  "\"}\n"
                  "{\"event\":\"warning\",\"message\":\"" +
                  bad + bad + "\"}\n",
          text);
}

void report_fields() {
  const ckpt::Told told{7, 0, false, true, ""};
  const std::string text = output_of([&] {
    ckpt::Report& report = ckpt::report_to(ckpt::ReportKind::kJson);
    report.ready(5, "/s", "kernel", {0, 1000});
    report.planned(told, 1, 4096, 3);
    report.progress(told, 1, 2, 3, 4);
    report.done(told, 1, 4096, 1002003, "user");
    report.failed(told, "ENOENT", "No");
    report.gone(7, 8192);
    report.totals({1, 2, 3, 4, 5});
    report.stopping("SIGTERM");
  });
  const std::string who = ",\"pid\":7,\"uid\":0,\"kind\":\"library\",\"phase\":\"restore\",\"name\":\"\"";
  require(text ==
              "{\"event\":\"ready\",\"pid\":5,\"socket\":\"/s\",\"writer\":\"kernel\",\"uids\":[0,1000]}\n"
              "{\"event\":\"planned\"" +
                  who +
                  ",\"pages\":1,\"bytes\":4096,\"mappings\":3}\n"
                  "{\"event\":\"progress\"" +
                  who +
                  ",\"donePages\":1,\"totalPages\":2,\"doneBytes\":3,\"totalBytes\":4}\n"
                  "{\"event\":\"done\"" +
                  who +
                  ",\"pages\":1,\"bytes\":4096,\"ms\":1.002,\"writer\":\"user\"}\n"
                  "{\"event\":\"failed\"" +
                  who +
                  ",\"error\":\"ENOENT\",\"message\":\"No\"}\n"
                  "{\"event\":\"gone\",\"pid\":7,\"freedBytes\":8192}\n"
                  "{\"event\":\"totals\",\"clients\":1,\"images\":2,\"operations\":3,\"heldBytes\":4,\"pagesMoved\":5}\n"
                  "{\"event\":\"stopping\",\"why\":\"SIGTERM\"}\n",
          text);
}

void report_cleans_names() {
  const ckpt::Told told{7, 0, false, true, "\x1b[2J\xc2\x9b\xff\n"};
  const std::string text = output_of([&] {
    dup2(STDOUT_FILENO, STDERR_FILENO);
    ckpt::Report& report = ckpt::report_to(ckpt::ReportKind::kStatus);
    report.totals({1, 2, 3, 4, 5});
    report.progress(told, 1, 2, 3, 4);
    report.failed(told, "ENOENT", "No");
    report.pace(nullptr);
  });
  require(text == "ebpf-ckpt-daemon: process 7: restore '?[2J?\xef\xbf\xbd?' failed: No (ENOENT)\n", text);
}

void report_paces_totals() {
  const std::string text = output_of([] {
    ckpt::Report& report = ckpt::report_to(ckpt::ReportKind::kJson);
    ckpt::Loop loop;
    report.pace(&loop);
    uint32_t changes = 0;
    const std::function<void()> change = [&] {
      report.totals({++changes, 0, 0, 0, 0});
      report.warn("x");
      if (changes < 200) loop.after(1, change);
      // What came last has 100 ms to be told in, without another event.
      if (changes == 200) loop.after(150, [&] { loop.stop(); });
    };
    change();
    loop.run();
    require(write(STDOUT_FILENO, "end\n", 4) == 4, "write");
    report.pace(nullptr);
  });
  std::vector<std::string> totals;
  for (const std::string& line : lines_of(text))
    if (line.find("totals") != std::string::npos || line.find("end") != std::string::npos) totals.push_back(line);
  // 200 ms and more, at most ten a second: the machine may be slow, but not so slow.
  require(totals.size() >= 3 && totals.size() <= 30, std::to_string(totals.size()) + " lines");
  require(totals[totals.size() - 2].find("\"clients\":200") != std::string::npos, "the last was not told: " + totals[totals.size() - 2]);
}

void report_outlives_its_reader() {
  const std::string rest = output_of(
      [] {
        for (int i = 0; i < 100; i++) {
          ckpt::report_to(ckpt::ReportKind::kJson).warn("still here");
          usleep(1000);
        }
      },
      [](int reader) {
        usleep(20000);
        dup3(open("/dev/null", O_RDONLY | O_CLOEXEC), reader, O_CLOEXEC);
      });
  require(rest.empty(), rest);
}

void report_does_not_wait_for_ever() {
  constexpr int kEvents = 20000;
  const ckpt::Told told{1, 2, true, true, ""};
  const uint64_t start = ckpt::now_ns();
  int told_when_full = 0;
  const std::string text = output_of(
      [&] {
        ckpt::Report& report = ckpt::report_to(ckpt::ReportKind::kJson);
        for (uint64_t i = 0; i < kEvents; i++) report.progress(told, i, kEvents, 0, 0);
        usleep(300000);
        report.warn("end");
      },
      [&](int reader) {
        pollfd end{reader, POLLIN, 0};
        told_when_full = poll(&end, 1, 5000);
        usleep(1200000);  // longer than it waits, and shorter than to its end
      });
  require(told_when_full == 1 && ckpt::now_ns() - start < 10000000000u, "it waited");
  bool missing = false;
  for (const std::string& line : lines_of(text)) {
    require(line.rfind("{\"event\":", 0) == 0 && line.back() == '}', "a torn line: " + line);
    missing |= line.find("events are missing here") != std::string::npos;
  }
  require(missing && lines_of(text).back() == "{\"event\":\"warning\",\"message\":\"end\"}", "what is missing was not told");
}

// ---- completion

// What a client's root looks like.
using Scene = std::function<void()>;

void empty_tmp() { must(mount("none", "/tmp", "tmpfs", 0, "mode=1777"), "mount"); }

// A client of uid kUid in a mount namespace of its own.
class Client : public Child {
 public:
  explicit Client(const Scene& scene = empty_tmp)
      : Child([&] {
          must(unshare(CLONE_NEWNS), "unshare");
          must(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "mount");
          scene();
          must(setresgid(kGid, kGid, kGid), "setresgid");
          must(setresuid(kUid, kUid, kUid), "setresuid");
          must(prctl(PR_SET_DUMPABLE, 1), "prctl");  // as after an execve()
        }) {}

  // A path of ours for one of the client's.
  std::string at(const std::string& path) const { return "/proc/" + std::to_string(pid()) + "/root" + path; }
};

const char* const kFile = "/tmp/checkpoint_complete";

void completion_makes() {
  const Client client;
  const ckpt::Folder folder(client.pid());
  umask(0);
  folder.create(Phase::kStore, kUid, kGid);
  folder.create(Phase::kRestore, kUid, kGid);
  struct stat made, tmp;
  must(lstat(client.at(kFile).c_str(), &made), "lstat");
  must(lstat(client.at("/tmp/restore_complete").c_str(), &made), "lstat");
  require(S_ISREG(made.st_mode) && (made.st_mode & 07777) == 0600, "its mode is " + std::to_string(made.st_mode & 07777));
  require(made.st_uid == kUid && made.st_gid == kGid && made.st_size == 0, "its owner is " + std::to_string(made.st_uid));
  must(stat(client.at("/tmp").c_str(), &tmp), "stat");
  require(folder.device() == tmp.st_dev && folder.inode() == tmp.st_ino, "it is another folder");
  require(folder.exists(Phase::kStore) && folder.remove(Phase::kStore) && !folder.exists(Phase::kStore), "it was not removed");
  require(folder.remove(Phase::kStore), "what is not there cannot be removed");
  require(access("/tmp", W_OK) == 0 && geteuid() == 0 && prctl(PR_GET_DUMPABLE) == 1, "we are not who we were");
}

void completion_set_group_id() {
  const Client client([] {
    empty_tmp();
    must(chown("/tmp", 0, 77), "chown");
    must(chmod("/tmp", 03777), "chmod");
  });
  ckpt::Folder(client.pid()).create(Phase::kStore, kUid, kGid);
  struct stat made;
  must(lstat(client.at(kFile).c_str(), &made), "lstat");
  require(made.st_gid == kGid, "its group is " + std::to_string(made.st_gid));
}

void completion_symlink() {
  const Client client([] {
    empty_tmp();
    put("/tmp/victim", "precious");
    must(symlink("/tmp/victim", kFile), "symlink");
  });
  const ckpt::Folder folder(client.pid());
  require_says(error_of([&] { folder.create(Phase::kStore, kUid, kGid); }), "a symbolic link of uid 0 lies there");
  require(folder.remove(Phase::kStore), "it was not removed");
  folder.create(Phase::kStore, kUid, kGid);
  require(content(client.at("/tmp/victim")) == "precious", "the victim is no longer what it was");
}

void completion_dangling_symlink() {
  const Client client([] {
    empty_tmp();
    must(symlink("/tmp/nowhere", kFile), "symlink");
  });
  error_of([&] { ckpt::Folder(client.pid()).create(Phase::kStore, kUid, kGid); });
  require(access(client.at("/tmp/nowhere").c_str(), F_OK) != 0, "it was made where the link points to");
}

void completion_others() {
  const Client client([] {
    empty_tmp();
    must(mkdir(kFile, 0755), "mkdir");
    must(mkfifo("/tmp/restore_complete", 0666), "mkfifo");
  });
  const ckpt::Folder folder(client.pid());
  require(!folder.remove(Phase::kStore) && !folder.remove(Phase::kRestore), "they were removed");
  require_says(error_of([&] { folder.create(Phase::kStore, kUid, kGid); }), "a directory of uid 0 lies there");
  require_says(error_of([&] { folder.create(Phase::kRestore, kUid, kGid); }), "a fifo of uid 0 lies there");
}

void completion_stale() {
  const Client client([] {
    empty_tmp();
    put(kFile, "of another user");
    must(chown(kFile, kUid + 1, kGid), "chown");
  });
  const ckpt::Folder folder(client.pid());
  require_says(error_of([&] { folder.create(Phase::kStore, kUid, kGid); }), "a file of uid 12346 lies there");
  require(content(client.at(kFile)) == "of another user", "it was changed");
  require(folder.remove(Phase::kStore) && !folder.exists(Phase::kStore), "it was not removed");
}

// Nothing is made or removed with more rights than the client's: its /tmp is a folder of root's that it sees.
void completion_root_folder() {
  const Client client([] {
    empty_tmp();
    must(chmod("/tmp", 0755), "chmod");
    put("/tmp/restore_complete", "of root");
  });
  const ckpt::Folder folder(client.pid());
  require_says(error_of([&] { folder.create(Phase::kStore, kUid, kGid); }), "EACCES");
  require(!folder.exists(Phase::kStore), "it was made");
  require(!folder.remove(Phase::kRestore) && folder.exists(Phase::kRestore), "a file of root was removed");
}

// ... or one that it cannot reach.
void completion_unreachable() {
  const Client client([] {
    empty_tmp();
    must(mkdir("/tmp/root", 0755), "mkdir");
    must(mkdir("/tmp/root/closed", 0700), "mkdir");
    must(mkdir("/tmp/root/closed/tmp", 0777), "mkdir");
    must(symlink("closed/tmp", "/tmp/root/tmp"), "symlink");
    must(chroot("/tmp/root"), "chroot");
  });
  require_says(error_of([&] { ckpt::Folder folder(client.pid()); }), "EACCES");
}

void completion_inside_its_root() {
  const Client client([] {
    empty_tmp();
    must(mkdir("/tmp/root", 0755), "mkdir");
    must(mkdir("/tmp/root/else", 0755), "mkdir");
    must(mkdir("/tmp/root/else/where", 0777), "mkdir");
    must(chmod("/tmp/root/else/where", 0777), "chmod");
    must(symlink("/../../else/where", "/tmp/root/tmp"), "symlink");
    must(chroot("/tmp/root"), "chroot");
  });
  const ckpt::Folder folder(client.pid());
  folder.create(Phase::kStore, kUid, kGid);
  struct stat made;
  must(stat(client.at("/else/where/checkpoint_complete").c_str(), &made), "stat");
  require(made.st_uid == kUid, "its owner is " + std::to_string(made.st_uid));
}

// A tmpfs that a user namespace made knows no root of ours.
void completion_user_namespace() {
  const Child client([] {
    must(setresgid(kGid, kGid, kGid), "setresgid");
    must(setresuid(kUid, kUid, kUid), "setresuid");
    must(prctl(PR_SET_DUMPABLE, 1), "prctl");
    must(unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare");
    put("/proc/self/uid_map", "0 " + std::to_string(kUid) + " 1");
    put("/proc/self/setgroups", "deny");
    put("/proc/self/gid_map", "0 " + std::to_string(kGid) + " 1");
    empty_tmp();
  });
  const ckpt::Folder folder(client.pid());
  folder.create(Phase::kStore, kUid, kGid);
  struct stat made;
  must(stat(("/proc/" + std::to_string(client.pid()) + "/root" + kFile).c_str(), &made), "stat");
  require(made.st_uid == kUid && made.st_gid == kGid, "its owner is " + std::to_string(made.st_uid));
  require(folder.remove(Phase::kStore), "it was not removed");
}

void completion_gone() {
  pid_t pid;
  {
    const Client client;
    pid = client.pid();
  }
  require(error_of([&] { ckpt::Folder folder(pid); }).code() == ckpt::Code::kUnknown, "another code");
  const Client bare([] {
    empty_tmp();
    must(mkdir("/tmp/root", 0755), "mkdir");
    must(chroot("/tmp/root"), "chroot");
  });
  require_says(error_of([&] { ckpt::Folder folder(bare.pid()); }), "has no folder /tmp");
}

// ---- only one

void only_one() {
  require(ckpt::who_serves() == 0, "somebody serves");
  Child first([] { new ckpt::OnlyOne; });
  require(ckpt::who_serves() == first.pid(), "who serves is " + std::to_string(ckpt::who_serves()));
  const ckpt::Error refused = error_of([] { ckpt::OnlyOne second; });
  require(refused.code() == ckpt::Code::kBusy, "another code");
  require_says(refused, "process " + std::to_string(first.pid()) + " (");
  require_says(refused, "daemon-parts)");
  first.end(SIGKILL);
  require(ckpt::who_serves() == 0, "a dead one serves");
  const ckpt::OnlyOne now;
  require(ckpt::who_serves() == getpid(), "it cannot be taken over");
  struct stat folder;
  must(stat("/run/ebpf-ckpt", &folder), "stat");
  require((folder.st_mode & 07777) == 0755, "clients cannot reach the socket");
}

// ---- keeper

char state_of(pid_t pid) {
  const std::string stat = content("/proc/" + std::to_string(pid) + "/stat");
  const size_t name_end = stat.rfind(')');
  return name_end == std::string::npos ? '-' : stat[name_end + 2];
}

// ns since boot, as BPF sees it but for what a clock tick cuts off.
uint64_t start_of(pid_t pid) {
  const std::string stat = content("/proc/" + std::to_string(pid) + "/stat");
  std::stringstream fields(stat.substr(stat.rfind(')') + 1));
  std::string field;
  for (int i = 3; i <= 22; i++) fields >> field;
  return std::stoull(field) * (1000000000u / static_cast<uint64_t>(sysconf(_SC_CLK_TCK))) + 1234567;
}

Fd entry_map() {
  return Fd(must(bpf_map_create(BPF_MAP_TYPE_HASH, "entries", sizeof(ckpt_key), sizeof(ckpt_client), 16, nullptr), "bpf_map_create"));
}

void add_entry(const Fd& map, pid_t pid, uint32_t op, uint64_t start) {
  const ckpt_key key{static_cast<uint32_t>(pid), op, 0, 0};
  ckpt_client client{};
  client.identity.start_time = start;
  client.state = CKPT_CLIENT_ARMED;
  must(bpf_map_update_elem(map.get(), &key, &client, BPF_ANY), "bpf_map_update_elem");
}

// A process that is stopped.
class Held : public Child {
 public:
  Held() : Child([] {}) { stop(); }
  void stop() const {
    kill(pid(), SIGSTOP);
    require(eventually([this] { return stopped(); }), "it does not stop");
  }
  bool stopped() const { return state_of(pid()) == 'T'; }
};

// A stand-in for the daemon: guards the maps and waits to be killed.
class Daemon : public Child {
 public:
  Daemon(const Fd& store, const Fd& restore, int* keeper_pid)
      : Child([&] {
          auto* keeper = new ckpt::Keeper;
          keeper->guard(store.get(), restore.get());
          *keeper_pid = keeper->pid();
        }) {}
};

// An int that children write and we read.
struct SharedInt {
  int* value = static_cast<int*>(mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ~SharedInt() { munmap(value, sizeof(int)); }
};

void keeper_continues() {
  const Fd store = entry_map(), restore = entry_map();
  const Held storing, restoring, stranger, reused, library, late;
  add_entry(store, storing.pid(), CKPT_OP_BARE, start_of(storing.pid()));
  add_entry(restore, restoring.pid(), CKPT_OP_BARE, start_of(restoring.pid()));
  add_entry(store, reused.pid(), CKPT_OP_BARE, start_of(reused.pid()) - 10000000000u);
  add_entry(store, library.pid(), 3, start_of(library.pid()));
  add_entry(store, late.pid(), CKPT_OP_BARE, start_of(late.pid()));
  kill(late.pid(), SIGCONT);
  const SharedInt keeper;
  Daemon daemon(store, restore, keeper.value);
  require(eventually([&] { return content("/proc/" + std::to_string(*keeper.value) + "/comm") == "ebpf-ckpt-keep\n"; }),
          "it has another name");
  usleep(50000);
  require(storing.stopped() && restoring.stopped(), "they were continued while the daemon lived");

  daemon.end(SIGKILL);
  require(eventually([&] { return !storing.stopped() && !restoring.stopped(); }), "they are still held");
  late.stop();
  require(eventually([&] { return !late.stopped(); }), "one that was stopped in the last moment is still held");
  require(eventually([&] { return state_of(*keeper.value) == '-' || state_of(*keeper.value) == 'Z'; }), "the keeper stays");
  require(stranger.stopped(), "a stranger was continued");
  require(reused.stopped(), "a process that only has the pid was continued");
  require(library.stopped(), "a client that nobody held was continued");
}

void keeper_stays() {
  const Fd store = entry_map(), restore = entry_map();
  const Held held;
  add_entry(store, held.pid(), CKPT_OP_BARE, start_of(held.pid()));
  const SharedInt keeper;
  Daemon daemon(store, restore, keeper.value);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGQUIT, SIGTSTP, SIGUSR1, SIGALRM}) kill(*keeper.value, number);
  kill(-getpgid(daemon.pid()), 0);
  usleep(50000);
  require(state_of(*keeper.value) == 'S', "it is not there any more");
  require(getpgid(*keeper.value) == *keeper.value, "it is in the daemon's process group");
  daemon.end(SIGTERM);
  require(eventually([&] { return !held.stopped(); }), "it is still held");
}

// One that ends in good order continues nobody and leaves nobody.
void keeper_ends() {
  const Fd store = entry_map(), restore = entry_map();
  const Held held;
  add_entry(store, held.pid(), CKPT_OP_BARE, start_of(held.pid()));
  pid_t pid;
  {
    ckpt::Keeper keeper;
    keeper.guard(store.get(), restore.get());
    pid = keeper.pid();
  }
  require(state_of(pid) == '-', "it outlives the daemon");
  usleep(150000);
  require(held.stopped(), "it continued a client");
  ckpt::continue_held(store.get(), restore.get());
  require(eventually([&] { return !held.stopped(); }), "the daemon cannot continue it either");
}

// It has no descriptor of the daemon's: neither an attachment nor the writing end of a pipe.
void keeper_has_nothing() {
  int ends[2];
  must(pipe(ends), "pipe");
  const Fd store = entry_map(), restore = entry_map();
  const SharedInt keeper;
  const Daemon daemon(store, restore, keeper.value);
  require(eventually([&] { return content("/proc/" + std::to_string(*keeper.value) + "/comm") == "ebpf-ckpt-keep\n"; }),
          "it has another name");
  const std::string folder = "/proc/" + std::to_string(*keeper.value) + "/fd/";
  std::string links;
  usleep(50000);
  for (int fd = 0; fd < 64; fd++) {
    char target[256] = {};
    if (readlink((folder + std::to_string(fd)).c_str(), target, sizeof(target) - 1) < 0) continue;
    links += std::string(target, strcspn(target, "[")) + "\n";
  }
  close(ends[0]);
  close(ends[1]);
  require(links.find("pipe") == std::string::npos, "it has:\n" + links);
}

// A client whose first thread has ended is stopped all the same.
void keeper_sees_threads() {
  const Fd store = entry_map(), restore = entry_map();
  const Child client([] {
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
          for (;;) pause();
        },
        nullptr);
    // The first thread goes once the parent knows of us.
    signal(SIGUSR1, [](int) { pthread_exit(nullptr); });
    pthread_kill(thread, 0);
  });
  add_entry(store, client.pid(), CKPT_OP_BARE, start_of(client.pid()));
  syscall(SYS_tgkill, client.pid(), client.pid(), SIGUSR1);
  require(eventually([&] { return state_of(client.pid()) == 'Z'; }), "the first thread does not end");
  kill(client.pid(), SIGSTOP);
  int status;
  require(waitpid(client.pid(), &status, WUNTRACED) == client.pid() && WIFSTOPPED(status), "it does not stop");
  ckpt::continue_held(store.get(), restore.get());
  require(eventually([&] { return waitpid(client.pid(), &status, WCONTINUED | WNOHANG) == client.pid(); }), "it is still held");
}

// ---- notify

void notifies(const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, name.data(), name.size());
  if (name[0] == '@') address.sun_path[0] = '\0';
  const Fd socket(must(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket"));
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  must(bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), length), "bind");
  setenv("NOTIFY_SOCKET", name.c_str(), 1);
  ckpt::notify_manager("READY=1");
  unsetenv("NOTIFY_SOCKET");
  ckpt::notify_manager("STOPPING=1");
  char text[64] = {};
  require(recv(socket.get(), text, sizeof(text) - 1, MSG_DONTWAIT) == 7 && std::string(text) == "READY=1", text);
  require(recv(socket.get(), text, sizeof(text) - 1, MSG_DONTWAIT) < 0, "it was told though nobody asked");
}

void notify_without_listener() {
  for (const char* name : {"/run/nobody-listens", "@", "", "relative"}) {
    setenv("NOTIFY_SOCKET", name, 1);
    ckpt::notify_manager("READY=1");
  }
  setenv("NOTIFY_SOCKET", std::string(300, '/').c_str(), 1);
  ckpt::notify_manager("READY=1");
  unsetenv("NOTIFY_SOCKET");
}

// ---- options

ckpt::Command parse(std::vector<std::string> words) {
  words.insert(words.begin(), "ebpf-ckpt-daemon");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  return ckpt::parse_command(static_cast<int>(words.size()), argv.data());
}

void options_refuses() {
  const std::vector<std::pair<std::vector<std::string>, std::string>> mistakes{
      {{}, "command"},
      {{"fly"}, "fly"},
      {{"--fly"}, "--fly"},
      {{"serve", "--fly=1"}, "--fly"},
      {{"serve", "-x"}, "-x"},
      {{"serve", "--stall"}, "--stall"},
      {{"serve", "--json=1"}, "--json"},
      {{"serve", "--stall", "0"}, "--stall"},
      {{"serve", "--stall", "nan"}, "--stall"},
      {{"serve", "--max", "-1"}, "--max"},
      {{"serve", "--max-uid", "1.5"}, "--max-uid"},
      {{"serve", "--max-process", "99999999999999999999"}, "--max-process"},
      {{"serve", "--pages-per-trigger", "0"}, "--pages-per-trigger"},
      {{"serve", "--pages-per-trigger", "257"}, "--pages-per-trigger"},
      {{"serve", "--writer", "me"}, "--writer"},
      {{"serve", "--allow-uid", "no such user"}, "--allow-uid"},
      {{"serve", "--allow-uid", "4294967295"}, "--allow-uid"},
      {{"serve", "--socket", std::string(108, 'x')}, "--socket"},
      {{"serve", "--socket="}, "--socket"},
      {{"serve", "now"}, "now"},
      {{"run"}, "program"},
      {{"run", "--json", "--"}, "program"},
  };
  for (const auto& [words, named] : mistakes) {
    std::string message = "(nothing)";
    try {
      parse(words);
    } catch (const ckpt::UsageError& error) {
      message = error.what();
    }
    require(message.find(named) != std::string::npos, (words.empty() ? "" : words.back()) + ": " + message);
  }
}

void options_takes() {
  const ckpt::Command command =
      parse({"run",         "--max=3", "--max-process", "1", "--max-uid",           "2", "--stall",  "0.5",    "--writer", "user",
             "--allow-uid", "daemon",  "--allow-uid",   "7", "--pages-per-trigger", "1", "--shared", "--json", "--",       "--max",
             "-x"});
  const ckpt::ServeOptions& serve = command.serve;
  require(command.kind == ckpt::Command::kRun && command.program == std::vector<std::string>({"--max", "-x"}), "the program");
  require(serve.max_bytes == 3 << 20 && serve.max_process_bytes == 1 << 20 && serve.max_uid_bytes == 2 << 20, "the ceilings");
  require(serve.stall_ms == 500 && serve.writer == ckpt::WriterChoice::kUser && serve.pages_per_trigger == 1, "the pace");
  require(serve.uids == std::vector<uint32_t>({0, 1, 7}), "the uids");
  require(serve.shared && serve.json && !serve.quiet && serve.socket == "/run/ebpf-ckpt/socket", "the rest");
  require(parse({"run", "ls", "--json"}).program.size() == 2 && !parse({"run", "ls", "--json"}).serve.json, "without --");
  setenv("EBPF_CKPT_SOCKET", "/there", 1);
  const std::string there = parse({"serve"}).serve.socket, here = parse({"serve", "--socket", "/here"}).serve.socket;
  unsetenv("EBPF_CKPT_SOCKET");
  require(there == "/there" && here == "/here", "the socket");
}

struct Case {
  const char* name;
  std::function<void()> run;
};

const Case kCases[] = {
    {"loop: a callback forgets the others of its batch", loop_forgets_others},
    {"loop: an event is not for the next descriptor of the same number", loop_same_number},
    {"loop: hang-ups are told", loop_hang_up},
    {"loop: timers run in order, once, unless cancelled", loop_timers},
    {"loop: exceptions go through, and it runs again", loop_exceptions},
    {"report: any bytes make well-formed JSON", report_escapes},
    {"report: every event has its fields", report_fields},
    {"report: in a pipe the status is failures only, without a client's control characters", report_cleans_names},
    {"report: totals at most ten a second, and always the last", report_paces_totals},
    {"report: a reader that goes away ends nothing", report_outlives_its_reader},
    {"report: a reader that does not read hangs nothing, and hears of it", report_does_not_wait_for_ever},
    {"completion: made for its owner, in its own /tmp, and removed", completion_makes},
    {"completion: its owner's group, in a set-group-id folder too", completion_set_group_id},
    {"completion: no symlink is followed", completion_symlink},
    {"completion: no dangling symlink is followed", completion_dangling_symlink},
    {"completion: a directory and a fifo stay, and are named", completion_others},
    {"completion: a stale file of another uid is never overwritten, only removed", completion_stale},
    {"completion: nothing is made or removed where the client may not", completion_root_folder},
    {"completion: no folder is reached that the client cannot reach", completion_unreachable},
    {"completion: a symlink at /tmp is resolved inside the client's root", completion_inside_its_root},
    {"completion: a tmpfs of a user namespace", completion_user_namespace},
    {"completion: a process that ended, or has no /tmp", completion_gone},
    {"only_one: the second names the first; the lock ends with its holder", only_one},
    {"keeper: continues those that were held, and nobody else", keeper_continues},
    {"keeper: no signal ends it", keeper_stays},
    {"keeper: ends with the daemon's good end", keeper_ends},
    {"keeper: has no descriptor of the daemon's", keeper_has_nothing},
    {"keeper: a client whose first thread has ended", keeper_sees_threads},
    {"notify: a path", [] { notifies("/run/notify"); }},
    {"notify: an abstract name", [] { notifies("@ebpf-ckpt-test"); }},
    {"notify: nobody listens", notify_without_listener},
    {"options: mistakes are named", options_refuses},
    {"options: values arrive", options_takes},
};

int run_cases() {
  int failed = 0;
  for (const Case& each : kCases) {
    std::string why;
    try {
      each.run();
    } catch (const std::exception& error) {
      why = error.what();
      failed++;
    }
    printf(why.empty() ? "ok %s\n" : "not ok %s: %s\n", each.name, why.c_str());
    fflush(stdout);
    while (waitpid(-1, nullptr, WNOHANG) > 0) continue;  // keepers come to us, the first process here
  }
  return failed ? 1 : 0;
}

// A process whose root is not that of its mount namespace, as in the VMs of scripts/kernels, may not make user namespaces: puts its root
// there.
void leave_chroot() {
  const Fd root(must(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), "open /"));
  const Fd mounts(must(open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC), "open the mount namespace"));
  must(setns(mounts.get(), CLONE_NEWNS), "setns");  // resets the root
  struct stat before, now;
  must(fstat(root.get(), &before), "stat");
  must(stat("/", &now), "stat /");
  if (before.st_dev == now.st_dev && before.st_ino == now.st_ino) return;
  must(fchdir(root.get()), "fchdir");
  must(mount(".", "/", nullptr, MS_MOVE, nullptr), "mount --move");
  must(chroot("."), "chroot");
}

// The first process of the namespaces.
[[noreturn]] void be_first() {
  try {
    must(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "mount /");
    leave_chroot();
    must(mount("none", "/proc", "proc", 0, nullptr), "mount /proc");
    must(mount("none", "/run", "tmpfs", 0, "mode=755"), "mount /run");
    exit(run_cases());
  } catch (const std::exception& error) {
    printf("not ok namespaces: %s\n", error.what());
    exit(1);
  }
}

}  // namespace

int main() {
  if (unshare(CLONE_NEWNS | CLONE_NEWPID) != 0) {
    perror("not ok namespaces");
    return 1;
  }
  const pid_t first = fork();
  if (first == 0) be_first();
  int status = 0;
  if (first < 0 || waitpid(first, &status, 0) != first) return 1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
