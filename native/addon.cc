// addon.cc: the Node-API face of the core and nothing else: methods, exceptions across, and the life of an environment.
//
// What JavaScript sees is typed in lib/native.ts.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS  // nothing can be thrown into a Worker that ends: no reason to abort the process

#include <napi.h>

#include <new>
#include <string>

#include "bpf/probe.h"
#include "engine/engine.h"
#include "error.h"
#include "napi/convert.h"
#include "napi/observer.h"

namespace {

using ckpt::Code;
using ckpt::napi::name_of;
using ckpt::napi::observed;
using ckpt::napi::Record;
using ckpt::napi::to_handle;

// One JavaScript environment: the main thread's or a Worker's.
struct Environment {
  uint64_t owner;
  bool busy = false;  // a capture or restore is on this thread's stack: we are in its progress callback
};

void refuse_if_busy(const Environment& environment, const char* what) {
  if (environment.busy) throw ckpt::error(Code::kReentrant, "%s was called from a progress callback of a checkpoint or restore", what);
}

class UnderWay {
 public:
  UnderWay(Environment& environment, const char* what) : environment_(environment) {
    refuse_if_busy(environment, what);
    environment.busy = true;
  }
  ~UnderWay() { environment_.busy = false; }
  UnderWay(const UnderWay&) = delete;
  UnderWay& operator=(const UnderWay&) = delete;

 private:
  Environment& environment_;
};

// --- Exceptions ----------------------------------------------------------------------------------------------------------------------

// The results of these calls are ignored: they fail when the environment is going down, and then nobody is there to see the error.
void throw_to_js(napi_env env, const ckpt::Error& error) {
  napi_value code = nullptr, message = nullptr, result = nullptr, address = nullptr;
  napi_create_string_utf8(env, ckpt::code_name(error.code()), NAPI_AUTO_LENGTH, &code);
  napi_create_string_utf8(env, error.what(), NAPI_AUTO_LENGTH, &message);
  napi_create_error(env, code, message, &result);
  if (error.address() != 0) {
    napi_create_double(env, static_cast<double>(error.address()), &address);
    napi_set_named_property(env, result, "address", address);
  }
  napi_throw(env, result);
}

template <typename Call>
Napi::Value guarded(napi_env env, Call call) {
  try {
    return call();
  } catch (const ckpt::napi::Thrown&) {
    // The callback's own exception is pending, and goes on from here.
  } catch (const Napi::Error&) {
    throw;  // node-addon-api turns it into the exception it holds
  } catch (const ckpt::Error& error) {
    throw_to_js(env, error);
  } catch (const std::bad_alloc&) {
    throw_to_js(env, ckpt::error(Code::kNoRoom, "Out of memory"));
  } catch (const std::exception& error) {
    throw_to_js(env, ckpt::error(Code::kInternal, "%s", error.what()));
  }
  return {};
}

using Method = Napi::Value (*)(Environment& environment, const Napi::CallbackInfo& info);

template <Method method>
Napi::Value entry(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return method(*info.Env().GetInstanceData<Environment>(), info); });
}

// --- Checkpoints ---------------------------------------------------------------------------------------------------------------------

// V8 does not see page stores: told what each checkpoint holds, it collects forgotten ones in time.
void charge(Napi::Env env, uint64_t bytes) { Napi::MemoryManagement::AdjustExternalMemory(env, static_cast<int64_t>(bytes)); }
void discharge(Napi::Env env, uint64_t bytes) { Napi::MemoryManagement::AdjustExternalMemory(env, -static_cast<int64_t>(bytes)); }

// capture(regions, layout, pagesPerTrigger, onProgress)
Napi::Value capture(Environment& environment, const Napi::CallbackInfo& info) {
  const UnderWay under_way(environment, "checkpoint()");
  ckpt::Options options;
  options.layout = ckpt::napi::to_layout(info[1]);
  options.pages_per_trigger = info[2].As<Napi::Number>().Uint32Value();
  const ckpt::Handle handle = observed(info.Env(), info[0], info[3], options, [&](const auto& ranges, const ckpt::Options& with) {
    return ckpt::capture(environment.owner, ranges, with);
  });
  charge(info.Env(), ckpt::info(environment.owner, handle).stored);
  return Record(info.Env()).number("index", handle.index).number("generation", handle.generation).object();
}

