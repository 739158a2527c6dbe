// Who may change what: every operation that changes a file, an attribute or a process, as the
// owner, as another user and as who has the capabilities. The answers are Linux's; on a tmpfs and
// on the root file system.
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/ioprio.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/klog.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <utime.h>

#include <filesystem>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

constexpr uid_t kOwner = 1000, kOther = 1001, kThird = 1002;
constexpr gid_t kShared = 1005;  // a supplementary group of all

enum class Who : uint8_t { kTheOwner, kAnother, kTheCapable };
constexpr const char* kNames[] = {"the owner", "another", "the capable"};

// 0, or the errno of a call that answers -1.
int Code(int64_t result) { return result == -1 ? errno : 0; }

// What the operations act on. Everything belongs to kOwner but `root`'s own.
class Scene {
 public:
  explicit Scene(const std::string& base) {
    std::string pattern = base + "/skep_permission_XXXXXX";
    path_ = ::mkdtemp(pattern.data());
    chmod(path_.c_str(), 0777);
    for (const auto& [name, mode] : {std::pair<const char*, mode_t>{"f644", 0644},
                                     {"f666", 0666},
                                     {"f600", 0600},
                                     {"f000", 0},
                                     {"suid", 04755},
                                     {"suid666", 04666}}) {
      WriteFile(At(name), "text");
      Give(name, mode);
    }
    mkfifo(At("fifo").c_str(), 0666);
    Give("fifo", 0666);
    for (const auto& [name, mode] :
         {std::pair<const char*, mode_t>{"dir", 0755}, {"own_sticky", 01777}, {"empty", 0755}}) {
      mkdir(At(name).c_str(), 0755);
      Give(name, mode);
    }
    WriteFile(At("dir/in"), "text");
    mkdir(At("dir/sub").c_str(), 0755);
    mkdir(At("sticky").c_str(), 0755);
    chmod(At("sticky").c_str(), 01777);
    WriteFile(At("sticky/file"), "text");
    mkdir(At("sticky/sub").c_str(), 0755);
    for (const char* name : {"sticky/file", "sticky/sub"}) chown(At(name).c_str(), kOwner, kOwner);
    symlink("f644", At("link").c_str());
    lchown(At("link").c_str(), kOwner, kOwner);
    const std::string f = At("f644");
    setxattr(f.c_str(), "user.u", "1", 1, 0);
    setxattr(f.c_str(), "trusted.t", "1", 1, 0);
    setxattr(f.c_str(), "security.s", "1", 1, 0);
    setxattr(f.c_str(), "security.capability", kCapability, sizeof kCapability, 0);
  }
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;
  ~Scene() { std::filesystem::remove_all(path_); }

  std::string At(const std::string& name) const { return path_ + "/" + name; }

  static constexpr char kCapability[20] = {0, 0, 0, 2, 0, 32};  // format 2: CAP_NET_RAW permitted

 private:
  void Give(const char* name, mode_t mode) {
    chown(At(name).c_str(), kOwner, kOwner);
    chmod(At(name).c_str(), mode);
  }
  std::string path_;
};

// With the ids of `who`. A capable one stays what the test is.
void Become(Who who) {
  if (who == Who::kTheCapable) return;
  const uid_t id = who == Who::kTheOwner ? kOwner : kOther;
  if (setgroups(1, &kShared) != 0 || setresgid(id, id, id) != 0 || setresuid(id, id, id) != 0) {
    _exit(100);
  }
}

