// Contents, attributes, permissions and directories of a tmpfs.
#include <linux/falloc.h>
#include <sys/xattr.h>
#include <algorithm>
#include <csignal>
#include <map>

#include "sentry/fs/test_world.h"

namespace skep::fs {
namespace {

const auto* const kArena = ::testing::AddGlobalTestEnvironment(new arena::ArenaTestEnvironment);

TEST(TmpFs, ReadsWhatWasWritten) {
  World w;
  const Ref<vfs::File> file = *w.Open("/f", O_CREAT | O_RDWR);
  EXPECT_EQ(*w.WriteTo(*file, "hello", 0), 5u);
  EXPECT_EQ(*w.WriteTo(*file, "world", 10000), 5u);
  EXPECT_EQ(w.ReadFrom(*file, 0, 5), "hello");
  EXPECT_EQ(w.ReadFrom(*file, 5, 3), std::string(3, '\0'));
  EXPECT_EQ(w.ReadFrom(*file, 10000), "world");
  EXPECT_EQ(w.ReadFrom(*file, 20000), "");
  EXPECT_EQ(w.Stat("/f")->size, 10005u);
  EXPECT_EQ(Code(file->Truncate(w.caller, 3)), 0);
  EXPECT_EQ(w.Read("/f"), "hel");
  EXPECT_EQ(Code(file->Truncate(w.caller, 6)), 0);
  EXPECT_EQ(w.Read("/f"), std::string("hel\0\0\0", 6));
}

TEST(TmpFs, AppendGoesToTheEnd) {
  World w;
  ASSERT_EQ(w.Write("/f", "one"), 0);
  const Ref<vfs::File> file = *w.Open("/f", O_WRONLY | O_APPEND);
  mm::IoSequence from = mm::IoSequence::FromKernel(std::as_bytes(std::span("two", 3)));
  uint64_t offset = 0;
  EXPECT_EQ(*file->Write(w.caller, from, &offset), 3u);
  EXPECT_EQ(offset, 3u);
  EXPECT_EQ(w.Read("/f"), "onetwo");
}

TEST(TmpFs, FileSizeLimit) {
  World w;
  const Ref<vfs::File> file = *w.Open("/f", O_CREAT | O_RDWR);
  w.caller.file_size_limit = 4;
  EXPECT_EQ(*w.WriteTo(*file, "abcdef", 0), 4u);
  EXPECT_EQ(w.caller.last_signal, 0);
  EXPECT_EQ(Code(w.WriteTo(*file, "x", 4)), EFBIG);
  EXPECT_EQ(w.caller.last_signal, SIGXFSZ);
  EXPECT_EQ(Code(file->Truncate(w.caller, 5)), EFBIG);
  EXPECT_EQ(w.Read("/f"), "abcd");
}

TEST(TmpFs, SizeOption) {
  World w;
  const Ref<TmpFs> small = w.NewTmpFs(9, 64 << 10);
  ASSERT_EQ(w.Mkdir("/m"), 0);
  ASSERT_TRUE(w.mounts->Add(*w.Find("/m"), small, 0).has_value());
  const Ref<vfs::File> file = *w.Open("/m/f", O_CREAT | O_RDWR);
  const std::string block(16 << 10, 'b');
  for (uint64_t i = 0; i < 4; i++)
    EXPECT_EQ(*w.WriteTo(*file, block, i * block.size()), block.size());
  EXPECT_EQ(Code(w.WriteTo(*file, block, 4 * block.size())), ENOSPC);
  EXPECT_EQ(small->GetStatFs()->blocks, 16u);
  EXPECT_EQ(small->GetStatFs()->blocks_free, 0u);
  EXPECT_EQ(Code(file->Truncate(w.caller, 0)), 0);
  EXPECT_EQ(small->GetStatFs()->blocks_free, 16u);
}

TEST(TmpFs, HolesAndAllocation) {
  World w;
  const Ref<vfs::File> file = *w.Open("/f", O_CREAT | O_RDWR);
  ASSERT_EQ(*w.WriteTo(*file, "x", 5 * 4096), 1u);
  EXPECT_EQ(*file->Seek(0, SEEK_DATA), 5u * 4096);
  EXPECT_EQ(*file->Seek(0, SEEK_HOLE), 0u);
  EXPECT_EQ(*file->Seek(0, SEEK_END), 5u * 4096 + 1);
  EXPECT_EQ(Code(file->Seek(-1, SEEK_SET)), EINVAL);
  EXPECT_EQ(Code(file->Allocate(w.caller, 0, 0, 0)), EINVAL);
  EXPECT_EQ(Code(file->Allocate(w.caller, FALLOC_FL_PUNCH_HOLE, 0, 1)), EOPNOTSUPP);
  EXPECT_EQ(Code(file->Allocate(w.caller, 0, 0, 100000)), 0);
  EXPECT_EQ(w.Stat("/f")->size, 100000u);
  EXPECT_EQ(Code(file->Allocate(w.caller, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 100000)),
            0);
  EXPECT_EQ(w.ReadFrom(*file, 5 * 4096, 1), std::string(1, '\0'));
}

TEST(TmpFs, OwnersAndModes) {
  World w;
  ASSERT_EQ(w.Mkdir("/shared"), 0);
  ASSERT_EQ(w.Chown("/shared", 0, 50), 0);
  ASSERT_EQ(w.Chmod("/shared", 02777), 0);
  w.caller.User(1000, 1000);
  ASSERT_EQ(w.Write("/shared/f", "x"), 0);
  EXPECT_EQ(w.Stat("/shared/f")->gid, 50u);
  EXPECT_EQ(w.Stat("/shared/f")->uid, 1000u);
  ASSERT_EQ(w.Mkdir("/shared/d", 0755), 0);
  EXPECT_EQ(w.Stat("/shared/d")->mode, uint32_t{S_IFDIR | S_ISGID | 0755});
  EXPECT_EQ(w.OpenCode("/shared/g", O_CREAT | O_WRONLY, 02775), 0);
  EXPECT_EQ(w.Stat("/shared/g")->mode & S_ISGID, 0u);
  EXPECT_EQ(w.Chmod("/shared/f", 02755), 0);  // not in group 50
  EXPECT_EQ(w.Stat("/shared/f")->mode & 07777, 0755u);
  EXPECT_EQ(w.Chmod("/shared", 0777), EPERM);
  EXPECT_EQ(w.Chown("/shared/f", 1001, std::nullopt), EPERM);
  EXPECT_EQ(w.Chown("/shared/f", 1000, 1000), 0);
  EXPECT_EQ(w.Chown("/shared/f", std::nullopt, 77), EPERM);
}

TEST(TmpFs, PrivilegeBitsGo) {
  World w;
  ASSERT_EQ(w.Write("/f", "x"), 0);
  ASSERT_EQ(w.Chmod("/f", 06777), 0);
  ASSERT_EQ(w.Write("/f", "root keeps them", 0), 0);
  EXPECT_EQ(w.Stat("/f")->mode & 07777, 06777u);
  EXPECT_EQ(w.Chown("/f", std::nullopt, std::nullopt), 0);
  EXPECT_EQ(w.Stat("/f")->mode & 07777, 0777u);
  ASSERT_EQ(w.Chmod("/f", 06777), 0);
  w.caller.User(1000, 1000);
  ASSERT_EQ(w.Write("/f", "y", 0), 0);
  EXPECT_EQ(w.Stat("/f")->mode & 07777, 0777u);
  w.caller.Root();
  ASSERT_EQ(w.Chmod("/f", 06767), 0);  // no group execute: set-group-ID is something else
  w.caller.User(0, 0);
  ASSERT_EQ(w.Write("/f", "y", O_TRUNC), 0);
  EXPECT_EQ(w.Stat("/f")->mode & 07777, 02767u);
}

TEST(TmpFs, Access) {
  World w;
  ASSERT_EQ(w.Write("/f", "x"), 0);
  ASSERT_EQ(w.Chmod("/f", 0640), 0);
  ASSERT_EQ(w.Chown("/f", 1000, 50), 0);
  const vfs::Path f = *w.Find("/f");
  const auto access = [&](int mask) { return Code(w.Walk().Access(f, mask, w.caller.creds())); };
  EXPECT_EQ(access(vfs::kMayRead | vfs::kMayWrite), 0);
  EXPECT_EQ(access(vfs::kMayExec), EACCES);  // root needs one x bit
  w.caller.User(1000, 1000);
  EXPECT_EQ(access(vfs::kMayRead | vfs::kMayWrite), 0);
  w.caller.User(1001, 50);
  EXPECT_EQ(access(vfs::kMayRead), 0);
  EXPECT_EQ(access(vfs::kMayWrite), EACCES);
  w.caller.User(1001, 51, {50});
  EXPECT_EQ(access(vfs::kMayRead), 0);
  w.caller.User(1001, 51);
  EXPECT_EQ(access(vfs::kMayRead), EACCES);
  EXPECT_EQ(w.OpenCode("/f", O_RDONLY), EACCES);
  EXPECT_EQ(w.OpenCode("/f", O_RDONLY | O_TRUNC), EACCES);
  EXPECT_EQ(w.OpenCode("/new", O_CREAT | O_RDWR), EACCES);
}

TEST(TmpFs, Times) {
  World w;
  ASSERT_EQ(w.Write("/f", "x"), 0);
  const vfs::Path f = *w.Find("/f");
  const vfs::Timestamp when{.sec = 5, .nsec = 6};
  ASSERT_EQ(Code(w.Walk().SetTimes(f, when, std::nullopt, false)), 0);
  EXPECT_EQ(w.Stat("/f")->atime, when);
  EXPECT_NE(w.Stat("/f")->mtime, when);
  ASSERT_EQ(w.Chmod("/f", 0666), 0);
  w.caller.User(1000, 1000);
  EXPECT_EQ(Code(w.Walk().SetTimes(f, when, when, false)), EPERM);
  EXPECT_EQ(Code(w.Walk().SetTimes(f, vfs::CurrentTime(), vfs::CurrentTime(), true)), 0);
  w.caller.Root();
  ASSERT_EQ(w.Chmod("/f", 0644), 0);
  w.caller.User(1000, 1000);
  EXPECT_EQ(Code(w.Walk().SetTimes(f, when, when, true)), EACCES);
}

TEST(TmpFs, DirectoryAttributes) {
  World w;
  EXPECT_EQ(w.Stat("/")->nlink, 2u);
  EXPECT_EQ(w.Stat("/")->size, 40u);
  ASSERT_EQ(w.Mkdir("/d"), 0);
  ASSERT_EQ(w.Write("/f", "x"), 0);
  EXPECT_EQ(w.Stat("/")->nlink, 3u);
  EXPECT_EQ(w.Stat("/")->size, 80u);
  ASSERT_EQ(w.Rmdir("/d"), 0);
  EXPECT_EQ(w.Stat("/")->nlink, 2u);
  EXPECT_EQ(w.Stat("/")->size, 60u);
}

// Every name that is there from beginning to end is seen exactly once, whatever else is removed.
TEST(TmpFs, ReadDirIsStableUnderUnlink) {
  World w;
  for (int i = 0; i < 200; i++) ASSERT_EQ(w.Write("/f" + std::to_string(i), ""), 0);
  const Ref<vfs::File> file = *w.Open("/", O_RDONLY | O_DIRECTORY);
  std::map<std::string, int> seen;
  uint64_t cookie = 0;
  for (bool more = true; more;) {
    int room = 5;
    more = false;
    std::vector<std::string> batch;
    cookie = *file->ReadDir(w.caller, cookie, [&](const vfs::DirEntry& entry) {
      if (room-- == 0) return false;
      more = true;
      batch.emplace_back(entry.name);
      return true;
    });
    for (const std::string& name : batch) {
      seen[name]++;
      if (name[0] == 'f') {
        ASSERT_EQ(w.Unlink("/" + name), 0);
        ASSERT_EQ(w.Write("/new" + name, ""), 0);  // must not make it endless
      }
    }
  }
  EXPECT_EQ(seen.size(), 202u);
  for (const auto& [name, count] : seen) EXPECT_EQ(count, 1) << name;
}

TEST(TmpFs, Xattrs) {
  World w;
  ASSERT_EQ(w.Write("/f", "x"), 0);
  const vfs::Path f = *w.Find("/f");
  vfs::NameOps walker = w.Walk();
  EXPECT_EQ(Code(walker.GetXattr(f, "user.a")), ENODATA);
  EXPECT_EQ(Code(walker.SetXattr(f, "user.a", "1", XATTR_REPLACE)), ENODATA);
  EXPECT_EQ(Code(walker.SetXattr(f, "user.a", "1", 0)), 0);
  EXPECT_EQ(Code(walker.SetXattr(f, "user.a", "1", XATTR_CREATE)), EEXIST);
  EXPECT_EQ(Code(walker.SetXattr(f, "trusted.t", "2", 0)), 0);
  EXPECT_EQ(Code(walker.SetXattr(f, "other.t", "2", 0)), EOPNOTSUPP);
  EXPECT_EQ(*walker.GetXattr(f, "user.a"), "1");
  EXPECT_EQ(*walker.ListXattrs(f), (Names{"trusted.t", "user.a"}));
  w.caller.User(1000, 1000);
  EXPECT_EQ(*walker.ListXattrs(f), Names{"user.a"});
  EXPECT_EQ(Code(walker.GetXattr(f, "trusted.t")), ENODATA);
  EXPECT_EQ(Code(walker.SetXattr(f, "user.a", "3", 0)), EACCES);
  w.caller.Root();
  EXPECT_EQ(Code(walker.RemoveXattr(f, "user.a")), 0);
  EXPECT_EQ(Code(walker.RemoveXattr(f, "user.a")), ENODATA);
  EXPECT_EQ(Code(walker.SetXattr(f, "user.", "1", 0)), EINVAL);
  EXPECT_EQ(Code(walker.SetXattr(f, "system.posix_acl_access", "1", 0)), EOPNOTSUPP);
}

// security.capability in format 2: CAP_NET_RAW (13), permitted.
constexpr std::string_view kRaw("\0\0\0\2\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);

TEST(TmpFs, OnlyTheCapableSetSecurityAttributes) {
  World w;
  ASSERT_EQ(w.Write("/f", "x"), 0);
  ASSERT_EQ(w.Chown("/f", 1000, 1000), 0);
  const vfs::Path f = *w.Find("/f");
  vfs::NameOps walker = w.Walk();
  ASSERT_EQ(Code(walker.SetXattr(f, "security.other", "1", 0)), 0);
  ASSERT_EQ(Code(walker.SetXattr(f, "security.capability", kRaw, 0)), 0);
  EXPECT_EQ(Code(walker.SetXattr(f, "security.capability", "junk", 0)), EINVAL);
  w.caller.User(1000, 1000);  // its owner
  EXPECT_EQ(Code(walker.SetXattr(f, "security.capability", kRaw, 0)), EPERM);
  EXPECT_EQ(Code(walker.SetXattr(f, "security.capability", "", 0)), EPERM);
  EXPECT_EQ(Code(walker.RemoveXattr(f, "security.capability")), EPERM);
  EXPECT_EQ(Code(walker.SetXattr(f, "security.other", "2", 0)), EPERM);
  EXPECT_EQ(Code(walker.RemoveXattr(f, "security.other")), EPERM);
  EXPECT_EQ(*walker.GetXattr(f, "security.other"), "1");
}

TEST(TmpFs, ChangesTakeFileCapabilitiesAway) {
  World w;
  ASSERT_EQ(w.Write("/f", "x"), 0);
  const vfs::Path f = *w.Find("/f");
  vfs::NameOps walker = w.Walk();
  const auto set = [&] { return Code(walker.SetXattr(f, "security.capability", kRaw, 0)); };
  const auto get = [&] { return Code(walker.GetXattr(f, "security.capability")); };
  ASSERT_EQ(set(), 0);
  ASSERT_EQ(w.Chmod("/f", 0755), 0);
  EXPECT_EQ(get(), 0) << "chmod leaves them";
  ASSERT_EQ(w.Write("/f", "y", 0), 0);
  EXPECT_EQ(get(), ENODATA) << "write, also by root";
  ASSERT_EQ(set(), 0);
  ASSERT_EQ(Code(walker.Truncate(f, 0)), 0);
  EXPECT_EQ(get(), ENODATA);
  ASSERT_EQ(set(), 0);
  ASSERT_EQ(w.Write("/f", "y", O_TRUNC), 0);
  EXPECT_EQ(get(), ENODATA);
  ASSERT_EQ(set(), 0);
  ASSERT_EQ(w.Chown("/f", std::nullopt, std::nullopt), 0);
  EXPECT_EQ(get(), ENODATA);
}

TEST(TmpFs, ChownThatChangesNothingKeepsOthersSetIdBits) {
  World w;
  ASSERT_EQ(w.Write("/f", "x"), 0);
  ASSERT_EQ(w.Chmod("/f", 04755), 0);
  w.caller.User(1000, 1000);
  EXPECT_EQ(w.Chown("/f", std::nullopt, std::nullopt), EPERM);
  EXPECT_EQ(w.Stat("/f")->mode & 07777, 04755u);
  ASSERT_EQ(w.Write("/f", "x"), EACCES);
}

}  // namespace
}  // namespace skep::fs
