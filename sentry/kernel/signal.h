// Signals as values: numbers, sets, siginfo, dispositions and queues (Linux:
// include/linux/signal.h).
#pragma once

#include <array>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <deque>
#include <optional>

#include "base/ref.h"
#include "sentry/kernel/posix_timer.h"
#include "sentry/mm/user_memory.h"

// Every field that is not set is zeroed when one is made (MakeInfo), so no sentry byte leaks.
template <>
inline constexpr bool skep::mm::kAbiSafe<siginfo_t> = true;

namespace skep::kernel {

inline constexpr int kSignals = 64;
inline constexpr int kFirstRealtime = 32;  // Linux's SIGRTMIN; libc keeps 32 and 33

class SignalSet {
 public:
  constexpr SignalSet() = default;
  explicit constexpr SignalSet(uint64_t bits) : bits_(bits) {}
  static constexpr SignalSet Of(int signo) { return SignalSet(uint64_t{1} << (signo - 1)); }
  static constexpr SignalSet All() { return SignalSet(~uint64_t{0}); }
  constexpr uint64_t bits() const { return bits_; }
  constexpr bool Has(int signo) const { return (bits_ >> (signo - 1) & 1) != 0; }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr void Add(int signo) { bits_ |= Of(signo).bits_; }
  constexpr void Remove(int signo) { bits_ &= ~Of(signo).bits_; }
  constexpr SignalSet operator|(SignalSet o) const { return SignalSet(bits_ | o.bits_); }
  constexpr SignalSet operator&(SignalSet o) const { return SignalSet(bits_ & o.bits_); }
  constexpr SignalSet operator~() const { return SignalSet(~bits_); }
  friend constexpr bool operator==(SignalSet, SignalSet) = default;

 private:
  uint64_t bits_ = 0;
};

inline constexpr SignalSet kUnblockable = SignalSet::Of(SIGKILL) | SignalSet::Of(SIGSTOP);
inline constexpr SignalSet kStopSignals = SignalSet::Of(SIGSTOP) | SignalSet::Of(SIGTSTP) |
                                          SignalSet::Of(SIGTTIN) | SignalSet::Of(SIGTTOU);
// Linux: SYNCHRONOUS_MASK, delivered before others.
inline constexpr SignalSet kSynchronous = SignalSet::Of(SIGSEGV) | SignalSet::Of(SIGBUS) |
                                          SignalSet::Of(SIGILL) | SignalSet::Of(SIGTRAP) |
                                          SignalSet::Of(SIGFPE) | SignalSet::Of(SIGSYS);

enum class DefaultAction : uint8_t { kTerminate, kCore, kIgnore, kStop, kContinue };
DefaultAction DefaultActionOf(int signo);

// struct kernel_sigaction of x86-64.
struct SignalAction {
  static constexpr uint64_t kDefault = 0, kIgnore = 1;  // SIG_DFL, SIG_IGN
  uint64_t handler = kDefault;
  uint64_t flags = 0;  // SA_*
  uint64_t restorer = 0;
  uint64_t mask = 0;

  bool IsDefault() const { return handler == kDefault; }
  bool IsIgnored() const { return handler == kIgnore; }
  bool IsCaught() const { return handler > kIgnore; }
};
inline constexpr uint64_t kSaRestorer = 0x04000000;

siginfo_t MakeInfo(int signo, int code);
siginfo_t MakeUserInfo(int signo, int code, int pid, uint32_t uid);
siginfo_t MakeFaultInfo(int signo, int code, uint64_t address);

// Signals that wait: one of each standard signal, a bounded queue of real-time ones.
class PendingSignals {
 public:
  SignalSet set() const { return set_; }
  // False: a standard signal that was pending already (dropped), or the queue is full.
  enum class Added : uint8_t { kQueued, kAlready, kFull };
  Added Add(const siginfo_t& info, size_t limit, Ref<PosixTimer> timer = {}) REQUIRES(tasks);
  struct Item {
    siginfo_t info;
    Ref<PosixTimer> timer;
  };
  std::optional<Item> Take(SignalSet allowed);  // synchronous first, then the lowest number
  std::optional<siginfo_t> Peek(SignalSet allowed) const;
  // Timers whose signals these were go on.
  void Discard(SignalSet which) REQUIRES(tasks);
  size_t size() const { return queue_.size(); }

 private:
  SignalSet set_;
  std::deque<Item> queue_;
};

}  // namespace skep::kernel
