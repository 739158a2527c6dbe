// Reading, writing, seeking, truncating and copying regular files.
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include <cstring>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

class ReadWrite : public testing::Test {
 protected:
  std::string Contents() const { return ReadFile(path_); }
  off_t Size() const {
    struct stat st = {};
    EXPECT_THAT(fstat(fd_, &st), Succeeds());
    return st.st_size;
  }

  TempDir dir_;
  std::string path_ = dir_.File("file");
  Fd fd_{(WriteFile(path_, "0123456789"), open(path_.c_str(), O_RDWR))};
  char buffer_[64] = {};
};

TEST_F(ReadWrite, ReadAdvancesAndEndsWithZero) {
  EXPECT_THAT(read(fd_, buffer_, 4), SucceedsWith(4));
  EXPECT_THAT(read(fd_, buffer_, 64), SucceedsWith(6));
  EXPECT_STREQ(buffer_, "456789");
  EXPECT_THAT(read(fd_, buffer_, 64), SucceedsWith(0));
}

TEST_F(ReadWrite, PreadAndPwriteLeaveTheOffset) {
  EXPECT_THAT(pread(fd_, buffer_, 3, 5), SucceedsWith(3));
  EXPECT_STREQ(buffer_, "567");
  EXPECT_THAT(pwrite(fd_, "ab", 2, 1), SucceedsWith(2));
  EXPECT_THAT(lseek(fd_, 0, SEEK_CUR), SucceedsWith(0));
  EXPECT_EQ(Contents(), "0ab3456789");
  EXPECT_THAT(pread(fd_, buffer_, 1, -1), FailsWith(EINVAL));
  EXPECT_THAT(pwrite(fd_, "x", 1, -1), FailsWith(EINVAL));
  EXPECT_THAT(pread(fd_, buffer_, 1, 100), SucceedsWith(0));
}

TEST_F(ReadWrite, PwriteOfAnAppendingFileAppends) {
  const Fd fd(open(path_.c_str(), O_RDWR | O_APPEND));
  EXPECT_THAT(pwrite(fd, "x", 1, 0), SucceedsWith(1));
  EXPECT_EQ(Contents(), "0123456789x");
}

TEST_F(ReadWrite, AWriteBeyondTheEndLeavesZeroes) {
  EXPECT_THAT(pwrite(fd_, "x", 1, 20), SucceedsWith(1));
  EXPECT_EQ(Contents(), "0123456789" + std::string(10, '\0') + "x");
}

TEST_F(ReadWrite, BadBuffers) {
  EXPECT_THAT(read(fd_, kBadAddress, 4), FailsWith(EFAULT));
  EXPECT_THAT(write(fd_, kBadAddress, 4), FailsWith(EFAULT));
  EXPECT_THAT(lseek(fd_, 0, SEEK_CUR), SucceedsWith(0));
  EXPECT_THAT(read(fd_, kBadAddress, 0), SucceedsWith(0));
  lseek(fd_, 0, SEEK_END);
  EXPECT_THAT(read(fd_, kBadAddress, 4), SucceedsWith(0)) << "at the end nothing is copied";
}

TEST_F(ReadWrite, ABufferThatEndsInAHoleGivesAPartialCount) {
  const Mapping memory(2 * kPageSize);
  munmap(memory.page(1), kPageSize);
  char* edge = memory.page(1) - 3;
  memcpy(edge, "abc", 3);
  EXPECT_THAT(pwrite(fd_, edge, 8, 0), SucceedsWith(3));
  EXPECT_EQ(Contents(), "abc3456789");
  EXPECT_THAT(pread(fd_, edge, 8, 4), SucceedsWith(3));
  EXPECT_EQ(std::string(edge, 3), "456");
}

TEST_F(ReadWrite, HugeCountsAreCutNotRefused) {
  EXPECT_THAT(syscall(SYS_read, int{fd_}, buffer_, 1ULL << 32), SucceedsWith(10));
  EXPECT_THAT(syscall(SYS_read, int{fd_}, buffer_, 1ULL << 47), FailsWith(EFAULT))
      << "a range that leaves user space is a fault at once";
  EXPECT_THAT(syscall(SYS_read, int{fd_}, buffer_, -1L), FailsWith(EFAULT));
}

TEST_F(ReadWrite, VectorsScatterAndGather) {
  char a[3];
  char b[4] = {};
  const iovec in[] = {{a, 3}, {nullptr, 0}, {b, 3}};
  EXPECT_THAT(readv(fd_, in, 3), SucceedsWith(6));
  EXPECT_EQ(std::string(a, 3) + b, "012345");
  EXPECT_THAT(preadv(fd_, in, 3, 4), SucceedsWith(6));
  EXPECT_EQ(std::string(a, 3) + b, "456789");
  EXPECT_THAT(pwritev(fd_, in, 1, 0), SucceedsWith(3));
  EXPECT_EQ(Contents(), "4563456789");
}

