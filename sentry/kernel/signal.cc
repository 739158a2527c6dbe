#include "sentry/kernel/signal.h"

#include <algorithm>

#include "sentry/kernel/posix_timer.h"

namespace skep::kernel {

DefaultAction DefaultActionOf(int signo) {
  switch (signo) {
    case SIGCHLD:
    case SIGURG:
    case SIGWINCH:
      return DefaultAction::kIgnore;
    case SIGCONT:
      return DefaultAction::kContinue;
    case SIGSTOP:
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU:
      return DefaultAction::kStop;
    case SIGQUIT:
    case SIGILL:
    case SIGTRAP:
    case SIGABRT:
    case SIGBUS:
    case SIGFPE:
    case SIGSEGV:
    case SIGXCPU:
    case SIGXFSZ:
    case SIGSYS:
      return DefaultAction::kCore;
    default:
      return DefaultAction::kTerminate;
  }
}

siginfo_t MakeInfo(int signo, int code) {
  siginfo_t info;
  memset(&info, 0, sizeof info);
  info.si_signo = signo;
  info.si_code = code;
  return info;
}

siginfo_t MakeUserInfo(int signo, int code, int pid, uint32_t uid) {
  siginfo_t info = MakeInfo(signo, code);
  info.si_pid = pid;
  info.si_uid = uid;
  return info;
}

siginfo_t MakeFaultInfo(int signo, int code, uint64_t address) {
  siginfo_t info = MakeInfo(signo, code);
  // SAFETY: only stored; the guest's address is never followed.
  info.si_addr = reinterpret_cast<void*>(address);
  return info;
}

PendingSignals::Added PendingSignals::Add(const siginfo_t& info, size_t limit,
                                          Ref<PosixTimer> timer) {
  const int signo = info.si_signo;
  // A timer brings its own place in the queue (Linux: send_sigqueue).
  if (timer) {
    timer->queued = true;
    set_.Add(signo);
    queue_.push_back({info, std::move(timer)});
    return Added::kQueued;
  }
  if (signo < kFirstRealtime && set_.Has(signo)) return Added::kAlready;
  // Linux: __send_signal_locked: the kernel's own and kill()'s signals are never lost for want of
  // room, only their siginfo and order; sigqueue's are refused.
  const bool from_kernel = info.si_code >= 0 || signo < kFirstRealtime;
  if (queue_.size() >= limit && !from_kernel) return Added::kFull;
  if (queue_.size() >= limit + 2 * kSignals) {
    set_.Add(signo);
    return Added::kAlready;
  }
  set_.Add(signo);
  queue_.push_back({info, std::move(timer)});
  return Added::kQueued;
}

namespace {

// The signal to take first (Linux: next_signal), or 0.
int NextSignal(SignalSet candidates) {
  const SignalSet synchronous = candidates & kSynchronous;
  const uint64_t bits = synchronous.empty() ? candidates.bits() : synchronous.bits();
  return bits == 0 ? 0 : __builtin_ctzll(bits) + 1;
}

}  // namespace

std::optional<PendingSignals::Item> PendingSignals::Take(SignalSet allowed) {
  const int signo = NextSignal(set_ & allowed);
  if (signo == 0) return std::nullopt;
  const auto is_it = [&](const Item& item) { return item.info.si_signo == signo; };
  auto found = std::find_if(queue_.begin(), queue_.end(), is_it);
  Item item{MakeInfo(signo, SI_USER), {}};
  if (found != queue_.end()) {
    item = std::move(*found);
    found = queue_.erase(found);
  }
  if (std::none_of(queue_.begin(), queue_.end(), is_it)) set_.Remove(signo);
  return item;
}

std::optional<siginfo_t> PendingSignals::Peek(SignalSet allowed) const {
  const int signo = NextSignal(set_ & allowed);
  if (signo == 0) return std::nullopt;
  for (const Item& item : queue_) {
    if (item.info.si_signo == signo) return item.info;
  }
  return MakeInfo(signo, SI_USER);
}

void PendingSignals::Discard(SignalSet which) {
  if ((set_ & which).empty()) return;
  set_ = set_ & ~which;
  std::vector<Item> discarded;
  for (Item& item : queue_) {
    if (which.Has(item.info.si_signo)) discarded.push_back(std::move(item));
  }
  std::erase_if(queue_, [&](const Item& item) { return which.Has(item.info.si_signo); });
  // Interval timers go on.
  for (Item& item : discarded) {
    if (!item.timer) continue;
    item.timer->queued = false;
    if (item.timer->group != nullptr) {
      SignalTaken(*item.timer->group, item.timer.get(), item.info);
    }
  }
}

}  // namespace skep::kernel
