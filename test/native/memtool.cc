// memtool.cc: test-only addon: memory of any kind at a known address, and what else only a system call can do to it.

#include <fcntl.h>
#include <napi.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace {

// A child that hangs would hang the suite: it ends by itself.
constexpr unsigned kChildSeconds = 60;

[[noreturn]] void fail(Napi::Env env, const char* what) { throw Napi::Error::New(env, std::string(what) + ": " + std::strerror(errno)); }

uint8_t* pointer(const Napi::Value& value) {
  return reinterpret_cast<uint8_t*>(static_cast<uintptr_t>(value.As<Napi::Number>().Int64Value()));
}

size_t size(const Napi::Value& value) { return static_cast<size_t>(value.As<Napi::Number>().Int64Value()); }

int integer(const Napi::Value& value) { return value.As<Napi::Number>().Int32Value(); }

// map(bytes, prot, flags, fd, offset) -> address
Napi::Value map(const Napi::CallbackInfo& info) {
  void* memory =
      mmap(nullptr, size(info[0]), integer(info[1]), integer(info[2]), integer(info[3]), info[4].As<Napi::Number>().Int64Value());
  if (memory == MAP_FAILED) fail(info.Env(), "mmap");
  return Napi::Number::New(info.Env(), static_cast<double>(reinterpret_cast<uintptr_t>(memory)));
}

// expose(address, bytes) -> ArrayBuffer over that memory, which it does not own
Napi::Value expose(const Napi::CallbackInfo& info) { return Napi::ArrayBuffer::New(info.Env(), pointer(info[0]), size(info[1])); }

void unmap(const Napi::CallbackInfo& info) {
  if (munmap(pointer(info[0]), size(info[1])) != 0) fail(info.Env(), "munmap");
}

void protect(const Napi::CallbackInfo& info) {
  if (mprotect(pointer(info[0]), size(info[1]), integer(info[2])) != 0) fail(info.Env(), "mprotect");
}

void advise(const Napi::CallbackInfo& info) {
  if (madvise(pointer(info[0]), size(info[1]), integer(info[2])) != 0) fail(info.Env(), "madvise");
}

// addressOf(view) -> where its first byte is now. Does not make an on-heap view move off the heap.
Napi::Value address_of(const Napi::CallbackInfo& info) {
  void* data = nullptr;
  size_t bytes = 0;
  if (info[0].IsArrayBuffer()) {
    napi_get_arraybuffer_info(info.Env(), info[0], &data, &bytes);
  } else {
    napi_get_typedarray_info(info.Env(), info[0], nullptr, nullptr, &data, nullptr, nullptr);
  }
  return Napi::Number::New(info.Env(), static_cast<double>(reinterpret_cast<uintptr_t>(data)));
}

int wait_for(Napi::Env env, pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) fail(env, "waitpid");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// fill(address, bytes, value): written by a child that shares the memory, so that this process has no page tables for it
void fill_elsewhere(const Napi::CallbackInfo& info) {
  uint8_t* memory = pointer(info[0]);
  size_t bytes = size(info[1]);
  int value = integer(info[2]);
  pid_t child = fork();
  if (child < 0) fail(info.Env(), "fork");
  if (child == 0) {
    memset(memory, value, bytes);
    _exit(0);
  }
  wait_for(info.Env(), child);
}

// A forked child that keeps the pages of one range shared with its parent, and tells at the end whether they changed for it.
class Holder : public Napi::ObjectWrap<Holder> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Holder", {InstanceMethod("release", &Holder::release), InstanceAccessor("pid", &Holder::pid, nullptr)});
  }

  explicit Holder(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Holder>(info) {
    uint8_t* memory = pointer(info[0]);
    size_t bytes = size(info[1]);
    // Made before the fork: the child of a threaded process may not allocate.
    std::vector<uint8_t> before(memory, memory + bytes);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) fail(info.Env(), "pipe");
    child_ = fork();
    if (child_ < 0) fail(info.Env(), "fork");
    if (child_ == 0) {
      close(ends[1]);
      char byte;
      alarm(kChildSeconds);
      while (read(ends[0], &byte, 1) < 0 && errno == EINTR) {
      }
      _exit(memcmp(memory, before.data(), bytes) == 0 ? 0 : 1);
    }
    close(ends[0]);
    pipe_ = ends[1];
  }

 private:
  // release() -> true if the child still saw the bytes of the moment it was forked
  Napi::Value release(const Napi::CallbackInfo& info) {
    close(pipe_);
    return Napi::Boolean::New(info.Env(), wait_for(info.Env(), child_) == 0);
  }

  Napi::Value pid(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), child_); }

  pid_t child_ = -1;
  int pipe_ = -1;
};

// externalMemory() -> bytes that addons have charged to V8 in this environment
Napi::Value external_memory(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(Napi::MemoryManagement::AdjustExternalMemory(info.Env(), 0)));
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports["map"] = Napi::Function::New(env, map);
  exports["expose"] = Napi::Function::New(env, expose);
  exports["unmap"] = Napi::Function::New(env, unmap);
  exports["protect"] = Napi::Function::New(env, protect);
  exports["advise"] = Napi::Function::New(env, advise);
  exports["addressOf"] = Napi::Function::New(env, address_of);
  exports["fillElsewhere"] = Napi::Function::New(env, fill_elsewhere);
  exports["externalMemory"] = Napi::Function::New(env, external_memory);
  exports["Holder"] = Holder::define(env);
  return exports;
}

}  // namespace

NODE_API_MODULE(memtool, init)
