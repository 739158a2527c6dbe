#include "sentry/fs/sys/sys_fs.h"

#include "sentry/vfs/mount.h"
#include "sentry/vfs/name_ops.h"
#include "sentry/vfs/test_caller.h"

namespace skep::fs {
namespace {

struct SysTest : ::testing::Test {
  Ref<vfs::MountNamespace> mounts = MakeRef<vfs::MountNamespace>(MakeRef<SysFs>(3u, 40));
  Ref<vfs::FsContext> context =
      MakeRef<vfs::FsContext>(mounts, mounts->root(), mounts->root(), 022u);
  vfs::TestCaller caller;
  vfs::NameOps walker{caller, *context};

  std::string Read(std::string_view path) {
    const Result<Ref<vfs::File>> file = walker.Open(path, {.flags = O_RDONLY});
    return file ? vfs::TryRead(caller, **file, 4096).value() : "";
  }
};

TEST_F(SysTest, TellsTheProcessors) {
  EXPECT_EQ(Read("/devices/system/cpu/online"), "0-39\n");
  EXPECT_EQ(Read("/devices/system/cpu/cpu33/topology/core_id"), "33\n");
  EXPECT_EQ(Read("/devices/system/cpu/cpu33/topology/thread_siblings"), "2,00000000\n");
  EXPECT_EQ(Read("/devices/system/node/node0/cpumap"), "ff,ffffffff\n");
  EXPECT_EQ(Read("/devices/system/node/node0/cpu7/topology/core_id"), "7\n");
  EXPECT_EQ(Read("/devices/system/cpu/cpu40/topology/core_id"), "");
  EXPECT_EQ(Read("/devices/system/cpu/cpu3/cache/index0/level"), "1\n");
  EXPECT_EQ(Read("/devices/system/cpu/cpu3/cache/index0/shared_cpu_list"), "3\n");
}

TEST_F(SysTest, CannotBeChanged) {
  caller.credentials.effective = auth::kAllCapabilities;
  EXPECT_EQ(vfs::CodeOf(walker.Mkdir("/new", 0700)), EPERM);
  const Ref<vfs::File> file =
      walker.Open("/devices/system/cpu/online", {.flags = O_WRONLY}).value();
  EXPECT_EQ(vfs::CodeOf(vfs::TryWrite(caller, *file, "0")), EIO);
  const vfs::Attributes attributes = file->inode()->GetAttributes().value();
  EXPECT_EQ(attributes.size, 4096U);
  EXPECT_EQ(attributes.mode, uint32_t{S_IFREG | 0444});
}

}  // namespace
}  // namespace skep::fs
