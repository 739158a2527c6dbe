// Handlers, run by number over a kernel whose guests are scripted.
#include <fcntl.h>
#include <sys/wait.h>

#include "sentry/syscalls/test_kernel.h"

namespace skep::syscalls {
namespace {

const auto* const kEnvironment =
    ::testing::AddGlobalTestEnvironment(new arena::ArenaTestEnvironment);

TEST(Handlers, PipeCarriesBytes) {
  TestKernel kernel;
  TestKernel::Guest init = kernel.init();
  const uint64_t fds = init.Allocate(64);
  ASSERT_EQ(init.Run(SYS_pipe2, {fds, O_CLOEXEC}), 0);
  const auto [reader, writer] = init.Get<std::array<int32_t, 2>>(fds);
  const uint64_t text = init.Text("hello");
  EXPECT_EQ(init.Run(SYS_write, {static_cast<uint64_t>(writer), text, 5}), 5);
  EXPECT_EQ(init.Run(SYS_read, {static_cast<uint64_t>(reader), fds, 64}), 5);
  EXPECT_EQ(init.Get<char>(fds + 4), 'o');
}

}  // namespace
}  // namespace skep::syscalls
