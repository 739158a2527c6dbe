#include "runsc-cli/supervise.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <ctime>
#include <memory>
#include <optional>

#include "base/host_call.h"
#include "runsc-cli/terminal.h"

namespace skep::cli {
namespace {

using boot::CliCommand;
using boot::SentryEvent;

constexpr std::array kForwarded = {SIGHUP,  SIGINT,  SIGQUIT, SIGUSR1, SIGUSR2,
                                   SIGTERM, SIGTSTP, SIGCONT, SIGALRM, SIGWINCH};
// Blocked and not forwarded: they would stop or end the CLI while it tidies up.
constexpr std::array kSwallowed = {SIGTTOU, SIGTTIN, SIGPIPE};

int ExitCodeOf(int status) {
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  return 128 + WTERMSIG(status);
}

int CodeOfFailedStart(int host_errno) {
  switch (host_errno) {
    case 0:
      return 1;
    case ENOENT:
    case ENOTDIR:
      return 127;
    default:
      return 126;
  }
}

class Supervisor {
 public:
  Supervisor(Sandbox sandbox, const SignalSet& signals, bool terminal, const Reporter& reporter,
             std::optional<SandboxPlan> again)
      : sandbox_(std::move(sandbox)),
        signals_(signals),
        terminal_(terminal),
        reporter_(reporter),
        again_(std::move(again)) {}

  Ending Run();

 private:
  void TakeSignal();
  std::optional<Ending> TakeEvent();
  std::optional<Ending> GoOnFromImage(const SentryEvent& event);
  int CheckpointTimeoutMs() const;
  void CheckpointIfDue();
  Ending Lost();
  void Send(CliCommand::Kind kind, uint32_t value) {
    (void)boot::SendCommand(sandbox_.control.get(), {kind, value});
  }
  void SendWindow() {
    const WindowSize size = raw_.Size();
    Send(CliCommand::Kind::kWindow, static_cast<uint32_t>(size.rows) << 16 | size.columns);
  }
  // This process stops, as the guest's first one has, and goes on with it.
  void StopSelf(int signo);
  void GoOn();

