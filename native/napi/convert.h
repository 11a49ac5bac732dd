// convert.h: JavaScript values to what the core takes, and what it gives to JavaScript values.
#pragma once

#include <napi.h>

#include <string>
#include <vector>

#include "../bpf/probe.h"
#include "../engine/engine.h"

namespace ckpt::napi {

inline Handle to_handle(const Napi::Value& value) {
  const auto object = value.As<Napi::Object>();
  return {object.Get("index").As<Napi::Number>().Uint32Value(),
          static_cast<uint64_t>(object.Get("generation").As<Napi::Number>().Int64Value())};
}

inline Layout to_layout(const Napi::Value& value) { return value.As<Napi::String>().Utf8Value() == "seed" ? Layout::kSeed : Layout::kFast; }

inline Writer to_writer(const Napi::Value& value) {
  const std::string name = value.As<Napi::String>().Utf8Value();
  return name == "kernel" ? Writer::kKernel : name == "user" ? Writer::kUser : Writer::kAuto;
}

// Where the bytes of regions[index] are now. Node-API's call for typed arrays serves those over a SharedArrayBuffer too.
inline Range to_range(napi_env env, napi_value regions, uint32_t index) {
  napi_value view;
  napi_typedarray_type type;
  size_t length;
  void* data;
  if (napi_get_element(env, regions, index, &view) != napi_ok ||
      napi_get_typedarray_info(env, view, &type, &length, &data, nullptr, nullptr) != napi_ok || type != napi_uint8_array) {
    throw error(Code::kInternal, "regions[%u] is not a Uint8Array", index);
  }
  const auto start = reinterpret_cast<uint64_t>(data);
  return {start, start + length};
}

inline std::vector<Range> to_ranges(napi_env env, napi_value regions) {
  const Napi::HandleScope scope(env);
  uint32_t count = 0;
  if (napi_get_array_length(env, regions, &count) != napi_ok) throw error(Code::kInternal, "regions is not an array");
  std::vector<Range> ranges;
  ranges.reserve(count);
  for (uint32_t i = 0; i < count; i++) ranges.push_back(to_range(env, regions, i));
  return ranges;
}

inline const char* name_of(Layout layout) { return layout == Layout::kSeed ? "seed" : "fast"; }
inline const char* name_of(Writer writer) { return writer == Writer::kKernel ? "kernel" : "user"; }
inline const char* name_of(bpf::Walk walk) {
  switch (walk) {
    case bpf::Walk::kIterator:
      return "iterator";
    case bpf::Walk::kList:
      return "list";
    default:
      return "none";
  }
}

// A plain object, filled property by property.
class Record {
 public:
  explicit Record(Napi::Env env) : env_(env), object_(Napi::Object::New(env)) {}

  Record& number(const char* name, uint64_t value) { return set(name, Napi::Number::New(env_, static_cast<double>(value))); }
  Record& flag(const char* name, bool value) { return set(name, Napi::Boolean::New(env_, value)); }
  Record& text(const char* name, const std::string& value) { return set(name, Napi::String::New(env_, value)); }
  Record& set(const char* name, const Napi::Value& value) {
    object_.Set(name, value);
    return *this;
  }
  Napi::Object object() const { return object_; }

 private:
  Napi::Env env_;
  Napi::Object object_;
};

}  // namespace ckpt::napi
