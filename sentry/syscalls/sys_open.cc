// Opening, closing, duplicating and controlling descriptors.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/limits.h"
#include "sentry/anon/memfd.h"
#include "sentry/anon/pipe.h"
#include "sentry/anon/pty.h"
#include "sentry/kernel/exit.h"
#include "sentry/kernel/kernel.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"
#include "sentry/vfs/locks.h"

namespace skep::syscalls {
namespace {

vfs::CloseOnExec Cloexec(uint32_t flags) {
  return (flags & O_CLOEXEC) != 0 ? vfs::CloseOnExec::kYes : vfs::CloseOnExec::kNo;
}

// Linux: do_sys_openat2.
Result<Fd> DoOpen(Task& task, Fd dir, Path address, const vfs::OpenHow& how,
                  vfs::Strictness strictness) {
  vfs::OpenFlags flags = TRY(vfs::OpenFlags::From(how, strictness));
  flags.ApplyUmask(task.fs->umask());
  const std::string path = TRY(CopyInPath(task, address));
  if (path.empty()) return Fail(ENOENT);
  // A root or a fence of its own starts absolute paths at the descriptor too.
  const bool scoped = (how.resolve & (RESOLVE_IN_ROOT | RESOLVE_BENEATH)) != 0;
  vfs::NameOps walker = TRY(WalkerAt(task, dir, scoped ? std::string_view() : path));
  // Reserve before opening: with O_CREAT, EMFILE must not leave a new file behind.
  vfs::FdReservation slot = TRY(task.files->Reserve(task.Limit(RLIMIT_NOFILE)));
  Ref<vfs::File> file = TRY(walker.Open(path, flags));
  const auto cloexec = Cloexec(static_cast<uint32_t>(how.flags));
  return Fd{std::move(slot).Commit(std::move(file), cloexec)};
}

Result<Fd> OpenAt(Task& task, Fd dir, Path path, OpenFlags flags, FileMode mode) {
  return DoOpen(task, dir, path, {.flags = flags.value, .mode = mode.value},
                vfs::Strictness::kOpen);
}

Result<Fd> Open(Task& task, Path path, OpenFlags flags, FileMode mode) {
  return OpenAt(task, Fd{AT_FDCWD}, path, flags, mode);
}

Result<Fd> Creat(Task& task, Path path, FileMode mode) {
  return OpenAt(task, Fd{AT_FDCWD}, path, OpenFlags{O_CREAT | O_WRONLY | O_TRUNC}, mode);
}

Result<Fd> OpenAt2(Task& task, Fd dir, Path path, UserPtr<void> address, uint64_t size) {
  open_how how{};
  if (size < sizeof how) return Fail(EINVAL);
  TRY(CopyInStruct(task, address, size, std::as_writable_bytes(std::span(&how, 1))));
  return DoOpen(task, dir, path, {.flags = how.flags, .mode = how.mode, .resolve = how.resolve},
                vfs::Strictness::kOpenat2);
}

Result<void> Close(Task& task, Fd fd) {
  const Ref<vfs::File> file = TRY(task.files->Remove(fd.value));
  auto closed = vfs::FinishClose(task, *task.files, *file);
  // Linux: the number is gone, so a restart would close somebody else's.
  if (!closed && closed.error().code() >= kRestartSys) return Fail(EINTR);
  return closed;
}

Result<void> CloseRange(Task& task, uint32_t first, uint32_t last, uint32_t flags) {
  if ((flags & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC)) != 0) return Fail(EINVAL);
  if (first > last) return Fail(EINVAL);
  if ((flags & CLOSE_RANGE_UNSHARE) != 0) {
    kernel::ReplaceFiles(task, task.files->Clone());
  }
  if ((flags & CLOSE_RANGE_CLOEXEC) != 0) {
    task.files->SetCloexecRange(first, last);
    return {};
  }
  const auto in_range = [&](int fd, bool) {
    return static_cast<uint32_t>(fd) >= first && static_cast<uint32_t>(fd) <= last;
  };
  kernel::FinishCloses(task, *task.files, task.files->RemoveIf(in_range));
  return {};
}

Result<Fd> Dup(Task& task, Fd fd) {
  Ref<vfs::File> file = TRY(task.files->GetIncludingPath(fd.value));
  return InstallFile(task, std::move(file), false);
}

Result<Fd> DupOnto(Task& task, Fd from, Fd to, vfs::CloseOnExec cloexec) {
  const uint64_t limit = task.Limit(RLIMIT_NOFILE);
  if (to.value < 0 || static_cast<uint64_t>(to.value) >= limit) return Fail(EBADF);
  Ref<vfs::File> file = TRY(task.files->GetIncludingPath(from.value));
  const Ref<vfs::File> displaced =
      TRY(task.files->Replace(to.value, std::move(file), cloexec, limit));
  if (displaced) (void)vfs::FinishClose(task, *task.files, *displaced);
  return to;
}

Result<Fd> Dup2(Task& task, Fd from, Fd to) {
  if (from.value == to.value) {
    TRY(task.files->GetIncludingPath(from.value));
    return to;
  }
  return DupOnto(task, from, to, vfs::CloseOnExec::kNo);
}

Result<Fd> Dup3(Task& task, Fd from, Fd to, OpenFlags flags) {
  if ((flags.value & ~uint32_t{O_CLOEXEC}) != 0) return Fail(EINVAL);
  if (from.value == to.value) return Fail(EINVAL);
  return DupOnto(task, from, to, Cloexec(flags.value));
}

struct AbiFlock {
  int16_t type, whence;
  uint32_t pad;
  int64_t start, length;
  int32_t pid;
  uint32_t pad2;
};

// Linux: flock_to_posix_lock.
Result<vfs::RecordLock> ToRecordLock(Task& task, vfs::File& file, const AbiFlock& in) {
  int64_t base = 0;
  switch (in.whence) {
    case SEEK_SET:
      break;
    case SEEK_CUR:
      base = static_cast<int64_t>(file.PeekPosition());
      break;
    case SEEK_END:
      if (file.inode() != nullptr) {
        const vfs::Attributes attributes = TRY(file.inode()->GetAttributes());
        base = static_cast<int64_t>(attributes.size);
      }
      break;
    default:
      return Fail(EINVAL);
  }
  int64_t start = 0;
  if (__builtin_add_overflow(base, in.start, &start)) return Fail(EOVERFLOW);
  if (start < 0) return Fail(EINVAL);
  vfs::RecordLock lock;
  lock.process = task.group->pid;
  int64_t end = INT64_MAX;
  if (in.length > 0) {
    if (__builtin_add_overflow(start, in.length - 1, &end)) return Fail(EOVERFLOW);
  } else if (in.length < 0) {
    if (start + in.length < 0) return Fail(EINVAL);
    end = start - 1;
    start += in.length;
  }
  lock.start = static_cast<uint64_t>(start);
  lock.end = static_cast<uint64_t>(end);
  switch (in.type) {
    case F_RDLCK:
      lock.type = vfs::LockType::kRead;
      break;
    case F_WRLCK:
      lock.type = vfs::LockType::kWrite;
      break;
    case F_UNLCK:
      lock.type = vfs::LockType::kUnlock;
      break;
    default:
      return Fail(EINVAL);
  }
  return lock;
}

Result<int64_t> RecordLockCall(Task& task, vfs::File& file, int32_t command, uint64_t argument) {
  const UserPtr<AbiFlock> address(argument);
  const AbiFlock in = TRY(task.mm->CopyIn(address));
  const bool ofd = command == F_OFD_GETLK || command == F_OFD_SETLK || command == F_OFD_SETLKW;
  const bool get = command == F_GETLK || command == F_OFD_GETLK;
  const bool wait = command == F_SETLKW || command == F_OFD_SETLKW;
  if (ofd && in.pid != 0) return Fail(EINVAL);
  if (file.inode() == nullptr) return Fail(EBADF);
  vfs::RecordLock lock = TRY(ToRecordLock(task, file, in));
  const vfs::LockOwner owner = ofd ? vfs::LockOwner(file) : vfs::LockOwner(*task.files);
  vfs::FileLocks& locks = file.inode()->locks();
  if (get) {
    if (lock.type == vfs::LockType::kUnlock) return Fail(EINVAL);
    AbiFlock out = in;
    const auto conflict = locks.TestRecord(owner, lock);
    if (!conflict) {
      out.type = F_UNLCK;
    } else {
      out.type = conflict->type == vfs::LockType::kRead ? F_RDLCK : F_WRLCK;
      out.whence = SEEK_SET;
      out.start = static_cast<int64_t>(conflict->start);
      out.length = conflict->end == vfs::kLockEnd
                       ? 0
                       : static_cast<int64_t>(conflict->end - conflict->start + 1);
      out.pid = conflict->process ? task.NumberOf(*conflict->process) : -1;
    }
    TRY(task.mm->CopyOut(address, out));
    return 0;
  }
  if (lock.type == vfs::LockType::kRead && !file.readable()) return Fail(EBADF);
  if (lock.type == vfs::LockType::kWrite && !file.writable()) return Fail(EBADF);
  if (ofd) lock.process = {};
  TRY(locks.SetRecord(owner, lock, wait ? vfs::LockWait::kYes : vfs::LockWait::kNo));
  return 0;
}

Result<int64_t> DupAbove(Task& task, const Ref<vfs::File>& file, uint64_t least, bool cloexec) {
  const uint64_t limit = task.Limit(RLIMIT_NOFILE);
  if (least >= limit || least > static_cast<uint64_t>(INT32_MAX)) return Fail(EINVAL);
  vfs::FdReservation slot = TRY(task.files->Reserve(limit, static_cast<int>(least)));
  return std::move(slot).Commit(file, cloexec ? vfs::CloseOnExec::kYes : vfs::CloseOnExec::kNo);
}

Result<int64_t> PipeSizeCall(Task& task, vfs::File& file, int32_t command, uint64_t argument) {
  auto* pipe = dynamic_cast<anon::PipeFile*>(&file);
  if (pipe == nullptr) return Fail(EBADF);
  if (command == F_GETPIPE_SZ) return static_cast<int64_t>(pipe->pipe().Capacity());
  const uint64_t size = TRY(pipe->pipe().SetCapacity(static_cast<uint32_t>(argument),
                                                     task.creds().HasInFirst(CAP_SYS_RESOURCE)));
  return static_cast<int64_t>(size);
}

// Linux: f_getown_ex. The number is 0 once nobody bears it.
struct AbiOwner {
  int32_t type, pid;
};
AbiOwner OwnerOf(Task& task, vfs::File& file) {
  const vfs::FileOwner owner = file.owner();
  if (!owner.id) return {};
  const auto& pid = static_cast<const kernel::Pid&>(*owner.id);
  TasksLock lock(task.kernel);
  const bool alive = owner.type == F_OWNER_PGRP  ? pid.process_group() != nullptr
                     : owner.type == F_OWNER_PID ? pid.group() != nullptr
                                                 : pid.task() != nullptr;
  return {owner.type, alive ? task.NumberOf(pid) : 0};
}

// Linux: f_setown_ex. ESRCH: there is no such process; 0 is nobody.
Result<void> SetOwner(Task& task, vfs::File& file, const AbiOwner& owner) {
  if (owner.type < F_OWNER_TID || owner.type > F_OWNER_PGRP) return Fail(EINVAL);
  Ref<kernel::Pid> found;
  if (owner.pid != 0) {
    TasksLock lock(task.kernel);
    found = Ref<kernel::Pid>(task.pid_namespace().Find(owner.pid));
    if (!found) return Fail(ESRCH);
  }
  file.SetOwner({std::move(found), owner.type});
  return {};
}

Result<int64_t> OwnerCall(Task& task, vfs::File& file, int32_t command, uint64_t argument) {
  switch (command) {
    case F_GETOWN: {
      const AbiOwner owner = OwnerOf(task, file);
      return owner.type == F_OWNER_PGRP ? -owner.pid : owner.pid;
    }
    case F_SETOWN: {
      const auto who = static_cast<int32_t>(argument);
      if (who == INT32_MIN) return Fail(EINVAL);
      TRY(SetOwner(task, file,
                   who < 0 ? AbiOwner{F_OWNER_PGRP, -who} : AbiOwner{F_OWNER_PID, who}));
      return 0;
    }
    case F_GETSIG:
      return file.signal.load();
    case F_SETSIG:
      if (argument > static_cast<uint64_t>(kernel::kSignals)) return Fail(EINVAL);
      file.signal = static_cast<int>(argument);
      return 0;
    case F_GETOWN_EX:
      TRY(task.mm->CopyOut(UserPtr<AbiOwner>(argument), OwnerOf(task, file)));
      return 0;
    default: {
      const AbiOwner owner = TRY(task.mm->CopyIn(UserPtr<const AbiOwner>(argument)));
      TRY(SetOwner(task, file, owner));
      return 0;
    }
  }
}

Result<int64_t> SetStatusFlags(vfs::File& file, uint64_t argument) {
  constexpr uint32_t kSettable = O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK;
  file.SetFlags((file.flags() & ~kSettable) | (static_cast<uint32_t>(argument) & kSettable));
  return 0;
}

Result<int64_t> Fcntl(Task& task, Fd fd, int32_t command, uint64_t argument) {
  const Ref<vfs::File> file = TRY(task.files->GetIncludingPath(fd.value));
  if (file->is_path() && command != F_DUPFD && command != F_DUPFD_CLOEXEC && command != F_GETFD &&
      command != F_SETFD && command != F_GETFL) {
    return Fail(EBADF);
  }
  switch (command) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC:
      return DupAbove(task, file, argument, command == F_DUPFD_CLOEXEC);
    case F_GETFD: {
      const bool cloexec = TRY(task.files->GetCloexec(fd.value));
      return cloexec ? FD_CLOEXEC : 0;
    }
    case F_SETFD:
      TRY(task.files->SetCloexec(
          fd.value, (argument & FD_CLOEXEC) != 0 ? vfs::CloseOnExec::kYes : vfs::CloseOnExec::kNo));
      return 0;
    case F_GETFL:
      return file->flags();
    case F_SETFL:
      return SetStatusFlags(*file, argument);
    case F_GETLK:
    case F_SETLK:
    case F_SETLKW:
    case F_OFD_GETLK:
    case F_OFD_SETLK:
    case F_OFD_SETLKW:
      return RecordLockCall(task, *file, command, argument);
    case F_GETOWN:
    case F_SETOWN:
    case F_GETOWN_EX:
    case F_SETOWN_EX:
    case F_GETSIG:
    case F_SETSIG:
      return OwnerCall(task, *file, command, argument);
    case F_GETPIPE_SZ:
    case F_SETPIPE_SZ:
      return PipeSizeCall(task, *file, command, argument);
    case F_ADD_SEALS:
      TRY(anon::AddSeals(*file, static_cast<uint32_t>(argument)));
      return 0;
    case F_GET_SEALS:
      return static_cast<int64_t>(TRY(anon::GetSeals(*file)));
    case F_GETLEASE:
      return F_UNLCK;
    default:
      return Fail(EINVAL);
  }
}