  Sandbox sandbox_;
  const SignalSet& signals_;
  const bool terminal_;
  const Reporter& reporter_;
  RawTerminal raw_;
  // A checkpoint to come: then the plan to go on with, and when (0: the guest has not started).
  std::optional<SandboxPlan> again_;
  uint64_t checkpoint_at_ns_ = 0;
};

Ending Supervisor::Run() {
  if (terminal_) raw_.EnterRaw();
  for (;;) {
    std::array<pollfd, 3> fds = {pollfd{sandbox_.control.get(), POLLIN, 0},
                                 pollfd{signals_.fd(), POLLIN, 0},
                                 pollfd{sandbox_.sentry.pidfd(), POLLIN, 0}};
    const Result<int> ready = host::Poll(fds, CheckpointTimeoutMs());
    CheckpointIfDue();
    if (!ready) continue;
    if (fds[1].revents != 0) TakeSignal();
    // Its last event may have come after the control socket was looked at.
    if (fds[2].revents != 0) (void)host::Poll(std::span(fds).first(1), 0);
    std::optional<Ending> ending;
    if (fds[0].revents != 0) {
      ending = TakeEvent();
    } else if (fds[2].revents != 0) {
      ending = Lost();
    }
    if (!ending) continue;
    raw_.Restore();
    return *ending;
  }
}

void Supervisor::TakeSignal() {
  signalfd_siginfo info{};
  const auto bytes = std::as_writable_bytes(std::span(&info, 1));
  if (host::Read(signals_.fd(), bytes).value_or(0) != sizeof info) return;
  switch (info.ssi_signo) {
    case SIGWINCH:
      if (terminal_) SendWindow();
      return;
    case SIGCONT:
      GoOn();
      return;
    default:
      Send(CliCommand::Kind::kSignal, info.ssi_signo);
  }
}

std::optional<Ending> Supervisor::TakeEvent() {
  const std::optional<SentryEvent> event = boot::ReceiveEvent(sandbox_.control.get());
  if (!event) return Lost();
  switch (event->kind) {
    case SentryEvent::Kind::kStarted:
      if (again_) {
        checkpoint_at_ns_ =
            host::MonotonicNs() + static_cast<uint64_t>(again_->checkpoint_after_ms) * 1'000'000;
      }
      return std::nullopt;
    case SentryEvent::Kind::kCheckpointed:
      return GoOnFromImage(*event);
    case SentryEvent::Kind::kStopped:
      StopSelf(event->status);
      return std::nullopt;
    case SentryEvent::Kind::kFailed:
      raw_.Restore();
      reporter_.Error(event->text);
      return Ending{Ending::Kind::kNotStarted, CodeOfFailedStart(event->status)};
    case SentryEvent::Kind::kLost:
      raw_.Restore();
      (void)sandbox_.sentry.Wait();
      reporter_.Error(event->text);
      return Ending{Ending::Kind::kLost, 1};
    case SentryEvent::Kind::kExited:
      // The rest of its output is on its way until the sentry is gone.
      (void)sandbox_.sentry.Wait();
      return Ending{Ending::Kind::kExited, ExitCodeOf(event->status)};
  }
  return Lost();
}

int Supervisor::CheckpointTimeoutMs() const {
  if (checkpoint_at_ns_ == 0) return -1;
  const uint64_t now = host::MonotonicNs();
  return now >= checkpoint_at_ns_ ? 0 : static_cast<int>((checkpoint_at_ns_ - now) / 1'000'000 + 1);
}

void Supervisor::CheckpointIfDue() {
  if (checkpoint_at_ns_ == 0 || host::MonotonicNs() < checkpoint_at_ns_) return;
  checkpoint_at_ns_ = 0;
  (void)boot::SendCommand(sandbox_.control.get(), {CliCommand::Kind::kCheckpoint, 0},
                          again_->image.get());
}

// The sandbox is in the image and its sentry ends: a new sentry and a new gofer take over.
std::optional<Ending> Supervisor::GoOnFromImage(const SentryEvent& event) {
  if (!again_ || event.status != 0) {
    raw_.Restore();
    reporter_.Error("the sandbox cannot be checkpointed: " + event.text);
    return Ending{Ending::Kind::kLost, 1};
  }
  (void)sandbox_.sentry.Wait();
  again_->restore = true;
  HostResult<Sandbox> next = StartSandbox(*std::exchange(again_, std::nullopt));
  if (!next) {
    raw_.Restore();
    reporter_.Error(next.error().message);
    return Ending{Ending::Kind::kLost, 1};
  }
  sandbox_ = std::move(*next);
  return std::nullopt;
}

// By the same signal, so that the host's rules hold: a stop by the terminal's keys means nothing to
// a process group that nobody would continue.
void Supervisor::StopSelf(int signo) {
  // Without a terminal nobody would: the guest is stopped, and may be continued from inside.
  if (signo == SIGSTOP && !HasControllingTerminal()) return;
  raw_.Restore();
  sigset_t one;
  sigset_t before;
  sigemptyset(&one);
  sigaddset(&one, signo);
  (void)sigprocmask(SIG_UNBLOCK, &one, &before);
  (void)host::Kill(getpid(), signo);
  (void)sigprocmask(SIG_SETMASK, &before, nullptr);
  // The one that has woken us, if it did stop us.
  sigemptyset(&one);
  sigaddset(&one, SIGCONT);
  const timespec now = {};
  (void)sigtimedwait(&one, nullptr, &now);
  GoOn();
}

void Supervisor::GoOn() {
  if (terminal_) {
    raw_.EnterRaw();
    SendWindow();
  }
  Send(CliCommand::Kind::kContinue, terminal_ && RawTerminal::Owned() ? 1 : 0);
}

Ending Supervisor::Lost() {
  raw_.Restore();
  const int status = sandbox_.sentry.Wait();
  const runtime::HowItEnded how =
      runtime::WhyItEnded("the sandbox's kernel", status, sandbox_.sentry_words);
  reporter_.Error(how.why);
  if (!how.log.empty()) reporter_.Error("the last lines of its log:");
  for (const std::string& line : how.log) reporter_.Error("  " + line);
  return {Ending::Kind::kLost, 1};
}

}  // namespace

HostResult<SignalSet> SignalSet::Block() {
  SignalSet set;
  sigset_t taken;
  sigset_t blocked;
  sigemptyset(&taken);
  for (const int signal : kForwarded) {
    struct sigaction action{};
    if (sigaction(signal, nullptr, &action) == 0 && action.sa_handler != SIG_IGN) {
      sigaddset(&taken, signal);
    }
  }
  sigaddset(&taken, SIGCONT);
  blocked = taken;
  for (const int signal : kSwallowed) sigaddset(&blocked, signal);
  (void)sigprocmask(SIG_BLOCK, &blocked, &set.before_);
  set.fd_ = OwnedFd(signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!set.fd_) return HostFail("cannot watch signals (signalfd)");
  return set;
}

Ending Supervise(Sandbox sandbox, const SignalSet& signals, bool terminal, const Reporter& reporter,
                 std::optional<SandboxPlan> again) {
  // Its plan is large.
  const auto supervisor = std::make_unique<Supervisor>(std::move(sandbox), signals, terminal,
                                                       reporter, std::move(again));
  return supervisor->Run();
}

}  // namespace skep::cli
