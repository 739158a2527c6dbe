// `skep exec`: another process in a running sandbox.
#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <array>
#include <csignal>
#include <span>

#include "base/host_call.h"
#include "runsc-cli/parse.h"
#include "runsc-cli/session.h"
#include "runsc-cli/terminal.h"
#include "runsc-cli/verbs.h"
#include "runtime/stdio.h"

namespace skep::cli {
namespace {

using runtime::SandboxClient;

HostResult<boot::ExecRequest> MakeRequest(const GlobalOptions& global, const ExecOptions& options) {
  boot::ExecRequest request;
  request.container = options.id;
  boot::ProcessConfig& process = request.process;
  process.argv = options.command;
  process.env = options.env;
  for (const std::string& setting : options.env) {
    if (setting.find('=') == std::string::npos || setting[0] == '=') {
      return HostFail("--env " + setting + ": write NAME=VALUE");
    }
  }
  if (!options.cwd.empty()) {
    if (options.cwd[0] != '/') return HostFail("--cwd " + options.cwd + ": not an absolute path");
    process.cwd = options.cwd;
    request.has_cwd = true;
  }
  request.user = options.user;
  std::array<int, 3> fds = {0, 1, 2};
  for (size_t i = 0; i < fds.size(); ++i) {
    if (global.closed[i]) fds[i] = -1;
    process.stdio_fds[i] = fds[i];
  }
  process.terminal = !options.no_tty && RawTerminal::Usable() && fds[0] >= 0 && fds[1] >= 0;
  if (options.tty && !process.terminal) {
    return HostFail("--tty: standard input and output are not a terminal");
  }
  runtime::DescribeStdio(fds, process);
  if (process.terminal) {
    const WindowSize size = RawTerminal().Size();
    process.terminal_rows = size.rows;
    process.terminal_columns = size.columns;
    process.terminal_errors = RawTerminal::HasErrors();
  }
  return request;
}

class ExecSupervisor {
 public:
  ExecSupervisor(SandboxClient client, const std::string& container, const SignalSet& signals,
                 bool terminal, const Reporter& reporter)
      : client_(std::move(client)),
        container_(container),
        signals_(signals),
        terminal_(terminal),
        reporter_(reporter) {}

  HostResult<int> Run(const boot::ExecRequest& request) {
    std::vector<int> fds;
    for (const int fd : request.process.stdio_fds) {
      if (fd >= 0) fds.push_back(fd);
    }
    // First: the guest may ask for input at once.
    if (terminal_) raw_.EnterRaw();
    const Result<uint64_t> sent = client_.Send(request, fds);
    if (!sent) {
      raw_.Restore();
      return HostFail("cannot ask the sandbox", sent.error().code());
    }
    for (;;) {
      std::array<pollfd, 2> entries = {pollfd{client_.fd(), POLLIN, 0},
                                       pollfd{signals_.fd(), POLLIN, 0}};
      if (!host::Poll(entries, -1)) continue;
      if (entries[1].revents != 0) TakeSignal();
      if (entries[0].revents == 0) continue;
      Result<boot::Packet<boot::Reply>> packet = client_.Receive();
      if (!packet) {
        raw_.Restore();
        reporter_.Error("the sandbox has ended");
        return 128 + SIGKILL;
      }
      if (const auto code = TakeReply(packet->message, packet->id == *sent)) {
        raw_.Restore();
        return *code;
      }
    }
  }

 private:
  std::optional<int> TakeReply(const boot::Reply& reply, bool to_exec) {
    if (const auto* error = std::get_if<boot::ErrorReply>(&reply)) {
      if (!to_exec) return std::nullopt;  // a signal came too late
      raw_.Restore();
      reporter_.Error(error->text);
      return CodeOfError(*error);
    }
    if (const auto* started = std::get_if<boot::ExecReply>(&reply)) {
      exec_ = started->exec;
      (void)client_.Send(boot::WaitRequest{container_, exec_});
      for (const int signo : early_) Signal(signo);
    }
    if (const auto* ended = std::get_if<boot::ExitReply>(&reply)) return ExitCodeOf(ended->status);
    return std::nullopt;
  }

  void Signal(int signo) {
    if (exec_.empty()) {
      early_.push_back(signo);
    } else {
      (void)client_.Send(boot::SignalRequest{container_, exec_, signo});
    }
  }

  void TakeSignal() {
    signalfd_siginfo info{};
    const auto bytes = std::as_writable_bytes(std::span(&info, 1));
    if (host::Read(signals_.fd(), bytes).value_or(0) != sizeof info) return;
    switch (info.ssi_signo) {
      case SIGWINCH:
        SendWindow();
        return;
      case SIGTSTP:
        raw_.Restore();
        Signal(SIGSTOP);
        (void)host::Kill(getpid(), SIGSTOP);
        return;
      case SIGCONT:
        if (terminal_) raw_.EnterRaw();
        SendWindow();
        Signal(SIGCONT);
        return;
      default:
        Signal(static_cast<int>(info.ssi_signo));
    }
  }

  void SendWindow() {
    if (!terminal_ || exec_.empty()) return;
    const WindowSize size = raw_.Size();
    (void)client_.Send(boot::WindowRequest{container_, exec_, size.rows, size.columns});
  }

  SandboxClient client_;
  const std::string& container_;
  const SignalSet& signals_;
  const bool terminal_;
  const Reporter& reporter_;
  RawTerminal raw_;
  std::string exec_;        // empty: it does not run yet
  std::vector<int> early_;  // signals of before
};

HostResult<int> ExecIn(const GlobalOptions& global, const ExecOptions& options,
                       const Reporter& reporter) {
  const boot::ExecRequest request = TRY(MakeRequest(global, options));
  const StateDirectory directory = TRY(StateDirectory::Open(StateRoot(global), options.id));
  Result<SandboxClient> client = directory.Connect();
  if (!client) return HostFail(fmt::format("the container '{}' does not run", options.id));
  const SignalSet signals = TRY(SignalSet::Block());
  return ExecSupervisor(std::move(*client), options.id, signals, request.process.terminal, reporter)
      .Run(request);
}

}  // namespace

int Exec(const GlobalOptions& global, const ExecOptions& options, const Reporter& reporter) {
  const HostResult<int> code = ExecIn(global, options, reporter);
  if (code) return *code;
  reporter.Error(code.error().message);
  return kOwnError;
}

}  // namespace skep::cli