TEST_F(ReadWrite, VectorErrors) {
  iovec vector = {buffer_, 4};
  EXPECT_THAT(readv(fd_, &vector, -1), FailsWith(EINVAL));
  EXPECT_THAT(readv(fd_, &vector, 1025), FailsWith(EINVAL));
  EXPECT_THAT(readv(fd_, &vector, 0), SucceedsWith(0));
  EXPECT_THAT(syscall(SYS_readv, int{fd_}, kBadAddress, 1), FailsWith(EFAULT));
  vector.iov_len = static_cast<size_t>(-1);
  EXPECT_THAT(readv(fd_, &vector, 1), FailsWith(EINVAL));
  iovec second[] = {{buffer_, 2}, {kBadAddress, 2}};
  EXPECT_THAT(readv(fd_, second, 2), SucceedsWith(2)) << "what fits before the fault";
}

TEST_F(ReadWrite, Preadv2Flags) {
  iovec vector = {buffer_, 4};
  EXPECT_THAT(preadv2(fd_, &vector, 1, -1, 0), SucceedsWith(4)) << "-1 uses the offset";
  EXPECT_THAT(lseek(fd_, 0, SEEK_CUR), SucceedsWith(4));
  EXPECT_THAT(preadv2(fd_, &vector, 1, 0, 0x1000), FailsWith(EOPNOTSUPP));
  EXPECT_THAT(pwritev2(fd_, &vector, 1, 0, RWF_APPEND), SucceedsWith(4));
  EXPECT_EQ(Contents(), "01234567890123");
  EXPECT_THAT(pwritev2(fd_, &vector, 1, 0, RWF_DSYNC), SucceedsWith(4));
}

TEST_F(ReadWrite, LseekWhences) {
  EXPECT_THAT(lseek(fd_, 4, SEEK_SET), SucceedsWith(4));
  EXPECT_THAT(lseek(fd_, -2, SEEK_CUR), SucceedsWith(2));
  EXPECT_THAT(lseek(fd_, 5, SEEK_END), SucceedsWith(15));
  EXPECT_THAT(lseek(fd_, -16, SEEK_CUR), FailsWith(EINVAL));
  EXPECT_THAT(lseek(fd_, 0, 99), FailsWith(EINVAL));
  // How far is the file system's business (s_maxbytes): a disk's says EINVAL, a tmpfs goes there.
  struct statfs where = {};
  ASSERT_THAT(fstatfs(fd_, &where), Succeeds());
  const Fd memory(memfd_create("far", 0));
  EXPECT_THAT(lseek(memory, INT64_MAX, SEEK_SET), SucceedsWith(INT64_MAX));
  EXPECT_THAT(lseek(memory, 1, SEEK_CUR), FailsWith(EINVAL));
  if (where.f_type != TMPFS_MAGIC) {
    EXPECT_THAT(lseek(fd_, INT64_MAX, SEEK_SET), FailsWith(EINVAL));
  }
  EXPECT_THAT(lseek(1'000'000, 0, SEEK_SET), FailsWith(EBADF));
}

TEST_F(ReadWrite, SeekDataAndHole) {
  ASSERT_THAT(ftruncate(fd_, 0), Succeeds());
  ASSERT_THAT(ftruncate(fd_, 1 << 20), Succeeds());
  EXPECT_THAT(pwrite(fd_, "x", 1, 512 * 1024), SucceedsWith(1));
  const off_t data = lseek(fd_, 0, SEEK_DATA);
  EXPECT_THAT(data, Succeeds());
  EXPECT_LE(data, 512 * 1024);
  const off_t hole = lseek(fd_, data, SEEK_HOLE);
  EXPECT_GT(hole, 512 * 1024);
  EXPECT_LE(hole, 1 << 20);
  EXPECT_THAT(lseek(fd_, 1 << 20, SEEK_DATA), FailsWith(ENXIO));
  EXPECT_THAT(lseek(fd_, 1 << 20, SEEK_HOLE), FailsWith(ENXIO));
}

