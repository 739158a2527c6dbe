// A gofer as a process of its own, in its jail.
#include "gofer/main/gofer_main.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <csignal>
#include <cstdio>

#include "gofer/server/test_tree.h"

namespace skep::gofer {
namespace {

// Sanitizers make system calls of their own, in the filter's reach too.
#ifdef SKEP_NO_ARENA
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
#define SKIP_IF_SANITIZED() \
  if (kSanitized) GTEST_SKIP() << "the sanitizer's own calls are not in the filter"

// Runs `body` in a child; its wait status.
template <class Body>
int InChild(Body body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  int status = 0;
  waitpid(pid, &status, 0);
  return status;
}

// A gofer in a child process, and a client of it.
class Process {
 public:
  // `before` runs in the child and may change who it is.
  explicit Process(GoferConfig config, int (*before)() = nullptr) {
    host::SocketPair control = *host::MakeSocketPair(SOCK_SEQPACKET);
    host::SocketPair data = *host::MakeSocketPair(SOCK_SEQPACKET);
    pid_ = fork();
    if (pid_ == 0) {
      if (before != nullptr && before() != 0) _exit(77);
      control.a.Reset();
      data.a.Reset();
      _exit(GoferMain(control.b.Release()));
    }
    control.b.Reset();
    config.client = std::move(data.b);
    sent_ = SendConfig(control.a.get(), config).has_value();
    config = GoferConfig();
    const Result<JailReport> report = ReceiveReport(control.a.get());
    up_ = report.has_value();
    if (report) report_ = *report;
    client_ = std::make_unique<Client>(std::move(data.a));
  }
  ~Process() { (void)End(); }
  int End() {
    if (pid_ < 0) return -1;
    client_.reset();
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }
  bool up() const { return sent_ && up_; }
  const JailReport& report() const { return report_; }
  Client& client() { return *client_; }