// Runs the operation as `who`; what it answers.
int As(Who who, const std::function<int()>& operation) {
  const int status = ForkAndRun([&] {
    Become(who);
    _exit(operation());
  });
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

constexpr int kFree = -1;  // no capability is needed: the capable one is answered as written

struct FileRow {
  const char* name;
  int (*operation)(const Scene&);
  int owner, other, capable;
  // Where the test itself lacks this capability, the capable one is answered as another user is.
  int capability = kFree;
};

int Chown(const Scene& s, const char* name, uid_t uid, gid_t gid) {
  return Code(chown(s.At(name).c_str(), uid, gid));
}
int SetTimes(const Scene& s, const char* name, bool now) {
  const timespec times[2] = {{1, 0}, {1, 0}};
  return Code(utimensat(AT_FDCWD, s.At(name).c_str(), now ? nullptr : times, 0));
}
int Open(const Scene& s, const char* name, int flags) {
  return Code(Fd(open(s.At(name).c_str(), flags, 0600)));
}
int Set(const Scene& s, const char* name, const char* attribute) {
  return Code(lsetxattr(s.At(name).c_str(), attribute, "2", 1, 0));
}
int Get(const Scene& s, const char* name, const char* attribute) {
  char value[64];
  return Code(lgetxattr(s.At(name).c_str(), attribute, value, sizeof value));
}
int Remove(const Scene& s, const char* attribute) {
  return Code(removexattr(s.At("f644").c_str(), attribute));
}
int Node(const Scene& s, const char* name, mode_t type, dev_t device) {
  return Code(mknod(s.At(name).c_str(), type | 0600, device));
}
int Link(const Scene& s, const char* name) {
  return Code(link(s.At(name).c_str(), s.At("new_link").c_str()));
}
int Bind(const Scene& s) {
  sockaddr_un address = {AF_UNIX, {}};
  const std::string path = s.At("dir/socket");
  if (path.size() >= sizeof address.sun_path) return ENAMETOOLONG;
  path.copy(address.sun_path, path.size());
  const Fd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  return Code(bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address));
}
// 0: the list has the name.
int Lists(const Scene& s, const std::string& attribute) {
  char list[256];
  const ssize_t size = listxattr(s.At("f644").c_str(), list, sizeof list);
  const std::string all(list, static_cast<size_t>(std::max<ssize_t>(size, 0)));
  return all.find(attribute + '\0') == std::string::npos ? ENODATA : 0;
}
int RenameOver(const Scene& s) {
  const std::string own = s.At("sticky/own") + std::to_string(getuid());
  const Fd made(open(own.c_str(), O_WRONLY | O_CREAT, 0600));
  return Code(rename(own.c_str(), s.At("sticky/file").c_str()));
}

