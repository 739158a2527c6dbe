#include "platform/common/waker.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <climits>
#include <csignal>

#include "base/host_call.h"

extern "C" {
// SAFETY: wait.S; the labels are only compared with an instruction pointer.
int64_t skep_wait_call(const uint32_t* word, int64_t number, uint64_t a, uint64_t b, uint64_t c,
                       uint64_t d, uint64_t e, uint64_t f);
extern const char skep_wait_call_begin[], skep_wait_call_end[], skep_wait_call_woken[];
}

namespace skep::platform {
namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000;
static_assert(kKickSignal == SIGUSR2 && kInterruptSignal == SIGUSR1);

// SAFETY: touches only the interrupted registers and the timer's word, which lives until its timer
// is deleted by the thread that runs this.
void OnKick(int, siginfo_t* info, void* context) {
  if (info->si_code == SI_TIMER) {
    static_cast<std::atomic<uint32_t>*>(info->si_value.sival_ptr)->fetch_or(kTimer);
  }
  greg_t& ip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  const auto at = reinterpret_cast<const char*>(ip);
  if (at >= skep_wait_call_begin && at < skep_wait_call_end) {
    ip = reinterpret_cast<greg_t>(skep_wait_call_woken);
  }
}

}  // namespace

HostResult<void> Waker::Start() {
  process_ = getpid();
  thread_ = static_cast<pid_t>(syscall(SYS_gettid));
  // SA_RESTART: other calls of the worker go on. A restarted one of CallUnlessWoken is at its
  // syscall instruction again when the handler looks, so that one ends.
  struct sigaction action = {};
  action.sa_sigaction = OnKick;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  if (sigaction(kKickSignal, &action, nullptr) != 0) return HostFail("sigaction of SIGUSR2");
  sigset_t kick;
  sigemptyset(&kick);
  sigaddset(&kick, kKickSignal);
  pthread_sigmask(SIG_UNBLOCK, &kick, nullptr);

  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = kKickSignal;
  event.sigev_value.sival_ptr = &word_;
  event._sigev_un._tid = thread_;
  if (timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) return HostFail("timer_create");
  has_timer_ = true;
  return {};
}

Waker::~Waker() {
  if (has_timer_) timer_delete(timer_);
}

void Waker::Wake(WakeReason reason) {
  // Pairs with CallUnlessWoken: it says that it sleeps, then looks at the word.
  const uint32_t before = word_.fetch_or(reason);
  if ((before & reason) != 0) return;
  switch (sleep_.load()) {
    case kInCall:
      // The kernel may have moved on since: a late signal does no harm.
      (void)host::Call(SYS_tgkill, process_, thread_, kKickSignal);
      break;
    case kInFutex:
      (void)host::Call(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, INT_MAX);
      break;
    default:
      break;
  }
}

Result<int64_t> Waker::CallUnlessWoken(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                                       uint64_t e, uint64_t f) {
  sleep_.store(kInCall);
  const int64_t result =
      skep_wait_call(reinterpret_cast<const uint32_t*>(&word_), number, a, b, c, d, e, f);
  sleep_.store(kAwake);
  if (result < 0) return Fail(static_cast<int>(-result));
  return result;
}

void Waker::SleepWhile(uint32_t seen) {
  sleep_.store(kInFutex);
  (void)host::Call(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, seen, 0);
  sleep_.store(kAwake);
}

void Waker::SetTimer(uint64_t deadline_ns) {
  if (timer_at_ != 0 && timer_at_ <= deadline_ns) return;
  timer_at_ = deadline_ns;
  itimerspec when = {};
  when.it_value.tv_sec = static_cast<time_t>(deadline_ns / kNsPerSecond);
  when.it_value.tv_nsec = static_cast<long>(deadline_ns % kNsPerSecond);
  timer_settime(timer_, TIMER_ABSTIME, &when, nullptr);
}

}  // namespace skep::platform