 private:
  pid_t pid_ = -1;
  bool sent_ = false;
  bool up_ = false;
  JailReport report_;
  std::unique_ptr<Client> client_;
};

GoferConfig JailConfig(const TempTree& tree, bool read_only = false) {
  GoferConfig config;
  config.attach_points.push_back({PathFd(tree.path()), read_only});
  config.namespaces = AllNamespaces();
  return config;
}

// Every kind of call once: none may be missing from the filter.
void UseEverything(Client& client, bool change_owner) {
  const NodeId root = client.Attach(0)->root.node;
  const NewNode what = {0640, change_owner ? 12U : kKeepId, change_owner ? 34U : kKeepId};
  const auto created = client.Create(root, "new", what, O_RDWR);
  ASSERT_TRUE(created) << created.error().code();
  ASSERT_EQ(pwrite(created->file.get(), "data", 4, 0), 4);
  const NodeId file = created->node.node;
  EXPECT_TRUE(client.Mkdir(root, "dir", {02755}));
  EXPECT_TRUE(client.Mknod(root, "fifo", {S_IFIFO | 0600}));
  const auto link = client.Symlink(root, "link", "new", {0777});
  ASSERT_TRUE(link);
  EXPECT_EQ(client.Readlink(link->node).value_or(""), "new");
  EXPECT_EQ(ErrorOf(client.Link(file, root, "hard")), 0);
  EXPECT_TRUE(client.Rename(root, "hard", root, "harder", 0));
  EXPECT_TRUE(client.Unlink(root, "harder"));
  EXPECT_TRUE(client.Rmdir(root, "dir"));
  SetAttrRequest change;
  change.node = file;
  change.mask = kSetMode | kSetSize | kSetMtime | kSetAtimeNow;
  change.mode = 0600;
  change.size = 2;
  EXPECT_EQ(ErrorOf(client.SetAttr(change)), 0);
  const std::byte value[3] = {};
  std::array<std::byte, 64> buffer;
  EXPECT_EQ(ErrorOf(client.SetXattr(file, "user.a", value, 0)), 0);
  EXPECT_EQ(client.GetXattr(file, "user.a", buffer).value_or(0), 3U);
  EXPECT_EQ(client.ListXattr(file, buffer).value_or(0), 7U);
  EXPECT_TRUE(client.RemoveXattr(file, "user.a"));
  EXPECT_TRUE(client.Fsync(file, false));
  EXPECT_TRUE(client.Fsync(file, true));
  EXPECT_TRUE(client.Statfs(root));
  EXPECT_EQ(client.PathOf(file)->path, "new");
  const auto page = client.Readdir(root, 0, true);
  ASSERT_TRUE(page);
  EXPECT_EQ(page->entries.size(), 3U);
  const auto opened = client.Open(file, O_RDONLY);
  ASSERT_TRUE(opened) << opened.error().code();
  EXPECT_EQ(ReadAll(opened->file), "da");
  EXPECT_TRUE(client.Unlink(root, "new"));
  EXPECT_TRUE(client.Open(file, O_RDONLY));
}

TEST(GoferMain, ServesFromItsJail) {
  SKIP_IF_SANITIZED();
  TempTree tree;
  GoferConfig config = JailConfig(tree);
  config.allow_fifos = true;
  Process process(std::move(config));
  ASSERT_TRUE(process.up());
  EXPECT_EQ(process.report().trees_isolated, 1U);
  EXPECT_EQ(process.report().namespaces, AllNamespaces());
  EXPECT_EQ(process.report().root_empty, 1U);
  EXPECT_EQ(process.report().capabilities_dropped, 1U);
  EXPECT_EQ(process.report().filtered, 1U);
  UseEverything(process.client(), true);
  EXPECT_EQ(process.End(), 0);
}

TEST(GoferMain, SelfTestFindsNoWayOut) {
  TempTree tree;
  GoferConfig config = JailConfig(tree);
  config.self_test = true;
  Process process(std::move(config));
  ASSERT_TRUE(process.up());
  EXPECT_EQ(process.report().breaches, 0U);
}

// The self test must be able to fail.
TEST(GoferMain, SelfTestSeesAnOpenDoor) {
  SKIP_IF_SANITIZED();
  TempTree tree;
  const int status = InChild([&] {
    const OwnedFd root = PathFd(tree.path());
    const OwnedFd proc = PathFd("/proc/self/fd");
    if (!InstallFilter(jail::Refusal::kErrno)) return 1;
    const int trees[] = {root.get()};
    const uint32_t expected =
        static_cast<uint32_t>(Breach::kOpenOutside) | static_cast<uint32_t>(Breach::kLeaveTree);
    return TryToBreakOut(trees, proc.get()) == expected ? 0 : 2;
  });
  EXPECT_EQ(status, 0);
}

TEST(GoferMain, ForbiddenCallKills) {
  for (const long number : {SYS_execve, SYS_socket, SYS_kill, SYS_ptrace, SYS_clone, SYS_openat,
                            SYS_mount, SYS_chroot, SYS_io_uring_setup, SYS_process_vm_readv}) {
    const int status = InChild([&] {
      if (!InstallFilter(jail::Refusal::kKill)) return 1;
      (void)host::Call(number, 0, 0, 0, 0, 0, 0);
      return 0;
    });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << number;
  }
}

TEST(GoferMain, DeviceNodesCannotBeMadeEvenByABrokenGofer) {
  SKIP_IF_SANITIZED();
  const int status = InChild([] {
    if (!InstallFilter(jail::Refusal::kErrno)) return 1;
    const auto made = host::Call(SYS_mknodat, AT_FDCWD, "/tmp/gofer_dev", S_IFCHR | 0600, 259);
    return !made && made.error() == Errno(EPERM) ? 0 : 2;
  });
  EXPECT_EQ(status, 0);
}

TEST(GoferMain, ReadOnlyTreeIsReadOnlyToTheHostKernel) {
  TempTree tree;
  tree.Write("f", "text");
  const Result<OwnedFd> isolated = IsolateTree(PathFd(tree.path()).get(), true);
  ASSERT_TRUE(isolated);
  EXPECT_EQ(openat(isolated->get(), "f", O_RDWR), -1);
  EXPECT_EQ(errno, EROFS);
  Process process(JailConfig(tree, true));
  ASSERT_TRUE(process.up());
  const NodeId root = process.client().Attach(0)->root.node;
  EXPECT_EQ(ErrorOf(process.client().Mkdir(root, "d", {0700})), EROFS);
}

TEST(GoferMain, SingleFileAndManyAttachPoints) {
  TempTree tree;
  tree.Write("f", "text");
  GoferConfig config = JailConfig(tree);
  for (int i = 1; i < static_cast<int>(kMaxAttachPoints); ++i) {
    config.attach_points.push_back({PathFd(tree.At("f")), true});
  }
  Process process(std::move(config));
  ASSERT_TRUE(process.up());
  EXPECT_EQ(process.client().Mounts()->size(), kMaxAttachPoints);
  const NodeId file = process.client().Attach(59)->root.node;
  EXPECT_EQ(ReadAll(process.client().Open(file, O_RDONLY)->file), "text");
}

TEST(GoferMain, OverTheRootOfTheHost) {
  GoferConfig config;
  config.attach_points.push_back({PathFd("/"), true});
  config.hidden = {{0, "dev"}};
  config.namespaces = AllNamespaces();
  Process process(std::move(config));
  ASSERT_TRUE(process.up());
  EXPECT_EQ(process.report().trees_isolated, 1U);
  Client& client = process.client();
  const NodeId root = client.Attach(0)->root.node;
  const std::string_view passwd[] = {"etc", "passwd"};
  const auto walked = client.Walk(root, passwd);
  ASSERT_EQ(walked->nodes.size(), 2U);
  EXPECT_TRUE(client.Open(walked->nodes[1].node, O_RDONLY));
  for (const char* name : {"proc", "sys", "dev"}) {
    const std::string_view names[] = {name};
    const auto hidden = client.Walk(root, names);
    ASSERT_EQ(hidden->nodes.size(), 1U);
    EXPECT_TRUE(client.Readdir(hidden->nodes[0].node, 0, true)->entries.empty()) << name;
  }
}

// What an ordinary user's CLI does first: a user namespace in which it is root over itself.
int BecomeUserInNamespace() {
  if (setgid(1000) != 0 || setuid(1000) != 0) return 1;
  prctl(PR_SET_DUMPABLE, 1);  // setuid took it, and with it /proc/self/uid_map
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return 1;
  const auto put = [](const char* path, const char* text) {
    const OwnedFd fd(open(path, O_WRONLY));
    return write(fd.get(), text, strlen(text)) > 0;
  };
  if (!put("/proc/self/setgroups", "deny")) return 1;
  return put("/proc/self/uid_map", "0 1000 1") && put("/proc/self/gid_map", "0 1000 1") ? 0 : 1;
}

TEST(GoferMain, OrdinaryUserInAUserNamespace) {
  TempTree tree;
  ASSERT_EQ(chown(tree.path().c_str(), 1000, 1000), 0);
  GoferConfig config = JailConfig(tree);
  config.allow_fifos = true;
  Process process(std::move(config), &BecomeUserInNamespace);
  if (WEXITSTATUS(process.up() ? 0 : process.End()) == 77) GTEST_SKIP() << "no user namespaces";
  ASSERT_TRUE(process.up());
  EXPECT_EQ(process.report().namespaces, AllNamespaces());
  EXPECT_EQ(process.report().root_empty, 1U);
  EXPECT_EQ(process.report().filtered, 1U);
  UseEverything(process.client(), false);
  const NodeId root = process.client().Attach(0)->root.node;
  EXPECT_EQ(ErrorOf(process.client().Create(root, "x", {0600, 5, 5}, O_RDWR)), EINVAL);
  EXPECT_FALSE(std::filesystem::exists(tree.At("x")));
}

TEST(GoferMain, OrdinaryUserWithNothing) {
  TempTree tree;
  ASSERT_EQ(chown(tree.path().c_str(), 1000, 1000), 0);
  GoferConfig config = JailConfig(tree);
  config.allow_fifos = true;
  Process process(std::move(config), [] { return setgid(1000) == 0 && setuid(1000) == 0 ? 0 : 1; });
  ASSERT_TRUE(process.up());
  EXPECT_EQ(process.report().trees_isolated, 0U);
  EXPECT_EQ(process.report().filtered, 1U);
  UseEverything(process.client(), false);
}

TEST(GoferMain, EndsWithItsClient) {
  SKIP_IF_SANITIZED();
  TempTree tree;
  Process process(JailConfig(tree));
  ASSERT_TRUE(process.up());
  EXPECT_EQ(process.End(), 0);
}

// Not a test of speed: prints what a round trip costs with both ends on one CPU.
TEST(GoferMain, PrintsTheCostOfARoundTrip) {
  TempTree tree;
  tree.Mkdir("a/b/c");
  tree.Write("a/b/c/f", "");
  cpu_set_t old_set;
  cpu_set_t one;
  sched_getaffinity(0, sizeof old_set, &old_set);
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  sched_setaffinity(0, sizeof one, &one);
  Process process(JailConfig(tree));
  ASSERT_TRUE(process.up());
  Client& client = process.client();
  const NodeId root = client.Attach(0)->root.node;
  const std::string_view names[] = {"a", "b", "c", "f"};
  const NodeId file = client.Walk(root, names)->nodes.back().node;
  const auto time = [](const char* what, auto call) {
    double best_ns = 1e9;  // of many short batches: others use this CPU too
    for (int batch = 0; batch < 100; ++batch) {
      constexpr int kTimes = 200;
      const uint64_t start = host::MonotonicNs();
      for (int i = 0; i < kTimes; ++i) call();
      best_ns = std::min(best_ns, static_cast<double>(host::MonotonicNs() - start) / kTimes);
    }
    printf("%-28s %6.2f us\n", what, best_ns / 1000);
  };
  const uint64_t start = host::MonotonicNs();
  {
    Process another(JailConfig(tree));
  }
  printf("%-28s %6.2f ms\n", "a gofer's whole life",
         static_cast<double>(host::MonotonicNs() - start) / 1e6);
  time("GetAttr", [&] { (void)client.GetAttr(file); });
  time("Walk of four names", [&] { (void)client.Walk(root, names); });
  time("Open (and close)", [&] { (void)client.Open(file, O_RDONLY); });
  time("Walk to ENOENT", [&] {
    const std::string_view none[] = {"none"};
    (void)client.Walk(root, none);
  });
  sched_setaffinity(0, sizeof old_set, &old_set);
}

}  // namespace
}  // namespace skep::gofer
