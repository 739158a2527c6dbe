// A process with all capabilities in a user namespace below the first: refused where Linux asks in
// the first or in the owner's, allowed where it asks in the process's own; and how it numbers
// users.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/ioprio.h>
#include <linux/reboot.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "sentry/auth/exec_credentials.h"
#include "sentry/syscalls/test_kernel.h"

namespace skep::syscalls {
namespace {

using Guest = TestKernel::Guest;
using auth::IdMap;
using auth::UserNamespace;

constexpr uint64_t kIgnored = ~uint64_t{0};
// The namespace's ids from 0 on are the kernel's from here on.
constexpr uint32_t kFirst = 100'000, kCount = 65'536;
constexpr uint64_t kCwd = static_cast<uint64_t>(AT_FDCWD);

struct UserNamespaceTest : ::testing::Test {
  TestKernel kernel;
  Guest init = kernel.init();
  Ref<UserNamespace> below;

  void SetUp() override {
    const arena::ArenaHeapScope arena;
    const IdMap map({{0, kFirst, kCount}});
    below = MakeRef<UserNamespace>(kernel.kernel().user_namespace, 0u,
                                   kernel.kernel().NextNamespaceNumber(), map, map);
  }
  void TearDown() override { below = {}; }

  // A process that is root of `below` and has left the first namespace.
  Guest Inside() {
    Guest child = init.Fork();
    const arena::ArenaHeapScope arena;
    auto creds = std::make_shared<auth::Credentials>(child.task().creds());
    creds->uid = creds->euid = creds->suid = creds->fsuid = kFirst;
    creds->gid = creds->egid = creds->sgid = creds->fsgid = kFirst;
    creds->permitted = creds->effective = auth::kAllCapabilities;
    creds->user_namespace = below;
    kernel::TasksLock lock(kernel.kernel());
    child.task().credentials.Set(std::move(creds));
    return child;
  }
  // ... and is in uts and net namespaces that `below` owns.
  Guest InsideWithItsOwn() {
    Guest child = Inside();
    const arena::ArenaHeapScope arena;
    kernel::Kernel& k = kernel.kernel();
    auto set = MakeRef<kernel::Namespaces>();
    const kernel::Namespaces& old = *child.task().namespaces;
    set->uts = MakeRef<kernel::UtsNamespace>(below, k.NextNamespaceNumber(), "inside", "(none)");
    set->ipc = old.ipc, set->cgroup = old.cgroup, set->pids_of_children = old.pids_of_children;
    set->net = k.NewNetNamespace(below);
    kernel::TasksLock lock(k);
    child.task().namespaces.Set(std::move(set));
    return child;
  }