// restore(handle, regions, writer, pagesPerTrigger, onProgress)
Napi::Value restore(Environment& environment, const Napi::CallbackInfo& info) {
  const UnderWay under_way(environment, "restore()");
  const ckpt::Handle handle = to_handle(info[0]);
  ckpt::Options options;
  options.writer = ckpt::napi::to_writer(info[2]);
  options.pages_per_trigger = info[3].As<Napi::Number>().Uint32Value();
  const ckpt::RestoreInfo done = observed(info.Env(), info[1], info[4], options, [&](const auto& ranges, const ckpt::Options& with) {
    return ckpt::restore(environment.owner, handle, ranges, with);
  });
  return Record(info.Env())
      .text("writer", name_of(done.writer))
      .number("bytes", done.bytes)
      .number("pages", done.pages)
      .number("restoreNs", done.restore_ns)
      .number("triggers", done.triggers)
      .number("retries", done.retries)
      .object();
}

// dispose(handle). The core refuses it in a progress callback of a restore of the same checkpoint.
Napi::Value dispose(Environment& environment, const Napi::CallbackInfo& info) {
  const ckpt::Handle handle = to_handle(info[0]);
  const uint64_t stored = ckpt::info(environment.owner, handle).stored;
  ckpt::dispose(environment.owner, handle);
  discharge(info.Env(), stored);
  return info.Env().Undefined();
}

// discard(handle)
Napi::Value discard(Environment& environment, const Napi::CallbackInfo& info) {
  const ckpt::Handle handle = to_handle(info[0]);
  if (!ckpt::alive(environment.owner, handle)) return info.Env().Undefined();
  const uint64_t stored = ckpt::info(environment.owner, handle).stored;
  ckpt::discard(environment.owner, handle);
  discharge(info.Env(), stored);
  return info.Env().Undefined();
}

// alive(handle)
Napi::Value alive(Environment& environment, const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), ckpt::alive(environment.owner, to_handle(info[0])));
}

// info(handle)
Napi::Value info_of(Environment& environment, const Napi::CallbackInfo& info) {
  const ckpt::Info known = ckpt::info(environment.owner, to_handle(info[0]));
  return Record(info.Env())
      .number("id", known.id)
      .text("layout", name_of(known.layout))
      .number("bytes", known.bytes)
      .number("pages", known.pages)
      .number("stored", known.stored)
      .number("mappings", known.mappings)
      .number("runs", known.runs)
      .flag("poisoned", known.poisoned)
      .number("restores", known.restores)
      .number("captureNs", known.capture_ns)
      .number("triggers", known.triggers)
      .number("retries", known.retries)
      .object();
}

// --- The process ---------------------------------------------------------------------------------------------------------------------

// settings()
Napi::Value settings(Environment&, const Napi::CallbackInfo& info) {
  const ckpt::Settings current = ckpt::settings();
  return Record(info.Env())
      .number("poolBytes", current.pool_bytes)
      .number("maxBytes", current.max_bytes)
      .number("detachAfterMs", current.detach_after_ms)
      .number("shrinkAfterMs", current.shrink_after_ms)
      .object();
}

// configure(settings), all of them
Napi::Value configure(Environment&, const Napi::CallbackInfo& info) {
  const auto wanted = info[0].As<Napi::Object>();
  const auto number = [&](const char* name) { return wanted.Get(name).As<Napi::Number>(); };
  ckpt::Settings next;
  next.pool_bytes = static_cast<uint64_t>(number("poolBytes").Int64Value());
  next.max_bytes = static_cast<uint64_t>(number("maxBytes").Int64Value());
  next.detach_after_ms = number("detachAfterMs").Uint32Value();
  next.shrink_after_ms = number("shrinkAfterMs").Uint32Value();
  ckpt::configure(next);
  return info.Env().Undefined();
}