const FileRow kFileRows[] = {
    // mode
    {"chmod", [](const Scene& s) { return Code(chmod(s.At("f644").c_str(), 0600)); }, 0, EPERM, 0,
     CAP_FOWNER},
    {"chmod of a directory", [](const Scene& s) { return Code(chmod(s.At("dir").c_str(), 0700)); },
     0, EPERM, 0, CAP_FOWNER},
    {"fchmod",
     [](const Scene& s) { return Code(fchmod(Fd(open(s.At("f644").c_str(), O_RDONLY)), 0600)); }, 0,
     EPERM, 0, CAP_FOWNER},
    // owner and group
    {"chown to the owner", [](const Scene& s) { return Chown(s, "f644", kOwner, -1); }, 0, EPERM, 0,
     CAP_CHOWN},
    {"chown to a third", [](const Scene& s) { return Chown(s, "f644", kThird, -1); }, EPERM, EPERM,
     0, CAP_CHOWN},
    {"chown to oneself", [](const Scene& s) { return Chown(s, "f644", getuid(), -1); }, 0, EPERM, 0,
     CAP_CHOWN},
    {"chgrp to its group", [](const Scene& s) { return Chown(s, "f644", -1, kOwner); }, 0, EPERM, 0,
     CAP_CHOWN},
    {"chgrp to a group of one's own", [](const Scene& s) { return Chown(s, "f644", -1, kShared); },
     0, EPERM, 0, CAP_CHOWN},
    {"chgrp to a foreign group", [](const Scene& s) { return Chown(s, "f644", -1, kThird); }, EPERM,
     EPERM, 0, CAP_CHOWN},
    {"chown of nothing", [](const Scene& s) { return Chown(s, "f644", -1, -1); }, 0, 0, 0},
    {"chown of nothing, set-uid", [](const Scene& s) { return Chown(s, "suid", -1, -1); }, 0, EPERM,
     0, CAP_FOWNER},
    {"lchown", [](const Scene& s) { return Code(lchown(s.At("link").c_str(), kThird, -1)); }, EPERM,
     EPERM, 0, CAP_CHOWN},
    // times
    {"utimes", [](const Scene& s) { return SetTimes(s, "f644", false); }, 0, EPERM, 0, CAP_FOWNER},
    {"utimes, writable", [](const Scene& s) { return SetTimes(s, "f666", false); }, 0, EPERM, 0,
     CAP_FOWNER},
    {"utimes now", [](const Scene& s) { return SetTimes(s, "f644", true); }, 0, EACCES, 0,
     CAP_FOWNER},
    {"utimes now, writable", [](const Scene& s) { return SetTimes(s, "f666", true); }, 0, 0, 0},
    // contents
    {"truncate", [](const Scene& s) { return Code(truncate(s.At("f644").c_str(), 1)); }, 0, EACCES,
     0, CAP_DAC_OVERRIDE},
    {"truncate, writable", [](const Scene& s) { return Code(truncate(s.At("f666").c_str(), 1)); },
     0, 0, 0},
    {"open to read", [](const Scene& s) { return Open(s, "f600", O_RDONLY); }, 0, EACCES, 0,
     CAP_DAC_READ_SEARCH},
    {"open to write", [](const Scene& s) { return Open(s, "f644", O_WRONLY); }, 0, EACCES, 0,
     CAP_DAC_OVERRIDE},
    {"open without permission", [](const Scene& s) { return Open(s, "f000", O_RDONLY); }, EACCES,
     EACCES, 0, CAP_DAC_READ_SEARCH},
    {"open with O_TRUNC", [](const Scene& s) { return Open(s, "f644", O_RDONLY | O_TRUNC); }, 0,
     EACCES, 0, CAP_DAC_OVERRIDE},
    {"open with O_NOATIME", [](const Scene& s) { return Open(s, "f644", O_RDONLY | O_NOATIME); }, 0,
     EPERM, 0, CAP_FOWNER},
    {"open of a fifo", [](const Scene& s) { return Open(s, "fifo", O_RDWR); }, 0, 0, 0},
    // names
    {"create", [](const Scene& s) { return Open(s, "dir/new", O_WRONLY | O_CREAT); }, 0, EACCES, 0,
     CAP_DAC_OVERRIDE},
    {"create without a name", [](const Scene& s) { return Open(s, "dir", O_WRONLY | O_TMPFILE); },
     0, EACCES, 0, CAP_DAC_OVERRIDE},
    {"mkdir", [](const Scene& s) { return Code(mkdir(s.At("dir/new").c_str(), 0700)); }, 0, EACCES,
     0, CAP_DAC_OVERRIDE},
    {"symlink", [](const Scene& s) { return Code(symlink("x", s.At("dir/new").c_str())); }, 0,
     EACCES, 0, CAP_DAC_OVERRIDE},
    {"mknod of a file", [](const Scene& s) { return Node(s, "dir/new", S_IFREG, 0); }, 0, EACCES, 0,
     CAP_DAC_OVERRIDE},
    {"mknod of a fifo", [](const Scene& s) { return Node(s, "dir/new", S_IFIFO, 0); }, 0, EACCES, 0,
     CAP_DAC_OVERRIDE},
    {"mknod of a socket", [](const Scene& s) { return Node(s, "dir/new", S_IFSOCK, 0); }, 0, EACCES,
     0, CAP_DAC_OVERRIDE},
    {"mknod of a device", [](const Scene& s) { return Node(s, "new", S_IFCHR, makedev(1, 3)); },
     EPERM, EPERM, 0, CAP_MKNOD},
    {"bind", Bind, 0, EACCES, 0, CAP_DAC_OVERRIDE},
    {"unlink", [](const Scene& s) { return Code(unlink(s.At("dir/in").c_str())); }, 0, EACCES, 0,
     CAP_DAC_OVERRIDE},
    {"unlink, sticky", [](const Scene& s) { return Code(unlink(s.At("sticky/file").c_str())); }, 0,
     EPERM, 0, CAP_FOWNER},
    {"rmdir", [](const Scene& s) { return Code(rmdir(s.At("dir/sub").c_str())); }, 0, EACCES, 0,
     CAP_DAC_OVERRIDE},
    {"rmdir, sticky", [](const Scene& s) { return Code(rmdir(s.At("sticky/sub").c_str())); }, 0,
     EPERM, 0, CAP_FOWNER},
    {"rename",
     [](const Scene& s) { return Code(rename(s.At("dir/in").c_str(), s.At("dir/out").c_str())); },
     0, EACCES, 0, CAP_DAC_OVERRIDE},
    {"rename, sticky",
     [](const Scene& s) {
       return Code(rename(s.At("sticky/file").c_str(), s.At("sticky/new").c_str()));
     },
     0, EPERM, 0, CAP_FOWNER},
    {"rename over, sticky", RenameOver, 0, EPERM, 0, CAP_FOWNER},
    {"rename of a directory elsewhere",
     [](const Scene& s) { return Code(rename(s.At("empty").c_str(), s.At("sticky/e").c_str())); },
     0, EACCES, 0, CAP_DAC_OVERRIDE},
    {"link", [](const Scene& s) { return Link(s, "f600"); }, 0, EPERM, 0, CAP_FOWNER},
    {"link, writable", [](const Scene& s) { return Link(s, "f666"); }, 0, 0, 0},
    {"link, writable and set-uid", [](const Scene& s) { return Link(s, "suid666"); }, 0, EPERM, 0,
     CAP_FOWNER},
    {"link of a fifo", [](const Scene& s) { return Link(s, "fifo"); }, 0, EPERM, 0, CAP_FOWNER},
    // extended attributes
    {"set user.", [](const Scene& s) { return Set(s, "f644", "user.a"); }, 0, EACCES, 0,
     CAP_DAC_OVERRIDE},
    {"set user., writable", [](const Scene& s) { return Set(s, "f666", "user.a"); }, 0, 0, 0},
    {"set user., directory", [](const Scene& s) { return Set(s, "dir", "user.a"); }, 0, EACCES, 0,
     CAP_DAC_OVERRIDE},
    {"set user., sticky directory", [](const Scene& s) { return Set(s, "own_sticky", "user.a"); },
     0, EPERM, 0, CAP_FOWNER},
    {"set user., fifo", [](const Scene& s) { return Set(s, "fifo", "user.a"); }, EPERM, EPERM,
     EPERM},
    {"set user., symlink", [](const Scene& s) { return Set(s, "link", "user.a"); }, EPERM, EPERM,
     EPERM},
    {"get user., fifo", [](const Scene& s) { return Get(s, "fifo", "user.a"); }, ENODATA, ENODATA,
     ENODATA},
    {"get user.", [](const Scene& s) { return Get(s, "f644", "user.u"); }, 0, 0, 0},
    {"get user., unreadable", [](const Scene& s) { return Get(s, "f600", "user.u"); }, ENODATA,
     EACCES, ENODATA, CAP_DAC_READ_SEARCH},
    {"remove user.", [](const Scene& s) { return Remove(s, "user.u"); }, 0, EACCES, 0,
     CAP_DAC_OVERRIDE},
    {"list user.", [](const Scene& s) { return Lists(s, "user.u"); }, 0, 0, 0},
    {"set trusted.", [](const Scene& s) { return Set(s, "f666", "trusted.a"); }, EPERM, EPERM, 0,
     CAP_SYS_ADMIN},
    {"get trusted.", [](const Scene& s) { return Get(s, "f644", "trusted.t"); }, ENODATA, ENODATA,
     0, CAP_SYS_ADMIN},
    {"remove trusted.", [](const Scene& s) { return Remove(s, "trusted.t"); }, EPERM, EPERM, 0,
     CAP_SYS_ADMIN},
    {"list trusted.", [](const Scene& s) { return Lists(s, "trusted.t"); }, ENODATA, ENODATA, 0,
     CAP_SYS_ADMIN},
    {"set security.", [](const Scene& s) { return Set(s, "f666", "security.a"); }, EPERM, EPERM, 0,
     CAP_SYS_ADMIN},
    {"get security.", [](const Scene& s) { return Get(s, "f644", "security.s"); }, 0, 0, 0},
    {"remove security.", [](const Scene& s) { return Remove(s, "security.s"); }, EPERM, EPERM, 0,
     CAP_SYS_ADMIN},
    {"list security.", [](const Scene& s) { return Lists(s, "security.s"); }, 0, 0, 0},
    {"set security.capability",
     [](const Scene& s) {
       return Code(setxattr(s.At("f666").c_str(), "security.capability", Scene::kCapability,
                            sizeof Scene::kCapability, 0));
     },
     EPERM, EPERM, 0, CAP_SETFCAP},
    {"set security.capability, malformed",
     [](const Scene& s) { return Set(s, "f666", "security.capability"); }, EINVAL, EINVAL, EINVAL},
    {"remove security.capability", [](const Scene& s) { return Remove(s, "security.capability"); },
     EPERM, EPERM, 0, CAP_SETFCAP},
    {"set user. without a name", [](const Scene& s) { return Set(s, "f666", "user."); }, EINVAL,
     EINVAL, EINVAL},
    {"set without a namespace", [](const Scene& s) { return Set(s, "f666", "none"); }, EOPNOTSUPP,
     EOPNOTSUPP, EOPNOTSUPP},
};

