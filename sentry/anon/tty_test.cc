#include <sys/epoll.h>
#include <csignal>

#include "sentry/anon/console.h"
#include "sentry/anon/memfd.h"
#include "sentry/anon/pty.h"
#include "sentry/anon/tty_file.h"
#include "sentry/vfs/test_caller.h"

namespace skep::anon {
namespace {

using vfs::CodeOf;
using vfs::OnFiber;
using vfs::TestCaller;
using vfs::TryRead;
using vfs::TryWrite;

class TestProcesses final : public JobControl {
 public:
  void SignalGroup(const vfs::ProcessId& group, int signo) override {
    groups.emplace_back(vfs::TestProcessId::NumberOf(group), signo);
  }
  void SignalLeader(const vfs::ProcessId& session, int signo) override {
    processes.emplace_back(vfs::TestProcessId::NumberOf(session), signo);
  }
  std::vector<std::pair<int, int>> groups, processes;
};
using Sent = std::vector<std::pair<int, int>>;

struct TtyTest : ::testing::Test {
  TestProcesses processes;
  Terminals terminals{processes};
  PtyTable table{terminals};
  TestCaller shell;  // leads session 100
  Ref<vfs::File> master, slave;

  void SetUp() override {
    shell.process = shell.group = shell.session = 100;
    master = table.OpenMaster(shell, {}, O_RDWR).value();
    EXPECT_EQ(CodeOf(table.OpenSlave(shell, {}, O_RDWR, 0)), EIO);  // locked
    terminal().SetLocked(false);
    slave = table.OpenSlave(shell, {}, O_RDWR, 0).value();
  }
  Terminal& terminal() { return static_cast<PtyMaster&>(*master).terminal(); }
  void Type(std::string_view text) {
    EXPECT_EQ(TryWrite(shell, *master, text).value(), text.size());
  }
  std::string Shown() { return TryRead(shell, *master, 4096).value_or("<nothing>"); }
  Result<std::string> Line(size_t size = 4096) { return TryRead(shell, *slave, size); }
  template <class T>
  int Ioctl(vfs::File& file, uint64_t command, T& value, TestCaller* caller = nullptr) {
    return CodeOf(file.Ioctl(caller != nullptr ? *caller : shell, command,
                             reinterpret_cast<uint64_t>(&value)));
  }
  void SetFlags(uint32_t lflag_off, uint8_t min = 1, uint8_t time = 0) {
    TerminalModes modes = terminal().modes();
    modes.lflag &= ~lflag_off;
    modes.cc[VMIN] = min;
    modes.cc[VTIME] = time;
    EXPECT_EQ(Ioctl(*slave, TCSETS, modes), 0);
  }
};

TEST_F(TtyTest, CanonicalLinesWithEcho) {
  Type("hel");
  EXPECT_EQ(Shown(), "hel");
  EXPECT_EQ(CodeOf(Line()), EAGAIN);
  EXPECT_EQ(slave->Poll(0) & EPOLLIN, 0U);
  Type("p\x7flo\rnext\n");
  EXPECT_EQ(Shown(), "p\b \blo\r\nnext\r\n");
  int32_t count = 0;
  EXPECT_EQ(Ioctl(*slave, FIONREAD, count), 0);
  EXPECT_EQ(count, 11);
  EXPECT_EQ(Line(3).value(), "hel");
  EXPECT_EQ(Line().value(), "lo\n");
  EXPECT_EQ(Line().value(), "next\n");
  EXPECT_EQ(CodeOf(Line()), EAGAIN);
}

TEST_F(TtyTest, EditingKeys) {
  Type("one two\x17");  // word erase
  EXPECT_EQ(Shown(), "one two\b \b\b \b\b \b");
  Type("x\x15y\n");  // kill
  EXPECT_EQ(Line().value(), "y\n");
  (void)Shown();
  Type("a\x16\x03z\n");  // literal ^C
  EXPECT_EQ(Shown(), "a^\b^Cz\r\n");
  EXPECT_EQ(Line().value(), "a\x03z\n");
  EXPECT_TRUE(processes.groups.empty());
  Type("ab\t\x7f");
  EXPECT_EQ(Shown(), "ab\t\b\b\b\b\b\b");
  Type("\x12");  // reprint
  EXPECT_EQ(Shown(), "^R\r\nab");
}

TEST_F(TtyTest, EndOfFile) {
  Type("\x04");
  EXPECT_EQ(Line().value(), "");
  Type("ab\x04");
  EXPECT_EQ(Line().value(), "ab");
  EXPECT_EQ(CodeOf(Line()), EAGAIN);
  Type("cd\x04");
  EXPECT_EQ(Line(2).value(), "cd");  // the mark goes with what it ends
  EXPECT_EQ(CodeOf(Line()), EAGAIN);
}

TEST_F(TtyTest, SignalsGoToTheForeground) {
  EXPECT_EQ(terminals.Of(*vfs::TestProcessId::Of(100)), Ref<Terminal>(&terminal()));
  Type("lost\x03");
  EXPECT_EQ(processes.groups, (Sent{{100, SIGINT}}));
  EXPECT_EQ(Shown(), "^C");
  Type("x\n");
  EXPECT_EQ(Line().value(), "x\n");
  processes.groups.clear();
  int32_t group = 120;
  EXPECT_EQ(Ioctl(*slave, TIOCSPGRP, group), 0);
  EXPECT_EQ(Ioctl(*master, TIOCGPGRP, group), 0);
  EXPECT_EQ(group, 120);
  Type("\x1a\x1c");
  EXPECT_EQ(processes.groups, (Sent{{120, SIGTSTP}, {120, SIGQUIT}}));
  winsize size{.ws_row = 24, .ws_col = 80};
  EXPECT_EQ(Ioctl(*master, TIOCSWINSZ, size), 0);
  EXPECT_EQ(Ioctl(*master, TIOCSWINSZ, size), 0);  // unchanged: no signal
  EXPECT_EQ(processes.groups.size(), 3U);
  EXPECT_EQ(processes.groups.back(), std::pair(120, SIGWINCH));
  winsize seen{};
  EXPECT_EQ(Ioctl(*slave, TIOCGWINSZ, seen), 0);
  EXPECT_EQ(seen.ws_col, 80);
}

TEST_F(TtyTest, ForegroundErrors) {
  int32_t group = 99;
  EXPECT_EQ(Ioctl(*slave, TIOCSPGRP, group), ESRCH);
  group = 200;
  EXPECT_EQ(Ioctl(*slave, TIOCSPGRP, group), EPERM);
  group = -1;
  EXPECT_EQ(Ioctl(*slave, TIOCSPGRP, group), EINVAL);
  TestCaller stranger;
  stranger.process = stranger.group = stranger.session = 300;
  group = 300;
  EXPECT_EQ(Ioctl(*slave, TIOCSPGRP, group, &stranger), ENOTTY);
  EXPECT_EQ(Ioctl(*slave, TIOCGPGRP, group, &stranger), ENOTTY);
  EXPECT_EQ(CodeOf(slave->Ioctl(stranger, TIOCSCTTY, 0)), EPERM);  // it is somebody's
  EXPECT_EQ(CodeOf(slave->Ioctl(shell, TIOCSCTTY, 0)), 0);
  EXPECT_EQ(CodeOf(slave->Ioctl(shell, TIOCSTI, 0)), EIO);
  EXPECT_EQ(CodeOf(slave->Ioctl(shell, 0x1234, 0)), ENOTTY);
}

TEST_F(TtyTest, BackgroundReadersAndWritersAreStopped) {
  TestCaller job;
  job.session = 100;
  job.process = job.group = 150;
  EXPECT_EQ(CodeOf(TryRead(job, *slave, 1)), kRestartSys);
  EXPECT_EQ(job.group_signals, (Sent{{150, SIGTTIN}}));
  job.ignored = SIGTTIN;
  EXPECT_EQ(CodeOf(TryRead(job, *slave, 1)), EIO);
  EXPECT_EQ(TryWrite(job, *slave, "ok").value(), 2U);  // no TOSTOP
  TerminalModes modes = terminal().modes();
  modes.lflag |= TOSTOP;
  EXPECT_EQ(Ioctl(*slave, TCSETS, modes), 0);
  EXPECT_EQ(CodeOf(TryWrite(job, *slave, "x")), kRestartSys);
  EXPECT_EQ(job.group_signals.back(), std::pair(150, SIGTTOU));
  job.orphaned = true;
  EXPECT_EQ(CodeOf(TryWrite(job, *slave, "x")), EIO);
  job.ignored = SIGTTOU;
  EXPECT_EQ(TryWrite(job, *slave, "x").value(), 1U);
}

TEST_F(TtyTest, RawReadsFollowMinAndTime) {
  SetFlags(ICANON | ECHO | ISIG, 3);
  Type("ab");
  EXPECT_EQ(CodeOf(Line()), EAGAIN);
  EXPECT_EQ(slave->Poll(0) & EPOLLIN, 0U);
  EXPECT_EQ(Line(2).value(), "ab");  // no more than fits is needed
  Type("\x03\x04z");
  EXPECT_EQ(Line().value(), "\x03\x04z");
  SetFlags(0, 0);
  EXPECT_EQ(Line().value(), "");
  OnFiber([this] {
    SetFlags(0, 0, 1);  // a tenth of a second
    EXPECT_EQ(vfs::ReadBlocking(shell, *slave, 9).value(), "");
    SetFlags(0, 5, 1);
    Type("xy");
    EXPECT_EQ(vfs::ReadBlocking(shell, *slave, 9).value(), "xy");
    slave = {};  // its timer is of this scheduler
  });
}

TEST_F(TtyTest, ModeChangesKeepWhatWasTyped) {
  SetFlags(ECHO);
  Type("half");
  SetFlags(ICANON);
  EXPECT_EQ(Line(2).value(), "ha");
  TerminalModes modes = terminal().modes();
  modes.lflag |= ICANON;
  EXPECT_EQ(Ioctl(*slave, TCSETS, modes), 0);
  EXPECT_EQ(Line().value(), "lf");
  Type("gone");
  EXPECT_EQ(Ioctl(*slave, TCSETSF, modes), 0);
  Type("\n");
  EXPECT_EQ(Line().value(), "\n");
}

TEST_F(TtyTest, OutputProcessingAndFlowControl) {
  EXPECT_EQ(TryWrite(shell, *slave, "a\nb").value(), 3U);
  EXPECT_EQ(Shown(), "a\r\nb");
  Type("\x13");  // ^S
  EXPECT_EQ(CodeOf(TryWrite(shell, *slave, "x")), EAGAIN);
  EXPECT_EQ(slave->Poll(0) & EPOLLOUT, 0U);
  Type("\x11");
  EXPECT_EQ(TryWrite(shell, *slave, std::string(100'000, 'x')).value(), 65529U);
  EXPECT_EQ(CodeOf(TryWrite(shell, *slave, "x")), EAGAIN);
  EXPECT_EQ(CodeOf(slave->Ioctl(shell, TCFLSH, TCOFLUSH)), 0);
  EXPECT_EQ(Shown(), "<nothing>");
}

TEST_F(TtyTest, PacketModeTellsOfFlow) {
  int32_t on = 1;
  EXPECT_EQ(Ioctl(*master, TIOCPKT, on), 0);
  EXPECT_TRUE(TryWrite(shell, *slave, "data"));
  EXPECT_EQ(Shown(), std::string("\0data", 5));
  Type("\x13");
  EXPECT_NE(master->Poll(0) & EPOLLPRI, 0U);
  EXPECT_EQ(Shown(), std::string(1, TIOCPKT_STOP));
  Type("\x11");
  EXPECT_EQ(Shown(), std::string(1, TIOCPKT_START));
}

TEST_F(TtyTest, LastSlaveGoneAndBack) {
  EXPECT_TRUE(TryWrite(shell, *slave, "bye"));
  slave = {};
  EXPECT_NE(master->Poll(0) & EPOLLHUP, 0U);
  EXPECT_EQ(Shown(), "bye");
  EXPECT_EQ(CodeOf(TryRead(shell, *master, 1)), EIO);
  slave = table.OpenSlave(shell, {}, O_RDWR, 0).value();
  EXPECT_EQ(CodeOf(TryRead(shell, *master, 1)), EAGAIN);
}

TEST_F(TtyTest, MasterGoneHangsUp) {
  master = {};
  EXPECT_EQ(processes.processes, (Sent{{100, SIGHUP}, {100, SIGCONT}}));
  EXPECT_EQ(Line().value(), "");
  EXPECT_EQ(CodeOf(TryWrite(shell, *slave, "x")), EIO);
  winsize size{};
  EXPECT_EQ(Ioctl(*slave, TIOCGWINSZ, size), EIO);
  EXPECT_NE(slave->Poll(0) & EPOLLHUP, 0U);
  EXPECT_EQ(CodeOf(table.OpenSlave(shell, {}, O_RDWR, 0)), ENXIO);
  EXPECT_EQ(CodeOf(table.OpenControlling(shell, {}, O_RDWR)), ENXIO);
}

TEST_F(TtyTest, EndOfTheSession) {
  int32_t group = 130;
  EXPECT_EQ(Ioctl(*slave, TIOCSPGRP, group), 0);
  EXPECT_EQ(terminals.EndSession(*vfs::TestProcessId::Of(100)), vfs::TestProcessId::Of(130));
  EXPECT_FALSE(terminals.EndSession(*vfs::TestProcessId::Of(100)));
  // Linux: a pty is not hung up by its session's end.
  EXPECT_EQ(CodeOf(Line()), EAGAIN);
  EXPECT_EQ(CodeOf(TryRead(shell, *master, 1)), EAGAIN);
  // A new session may take the same terminal.
  TestCaller next;
  next.process = next.group = next.session = 400;
  Ref<vfs::File> again = table.OpenSlave(next, {}, O_RDWR, 0).value();
  EXPECT_EQ(terminals.SessionOf(terminal()), vfs::TestProcessId::Of(400));
  EXPECT_EQ(CodeOf(again->Ioctl(next, TIOCNOTTY, 0)), 0);
  EXPECT_FALSE(terminals.SessionOf(terminal()));
  EXPECT_EQ(processes.groups.back(), std::pair(400, SIGCONT));
}

TEST_F(TtyTest, LongLinesEndSomewhere) {
  SetFlags(ECHO);
  const std::string text(5000, 'l');
  size_t fed = 0;
  while (fed < text.size()) {
    const Result<size_t> n = TryWrite(shell, *master, std::string_view(text).substr(fed));
    ASSERT_TRUE(n);
    fed += *n;
  }
  Type("\n");
  EXPECT_EQ(Line().value().size(), 4095U);
  EXPECT_EQ(CodeOf(Line()), EAGAIN);
}

TEST_F(TtyTest, ConsoleCarriesBytesBothWays) {
  host::SocketPair pair = host::MakeSocketPair(SOCK_STREAM).value();
  sched::TestScheduler scheduler(1);
  scheduler.Start();
  auto shown = MakeRef<Terminal>(terminals);
  Ref<Console> console;
  std::string line;
  Ref<sched::Fiber> fiber = scheduler.Spawn(0, [&] {
    arena::HostTable& table_of_fds = arena::HostTable::Get();
    const arena::HostFd fd = table_of_fds.Add(std::move(pair.b));
    console = Console::Start(*scheduler, shown, fd, fd).value();
    Ref<vfs::File> file = OpenTerminal(shell, shown, {}, O_RDWR | O_NOCTTY).value();
    EXPECT_TRUE(TryWrite(shell, *file, "prompt\n"));
    line = vfs::ReadBlocking(shell, *file, 99).value();
    console->Drain(std::nullopt);
    console->Stop();
    console = {};
  });
  EXPECT_TRUE(host::Write(pair.a.get(), std::as_bytes(std::span("typed\r", 6))));
  ASSERT_TRUE(sched::WaitFor([&] { return fiber->finished(); }));
  EXPECT_EQ(line, "typed\n");
  std::string text(99, '\0');
  text.resize(host::Read(pair.a.get(), std::as_writable_bytes(std::span(text))).value());
  EXPECT_NE(text.find("prompt\r\n"), std::string::npos);
}

}  // namespace
}  // namespace skep::anon
