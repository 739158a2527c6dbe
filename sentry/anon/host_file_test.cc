#include "sentry/anon/host_file.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <csignal>

#include "base/host_call.h"
#include "sentry/vfs/test_caller.h"

namespace skep::anon {
namespace {

using vfs::CodeOf;
using vfs::OnFiber;
using vfs::TestCaller;
using vfs::TryRead;
using vfs::TryWrite;

Ref<HostFile> Open(vfs::AnonFs& fs, OwnedFd fd) {
  arena::HostFd ref;
  {
    const arena::HostHeapScope host;
    ref = arena::HostTable::Get().Add(std::move(fd));
  }
  return HostFile::Make(fs, sched::Fiber::Current().worker().scheduler(), ref).value();
}

TEST(HostFile, PipeNeverBlocksAndWakes) {
  host::PipePair pipe = host::MakePipe(O_CLOEXEC).value();
  OwnedFd other_end = std::move(pipe.writer);
  std::string first, second;
  sched::TestScheduler scheduler(1);
  scheduler.Start();
  std::atomic<bool> waits = false;
  Ref<sched::Fiber> fiber = scheduler.Spawn(0, [&] {
    TestCaller caller;
    const auto fs = MakeRef<vfs::AnonFs>(1U);
    Ref<HostFile> file = Open(*fs, std::move(pipe.reader));
    EXPECT_FALSE(file->seekable());
    EXPECT_FALSE(file->writable());
    EXPECT_EQ(CodeOf(TryRead(caller, *file, 1)), EAGAIN);
    EXPECT_EQ(file->Poll(EPOLLIN), 0U);
    waits = true;
    first = vfs::ReadBlocking(caller, *file, 9).value();
    second = vfs::ReadBlocking(caller, *file, 9).value();
  });
  ASSERT_TRUE(sched::WaitFor([&] { return waits.load(); }));
  EXPECT_TRUE(host::Write(other_end.get(), std::as_bytes(std::span("hi", 2))));
  ASSERT_TRUE(sched::WaitFor([&] { return !first.empty(); }));
  other_end.Reset();
  ASSERT_TRUE(sched::WaitFor([&] { return fiber->finished(); }));
  EXPECT_EQ(first, "hi");
  EXPECT_EQ(second, "");
}

TEST(HostFile, HeldInputIsAskedForAndNotTaken) {
  host::PipePair pipe = host::MakePipe(O_CLOEXEC).value();
  OwnedFd other_end = std::move(pipe.writer);
  EXPECT_TRUE(host::Write(other_end.get(), std::as_bytes(std::span("hi", 2))));
  std::string got;
  std::atomic<int> wanted = 0;
  std::atomic<HostInode*> inode = nullptr;
  sched::TestScheduler scheduler(1);
  scheduler.Start();
  Ref<sched::Fiber> fiber = scheduler.Spawn(0, [&] {
    TestCaller caller;
    const auto fs = MakeRef<vfs::AnonFs>(1U);
    Ref<HostFile> file = Open(*fs, std::move(pipe.reader));
    EXPECT_FALSE(file->IsTerminal());
    file->host_inode().OnWantedInput([&] { ++wanted; });
    file->host_inode().SetInput(Input::kHeld);
    EXPECT_EQ(CodeOf(TryRead(caller, *file, 9)), EAGAIN);
    EXPECT_EQ(wanted, 1);
    inode = &file->host_inode();
    got = vfs::ReadBlocking(caller, *file, 9).value();
  });
  ASSERT_TRUE(sched::WaitFor([&] { return wanted == 2; }));
  inode.load()->SetInput(Input::kHeld);  // continued, but still in the background
  ASSERT_TRUE(sched::WaitFor([&] { return wanted == 3; }));
  EXPECT_EQ(got, "");
  inode.load()->SetInput(Input::kFlowing);
  ASSERT_TRUE(sched::WaitFor([&] { return fiber->finished(); }));
  EXPECT_EQ(got, "hi");
}

TEST(HostFile, FullPipeAndClosedReader) {
  OnFiber([] {
    TestCaller caller;
    host::PipePair pipe = host::MakePipe(O_CLOEXEC).value();
    const auto fs = MakeRef<vfs::AnonFs>(1U);
    Ref<HostFile> file = Open(*fs, std::move(pipe.writer));
    EXPECT_EQ(TryWrite(caller, *file, std::string(100'000, 'x')).value(), 65536U);
    EXPECT_EQ(CodeOf(TryWrite(caller, *file, "x")), EAGAIN);
    EXPECT_EQ(file->Poll(EPOLLOUT), 0U);
    pipe.reader.Reset();
    signal(SIGPIPE, SIG_IGN);  // as the sentry's main does
    EXPECT_EQ(CodeOf(TryWrite(caller, *file, "x")), EPIPE);
    EXPECT_EQ(caller.signals, std::vector<int>{SIGPIPE});
  });
}

TEST(HostFile, SocketIsUsedWithoutChangingIt) {
  OnFiber([] {
    TestCaller caller;
    host::SocketPair pair = host::MakeSocketPair(SOCK_STREAM).value();
    const auto fs = MakeRef<vfs::AnonFs>(1U);
    Ref<HostFile> file = Open(*fs, std::move(pair.a));
    EXPECT_EQ(TryWrite(caller, *file, "out").value(), 3U);
    EXPECT_TRUE(host::Write(pair.b.get(), std::as_bytes(std::span("in", 2))));
    EXPECT_EQ(TryRead(caller, *file, 9).value(), "in");
    EXPECT_EQ(CodeOf(TryRead(caller, *file, 9)), EAGAIN);
    size_t sent = 0;
    const std::string block(100'000, 'x');
    for (;;) {
      const Result<size_t> n = TryWrite(caller, *file, block);
      if (!n) break;
      sent += *n;
    }
    EXPECT_GT(sent, 0U);
  });
}

TEST(HostFile, RegularFileMovesTheHostsPosition) {
  OnFiber([] {
    TestCaller caller;
    OwnedFd fd = host::MemfdCreate("test", 1).value();
    OwnedFd shared = host::Dup(fd.get()).value();
    EXPECT_TRUE(host::Write(fd.get(), std::as_bytes(std::span("0123456789", 10))));
    const auto fs = MakeRef<vfs::AnonFs>(1U);
    Ref<HostFile> file = Open(*fs, std::move(fd));
    EXPECT_TRUE(file->seekable());
    EXPECT_EQ(file->PeekPosition(), 10U);
    EXPECT_EQ(file->Seek(-4, SEEK_CUR).value(), 6U);
    EXPECT_EQ(file->Seek(2, SEEK_SET).value(), 2U);
    EXPECT_EQ(CodeOf(file->Seek(-1, SEEK_SET)), EINVAL);
    std::string text(3, '\0');
    mm::IoSequence to = mm::IoSequence::FromKernel(std::as_writable_bytes(std::span(text)));
    EXPECT_EQ(file->Read(caller, to, 2).value(), 3U);
    EXPECT_EQ(text, "234");
    mm::IoSequence from = mm::IoSequence::FromKernel(std::as_bytes(std::span("AB", 2)));
    uint64_t offset = 5;
    EXPECT_EQ(file->Write(caller, from, &offset).value(), 2U);
    EXPECT_EQ(lseek(shared.get(), 0, SEEK_CUR), 2);  // neither of them was at the position
    mm::IoSequence more = mm::IoSequence::FromKernel(std::as_bytes(std::span("C", 1)));
    offset = vfs::File::kHostsPosition;
    EXPECT_EQ(file->Write(caller, more, &offset).value(), 1U);
    EXPECT_EQ(lseek(shared.get(), 0, SEEK_CUR), 3);
    EXPECT_TRUE(host::Write(shared.get(), std::as_bytes(std::span("D", 1))));  // a stranger
    EXPECT_EQ(file->PeekPosition(), 4U);
    file->SetFlags(file->flags() | O_APPEND);
    mm::IoSequence last = mm::IoSequence::FromKernel(std::as_bytes(std::span("E", 1)));
    offset = vfs::File::kHostsPosition;
    EXPECT_EQ(file->Write(caller, last, &offset).value(), 1U);
    EXPECT_EQ(host::Stat(shared.get())->st_size, 11);
    file->SetFlags(file->flags() & ~uint32_t{O_APPEND});
    EXPECT_EQ(file->Seek(0, SEEK_END).value(), 11U);
    EXPECT_EQ(CodeOf(file->Truncate(caller, 4)), 0);
    EXPECT_EQ(host::Stat(shared.get())->st_size, 4);
  });
}

}  // namespace
}  // namespace skep::anon
