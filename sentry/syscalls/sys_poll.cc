// Waiting for several files: poll, select, epoll; eventfd, signalfd and timerfd.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <cstring>

#include "sentry/anon/epoll.h"
#include "sentry/anon/eventfd.h"
#include "sentry/anon/poll.h"
#include "sentry/anon/signalfd.h"
#include "sentry/anon/timerfd.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/kernel/signal_source.h"
#include "sentry/kernel/signals.h"
#include "sentry/syscalls/abi.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/util.h"

namespace skep::syscalls {
namespace {

// Linux: do_sys_poll.
Result<int32_t> DoPoll(Task& task, UserPtr<pollfd> address, uint32_t count,
                       sched::Deadline deadline) {
  if (count > task.Limit(RLIMIT_NOFILE)) return Fail(EINVAL);
  std::vector<pollfd> fds(count);
  TRY(task.mm->CopyInArray(UserPtr<const pollfd>(address.addr()), std::span(fds)));
  anon::PollSet set;
  std::vector<size_t> index(count, SIZE_MAX);
  int32_t bad = 0;
  for (size_t i = 0; i < count; ++i) {
    fds[i].revents = 0;
    if (fds[i].fd < 0) continue;
    auto file = task.files->Get(fds[i].fd);
    if (!file) {
      fds[i].revents = POLLNVAL;
      ++bad;
      continue;
    }
    index[i] = set.size();
    set.Add(std::move(*file), static_cast<uint16_t>(fds[i].events));
  }
  auto ready = set.Wait(bad != 0 ? sched::Deadline(0) : deadline);
  if (!ready) return std::unexpected(ready.error());
  for (size_t i = 0; i < count; ++i) {
    if (index[i] != SIZE_MAX) fds[i].revents = static_cast<short>(set.ready(index[i]));
  }
  // Linux copies only revents back.
  for (size_t i = 0; i < count; ++i) {
    const UserAddr at = address.addr() + i * sizeof(pollfd) + offsetof(pollfd, revents);
    TRY(task.mm->CopyOut(UserPtr<int16_t>(at), fds[i].revents));
  }
  return static_cast<int32_t>(*ready) + bad;
}

sched::Deadline FromMs(Task& task, int32_t timeout_ms) {
  if (timeout_ms < 0) return std::nullopt;
  if (timeout_ms == 0) return sched::Deadline(0);
  return After(task, static_cast<uint64_t>(timeout_ms) * 1'000'000);
}

// What is left of a timeout, for ppoll and select, which tell it back.
uint64_t Left(Task& task, const sched::Deadline& deadline) {
  const uint64_t now = task.kernel.scheduler.clock().MonotonicNs();
  return deadline && *deadline > now ? *deadline - now : 0;
}

Result<sched::Deadline> FromTimespec(Task& task, UserPtr<timespec> address) {
  if (address.is_null()) return sched::Deadline();
  const timespec t = TRY(task.mm->CopyIn(address));
  const uint64_t ns = TRY(ToNs(t));
  return ns == 0 ? sched::Deadline(0) : After(task, ns);
}

Result<int32_t> Poll(Task& task, UserPtr<pollfd> fds, uint32_t count, int32_t timeout_ms) {
  const sched::Deadline deadline = FromMs(task, timeout_ms);
  auto ready = DoPoll(task, fds, count, deadline);
  if (!ready && ready.error().code() == kRestartNoHand) {
    task.restart = {.kind = kernel::RestartBlock::Kind::kPoll,
                    .deadline_ns = deadline.value_or(UINT64_MAX),
                    .address = Raw(fds.addr()),
                    .value = count};
    return Fail(kRestartBlock);
  }
  return ready;
}

}  // namespace

Result<int32_t> PollRestart(Task& task) {
  const kernel::RestartBlock block = task.restart;
  const auto deadline =
      block.deadline_ns == UINT64_MAX ? std::nullopt : sched::Deadline(block.deadline_ns);
  auto ready = DoPoll(task, UserPtr<pollfd>(block.address), block.value, deadline);
  if (!ready && ready.error().code() == kRestartNoHand) return Fail(kRestartBlock);
  return ready;
}

namespace {

Result<int32_t> Ppoll(Task& task, UserPtr<pollfd> fds, uint32_t count, UserPtr<timespec> timeout,
                      UserPtr<const uint64_t> mask, uint64_t mask_size) {
  const sched::Deadline deadline = TRY(FromTimespec(task, timeout));
  TRY(InstallTemporaryMask(task, mask, mask_size));
  auto ready = DoPoll(task, fds, count, deadline);
  if (ready || ready.error().code() != kRestartNoHand) DropTemporaryMask(task);
  if (!timeout.is_null()) (void)task.mm->CopyOut(timeout, ToTimespec(Left(task, deadline)));
  return ready;
}

constexpr size_t kSelectWord = 64;

struct SelectSets {
  std::vector<uint64_t> in[3];
  UserPtr<uint64_t> address[3];
};

Result<int32_t> DoSelect(Task& task, int32_t count, SelectSets& sets, sched::Deadline deadline) {
  if (count < 0) return Fail(EINVAL);
  count = static_cast<int32_t>(
      std::min<uint64_t>(static_cast<uint64_t>(count), task.Limit(RLIMIT_NOFILE)));
  const size_t words = (static_cast<size_t>(count) + kSelectWord - 1) / kSelectWord;
  for (int k = 0; k < 3; ++k) {
    sets.in[k].assign(words, 0);
    if (sets.address[k].is_null()) continue;
    // Linux reads and writes whole longs.
    TRY(task.mm->CopyInArray(UserPtr<const uint64_t>(sets.address[k].addr()),
                             std::span(sets.in[k])));
  }
  constexpr uint32_t kMasks[3] = {EPOLLIN | EPOLLRDNORM | EPOLLRDBAND | EPOLLHUP | EPOLLERR,
                                  EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND | EPOLLERR, EPOLLPRI};
  anon::PollSet set;
  std::vector<std::pair<int, uint32_t>> wanted;
  for (int fd = 0; fd < count; ++fd) {
    const auto word = static_cast<size_t>(fd) / kSelectWord;
    const uint64_t bit = uint64_t{1} << (static_cast<size_t>(fd) % kSelectWord);
    uint32_t kinds = 0, events = 0;
    for (uint32_t k = 0; k < 3; ++k) {
      if ((sets.in[k][word] & bit) == 0) continue;
      kinds |= 1u << k;
      events |= kMasks[k];
    }
    if (kinds == 0) continue;
    Ref<vfs::File> file = TRY(task.files->Get(fd));
    set.Add(std::move(file), events);
    wanted.emplace_back(fd, kinds);
  }
  TRY(set.Wait(deadline));
  int32_t bits = 0;
  for (auto& in : sets.in) std::fill(in.begin(), in.end(), 0);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto fd = static_cast<size_t>(wanted[i].first);
    for (uint32_t k = 0; k < 3; ++k) {
      if ((wanted[i].second >> k & 1) == 0 || (set.ready(i) & kMasks[k]) == 0) continue;
      sets.in[k][fd / kSelectWord] |= uint64_t{1} << (fd % kSelectWord);
      ++bits;
    }
  }
  for (int k = 0; k < 3; ++k) {
    if (sets.address[k].is_null()) continue;
    TRY(task.mm->CopyOutArray(sets.address[k], std::span<const uint64_t>(sets.in[k])));
  }
  return bits;
}

Result<int32_t> Select(Task& task, int32_t count, UserPtr<uint64_t> read, UserPtr<uint64_t> write,
                       UserPtr<uint64_t> except, UserPtr<timeval> timeout) {
  sched::Deadline deadline;
  if (!timeout.is_null()) {
    const timeval t = TRY(task.mm->CopyIn(timeout));
    if (t.tv_sec < 0 || t.tv_usec < 0) return Fail(EINVAL);
    const uint64_t ns =
        static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_usec) * 1000;
    deadline = ns == 0 ? sched::Deadline(0) : After(task, ns);
  }
  SelectSets sets{.in = {}, .address = {read, write, except}};
  auto ready = DoSelect(task, count, sets, deadline);
  if (!timeout.is_null()) (void)task.mm->CopyOut(timeout, ToTimeval(Left(task, deadline)));
  return ready;
}