class FilePermission : public testing::TestWithParam<const char*> {};

TEST_P(FilePermission, Table) {
  REQUIRE_ROOT();
  for (const FileRow& row : kFileRows) {
    const bool capable = row.capability == kFree || HasCapability(row.capability);
    const int wanted[] = {row.owner, row.other, capable ? row.capable : row.other};
    for (const Who who : {Who::kTheOwner, Who::kAnother, Who::kTheCapable}) {
      const Scene scene(GetParam());
      const int got = As(who, [&] { return row.operation(scene); });
      const size_t index = static_cast<size_t>(who);
      EXPECT_EQ(got, wanted[index]) << row.name << " as " << kNames[index] << ": " << strerror(got);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(On, FilePermission, testing::Values("/dev/shm", "/tmp"),
                         [](const auto& base) {
                           return std::string(base.param) == "/tmp" ? "Root" : "Tmpfs";
                         });

// One capability is not another's: a user with this one alone.
int WithCapability(int capability, const std::function<int()>& operation) {
  const int status = ForkAndRun([&] {
    prctl(PR_SET_KEEPCAPS, 1);
    Become(Who::kAnother);
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    const uint32_t bit = 1u << capability;
    const __user_cap_data_struct data[2] = {{bit, bit, 0}, {0, 0, 0}};
    if (syscall(SYS_capset, &header, data) != 0) _exit(101);
    _exit(operation());
  });
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(OneCapability, DoesWhatItIsFor) {
  REQUIRE_ROOT();
  const Scene scene("/dev/shm");
  const auto chmod_it = [&] { return Code(chmod(scene.At("f644").c_str(), 0640)); };
  EXPECT_EQ(WithCapability(CAP_FOWNER, chmod_it), 0);
  EXPECT_EQ(WithCapability(CAP_CHOWN, chmod_it), EPERM);
  EXPECT_EQ(WithCapability(CAP_DAC_OVERRIDE, chmod_it), EPERM);
  const auto give_suid = [&] { return Chown(scene, "suid", kThird, -1); };
  EXPECT_EQ(WithCapability(CAP_CHOWN, give_suid), EPERM) << "it takes the set-uid bit away";
  EXPECT_EQ(WithCapability(CAP_CHOWN, [&] { return Chown(scene, "f600", kThird, -1); }), 0);
  const auto write_it = [&] { return Open(scene, "f644", O_WRONLY); };
  EXPECT_EQ(WithCapability(CAP_DAC_OVERRIDE, write_it), 0);
  EXPECT_EQ(WithCapability(CAP_DAC_READ_SEARCH, write_it), EACCES);
  EXPECT_EQ(WithCapability(CAP_DAC_READ_SEARCH, [&] { return Open(scene, "f000", O_RDONLY); }), 0);
  const auto set_capability = [&] {
    return Code(setxattr(scene.At("f666").c_str(), "security.capability", Scene::kCapability,
                         sizeof Scene::kCapability, 0));
  };
  EXPECT_EQ(WithCapability(CAP_SYS_ADMIN, set_capability), EPERM);
  EXPECT_EQ(WithCapability(CAP_FOWNER, set_capability), EPERM);
  const auto set_security = [&] { return Set(scene, "f666", "security.a"); };
  EXPECT_EQ(WithCapability(CAP_SYS_ADMIN, set_security), 0);
  EXPECT_EQ(WithCapability(CAP_DAC_OVERRIDE, set_security), EPERM);
  if (!HasCapability(CAP_SETFCAP)) return;
  EXPECT_EQ(WithCapability(CAP_SETFCAP, set_security), EPERM);
  EXPECT_EQ(WithCapability(CAP_SETFCAP, set_capability), 0);
}

// Linux: cap_inode_getsecurity.
TEST(FileCapabilities, AValueThatIsNoneCannotBeRead) {
  REQUIRE_ROOT();
  REQUIRE_CAPABILITY(CAP_SETFCAP);
  const Scene scene("/dev/shm");
  const std::string file = scene.At("f666");
  char value[64];
  ASSERT_THAT(setxattr(file.c_str(), "security.capability", "", 0, 0), Succeeds());
  EXPECT_THAT(getxattr(file.c_str(), "security.capability", value, sizeof value),
              FailsWith(EINVAL));
  EXPECT_THAT(getxattr(file.c_str(), "security.capability", nullptr, 0), FailsWith(EINVAL));
  EXPECT_GT(listxattr(file.c_str(), nullptr, 0), 0) << "it is there";
}

// access(2) asks for the real user, whose capabilities are those of a real root alone.
TEST(OneCapability, AccessAsksForTheRealUser) {
  REQUIRE_ROOT();
  const Scene scene("/dev/shm");
  const auto may_read = [&] { return Code(access(scene.At("f000").c_str(), R_OK)); };
  EXPECT_EQ(WithCapability(CAP_DAC_OVERRIDE, may_read), EACCES);
  EXPECT_EQ(
      WithCapability(
          CAP_DAC_OVERRIDE,
          [&] { return Code(faccessat(AT_FDCWD, scene.At("f000").c_str(), R_OK, AT_EACCESS)); }),
      0);
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP), Succeeds());
                ASSERT_THAT(setresuid(kOther, kOther, kOther), Succeeds());
                EXPECT_EQ(may_read(), 0) << "this securebit leaves them";
              }),
              ExitsWith(0));
}

