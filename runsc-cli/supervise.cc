#include "runsc-cli/supervise.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <ctime>
#include <memory>
#include <optional>

#include "base/host_call.h"
#include "runsc-cli/terminal.h"
#include "runsc-cli/verbs.h"

namespace skep::cli {
namespace {

using boot::CliCommand;
using boot::SentryEvent;

constexpr std::array kForwarded = {SIGHUP,  SIGINT,  SIGQUIT, SIGUSR1, SIGUSR2,
                                   SIGTERM, SIGTSTP, SIGCONT, SIGALRM, SIGWINCH};
// Blocked and not forwarded: they would stop or end the CLI while it tidies up.
constexpr std::array kSwallowed = {SIGTTOU, SIGTTIN, SIGPIPE};

// A sentry that has not taken note of a signal by then hangs.
constexpr uint64_t kDeliveryTimeNs = 10'000'000'000;

class Supervisor {
 public:
  Supervisor(runtime::SandboxHandle sandbox, const SignalSet& signals, const Reporter& reporter,
             SuperviseOptions options)
      : sandbox_(std::move(sandbox)),
        signals_(signals),
        terminal_(options.terminal),
        reporter_(reporter),
        again_(std::move(options.again)) {
    if (options.kill_after_ns != 0) kill_at_ns_ = host::MonotonicNs() + options.kill_after_ns;
  }

  Ending Run();

 private:
  void TakeSignal();
  std::optional<Ending> TakeEvent();
  [[gnu::noinline]] std::optional<Ending> GoOnFromImage(const SentryEvent& event);
  // Until the first of the times that something is to happen at; -1: nothing is.
  int TimeoutMs() const;
  void CheckpointIfDue();
  std::optional<Ending> KillIfDue();
  Ending KillSandbox(const std::string& why);
  Ending Lost();
  void Release();
  void Send(CliCommand::Kind kind, uint32_t value) { (void)sandbox_.Send(kind, value); }
  void SendWindow() {
    const WindowSize size = raw_.Size();
    Send(CliCommand::Kind::kWindow, static_cast<uint32_t>(size.rows) << 16 | size.columns);
  }
  // This process stops, as the guest's first one has, and goes on with it.
  void StopSelf(int signo);
  // As a job in the background that reads the terminal.
  void StopForInput();
  bool MayRead() const { return terminal_ ? RawTerminal::Owned() : RawTerminal::MayRead(); }
  void GoOn();

