// error.cc: the words of error.h.
#include "error.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace ckpt {

namespace {

std::string format_message(const char* format, va_list arguments) {
  va_list again;
  va_copy(again, arguments);
  const int length = vsnprintf(nullptr, 0, format, again);
  va_end(again);
  if (length < 0) return format;
  std::string message(static_cast<size_t>(length) + 1, '\0');
  vsnprintf(message.data(), message.size(), format, arguments);
  message.pop_back();
  return message;
}

}  // namespace

const char* code_name(Code code) {
  switch (code) {
    case Code::kCapability:
      return "ERR_CKPT_CAPABILITY";
    case Code::kKernel:
      return "ERR_CKPT_KERNEL";
    case Code::kNoBtf:
      return "ERR_CKPT_NO_BTF";
    case Code::kLockdown:
      return "ERR_CKPT_LOCKDOWN";
    case Code::kTracepoint:
      return "ERR_CKPT_TRACEPOINT";
    case Code::kNoRoom:
      return "ERR_CKPT_NO_ROOM";
    case Code::kRegionMoved:
      return "ERR_CKPT_REGION_MOVED";
    case Code::kRegionShrunk:
      return "ERR_CKPT_REGION_SHRUNK";
    case Code::kRegionDetached:
      return "ERR_CKPT_REGION_DETACHED";
    case Code::kUnmapped:
      return "ERR_CKPT_UNMAPPED";
    case Code::kUnreadable:
      return "ERR_CKPT_UNREADABLE";
    case Code::kUnwritable:
      return "ERR_CKPT_UNWRITABLE";
    case Code::kUnknown:
      return "ERR_CKPT_UNKNOWN";
    case Code::kDisposed:
      return "ERR_CKPT_DISPOSED";
    case Code::kPoisoned:
      return "ERR_CKPT_POISONED";
    case Code::kAborted:
      return "ERR_CKPT_ABORTED";
    case Code::kReentrant:
      return "ERR_CKPT_REENTRANT";
    case Code::kBusy:
      return "ERR_CKPT_BUSY";
    case Code::kNoProgress:
      return "ERR_CKPT_NO_PROGRESS";
    case Code::kSecondCopy:
      return "ERR_CKPT_SECOND_COPY";
    case Code::kForked:
      return "ERR_CKPT_FORKED";
    case Code::kInternal:
      return "ERR_CKPT_INTERNAL";
  }
  return "ERR_CKPT_INTERNAL";
}

Error error(Code code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::string message = format_message(format, arguments);
  va_end(arguments);
  return Error(code, std::move(message));
}

Error error_at(Code code, uint64_t address, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::string message = format_message(format, arguments);
  va_end(arguments);
  return Error(code, std::move(message), address);
}

std::string errno_text(int number) {
  const char* description = strerrordesc_np(number);
  const char* name = strerrorname_np(number);
  if (!description || !name) return "error " + std::to_string(number);
  return std::string(description) + " (" + name + ")";
}

}  // namespace ckpt
