// Every operation, through a client, over a real directory.
#include "gofer/server/server.h"

#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <atomic>
#include <set>

#include "gofer/server/test_tree.h"

namespace skep::gofer {
namespace {

TEST(Gofer, AttachAnswersTheRoot) {
  TempTree tree;
  Service service(ConfigFor(tree.path(), true));
  const auto mounts = service.client().Mounts();
  ASSERT_TRUE(mounts);
  ASSERT_EQ(mounts->size(), 1U);
  EXPECT_EQ(mounts->front().flags, kAttachReadOnly);
  EXPECT_TRUE(S_ISDIR(mounts->front().root.attributes.mode));
  EXPECT_EQ(mounts->front().root.node, NodeId{1});
  EXPECT_EQ(ErrorOf(service.client().Attach(1)), ENOENT);
}

TEST(Gofer, WalkAnswersEveryComponentInOneMessage) {
  TempTree tree;
  tree.Mkdir("a/b/c");
  tree.Write("a/b/c/file", "text");
  Service service(ConfigFor(tree.path()));
  const auto walked = service.Walk("a/b/c/file");
  ASSERT_TRUE(walked);
  EXPECT_EQ(walked->stop, WalkStop::kDone);
  ASSERT_EQ(walked->nodes.size(), 4U);
  EXPECT_TRUE(S_ISDIR(walked->nodes[2].attributes.mode));
  struct stat st;
  ASSERT_EQ(stat(tree.At("a/b/c/file").c_str(), &st), 0);
  const Attributes& a = walked->nodes[3].attributes;
  EXPECT_EQ(a.ino, st.st_ino);
  EXPECT_EQ(a.size, 4U);
  EXPECT_EQ(a.mode, st.st_mode);
  EXPECT_EQ(a.mtime_sec, st.st_mtim.tv_sec);
  EXPECT_EQ(a.mtime_nsec, st.st_mtim.tv_nsec);
}

TEST(Gofer, WalkSaysWhyItStopped) {
  TempTree tree;
  tree.Mkdir("a");
  tree.Write("a/file", "");
  tree.Symlink("../elsewhere", "a/link");
  Service service(ConfigFor(tree.path()));
  auto walked = service.Walk("a/none/x");
  ASSERT_TRUE(walked);
  EXPECT_EQ(walked->stop, WalkStop::kError);
  EXPECT_EQ(walked->error, ENOENT);
  EXPECT_EQ(walked->nodes.size(), 1U);
  walked = service.Walk("a/file/x");
  EXPECT_EQ(walked->error, ENOTDIR);
  EXPECT_EQ(walked->nodes.size(), 2U);
  walked = service.Walk("a/link/x");
  EXPECT_EQ(walked->stop, WalkStop::kSymlink);
  EXPECT_EQ(walked->nodes.size(), 2U);
  EXPECT_EQ(walked->target, "../elsewhere");
  EXPECT_EQ(*service.client().Readlink(walked->nodes.back().node), "../elsewhere");
}

TEST(Gofer, OneHandlePerInode) {
  TempTree tree;
  tree.Write("a", "");
  std::filesystem::create_hard_link(tree.At("a"), tree.At("b"));
  Service service(ConfigFor(tree.path()));
  EXPECT_EQ(service.Node("a"), service.Node("b"));
}

// A release has no answer: another thread may take the request that follows it first.
bool IsSoonGone(Service& service, NodeId node) {
  for (int tries = 0; tries < 10'000; ++tries) {
    if (ErrorOf(service.client().GetAttr(node)) == EBADF) return true;
    usleep(1000);
  }
  return false;
}

TEST(Gofer, ReleasedHandlesAreGone) {
  TempTree tree;
  tree.Mkdir("a/b");
  Service service(ConfigFor(tree.path()));
  const auto walked = service.Walk("a/b");
  const NodeId a = walked->nodes[0].node;
  const NodeId b = walked->nodes[1].node;
  service.client().Release(a);
  service.client().FlushReleases();
  EXPECT_TRUE(IsSoonGone(service, a));
  EXPECT_TRUE(service.client().GetAttr(b));  // whose path goes through it
  EXPECT_EQ(service.nodes().size(), 3U);
  service.client().Release(b);
  service.client().FlushReleases();
  EXPECT_TRUE(IsSoonGone(service, b));
  EXPECT_EQ(service.nodes().size(), 1U);
}

TEST(Gofer, ReferencesAreCounted) {
  TempTree tree;
  tree.Write("a", "");
  Service service(ConfigFor(tree.path()));
  const NodeId a = service.Node("a");
  EXPECT_EQ(service.Node("a"), a);
  service.client().Release(a);
  service.client().FlushReleases();
  EXPECT_TRUE(service.client().GetAttr(a));
  service.client().Release(a, 1000);
  service.client().FlushReleases();
  EXPECT_TRUE(IsSoonGone(service, a));
}

TEST(Gofer, DonatedDescriptorReadsAndMaps) {
  TempTree tree;
  tree.Write("file", "hello");
  Service service(ConfigFor(tree.path()));
  const NodeId node = service.Node("file");
  auto opened = service.client().Open(node, O_RDONLY);
  ASSERT_TRUE(opened);
  EXPECT_EQ(ReadAll(opened->file), "hello");
  void* p = mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, opened->file.get(), 0);
  ASSERT_NE(p, MAP_FAILED);
  EXPECT_EQ(memcmp(p, "hello", 5), 0);
  munmap(p, 4096);
  EXPECT_EQ(write(opened->file.get(), "x", 1), -1);
  opened = service.client().Open(node, O_RDWR | O_TRUNC);
  ASSERT_TRUE(opened);
  EXPECT_EQ(opened->attributes.size, 0U);
  EXPECT_EQ(pwrite(opened->file.get(), "new", 3, 0), 3);
  EXPECT_EQ(tree.Read("file"), "new");
}

TEST(Gofer, OpenRefusesWhatIsNoRegularFile) {
  TempTree tree;
  tree.Mkdir("dir");
  tree.Symlink("/etc/passwd", "link");
  mkfifo(tree.At("fifo").c_str(), 0600);
  Service service(ConfigFor(tree.path()));
  Client& client = service.client();
  EXPECT_EQ(ErrorOf(client.Open(service.Node("dir"), O_RDONLY)), EISDIR);
  EXPECT_EQ(ErrorOf(client.Open(service.Node("link"), O_RDONLY)), ELOOP);
  EXPECT_EQ(ErrorOf(client.Open(service.Node("fifo"), O_RDONLY)), EACCES);
  EXPECT_EQ(ErrorOf(client.Open(NodeId{99}, O_RDONLY)), EBADF);
  EXPECT_EQ(ErrorOf(client.Open(service.Node("dir"), O_PATH)), EINVAL);
  EXPECT_EQ(ErrorOf(client.Open(service.Node("dir"), O_DIRECTORY)), EINVAL);
}

TEST(Gofer, FifosOpenWithoutWaiting) {
  TempTree tree;
  mkfifo(tree.At("fifo").c_str(), 0600);
  ServerConfig config = ConfigFor(tree.path());
  config.allow_fifos = true;
  Service service(std::move(config));
  EXPECT_EQ(ErrorOf(service.client().Open(service.Node("fifo"), O_WRONLY)), ENXIO);
  const auto reader = service.client().Open(service.Node("fifo"), O_RDONLY);
  EXPECT_TRUE(reader);
  EXPECT_TRUE(service.client().Open(service.Node("fifo"), O_WRONLY));
}

TEST(Gofer, CreateMakesOpensAndOwns) {
  TempTree tree;
  Service service(ConfigFor(tree.path()));
  Client& client = service.client();
  const NodeId root = service.root();
  const auto created = client.Create(root, "f", {04751, 1234, 5678}, O_RDWR);
  ASSERT_TRUE(created) << created.error().code();
  EXPECT_EQ(pwrite(created->file.get(), "x", 1, 0), 1);
  EXPECT_EQ(created->node.attributes.mode, S_IFREG | 04751U);
  EXPECT_EQ(created->node.attributes.uid, 1234U);
  EXPECT_EQ(created->node.attributes.gid, 5678U);
  EXPECT_EQ(service.Node("f"), created->node.node);
  EXPECT_EQ(ErrorOf(client.Create(root, "f", {0600}, O_RDWR)), EEXIST);
  tree.Symlink("/tmp/outside", "dangling");
  EXPECT_EQ(ErrorOf(client.Create(root, "dangling", {0600}, O_RDWR)), EEXIST);
  EXPECT_EQ(ErrorOf(client.Create(root, "g", {0600}, O_DIRECTORY)), EINVAL);
  EXPECT_EQ(ErrorOf(client.Create(root, "g", {S_IFCHR | 0600}, O_RDWR)), EINVAL);
  EXPECT_EQ(ErrorOf(client.Create(created->node.node, "g", {0600}, O_RDWR)), ENOTDIR);
}

TEST(Gofer, AWalkMayOpenItsLastName) {
  TempTree tree;
  tree.Mkdir("d");
  tree.Write("d/f", "text");
  tree.Symlink("f", "d/l");
  Service service(ConfigFor(tree.path()));
  Client& client = service.client();
  using WalkOpens = Client::WalkOpens;
  const auto walk = [&](const std::string& path, WalkOpens opens) {
    const std::vector<std::string_view> names = Service::Split(path);
    return *client.Walk(service.root(), names, opens);
  };
  const Walked walked = walk("d/f", WalkOpens::kLast);
  ASSERT_TRUE(walked.file);
  EXPECT_EQ(ReadAll(walked.file), "text");
  EXPECT_EQ(write(walked.file.get(), "x", 1), -1);
  EXPECT_EQ(walked.nodes.size(), 2U);
  EXPECT_FALSE(walk("d/f", WalkOpens::kNo).file);
  EXPECT_FALSE(walk("d", WalkOpens::kLast).file);
  EXPECT_FALSE(walk("d/l", WalkOpens::kLast).file);
  EXPECT_FALSE(walk("d/none", WalkOpens::kLast).file);
  EXPECT_FALSE(walk("d/f/none", WalkOpens::kLast).file);
}

TEST(Gofer, MakesEveryKindOfInode) {
  TempTree tree;
  ServerConfig config = ConfigFor(tree.path());
  config.allow_fifos = true;
  Service service(std::move(config));
  Client& client = service.client();
  const NodeId root = service.root();
  const auto dir = client.Mkdir(root, "d", {02775, 7, 8});
  ASSERT_TRUE(dir);
  EXPECT_EQ(dir->attributes.mode, S_IFDIR | 02775U);
  EXPECT_EQ(dir->attributes.gid, 8U);
  const auto link = client.Symlink(dir->node, "l", "some/where", {0777, 7, 8});
  ASSERT_TRUE(link);
  EXPECT_EQ(link->attributes.uid, 7U);
  EXPECT_EQ(*client.Readlink(link->node), "some/where");
  const auto fifo = client.Mknod(dir->node, "p", {S_IFIFO | 0640});
  ASSERT_TRUE(fifo);
  EXPECT_EQ(fifo->attributes.mode, S_IFIFO | 0640U);
  EXPECT_EQ(ErrorOf(client.Mknod(root, "s", {S_IFSOCK | 0600})), EPERM);
  EXPECT_EQ(ErrorOf(client.Mknod(root, "c", {S_IFCHR | 0600})), EPERM);
  EXPECT_EQ(ErrorOf(client.Mknod(root, "b", {S_IFBLK | 0600})), EPERM);
  EXPECT_EQ(ErrorOf(client.Mkdir(root, "d", {0700})), EEXIST);
  EXPECT_EQ(ErrorOf(client.Symlink(root, "e", "", {0777})), ENOENT);
}

TEST(Gofer, LinksTheInodeNotTheName) {
  TempTree tree;
  tree.Write("a", "text");
  tree.Mkdir("d");
  tree.Symlink("nowhere", "s");
  Service service(ConfigFor(tree.path()));
  Client& client = service.client();
  const NodeId a = service.Node("a");
  const auto linked = client.Link(a, service.Node("d"), "b");
  ASSERT_TRUE(linked);
  EXPECT_EQ(linked->node, a);
  EXPECT_EQ(linked->attributes.nlink, 2U);
  EXPECT_EQ(tree.Read("d/b"), "text");
  ASSERT_TRUE(client.Link(service.Node("s"), service.root(), "s2"));
  EXPECT_EQ(std::filesystem::read_symlink(tree.At("s2")), "nowhere");
  EXPECT_EQ(ErrorOf(client.Link(service.Node("d"), service.root(), "x")), EPERM);
  EXPECT_EQ(ErrorOf(client.Link(a, service.root(), "a")), EEXIST);
}

TEST(Gofer, UnlinkedInodeLivesWithItsHandle) {
  TempTree tree;
  tree.Write("a", "text");
  Service service(ConfigFor(tree.path()));
  Client& client = service.client();
  const NodeId a = service.Node("a");
  ASSERT_TRUE(client.Unlink(service.root(), "a"));
  const auto attributes = client.GetAttr(a);
  ASSERT_TRUE(attributes);
  EXPECT_EQ(attributes->nlink, 0U);
  EXPECT_EQ(ReadAll(client.Open(a, O_RDONLY)->file), "text");
  EXPECT_EQ(ErrorOf(client.PathOf(a)), ENOENT);
  tree.Write("a", "other");
  EXPECT_NE(service.Node("a"), a);
  EXPECT_EQ(ErrorOf(client.Unlink(service.root(), "none")), ENOENT);
}

TEST(Gofer, HardLinkedFileKeepsItsOtherNames) {
  TempTree tree;
  tree.Write("a", "text");
  tree.Mkdir("d");
  Service service(ConfigFor(tree.path()));
  Client& client = service.client();
  const NodeId a = service.Node("a");
  const NodeId root = service.root();
  ASSERT_TRUE(client.Link(a, service.Node("d"), "b"));
  ASSERT_TRUE(client.Link(a, root, "c"));
  EXPECT_TRUE(client.Rename(root, "a", root, "c", 0));  // both stay
  EXPECT_EQ(service.Node("a"), a);
  ASSERT_TRUE(client.Unlink(root, "c"));
  ASSERT_TRUE(client.Unlink(root, "a"));
  EXPECT_EQ(client.PathOf(a)->path, "d/b");
  ASSERT_TRUE(client.Unlink(service.Node("d"), "b"));
  EXPECT_EQ(ErrorOf(client.PathOf(a)), ENOENT);
  EXPECT_EQ(client.GetAttr(a)->nlink, 0U);
}

TEST(Gofer, RemovesDirectories) {
  TempTree tree;
  tree.Mkdir("d/e");
  tree.Write("f", "");
  Service service(ConfigFor(tree.path()));
  Client& client = service.client();
  EXPECT_EQ(ErrorOf(client.Unlink(service.root(), "d")), EISDIR);
  EXPECT_EQ(ErrorOf(client.Rmdir(service.root(), "d")), ENOTEMPTY);
  EXPECT_EQ(ErrorOf(client.Rmdir(service.root(), "f")), ENOTDIR);
  const NodeId e = service.Node("d/e");
  ASSERT_TRUE(client.Rmdir(service.Node("d"), "e"));
  EXPECT_EQ(ErrorOf(client.Create(e, "x", {0600}, O_RDWR)), ENOENT);
  EXPECT_EQ(ErrorOf(client.Readdir(e, 0, false)), ENOENT);  // as getdents64 has it
}

TEST(Gofer, RenameKeepsHandles) {
  TempTree tree;
  tree.Mkdir("d/sub");
  tree.Mkdir("e");
  tree.Write("d/sub/f", "moved");
  tree.Write("e/g", "replaced");
  Service service(ConfigFor(tree.path()));
  Client& client = service.client();
  const NodeId d = service.Node("d");
  const NodeId e = service.Node("e");
  const NodeId f = service.Node("d/sub/f");
  const NodeId g = service.Node("e/g");
  EXPECT_EQ(ErrorOf(client.Rename(service.Node("d/sub"), "f", e, "g", 1)), EEXIST);
  ASSERT_TRUE(client.Rename(service.Node("d/sub"), "f", e, "g", 0));
  EXPECT_EQ(client.PathOf(f)->path, "e/g");
  EXPECT_EQ(ReadAll(client.Open(f, O_RDONLY)->file), "moved");
  EXPECT_EQ(ReadAll(client.Open(g, O_RDONLY)->file), "replaced");
  EXPECT_EQ(ErrorOf(client.PathOf(g)), ENOENT);
  ASSERT_TRUE(client.Rename(service.root(), "e", d, "e2", 0));
  EXPECT_EQ(client.PathOf(f)->path, "d/e2/g");
  EXPECT_EQ(ErrorOf(client.Rename(service.root(), "d", e, "x", 0)), EINVAL);
  ASSERT_TRUE(client.Rename(d, "sub", d, "e2", 2));
  EXPECT_EQ(client.PathOf(f)->path, "d/sub/g");
  EXPECT_EQ(service.Node("d/sub"), e);
  EXPECT_EQ(ErrorOf(client.Rename(d, "e2", d, "sub", 4)), EINVAL);
}

TEST(Gofer, SetAttrChangesWhatItsMaskSays) {
  TempTree tree;
  tree.Write("f", "0123456789");
  Service service(ConfigFor(tree.path()));
  SetAttrRequest change;
  change.node = service.Node("f");
  change.mask = kSetMode | kSetUid | kSetSize | kSetAtime | kSetMtime;
  change.mode = 06711;
  change.uid = 42;
  change.gid = 43;
  change.size = 4;
  change.atime_sec = 1000;
  change.mtime_sec = -5;
  change.mtime_nsec = 7;
  const auto after = service.client().SetAttr(change);
  ASSERT_TRUE(after);
  EXPECT_EQ(after->mode, S_IFREG | 06711U);
  EXPECT_EQ(after->uid, 42U);
  EXPECT_EQ(after->gid, getgid());
  EXPECT_EQ(after->size, 4U);
  EXPECT_EQ(after->atime_sec, 1000);
  EXPECT_EQ(after->mtime_sec, -5);
  EXPECT_EQ(after->mtime_nsec, 7U);
  change.mask = kSetMtimeNow;
  EXPECT_GT(service.client().SetAttr(change)->mtime_sec, 1'000'000'000);
  change.mask = kSetSize;
  change.size = UINT64_MAX;
  EXPECT_EQ(ErrorOf(service.client().SetAttr(change)), EINVAL);
  change.mask = 1 << 20;
  EXPECT_EQ(ErrorOf(service.client().SetAttr(change)), EINVAL);
}

TEST(Gofer, SetAttrOfASymlinkIsTheSymlinks) {
  TempTree tree;
  tree.Write("f", "");
  tree.Symlink("f", "l");
  Service service(ConfigFor(tree.path()));
  SetAttrRequest change;
  change.node = service.Node("l");
  change.mask = kSetUid | kSetMtime;
  change.uid = 42;
  change.mtime_sec = 99;
  ASSERT_TRUE(service.client().SetAttr(change));
  EXPECT_EQ(service.client().GetAttr(service.Node("f"))->uid, getuid());
  EXPECT_EQ(service.client().GetAttr(change.node)->uid, 42U);
  change.mask = kSetMode;
  EXPECT_EQ(ErrorOf(service.client().SetAttr(change)), EOPNOTSUPP);
}

TEST(Gofer, Statfs) {
  TempTree tree;
  Service service(ConfigFor(tree.path()));
  const auto statistics = service.client().Statfs(service.root());
  ASSERT_TRUE(statistics);
  EXPECT_GT(statistics->blocks, 0U);
  EXPECT_EQ(statistics->name_max, 255U);
}

TEST(Gofer, Fsync) {
  TempTree tree;
  tree.Write("f", "x");
  Service service(ConfigFor(tree.path()));
  EXPECT_TRUE(service.client().Fsync(service.Node("f"), true));
  EXPECT_TRUE(service.client().Fsync(service.root(), false));
}

TEST(Gofer, ExtendedAttributes) {
  TempTree tree;
  tree.Write("f", "x");
  Service service(ConfigFor(tree.path()));
  Client& client = service.client();
  const NodeId f = service.Node("f");
  const std::string value = "value";
  ASSERT_TRUE(client.SetXattr(f, "user.a", std::as_bytes(std::span(value)), 0));
  EXPECT_EQ(ErrorOf(client.SetXattr(f, "user.a", std::as_bytes(std::span(value)), XATTR_CREATE)),
            EEXIST);
  std::array<std::byte, 64> buffer;
  EXPECT_EQ(client.GetXattr(f, "user.a", buffer).value(), 5U);
  EXPECT_EQ(memcmp(buffer.data(), "value", 5), 0);
  EXPECT_EQ(client.GetXattr(f, "user.a", {}).value(), 5U);
  EXPECT_EQ(ErrorOf(client.GetXattr(f, "user.a", std::span(buffer).first(2))), ERANGE);
  EXPECT_EQ(ErrorOf(client.GetXattr(f, "user.b", buffer)), ENODATA);
  ASSERT_EQ(setxattr(tree.At("f").c_str(), "trusted.host", "1", 1, 0), 0);
  EXPECT_EQ(ErrorOf(client.GetXattr(f, "trusted.host", buffer)), EOPNOTSUPP);
  ASSERT_EQ(client.ListXattr(f, buffer).value(), 7U);
  EXPECT_EQ(memcmp(buffer.data(), "user.a", 7), 0);
  EXPECT_EQ(client.ListXattr(f, {}).value(), 7U);
  ASSERT_TRUE(client.RemoveXattr(f, "user.a"));
  EXPECT_EQ(ErrorOf(client.RemoveXattr(f, "user.a")), ENODATA);
  std::vector<std::byte> huge(kXattrSizeMax + 1);
  EXPECT_EQ(ErrorOf(client.SetXattr(f, "user.a", huge, 0)), E2BIG);
}

TEST(Gofer, ReaddirOfABigDirectory) {
  TempTree tree;
  tree.Mkdir("big");
  constexpr int kEntries = 20'000;
  for (int i = 0; i < kEntries; ++i) {
    close(open(tree.At("big/entry" + std::to_string(i)).c_str(), O_CREAT | O_WRONLY, 0600));
  }
  ServerConfig config = ConfigFor(tree.path());
  config.max_open_fds = 256;
  Service service(std::move(config));
  const NodeId big = service.Node("big");
  for (const bool with_nodes : {false, true}) {
    std::set<std::string> names;
    uint64_t cookie = 0;
    for (;;) {
      const auto page = service.client().Readdir(big, cookie, with_nodes);
      ASSERT_TRUE(page);
      for (const DirEntry& entry : page->entries) {
        EXPECT_EQ(entry.type, 8);  // DT_REG
        EXPECT_EQ(entry.node.node != NodeId::kNone, with_nodes);
        EXPECT_EQ(entry.node.attributes.ino, with_nodes ? entry.ino : 0);
        names.insert(entry.name);
        cookie = entry.next_cookie;
      }
      if (page->at_end) break;
    }
    EXPECT_EQ(names.size(), size_t{kEntries});
  }
  // All of them are known, few are open, and each can be opened again.
  EXPECT_GT(service.nodes().size(), size_t{kEntries});
  for (int i = 0; i < 1000; ++i) {
    const NodeId node = service.Node("big/entry" + std::to_string(i));
    ASSERT_TRUE(service.client().Open(node, O_RDONLY));
  }
  EXPECT_LE(service.nodes().open_fds(), 256U);
}

TEST(Gofer, ReaddirResumesAtACookie) {
  TempTree tree;
  for (char c = 'a'; c < 'k'; ++c) tree.Write(std::string(1, c), "");
  Service service(ConfigFor(tree.path()));
  const auto all = service.client().Readdir(service.root(), 0, false);
  ASSERT_EQ(all->entries.size(), 10U);
  EXPECT_TRUE(all->at_end);
  const auto rest = service.client().Readdir(service.root(), all->entries[3].next_cookie, false);
  ASSERT_EQ(rest->entries.size(), 6U);
  EXPECT_EQ(rest->entries[0].name, all->entries[4].name);
  EXPECT_EQ(ErrorOf(service.client().Readdir(service.root(), UINT64_MAX, false)), EINVAL);
}

TEST(Gofer, PathsSurviveIntoANewGofer) {
  TempTree tree;
  tree.Mkdir("a/b");
  tree.Write("a/b/f", "text");
  NodeId file;
  NodeId dir;
  NodePath file_path;
  {
    Service before(ConfigFor(tree.path()));
    EXPECT_EQ(before.Node("a"), NodeId{2});
    dir = before.Node("a/b");
    file = before.Node("a/b/f");
    file_path = *before.client().PathOf(file);
    EXPECT_EQ(before.client().PathOf(before.root())->path, "");
  }
  EXPECT_EQ(file_path.path, "a/b/f");
  Service after(ConfigFor(tree.path()));
  Client& client = after.client();
  ASSERT_TRUE(client.Reopen(file, 0, file_path.path));  // the child first
  ASSERT_TRUE(client.Reopen(dir, 0, "a/b"));
  EXPECT_EQ(ErrorOf(client.Reopen(NodeId{2}, 0, "gone")), ENOENT);
  EXPECT_EQ(after.Node("a/b/f"), file);
  EXPECT_EQ(after.Node("a/b"), dir);
  EXPECT_EQ(ReadAll(client.Open(file, O_RDONLY)->file), "text");
  EXPECT_GT(after.Node("a"), file);  // 2 was another inode: no new handle is equal to it
  EXPECT_EQ(ErrorOf(client.Reopen(NodeId{77}, 0, "a/b")), EEXIST);
  EXPECT_EQ(ErrorOf(client.Reopen(NodeId{78}, 0, "a/../a")), EINVAL);
  EXPECT_EQ(ErrorOf(client.Reopen(NodeId{UINT64_MAX}, 0, "a/b/f")), EINVAL);
  EXPECT_EQ(ErrorOf(client.Reopen(NodeId{79}, 0, "none")), ENOENT);
}

TEST(Gofer, SingleFileAttachPoint) {
  TempTree tree;
  tree.Write("f", "text");
  Service service(ConfigFor(tree.At("f"), true));
  EXPECT_EQ(ReadAll(service.client().Open(service.root(), O_RDONLY)->file), "text");
  EXPECT_EQ(ErrorOf(service.client().Open(service.root(), O_RDWR)), EROFS);
  EXPECT_EQ(service.Walk("x")->error, ENOTDIR);
}

TEST(Gofer, TwoThreadsShareAClient) {
  TempTree tree;
  tree.Mkdir("d");
  for (int i = 0; i < 8; ++i) tree.Write("d/" + std::to_string(i), std::to_string(i));
  Service service(ConfigFor(tree.path()));
  const NodeId d = service.Node("d");
  std::atomic<int> wrong = 0;
  const auto work = [&](int seed) {
    for (int i = 0; i < 5000; ++i) {
      const std::string name = std::to_string((i + seed) % 8);
      const std::string_view names[] = {name};
      const auto walked = service.client().Walk(d, names);
      if (!walked || walked->nodes.size() != 1) {
        ++wrong;
        continue;
      }
      const auto opened = service.client().Open(walked->nodes[0].node, O_RDONLY);
      if (!opened || ReadAll(opened->file) != name) ++wrong;
      service.client().Release(walked->nodes[0].node);
    }
  };
  std::thread other(work, 3);
  work(0);
  other.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Gofer, WalksThreeHundredComponents) {
  TempTree tree;
  std::string path;
  OwnedFd at(open(tree.path().c_str(), O_PATH));
  for (int i = 0; i < 300; ++i) {
    const std::string name = "component" + std::to_string(i);
    ASSERT_EQ(mkdirat(at.get(), name.c_str(), 0700), 0);
    at = OwnedFd(openat(at.get(), name.c_str(), O_PATH));
    path += (path.empty() ? "" : "/") + name;
  }
  ServerConfig config = ConfigFor(tree.path());
  config.max_open_fds = 128;
  Service service(std::move(config));
  const auto walked = service.Walk(path);
  ASSERT_TRUE(walked);
  EXPECT_EQ(walked->nodes.size(), 300U);
  EXPECT_EQ(service.client().PathOf(walked->nodes.back().node)->path, path);
  for (const NodeRecord& node : walked->nodes) ASSERT_TRUE(service.client().GetAttr(node.node));
  ASSERT_TRUE(service.client().Create(walked->nodes.back().node, "f", {0600}, O_RDWR));
  EXPECT_LE(service.nodes().open_fds(), 128U);
}

TEST(Gofer, WalkLongerThanAMessageGoesOn) {
  TempTree tree;
  OwnedFd at(open(tree.path().c_str(), O_PATH));
  std::string path;
  for (int i = 0; i < 1500; ++i) {
    ASSERT_EQ(mkdirat(at.get(), "d", 0700), 0);
    at = OwnedFd(openat(at.get(), "d", O_PATH));
    path += path.empty() ? "d" : "/d";
  }
  Service service(ConfigFor(tree.path()));
  const auto walked = service.Walk(path);
  ASSERT_TRUE(walked);
  EXPECT_EQ(walked->stop, WalkStop::kDone);
  EXPECT_EQ(walked->nodes.size(), 1500U);
}

TEST(Gofer, TooManyHandles) {
  TempTree tree;
  for (int i = 0; i < 20; ++i) tree.Write(std::to_string(i), "");
  ServerConfig config = ConfigFor(tree.path());
  config.max_nodes = 10;
  Service service(std::move(config));
  int last = 0;
  for (int i = 0; i < 20; ++i) last = service.Walk(std::to_string(i))->error;
  EXPECT_EQ(last, EMFILE);
  EXPECT_EQ(service.nodes().size(), 10U);
}

}  // namespace
}  // namespace skep::gofer