  // A file of the kernel's user and group `owner`, made by the first namespace's root.
  uint64_t File(const std::string& path, uint32_t owner, uint32_t mode) {
    const int64_t fd = init.Run(SYS_open, {init.Text(path), O_CREAT | O_EXCL | O_RDWR, 0600});
    EXPECT_GE(fd, 0);
    EXPECT_EQ(init.Run(SYS_fchown, {static_cast<uint64_t>(fd), owner, owner}), 0);
    EXPECT_EQ(init.Run(SYS_fchmod, {static_cast<uint64_t>(fd), mode}), 0);
    EXPECT_EQ(init.Run(SYS_close, {static_cast<uint64_t>(fd)}), 0);
    return 0;
  }
};

// A call, and what each of the two answers.
struct Row {
  const char* what;
  int64_t in_first, inside;
  std::function<int64_t(Guest&)> call;
};

void ExpectRows(UserNamespaceTest& test, std::span<const Row> rows) {
  test.File("/mapped", kFirst + 7, 0600);
  test.File("/unmapped", 5, 0600);
  Guest inside = test.Inside();
  Guest outside = test.init.Fork();
  for (const Row& row : rows) {
    EXPECT_EQ(row.call(inside), row.inside) << row.what << ", inside";
    EXPECT_EQ(row.call(outside), row.in_first) << row.what << ", in the first namespace";
    (void)test.init.Run(SYS_unlink, {test.init.Text("/device")});
    EXPECT_EQ(test.init.Run(SYS_chown, {test.init.Text("/mapped"), kFirst + 7, kFirst + 7}), 0);
  }
}

int64_t RaiseHardLimit(Guest& g) {
  const uint64_t limit = g.Allocate(sizeof(rlimit));
  g.Put(limit, rlimit{95'000, 96'000});  // of SIGPENDING: above the hard limit
  return g.Run(SYS_prlimit64, {0, RLIMIT_SIGPENDING, limit, 0});
}

int64_t GrowPipe(Guest& g) {
  const uint64_t fds = g.Allocate(8);
  EXPECT_EQ(g.Run(SYS_pipe2, {fds, 0}), 0);
  const auto fd = static_cast<uint64_t>(g.Get<int32_t>(fds));
  return std::min<int64_t>(g.Run(SYS_fcntl, {fd, F_SETPIPE_SZ, 2 << 20}), 0);
}

template <int name>
int64_t SetOption(Guest& g) {
  const int64_t fd = g.Run(SYS_socket, {AF_UNIX, SOCK_STREAM, 0});
  EXPECT_GE(fd, 0);
  const uint64_t value = g.Allocate(4);
  g.Put<int32_t>(value, 4096);
  return g.Run(SYS_setsockopt,
               {static_cast<uint64_t>(fd), SOL_SOCKET, static_cast<uint64_t>(name), value, 4});
}

std::function<int64_t(Guest&)> Opening(const char* path) {
  return [path](Guest& g) { return std::min<int64_t>(g.Run(SYS_open, {g.Text(path), O_RDWR}), 0); };
}

std::function<int64_t(Guest&)> SettingXattr(const char* name) {
  return [name](Guest& g) {
    return g.Run(SYS_setxattr, {g.Text("/mapped"), g.Text(name), g.Text("v"), 1, 0});
  };
}

TEST_F(UserNamespaceTest, WhatIsEverybodysAsksInTheFirst) {
  const Row rows[] = {
      {"a higher hard limit", 0, -EPERM, RaiseHardLimit},
      {"a pipe above the limit", 0, -EPERM, GrowPipe},
      {"SO_SNDBUFFORCE", 0, -EPERM, SetOption<SO_SNDBUFFORCE>},
      {"a lower nice value", 0, -EACCES,
       [](Guest& g) {
         return g.Run(SYS_setpriority, {PRIO_PROCESS, 0, static_cast<uint64_t>(-5)});
       }},
      {"a real-time I/O priority", 0, -EPERM,
       [](Guest& g) {
         return g.Run(SYS_ioprio_set,
                      {IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_RT, 0)});
       }},
      {"a device", 0, -EPERM,
       [](Guest& g) {
         return g.Run(SYS_mknod, {g.Text("/device"), S_IFCHR | 0600, makedev(1, 3)});
       }},
      {"the kernel log", 0, -EPERM, [](Guest& g) { return g.Run(SYS_syslog, {3, 0, 0}); }},
      {"trusted attributes", 0, -EPERM, SettingXattr("trusted.x")},
      {"security attributes", 0, -EPERM, SettingXattr("security.x")},
  };
  ExpectRows(*this, rows);
}

TEST_F(UserNamespaceTest, WhatIsOfANamespaceAsksInItsOwner) {
  const Row rows[] = {
      {"the host name", 0, -EPERM,
       [](Guest& g) { return g.Run(SYS_sethostname, {g.Text("x"), 1}); }},
      {"mount", -ENODEV, -EPERM,  // the test's kernel has no table of file systems
       [](Guest& g) {
         return g.Run(SYS_mount, {g.Text("x"), g.Text("/"), g.Text("tmpfs"), 0, 0});
       }},
      {"umount", -EOPNOTSUPP, -EPERM,
       [](Guest& g) { return g.Run(SYS_umount2, {g.Text("/"), 0}); }},
      {"reboot", -EINVAL, -EPERM, [](Guest& g) { return g.Run(SYS_reboot, {1, 2, 3}); }},
      {"SO_MARK", 0, -EPERM, SetOption<SO_MARK>},
  };
  ExpectRows(*this, rows);
}

TEST_F(UserNamespaceTest, FilesAskWhetherTheirOwnersHaveNames) {
  const Row rows[] = {
      {"to open a stranger's file", 0, -EACCES, Opening("/unmapped")},
      {"to chmod it", 0, -EPERM,
       [](Guest& g) { return g.Run(SYS_chmod, {g.Text("/unmapped"), 0600}); }},
      {"to chown it", 0, -EPERM,
       [](Guest& g) { return g.Run(SYS_chown, {g.Text("/unmapped"), 5, 5}); }},
      {"to open another's file", 0, 0, Opening("/mapped")},
      {"to chmod that", 0, 0, [](Guest& g) { return g.Run(SYS_chmod, {g.Text("/mapped"), 0600}); }},
      {"to chown that", 0, 0, [](Guest& g) { return g.Run(SYS_chown, {g.Text("/mapped"), 8, 8}); }},
      {"user attributes of that", 0, 0, SettingXattr("user.x")},
  };
  ExpectRows(*this, rows);
}

TEST_F(UserNamespaceTest, WhatIsTheCallersAsksInItsOwn) {
  const Row rows[] = {
      {"chroot", 0, 0, [](Guest& g) { return g.Run(SYS_chroot, {g.Text("/")}); }},
      {"the bounding set", 0, 0,
       [](Guest& g) { return g.Run(SYS_prctl, {PR_CAPBSET_DROP, CAP_SYS_BOOT}); }},
      {"setgroups", 0, 0, [](Guest& g) { return g.Run(SYS_setgroups, {0, 0}); }},
      {"setresgid", 0, 0, [](Guest& g) { return g.Run(SYS_setresgid, {9, 9, 9}); }},
      {"setresuid", 0, 0, [](Guest& g) { return g.Run(SYS_setresuid, {9, 9, 9}); }},
  };
  ExpectRows(*this, rows);
}

TEST_F(UserNamespaceTest, NamespacesOfItsOwnAreItsOwn) {
  Guest inside = InsideWithItsOwn();
  EXPECT_EQ(inside.Run(SYS_sethostname, {inside.Text("mine"), 4}), 0);
  EXPECT_EQ(inside.task().namespaces->uts->hostname(), "mine");
  EXPECT_EQ(init.task().namespaces->uts->hostname(), "skep");
  const auto set = [&](Guest& g, int name) {
    const int64_t fd = g.Run(SYS_socket, {AF_UNIX, SOCK_STREAM, 0});
    const uint64_t value = g.Allocate(4);
    g.Put<int32_t>(value, 5);
    return g.Run(SYS_setsockopt,
                 {static_cast<uint64_t>(fd), SOL_SOCKET, static_cast<uint64_t>(name), value, 4});
  };
  EXPECT_EQ(set(inside, SO_MARK), 0);
  EXPECT_EQ(set(inside, SO_SNDBUFFORCE), -EPERM) << "memory is everybody's";
}

TEST_F(UserNamespaceTest, OthersAreTouchedAsTheirNamespaceAllows) {
  Guest inside = Inside();
  Guest beside = Inside();
  Guest outside = init.Fork();
  EXPECT_EQ(outside.Run(SYS_setresuid, {7, 7, 7}), 0);
  EXPECT_EQ(beside.Run(SYS_setresuid, {7, 7, 7}), 0);
  const auto nice = [](Guest& by, Guest& whom) {
    return by.Run(SYS_setpriority, {PRIO_PROCESS, static_cast<uint64_t>(whom.tid()), 5});
  };
  const auto limits = [](Guest& by, Guest& whom) {
    return by.Run(SYS_prlimit64, {static_cast<uint64_t>(whom.tid()), RLIMIT_NOFILE, 0, 0});
  };
  const auto affinity = [](Guest& by, Guest& whom) {
    const uint64_t mask = by.Allocate(8);
    by.Put<uint64_t>(mask, 1);
    return by.Run(SYS_sched_setaffinity, {static_cast<uint64_t>(whom.tid()), 8, mask});
  };
  EXPECT_EQ(nice(inside, outside), -EPERM);
  EXPECT_EQ(nice(inside, beside), 0);
  EXPECT_EQ(limits(inside, outside), -EPERM);
  EXPECT_EQ(limits(inside, beside), 0);
  EXPECT_EQ(affinity(inside, outside), -EPERM);
  EXPECT_EQ(affinity(inside, beside), 0);
  EXPECT_EQ(inside.Run(SYS_kill, {static_cast<uint64_t>(outside.tid()), 0}), -EPERM);
  EXPECT_EQ(inside.Run(SYS_kill, {static_cast<uint64_t>(beside.tid()), 0}), 0);
  // The first namespace's root rules below, too.
  EXPECT_EQ(nice(init, inside), 0);
  EXPECT_EQ(limits(init, inside), 0);
  EXPECT_EQ(init.Run(SYS_kill, {static_cast<uint64_t>(inside.tid()), 0}), 0);
}

TEST_F(UserNamespaceTest, IdsAreTheNamespacesOwn) {
  File("/mapped", kFirst + 7, 0600);
  File("/unmapped", 5, 0644);
  Guest inside = Inside();
  EXPECT_EQ(inside.Run(SYS_getuid), 0);
  EXPECT_EQ(inside.Run(SYS_getegid), 0);
  const auto owner = [](Guest& g, const char* path) {
    const uint64_t out = g.Allocate(sizeof(struct stat));
    EXPECT_EQ(g.Run(SYS_stat, {g.Text(path), out}), 0);
    return std::pair(g.Get<struct stat>(out).st_uid, g.Get<struct stat>(out).st_gid);
  };
  EXPECT_EQ(owner(inside, "/mapped"), std::pair(7u, 7u));
  EXPECT_EQ(owner(inside, "/unmapped"), std::pair(auth::kOverflowId, auth::kOverflowId));
  EXPECT_EQ(owner(init, "/mapped"), std::pair(kFirst + 7, kFirst + 7));
  EXPECT_EQ(inside.Run(SYS_chown, {inside.Text("/mapped"), 9, kIgnored}), 0);
  EXPECT_EQ(owner(init, "/mapped"), std::pair(kFirst + 9, kFirst + 7));
  EXPECT_EQ(inside.Run(SYS_chown, {inside.Text("/mapped"), kCount, kIgnored}), -EINVAL);
  EXPECT_EQ(inside.Run(SYS_setuid, {kCount}), -EINVAL);
  EXPECT_EQ(inside.Run(SYS_setresgid, {kIgnored, kCount, kIgnored}), -EINVAL);
  EXPECT_GE(inside.Run(SYS_open, {inside.Text("/made"), O_CREAT | O_RDWR, 0600}), -EACCES);
  EXPECT_EQ(init.Run(SYS_chmod, {init.Text("/"), 0777}), 0);
  EXPECT_GE(inside.Run(SYS_open, {inside.Text("/made"), O_CREAT | O_RDWR, 0600}), 0);
  EXPECT_EQ(owner(init, "/made"), std::pair(kFirst, kFirst));
  const uint64_t list = inside.Allocate(8);
  inside.Put<uint32_t>(list, 3);
  inside.Put<uint32_t>(list + 4, 4);
  EXPECT_EQ(inside.Run(SYS_setgroups, {2, list}), 0);
  EXPECT_EQ(inside.task().creds().groups, (std::vector{kFirst + 3, kFirst + 4}));
  EXPECT_EQ(inside.Run(SYS_getgroups, {2, list}), 2);
  EXPECT_EQ(inside.Get<uint32_t>(list), 3u);
  inside.Put<uint32_t>(list, kCount);
  EXPECT_EQ(inside.Run(SYS_setgroups, {1, list}), -EINVAL);
  EXPECT_EQ(inside.Run(SYS_setfsuid, {12}), 0);
  EXPECT_EQ(inside.Run(SYS_setfsuid, {kCount}), 12);
  EXPECT_EQ(inside.Run(SYS_setresuid, {30, 31, 32}), 0);
  EXPECT_EQ(inside.task().creds().euid, kFirst + 31);
  EXPECT_EQ(inside.task().creds().effective, 0u) << "no longer the namespace's root";
}

TEST_F(UserNamespaceTest, CapabilitiesOfAFileHoldWhereItsMakerIsRoot) {
  File("/program", kFirst + 7, 0755);
  Guest inside = Inside();
  const vfs_cap_data value = {.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE,
                              .data = {{.permitted = 1u << CAP_NET_RAW, .inheritable = 0}, {}}};
  const char* const name = "security.capability";
  const uint64_t from = inside.Allocate(64);
  inside.Put(from, value);
  EXPECT_EQ(
      inside.Run(SYS_setxattr, {inside.Text("/program"), inside.Text(name), from, sizeof value, 0}),
      0);
  const uint64_t to = init.Allocate(64);
  EXPECT_EQ(init.Run(SYS_getxattr, {init.Text("/program"), init.Text(name), to, 64}),
            static_cast<int64_t>(sizeof(vfs_ns_cap_data)));
  EXPECT_EQ(init.Get<vfs_ns_cap_data>(to).rootid, kFirst);
  const std::string stored(reinterpret_cast<const char*>(init.GetBytes(to, 24).data()), 24);
  EXPECT_FALSE(auth::ParseFileCapabilities(stored, init.task().creds())->has_value());
  EXPECT_TRUE(auth::ParseFileCapabilities(stored, inside.task().creds())->has_value());
  // Its maker sees what it stored.
  EXPECT_EQ(inside.Run(SYS_getxattr, {inside.Text("/program"), inside.Text(name), from, 64}),
            static_cast<int64_t>(sizeof value));
}

TEST_F(UserNamespaceTest, ADescriptorAloneIsLinkedByItsOpener) {
  File("/file", 1000, 0644);
  EXPECT_EQ(init.Run(SYS_chmod, {init.Text("/"), 0777}), 0);
  Guest user = init.Fork();
  EXPECT_EQ(user.Run(SYS_setresuid, {1000, 1000, 1000}), 0);
  const auto fd = static_cast<uint64_t>(user.Run(SYS_open, {user.Text("/file"), O_RDONLY}));
  const auto link = [fd](Guest& g, const char* name) {
    return g.Run(SYS_linkat, {fd, g.Text(""), kCwd, g.Text(name), AT_EMPTY_PATH});
  };
  EXPECT_EQ(link(user, "/by_its_opener"), 0);
  Guest child = user.Fork();
  EXPECT_EQ(link(child, "/by_a_child"), -ENOENT);
  EXPECT_EQ(user.Run(SYS_linkat, {kCwd, user.Text(""), kCwd, user.Text("/x"), AT_EMPTY_PATH}),
            -EPERM);
}

}  // namespace
}  // namespace skep::syscalls
