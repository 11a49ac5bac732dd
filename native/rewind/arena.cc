// arena.cc: see arena.h.
#include "arena.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <atomic>
#include <cstring>
#include <mutex>

#include "../error.h"
#include "../image/bitmap.h"

namespace ckpt {

namespace {

constexpr uint64_t kMagic = 0x31746b63'66706265;  // "ebpfckt1"

static_assert(sizeof(Arena) <= kTablesBytes, "the arena's tables outgrew their window");

std::atomic<bool> taken{false};
std::atomic<bool> forked{false};

Arena* at_base() { return reinterpret_cast<Arena*>(kArenaBase); }

// Reads the owner's name without touching memory that may not be ours to read.
std::string other_owner() {
  char library[sizeof Arena::library] = "";
  uint64_t magic = 0;
  const iovec to[] = {{&magic, sizeof magic}, {library, sizeof library - 1}};
  const iovec from = {at_base(), sizeof magic + sizeof library - 1};
  if (process_vm_readv(getpid(), to, 2, &from, 1, 0) <= 0 || magic != kMagic) return "";
  return library;
}

void take() {
  if (!reserve_windows()) {
    const int number = errno;
    const std::string owner = other_owner();
    if (owner.empty())
      throw error(Code::kNoRoom, "Cannot reserve our address range at 0x%llx: %s", static_cast<unsigned long long>(kArenaBase),
                  errno_text(number).c_str());
    throw error(Code::kSecondCopy, "Another copy of ebpf-ckpt serves this process already: %s; make all parts of it load the same one",
                owner.c_str());
  }
  try {
    map_window(at_base(), page_up(sizeof(Arena)), PROT_READ | PROT_WRITE, -1);
  } catch (...) {
    release_windows();
    throw;
  }
  Arena& a = *at_base();
  Dl_info self{};
  if (dladdr(reinterpret_cast<void*>(&take), &self) != 0 && self.dli_fname != nullptr)
    strncpy(a.library, self.dli_fname, sizeof a.library - 1);
  a.settings = Settings{};
  a.image_free = a.discarded = a.retired = kNoImage;
  a.pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  a.maps_fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
  a.magic = kMagic;
  taken = true;
}

// The heap opens in steps: with strict overcommit accounting all that can be written counts as used.
void open_heap(Arena& a, uint64_t bytes) {
  constexpr uint64_t kStep = 16 << 20;
  while (a.heap_open < bytes) {
    map_window(reinterpret_cast<void*>(kHeap + a.heap_open), kStep, PROT_READ | PROT_WRITE, -1);
    a.heap_open += kStep;
  }
}

}  // namespace

Arena& arena() {
  if (forked)
    throw error(Code::kForked, "This process was made by fork(): checkpoints belong to its parent; load ebpf-ckpt after exec instead");
  if (!taken) {
    static std::mutex taking;
    const std::lock_guard<std::mutex> guard(taking);
    if (!taken) take();
  }
  return *at_base();
}

Arena* find_arena() noexcept { return forked || !taken ? nullptr : at_base(); }

void* heap_take(Arena& a, uint64_t bytes) {
  const uint64_t pages = page_up(bytes) / kPage;
  PageSpan span{0, 0};
  if (pages <= kHeapBytes / kPage) span = PageBitmap(a.heap_taken, kHeapBytes / kPage).take(static_cast<uint32_t>(pages));
  if (span.count == 0)
    throw error(Code::kNoRoom, "No room for the metadata of a checkpoint (%llu bytes); dispose of checkpoints that are no longer needed",
                static_cast<unsigned long long>(bytes));
  try {
    open_heap(a, (uint64_t{span.first} + span.count) * kPage);
  } catch (...) {
    PageBitmap(a.heap_taken, kHeapBytes / kPage).give(span);
    throw;
  }
  return reinterpret_cast<void*>(kHeap + span.first * kPage);
}

void heap_give(Arena& a, void* block, uint64_t bytes) {
  // Small blocks come back soon; the memory of large ones is returned.
  constexpr uint64_t kLarge = 1 << 20;
  if (bytes >= kLarge) madvise(block, page_up(bytes), MADV_DONTNEED);
  const auto first = static_cast<uint32_t>((reinterpret_cast<uintptr_t>(block) - kHeap) / kPage);
  PageBitmap(a.heap_taken, kHeapBytes / kPage).give({first, static_cast<uint32_t>(page_up(bytes) / kPage)});
}

}  // namespace ckpt
