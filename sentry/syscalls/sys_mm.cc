// Memory: mmap and friends, futexes, other processes' memory.
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include "sentry/anon/memfd.h"
#include "sentry/ipc/futex.h"
#include "sentry/kernel/access.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/membarrier.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/kernel/signals.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"
#include "sentry/vfs/mount.h"

namespace skep::syscalls {
namespace {

// Linux: do_mmap's checks against the file's mode.
Result<void> CheckFileMapping(vfs::File& file, int32_t prot, int32_t flags, int& max_prot) {
  const int type = flags & MAP_TYPE;
  if (file.path().mount && (file.path().mount->flags() & MS_NOEXEC) != 0) {
    if ((prot & PROT_EXEC) != 0) return Fail(EPERM);
    max_prot &= ~PROT_EXEC;
  }
  if (type == MAP_SHARED || type == MAP_SHARED_VALIDATE) {
    if ((prot & PROT_WRITE) != 0 && !file.writable()) return Fail(EACCES);
    if (!file.writable()) max_prot &= ~PROT_WRITE;
    const auto seals = anon::GetSeals(file);
    if (seals && (*seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0) {
      if ((prot & PROT_WRITE) != 0) return Fail(EPERM);
      max_prot &= ~PROT_WRITE;
    }
  }
  if (!file.readable()) return Fail(EACCES);
  return {};
}

Result<uint64_t> Mmap(Task& task, uint64_t address, uint64_t size, int32_t prot, int32_t flags,
                      Fd fd, uint64_t offset) {
  if (!IsPageAligned(offset)) return Fail(EINVAL);
  mm::MmapRequest request{.address = address, .size = size, .prot = prot, .flags = flags};
  request.offset = offset;
  if ((flags & MAP_ANONYMOUS) == 0) {
    const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
    if (size == 0) return Fail(EINVAL);
    TRY(CheckFileMapping(*file, prot, flags, request.max_prot));
    request.file = TRY(file->Mappable());
  }
  return task.mm->Mmap(request, task.MemoryLimits());
}

Result<void> Munmap(Task& task, uint64_t start, uint64_t size) {
  return task.mm->Munmap(start, size);
}

Result<void> Mprotect(Task& task, uint64_t start, uint64_t size, int32_t prot) {
  constexpr int kGrows = PROT_GROWSDOWN | PROT_GROWSUP;
  if ((prot & kGrows) == kGrows) return Fail(EINVAL);
  return task.mm->Mprotect(start, size, prot & ~kGrows, (prot & PROT_GROWSDOWN) != 0,
                           (prot & PROT_GROWSUP) != 0);
}

Result<uint64_t> Mremap(Task& task, uint64_t start, uint64_t size, uint64_t new_size, int32_t flags,
                        uint64_t new_start) {
  return task.mm->Mremap(start, size, new_size, flags, new_start, task.MemoryLimits());
}

Result<uint64_t> Brk(Task& task, uint64_t wanted) {
  return task.mm->Brk(wanted, task.MemoryLimits());
}

Result<void> Madvise(Task& task, uint64_t start, uint64_t size, int32_t advice) {
  return task.mm->Madvise(start, size, advice);
}

Result<void> Msync(Task& task, uint64_t start, uint64_t size, int32_t flags) {
  return task.mm->Msync(start, size, flags);
}

Result<void> Mincore(Task& task, uint64_t start, uint64_t size, UserPtr<uint8_t> out) {
  UserAddr to = out.addr();
  return task.mm->Mincore(start, size, [&](std::span<const std::byte> pages) -> Result<void> {
    if (task.mm->CopyOut(to, pages).fault != 0) return Fail(EFAULT);
    to = to + pages.size();
    return {};
  });
}

Result<void> Mlock(Task& task, uint64_t start, uint64_t size) {
  return task.mm->Mlock(start, size, false, task.MemoryLimits());
}

Result<void> Mlock2(Task& task, uint64_t start, uint64_t size, int32_t flags) {
  if ((flags & ~MLOCK_ONFAULT) != 0) return Fail(EINVAL);
  return task.mm->Mlock(start, size, flags != 0, task.MemoryLimits());
}

Result<void> Munlock(Task& task, uint64_t start, uint64_t size) {
  return task.mm->Munlock(start, size);
}
Result<void> Mlockall(Task& task, int32_t flags) {
  return task.mm->MlockAll(flags, task.MemoryLimits());
}
Result<void> Munlockall(Task& task) { return task.mm->MunlockAll(); }

// Guest threads of one process run on one worker's engine and every stop is a full barrier; the
// commands that need other CPUs interrupted are not offered, as on a kernel without them.
Result<int32_t> Membarrier(Task& task, int32_t command, uint32_t flags, int32_t) {
  return kernel::Membarrier(task, command, flags);
}

Result<Fd> MemfdCreate(Task& task, Path name, uint32_t flags) {
  const std::string text = TRY([&]() -> Result<std::string> {
    auto copied = task.mm->CopyInString(name, 250);
    if (!copied && copied.error().code() == ENAMETOOLONG) return Fail(EINVAL);
    return copied;
  }());
  // No huge pages: as a kernel without hugetlbfs.
  constexpr uint32_t kExecutable = MFD_NOEXEC_SEAL | MFD_EXEC;
  if ((flags & ~(MFD_CLOEXEC | MFD_ALLOW_SEALING | kExecutable)) != 0 ||
      (flags & kExecutable) == kExecutable) {
    return Fail(EINVAL);
  }
  Ref<vfs::File> file =
      TRY(anon::MakeMemfd(*task.kernel.memory, *task.kernel.anon_fs, text, flags));
  return InstallFile(task, std::move(file), (flags & MFD_CLOEXEC) != 0);
}

// The timeout argument of a waiting operation: relative for FUTEX_WAIT, else absolute.
Result<sched::Deadline> DeadlineOf(Task& task, int32_t command, int32_t op, uint64_t timeout) {
  if (timeout == 0) return sched::Deadline();
  const timespec t = TRY(task.mm->CopyIn(UserPtr<const timespec>(timeout)));
  const uint64_t ns = TRY(ToNs(t));
  if (command == FUTEX_WAIT) return After(task, ns);
  const clockid_t clock = (op & FUTEX_CLOCK_REALTIME) != 0 || command == FUTEX_LOCK_PI
                              ? CLOCK_REALTIME
                              : CLOCK_MONOTONIC;
  return sched::Deadline(kernel::ToMonotonic(task.kernel, clock, ns));
}

Result<int64_t> FutexWait(Task& task, uint64_t address, uint32_t value, uint32_t bits,
                          bool is_private, sched::Deadline deadline) {
  ipc::MemoryWords words(*task.mm);
  auto waited =
      task.kernel.futexes.Wait({words, UserAddr{address}, is_private}, value, bits, deadline);
  if (waited) return 0;
  if (waited.error().code() == kRestartBlock) {
    task.restart = {.kind = kernel::RestartBlock::Kind::kFutexWait,
                    .deadline_ns = deadline.value_or(0),
                    .address = address,
                    .value = value,
                    .bits = bits,
                    .flags = is_private ? 1u : 0u};
  }
  return std::unexpected(waited.error());
}

}  // namespace

Result<int64_t> FutexRestart(Task& task) {
  const kernel::RestartBlock block = task.restart;
  return FutexWait(task, block.address, block.value, block.bits, block.flags != 0,
                   block.deadline_ns);
}

namespace {

// FUTEX_LOCK_PI and its family.
Result<int64_t> PiFutex(Task& task, const ipc::FutexAt& first, int32_t op, uint32_t value,
                        uint64_t timeout, const ipc::FutexAt& second, uint32_t value3) {
  ipc::PiFutexTable& table = task.pid_namespace().pi_futexes();
  const auto tid = static_cast<uint32_t>(task.tid);
  const ipc::PiFutexTable::IsAlive alive = [&task](uint32_t owner) {
    TasksLock lock(task.kernel);
    const Task* found = task.pid_namespace().FindTask(static_cast<int>(owner));
    return found != nullptr && !found->left_futexes.load();
  };
  const int32_t command = op & FUTEX_CMD_MASK;
  sched::Deadline deadline;
  if (command == FUTEX_LOCK_PI || command == FUTEX_LOCK_PI2 || command == FUTEX_WAIT_REQUEUE_PI) {
    deadline = TRY(DeadlineOf(task, command, op, timeout));
  }
  switch (command) {
    case FUTEX_LOCK_PI:
    case FUTEX_LOCK_PI2:
      TRY(table.Lock(first, tid, alive, deadline));
      return 0;
    case FUTEX_TRYLOCK_PI:
      TRY(table.TryLock(first, tid, alive));
      return 0;
    case FUTEX_UNLOCK_PI:
      TRY(table.Unlock(first, tid));
      return 0;
    case FUTEX_WAIT_REQUEUE_PI:
      TRY(table.WaitRequeue(first, value, second, tid, deadline));
      return 0;
    default:
      return table.Requeue(first, value3, second, static_cast<int>(value),
                           static_cast<int>(timeout), alive);
  }
}

Result<int64_t> Futex(Task& task, UserPtr<uint32_t> address, int32_t op, uint32_t value,
                      uint64_t timeout, UserPtr<uint32_t> address2, uint32_t value3) {
  const int32_t command = op & FUTEX_CMD_MASK;
  const bool is_private = (op & FUTEX_PRIVATE_FLAG) != 0;
  if ((op & FUTEX_CLOCK_REALTIME) != 0 && command != FUTEX_WAIT_BITSET && command != FUTEX_WAIT &&
      command != FUTEX_WAIT_REQUEUE_PI && command != FUTEX_LOCK_PI2) {
    return Fail(ENOSYS);
  }
  ipc::MemoryWords words(*task.mm);
  ipc::FutexTable& table = task.kernel.futexes;
  const ipc::FutexAt first{words, address.addr(), is_private};
  const ipc::FutexAt second{words, address2.addr(), is_private};
  const auto count = static_cast<int>(value);
  const auto count2 = static_cast<int>(timeout);
  switch (command) {
    case FUTEX_WAIT:
    case FUTEX_WAIT_BITSET: {
      const sched::Deadline deadline = TRY(DeadlineOf(task, command, op, timeout));
      return FutexWait(task, Raw(address.addr()), value, command == FUTEX_WAIT ? ~0u : value3,
                       is_private, deadline);
    }
    case FUTEX_WAKE:
      return table.Wake(first, count, ~0u);
    case FUTEX_WAKE_BITSET:
      return table.Wake(first, count, value3);
    case FUTEX_REQUEUE:
      return table.Requeue(first, second, count, count2, nullptr);
    case FUTEX_CMP_REQUEUE:
      return table.Requeue(first, second, count, count2, &value3);
    case FUTEX_WAKE_OP:
      return table.WakeOp(first, second, count, count2, value3);
    case FUTEX_LOCK_PI:
    case FUTEX_LOCK_PI2:
    case FUTEX_TRYLOCK_PI:
    case FUTEX_UNLOCK_PI:
    case FUTEX_WAIT_REQUEUE_PI:
    case FUTEX_CMP_REQUEUE_PI:
      return PiFutex(task, first, op, value, timeout, second, value3);
    default:
      return Fail(ENOSYS);
  }
}

// process_vm_readv/writev: between this process and another's memory, in bounded chunks.
Result<int64_t> ProcessVm(Task& task, int32_t pid, UserPtr<const iovec> local, uint64_t local_count,
                          UserPtr<const iovec> remote, uint64_t remote_count, uint64_t flags,
                          bool write) {
  if (flags != 0) return Fail(EINVAL);
  mm::IoSequence here = TRY(mm::IoSequence::FromIovec(*task.mm, local, local_count));
  Ref<mm::MemoryManager> memory;
  {
    TasksLock lock(task.kernel);
    Task* target = task.pid_namespace().FindTask(pid);
    if (target == nullptr || !target->mm) return Fail(ESRCH);
    TRY(kernel::MayAccess(*target, task.creds(), &task, kernel::AccessIds::kReal));
    memory = target->mm.Get();
  }
  if (remote_count > kMaxIov) return Fail(EINVAL);
  std::vector<iovec> list(remote_count);
  const auto bytes = std::as_writable_bytes(std::span(list));
  if (task.mm->CopyIn(remote.addr(), bytes).fault != 0) return Fail(EFAULT);
  std::vector<std::byte> buffer(16 * kPageSize);
  int64_t done = 0;
  for (const iovec& range : list) {
    auto at = reinterpret_cast<uint64_t>(range.iov_base);
    size_t left = range.iov_len;
    while (left != 0 && here.size() != 0) {
      const auto chunk = std::span(buffer).first(std::min({left, here.size(), buffer.size()}));
      const mm::CopyResult in = write ? here.CopyIn(chunk) : memory->CopyIn(UserAddr{at}, chunk);
      const auto got = chunk.first(in.bytes);
      const mm::CopyResult out = write ? memory->CopyOut(UserAddr{at}, got) : here.CopyOut(got);
      done += static_cast<int64_t>(out.bytes);
      if (in.fault != 0 || out.fault != 0) return done == 0 ? Result<int64_t>(Fail(EFAULT)) : done;
      at += out.bytes;
      left -= out.bytes;
    }
  }
  return done;
}

Result<int64_t> ProcessVmReadv(Task& task, int32_t pid, UserPtr<const iovec> local,
                               uint64_t local_count, UserPtr<const iovec> remote,
                               uint64_t remote_count, uint64_t flags) {
  return ProcessVm(task, pid, local, local_count, remote, remote_count, flags, false);
}

Result<int64_t> ProcessVmWritev(Task& task, int32_t pid, UserPtr<const iovec> local,
                                uint64_t local_count, UserPtr<const iovec> remote,
                                uint64_t remote_count, uint64_t flags) {
  return ProcessVm(task, pid, local, local_count, remote, remote_count, flags, true);
}

constexpr Row kRows[] = {
    Full<Mmap>(SYSCALL(mmap)),
    Full<Mprotect>(SYSCALL(mprotect)),
    Full<Munmap>(SYSCALL(munmap)),
    Full<Brk>(SYSCALL(brk)),
    Full<Mremap>(SYSCALL(mremap)),
    Full<Msync>(SYSCALL(msync)),
    Full<Mincore>(SYSCALL(mincore)),
    Partial<Madvise>(SYSCALL(madvise),
                     "advice about huge pages, KSM and core dumps is accepted without effect"),
    Partial<Mlock>(SYSCALL(mlock), "accounted; pages are not pinned"),
    Full<Munlock>(SYSCALL(munlock)),
    Partial<Mlockall>(SYSCALL(mlockall), "accounted; pages are not pinned"),
    Full<Munlockall>(SYSCALL(munlockall)),
    Partial<Futex>(SYSCALL(futex), "owners of PI futexes are lent no priority"),
    Refused(SYSCALL(remap_file_pages), ENOSYS, "deprecated"),
    Full<ProcessVmReadv>(SYSCALL(process_vm_readv)),
    Full<ProcessVmWritev>(SYSCALL(process_vm_writev)),
    Full<MemfdCreate>(SYSCALL(memfd_create)),
    Partial<Membarrier>(SYSCALL(membarrier), "no SYNC_CORE, no RSEQ"),
    Partial<Mlock2>(SYSCALL(mlock2), "accounted; pages are not pinned"),
    Refused(SYSCALL(pkey_mprotect), ENOSYS, "no protection keys"),
    Refused(SYSCALL(pkey_alloc), ENOSPC, "no protection keys"),
    Refused(SYSCALL(pkey_free), EINVAL, "no protection keys"),
    Refused(SYSCALL(process_madvise), ENOSYS, ""),
    Refused(SYSCALL(memfd_secret), ENOSYS, "not offered"),
    Refused(SYSCALL(futex_waitv), ENOSYS, ""),
};

}  // namespace

constinit const std::span<const Row> kMmRows = kRows;

}  // namespace skep::syscalls