Result<void> Flock(Task& task, Fd fd, int32_t operation) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  vfs::LockType type = vfs::LockType::kUnlock;
  switch (operation & ~LOCK_NB) {
    case LOCK_SH:
      type = vfs::LockType::kRead;
      break;
    case LOCK_EX:
      type = vfs::LockType::kWrite;
      break;
    case LOCK_UN:
      break;
    default:
      return Fail(EINVAL);
  }
  if (file->inode() == nullptr) return Fail(EBADF);
  const auto wait = (operation & LOCK_NB) != 0 ? vfs::LockWait::kNo : vfs::LockWait::kYes;
  return file->inode()->locks().SetFlock(*file, type, wait);
}

// Linux: ptm_open_peer. `flags` as open(2)'s.
Result<uint64_t> OpenPtyPeer(Task& task, anon::PtyMaster& master, uint32_t flags) {
  vfs::FdReservation slot = TRY(task.files->Reserve(task.Limit(RLIMIT_NOFILE)));
  Ref<vfs::File> slave = TRY(master.OpenPeer(task, flags & ~uint32_t{O_CLOEXEC}));
  return static_cast<uint64_t>(std::move(slot).Commit(std::move(slave), Cloexec(flags)));
}

Result<uint64_t> Ioctl(Task& task, Fd fd, uint32_t command, uint64_t argument) {
  const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  switch (command) {
    case FIOCLEX:
      TRY(task.files->SetCloexec(fd.value, vfs::CloseOnExec::kYes));
      return uint64_t{0};
    case FIONCLEX:
      TRY(task.files->SetCloexec(fd.value, vfs::CloseOnExec::kNo));
      return uint64_t{0};
    case FIONBIO: {
      const int32_t on = TRY(task.mm->CopyIn(UserPtr<const int32_t>(argument)));
      file->SetFlags(on != 0 ? file->flags() | O_NONBLOCK : file->flags() & ~uint32_t{O_NONBLOCK});
      return uint64_t{0};
    }
    case FIOASYNC: {
      const int32_t on = TRY(task.mm->CopyIn(UserPtr<const int32_t>(argument)));
      file->SetFlags(on != 0 ? file->flags() | O_ASYNC : file->flags() & ~uint32_t{O_ASYNC});
      return uint64_t{0};
    }
    case FIONREAD:
      if (file->inode() != nullptr && file->inode()->type() == S_IFREG) {
        const vfs::Attributes attributes = TRY(file->inode()->GetAttributes());
        const int64_t left =
            static_cast<int64_t>(attributes.size) - static_cast<int64_t>(file->PeekPosition());
        TRY(task.mm->CopyOut(UserPtr<int32_t>(argument), static_cast<int32_t>(left)));
        return uint64_t{0};
      }
      break;
    case TIOCGPTPEER:
      if (auto* master = dynamic_cast<anon::PtyMaster*>(file.get())) {
        return OpenPtyPeer(task, *master, static_cast<uint32_t>(argument));
      }
      break;
    default:
      break;
  }
  return file->Ioctl(task, command, argument);
}

