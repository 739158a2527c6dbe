// What one guest thread does, stop by stop.
#include <csignal>

#include "platform/ptrace/registers.h"
#include "platform/ptrace/test_guest.h"
#include "platform/stub/stub.h"

namespace skep::platform::ptrace {
namespace {

TEST(PtraceGuest, SystemCallsStopAndAreAnswered) {
  World world;
  auto space = world.NewSpace(kSyscallLoop);
  Registers start = {};
  start.rax = SYS_getpid;
  start.rdi = 1, start.rsi = 2, start.rdx = 3, start.r10 = 4, start.r8 = 5, start.r9 = ~0ull;
  auto guest = world.NewGuest(*space, start);
  EXPECT_TRUE(std::holds_alternative<Interrupted>(guest->stop()));
  SyscallStop call = SyscallOf(world.Next(*guest));
  EXPECT_EQ(call.number, uint64_t{SYS_getpid});
  EXPECT_EQ(call.args, (std::array<uint64_t, 6>{1, 2, 3, 4, 5, ~0ull}));
  EXPECT_EQ(call.ip, kCodeAt + 2);
  EXPECT_FALSE(call.compat);
  // The result of one is the number of the next.
  for (uint64_t i = 1; i < 100; ++i) {
    guest->SetReturn(1000 + i);
    call = SyscallOf(world.Next(*guest));
    EXPECT_EQ(call.number, 1000 + i);
  }
}

}  // namespace
}  // namespace skep::platform::ptrace