  runtime::SandboxHandle sandbox_;
  const SignalSet& signals_;
  const bool terminal_;
  const Reporter& reporter_;
  RawTerminal raw_;
  // A checkpoint to come: then the plan to go on with, and when (0: the guest has not started).
  std::optional<SandboxPlan> again_;
  uint64_t checkpoint_at_ns_ = 0;
  // When the sandbox is killed (0: never): the guest's time is up, or a signal is not taken.
  uint64_t kill_at_ns_ = 0, deliver_by_ns_ = 0;
  uint32_t undelivered_ = 0;
  bool input_is_hopeless_ = false;
};

Ending Supervisor::Run() {
  if (terminal_) raw_.EnterRaw();
  for (;;) {
    std::array<pollfd, 3> fds = {pollfd{sandbox_.control_fd(), POLLIN, 0},
                                 pollfd{signals_.fd(), POLLIN, 0},
                                 pollfd{sandbox_.pidfd(), POLLIN, 0}};
    const Result<int> ready = host::Poll(fds, TimeoutMs());
    CheckpointIfDue();
    if (!ready) continue;
    if (std::optional<Ending> killed = KillIfDue()) return *killed;
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
    case SIGTSTP:  // what comes of it, the guest decides
      Send(CliCommand::Kind::kSuspend, info.ssi_signo);
      return;
    default:
      Send(CliCommand::Kind::kSignal, info.ssi_signo);
      ++undelivered_;
      if (deliver_by_ns_ == 0) deliver_by_ns_ = host::MonotonicNs() + kDeliveryTimeNs;
  }
}

std::optional<Ending> Supervisor::TakeEvent() {
  const std::optional<SentryEvent> event = sandbox_.OnReadable();
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
    case SentryEvent::Kind::kTaken:
      if (undelivered_ != 0) --undelivered_;
      deliver_by_ns_ = undelivered_ == 0 ? 0 : host::MonotonicNs() + kDeliveryTimeNs;
      return std::nullopt;
    case SentryEvent::Kind::kWantsInput:
      if (MayRead()) {
        GoOn();  // nobody told us that we are in the foreground now
      } else {
        StopForInput();
      }
      return std::nullopt;
    case SentryEvent::Kind::kFailed:
      raw_.Restore();
      reporter_.Error(event->text);
      return Ending{Ending::Kind::kNotStarted, CodeOfFailedStart(event->status)};
    case SentryEvent::Kind::kLost:
      raw_.Restore();
      (void)sandbox_.Wait();
      reporter_.Error(event->text);
      return Ending{Ending::Kind::kLost, 1};
    case SentryEvent::Kind::kExited:
      if (!event->text.empty()) {
        raw_.Restore();
        reporter_.Error(event->text);
      }
      Release();
      return Ending{Ending::Kind::kExited, ExitCodeOf(event->status)};
    case SentryEvent::Kind::kReleased:
      return std::nullopt;
  }
  return Lost();
}

// The rest of its output is on its way until the sentry is gone, or has forgotten the container and
// goes on with others.
void Supervisor::Release() {
  Send(CliCommand::Kind::kRelease, 0);
  while (const std::optional<SentryEvent> event = sandbox_.OnReadable()) {
    if (event->kind != SentryEvent::Kind::kReleased) continue;
    sandbox_.LetGo();
    return;
  }
  (void)sandbox_.Wait();
}

int Supervisor::TimeoutMs() const {
  uint64_t first = 0;
  for (const uint64_t at : {checkpoint_at_ns_, kill_at_ns_, deliver_by_ns_}) {
    if (at != 0 && (first == 0 || at < first)) first = at;
  }
  if (first == 0) return -1;
  const uint64_t now = host::MonotonicNs();
  constexpr uint64_t kLongestMs = 1'000'000;
  return now >= first ? 0 : static_cast<int>(std::min((first - now) / 1'000'000 + 1, kLongestMs));
}

std::optional<Ending> Supervisor::KillIfDue() {
  const uint64_t now = host::MonotonicNs();
  if (kill_at_ns_ != 0 && now >= kill_at_ns_) {
    return KillSandbox("the guest's time is up (--kill-after)");
  }
  if (deliver_by_ns_ != 0 && now >= deliver_by_ns_) {
    return KillSandbox("the sandbox's kernel has not taken a signal for 10 seconds");
  }
  return std::nullopt;
}

Ending Supervisor::KillSandbox(const std::string& why) {
  raw_.Restore();
  sandbox_.Kill();
  reporter_.Error(why + "; the sandbox was killed");
  return {Ending::Kind::kLost, 128 + SIGKILL};
}

void Supervisor::CheckpointIfDue() {
  if (checkpoint_at_ns_ == 0 || host::MonotonicNs() < checkpoint_at_ns_) return;
  checkpoint_at_ns_ = 0;
  (void)sandbox_.Send(CliCommand::Kind::kCheckpoint, 0, again_->image.get());
}

// The sandbox is in the image and its sentry ends: a new sentry and a new gofer take over.
std::optional<Ending> Supervisor::GoOnFromImage(const SentryEvent& event) {
  if (!again_ || event.status != 0) {
    raw_.Restore();
    reporter_.Error("the sandbox cannot be checkpointed: " + event.text);
    return Ending{Ending::Kind::kLost};
  }
  (void)sandbox_.Wait();
  if (again_->checkpoint_only) return Ending{Ending::Kind::kExited, 0};
  again_->restore = true;
  HostResult<runtime::SandboxHandle> next = runtime::Launch(*std::exchange(again_, std::nullopt));
  if (!next) {
    raw_.Restore();
    reporter_.Error(next.error().message);
    return Ending{Ending::Kind::kLost};
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

void Supervisor::StopForInput() {
  if (input_is_hopeless_) return;
  Send(CliCommand::Kind::kSuspend, SIGSTOP);
  const uint64_t before = host::MonotonicNs();
  StopSelf(SIGTTIN);
  // Nobody would continue us, so we were not stopped: the guest waits for input that never comes.
  constexpr uint64_t kNoTimeNs = 5'000'000;
  input_is_hopeless_ = host::MonotonicNs() - before < kNoTimeNs;
}

void Supervisor::GoOn() {
  if (deliver_by_ns_ != 0) deliver_by_ns_ = host::MonotonicNs() + kDeliveryTimeNs;
  if (terminal_) {
    raw_.EnterRaw();
    SendWindow();
  }
  Send(CliCommand::Kind::kContinue, MayRead() ? 1 : 0);
}

Ending Supervisor::Lost() {
  raw_.Restore();
  const int status = sandbox_.Wait();
  const runtime::HowItEnded how = sandbox_.How(status);
  reporter_.Error(how.why);
  if (!how.log.empty()) reporter_.Error("the last lines of its log:");
  for (const std::string& line : how.log) reporter_.Error("  " + line);
  return {};
}

}  // namespace

int ExitCodeOf(int status) {
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  return 128 + WTERMSIG(status);
}

int CodeOfFailedStart(int host_errno) {
  switch (host_errno) {
    case 0:
      return kOwnError;
    case ENOENT:
    case ENOTDIR:
      return kNotFound;
    default:
      return kNotExecutable;
  }
}

int CodeOfError(const boot::ErrorReply& error) {
  switch (error.code) {
    case ENOENT:
    case ENOTDIR:
    case EACCES:
    case ENOEXEC:
    case ELOOP:
    case EISDIR:
      return CodeOfFailedStart(error.code);
    default:
      return kOwnError;
  }
}

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

Ending Supervise(runtime::SandboxHandle sandbox, const SignalSet& signals, const Reporter& reporter,
                 SuperviseOptions options) {
  // Its plan is large.
  const auto supervisor =
      std::make_unique<Supervisor>(std::move(sandbox), signals, reporter, std::move(options));
  return supervisor->Run();
}

}  // namespace skep::cli
