// windows.h: where our own memory lies: one reservation at a fixed address, cut into windows.
//
// The address is fixed so that it is the same after a rewind, and in one piece so that one comparison keeps it out of every image. It
// is inherited by no child and written to no core file.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ckpt {

// Below the mmap area and above where programs and their heap lie, on x86-64 and on arm64 with 48-bit addresses.
constexpr uintptr_t kArenaBase = 0x5000'0000'0000;

constexpr size_t kGiB = size_t{1} << 30;
constexpr size_t kTablesBytes = kGiB;  // the arena's tables; touched pages only cost memory
constexpr uintptr_t kSessionWindows = kArenaBase + kTablesBytes;
constexpr size_t kSessionWindowBytes = kGiB / 4;
constexpr uintptr_t kHeap = kArenaBase + 2 * kGiB;
constexpr size_t kHeapBytes = 2 * kGiB;
constexpr uintptr_t kSegmentWindows = kArenaBase + 4 * kGiB;
constexpr size_t kReservedBytes = 4 * kGiB + 1024 * kGiB;  // CKPT_SLOTS segments of 1 GiB

// Reserves it all. False with errno set if anything lies there already.
bool reserve_windows();
void release_windows();

// Maps `fd` (-1: zeroed memory) over a part of the reservation. Throws kNoRoom.
void map_window(const void* at, size_t bytes, int protection, int fd);
// Gives the part back to the reservation.
void unmap_window(const void* at, size_t bytes);

}  // namespace ckpt