// Not on the JavaScript thread: it waits for RCU grace periods.
class Trim : public Napi::AsyncWorker {
 public:
  explicit Trim(Napi::Env env) : Napi::AsyncWorker(env, "ebpf-ckpt:trim"), deferred_(env) {}
  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      ckpt::trim();
    } catch (const ckpt::Error& error) {
      code_ = ckpt::code_name(error.code());
      throw;  // the base class keeps the message
    }
  }
  void OnOK() override { deferred_.Resolve(Env().Undefined()); }
  void OnError(const Napi::Error& error) override {
    Napi::Object reason = error.Value();
    reason.Set("code", code_);
    deferred_.Reject(reason);
  }

 private:
  Napi::Promise::Deferred deferred_;
  const char* code_ = ckpt::code_name(Code::kInternal);
};

// trim()
Napi::Value trim(Environment& environment, const Napi::CallbackInfo& info) {
  refuse_if_busy(environment, "trim()");
  auto* worker = new Trim(info.Env());  // deletes itself when done
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

// stats()
Napi::Value stats(Environment&, const Napi::CallbackInfo& info) {
  const ckpt::Stats now = ckpt::stats();
  return Record(info.Env())
      .number("checkpoints", now.checkpoints)
      .number("operations", now.operations)
      .number("segments", now.segments)
      .flag("attached", now.attached)
      .number("liveBytes", now.live_bytes)
      .number("pooledBytes", now.pooled_bytes)
      .number("outerMapUpdates", now.outer_map_updates)
      .number("triggers", now.triggers)
      .object();
}

Napi::Object features_of(Napi::Env env, const ckpt::bpf::Features& features, ckpt::bpf::Walk walk) {
  return Record(env)
      .flag("btf", features.btf)
      .flag("bpf", features.bpf)
      .flag("kernelWriter", features.kernel_writer)
      .flag("fetchAndAdd", features.fetch_and_add)
      .text("walk", name_of(walk))
      .flag("pageScan", features.page_scan)
      .flag("mappingQuery", features.mapping_query)
      .flag("populate", features.populate)
      .number("bpfErrno", static_cast<uint64_t>(features.bpf_errno))
      .number("writerErrno", static_cast<uint64_t>(features.writer_errno))
      .object();
}

// support()
Napi::Value support(Environment&, const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const ckpt::bpf::Support known = ckpt::bpf::support();
  Napi::Array capabilities = Napi::Array::New(env);
  for (const auto& one : known.capabilities) {
    capabilities.Set(capabilities.Length(),
                     Record(env).text("name", one.name).flag("effective", one.effective).text("neededFor", one.needed_for).object());
  }
  Napi::Array problems = Napi::Array::New(env);
  for (const auto& one : known.problems) {
    problems.Set(problems.Length(),
                 Record(env).text("code", one.code).text("message", one.message).text("fix", one.fix).flag("fatal", one.fatal).object());
  }
  return Record(env)
      .text("release", known.release)
      .text("machine", known.machine)
      .text("lockdown", known.lockdown)
      .text("tracefs", known.tracefs)
      .flag("tracepoints", known.tracepoints)
      .number("seccomp", static_cast<uint64_t>(known.seccomp))
      .set("features", features_of(env, known.features, known.walk))
      .set("capabilities", capabilities)
      .set("problems", problems)
      .object();
}

// --- The environment -----------------------------------------------------------------------------------------------------------------

template <Method method>
void add(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<entry<method>>(exports.Env(), name));
}

// An environment is one owner, opened here and closed when it ends, however it ends: a terminated Worker leaves nothing.
Napi::Object init(Napi::Env env, Napi::Object exports) {
  guarded(env, [&] {
    const uint64_t owner = ckpt::open_owner();
    env.AddCleanupHook([owner] { ckpt::close_owner(owner); });
    env.SetInstanceData(new Environment{owner});
    add<capture>(exports, "capture");
    add<restore>(exports, "restore");
    add<dispose>(exports, "dispose");
    add<discard>(exports, "discard");
    add<info_of>(exports, "info");
    add<alive>(exports, "alive");
    add<settings>(exports, "settings");
    add<configure>(exports, "configure");
    add<trim>(exports, "trim");
    add<stats>(exports, "stats");
    add<support>(exports, "support");
    return exports;
  });
  return exports;
}

}  // namespace

NODE_API_MODULE(ebpf_ckpt, init)
