// sharers.cc: see sharers.h.
#include "sharers.h"

#include <dirent.h>
#include <fcntl.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>

#include "../error.h"
#include "../fd.h"
#include "mappings.h"

namespace ckpt {

namespace {

// Adds those of `files` that a process maps.
void look_at(pid_t pid, const std::set<FileId>& files, std::set<FileId>& found) {
  const Fd maps(open(("/proc/" + std::to_string(pid) + "/maps").c_str(), O_RDONLY | O_CLOEXEC));
  if (!maps && (errno == ENOENT || errno == ESRCH || errno == EACCES || errno == EPERM)) return;  // it ended, or is not ours to look at
  if (!maps) throw error(Code::kInternal, "Cannot see what process %d maps: %s", pid, errno_text(errno).c_str());
  scan_maps(maps.get(), [&](const NamedMapping& mapping, std::string_view) {
    const FileId id{mapping.device, mapping.inode};
    if (mapping.inode != 0 && files.count(id) != 0) found.insert(id);
  });
}

}  // namespace

std::set<FileId> mapped_by_others(pid_t pid, const std::set<FileId>& files) {
  std::set<FileId> found;
  if (files.empty()) return found;
  const std::unique_ptr<DIR, int (*)(DIR*)> processes(opendir("/proc"), closedir);
  if (!processes) throw error(Code::kInternal, "Cannot list the processes: %s", errno_text(errno).c_str());
  while (const dirent* entry = readdir(processes.get())) {
    const pid_t other = atoi(entry->d_name);
    if (other > 0 && other != pid) look_at(other, files, found);
    if (found.size() == files.size()) break;
  }
  return found;
}

}  // namespace ckpt
