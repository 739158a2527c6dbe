// Errors towards the guest: Errno, Result<T>, Fail() and TRY().
//
// Result<T> may fail with a Linux error number that the guest will see. HostResult<T> may fail with
// an Error: text for an operator. They never convert into each other silently; turning a host
// failure into a guest errno is a decision made in a named function.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <expected>
#include <string>
#include <utility>

namespace skep {

// A Linux error number. Never zero: success is not an Errno.
class [[nodiscard]] Errno {
 public:
  explicit constexpr Errno(int code) : code_(static_cast<uint16_t>(code)) {
    if (code <= 0 || code >= 4096) std::abort();
  }
  constexpr int code() const { return code_; }
  friend constexpr bool operator==(Errno, Errno) = default;

 private:
  uint16_t code_;
};

// What an interrupted handler returns; kernel/ turns each into EINTR or a restart
// (Linux: include/linux/errno.h).
inline constexpr int kRestartSys = 512;     // restart if SA_RESTART or no handler ran
inline constexpr int kRestartNoIntr = 513;  // always restart
inline constexpr int kRestartNoHand = 514;  // restart only if no handler ran
inline constexpr int kRestartBlock = 516;   // restart through restart_syscall(2)
// The fiber's task is being killed: unwind to the run loop at once. Never seen by a guest.
inline constexpr int kKilled = 600;

template <class T>
using Result = std::expected<T, Errno>;

constexpr std::unexpected<Errno> Fail(int code) { return std::unexpected(Errno(code)); }

// An error for people: what failed, on what, and what to do about it.
struct Error {
  std::string message;
  int host_errno = 0;  // 0: none
};

template <class T>
using HostResult = std::expected<T, Error>;

// "<message>: <strerror(host_errno)>" in `message`.
std::unexpected<Error> HostFail(std::string message, int host_errno = 0);

}  // namespace skep

// Unwraps a Result, or returns its error from the enclosing function.
//
// Write it only as a whole statement, a whole initializer, or the operand of return; elsewhere the
// early return skips destructors of values already built (tools/tidy.py rejects it there).
#define TRY(expression)                                      \
  __extension__({                                            \
    auto try_result = (expression);                          \
    if (!try_result) [[unlikely]]                            \
      return std::unexpected(std::move(try_result).error()); \
    *std::move(try_result);                                  \
  })
