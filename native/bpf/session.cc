// session.cc: loading and attaching; the entries, segments and slots of a session by bpf().
#include "session.h"

#include <bpf/bpf.h>
#include <sys/mman.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "../error.h"
#include "../fd.h"
#include "../memory/windows.h"
#include "object.h"
#include "privileges.h"
#include "probe.h"
#include "tracepoint.h"

namespace ckpt::bpf {

namespace {

constexpr char kOpenat[] = "sys_enter_openat";
constexpr char kAccess[] = "sys_enter_access";
constexpr int kHelloTries = 1000;  // a program may be skipped; that many times in a row it is not there

// A map over a window of the arena, given back to the reservation unless kept.
class WindowMapping {
 public:
  WindowMapping(void* window, size_t bytes, int map) : window_(window), bytes_(bytes) {
    map_window(window, bytes, PROT_READ | PROT_WRITE, map);
  }
  WindowMapping(const WindowMapping&) = delete;
  WindowMapping& operator=(const WindowMapping&) = delete;
  ~WindowMapping() {
    if (window_) unmap_window(window_, bytes_);
  }
  void keep() { window_ = nullptr; }

 private:
  void* window_;
  size_t bytes_;
};

uint32_t random_nonce() {
  uint32_t nonce = 0;
  while (nonce == 0) {
    if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce))
      throw error(Code::kInternal, "getrandom failed: %s", errno_text(errno).c_str());
  }
  return nonce;
}

void set_markers(Session& session) {
  const auto set = [](char* to, const char* marker) { memcpy(to, marker, strlen(marker) + 1); };
  set(session.ready[0], CKPT_READY_STORE);
  set(session.ready[1], CKPT_READY_RESTORE);
  set(session.complete[0], CKPT_COMPLETE_STORE);
  set(session.complete[1], CKPT_COMPLETE_RESTORE);
}

// Our own tgid as the kernel counts, which no system call tells inside a pid namespace.
uint32_t learn_tgid(const Session& session) {
  char hello[CKPT_PATH_MAX] = CKPT_HELLO;
  volatile __u32* const tgid = &session.globals->tgid;
  __atomic_store_n(&session.globals->armed, 1, __ATOMIC_SEQ_CST);
  for (int i = 0; i < kHelloTries && *tgid == 0; i++) syscall(SYS_openat, -1L, hello, 0L, CKPT_TAG(session.nonce, 0, 0));
  __atomic_store_n(&session.globals->armed, 0, __ATOMIC_SEQ_CST);
  if (*tgid == 0)
    throw error(Code::kInternal, "The BPF program is attached to %s but does not see our openat(): is a seccomp filter answering it?",
                kOpenat);
  return *tgid;
}

int entry_map(const Session& session, Phase phase) { return phase == Phase::kStore ? session.store_map : session.restore_map; }

ckpt_key chunk_key(const Session& session, uint32_t op, uint32_t chunk) { return ckpt_key{session.tgid, op, chunk, 0}; }

struct Attachments {
  Fd openat, access;

  void give(Session& session) {
    session.perf_openat = openat.release();
    session.perf_access = access.release();
    session.attached = true;
  }
};

Attachments attach_both(int on_openat, int on_access) { return {attach_program(on_openat, kOpenat), attach_program(on_access, kAccess)}; }

Session load_fresh(Layout layout, const Windows& windows, const MakeObject& make) {
  const Features& has = features();
  Session fresh{};
  fresh.layout = layout;
  fresh.kernel_writer = has.kernel_writer;
  fresh.nonce = random_nonce();
  fresh.perf_openat = fresh.perf_access = -1;
  set_markers(fresh);

  Object object = make(fresh.nonce, has);
  WindowMapping copy(windows.copy, copy_bytes(layout), object.copy_map.get());
  WindowMapping globals(windows.globals, object.globals_bytes, object.globals_map.get());
  fresh.copy = windows.copy;
  fresh.globals_window = windows.globals;
  fresh.globals_bytes = object.globals_bytes;
  fresh.globals = reinterpret_cast<ckpt_globals*>(static_cast<char*>(windows.globals) + object.globals_offset);

  Attachments attachments = attach_both(object.on_openat.get(), object.on_access.get());
  fresh.tgid = learn_tgid(fresh);

  // Nothing fails from here on: the descriptors and mappings change owner.
  copy.keep();
  globals.keep();
  fresh.data_map = object.data_map.release();
  fresh.store_map = object.store_map.release();
  fresh.restore_map = object.restore_map.release();
  fresh.copy_map = object.copy_map.release();
  fresh.on_openat = object.on_openat.release();
  fresh.on_access = object.on_access.release();
  attachments.give(fresh);
  fresh.loaded = true;
  return fresh;
}

// Brings something up; if that fails, names the blocker where one is to be found.
template <typename Call>
void explained(Call call) {
  try {
    call();
  } catch (const Error&) {
    require_support();
    throw;
  }
}

}  // namespace

size_t copy_bytes(Layout layout) {
  return layout == Layout::kFast ? size_t{CKPT_COPY_ELEMENTS} * sizeof(ckpt_piece) : size_t{CKPT_OPS} * 2 * CKPT_PAGE;
}