Result<int32_t> Pselect6(Task& task, int32_t count, UserPtr<uint64_t> read, UserPtr<uint64_t> write,
                         UserPtr<uint64_t> except, UserPtr<timespec> timeout,
                         UserPtr<const uint64_t> mask) {
  UserPtr<const uint64_t> set;
  uint64_t set_size = 8;
  if (!mask.is_null()) {
    const uint64_t address = TRY(task.mm->CopyIn(mask));
    set = UserPtr<const uint64_t>(address);
    set_size = TRY(task.mm->CopyIn(mask.At(1)));
  }
  const sched::Deadline deadline = TRY(FromTimespec(task, timeout));
  TRY(InstallTemporaryMask(task, set, set_size));
  SelectSets sets{.in = {}, .address = {read, write, except}};
  auto ready = DoSelect(task, count, sets, deadline);
  if (ready || ready.error().code() != kRestartNoHand) DropTemporaryMask(task);
  if (!timeout.is_null()) (void)task.mm->CopyOut(timeout, ToTimespec(Left(task, deadline)));
  return ready;
}

Result<Fd> EpollCreate1(Task& task, int32_t flags) {
  if ((flags & ~EPOLL_CLOEXEC) != 0) return Fail(EINVAL);
  auto file = MakeRef<anon::Epoll>(task.kernel.anon_fs->SharedInode("[eventpoll]"),
                                   task.kernel.epoll_nesting);
  return InstallFile(task, file, flags != 0);
}