TEST_F(ReadWrite, Ftruncate) {
  EXPECT_THAT(ftruncate(fd_, 3), Succeeds());
  EXPECT_EQ(Contents(), "012");
  EXPECT_THAT(ftruncate(fd_, 5), Succeeds());
  EXPECT_EQ(Contents(), std::string("012\0\0", 5)) << "what was cut off does not come back";
  EXPECT_THAT(ftruncate(fd_, -1), FailsWith(EINVAL));
  const Fd read_only(open(path_.c_str(), O_RDONLY));
  EXPECT_THAT(ftruncate(read_only, 0), FailsWith(EINVAL));
  EXPECT_THAT(ftruncate(1'000'000, 0), FailsWith(EBADF));
}

TEST_F(ReadWrite, TruncateByPath) {
  EXPECT_THAT(truncate(path_.c_str(), 2), Succeeds());
  EXPECT_EQ(Contents(), "01");
  EXPECT_THAT(truncate(dir_.c_str(), 0), FailsWith(EISDIR));
  EXPECT_THAT(truncate(dir_.File("none").c_str(), 0), FailsWith(ENOENT));
  EXPECT_THAT(truncate(path_.c_str(), -1), FailsWith(EINVAL));
}

TEST_F(ReadWrite, FallocateExtendsKeepsAndPunches) {
  EXPECT_THAT(fallocate(fd_, 0, 0, 100), Succeeds());
  EXPECT_EQ(Size(), 100);
  EXPECT_THAT(fallocate(fd_, FALLOC_FL_KEEP_SIZE, 0, 10'000), Succeeds());
  EXPECT_EQ(Size(), 100);
  EXPECT_THAT(fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2, 3), Succeeds());
  EXPECT_EQ(Contents().substr(0, 10), std::string("01\0\0\0"
                                                  "56789",
                                                  10));
  EXPECT_THAT(fallocate(fd_, 0, -1, 10), FailsWith(EINVAL));
  EXPECT_THAT(fallocate(fd_, 0, 0, 0), FailsWith(EINVAL));
  EXPECT_THAT(fallocate(fd_, FALLOC_FL_PUNCH_HOLE, 0, 10), FailsWith(EOPNOTSUPP));
  const Fd read_only(open(path_.c_str(), O_RDONLY));
  EXPECT_THAT(fallocate(read_only, 0, 0, 10), FailsWith(EBADF));
  const Pipe pipe = MakePipe();
  EXPECT_THAT(fallocate(pipe.writer, 0, 0, 10), FailsWith(ESPIPE));
}

TEST_F(ReadWrite, SyncCalls) {
  EXPECT_THAT(fsync(fd_), Succeeds());
  EXPECT_THAT(fdatasync(fd_), Succeeds());
  EXPECT_THAT(sync_file_range(fd_, 0, 0, SYNC_FILE_RANGE_WRITE), Succeeds());
  EXPECT_THAT(fsync(1'000'000), FailsWith(EBADF));
  const Pipe pipe = MakePipe();
  EXPECT_THAT(fsync(pipe.reader), FailsWith(EINVAL));
  EXPECT_THAT(syncfs(fd_), Succeeds());
}

TEST_F(ReadWrite, FadviseAndReadahead) {
  EXPECT_THAT(syscall(SYS_fadvise64, int{fd_}, 0, 0, POSIX_FADV_WILLNEED), Succeeds());
  EXPECT_THAT(syscall(SYS_fadvise64, int{fd_}, 0, 0, 99), FailsWith(EINVAL));
  EXPECT_THAT(readahead(fd_, 0, 10), Succeeds());
}

TEST_F(ReadWrite, SendfileToAPipeAndAFile) {
  const Pipe pipe = MakePipe();
  off_t offset = 2;
  EXPECT_THAT(sendfile(pipe.writer, fd_, &offset, 5), SucceedsWith(5));
  EXPECT_EQ(offset, 7);
  EXPECT_THAT(lseek(fd_, 0, SEEK_CUR), SucceedsWith(0));
  EXPECT_THAT(read(pipe.reader, buffer_, 64), SucceedsWith(5));
  EXPECT_STREQ(buffer_, "23456");
  const Fd out(open(dir_.File("out").c_str(), O_RDWR | O_CREAT, 0600));
  EXPECT_THAT(sendfile(out, fd_, nullptr, 100), SucceedsWith(10));
  EXPECT_EQ(ReadFile(dir_.File("out")), "0123456789");
  EXPECT_THAT(lseek(fd_, 0, SEEK_CUR), SucceedsWith(10));
}

TEST_F(ReadWrite, SendfileErrors) {
  const Pipe pipe = MakePipe();
  off_t offset = -1;
  EXPECT_THAT(sendfile(pipe.writer, fd_, &offset, 5), FailsWith(EINVAL));
  EXPECT_THAT(sendfile(pipe.reader, fd_, nullptr, 5), FailsWith(EBADF));
  EXPECT_THAT(sendfile(1'000'000, fd_, nullptr, 5), FailsWith(EBADF));
  const Fd appending(open(dir_.File("app").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600));
  EXPECT_THAT(sendfile(appending, fd_, nullptr, 5), FailsWith(EINVAL));
}

TEST_F(ReadWrite, CopyFileRange) {
  const Fd out(open(dir_.File("out").c_str(), O_RDWR | O_CREAT, 0600));
  loff_t from = 3;
  loff_t to = 1;
  EXPECT_THAT(copy_file_range(fd_, &from, out, &to, 4, 0), SucceedsWith(4));
  EXPECT_EQ(from, 7);
  EXPECT_EQ(to, 5);
  EXPECT_EQ(ReadFile(dir_.File("out")), std::string("\0"
                                                    "3456",
                                                    5));
  EXPECT_THAT(copy_file_range(fd_, nullptr, out, nullptr, 100, 0), SucceedsWith(10));
  EXPECT_THAT(copy_file_range(fd_, nullptr, out, nullptr, 100, 0), SucceedsWith(0));
  EXPECT_THAT(copy_file_range(fd_, nullptr, out, nullptr, 1, 1), FailsWith(EINVAL));
  loff_t same = 0;
  loff_t overlapping = 2;
  EXPECT_THAT(copy_file_range(fd_, &same, fd_, &overlapping, 5, 0), FailsWith(EINVAL));
  const Pipe pipe = MakePipe();
  EXPECT_THAT(copy_file_range(fd_, nullptr, pipe.writer, nullptr, 1, 0), FailsWith(EINVAL));
}

TEST_F(ReadWrite, CopyFileRangeChecksOffsets) {
  const Fd out(open(dir_.File("out").c_str(), O_RDWR | O_CREAT, 0600));
  const auto copy = [&](loff_t from, loff_t to, size_t size) {
    return copy_file_range(fd_, &from, out, &to, size, 0);
  };
  EXPECT_THAT(copy(-1, 0, 4), FailsWith(EOVERFLOW));
  EXPECT_THAT(copy(-100, 0, 4), FailsWith(EINVAL));
  EXPECT_THAT(copy(0, -1, 4), FailsWith(EOVERFLOW));
  EXPECT_THAT(copy(0, -100, 4), FailsWith(EINVAL));
  EXPECT_THAT(copy(1, 0, SIZE_MAX), FailsWith(EOVERFLOW));
  EXPECT_THAT(copy(0, INT64_MAX, 4), FailsWith(EFBIG));
  EXPECT_THAT(copy(0, 0, SIZE_MAX), SucceedsWith(10)) << "all there is";
}

TEST_F(ReadWrite, WritesUpdateTimes) {
  const timespec old[2] = {{1000, 0}, {1000, 0}};
  ASSERT_THAT(futimens(fd_, old), Succeeds());
  write(fd_, "x", 1);
  struct stat st;
  fstat(fd_, &st);
  EXPECT_GT(st.st_mtim.tv_sec, 1'000'000);
}

TEST_F(ReadWrite, WriteClearsSetIdBits) {
  REQUIRE_ROOT();
  ASSERT_THAT(fchmod(fd_, 06777), Succeeds());
  chmod(dir_.c_str(), 0777);
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setresuid(1234, 1234, 1234), Succeeds());
                EXPECT_THAT(write(fd_, "x", 1), SucceedsWith(1));
                struct stat st;
                fstat(fd_, &st);
                EXPECT_EQ(st.st_mode & 07777, 0777u);
              }),
              ExitsWith(0));
}

TEST_F(ReadWrite, ConcurrentAppendsLoseNothing) {
  const auto append = [&](char mark) {
    const Fd fd(open(path_.c_str(), O_WRONLY | O_APPEND));
    const std::string line = std::string(9, mark) + "\n";
    for (int i = 0; i < 200; ++i) write(fd, line.data(), line.size());
  };
  ChildProcess child([&] { append('c'); });
  std::thread other([&] { append('t'); });
  append('m');
  other.join();
  EXPECT_THAT(child.Wait(), ExitsWith(0));
  EXPECT_EQ(Size(), 10 + 3 * 200 * 10);
}

TEST_F(ReadWrite, LargeFilesBeyondFourGigabytes) {
  EXPECT_THAT(pwrite(fd_, "far", 3, 5LL << 30), SucceedsWith(3));
  EXPECT_EQ(Size(), (5LL << 30) + 3);
  EXPECT_THAT(pread(fd_, buffer_, 10, 5LL << 30), SucceedsWith(3));
}

}  // namespace
}  // namespace skep::test
