// janitor.h: the thread that does what nobody should wait for: detaching, freeing segments, clearing up after finalisers.
#pragma once

#include "../rewind/arena.h"

namespace ckpt {

// Starts the thread if it does not run, and tells it that there is work or a new deadline. It sleeps until the next deadline, and without
// one when the programs are detached and the pool is empty. Never throws; without a thread, trim() does its work.
void janitor_wake(Arena& arena) noexcept;

// Frees wholly free segments while the pool keeps more than `keep` bytes. Takes the lock. Throws kInternal.
void shrink_pool(Arena& arena, uint64_t keep);

// Detaches a session's programs if nothing has used them since then. Takes the locks; slow.
void detach_if_unused(Arena& arena, SessionSlot& slot, uint64_t unused_since_ns);

}  // namespace ckpt
