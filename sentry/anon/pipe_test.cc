#include "sentry/anon/pipe.h"

#include <sys/epoll.h>
#include <csignal>

#include "sentry/vfs/test_caller.h"

namespace skep::anon {
namespace {

using vfs::CodeOf;
using vfs::OnFiber;
using vfs::OnFibersOf;
using vfs::TestCaller;
using vfs::TryRead;
using vfs::TryWrite;

const auto* const kEnvironment =
    ::testing::AddGlobalTestEnvironment(new arena::ArenaTestEnvironment);

TEST(Pipe, BytesComeInOrderAndEndWithTheWriter) {
  OnFiber([] {
    TestCaller caller;
    PipeEnds ends = MakePipe({}, 0);
    EXPECT_EQ(CodeOf(TryRead(caller, *ends.reader, 1)), EAGAIN);
    EXPECT_EQ(TryWrite(caller, *ends.writer, "hello").value(), 5U);
    EXPECT_EQ(TryWrite(caller, *ends.writer, " you").value(), 4U);
    EXPECT_EQ(TryRead(caller, *ends.reader, 6).value(), "hello ");
    ends.writer = {};
    EXPECT_EQ(ends.reader->Poll(0), EPOLLIN | EPOLLRDNORM | EPOLLHUP);
    EXPECT_EQ(TryRead(caller, *ends.reader, 9).value(), "you");
    EXPECT_EQ(TryRead(caller, *ends.reader, 9).value(), "");
    EXPECT_EQ(ends.reader->Poll(0), static_cast<unsigned>(EPOLLHUP));
  });
}

TEST(Pipe, WriteWithoutReaderRaisesSigpipe) {
  OnFiber([] {
    TestCaller caller;
    PipeEnds ends = MakePipe({}, 0);
    ends.reader = {};
    EXPECT_EQ(ends.writer->Poll(0), EPOLLOUT | EPOLLWRNORM | EPOLLERR);
    EXPECT_EQ(CodeOf(TryWrite(caller, *ends.writer, "x")), EPIPE);
    EXPECT_EQ(caller.signals, std::vector<int>{SIGPIPE});
    EXPECT_EQ(TryWrite(caller, *ends.writer, "").value(), 0U);
  });
}

TEST(Pipe, SmallWritesAreWholeAndLargeOnesPartial) {
  OnFiber([] {
    TestCaller caller;
    PipeEnds ends = MakePipe({}, O_NONBLOCK);
    EXPECT_EQ(TryWrite(caller, *ends.writer, std::string(100'000, 'a')).value(), 65536U);
    EXPECT_EQ(CodeOf(TryWrite(caller, *ends.writer, "b")), EAGAIN);
    EXPECT_EQ(TryRead(caller, *ends.reader, 4095).value().size(), 4095U);
    // No slot is free yet: as on Linux, part of a page read makes no room.
    EXPECT_EQ(ends.writer->Poll(0), 0U);
    EXPECT_EQ(CodeOf(TryWrite(caller, *ends.writer, "b")), EAGAIN);
    EXPECT_EQ(TryRead(caller, *ends.reader, 1).value(), "a");
    EXPECT_EQ(CodeOf(TryWrite(caller, *ends.writer, std::string(4096, 'c'))), 0);
    EXPECT_EQ(CodeOf(TryWrite(caller, *ends.writer, "d")), EAGAIN);
  });
}

TEST(Pipe, PacketsKeepTheirBounds) {
  OnFiber([] {
    TestCaller caller;
    PipeEnds ends = MakePipe({}, O_DIRECT);
    EXPECT_EQ(TryWrite(caller, *ends.writer, "one").value(), 3U);
    EXPECT_EQ(TryWrite(caller, *ends.writer, "two").value(), 3U);
    EXPECT_EQ(TryRead(caller, *ends.reader, 2).value(), "on");
    EXPECT_EQ(TryRead(caller, *ends.reader, 9).value(), "two");
  });
}

TEST(Pipe, BadBufferLosesNothing) {
  OnFiber([] {
    TestCaller caller;
    PipeEnds ends = MakePipe({}, 0);
    EXPECT_EQ(TryWrite(caller, *ends.writer, "kept").value(), 4U);
    mm::IoSequence bad = mm::IoSequence::FromBuffer(caller.memory(), mm::UserAddr{8}, 4).value();
    EXPECT_EQ(CodeOf(ends.reader->Read(caller, bad, 0)), EFAULT);
    EXPECT_EQ(CodeOf(ends.writer->Write(caller, bad, nullptr)), EFAULT);
    EXPECT_EQ(TryRead(caller, *ends.reader, 9).value(), "kept");
  });
}

TEST(Pipe, CapacityChanges) {
  OnFiber([] {
    TestCaller caller;
    PipeEnds ends = MakePipe({}, O_NONBLOCK);
    Pipe& pipe = static_cast<PipeFile&>(*ends.reader).pipe();
    EXPECT_EQ(pipe.Capacity(), 65536U);
    EXPECT_EQ(pipe.SetCapacity(5000, false).value(), 8192U);
    EXPECT_EQ(TryWrite(caller, *ends.writer, std::string(9000, 'x')).value(), 8192U);
    EXPECT_EQ(CodeOf(pipe.SetCapacity(0, false)), EBUSY);
    EXPECT_EQ(CodeOf(pipe.SetCapacity(kMaxPipeSize + 1, false)), EPERM);
    EXPECT_EQ(CodeOf(pipe.SetCapacity(uint64_t{1} << 32, true)), EINVAL);
    EXPECT_EQ(pipe.SetCapacity(16384, false).value(), 16384U);
    EXPECT_EQ(TryWrite(caller, *ends.writer, std::string(9000, 'y')).value(), 8192U);
    EXPECT_EQ(TryRead(caller, *ends.reader, 20000).value(),
              std::string(8192, 'x') + std::string(8192, 'y'));
    int32_t count = -1;
    EXPECT_EQ(CodeOf(ends.reader->Ioctl(caller, 0x541b, reinterpret_cast<uint64_t>(&count))), 0);
    EXPECT_EQ(count, 0);
  });
}

TEST(Pipe, FifoOpensMeet) {
  for (const int workers : {1, 2}) {
    auto pipe = MakeRef<Pipe>();
    EXPECT_EQ(CodeOf(OpenFifo(pipe, {}, O_WRONLY | O_NONBLOCK)), ENXIO);
    std::atomic<int> opened = 0;
    OnFibersOf(
        workers,
        [&] {
          TestCaller caller;
          Ref<vfs::File> reader = OpenFifo(pipe, {}, O_RDONLY).value();
          ++opened;
          EXPECT_EQ(vfs::ReadBlocking(caller, *reader, 9).value(), "hi");
          EXPECT_EQ(vfs::ReadBlocking(caller, *reader, 9).value(), "");
        },
        [&] {
          TestCaller caller;
          Ref<vfs::File> writer = OpenFifo(pipe, {}, O_WRONLY).value();
          ++opened;
          EXPECT_EQ(TryWrite(caller, *writer, "hi").value(), 2U);
        });
    EXPECT_EQ(opened, 2);
    EXPECT_EQ(pipe->readers() + pipe->writers(), 0U);
  }
}

TEST(Pipe, NonblockingFifoReaderSeesNoHangupBeforeAWriter) {
  OnFiber([] {
    auto pipe = MakeRef<Pipe>();
    Ref<vfs::File> reader = OpenFifo(pipe, {}, O_RDONLY | O_NONBLOCK).value();
    EXPECT_EQ(reader->Poll(0), 0U);
    Ref<vfs::File> writer = OpenFifo(pipe, {}, O_WRONLY | O_NONBLOCK).value();
    writer = {};
    EXPECT_EQ(reader->Poll(0), static_cast<unsigned>(EPOLLHUP));
  });
}

TEST(Pipe, MuchDataThroughManyHands) {
  for (const int workers : {1, 2}) {
    constexpr size_t kTotal = size_t{4} << 20;
    PipeEnds ends = MakePipe({}, 0);
    size_t received = 0;
    bool right = true;
    OnFibersOf(
        workers,
        [&, writer = std::move(ends.writer)]() mutable {
          TestCaller caller;
          std::string text;
          for (size_t sent = 0; sent < kTotal; sent += text.size()) {
            text.assign(std::min<size_t>(1 + sent % 70'000, kTotal - sent), '\0');
            for (size_t i = 0; i < text.size(); ++i) {
              text[i] = static_cast<char>((sent + i) * 7 % 251);
            }
            EXPECT_EQ(vfs::WriteBlocking(caller, *writer, text).value(), text.size());
          }
          writer = {};
        },
        [&, reader = std::move(ends.reader)] {
          TestCaller caller;
          for (;;) {
            const std::string text = vfs::ReadBlocking(caller, *reader, 30'011).value();
            if (text.empty()) return;
            for (const char c : text) right &= c == static_cast<char>(received++ * 7 % 251);
          }
        });
    EXPECT_EQ(received, kTotal);
    EXPECT_TRUE(right);
  }
}

}  // namespace
}  // namespace skep::anon
