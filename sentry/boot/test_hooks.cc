#include "sentry/boot/test_hooks.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <array>
#include <cstdlib>

#include "base/check.h"
#include "base/host_call.h"
#include "base/log.h"
#include "sentry/sched/fiber.h"
#include "sentry/sched/scheduler.h"

namespace skep::boot {
namespace {

// Frames smaller than a page, so that none steps over the guard.
[[gnu::noinline]] int FillStack(int depth) {
  std::array<char, 1024> frame;
  frame.fill(static_cast<char>(depth));
  // SAFETY: no instruction; the compiler must believe that the frame is read.
  asm volatile("" : : "r"(frame.data()) : "memory");
  return depth < 0 ? 0 : FillStack(depth + 1) + frame[static_cast<size_t>(depth) % frame.size()];
}

}  // namespace

void CrashForTest(kernel::Kernel& kernel, const std::string& how) {
  const char kind = how[0];
  const auto crash = [kind] {
    SKEP_LOG(kError, "a test makes the sentry fail");
    if (kind == 'c') CHECK(kind != 'c');                    // check
    if (kind == 's') SKEP_LOG(kError, "{}", FillStack(0));  // stack
    // SAFETY: that nothing is mapped there is what is wanted.
    if (kind == 'f') asm volatile("movb $0, (%0)" : : "r"(uintptr_t{16}) : "memory");
    if (kind == 'j') (void)host::MakeSocketPair(SOCK_STREAM);
    abort();
  };
  const auto fiber = sched::Fiber::Spawn(kernel.scheduler.worker(0), crash);
  if (!fiber) SKEP_LOG(kError, "a test cannot make the sentry fail");
}

}  // namespace skep::boot
