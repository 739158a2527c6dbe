// Pipes and FIFOs: reading, writing, blocking, capacity, the rules of opening.
#include <fcntl.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <numeric>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

constexpr size_t kCapacity = 65'536;

void Fill(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  const std::string page(kPageSize, 'x');
  while (write(fd, page.data(), page.size()) > 0) {
  }
  fcntl(fd, F_SETFL, flags);
}

TEST(Pipe2, SetsTheFlags) {
  const Pipe plain = MakePipe();
  EXPECT_THAT(fcntl(plain.reader, F_GETFL), SucceedsWith(O_RDONLY));
  EXPECT_THAT(fcntl(plain.writer, F_GETFL), SucceedsWith(O_WRONLY));
  EXPECT_THAT(fcntl(plain.reader, F_GETFD), SucceedsWith(0));
  const Pipe flags = MakePipe(O_CLOEXEC | O_NONBLOCK);
  EXPECT_THAT(fcntl(flags.reader, F_GETFL), SucceedsWith(O_RDONLY | O_NONBLOCK));
  EXPECT_THAT(fcntl(flags.writer, F_GETFD), SucceedsWith(FD_CLOEXEC));
}

TEST(Pipe2, UnknownFlagIsRejectedBeforeTheAddressIsTouched) {
  EXPECT_THAT(syscall(SYS_pipe2, kBadAddress, O_APPEND), FailsWith(EINVAL));
}

TEST(Pipe2, BadAddressLeavesNoDescriptorBehind) {
  const int lowest_free = LowestFreeFd();
  EXPECT_THAT(syscall(SYS_pipe2, kBadAddress, 0), FailsWith(EFAULT));
  EXPECT_EQ(LowestFreeFd(), lowest_free);
}

TEST(Pipe2, NeedsTwoDescriptors) {
  const ScopedRlimit limit(RLIMIT_NOFILE, static_cast<rlim_t>(LowestFreeFd() + 1));
  int fds[2] = {-7, -7};
  EXPECT_THAT(pipe(fds), FailsWith(EMFILE));
  EXPECT_EQ(fds[0], -7);
}

TEST(Pipe, WrongEndIsEbadf) {
  const Pipe pipe = MakePipe();
  char byte = 0;
  EXPECT_THAT(read(pipe.writer, &byte, 1), FailsWith(EBADF));
  EXPECT_THAT(write(pipe.reader, &byte, 1), FailsWith(EBADF));
}

TEST(Pipe, CannotSeekOrPread) {
  const Pipe pipe = MakePipe();
  char byte;
  EXPECT_THAT(lseek(pipe.reader, 0, SEEK_CUR), FailsWith(ESPIPE));
  EXPECT_THAT(pread(pipe.reader, &byte, 1, 0), FailsWith(ESPIPE));
  EXPECT_THAT(pwrite(pipe.writer, "x", 1, 0), FailsWith(ESPIPE));
}

TEST(Pipe, EndOfFileWhenTheWritersAreGone) {
  Pipe pipe = MakePipe();
  write(pipe.writer, "ab", 2);
  pipe.writer.Reset();
  EXPECT_EQ(ReadAll(pipe.reader), "ab");
  char byte;
  EXPECT_THAT(read(pipe.reader, &byte, 1), SucceedsWith(0));
}

TEST(Pipe, WithoutReadersIsEpipeAndSigpipe) {
  Pipe pipe = MakePipe();
  pipe.reader.Reset();
  {
    const ScopedSignalHandler ignore(SIGPIPE, SIG_IGN);
    EXPECT_THAT(write(pipe.writer, "x", 1), FailsWith(EPIPE));
  }
  EXPECT_THAT(ForkAndRun([&] { write(pipe.writer, "x", 1); }), KilledBy(SIGPIPE));
}

TEST(Pipe, NonblockingReadAndWrite) {
  const Pipe pipe = MakePipe(O_NONBLOCK);
  char byte;
  EXPECT_THAT(read(pipe.reader, &byte, 1), FailsWith(EAGAIN));
  const std::string big(2 * kCapacity, 'x');
  EXPECT_THAT(write(pipe.writer, big.data(), big.size()), SucceedsWith(kCapacity));
  EXPECT_THAT(write(pipe.writer, "x", 1), FailsWith(EAGAIN));
}

TEST(Pipe, SmallWritesAreAtomicWhenItIsNearlyFull) {
  const Pipe pipe = MakePipe(O_NONBLOCK);
  Fill(pipe.writer);
  char buffer[kPageSize];
  ASSERT_THAT(read(pipe.reader, buffer, 100), SucceedsWith(100));
  EXPECT_THAT(write(pipe.writer, buffer, 200), FailsWith(EAGAIN)) << "all of it or nothing";
}

TEST(Pipe, ABlockedReaderIsWokenByAWrite) {
  const Pipe pipe = MakePipe();
  std::thread writer([&, tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    write(pipe.writer, "w", 1);
  });
  char byte = 0;
  EXPECT_THAT(read(pipe.reader, &byte, 1), SucceedsWith(1));
  EXPECT_EQ(byte, 'w');
  writer.join();
}