struct ProcessRow {
  const char* name;
  int (*operation)(pid_t target);
  int owner, other, capable;
  int capability = kFree;
};

int RobustListOf(pid_t target) {
  void* head = nullptr;
  size_t size = 0;
  return Code(syscall(SYS_get_robust_list, target, &head, &size));
}

constexpr int32_t Priority(int io_class, int data) { return IOPRIO_PRIO_VALUE(io_class, data); }
int SetIoPriority(pid_t target, int32_t value) {
  return Code(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, target, value));
}
int OpenOf(pid_t target, const char* name) {
  return Code(Fd(open(("/proc/" + std::to_string(target) + name).c_str(), O_RDONLY)));
}
int SetPolicy(pid_t target, int policy) {
  const sched_param none = {};
  return Code(sched_setscheduler(target, policy, &none));
}
int SetSameCpus(pid_t target) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return errno;
  return Code(sched_setaffinity(target, sizeof set, &set));
}
char g_word[8] = "target";
int ReadMemory(pid_t target) {
  char buffer[sizeof g_word];
  const iovec local = {buffer, sizeof buffer};
  const iovec remote = {g_word, sizeof g_word};
  return Code(process_vm_readv(target, &local, 1, &remote, 1, 0));
}
int GetLimit(pid_t target) {
  rlimit old = {};
  return Code(prlimit(target, RLIMIT_NOFILE, nullptr, &old));
}

