// GoferFs against a real gofer on a temporary directory.
#include "sentry/fs/gofer/gofer_fs.h"

#include <linux/fs.h>
#include <sys/stat.h>
#include <algorithm>
#include <filesystem>
#include <set>
#include <vector>

#include "base/host_call.h"
#include "sentry/fs/gofer/test_gofer.h"
#include "sentry/fs/test_world.h"
#include "sentry/mm/mappable.h"
#include "sentry/vfs/test_caller.h"

namespace skep::fs {
namespace {

class GoferFsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    gofer.tree.Mkdir("a/b/c");
    gofer.tree.Write("a/b/c/file", "contents");
    gofer.tree.Write("a/one", "1");
    gofer.tree.Symlink("b/c/file", "a/link");
  }
  // After the files are there.
  void Start(GoferCaching caching = GoferCaching::kExclusive) {
    world = std::make_unique<World>([&](mm::MemoryFile&) { return gofer.Mount(caching); });
    before = gofer.Messages();
  }
  int Sent() { return gofer.Messages() - std::exchange(before, gofer.Messages()); }

  TestGofer gofer;
  std::unique_ptr<World> world;
  int before = 0;
};

TEST_F(GoferFsTest, OneMessageForAWholeWalk) {
  Start();
  EXPECT_EQ(world->Read("/a/b/c/file"), "contents");
  EXPECT_EQ(Sent(), 1);  // the walk, which brings the descriptor
  EXPECT_EQ(world->Read("/a/b/c/file"), "contents");
  EXPECT_EQ(world->Stat("/a/b/c/file")->size, 8u);
  EXPECT_EQ(Code(world->Find("/a/b")), 0);
  EXPECT_EQ(Sent(), 0);
}

TEST_F(GoferFsTest, ADeepPathIsOneMessage) {
  std::string path;
  for (int i = 0; i < 60; i++) path += "/directory" + std::to_string(i);
  gofer.tree.Mkdir(path.substr(1));
  gofer.tree.Write(path.substr(1) + "/file", "deep");
  Start();
  EXPECT_EQ(world->Stat(path + "/file")->size, 4u);
  EXPECT_EQ(Sent(), 1);
  EXPECT_EQ(Code(world->Find(path + "/none")), ENOENT);
  EXPECT_EQ(Sent(), 1);
  EXPECT_EQ(world->Stat(path + "/file")->size, 4u);
  EXPECT_EQ(Code(world->Find(path + "/none")), ENOENT);
  EXPECT_EQ(Sent(), 0);
}

TEST_F(GoferFsTest, OnlyAnOpenForReadingBringsADescriptor) {
  Start();
  EXPECT_EQ(Code(world->Find("/a/one")), 0);
  EXPECT_EQ(Sent(), 1);
  EXPECT_EQ(world->Read("/a/one"), "1");
  EXPECT_EQ(Sent(), 1);  // open
  EXPECT_EQ(world->OpenCode("/a/b", O_RDONLY | O_DIRECTORY), 0);
  EXPECT_EQ(world->OpenCode("/a/b/c/none", O_RDONLY), ENOENT);
  EXPECT_EQ(world->OpenCode("/a/b/c/file", O_RDONLY | O_PATH), 0);
  EXPECT_EQ(world->OpenCode("/a/b/c/file", O_WRONLY), 0);
}

TEST_F(GoferFsTest, NegativeNamesAreRemembered) {
  Start();
  EXPECT_EQ(Code(world->Find("/a/none/x")), ENOENT);
  EXPECT_EQ(Sent(), 1);
  for (int i = 0; i < 3; i++) EXPECT_EQ(Code(world->Find("/a/none")), ENOENT);
  EXPECT_EQ(Sent(), 0);
}

TEST_F(GoferFsTest, LinksAreWalkedWithoutAsking) {
  Start();
  EXPECT_EQ(world->Read("/a/link"), "contents");
  EXPECT_EQ(world->Name("/a/link"), "/a/b/c/file");
  Sent();
  EXPECT_EQ(world->Read("/a/link"), "contents");
  EXPECT_EQ(Sent(), 0);
}

std::vector<std::string> HostOrder(const std::string& path) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    names.push_back(entry.path().filename());
  }
  return names;
}