Result<Fd> EpollCreate(Task& task, int32_t size) {
  if (size <= 0) return Fail(EINVAL);
  return EpollCreate1(task, 0);
}

Result<Ref<vfs::File>> EpollFile(Task& task, Fd fd) {
  Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (dynamic_cast<anon::Epoll*>(file.get()) == nullptr) return Fail(EINVAL);
  return file;
}

Result<int32_t> DoEpollWait(Task& task, Fd fd, UserPtr<AbiEpollEvent> out, int32_t max,
                            sched::Deadline deadline) {
  constexpr int32_t kMost = INT32_MAX / static_cast<int32_t>(sizeof(AbiEpollEvent));
  if (max <= 0 || max > kMost) return Fail(EINVAL);
  const Ref<vfs::File> file = TRY(EpollFile(task, fd));
  auto& epoll = static_cast<anon::Epoll&>(*file);
  const std::vector<epoll_event> events = TRY(epoll.Wait(static_cast<size_t>(max), deadline));
  std::vector<AbiEpollEvent> packed;
  packed.reserve(events.size());
  for (const epoll_event& e : events) packed.push_back({e.events, e.data.u64});
  TRY(task.mm->CopyOutArray(out, std::span<const AbiEpollEvent>(packed)));
  return static_cast<int32_t>(packed.size());
}

Result<int32_t> MaskedEpollWait(Task& task, Fd fd, UserPtr<AbiEpollEvent> out, int32_t max,
                                sched::Deadline deadline, UserPtr<const uint64_t> mask,
                                uint64_t size) {
  TRY(InstallTemporaryMask(task, mask, size));
  auto ready = DoEpollWait(task, fd, out, max, deadline);
  if (ready || ready.error().code() != EINTR) DropTemporaryMask(task);
  return ready;
}

Result<void> EpollCtl(Task& task, Fd epoll_fd, int32_t op, Fd fd,
                      UserPtr<const AbiEpollEvent> address) {
  epoll_event event{};
  if (op != EPOLL_CTL_DEL) {
    const AbiEpollEvent in = TRY(task.mm->CopyIn(address));
    event.events = in.events;
    event.data.u64 = in.data;
  }
  const Ref<vfs::File> epoll = TRY(task.files->Get(epoll_fd.value));
  Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  auto* target = dynamic_cast<anon::Epoll*>(epoll.get());
  if (file->Waiters() == nullptr) return Fail(EPERM);
  if (target == nullptr || file == epoll) return Fail(EINVAL);
  return target->Control(op, std::move(file), fd.value, event);
}

Result<int32_t> EpollWait(Task& task, Fd fd, UserPtr<AbiEpollEvent> events, int32_t max,
                          int32_t timeout_ms) {
  return DoEpollWait(task, fd, events, max, FromMs(task, timeout_ms));
}

Result<int32_t> EpollPwait(Task& task, Fd fd, UserPtr<AbiEpollEvent> events, int32_t max,
                           int32_t timeout_ms, UserPtr<const uint64_t> mask, uint64_t mask_size) {
  return MaskedEpollWait(task, fd, events, max, FromMs(task, timeout_ms), mask, mask_size);
}

Result<int32_t> EpollPwait2(Task& task, Fd fd, UserPtr<AbiEpollEvent> events, int32_t max,
                            UserPtr<const timespec> timeout, UserPtr<const uint64_t> mask,
                            uint64_t mask_size) {
  const sched::Deadline deadline = TRY(FromTimespec(task, UserPtr<timespec>(timeout.addr())));
  return MaskedEpollWait(task, fd, events, max, deadline, mask, mask_size);
}

Result<Fd> Eventfd2(Task& task, uint32_t initial, int32_t flags) {
  if ((flags & ~(EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE)) != 0) return Fail(EINVAL);
  const uint32_t nonblock = (flags & EFD_NONBLOCK) != 0 ? O_NONBLOCK : 0;
  auto file = MakeRef<anon::EventFd>(task.kernel.anon_fs->SharedInode("[eventfd]"), initial,
                                     (flags & EFD_SEMAPHORE) != 0, nonblock);
  return InstallFile(task, file, (flags & EFD_CLOEXEC) != 0);
}
Result<Fd> Eventfd(Task& task, uint32_t initial) { return Eventfd2(task, initial, 0); }

