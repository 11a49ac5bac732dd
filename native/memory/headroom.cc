// headroom.cc: see headroom.h.
#include "headroom.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <vector>

#include "../error.h"

namespace ckpt {

namespace {

constexpr uint64_t kUnlimited = ~uint64_t{0};

// A cgroup hierarchy that limits memory: where it is mounted, which part of it that mount shows, and the names of its two files.
struct Hierarchy {
  std::string mount, root;
  bool unified;
};

std::string mebibytes(uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

// The number in a file; kUnlimited if there is none ("max", no such file).
uint64_t number_in(const std::string& path) {
  std::ifstream file(path);
  uint64_t value;
  return file >> value ? value : kUnlimited;
}

std::vector<Hierarchy> hierarchies() {
  std::vector<Hierarchy> found;
  std::ifstream file("/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream in(line);
    std::string id, parent, device, root, mount, word, type, source, options;
    in >> id >> parent >> device >> root >> mount;
    while (in >> word && word != "-") continue;
    in >> type >> source >> options;
    if (type == "cgroup2") found.push_back({mount, root, true});
    if (type == "cgroup" && ("," + options + ",").find(",memory,") != std::string::npos) found.push_back({mount, root, false});
  }
  return found;
}

// This process's path in a hierarchy, as /proc/self/cgroup has it: "0::/path" or "4:memory:/path".
std::string own_path(bool unified) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (unified ? controllers.empty() : ("," + controllers + ",").find(",memory,") != std::string::npos) return line.substr(second + 1);
  }
  return "/";
}

// Bytes of page cache that the kernel gives up before it refuses anybody memory.
uint64_t reclaimable(const std::string& folder, bool unified) {
  const std::string prefix = unified ? "" : "total_";
  std::ifstream file(folder + "/memory.stat");
  uint64_t sum = 0, value;
  for (std::string name; file >> name >> value;)
    if (name == prefix + "active_file" || name == prefix + "inactive_file") sum += value;
  return sum;
}

void consider(Headroom& tightest, const std::string& folder, bool unified) {
  const uint64_t limit = number_in(folder + (unified ? "/memory.max" : "/memory.limit_in_bytes"));
  const uint64_t used = number_in(folder + (unified ? "/memory.current" : "/memory.usage_in_bytes"));
  if (limit == kUnlimited || used == kUnlimited) return;
  const uint64_t held = used - std::min(used, reclaimable(folder, unified)), left = limit > held ? limit - held : 0;
  if (left >= tightest.bytes) return;
  tightest = {left, "cgroup " + folder + " (limit " + mebibytes(limit) + ")"};
}

uint64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    uint64_t kib;
    if (sscanf(line.c_str(), "MemAvailable: %" SCNu64, &kib) == 1) return kib << 10;
  }
  return kUnlimited;
}

}  // namespace

Headroom memory_headroom() {
  Headroom tightest{available_memory(), "the machine's available memory"};
  for (const Hierarchy& h : hierarchies()) {
    std::string path = own_path(h.unified);
    // A container sees its own cgroup as the root of the mount.
    if (h.root != "/" && path.compare(0, h.root.size(), h.root) == 0) path.erase(0, h.root.size());
    while (!path.empty() && path != "/") {
      consider(tightest, h.mount + path, h.unified);
      path.erase(path.rfind('/'));
    }
    consider(tightest, h.mount, h.unified);
  }
  return tightest;
}

void require_headroom(uint64_t need) {
  const Headroom room = memory_headroom();
  if (need > room.bytes)
    throw error(Code::kNoRoom, "The checkpoint needs %s of kernel memory, and %s has %s left", mebibytes(need).c_str(), room.limit.c_str(),
                mebibytes(room.bytes).c_str());
}

}  // namespace ckpt
