// completion.cc: what is done in a client's /tmp, with the client's own rights.
#include "completion.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cstring>
#include <functional>
#include <string>
#include <system_error>
#include <thread>

#include "../error.h"

extern "C" {
#include "../../bpf/serve_abi.h"
}

namespace ckpt {

namespace {

// Names within the folder.
const char* file_of(bpf::Phase phase) {
  return (phase == bpf::Phase::kStore ? CKPT_COMPLETE_STORE : CKPT_COMPLETE_RESTORE) + strlen(CKPT_FOLDER);
}

// CKPT_FOLDER within a root.
std::string folder_name() { return std::string(CKPT_FOLDER + 1, strlen(CKPT_FOLDER) - 2); }

// Gives the calling thread the identity of uid and gid for files: no group besides, no capability. 0 or an errno. By bare system calls: the
// C library's would do it to all threads.
int become(uint32_t uid, uint32_t gid) {
  const bool ourselves = uid == geteuid() && gid == getegid();
  if (syscall(SYS_setgroups, 0, nullptr) != 0 && !ourselves) return errno;
  setfsgid(gid);
  setfsuid(uid);
  // They tell nothing but the id of before: asking with an id that cannot be tells the one of now.
  if (static_cast<uint32_t>(setfsgid(~0u)) != gid || static_cast<uint32_t>(setfsuid(~0u)) != uid) return EPERM;
  // The kernel itself takes the capabilities over files away only when fsuid was 0.
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[2] = {};
  return syscall(SYS_capset, &header, none) == 0 ? 0 : errno;
}

// Runs `work` as uid and gid, in a thread that lives for this: credentials belong to a thread, and one that ends need not get its old ones
// back. Returns what `work` does, a descriptor or an errno; throws if it may not be run so.
int as_client(uint32_t uid, uint32_t gid, const std::function<int()>& work) {
  const int dumpable = prctl(PR_GET_DUMPABLE);
  int refused = 0, result = 0;
  try {
    std::thread([&] {
      refused = become(uid, gid);
      if (refused == 0) result = work();
    }).join();
  } catch (const std::system_error& error) {
    refused = error.code().value();
  }
  // A change of identity is the end of that for the whole process.
  prctl(PR_SET_DUMPABLE, dumpable);
  if (refused != 0)
    throw error(Code::kInternal, "A file of uid %u cannot be made or removed without acting as it: %s", uid, errno_text(refused).c_str());
  return result;
}

Fd open_root(pid_t pid, uint32_t& uid, uint32_t& gid) {
  const std::string process = "/proc/" + std::to_string(pid);
  const Fd folder(open(process.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  Fd root(folder ? openat(folder.get(), "root", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1);
  struct stat owner;
  if (!root || fstat(folder.get(), &owner) != 0) {
    if (errno == ENOENT || errno == ESRCH) throw error(Code::kUnknown, "Process %d has ended", pid);
    throw error(Code::kInternal, "The root of process %d cannot be reached: %s", pid, errno_text(errno).c_str());
  }
  // Its effective ids: the folder of a process that is not dumpable is root's, but such a one is never served.
  uid = owner.st_uid;
  gid = owner.st_gid;
  return root;
}

const char* kind_of(mode_t mode) {
  if (S_ISREG(mode)) return "a file";
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISLNK(mode)) return "a symbolic link";
  if (S_ISFIFO(mode)) return "a fifo";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

// Makes the file; 0 or an errno.
int make_file(int folder, const char* name, uint32_t gid) {
  const Fd file(openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return errno;
  // In a set-group-id folder it has got the folder's group.
  struct stat made;
  if (fstat(file.get(), &made) != 0) return errno;
  return made.st_gid == gid || fchown(file.get(), static_cast<uid_t>(-1), gid) == 0 ? 0 : errno;
}

}  // namespace

Folder::Folder(pid_t pid) {
  const Fd root = open_root(pid, uid_, gid_);
  const std::string name = folder_name();
  const int result = as_client(uid_, gid_, [&] {
    open_how how{};
    how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_IN_ROOT;
    folder_.reset(static_cast<int>(syscall(SYS_openat2, root.get(), name.c_str(), &how, sizeof(how))));
    return folder_ ? 0 : errno;
  });
  struct stat folder;
  if (result != 0 || fstat(folder_.get(), &folder) != 0)
    throw error(Code::kInternal, "Process %d has no folder /%s: %s", pid, name.c_str(), errno_text(result ? result : errno).c_str());
  device_ = folder.st_dev;
  inode_ = folder.st_ino;
  open_to_all_ = (folder.st_mode & S_ISVTX) && (folder.st_mode & S_IWOTH);
}

bool Folder::remove(bpf::Phase phase) const {
  const char* name = file_of(phase);
  struct stat there;
  if (fstatat(folder_.get(), name, &there, AT_SYMLINK_NOFOLLOW) != 0) return errno == ENOENT;
  if (!S_ISREG(there.st_mode) && !S_ISLNK(there.st_mode)) return false;
  const auto unlink = [&] { return unlinkat(folder_.get(), name, 0) == 0 || errno == ENOENT ? 0 : errno; };
  const int refused = as_client(uid_, gid_, unlink);
  if ((refused == EPERM || refused == EACCES) && open_to_all_) return unlink() == 0;
  return refused == 0;
}

void Folder::create(bpf::Phase phase, uint32_t uid, uint32_t gid) const {
  const char* name = file_of(phase);
  const int refused = as_client(uid, gid, [&] { return make_file(folder_.get(), name, gid); });
  if (refused == 0) return;
  struct stat there;
  if (refused == EEXIST && fstatat(folder_.get(), name, &there, AT_SYMLINK_NOFOLLOW) == 0)
    throw error(Code::kInternal, "%s%s cannot be made: %s of uid %u lies there", CKPT_FOLDER, name, kind_of(there.st_mode), there.st_uid);
  throw error(Code::kInternal, "%s%s cannot be made for uid %u: %s", CKPT_FOLDER, name, uid, errno_text(refused).c_str());
}

bool Folder::exists(bpf::Phase phase) const {
  struct stat there;
  return fstatat(folder_.get(), file_of(phase), &there, AT_SYMLINK_NOFOLLOW) == 0;
}

}  // namespace ckpt