TEST_F(GoferFsTest, AListingIsOneMessageAndWhoGoesThroughItGetsTheRestInBulk) {
  for (int i = 0; i < 100; i++) gofer.tree.Write("a/f" + std::to_string(i), "x");
  Start();
  EXPECT_EQ(world->List("/a").size(), 103u);
  EXPECT_EQ(Sent(), 2);  // the walk to "a", and the listing
  for (const std::string& name : HostOrder(gofer.tree.At("a"))) {
    if (!name.starts_with("f")) continue;
    EXPECT_EQ(world->Stat("/a/" + name)->size, 1u);
  }
  EXPECT_LE(Sent(), 4);  // the first few one by one, then all
  EXPECT_EQ(Code(world->Find("/a/absent")), ENOENT);
  EXPECT_EQ(world->List("/a").size(), 103u);
  EXPECT_EQ(Sent(), 0);
}

TEST_F(GoferFsTest, WhoLooksAtFewEntriesAsksForThoseAlone) {
  for (int i = 0; i < 400; i++) gofer.tree.Write("a/f" + std::to_string(i), "x");
  Start();
  EXPECT_EQ(world->List("/a").size(), 403u);
  Sent();
  const std::vector<std::string> names = HostOrder(gofer.tree.At("a"));
  for (size_t i = 0; i < names.size(); i += 50) (void)world->Stat("/a/" + names[i]);
  EXPECT_EQ(Sent(), 9);
}

