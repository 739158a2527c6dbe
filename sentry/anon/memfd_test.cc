#include "sentry/anon/memfd.h"

#include <linux/falloc.h>
#include <linux/memfd.h>

#include "sentry/vfs/test_caller.h"

namespace skep::anon {
namespace {

using vfs::CodeOf;
using vfs::TestCaller;

struct MemfdTest : ::testing::Test {
  std::unique_ptr<mm::MemoryFile> memory;
  vfs::AnonFs fs{20};
  TestCaller caller;
  MemfdTest() { fs.IncRef(); }
  void SetUp() override {
    HostResult<std::unique_ptr<mm::MemoryFile>> made = mm::MemoryFile::Make();
    ASSERT_TRUE(made) << made.error().message;
    memory = std::move(*made);
  }
  Ref<vfs::File> New(uint32_t flags = MFD_ALLOW_SEALING) {
    return MakeMemfd(*memory, fs, "x", flags).value();
  }
  Result<size_t> Write(vfs::File& file, std::string_view text, uint64_t offset) {
    mm::IoSequence from = mm::IoSequence::FromKernel(std::as_bytes(std::span(text)));
    return file.Write(caller, from, &offset);
  }
  std::string Read(vfs::File& file, uint64_t offset, size_t size) {
    std::string text(size, '\0');
    mm::IoSequence to = mm::IoSequence::FromKernel(std::as_writable_bytes(std::span(text)));
    text.resize(file.Read(caller, to, offset).value());
    return text;
  }
};

TEST_F(MemfdTest, ReadsWhatWasWritten) {
  vfs::OnFiber([this] {
    Ref<vfs::File> file = New();
    EXPECT_EQ(file->path().dentry->name(), "/memfd:x (deleted)");
    EXPECT_EQ(Write(*file, "hello", 4094).value(), 5U);
    EXPECT_EQ(Read(*file, 4092, 99), std::string("\0\0hello", 7));
    const vfs::Attributes attributes = file->inode()->GetAttributes().value();
    EXPECT_EQ(attributes.size, 4099U);
    EXPECT_EQ(attributes.nlink, 0U);
    EXPECT_EQ(file->Seek(-1, SEEK_END).value(), 4098U);
    EXPECT_EQ(CodeOf(file->Truncate(caller, 4095)), 0);
    EXPECT_EQ(Read(*file, 4094, 99), "h");
    Ref<vfs::File> again = file->inode()->Open(caller, file->path(), O_RDONLY).value();
    EXPECT_EQ(Read(*again, 4094, 99), "h");
    EXPECT_EQ(CodeOf(AddSeals(*again, F_SEAL_SHRINK)), EPERM);  // not open for writing
  });
}

TEST_F(MemfdTest, SealsHold) {
  vfs::OnFiber([this] {
    Ref<vfs::File> file = New();
    EXPECT_EQ(Write(*file, std::string(5000, 'a'), 0).value(), 5000U);
    EXPECT_EQ(CodeOf(AddSeals(*file, 0x8000)), EINVAL);
    EXPECT_EQ(CodeOf(AddSeals(*file, F_SEAL_SHRINK | F_SEAL_GROW)), 0);
    EXPECT_EQ(CodeOf(file->Truncate(caller, 10)), EPERM);
    EXPECT_EQ(CodeOf(file->Truncate(caller, 6000)), EPERM);
    EXPECT_EQ(CodeOf(file->Truncate(caller, 5000)), 0);
    EXPECT_EQ(Write(*file, std::string(3000, 'b'), 4000).value(), 96U);  // to the last whole page
    EXPECT_EQ(CodeOf(Write(*file, "b", 5000)), EPERM);
    EXPECT_EQ(CodeOf(file->Allocate(caller, 0, 0, 9000)), EPERM);
    EXPECT_EQ(CodeOf(AddSeals(*file, F_SEAL_WRITE)), 0);
    EXPECT_EQ(CodeOf(Write(*file, "c", 0)), EPERM);
    EXPECT_EQ(CodeOf(file->Allocate(caller, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 9)),
              EPERM);
    EXPECT_EQ(CodeOf(AddSeals(*file, F_SEAL_SEAL)), 0);
    EXPECT_EQ(CodeOf(AddSeals(*file, F_SEAL_SEAL)), EPERM);
    EXPECT_EQ(GetSeals(*file).value(),
              static_cast<uint32_t>(F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
    EXPECT_EQ(GetSeals(*New(0)).value(), static_cast<uint32_t>(F_SEAL_SEAL));
    Ref<vfs::File> other = MakeRef<vfs::File>(vfs::Path(), O_RDWR);
    EXPECT_EQ(CodeOf(GetSeals(*other)), EINVAL);
  });
}

}  // namespace
}  // namespace skep::anon