// The target has nice 5.
const ProcessRow kProcessRows[] = {
    {"kill", [](pid_t t) { return Code(kill(t, 0)); }, 0, EPERM, 0, CAP_KILL},
    {"kill SIGCONT", [](pid_t t) { return Code(kill(t, SIGCONT)); }, 0, EPERM, 0, CAP_KILL},
    {"getpriority", [](pid_t t) { return errno = 0, getpriority(PRIO_PROCESS, t), errno; }, 0, 0,
     0},
    {"setpriority up", [](pid_t t) { return Code(setpriority(PRIO_PROCESS, t, 6)); }, 0, EPERM, 0,
     CAP_SYS_NICE},
    {"setpriority down", [](pid_t t) { return Code(setpriority(PRIO_PROCESS, t, 4)); }, EACCES,
     EPERM, 0, CAP_SYS_NICE},
    {"setpriority of a user", [](pid_t) { return Code(setpriority(PRIO_USER, kOwner, 7)); }, 0,
     EPERM, 0, CAP_SYS_NICE},
    {"sched_setaffinity", SetSameCpus, 0, EPERM, 0, CAP_SYS_NICE},
    {"sched_setscheduler", [](pid_t t) { return SetPolicy(t, SCHED_BATCH); }, 0, EPERM, 0,
     CAP_SYS_NICE},
    {"sched_setparam",
     [](pid_t t) {
       const sched_param none = {};
       return Code(sched_setparam(t, &none));
     },
     0, EPERM, 0, CAP_SYS_NICE},
    {"sched_getscheduler", [](pid_t t) { return Code(sched_getscheduler(t)); }, 0, 0, 0},
    {"ioprio_set", [](pid_t t) { return SetIoPriority(t, Priority(IOPRIO_CLASS_BE, 3)); }, 0, EPERM,
     0, CAP_SYS_NICE},
    {"ioprio_set real time", [](pid_t t) { return SetIoPriority(t, Priority(IOPRIO_CLASS_RT, 3)); },
     EPERM, EPERM, 0, CAP_SYS_NICE},
    {"ioprio_set of no class",
     [](pid_t t) { return SetIoPriority(t, Priority(IOPRIO_CLASS_NONE, 3)); }, EINVAL, EINVAL,
     EINVAL},
    {"ioprio_set of class 4", [](pid_t t) { return SetIoPriority(t, Priority(4, 0)); }, EINVAL,
     EINVAL, EINVAL},
    {"ioprio_get", [](pid_t t) { return Code(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, t)); }, 0,
     0, 0},
    {"prlimit", GetLimit, 0, EPERM, 0, CAP_SYS_RESOURCE},
    {"process_vm_readv", ReadMemory, 0, EPERM, 0, CAP_SYS_PTRACE},
    {"/proc/PID/mem", [](pid_t t) { return OpenOf(t, "/mem"); }, 0, EACCES, 0, CAP_SYS_PTRACE},
    {"/proc/PID/environ", [](pid_t t) { return OpenOf(t, "/environ"); }, 0, EACCES, 0,
     CAP_SYS_PTRACE},
    {"/proc/PID/maps", [](pid_t t) { return OpenOf(t, "/maps"); }, 0, EACCES, 0, CAP_SYS_PTRACE},
    {"/proc/PID/fd", [](pid_t t) { return OpenOf(t, "/fd"); }, 0, EACCES, 0, CAP_DAC_READ_SEARCH},
    {"/proc/PID/fdinfo", [](pid_t t) { return OpenOf(t, "/fdinfo"); }, 0, EACCES, 0,
     CAP_SYS_PTRACE},
    {"/proc/PID/fdinfo/0", [](pid_t t) { return OpenOf(t, "/fdinfo/0"); }, 0, EACCES, 0,
     CAP_SYS_PTRACE},
    {"get_robust_list", &RobustListOf, 0, EPERM, 0, CAP_SYS_PTRACE},
    {"/proc/PID/status", [](pid_t t) { return OpenOf(t, "/status"); }, 0, 0, 0},
};

