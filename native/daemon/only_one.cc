// only_one.cc: the lock file of a pid namespace.
//
// An open-file-description lock, because unlike flock() it can be asked for without being taken: whoever looks never stands in the way of a
// daemon that starts. Only its owner may open the file: a lock needs no more than that, and nobody else shall be able to keep the daemon
// out.
#include "only_one.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <climits>
#include <cstdlib>
#include <cstring>

#include "../error.h"

namespace ckpt {

namespace {

constexpr const char* kFolder = "/run/ebpf-ckpt";

std::string lock_path() {
  struct stat pid_namespace;
  if (stat("/proc/self/ns/pid", &pid_namespace) != 0)
    throw error(Code::kInternal, "This process's pid namespace cannot be told: %s", errno_text(errno).c_str());
  return std::string(kFolder) + "/pid-" + std::to_string(pid_namespace.st_ino) + ".lock";
}

struct flock whole_file() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

int read_pid(int file) {
  char text[32] = {};
  if (pread(file, text, sizeof(text) - 1, 0) <= 0) return 0;
  return atoi(text);
}

// "process 123 (/usr/bin/ebpf-ckpt-daemon)"
std::string name_holder(int pid) {
  if (pid <= 0) return "a process that has not said which it is yet";
  char target[PATH_MAX];
  const ssize_t length = readlink(("/proc/" + std::to_string(pid) + "/exe").c_str(), target, sizeof(target));
  return "process " + std::to_string(pid) + (length > 0 ? " (" + std::string(target, static_cast<size_t>(length)) + ")" : "");
}

void make_folder() {
  if (mkdir(kFolder, 0755) == 0) {
    if (chmod(kFolder, 0755) != 0) throw error(Code::kInternal, "%s cannot be opened to clients: %s", kFolder, errno_text(errno).c_str());
  } else if (errno != EEXIST) {
    throw error(Code::kInternal, "The folder %s cannot be made: %s", kFolder, errno_text(errno).c_str());
  }
}

}  // namespace

OnlyOne::OnlyOne() {
  make_folder();
  const std::string path = lock_path();
  file_.reset(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file_) throw error(Code::kInternal, "The lock %s cannot be opened: %s", path.c_str(), errno_text(errno).c_str());
  struct flock lock = whole_file();
  if (fcntl(file_.get(), F_OFD_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES)
      throw error(Code::kBusy, "Another daemon serves this pid namespace already: %s", name_holder(read_pid(file_.get())).c_str());
    throw error(Code::kInternal, "The lock %s cannot be taken: %s", path.c_str(), errno_text(errno).c_str());
  }
  const std::string pid = std::to_string(getpid()) + "\n";
  const auto length = static_cast<ssize_t>(pid.size());
  if (ftruncate(file_.get(), 0) != 0 || pwrite(file_.get(), pid.data(), pid.size(), 0) != length)
    throw error(Code::kInternal, "The lock %s cannot be written: %s", path.c_str(), errno_text(errno).c_str());
}

int who_serves() {
  const Fd file(open(lock_path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file) return 0;
  struct flock lock = whole_file();
  if (fcntl(file.get(), F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return 0;
  return read_pid(file.get());
}

}  // namespace ckpt
