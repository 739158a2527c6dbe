// Words of the file layer: attributes, changes, open flags, and the caller of an operation.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/auth/credentials.h"
#include "sentry/mm/user_memory.h"
#include "sentry/vfs/process_id.h"

namespace skep::vfs {

class FsContext;  // vfs/fs_context.h

struct Timestamp {
  int64_t sec = 0;
  uint32_t nsec = 0;
  friend auto operator<=>(const Timestamp&, const Timestamp&) = default;
};

// The wall clock, as inodes' times are stamped with it.
Timestamp CurrentTime();

// The owner or group of a host file whose id has no counterpart here.
inline constexpr uint32_t kUnmappedId = auth::kNoId;

// What stat and statx answer. mode includes the type (S_IFMT).
struct Attributes {
  uint64_t ino = 0;
  uint32_t dev_major = 0, dev_minor = 0;
  uint32_t mode = 0;
  uint32_t nlink = 1;
  uint32_t uid = 0, gid = 0;  // may be kUnmappedId
  uint32_t rdev_major = 0, rdev_minor = 0;
  uint64_t size = 0;
  uint64_t blocks = 0;  // 512-byte units
  uint32_t blksize = 4096;
  Timestamp atime, mtime, ctime, btime;

  bool IsDir() const { return (mode & S_IFMT) == S_IFDIR; }
  bool IsRegular() const { return (mode & S_IFMT) == S_IFREG; }
  bool IsSymlink() const { return (mode & S_IFMT) == S_IFLNK; }
};

// What chmod, chown, utimensat and truncate ask for (Linux: struct iattr). The vfs has checked
// permissions; the file system applies it and moves ctime.
struct AttributeChange {
  std::optional<uint32_t> mode;  // permission bits, 07777
  std::optional<uint32_t> uid, gid;
  std::optional<uint64_t> size;
  std::optional<Timestamp> atime, mtime;
};

struct StatFs {
  uint64_t type = 0, block_size = 4096, blocks = 0, blocks_free = 0, blocks_available = 0;
  uint64_t files = 0, files_free = 0, name_max = 255;
  uint64_t fsid = 0, flags = 0;
};

// What terminals ask of a task that uses them: sessions and process groups.
class JobControlCaller {
 public:
  virtual Ref<ProcessId> ProcessGroupId() const = 0;
  virtual Ref<ProcessId> SessionId() const = 0;
  virtual bool IsSessionLeader() const = 0;
  virtual bool IsBlockedOrIgnored(int signo) const = 0;
  // The caller's group has no member whose parent is in another group of the same session.
  virtual bool InOrphanedGroup() const = 0;
  virtual void SignalOwnGroup(int signo) = 0;  // as the kernel (SI_KERNEL)
  // The group with a number as the caller sees it. ESRCH: there is none; EPERM: it is in another
  // session.
  virtual Result<Ref<ProcessId>> FindProcessGroup(int number, const ProcessId& session) const = 0;

 protected:
  ~JobControlCaller() = default;
};

// Who asks: the task, as far as files need to know it. kernel::Task implements it. Never stored.
class Caller {
 public:
  virtual const auth::Credentials& creds() const = 0;
  // The same, to keep (File::opener). The default copies; a task gives its own reference.
  virtual auth::CredentialsRef shared_creds() const {
    return std::make_shared<const auth::Credentials>(creds());
  }
  virtual mm::UserMemory& memory() = 0;
  virtual void SignalSelf(int signo) = 0;                      // SIGPIPE, SIGXFSZ
  virtual uint64_t FileSizeLimit() const = 0;                  // RLIMIT_FSIZE
  virtual uint64_t FileLimit() const { return ~uint64_t{0}; }  // RLIMIT_NOFILE
  // Its root and working directory; null: it has none, and names no paths.
  virtual const FsContext* fs_context() const { return nullptr; }

  virtual Ref<ProcessId> Process() const { return {}; }  // null: the caller is no task
  // The process or thread with a number as the caller sees it; ESRCH: there is none.
  virtual Result<Ref<ProcessId>> FindProcess(int number) const {
    (void)number;
    return Fail(ESRCH);
  }
  // As the caller's pid namespace numbers that process; 0: it cannot be seen from there.
  virtual int NumberOf(const ProcessId& id) const {
    (void)id;
    return 0;
  }
  // The owner of its pid namespace; null: the kernel's first.
  virtual const auth::UserNamespace* PidNamespaceOwner() const { return nullptr; }
  // Null: the caller is no task (boot, an overlay).
  virtual JobControlCaller* job_control() { return nullptr; }

 protected:
  ~Caller() = default;
};

}  // namespace skep::vfs