// Both numbers are reserved first and published last, so no other thread of the guest can see, use
// or close one before the call has succeeded, and there is nothing to roll back.
Result<void> Pipe2(Task& task, UserPtr<std::array<int32_t, 2>> out, OpenFlags flags) {
  if ((flags.value & ~uint32_t{O_CLOEXEC | O_NONBLOCK | O_DIRECT}) != 0) return Fail(EINVAL);
  const vfs::Path path = task.kernel.anon_fs->NewPath("pipe", S_IFIFO | 0600, task.creds());
  anon::PipeEnds pipe = anon::MakePipe(path, flags.value & (O_NONBLOCK | O_DIRECT));
  const uint64_t limit = task.Limit(RLIMIT_NOFILE);
  vfs::FdReservation reader = TRY(task.files->Reserve(limit));
  vfs::FdReservation writer = TRY(task.files->Reserve(limit));
  TRY(task.mm->CopyOut(out, {reader.fd(), writer.fd()}));
  const vfs::CloseOnExec cloexec = Cloexec(flags.value);
  std::move(reader).Commit(std::move(pipe.reader), cloexec);
  std::move(writer).Commit(std::move(pipe.writer), cloexec);
  return {};
}

Result<void> Pipe(Task& task, UserPtr<std::array<int32_t, 2>> out) { return Pipe2(task, out, {0}); }

constexpr Row kRows[] = {
    Full<Open>(SYSCALL(open)),
    Full<Close>(SYSCALL(close)),
    Full<Ioctl>(SYSCALL(ioctl)),
    Full<Pipe>(SYSCALL(pipe)),
    Full<Dup>(SYSCALL(dup)),
    Full<Dup2>(SYSCALL(dup2)),
    Partial<Fcntl>(SYSCALL(fcntl), "no leases, no dnotify"),
    Full<Flock>(SYSCALL(flock)),
    Full<Creat>(SYSCALL(creat)),
    Full<OpenAt>(SYSCALL(openat)),
    Full<Dup3>(SYSCALL(dup3)),
    Full<Pipe2>(SYSCALL(pipe2)),
    Refused(SYSCALL(name_to_handle_at), EOPNOTSUPP, "no file handles"),
    Refused(SYSCALL(open_by_handle_at), EPERM, "as without CAP_DAC_READ_SEARCH"),
    Full<CloseRange>(SYSCALL(close_range)),
    Full<OpenAt2>(SYSCALL(openat2)),
};

}  // namespace

constinit const std::span<const Row> kOpenRows = kRows;

}  // namespace skep::syscalls