TEST(ProcessPermission, Table) {
  REQUIRE_ROOT();
  for (const ProcessRow& row : kProcessRows) {
    const bool capable = row.capability == kFree || HasCapability(row.capability);
    const int wanted[] = {row.owner, row.other, capable ? row.capable : row.other};
    for (const Who who : {Who::kTheOwner, Who::kAnother, Who::kTheCapable}) {
      Gate ready;
      ChildProcess target([&] {
        setpriority(PRIO_PROCESS, 0, 5);
        Become(Who::kTheOwner);
        prctl(PR_SET_DUMPABLE, 1);
        setsid();
        ready.Open();
        for (;;) pause();
      });
      ready.Wait();
      const int got = As(who, [&] { return row.operation(target.pid()); });
      const size_t index = static_cast<size_t>(who);
      EXPECT_EQ(got, wanted[index]) << row.name << " as " << kNames[index] << ": " << strerror(got);
    }
  }
}

// A process of the same ids that is not dumpable is not an equal.
TEST(ProcessPermission, NotDumpableIsRefusedToItsEquals) {
  REQUIRE_ROOT();
  Gate ready;
  ChildProcess target([&] {
    Become(Who::kTheOwner);
    prctl(PR_SET_DUMPABLE, 0);
    ready.Open();
    for (;;) pause();
  });
  ready.Wait();
  EXPECT_EQ(As(Who::kTheOwner, [&] { return RobustListOf(target.pid()); }), EPERM);
  EXPECT_EQ(As(Who::kTheOwner, [&] { return ReadMemory(target.pid()); }), EPERM);
  EXPECT_EQ(As(Who::kTheOwner, [&] { return kill(target.pid(), 0); }), 0);
}