TEST(Pipe, ABlockedWriterIsWokenByARead) {
  const Pipe pipe = MakePipe();
  Fill(pipe.writer);
  std::thread reader([&, tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    char buffer[kPageSize];
    read(pipe.reader, buffer, sizeof(buffer));
  });
  EXPECT_THAT(write(pipe.writer, "x", 1), SucceedsWith(1));
  reader.join();
}

TEST(Pipe, ABlockedReaderSeesTheLastWriterGo) {
  Pipe pipe = MakePipe();
  ChildProcess child([&] {
    pipe.writer.Reset();
    char byte;
    EXPECT_THAT(read(pipe.reader, &byte, 1), SucceedsWith(0));
  });
  WaitUntilBlocked(child.pid());
  pipe.writer.Reset();
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST(Pipe, ABlockedWriterSeesTheLastReaderGo) {
  Pipe pipe = MakePipe();
  Fill(pipe.writer);
  ChildProcess child([&] {
    signal(SIGPIPE, SIG_IGN);
    pipe.reader.Reset();
    EXPECT_THAT(write(pipe.writer, "x", 1), FailsWith(EPIPE));
  });
  WaitUntilBlocked(child.pid());
  pipe.reader.Reset();
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST(Pipe, MovesMegabytesIntactBetweenProcesses) {
  Pipe pipe = MakePipe();
  constexpr size_t kWords = 1 << 19;
  ChildProcess child([&] {
    pipe.reader.Reset();
    std::vector<uint64_t> words(kWords);
    std::iota(words.begin(), words.end(), 0);
    EXPECT_THAT(write(pipe.writer, words.data(), kWords * 8), SucceedsWith(kWords * 8));
  });
  pipe.writer.Reset();
  const std::string text = ReadAll(pipe.reader);
  EXPECT_THAT(child.Wait(), ExitsWith(0));
  ASSERT_EQ(text.size(), kWords * 8);
  const auto* words = reinterpret_cast<const uint64_t*>(text.data());
  for (size_t i = 0; i < kWords; i += 997) ASSERT_EQ(words[i], i);
}

TEST(Pipe, PingPongBetweenProcesses) {
  const Pipe ping = MakePipe();
  const Pipe pong = MakePipe();
  ChildProcess child([&] {
    int n = 0;
    while (read(ping.reader, &n, sizeof(n)) == sizeof(n) && n >= 0) {
      ++n;
      write(pong.writer, &n, sizeof(n));
    }
  });
  int n = 0;
  for (int round = 0; round < 500; ++round) {
    write(ping.writer, &n, sizeof(n));
    ASSERT_THAT(read(pong.reader, &n, sizeof(n)), SucceedsWith(sizeof(n)));
  }
  EXPECT_EQ(n, 500);
  n = -1;
  write(ping.writer, &n, sizeof(n));
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST(Pipe, FionreadCountsBytes) {
  const Pipe pipe = MakePipe();
  write(pipe.writer, "abc", 3);
  write(pipe.writer, "de", 2);
  int bytes = 0;
  EXPECT_THAT(ioctl(pipe.reader, FIONREAD, &bytes), Succeeds());
  EXPECT_EQ(bytes, 5);
}

TEST(Pipe, SizeIsReadAndChanged) {
  const Pipe pipe = MakePipe(O_NONBLOCK);
  EXPECT_THAT(fcntl(pipe.writer, F_GETPIPE_SZ), SucceedsWith(kCapacity));
  EXPECT_THAT(fcntl(pipe.writer, F_SETPIPE_SZ, 10'000), SucceedsWith(16'384));
  const std::string big(kCapacity, 'x');
  EXPECT_THAT(write(pipe.writer, big.data(), big.size()), SucceedsWith(16'384));
  EXPECT_THAT(fcntl(pipe.writer, F_SETPIPE_SZ, 4096), FailsWith(EBUSY));
  const Fd file(open("/dev/null", O_RDONLY));
  EXPECT_THAT(fcntl(file, F_GETPIPE_SZ), FailsWith(EBADF));
}

TEST(Pipe, ZeroLengthTransfers) {
  const Pipe pipe = MakePipe();
  EXPECT_THAT(write(pipe.writer, "", 0), SucceedsWith(0));
  char byte;
  EXPECT_THAT(read(pipe.reader, &byte, 0), SucceedsWith(0)) << "does not block";
}

TEST(Pipe, VectorsGatherAndScatter) {
  const Pipe pipe = MakePipe();
  char a[] = "abc";
  char b[] = "defg";
  const iovec out[] = {{a, 3}, {nullptr, 0}, {b, 4}};
  EXPECT_THAT(writev(pipe.writer, out, 3), SucceedsWith(7));
  char c[2];
  char d[10] = {};
  const iovec in[] = {{c, 2}, {d, 10}};
  EXPECT_THAT(readv(pipe.reader, in, 2), SucceedsWith(7));
  EXPECT_EQ(std::string(c, 2) + d, "abcdefg");
}

TEST(Pipe, AFaultAfterSomeBytesIsAPartialCount) {
  const Pipe pipe = MakePipe();
  std::string page(kPageSize, 'x');
  const iovec out[] = {{page.data(), kPageSize}, {kBadAddress, 4}};
  EXPECT_THAT(writev(pipe.writer, out, 2), SucceedsWith(kPageSize));
}

TEST(Pipe, StatSaysFifo) {
  const Pipe pipe = MakePipe();
  struct stat st;
  ASSERT_THAT(fstat(pipe.reader, &st), Succeeds());
  EXPECT_TRUE(S_ISFIFO(st.st_mode));
  struct stat other;
  ASSERT_THAT(fstat(pipe.writer, &other), Succeeds());
  EXPECT_EQ(st.st_ino, other.st_ino);
}

TEST(Pipe, ReopenedThroughProc) {
  const Pipe pipe = MakePipe();
  const std::string path = "/proc/self/fd/" + std::to_string(pipe.writer);
  const Fd again(open(path.c_str(), O_WRONLY));
  ASSERT_THAT(again, Succeeds());
  write(again, "via proc", 8);
  char buffer[16] = {};
  EXPECT_THAT(read(pipe.reader, buffer, sizeof(buffer)), SucceedsWith(8));
}

class Fifo : public testing::Test {
 protected:
  Fifo() { EXPECT_THAT(mkfifo(path_.c_str(), 0600), Succeeds()); }
  TempDir dir_;
  std::string path_ = dir_.File("fifo");
};

TEST_F(Fifo, NonblockingWriterNeedsAReader) {
  EXPECT_THAT(open(path_.c_str(), O_WRONLY | O_NONBLOCK), FailsWith(ENXIO));
  const Fd reader(open(path_.c_str(), O_RDONLY | O_NONBLOCK));
  EXPECT_THAT(reader, Succeeds());
  const Fd writer(open(path_.c_str(), O_WRONLY | O_NONBLOCK));
  EXPECT_THAT(writer, Succeeds());
}

TEST_F(Fifo, ReaderWaitsForAWriter) {
  ChildProcess child([&] {
    const Fd reader(open(path_.c_str(), O_RDONLY));
    EXPECT_EQ(ReadAll(reader), "hello");
  });
  WaitUntilBlocked(child.pid());
  Fd writer(open(path_.c_str(), O_WRONLY));
  EXPECT_THAT(write(writer, "hello", 5), SucceedsWith(5));
  writer.Reset();
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST_F(Fifo, WriterWaitsForAReader) {
  ChildProcess child([&] {
    const Fd writer(open(path_.c_str(), O_WRONLY));
    write(writer, "hi", 2);
  });
  WaitUntilBlocked(child.pid());
  const Fd reader(open(path_.c_str(), O_RDONLY));
  EXPECT_EQ(ReadAll(reader), "hi");
  EXPECT_THAT(child.Wait(), ExitsWith(0));
}

TEST_F(Fifo, ReadWriteNeverWaits) {
  const Fd both(open(path_.c_str(), O_RDWR));
  ASSERT_THAT(both, Succeeds());
  EXPECT_THAT(write(both, "x", 1), SucceedsWith(1));
  char byte;
  EXPECT_THAT(read(both, &byte, 1), SucceedsWith(1));
}

TEST_F(Fifo, NonblockingReaderWithoutWriterSeesEndOfFile) {
  const Fd reader(open(path_.c_str(), O_RDONLY | O_NONBLOCK));
  char byte;
  EXPECT_THAT(read(reader, &byte, 1), SucceedsWith(0));
  const Fd writer(open(path_.c_str(), O_WRONLY));
  EXPECT_THAT(read(reader, &byte, 1), FailsWith(EAGAIN));
}

TEST_F(Fifo, ContentsVanishWithTheLastEnd) {
  {
    const Fd both(open(path_.c_str(), O_RDWR));
    write(both, "lost", 4);
  }
  const Fd reader(open(path_.c_str(), O_RDONLY | O_NONBLOCK));
  char byte;
  EXPECT_THAT(read(reader, &byte, 1), SucceedsWith(0));
}

TEST_F(Fifo, IsOneObjectUnderTwoNames) {
  ASSERT_THAT(link(path_.c_str(), dir_.File("other").c_str()), Succeeds());
  const Fd reader(open(path_.c_str(), O_RDONLY | O_NONBLOCK));
  const Fd writer(open(dir_.File("other").c_str(), O_WRONLY | O_NONBLOCK));
  ASSERT_THAT(writer, Succeeds());
  write(writer, "n", 1);
  char byte;
  EXPECT_THAT(read(reader, &byte, 1), SucceedsWith(1));
}

}  // namespace
}  // namespace skep::test
