// sharers.h: which shared memory other processes map too.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <set>
#include <utility>

namespace ckpt {

using FileId = std::pair<uint64_t, uint64_t>;  // device and inode, as /proc/PID/maps has them

// Of `files`, those that any process but `pid` maps: one pass over all processes that this pid namespace has. Processes that we may not
// look at are passed over (pid 1 is one even for root in some sandboxes): a client that we may look at can hardly have made them by fork(),
// only have given them a memfd. Throws kInternal.
std::set<FileId> mapped_by_others(pid_t pid, const std::set<FileId>& files);

}  // namespace ckpt
