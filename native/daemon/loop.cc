// loop.cc: epoll and a sorted list of deadlines.
//
// epoll_wait() hands over a batch. A callback of the batch may forget a descriptor that comes later in it, close it, and watch another one
// of the same number: each watch has a generation, which its events carry, so that nobody is called for a predecessor's event.
#include "loop.h"

#include <sys/epoll.h>

#include <algorithm>

#include "../engine/clock.h"
#include "../error.h"

namespace ckpt {

namespace {

constexpr int kBatch = 32;
constexpr uint64_t kNsPerMs = 1000000;

uint64_t tag_of(uint32_t generation, int fd) { return uint64_t{generation} << 32 | static_cast<uint32_t>(fd); }

}  // namespace

Loop::Loop() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_) throw error(Code::kInternal, "An epoll instance cannot be made: %s", errno_text(errno).c_str());
}

void Loop::watch(int fd, std::function<void()> ready) {
  const auto watch = std::make_shared<Watch>(Watch{++generations_, std::move(ready)});
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.u64 = tag_of(watch->generation, fd);
  int result = epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  if (result != 0 && errno == EEXIST) result = epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
  if (result != 0) throw error(Code::kInternal, "Descriptor %d cannot be watched: %s", fd, errno_text(errno).c_str());
  watched_[fd] = watch;
}

void Loop::forget(int fd) {
  if (watched_.erase(fd) != 0) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

uint64_t Loop::after(uint64_t ms, std::function<void()> due) {
  timers_.emplace(now_ns() + ms * kNsPerMs, Timer{++timer_ids_, std::move(due)});
  return timer_ids_;
}

void Loop::cancel(uint64_t id) {
  const auto found = std::find_if(timers_.begin(), timers_.end(), [id](const auto& entry) { return entry.second.id == id; });
  if (found != timers_.end()) timers_.erase(found);
}

int Loop::next_timeout() const {
  if (timers_.empty()) return -1;
  const uint64_t now = now_ns(), deadline = timers_.begin()->first;
  if (deadline <= now) return 0;
  return static_cast<int>(std::min<uint64_t>((deadline - now + kNsPerMs - 1) / kNsPerMs, 3600 * 1000));
}

void Loop::run_due() {
  const uint64_t now = now_ns(), last = timer_ids_;
  while (!stopped_ && !timers_.empty()) {
    const auto first = timers_.begin();
    if (first->first > now || first->second.id > last) return;
    const std::function<void()> due = std::move(first->second.due);
    timers_.erase(first);
    guarded(due);
  }
}

void Loop::run_ready(uint64_t tag) {
  const auto found = watched_.find(static_cast<int>(static_cast<uint32_t>(tag)));
  if (found == watched_.end() || found->second->generation != tag >> 32) return;
  const std::shared_ptr<Watch> watch = found->second;  // it may forget itself
  guarded(watch->ready);
}

void Loop::guarded(const std::function<void()>& callback) const {
  if (!on_error) return callback();
  try {
    callback();
  } catch (const std::exception& reason) {
    on_error(reason);
  }
}

void Loop::run() {
  while (!stopped_) {
    epoll_event events[kBatch];
    const uint64_t before = now_ns();
    const int count = epoll_wait(epoll_.get(), events, kBatch, next_timeout());
    waited_ns_ += now_ns() - before;
    if (count < 0 && errno != EINTR) throw error(Code::kInternal, "Waiting for events failed: %s", errno_text(errno).c_str());
    // What has come goes before what did not come in time.
    for (int i = 0; i < count && !stopped_; i++) run_ready(events[i].data.u64);
    run_due();
  }
  stopped_ = false;
}

}  // namespace ckpt
