// CHECK: a sentry invariant. It aborts the sandbox when broken, in every build. Its condition must
// not depend on what a guest chose: bad guest input is an Errno.
#pragma once

namespace skep {

// Writes "file:line: what" to the log descriptor and aborts. Async-signal-safe.
[[noreturn]] void CheckFailed(const char* file, int line, const char* what);

}  // namespace skep

#define CHECK(condition)                                                                   \
  (__builtin_expect(!(condition), 0) ? ::skep::CheckFailed(__FILE__, __LINE__, #condition) \
                                     : (void)0)

#ifdef NDEBUG
#define DCHECK(condition) ((void)sizeof(!(condition)))
#else
#define DCHECK(condition) CHECK(condition)
#endif
