// layout.h: the layout of a client's memory brought back to what it was: mapped again, grown again, protected as before.
#pragma once

#include <functional>

#include "rollback.h"

namespace ckpt {

// Has the process make the changes itself; `changing` is called before the first is made. If it cannot be had to, and no change is needed,
// its memory stays as it is. Throws kUnmapped, naming an address and why: before `changing` nothing has changed.
void put_layout_back(const Target& target, const std::vector<LayoutChange>& changes, const std::function<void()>& changing);

}  // namespace ckpt
