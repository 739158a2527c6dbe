// The loader at the edges of what execve(2) takes. What is expected is what Linux does:
// tests/conformance/elf_test.cc asks it.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "sentry/syscalls/test_kernel.h"
#include "sentry/vfs/name_ops.h"
#include "tests/util/elf_cases.h"

namespace skep::syscalls {
namespace {

using Guest = TestKernel::Guest;
using test::ElfBuilder;

constexpr uint64_t kAnyChild = ~uint64_t{0};

void Write(TestKernel& kernel, std::string_view path, std::string_view bytes,
           uint32_t mode = 0755) {
  kernel.OnFiber([&] {
    kernel::Task& task = kernel.init().task();
    vfs::NameOps walker(task, *task.fs);
    (void)walker.Unlink(path);
    const auto file = walker.Open(path, {.flags = O_WRONLY | O_CREAT | O_EXCL, .mode = mode});
    ASSERT_TRUE(file) << path;
    uint64_t offset = 0;
    mm::IoSequence from = mm::IoSequence::FromKernel(std::as_bytes(std::span(bytes)));
    if (bytes.empty()) return;
    EXPECT_EQ((*file)->Write(task, from, &offset).value(), bytes.size());
  });
}

struct Executed {
  test::ElfOutcome outcome;
  platform::Registers registers{};  // of the new program
};

// A child executes it. Guests run no instructions: how a program that starts ends is not seen.
Executed Execute(TestKernel& kernel, const std::string& path) {
  Guest init = kernel.init();
  Guest child = init.Fork();
  const uint64_t text = child.Text(path);
  const uint64_t before = child.registers().rip;
  child.Begin(SYS_execve, {text, 0, 0});
  EXPECT_TRUE(kernel.WaitFor([&] { return !child.alive() || child.IsDone(); })) << "execve hangs";
  Executed executed;
  if (child.alive()) {
    executed.registers = child.registers();
    const auto result = static_cast<int64_t>(executed.registers.rax);
    if (executed.registers.rip == before + 2) executed.outcome.error = static_cast<int>(-result);
    EXPECT_EQ(init.Run(SYS_kill, {static_cast<uint64_t>(child.tid()), SIGKILL}), 0);
  }
  const uint64_t status_at = init.Allocate(4);
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, status_at, 0, 0}), child.tid());
  const auto status = init.Get<int32_t>(status_at);
  if (executed.registers.rip == 0) executed.outcome.killed = WTERMSIG(status);
  return executed;
}

std::string TextOf(const test::ElfOutcome& outcome) {
  if (outcome.error != 0) return std::string("refused: ") + strerrorname_np(outcome.error);
  if (outcome.killed != 0) return std::string("dies of ") + sigabbrev_np(outcome.killed);
  return "starts";
}

TEST(Elf, EveryEdge) {
  TestKernel kernel;
  for (const test::ElfCase& each : test::ElfCases("/interpreter")) {
    Write(kernel, "/program", each.program);
    kernel.OnFiber([&] {
      kernel::Task& task = kernel.init().task();
      (void)vfs::NameOps(task, *task.fs).Unlink("/interpreter");
    });
    if (!each.interpreter.empty()) Write(kernel, "/interpreter", each.interpreter);
    EXPECT_EQ(TextOf(Execute(kernel, "/program").outcome), TextOf(each.outcome)) << each.name;
  }
}

TEST(Elf, StartsWhereTheInterpreterSays) {
  TestKernel kernel;
  Write(kernel, "/static", ElfBuilder().Build());
  EXPECT_EQ(Execute(kernel, "/static").registers.rip, test::kElfBase + test::kElfCode);
  ElfBuilder interpreter;
  interpreter.segments[0].p_vaddr = 0x800000;
  interpreter.header.e_entry = 0x800000 + test::kElfCode;
  Write(kernel, "/interpreter", interpreter.Build());
  ElfBuilder dynamic;
  dynamic.Interpreter("/interpreter");
  Write(kernel, "/dynamic", dynamic.Build());
  const Executed executed = Execute(kernel, "/dynamic");
  EXPECT_EQ(executed.registers.rip, 0x800000 + test::kElfCode);
  EXPECT_EQ(executed.registers.rsp % 16, 0U);
}

TEST(Elf, NeedsTheRightToExecute) {
  TestKernel kernel;
  Write(kernel, "/program", ElfBuilder().Build(), 0644);
  EXPECT_EQ(Execute(kernel, "/program").outcome.error, EACCES);
  Write(kernel, "/script", "#!/program\n");
  EXPECT_EQ(Execute(kernel, "/script").outcome.error, EACCES);
  ElfBuilder dynamic;
  dynamic.Interpreter("/program");
  Write(kernel, "/dynamic", dynamic.Build());
  EXPECT_EQ(Execute(kernel, "/dynamic").outcome.error, EACCES);
}

TEST(Elf, IsNotRunFromANoexecMount) {
  TestKernel kernel;
  Write(kernel, "/program", ElfBuilder().Build());
  EXPECT_EQ(TextOf(Execute(kernel, "/program").outcome), "starts");
  kernel.OnFiber([&] { kernel.init().task().fs->root().mount->SetFlags(MS_NOEXEC); });
  EXPECT_EQ(Execute(kernel, "/program").outcome.error, EACCES);
}

TEST(Elf, IsBusyWhileSomebodyWrites) {
  TestKernel kernel;
  Guest init = kernel.init();
  Write(kernel, "/program", ElfBuilder().Build());
  const int64_t writer = init.Run(SYS_open, {init.Text("/program"), O_WRONLY, 0});
  ASSERT_GE(writer, 0);
  EXPECT_EQ(Execute(kernel, "/program").outcome.error, ETXTBSY);
  ASSERT_EQ(init.Run(SYS_close, {static_cast<uint64_t>(writer)}), 0);
  Guest child = init.Fork();
  child.Begin(SYS_execve, {child.Text("/program"), 0, 0});
  (void)child.registers();  // when it is idle
  EXPECT_EQ(init.Run(SYS_open, {init.Text("/program"), O_WRONLY, 0}), -ETXTBSY);
  EXPECT_EQ(init.Run(SYS_kill, {static_cast<uint64_t>(child.tid()), SIGKILL}), 0);
  EXPECT_EQ(init.Run(SYS_wait4, {kAnyChild, 0, 0, 0}), child.tid());
  EXPECT_GE(init.Run(SYS_open, {init.Text("/program"), O_WRONLY, 0}), 0);
}

}  // namespace
}  // namespace skep::syscalls