TEST_F(GoferFsTest, ReadsGoStraightIntoGuestPages) {
  std::string text(300'000, 'x');
  for (size_t i = 0; i < text.size(); i++) text[i] = static_cast<char>('a' + i % 23);
  gofer.tree.Write("a/large", text);
  Start();
  const Ref<vfs::File> file = *world->Open("/a/large", O_RDONLY);
  Sent();
  for (const size_t size : {size_t{4096}, size_t{65536}, text.size()}) {
    vfs::TestMemory memory;
    std::string got(size, '\0');
    const mm::UserAddr at{reinterpret_cast<uint64_t>(got.data())};
    mm::IoSequence to = *mm::IoSequence::FromBuffer(memory, at, size);
    EXPECT_EQ(*file->Read(world->caller, to, 0), size);
    EXPECT_EQ(got, text.substr(0, size));
    EXPECT_EQ(memory.copies_out, 0) << size;
    EXPECT_EQ(memory.transfers, 1) << size;
  }
  EXPECT_EQ(Sent(), 0);
}

// What the stubs' table knows it by is not closed under a mapping, however many files are opened.
TEST_F(GoferFsTest, ADescriptorStaysWhileItIsMapped) {
  gofer.tree.Write("a/mapped", "m");
  for (int i = 0; i < 600; i++) gofer.tree.Write("a/f" + std::to_string(i), "x");
  Start();
  const auto open_many = [&] {
    for (int i = 0; i < 600; i++) ASSERT_EQ(world->Read("/a/f" + std::to_string(i)), "x");
  };
  Ref<vfs::File> file = *world->Open("/a/mapped", O_RDONLY);
  Ref<mm::Mappable> mapping = *file->Mappable();
  file = {};
  EXPECT_EQ(world->Read("/a/one"), "1");
  const platform::HostFileId id = mapping->Translate({0, 4096}, false)->file;
  arena::HostTable& table = arena::HostTable::Get();
  const int descriptor = *table.DescriptorOf(id);
  open_many();
  Sent();
  EXPECT_EQ(world->Read("/a/one"), "1");
  EXPECT_EQ(Sent(), 1);  // that descriptor was closed, to stay within bounds
  EXPECT_EQ(table.DescriptorOf(id).value_or(-1), descriptor);
  EXPECT_EQ(mapping->Translate({0, 4096}, false)->file, id);
  EXPECT_EQ(world->Read("/a/mapped"), "m");
  const Ref<mm::Mappable> again = *(*world->Open("/a/mapped", O_RDONLY))->Mappable();
  EXPECT_EQ(again->Translate({0, 4096}, false)->file, id);  // nothing to donate to a stub again
  EXPECT_EQ(Sent(), 0);
}

TEST_F(GoferFsTest, LargeDirectory) {
  std::set<std::string> names;
  for (int i = 0; i < 3000; i++) {
    const std::string name = "a/long_name_of_a_file_" + std::to_string(i);
    gofer.tree.Write(name, "");
    names.insert(name);
  }
  Start();
  EXPECT_EQ(world->List("/a").size(), 3003u);
  EXPECT_LT(Sent(), 20);
  for (const std::string& name : HostOrder(gofer.tree.At("a"))) {
    ASSERT_EQ(Code(world->Find("/a/" + name)), 0) << name;
  }
  EXPECT_LT(Sent(), 40);
}

TEST_F(GoferFsTest, AttributesAreTheHosts) {
  ASSERT_EQ(chmod(gofer.tree.At("a/one").c_str(), 0604), 0);
  struct stat host{};
  ASSERT_EQ(stat(gofer.tree.At("a/one").c_str(), &host), 0);
  Start();
  const vfs::Attributes seen = *world->Stat("/a/one");
  EXPECT_EQ(seen.mode, uint32_t{S_IFREG | 0604});
  EXPECT_EQ(seen.ino, host.st_ino);
  EXPECT_EQ(seen.uid, host.st_uid);
  EXPECT_EQ(seen.mtime.sec, host.st_mtim.tv_sec);
  EXPECT_EQ(seen.dev_minor, 3u);
  EXPECT_EQ(seen.nlink, 1u);
}

TEST_F(GoferFsTest, WritesReachTheHost) {
  Start();
  ASSERT_EQ(world->Write("/a/one", "more than before"), 0);
  EXPECT_EQ(gofer.tree.Read("a/one"), "more than before");
  EXPECT_EQ(world->Read("/a/one"), "more than before");
  EXPECT_EQ(world->Stat("/a/one")->size, 16u);
  const Ref<vfs::File> file = *world->Open("/a/new", O_CREAT | O_RDWR);
  ASSERT_EQ(*world->WriteTo(*file, std::string(100000, 'n'), 3), 100000u);
  EXPECT_EQ(world->ReadFrom(*file, 100000), "nnn");
  EXPECT_EQ(world->Stat("/a/new")->size, 100003u);
  EXPECT_EQ(Code(file->Truncate(world->caller, 2)), 0);
  EXPECT_EQ(world->ReadFrom(*file), std::string(2, '\0'));
  EXPECT_EQ(Code(file->Sync(false)), 0);
}

TEST_F(GoferFsTest, ChangesOfNames) {
  Start();
  ASSERT_EQ(world->List("/a"), (Names{"b", "link", "one"}));
  ASSERT_EQ(world->Mkdir("/a/made"), 0);
  ASSERT_EQ(world->Symlink("one", "/a/made/s"), 0);
  ASSERT_EQ(world->Link("/a/one", "/a/made/hard"), 0);
  EXPECT_EQ(world->Stat("/a/one")->nlink, 2u);
  ASSERT_EQ(world->Rename("/a/made", "/moved"), 0);
  EXPECT_EQ(world->List("/moved"), (Names{"hard", "s"}));
  EXPECT_EQ(world->List("/a"), (Names{"b", "link", "one"}));
  EXPECT_EQ(world->Rmdir("/moved"), ENOTEMPTY);
  ASSERT_EQ(world->Unlink("/moved/hard"), 0);
  ASSERT_EQ(world->Unlink("/moved/s"), 0);
  ASSERT_EQ(world->Rmdir("/moved"), 0);
  EXPECT_EQ(world->List("/"), Names{"a"});
  EXPECT_EQ(world->Rename("/a/one", "/a/link", RENAME_EXCHANGE), 0);
  EXPECT_EQ(gofer.tree.Read("a/link"), "1");
  EXPECT_EQ(world->Read("/a/link"), "1");
}

TEST_F(GoferFsTest, MetadataChanges) {
  Start();
  EXPECT_EQ(world->Chmod("/a/one", 0711), 0);
  struct stat host{};
  ASSERT_EQ(stat(gofer.tree.At("a/one").c_str(), &host), 0);
  EXPECT_EQ(host.st_mode, uint32_t{S_IFREG | 0711});
  EXPECT_EQ(world->Stat("/a/one")->mode, uint32_t{S_IFREG | 0711});
  const vfs::Timestamp when{.sec = 12345, .nsec = 678};
  EXPECT_EQ(Code(world->Walk().SetTimes(*world->Find("/a/one"), when, when, false)), 0);
  EXPECT_EQ(world->Stat("/a/one")->mtime, when);
}

TEST_F(GoferFsTest, ReadOnly) {
  TestGofer fixed(true);
  fixed.tree.Write("f", "x");
  World w([&](mm::MemoryFile&) { return fixed.Mount(); });
  EXPECT_EQ(w.Read("/f"), "x");
  EXPECT_EQ(w.Write("/f", "y"), EROFS);
  EXPECT_EQ(w.OpenCode("/f", O_WRONLY), EROFS);
  EXPECT_EQ(w.Mkdir("/d"), EROFS);
  EXPECT_EQ(w.Unlink("/f"), EROFS);
}

TEST_F(GoferFsTest, SharedTreesAreAskedAgain) {
  Start(GoferCaching::kShared);
  EXPECT_EQ(world->Read("/a/one"), "1");
  gofer.tree.Write("a/one", "changed outside");
  EXPECT_EQ(world->Read("/a/one"), "changed outside");
}

TEST_F(GoferFsTest, DonatedFilesKeepWithinTheirBudget) {
  for (int i = 0; i < 100; i++) gofer.tree.Write("a/f" + std::to_string(i), "x");
  ASSERT_EQ(chmod(gofer.tree.path().c_str(), 0755), 0);
  auto donated = MakeRef<DonatedFiles>(40);
  World w([&](mm::MemoryFile&) { return gofer.Mount(GoferCaching::kExclusive, donated); });
  const auto open = [&](int i) { return w.Open("/a/f" + std::to_string(i), O_RDONLY); };
  // One after the other: idle ones go.
  for (int i = 0; i < 100; i++) {
    ASSERT_EQ(Code(open(i)), 0) << i;
    ASSERT_LE(donated->open(), 40u);
  }
  // A user's share, and then all unprivileged ones', and then root's.
  std::vector<Ref<vfs::File>> files;
  const auto open_until_it_fails = [&](uint32_t uid) {
    if (uid == 0) w.caller.Root();
    if (uid != 0) w.caller.User(uid, uid);
    for (int i = 0; files.size() < 100; i++) {
      const Result<Ref<vfs::File>> file = open(static_cast<int>(files.size()));
      if (!file) {
        EXPECT_EQ(Code(file), ENFILE);
        return i;
      }
      files.push_back(*file);
    }
    return 100;
  };
  EXPECT_EQ(open_until_it_fails(1000), 10);
  EXPECT_EQ(open_until_it_fails(1001), 10);
  EXPECT_EQ(open_until_it_fails(1002), 10);
  EXPECT_EQ(open_until_it_fails(1003), 5);
  EXPECT_EQ(open_until_it_fails(0), 5);
  files.clear();
  EXPECT_EQ(open_until_it_fails(1000), 10);
  EXPECT_EQ(open_until_it_fails(0), 30);
}

TEST_F(GoferFsTest, HandlesAreGivenBack) {
  for (int i = 0; i < 300; i++) gofer.tree.Write("a/f" + std::to_string(i), "x");
  Ref<GoferFs> fs = gofer.Mount();
  {
    World w([&](mm::MemoryFile&) { return fs; });
    EXPECT_EQ(w.List("/a").size(), 303u);
    for (int i = 0; i < 300; i++) EXPECT_EQ(w.Read("/a/f" + std::to_string(i)), "x");
    EXPECT_GT(fs->inode_count(), 300u);
    w.context->SetCwd(w.mounts->root());
  }
  fs->cache().DropUnused();
  fs->DropChildren();
  EXPECT_EQ(fs->inode_count(), 1u);
}

// A socket that nobody answers on.
Result<Ref<GoferConnection>> Connect() {
  host::SocketPair pair = *host::MakeSocketPair(SOCK_SEQPACKET);
  return GoferConnection::Add(std::move(pair.a), nullptr, {});
}

TEST(GoferConnections, NumbersAreUsedAgain) {
  for (int i = 0; i < 3000; ++i) ASSERT_EQ((*Connect())->number(), 1U);
  const Ref<GoferConnection> first = *Connect();
  Ref<GoferConnection> second = *Connect();
  const Ref<GoferConnection> third = *Connect();
  EXPECT_EQ(third->number(), 3U);
  second = {};
  EXPECT_EQ((*Connect())->number(), 2U);
}

TEST(GoferConnections, RunningOutIsAnError) {
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = limit.rlim_max;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  std::vector<Ref<GoferConnection>> all;
  for (uint32_t i = 0; i < GoferConnection::kMaxConnections; ++i) {
    auto made = Connect();
    ASSERT_TRUE(made) << i;
    all.push_back(std::move(*made));
  }
  EXPECT_EQ(Connect().error(), Errno(ENFILE));
  all.pop_back();
  EXPECT_TRUE(Connect());
}

}  // namespace
}  // namespace skep::fs