Result<Fd> SignalFd4(Task& task, Fd fd, UserPtr<const uint64_t> address, uint64_t size,
                     int32_t flags) {
  if (size != sizeof(uint64_t)) return Fail(EINVAL);
  const uint64_t mask = TRY(task.mm->CopyIn(address));
  if ((flags & ~(SFD_CLOEXEC | SFD_NONBLOCK)) != 0) return Fail(EINVAL);
  if (fd.value != -1) {
    const Ref<vfs::File> file = TRY(task.files->Get(fd.value));
    auto* existing = dynamic_cast<anon::SignalFd*>(file.get());
    if (existing == nullptr) return Fail(EINVAL);
    existing->SetMask(mask);
    return fd;
  }
  const uint32_t nonblock = (flags & SFD_NONBLOCK) != 0 ? O_NONBLOCK : 0;
  auto file = MakeRef<anon::SignalFd>(task.kernel.anon_fs->SharedInode("[signalfd]"),
                                      *task.kernel.signal_source, mask, nonblock);
  return InstallFile(task, file, (flags & SFD_CLOEXEC) != 0);
}
Result<Fd> SignalFd(Task& task, Fd fd, UserPtr<const uint64_t> mask, uint64_t size) {
  return SignalFd4(task, fd, mask, size, 0);
}

Result<Fd> TimerfdCreate(Task& task, int32_t clock, int32_t flags) {
  if ((flags & ~(TFD_CLOEXEC | TFD_NONBLOCK)) != 0) return Fail(EINVAL);
  if (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC && clock != CLOCK_BOOTTIME)
    return Fail(EINVAL);
  const auto kind = clock == CLOCK_REALTIME ? anon::TimerFd::ClockKind::kRealtime
                                            : anon::TimerFd::ClockKind::kMonotonic;
  const uint32_t nonblock = (flags & TFD_NONBLOCK) != 0 ? O_NONBLOCK : 0;
  auto file = MakeRef<anon::TimerFd>(task.kernel.anon_fs->SharedInode("[timerfd]"),
                                     task.kernel.scheduler, kind, nonblock);
  return InstallFile(task, file, (flags & TFD_CLOEXEC) != 0);
}

Result<Ref<vfs::File>> TimerFile(Task& task, Fd fd) {
  Ref<vfs::File> file = TRY(task.files->Get(fd.value));
  if (dynamic_cast<anon::TimerFd*>(file.get()) == nullptr) return Fail(EINVAL);
  return file;
}

itimerspec ToItimerspec(const anon::TimerSetting& s) {
  return {ToTimespec(s.interval_ns), ToTimespec(s.value_ns)};
}

Result<void> TimerfdSettime(Task& task, Fd fd, int32_t flags, UserPtr<const itimerspec> address,
                            UserPtr<itimerspec> old) {
  const itimerspec in = TRY(task.mm->CopyIn(address));
  anon::TimerSetting setting;
  setting.value_ns = TRY(ToNs(in.it_value));
  setting.interval_ns = TRY(ToNs(in.it_interval));
  if ((flags & ~(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)) != 0) return Fail(EINVAL);
  const Ref<vfs::File> file = TRY(TimerFile(task, fd));
  const auto before =
      static_cast<anon::TimerFd&>(*file).Set(setting, (flags & TFD_TIMER_ABSTIME) != 0);
  if (!old.is_null()) TRY(task.mm->CopyOut(old, ToItimerspec(before)));
  return {};
}

Result<void> TimerfdGettime(Task& task, Fd fd, UserPtr<itimerspec> out) {
  const Ref<vfs::File> file = TRY(TimerFile(task, fd));
  return task.mm->CopyOut(out, ToItimerspec(static_cast<anon::TimerFd&>(*file).Get()));
}

constexpr Row kRows[] = {
    Full<Poll>(SYSCALL(poll)),
    Full<Select>(SYSCALL(select)),
    Full<EpollCreate>(SYSCALL(epoll_create)),
    Full<EpollWait>(SYSCALL(epoll_wait)),
    Full<EpollCtl>(SYSCALL(epoll_ctl)),
    Full<Pselect6>(SYSCALL(pselect6)),
    Full<Ppoll>(SYSCALL(ppoll)),
    Full<EpollPwait>(SYSCALL(epoll_pwait)),
    Full<SignalFd>(SYSCALL(signalfd)),
    Full<TimerfdCreate>(SYSCALL(timerfd_create)),
    Full<Eventfd>(SYSCALL(eventfd)),
    Full<TimerfdSettime>(SYSCALL(timerfd_settime)),
    Full<TimerfdGettime>(SYSCALL(timerfd_gettime)),
    Full<SignalFd4>(SYSCALL(signalfd4)),
    Full<Eventfd2>(SYSCALL(eventfd2)),
    Full<EpollCreate1>(SYSCALL(epoll_create1)),
    Full<EpollPwait2>(SYSCALL(epoll_pwait2)),
};

}  // namespace

constinit const std::span<const Row> kPollRows = kRows;

}  // namespace skep::syscalls
