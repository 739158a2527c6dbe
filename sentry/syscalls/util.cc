#include "sentry/syscalls/util.h"

#include <fcntl.h>
#include <algorithm>

#include "base/limits.h"
#include "sentry/kernel/credentials.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/signals.h"

namespace skep::syscalls {

Result<void> CopyInStruct(Task& task, UserPtr<void> from, uint64_t size, std::span<std::byte> to) {
  if (size > kPageSize) return Fail(E2BIG);
  std::fill(to.begin(), to.end(), std::byte{0});
  const size_t common = std::min<size_t>(size, to.size());
  if (size > to.size()) {
    std::vector<std::byte> rest(size - to.size());
    if (task.mm->CopyIn(from.addr() + to.size(), rest).fault != 0) return Fail(EFAULT);
    if (std::any_of(rest.begin(), rest.end(), [](std::byte b) { return b != std::byte{0}; })) {
      return Fail(E2BIG);
    }
  }
  if (task.mm->CopyIn(from.addr(), to.first(common)).fault != 0) return Fail(EFAULT);
  return {};
}

Result<size_t> CopyOutStruct(Task& task, UserPtr<void> to, uint64_t size,
                             std::span<const std::byte> from) {
  if (size > kPageSize) return Fail(E2BIG);
  const size_t common = std::min<size_t>(size, from.size());
  if (task.mm->CopyOut(to.addr(), from.first(common)).fault != 0) return Fail(EFAULT);
  if (size > from.size()) {
    const std::vector<std::byte> zeros(size - from.size());
    if (task.mm->CopyOut(to.addr() + from.size(), zeros).fault != 0) return Fail(EFAULT);
  }
  return from.size() - common;
}

void ChangeCredentials(Task& task, const std::function<void(auth::Credentials&)>& change) {
  auto changed = std::make_shared<auth::Credentials>(task.creds());
  change(*changed);
  TasksLock lock(task.kernel);
  kernel::CommitCredentials(task, std::move(changed));
}

Result<std::string> CopyInPath(Task& task, Path path) {
  return task.mm->CopyInString(path, kPathMax);
}

Result<vfs::NameOps> WalkerAt(Task& task, Fd dir, std::string_view path) {
  if (dir.value == AT_FDCWD || path.starts_with('/')) return NameOpsFor(task);
  const Ref<vfs::File> file = TRY(task.files->GetIncludingPath(dir.value));
  return vfs::NameOps(task, *task.fs, file->path());
}

Result<vfs::Path> ResolveAt(Task& task, Fd dir, Path address, int32_t at_flags,
                            vfs::FollowFinal follow) {
  const std::string path = TRY(CopyInPath(task, address));
  vfs::NameOps walker = TRY(WalkerAt(task, dir, path));
  return walker.Resolve(path, {.follow = follow, .empty_path = (at_flags & AT_EMPTY_PATH) != 0});
}

Result<uint64_t> ToNs(const timespec& t) {
  if (t.tv_sec < 0 || t.tv_nsec < 0 || t.tv_nsec >= 1'000'000'000) return Fail(EINVAL);
  uint64_t ns = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(t.tv_sec), uint64_t{1'000'000'000}, &ns) ||
      __builtin_add_overflow(ns, static_cast<uint64_t>(t.tv_nsec), &ns) || ns > INT64_MAX) {
    return uint64_t{INT64_MAX};
  }
  return ns;
}

timespec ToTimespec(uint64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
}

timeval ToTimeval(uint64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000), static_cast<suseconds_t>(ns / 1000 % 1'000'000)};
}

sched::Deadline After(Task& task, uint64_t ns) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(task.kernel.scheduler.clock().MonotonicNs(), ns, &sum))
    return std::nullopt;
  return sum;
}

Result<void> InstallTemporaryMask(Task& task, UserPtr<const uint64_t> set, uint64_t size) {
  if (set.is_null()) return {};
  if (size != sizeof(uint64_t)) return Fail(EINVAL);
  const uint64_t mask = TRY(task.mm->CopyIn(set));
  task.mask_to_restore = task.blocked.Mine();
  task.restore_mask = true;
  kernel::SetBlocked(task, kernel::SignalSet(mask));
  return {};
}

void DropTemporaryMask(Task& task) {
  if (!task.restore_mask) return;
  task.restore_mask = false;
  kernel::SetBlocked(task, task.mask_to_restore);
}

Result<Fd> InstallFile(Task& task, Ref<vfs::File> file, bool cloexec) {
  vfs::FdReservation slot = TRY(task.files->Reserve(task.Limit(RLIMIT_NOFILE)));
  const auto close = cloexec ? vfs::CloseOnExec::kYes : vfs::CloseOnExec::kNo;
  return Fd{std::move(slot).Commit(std::move(file), close)};
}

rusage ToRusage(const kernel::Usage& usage) {
  rusage out{};
  const auto to_timeval = [](uint64_t ns) {
    return timeval{static_cast<time_t>(ns / 1'000'000'000),
                   static_cast<suseconds_t>(ns / 1000 % 1'000'000)};
  };
  out.ru_utime = to_timeval(usage.user_ns);
  out.ru_stime = to_timeval(usage.system_ns);
  out.ru_maxrss = static_cast<long>(usage.max_rss / 1024);
  out.ru_minflt = static_cast<long>(usage.minor_faults);
  out.ru_majflt = static_cast<long>(usage.major_faults);
  out.ru_nvcsw = static_cast<long>(usage.voluntary_switches);
  out.ru_nivcsw = static_cast<long>(usage.involuntary_switches);
  return out;
}

}  // namespace skep::syscalls
