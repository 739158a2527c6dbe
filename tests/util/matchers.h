// gmock matchers for what system calls return (-1 and errno) and for wait statuses.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <type_traits>

namespace skep::test {

// Either "succeeds" (optionally with one value) or "fails with one errno". errno is read at once,
// before anything else can touch it.
class SyscallMatcher {
 public:
  using is_gtest_matcher = void;
  enum class Kind : uint8_t { kSucceeds, kSucceedsWith, kFailsWith };

  SyscallMatcher(Kind kind, int64_t expected) : kind_(kind), expected_(expected) {}

  template <class T>
  bool MatchAndExplain(const T& value, ::testing::MatchResultListener* listener) const {
    const int error = errno;
    int64_t result = 0;
    if constexpr (std::is_pointer_v<T>) {
      result = reinterpret_cast<intptr_t>(value);
    } else {
      result = static_cast<int64_t>(value);
    }
    if (result == -1) *listener << "errno " << error << " (" << ::strerror(error) << ")";
    switch (kind_) {
      case Kind::kSucceeds:
        return result != -1;
      case Kind::kSucceedsWith:
        return result == expected_;
      case Kind::kFailsWith:
        return result == -1 && error == expected_;
    }
    return false;
  }
  void DescribeTo(std::ostream* os) const {
    switch (kind_) {
      case Kind::kSucceeds:
        *os << "succeeds";
        break;
      case Kind::kSucceedsWith:
        *os << "succeeds with " << expected_;
        break;
      case Kind::kFailsWith:
        *os << "fails with errno " << expected_ << " (" << ::strerror(static_cast<int>(expected_))
            << ")";
        break;
    }
  }
  void DescribeNegationTo(std::ostream* os) const {
    *os << "not: ";
    DescribeTo(os);
  }

 private:
  Kind kind_;
  int64_t expected_;
};

inline SyscallMatcher Succeeds() { return {SyscallMatcher::Kind::kSucceeds, 0}; }
inline SyscallMatcher SucceedsWith(int64_t value) {
  return {SyscallMatcher::Kind::kSucceedsWith, value};
}
inline SyscallMatcher FailsWith(int error) { return {SyscallMatcher::Kind::kFailsWith, error}; }

MATCHER_P(ExitsWith, code, "is the wait status of an exit with that code") {
  if (WIFEXITED(arg)) *result_listener << "exited with " << WEXITSTATUS(arg);
  if (WIFSIGNALED(arg)) *result_listener << "killed by signal " << WTERMSIG(arg);
  return WIFEXITED(arg) && WEXITSTATUS(arg) == code;
}
MATCHER_P(KilledBy, signo, "is the wait status of a death by that signal") {
  if (WIFEXITED(arg)) *result_listener << "exited with " << WEXITSTATUS(arg);
  if (WIFSIGNALED(arg)) *result_listener << "killed by signal " << WTERMSIG(arg);
  return WIFSIGNALED(arg) && WTERMSIG(arg) == signo;
}
MATCHER_P(StoppedBy, signo, "is the wait status of a stop by that signal") {
  return WIFSTOPPED(arg) && WSTOPSIG(arg) == signo;
}

}  // namespace skep::test