void load(Session& session, Layout layout, const Windows& windows) {
  load(session, layout, windows, [layout](uint32_t nonce, const Features& has) { return load_object(layout, nonce, has); });
}

void load(Session& session, Layout layout, const Windows& windows, const MakeObject& make) {
  explained([&] { session = load_fresh(layout, windows, make); });
}

void unload(Session& session) noexcept {
  if (!session.loaded) return;
  detach(session);
  try {
    unmap_window(session.copy, copy_bytes(session.layout));
    unmap_window(session.globals_window, session.globals_bytes);
  } catch (const Error&) {
    // They stay mapped where they are; the reservation is not worth more than the descriptors.
  }
  for (const int fd : {session.data_map, session.store_map, session.restore_map, session.copy_map, session.on_openat, session.on_access})
    close(fd);
  session = Session{};
}

void attach(Session& session) {
  if (session.attached) return;
  explained([&] { attach_both(session.on_openat, session.on_access).give(session); });
}

void detach(Session& session) {
  if (!session.attached) return;
  session.attached = false;
  close(session.perf_openat);
  close(session.perf_access);
  session.perf_openat = session.perf_access = -1;
}

bool read_entry(const Session& session, Phase phase, uint32_t op, ckpt_entry& header, std::vector<ckpt_mapping>& mappings) {
  const int map = entry_map(session, phase);
  mappings.clear();
  ckpt_key key = chunk_key(session, op, 0);
  if (bpf_map_lookup_elem(map, &key, &header) != 0) {
    if (errno == ENOENT) return false;
    throw refusal("reading an entry", errno);
  }

  mappings.reserve(header.mappings);
  ckpt_entry next;
  const ckpt_entry* chunk = &header;
  for (;;) {
    const size_t left = header.mappings - mappings.size();
    mappings.insert(mappings.end(), chunk->mapping, chunk->mapping + std::min<size_t>(left, CKPT_CHUNK_MAPPINGS));
    if (mappings.size() == header.mappings) return true;
    key.chunk++;
    if (bpf_map_lookup_elem(map, &key, &next) != 0) throw refusal("reading a chunk of an entry", errno);
    chunk = &next;
  }
}

void write_entry(const Session& session, Phase phase, uint32_t op, const std::vector<ckpt_mapping>& mappings) {
  if (mappings.size() > size_t{CKPT_CHUNKS} * CKPT_CHUNK_MAPPINGS)
    throw error(Code::kNoRoom, "A plan of %zu runs does not fit: an entry holds %u", mappings.size(), CKPT_CHUNKS * CKPT_CHUNK_MAPPINGS);
  const int map = entry_map(session, phase);
  ckpt_key key = chunk_key(session, op, 0);
  ckpt_entry header;
  if (bpf_map_lookup_elem(map, &key, &header) != 0) throw refusal("reading an entry", errno);
  header.mappings = static_cast<__u32>(mappings.size());

  const auto write_chunk = [&](uint32_t chunk) {
    const size_t first = size_t{chunk} * CKPT_CHUNK_MAPPINGS, left = mappings.size() - first;
    std::copy_n(mappings.data() + first, std::min<size_t>(left, CKPT_CHUNK_MAPPINGS), header.mapping);
    key.chunk = chunk;
    if (bpf_map_update_elem(map, &key, &header, BPF_ANY) != 0) throw refusal("writing the plan into an entry", errno);
  };
  // The header comes last: what it counts is there.
  for (uint32_t chunk = 1; size_t{chunk} * CKPT_CHUNK_MAPPINGS < mappings.size(); chunk++) write_chunk(chunk);
  write_chunk(0);
}

void delete_entry(const Session& session, Phase phase, uint32_t op, bool chunks) {
  // Chunks follow each other without a gap, so the first that is missing ends them.
  const int map = entry_map(session, phase);
  for (ckpt_key key = chunk_key(session, op, 0); bpf_map_delete_elem(map, &key) == 0 && chunks;) key.chunk++;
}

int create_segment(uint32_t values) {
  LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP);
  const int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "ckpt_segment", sizeof(__u32), CKPT_VALUE, values, &options);
  if (fd < 0) throw refusal("creating a segment of the page store", errno);
  return fd;
}

void set_slot(const Session& session, uint32_t slot, int segment_fd) {
  if (bpf_map_update_elem(session.data_map, &slot, &segment_fd, BPF_ANY) != 0) throw refusal("filling a slot of data_map", errno);
}

void clear_slot(const Session& session, uint32_t slot) {
  if (bpf_map_delete_elem(session.data_map, &slot) != 0 && errno != ENOENT) throw refusal("emptying a slot of data_map", errno);
}

bool delete_pages(const Session& session, const ckpt_page_key* keys, size_t count) noexcept {
  LIBBPF_OPTS(bpf_map_batch_opts, options);
  for (size_t done = 0; done < count;) {
    __u32 deleted = static_cast<__u32>(count - done);
    if (bpf_map_delete_batch(session.data_map, keys + done, &deleted, &options) == 0) return true;
    // It stops at a page that was never stored: past that it goes on.
    if (errno != ENOENT) return false;
    done += deleted + 1;
  }
  return true;
}

uint32_t seed_capacity() { return features().map_allocation ? CKPT_SEED_PAGES : CKPT_SEED_PREALLOCATED; }

}  // namespace ckpt::bpf
