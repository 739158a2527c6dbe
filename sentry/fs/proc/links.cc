// /proc/<pid>/exe, cwd and root, and ns/.
#include <fmt/format.h>
#include <array>
#include <iterator>

#include "sentry/fs/proc/process.h"

namespace skep::fs {
namespace {

class TaskLinkInode final : public MagicLink {
 public:
  TaskLinkInode(const Subject& subject, ProcFs& fs, uint64_t ino, TaskLink link)
      : MagicLink(subject, fs, ino, uint32_t{S_IFLNK | 0777}), link_(link) {}

 private:
  Result<vfs::Path> Target(vfs::Caller& caller) const override {
    if (!subject().MayInspect(caller)) return Fail(EACCES);
    vfs::Path path;
    TasksLock lock(*subject().kernel);
    const kernel::Task* task = subject().Find();
    if (task == nullptr) return Fail(ENOENT);
    if (link_ == TaskLink::kExe) {
      if (task->mm && task->executable) path = task->executable->path();
    } else if (task->fs) {
      path = link_ == TaskLink::kCwd ? task->fs->cwd() : task->fs->root();
    }
    if (!path) return Fail(ENOENT);
    return path;
  }

  const TaskLink link_;
};

// A task's namespaces by the names of their links. The number; 0: the task has none any more.
struct NsKind {
  std::string_view name, kind;
  uint64_t (*number)(const kernel::Task& task);
};
uint64_t TimeNumber(const kernel::Task&) { return 4026531834; }  // Linux: PROC_TIME_INIT_INO
template <auto Member>
uint64_t NumberOfSet(const kernel::Task& task) REQUIRES(tasks) {
  const Ref<kernel::Namespaces>& set = task.namespaces.Get();
  return set ? ((*set).*Member)->number() : 0;
}
uint64_t MountNumber(const kernel::Task& task) REQUIRES(tasks) {
  return task.fs.Get() ? task.fs.Get()->mounts()->number() : 0;
}
uint64_t PidNumber(const kernel::Task& task) { return task.pid_namespace().number(); }
uint64_t UserNumber(const kernel::Task& task) REQUIRES(tasks) {
  return task.credentials.Get()->user_namespace->number();
}
using Set = kernel::Namespaces;
constexpr NsKind kNamespaces[] = {
    {"cgroup", "cgroup", NumberOfSet<&Set::cgroup>},
    {"ipc", "ipc", NumberOfSet<&Set::ipc>},
    {"mnt", "mnt", MountNumber},
    {"net", "net", NumberOfSet<&Set::net>},
    {"pid", "pid", PidNumber},
    {"pid_for_children", "pid", NumberOfSet<&Set::pids_of_children>},
    {"time", "time", TimeNumber},
    {"time_for_children", "time", TimeNumber},
    {"user", "user", UserNumber},
    {"uts", "uts", NumberOfSet<&Set::uts>},
};

class NsFile final : public vfs::File {
 public:
  using File::File;
};

// What a namespace's link leads to: a file that can be opened and compared, not read. It holds the
// file system, since its path has no mount.
class NsInode final : public PseudoInode {
 public:
  NsInode(Ref<vfs::FileSystem> fs, uint64_t number)
      : PseudoInode(*fs, number, S_IFREG | 0444), held_(std::move(fs)) {}
  Result<Ref<vfs::File>> Open(vfs::Caller&, const vfs::Path& path, uint32_t flags) override {
    if ((flags & O_ACCMODE) != O_RDONLY) return Fail(EPERM);
    return Ref<vfs::File>(MakeRef<NsFile>(path, flags));
  }

 private:
  const Ref<vfs::FileSystem> held_;
};

class NsLink final : public OfSubject<PseudoInode> {
 public:
  NsLink(const Subject& subject, ProcFs& fs, uint64_t ino, const NsKind& kind)
      : OfSubject(subject, fs, ino, uint32_t{S_IFLNK | 0777}), kind_(kind) {}

  Result<std::string> ReadLink(vfs::Caller& caller) override {
    const uint64_t number = TRY(Number(caller));
    return Text(number);
  }

  Result<std::optional<vfs::Path>> FollowMagic(vfs::Caller& caller) override {
    const uint64_t number = TRY(Number(caller));
    Ref<vfs::Inode> inode = MakeRef<NsInode>(Ref<vfs::FileSystem>(&fs()), number);
    return std::optional<vfs::Path>(
        vfs::Path({}, vfs::Dentry::MakeAnonymous(std::move(inode), Text(number))));
  }

 private:
  std::string Text(uint64_t number) const { return fmt::format("{}:[{}]", kind_.kind, number); }
  Result<uint64_t> Number(vfs::Caller& caller) const {
    if (!subject().MayInspect(caller)) return Fail(EACCES);
    TasksLock lock(*subject().kernel);
    const kernel::Task* task = subject().Find();
    const uint64_t number = task == nullptr ? 0 : kind_.number(*task);
    if (number == 0) return Fail(ENOENT);
    return number;
  }
  const NsKind& kind_;
};

class NsDirectory final : public OfSubject<PseudoDirectory> {
 public:
  NsDirectory(const Subject& subject, ProcFs& fs, uint64_t ino)
      : OfSubject(subject, fs, ino, uint32_t{S_IFDIR | 0511}), proc_(fs) {}

  Result<Ref<vfs::Inode>> Lookup(std::string_view name) override {
    for (size_t i = 0; i < std::size(kNamespaces); ++i) {
      if (kNamespaces[i].name != name) continue;
      return Ref<vfs::Inode>(MakeRef<NsLink>(subject(), proc_, InoOf(i), kNamespaces[i]));
    }
    return Fail(ENOENT);
  }

  void List(uint64_t after, size_t max, std::vector<Entry>& to) override {
    for (size_t i = 0; i < std::size(kNamespaces) && to.size() < max; ++i) {
      const uint64_t cookie = vfs::kFirstEntryCookie + i;
      if (cookie <= after) continue;
      to.push_back({.cookie = cookie,
                    .name = std::string(kNamespaces[i].name),
                    .ino = InoOf(i),
                    .type = S_IFLNK});
    }
  }

 private:
  static constexpr uint32_t kFirstIndex = 200;  // after a task's own files
  uint64_t InoOf(size_t i) const {
    return TaskIno(subject(), kFirstIndex + static_cast<uint32_t>(i));
  }
  ProcFs& proc_;
};

}  // namespace

Ref<PseudoInode> MakeTaskLink(ProcFs& fs, const Subject& subject, uint64_t ino, TaskLink link) {
  return MakeRef<TaskLinkInode>(subject, fs, ino, link);
}

Ref<PseudoInode> MakeNsDirectory(ProcFs& fs, const Subject& subject, uint64_t ino) {
  return MakeRef<NsDirectory>(subject, fs, ino);
}

}  // namespace skep::fs
