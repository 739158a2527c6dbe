// /proc/<pid>/exe, cwd and root, and ns/.
#include <fmt/format.h>
#include <array>
#include <iterator>

#include "sentry/fs/proc/process.h"
#include "sentry/vfs/walk.h"

namespace skep::fs {
namespace {

class TaskLinkInode final : public OfSubject<PseudoInode> {
 public:
  TaskLinkInode(const Subject& subject, ProcFs& fs, uint64_t ino, TaskLink link)
      : OfSubject(subject, fs, ino, uint32_t{S_IFLNK | 0777}), link_(link) {}

  Result<std::string> ReadLink(vfs::Caller& caller) override {
    const vfs::Path path = TRY(Target(caller));
    return vfs::NameOf(path, RootOf(caller));
  }

  Result<std::optional<vfs::Path>> FollowMagic(vfs::Caller& caller) override {
    vfs::Path path = TRY(Target(caller));
    return std::optional<vfs::Path>(std::move(path));
  }

 private:
  Result<vfs::Path> Target(vfs::Caller& caller) const {
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

struct Namespace {
  std::string_view name, kind;
  uint64_t ino;
};
// The numbers of Linux's initial namespaces.
constexpr Namespace kNamespaces[] = {
    {"cgroup", "cgroup", 4026531835}, {"ipc", "ipc", 4026531839},
    {"mnt", "mnt", 4026531841},       {"net", "net", 4026531840},
    {"pid", "pid", 4026531836},       {"pid_for_children", "pid", 4026531836},
    {"time", "time", 4026531834},     {"time_for_children", "time", 4026531834},
    {"user", "user", 4026531837},     {"uts", "uts", 4026531838},
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
  NsLink(const Subject& subject, ProcFs& fs, uint64_t ino, const Namespace& space)
      : OfSubject(subject, fs, ino, uint32_t{S_IFLNK | 0777}), space_(space) {}

  Result<std::string> ReadLink(vfs::Caller& caller) override {
    if (!subject().MayInspect(caller)) return Fail(EACCES);
    return Text();
  }

  Result<std::optional<vfs::Path>> FollowMagic(vfs::Caller& caller) override {
    if (!subject().MayInspect(caller)) return Fail(EACCES);
    Ref<vfs::Inode> inode = MakeRef<NsInode>(Ref<vfs::FileSystem>(&fs()), space_.ino);
    return std::optional<vfs::Path>(
        vfs::Path({}, vfs::Dentry::MakeAnonymous(std::move(inode), Text())));
  }

 private:
  std::string Text() const { return fmt::format("{}:[{}]", space_.kind, space_.ino); }
  const Namespace& space_;
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
