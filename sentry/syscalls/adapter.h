// From registers to typed handlers. The handler's signature is the single source of truth of a
// system call: arity, decoding, strace output and the compatibility page all derive from it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "base/result.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/user_memory.h"
#include "sentry/syscalls/syscall_table.h"

namespace skep::syscalls {

using kernel::tasks;
using kernel::TasksLock;
using mm::UserAddr;
using mm::UserPtr;

// A descriptor number.
struct Fd {
  int32_t value;
};
// Words with a meaning of their own in strace.
struct OpenFlags {
  uint32_t value;
  bool Has(uint32_t bits) const { return (value & bits) == bits; }
};
struct FileMode {
  uint32_t value;
};
struct SignalNumber {
  int32_t value;
};
using Path = UserPtr<const char>;

// For handlers that set all registers themselves, or never return.
struct KeepRegisters {};

namespace format {
void Decimal(Task&, uint64_t raw, std::string& out);    // as int32
void Decimal64(Task&, uint64_t raw, std::string& out);  // as int64
void Unsigned(Task&, uint64_t raw, std::string& out);   // as uint32
void Hex(Task&, uint64_t raw, std::string& out);        // pointers, uint64
void Text(Task&, uint64_t raw, std::string& out);       // a guest string, quoted
void Flags(Task&, uint64_t raw, std::string& out);      // open flags
void Octal(Task&, uint64_t raw, std::string& out);
void Signal(Task&, uint64_t raw, std::string& out);
void Descriptor(Task&, uint64_t raw, std::string& out);
}  // namespace format

template <class T>
struct FromRegister;
template <std::integral T>
struct FromRegister<T> {
  static T Decode(uint64_t r) { return static_cast<T>(r); }
  static constexpr ArgumentFormatter kFormat =
      sizeof(T) == 8 ? (std::is_signed_v<T> ? &format::Decimal64 : &format::Hex)
                     : (std::is_signed_v<T> ? &format::Decimal : &format::Unsigned);
};
template <class T>
struct FromRegister<UserPtr<T>> {
  static UserPtr<T> Decode(uint64_t r) { return UserPtr<T>(UserAddr{r}); }
  static constexpr ArgumentFormatter kFormat =
      std::is_same_v<T, const char> ? &format::Text : &format::Hex;
};
template <>
struct FromRegister<Fd> {
  static Fd Decode(uint64_t r) { return {static_cast<int32_t>(r)}; }
  static constexpr ArgumentFormatter kFormat = &format::Descriptor;
};
template <>
struct FromRegister<OpenFlags> {
  static OpenFlags Decode(uint64_t r) { return {static_cast<uint32_t>(r)}; }
  static constexpr ArgumentFormatter kFormat = &format::Flags;
};
template <>
struct FromRegister<FileMode> {
  static FileMode Decode(uint64_t r) { return {static_cast<uint32_t>(r)}; }
  static constexpr ArgumentFormatter kFormat = &format::Octal;
};
template <>
struct FromRegister<SignalNumber> {
  static SignalNumber Decode(uint64_t r) { return {static_cast<int32_t>(r)}; }
  static constexpr ArgumentFormatter kFormat = &format::Signal;
};

template <std::integral T>
uint64_t ToRegister(T value) {
  return static_cast<uint64_t>(static_cast<int64_t>(value));
}

inline uint64_t ToRegister(Fd fd) { return static_cast<uint64_t>(static_cast<int64_t>(fd.value)); }

template <auto kHandler>
struct Adapter;
template <class R, class... Args, Result<R> (*kHandler)(Task&, Args...)>
struct Adapter<kHandler> {
  static_assert(sizeof...(Args) <= 6, "a system call has six registers");
  static constexpr size_t kArity = sizeof...(Args);
  static constexpr std::array<ArgumentFormatter, 6> kFormats = {FromRegister<Args>::kFormat...};

  static Result<uint64_t> Call(Task& task, const RawArgs& raw) {
    return [&]<size_t... I>(std::index_sequence<I...>) -> Result<uint64_t> {
      Result<R> result = kHandler(task, FromRegister<Args>::Decode(raw[I])...);
      if (!result) return std::unexpected(result.error());
      if constexpr (std::is_void_v<R>) {
        return uint64_t{0};
      } else if constexpr (std::is_same_v<R, KeepRegisters>) {
        task.keep_registers = true;
        return uint64_t{0};
      } else if constexpr (std::is_same_v<R, uint64_t>) {
        return *result;
      } else {
        return ToRegister(*result);
      }
    }(std::index_sequence_for<Args...>{});
  }
};

namespace internal {
consteval Row MakeRow(uint32_t number, const Syscall& syscall) {
  if (number >= kSyscallCount) throw "a number outside the table";
  return {number, syscall};
}
}  // namespace internal

// A system call that does all that Linux's does.
template <auto kHandler>
consteval Row Full(uint32_t number, const char* name) {
  using A = Adapter<kHandler>;
  return internal::MakeRow(number,
                           {name, &A::Call, Support::kFull, 0, "", A::kArity, A::kFormats.data()});
}
// One that does part of it; `note` says which part.
template <auto kHandler>
consteval Row Partial(uint32_t number, const char* name, const char* note) {
  using A = Adapter<kHandler>;
  return internal::MakeRow(
      number, {name, &A::Call, Support::kPartial, 0, note, A::kArity, A::kFormats.data()});
}
// One that is not there: what it answers, and why.
consteval Row Refused(uint32_t number, const char* name, int error, const char* why) {
  return internal::MakeRow(number, {name, nullptr, Support::kNone, error, why, 6, nullptr});
}

}  // namespace skep::syscalls
