// /proc/<pid>/fd and fdinfo: a task's descriptors.
#include <fcntl.h>
#include <fmt/format.h>
#include <algorithm>

#include "sentry/fs/proc/process.h"
#include "sentry/kernel/pidfd.h"

namespace skep::fs {
namespace {

// EBADF also when the task is gone or has no descriptors any more.
Result<Ref<vfs::File>> FileOf(const Subject& subject, int fd) {
  TasksLock lock(*subject.kernel);
  const kernel::Task* task = subject.Find();
  if (task == nullptr || !task->files) return Fail(EBADF);
  return task->files->GetIncludingPath(fd);
}

bool CloexecOf(const Subject& subject, int fd) {
  TasksLock lock(*subject.kernel);
  const kernel::Task* task = subject.Find();
  if (task == nullptr || !task->files) return false;
  const Result<bool> cloexec = task->files->GetCloexec(fd);
  return cloexec && *cloexec;
}

std::vector<int> NumbersOf(const Subject& subject) {
  TasksLock lock(*subject.kernel);
  const kernel::Task* task = subject.Find();
  if (task == nullptr || !task->files) return {};
  return task->files->Numbers();
}

class FdLink final : public MagicLink {
 public:
  FdLink(const Subject& subject, ProcFs& fs, int fd)
      : MagicLink(subject, fs, DescriptorIno(subject, fd, false), uint32_t{S_IFLNK | 0700}),
        fd_(fd) {}

  bool Valid() override { return FileOf(subject(), fd_).has_value(); }

 protected:
  uint64_t Size() override { return 64; }
  // Linux: tid_fd_update_inode: the mode is that of the open file.
  void Adjust(vfs::Attributes& attributes) override {
    MagicLink::Adjust(attributes);
    const Result<Ref<vfs::File>> file = FileOf(subject(), fd_);
    if (!file || (*file)->is_path()) {
      attributes.mode = S_IFLNK;
      return;
    }
    attributes.mode =
        S_IFLNK | ((*file)->readable() ? 0500u : 0u) | ((*file)->writable() ? 0300u : 0u);
  }

 private:
  Result<vfs::Path> Target(vfs::Caller& caller) const override {
    if (!subject().MayInspect(caller)) return Fail(EACCES);
    const Result<Ref<vfs::File>> file = FileOf(subject(), fd_);
    if (!file) return Fail(ENOENT);
    return (*file)->path();
  }

  const int fd_;
};

// Linux: seq_show of fs/proc/fd.c.
class FdinfoFile final : public OfSubject<PseudoFile> {
 public:
  FdinfoFile(const Subject& subject, ProcFs& fs, int fd)
      : OfSubject(subject, fs, DescriptorIno(subject, fd, true), uint32_t{S_IFREG | 0444}),
        fd_(fd) {}

  bool Valid() override { return FileOf(subject(), fd_).has_value(); }

  Result<void> MayOpen(vfs::Caller& caller, uint32_t) override {
    if (!subject().MayInspect(caller)) return Fail(EACCES);
    return {};
  }

  Result<std::string> Text(vfs::Caller&, const vfs::File&) override {
    const Result<Ref<vfs::File>> found = FileOf(subject(), fd_);
    if (!found) return Fail(ENOENT);
    const vfs::File& file = **found;
    const uint32_t flags = file.flags() | (CloexecOf(subject(), fd_) ? O_CLOEXEC : 0u);
    const vfs::Path& path = file.path();
    std::string more;
    // Linux: pidfd_show_fdinfo.
    if (const auto* pidfd = dynamic_cast<const kernel::PidFd*>(&file)) {
      TasksLock lock(*subject().kernel);
      const int pid = pidfd->group().reaped ? -1 : pidfd->group().pid->NumberIn(*subject().pids);
      more = fmt::format("Pid:\t{}\nNSpid:\t{}\n", pid, pid);
    }
    return fmt::format("pos:\t{}\nflags:\t0{:o}\nmnt_id:\t{}\nino:\t{}\n",
                       file.seekable() ? file.PeekPosition() : 0, flags,
                       path.mount ? path.mount->id() : 0,
                       path.inode() == nullptr ? 0 : path.inode()->ino()) +
           more;
  }

 private:
  const int fd_;
};

// `Child`: FdLink or FdinfoFile.
template <class Child>
class DescriptorDirectory final : public OfSubject<PseudoDirectory> {
 public:
  DescriptorDirectory(const Subject& subject, ProcFs& fs, uint64_t ino, uint32_t mode)
      : OfSubject(subject, fs, ino, mode), proc_(fs) {}

  // Linux: proc_fd_permission: a process may look at its own, whoever it has become. And
  // proc_fdinfo_permission: positions and flags are for those who may look into the task.
  Result<void> CheckPermission(const auth::Credentials& creds, int mask) override {
    if (kInfo && !subject().MayInspect(creds, RunningTask())) return Fail(EACCES);
    const Result<void> usual = PseudoDirectory::CheckPermission(creds, mask);
    const kernel::Task* self = RunningTask();
    if (usual || self == nullptr || self->group->pid->NumberIn(*subject().pids) != subject().tgid)
      return usual;
    if ((mask & vfs::kMayWrite) != 0) return usual;
    return {};
  }

  Result<Ref<vfs::Inode>> Lookup(std::string_view name) override {
    const int fd = NumberOf(name);
    if (fd < 0 || !FileOf(subject(), fd)) return Fail(ENOENT);
    return Ref<vfs::Inode>(MakeRef<Child>(subject(), proc_, fd));
  }

  void List(uint64_t after, size_t max, std::vector<Entry>& to) override {
    for (const int fd : NumbersOf(subject())) {
      const uint64_t cookie = vfs::kFirstEntryCookie + static_cast<uint64_t>(fd);
      if (cookie <= after) continue;
      if (to.size() == max) return;
      to.push_back({.cookie = cookie,
                    .name = std::to_string(fd),
                    .ino = DescriptorIno(subject(), fd, kInfo),
                    .type = kInfo ? uint32_t{S_IFREG} : uint32_t{S_IFLNK}});
    }
  }

 protected:
  uint64_t Size() override { return kInfo ? 0 : NumbersOf(subject()).size(); }

 private:
  static constexpr bool kInfo = std::is_same_v<Child, FdinfoFile>;
  ProcFs& proc_;
};

}  // namespace

Ref<PseudoInode> MakeFdDirectory(ProcFs& fs, const Subject& subject, uint64_t ino) {
  return MakeRef<DescriptorDirectory<FdLink>>(subject, fs, ino, uint32_t{S_IFDIR | 0500});
}

Ref<PseudoInode> MakeFdinfoDirectory(ProcFs& fs, const Subject& subject, uint64_t ino) {
  return MakeRef<DescriptorDirectory<FdinfoFile>>(subject, fs, ino, uint32_t{S_IFDIR | 0555});
}

}  // namespace skep::fs