// A process of the same ids may still have less power.
TEST(ProcessPermission, FewerCapabilitiesAreNotEqual) {
  REQUIRE_ROOT();
  REQUIRE_CAPABILITY(CAP_SYS_NICE);
  ChildProcess target([] {
    for (;;) pause();
  });
  EXPECT_THAT(ForkAndRun([&] {
                __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
                const __user_cap_data_struct none[2] = {};
                ASSERT_THAT(syscall(SYS_capset, &header, none), Succeeds());
                const sched_param param = {};
                EXPECT_THAT(setpriority(PRIO_PROCESS, target.pid(), 10), FailsWith(EPERM));
                EXPECT_THAT(sched_setscheduler(target.pid(), SCHED_BATCH, &param),
                            FailsWith(EPERM));
                EXPECT_EQ(SetSameCpus(target.pid()), EPERM);
                EXPECT_EQ(ReadMemory(target.pid()), EPERM);
              }),
              ExitsWith(0));
}

TEST(Priorities, AreReadBackAndInherited) {
  EXPECT_THAT(ForkAndRun([] {
                const int32_t wanted = Priority(IOPRIO_CLASS_BE, 6);
                ASSERT_EQ(SetIoPriority(0, wanted), 0);
                ASSERT_EQ(SetPolicy(0, SCHED_BATCH), 0);
                EXPECT_THAT(ForkAndRun([&] {
                              EXPECT_THAT(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0),
                                          SucceedsWith(wanted));
                              EXPECT_THAT(sched_getscheduler(0), SucceedsWith(SCHED_BATCH));
                            }),
                            ExitsWith(0));
                ASSERT_EQ(SetPolicy(0, SCHED_BATCH | SCHED_RESET_ON_FORK), 0);
                EXPECT_THAT(ForkAndRun([&] {
                              EXPECT_THAT(sched_getscheduler(0), SucceedsWith(SCHED_BATCH));
                            }),
                            ExitsWith(0))
                    << "the flag is about real-time policies and nice values below 0";
              }),
              ExitsWith(0));
}

TEST(Priorities, OfNoProcess) {
  constexpr pid_t kNone = 0x3fffffff;
  cpu_set_t set;
  EXPECT_THAT(sched_getaffinity(kNone, sizeof set, &set), FailsWith(ESRCH));
  EXPECT_THAT(sched_getaffinity(-1, sizeof set, &set), FailsWith(ESRCH));
  EXPECT_THAT(sched_getscheduler(-1), FailsWith(EINVAL));
  EXPECT_THAT(setpriority(PRIO_PROCESS, kNone, 1), FailsWith(ESRCH));
  EXPECT_THAT(setpriority(PRIO_USER, 54'321, 1), FailsWith(ESRCH));
  EXPECT_THAT(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, kNone), FailsWith(ESRCH));
  EXPECT_THAT(syscall(SYS_ioprio_set, 9, 0, Priority(IOPRIO_CLASS_BE, 1)), FailsWith(EINVAL));
}

TEST(Syslog, IsNotForEverybody) {
  REQUIRE_ROOT();
  if (ReadFile("/proc/sys/kernel/dmesg_restrict") != "1\n") GTEST_SKIP() << "dmesg_restrict is 0";
  for (const int action : {3, 9, 10, 77}) {
    EXPECT_EQ(As(Who::kAnother, [&] { return Code(klogctl(action, nullptr, 0)); }), EPERM)
        << action;
  }
}

}  // namespace
}  // namespace skep::test
