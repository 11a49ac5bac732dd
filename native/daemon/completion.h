// completion.h: the bare protocol's completion files, in the client's own /tmp: made and removed without trusting what lies there.
//
// A client can put any folder that it sees at its /tmp: in a mount namespace of its own that takes no privilege. A file of its own in
// /etc/cron.daily would make it root. So nothing is done here that the client could not do itself: paths are walked and files made with its
// uid and gid, and with no capability. Only stale files of others are removed by the daemon's own right, and only from a folder that is
// sticky and open to all, where anybody may have put them in the client's way.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "../bpf/session.h"
#include "../fd.h"

namespace ckpt {

// The /tmp of a client, reached through /proc/PID/root: its mount namespace, its chroot. Symlinks in between are resolved inside that root
// and never leave it (openat2 RESOLVE_IN_ROOT); where openat2 is missing (it is there from 5.6) nothing is served.
class Folder {
 public:
  // Throws kUnknown if the process is gone, kInternal if it has no /tmp.
  explicit Folder(pid_t pid);

  // Two clients share it if device and inode are the same.
  uint64_t device() const { return device_; }
  uint64_t inode() const { return inode_; }

  // Removes the completion file of a phase: only a regular file, whoever made it, or a symlink (itself, never what it points to). False if
  // something stays there: a directory, a fifo, a device, or what cannot be removed.
  bool remove(bpf::Phase phase) const;

  // Makes it: new (O_EXCL, O_NOFOLLOW), empty, mode 0600, owned by uid and gid from the first moment. Throws kInternal, saying what lies
  // there, if it cannot.
  void create(bpf::Phase phase, uint32_t uid, uint32_t gid) const;

  bool exists(bpf::Phase phase) const;

  // For inotify and the like: /proc/self/fd/N names the folder. An O_PATH descriptor.
  int fd() const { return folder_.get(); }

 private:
  Fd folder_;
  uint64_t device_ = 0, inode_ = 0;
  bool open_to_all_ = false;    // sticky, and anybody may write
  uint32_t uid_ = 0, gid_ = 0;  // of the process
};

}  // namespace ckpt
