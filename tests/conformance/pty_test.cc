// Pseudoterminals: the line discipline, window size, job control, hangup.
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>

#include <cstring>
#include <thread>

#include "tests/util/matchers.h"
#include "tests/util/process.h"

namespace skep::test {
namespace {

class Pty : public testing::Test {
 protected:
  Pty() {
    master_.Reset(posix_openpt(O_RDWR | O_NOCTTY));
    EXPECT_THAT(master_, Succeeds());
    EXPECT_THAT(grantpt(master_), Succeeds());
    EXPECT_THAT(unlockpt(master_), Succeeds());
    int number = -1;
    EXPECT_THAT(ioctl(master_, TIOCGPTN, &number), Succeeds());
    name_ = "/dev/pts/" + std::to_string(number);
    slave_.Reset(open(name_.c_str(), O_RDWR | O_NOCTTY));
    EXPECT_THAT(slave_, Succeeds());
  }
  // Changes the terminal's settings by a function.
  template <class F>
  void Change(F&& change) {
    termios settings = {};
    ASSERT_THAT(tcgetattr(slave_, &settings), Succeeds());
    change(settings);
    ASSERT_THAT(tcsetattr(slave_, TCSANOW, &settings), Succeeds());
  }
  void NoEcho() {
    Change([](termios& t) { t.c_lflag &= ~static_cast<tcflag_t>(ECHO); });
  }
  void Raw() {
    Change([](termios& t) { cfmakeraw(&t); });
  }
  static std::string ReadSome(int fd) {
    char buffer[512];
    const ssize_t n = read(fd, buffer, sizeof(buffer));
    return n < 0 ? "error " + std::to_string(errno) : std::string(buffer, static_cast<size_t>(n));
  }
  void Type(const std::string& text) {
    EXPECT_THAT(write(master_, text.data(), text.size()),
                SucceedsWith(static_cast<int64_t>(text.size())));
  }
  static bool HasInput(int fd) {
    pollfd entry = {fd, POLLIN, 0};
    return poll(&entry, 1, 0) == 1;
  }
  // Runs body in a new session whose terminal is the slave.
  int InSession(const std::function<void()>& body) {
    return ForkAndRun([&] {
      ASSERT_THAT(setsid(), Succeeds());
      ASSERT_THAT(ioctl(slave_, TIOCSCTTY, 0), Succeeds());
      body();
    });
  }

  Fd master_;
  Fd slave_;
  std::string name_;
};

TEST_F(Pty, OpensAndNamesItsSlave) {
  char name[64] = {};
  EXPECT_EQ(ptsname_r(master_, name, sizeof(name)), 0);
  EXPECT_EQ(name, name_);
  struct stat st = {};
  ASSERT_THAT(fstat(slave_, &st), Succeeds());
  EXPECT_TRUE(S_ISCHR(st.st_mode));
  EXPECT_EQ(isatty(slave_), 1);
  EXPECT_EQ(isatty(master_), 1);
}

TEST_F(Pty, ALockedSlaveCannotBeOpened) {
  const Fd master(open("/dev/ptmx", O_RDWR | O_NOCTTY));
  int number = -1;
  ASSERT_THAT(ioctl(master, TIOCGPTN, &number), Succeeds());
  const std::string name = "/dev/pts/" + std::to_string(number);
  EXPECT_THAT(open(name.c_str(), O_RDWR | O_NOCTTY), FailsWith(EIO));
}

TEST_F(Pty, CanonicalInputComesByLines) {
  Type("part");
  EXPECT_FALSE(HasInput(slave_));
  Type("ial\nnext\n");
  EXPECT_EQ(ReadSome(slave_), "partial\n") << "one line per read";
  EXPECT_EQ(ReadSome(slave_), "next\n");
}

TEST_F(Pty, ASmallReadTakesPartOfALine) {
  Type("abcdef\n");
  char buffer[3];
  EXPECT_THAT(read(slave_, buffer, 3), SucceedsWith(3));
  EXPECT_EQ(ReadSome(slave_), "def\n");
}

TEST_F(Pty, EchoesWithNewlinesTranslated) {
  Type("hi\n");
  EXPECT_EQ(ReadSome(master_), "hi\r\n");
}

TEST_F(Pty, EchoCanBeTurnedOff) {
  NoEcho();
  Type("secret\n");
  EXPECT_FALSE(HasInput(master_));
  EXPECT_EQ(ReadSome(slave_), "secret\n");
}

TEST_F(Pty, OutputNewlinesBecomeCrlf) {
  write(slave_, "a\nb\n", 4);
  EXPECT_EQ(ReadSome(master_), "a\r\nb\r\n");
  Change([](termios& t) { t.c_oflag &= ~static_cast<tcflag_t>(OPOST); });
  write(slave_, "a\n", 2);
  EXPECT_EQ(ReadSome(master_), "a\n");
}

TEST_F(Pty, InputCarriageReturnBecomesNewline) {
  NoEcho();
  Type("line\r");
  EXPECT_EQ(ReadSome(slave_), "line\n");
}

TEST_F(Pty, EraseAndKillEditTheLine) {
  NoEcho();
  Type(
      "abx\x7f"
      "c\n");
  EXPECT_EQ(ReadSome(slave_), "abc\n");
  Type(
      "all of this\x15"
      "kept\n");
  EXPECT_EQ(ReadSome(slave_), "kept\n");
  Type("one two\x17three\n");
  EXPECT_EQ(ReadSome(slave_), "one three\n");
}

TEST_F(Pty, EraseIsEchoedAsBackspace) {
  Type("ab\x7f");
  EXPECT_EQ(ReadSome(master_), "ab\b \b");
}

TEST_F(Pty, EofEndsAReadAndAnEmptyLineIsEndOfFile) {
  NoEcho();
  Type("no newline\x04");
  EXPECT_EQ(ReadSome(slave_), "no newline");
  Type("\x04");
  EXPECT_EQ(ReadSome(slave_), "");
}

TEST_F(Pty, ControlCharactersEchoWithACaret) {
  Type("\x01");
  EXPECT_EQ(ReadSome(master_), "^A");
}

TEST_F(Pty, LiteralNextQuotes) {
  NoEcho();
  Type("a\x16\x03z\n");
  EXPECT_EQ(ReadSome(slave_), "a\x03z\n");
}

TEST_F(Pty, RawModePassesEverything) {
  Raw();
  Type("\x03\x04\r\n\x7f");
  EXPECT_EQ(ReadSome(slave_), "\x03\x04\r\n\x7f");
  EXPECT_FALSE(HasInput(master_));
}

TEST_F(Pty, VminWaitsForThatMany) {
  Raw();
  Change([](termios& t) { t.c_cc[VMIN] = 3; });
  Type("ab");
  EXPECT_FALSE(HasInput(slave_));
  std::thread typist([&, tid = GetTid()] {
    WaitUntilBlocked(getpid(), tid);
    Type("c");
  });
  EXPECT_EQ(ReadSome(slave_), "abc");
  typist.join();
}

TEST_F(Pty, VtimeAloneIsATimeout) {
  Raw();
  Change([](termios& t) {
    t.c_cc[VMIN] = 0;
    t.c_cc[VTIME] = 1;
  });
  const int64_t start = NowNs();
  EXPECT_EQ(ReadSome(slave_), "");
  EXPECT_GE(NowNs() - start, 90'000'000);
  Change([](termios& t) { t.c_cc[VTIME] = 0; });
  EXPECT_EQ(ReadSome(slave_), "") << "both zero: never waits";
}

TEST_F(Pty, SettingsAreKept) {
  termios before = {};
  ASSERT_THAT(tcgetattr(slave_, &before), Succeeds());
  EXPECT_NE(before.c_lflag & ICANON, 0u);
  EXPECT_NE(before.c_lflag & ISIG, 0u);
  EXPECT_EQ(before.c_cc[VINTR], 3);
  EXPECT_EQ(before.c_cc[VEOF], 4);
  Change([](termios& t) { t.c_cc[VINTR] = 7; });
  termios after = {};
  tcgetattr(master_, &after);
  EXPECT_EQ(after.c_cc[VINTR], 7) << "both ends have one terminal";
}

TEST_F(Pty, FlushDropsInput) {
  Type("dropped\n");
  EXPECT_THAT(tcflush(slave_, TCIFLUSH), Succeeds());
  EXPECT_FALSE(HasInput(slave_));
}

TEST_F(Pty, FionreadAndOutq) {
  NoEcho();
  Type("12345\n");
  EXPECT_TRUE(HasInput(slave_));
  int bytes = 0;
  EXPECT_THAT(ioctl(slave_, FIONREAD, &bytes), Succeeds());
  EXPECT_EQ(bytes, 6);
  EXPECT_THAT(ioctl(slave_, TIOCOUTQ, &bytes), Succeeds());
}

TEST_F(Pty, ClosingTheMasterHangsUpTheSlave) {
  ASSERT_THAT(write(master_, "x\n", 2), Succeeds());
  master_.Reset();
  const ScopedSignalHandler ignore(SIGHUP, SIG_IGN);
  pollfd entry = {slave_, POLLIN, 0};
  EXPECT_THAT(poll(&entry, 1, 0), SucceedsWith(1));
  EXPECT_NE(entry.revents & POLLHUP, 0);
  char byte;
  EXPECT_THAT(read(slave_, &byte, 1), SucceedsWith(0));
  EXPECT_THAT(write(slave_, "x", 1), FailsWith(EIO));
  EXPECT_THAT(open(name_.c_str(), O_RDWR | O_NOCTTY), FailsWith(ENOENT));
}

TEST_F(Pty, ClosingTheSlaveIsEioForTheMaster) {
  write(slave_, "last", 4);
  slave_.Reset();
  EXPECT_EQ(ReadSome(master_), "last");
  char byte;
  EXPECT_THAT(read(master_, &byte, 1), FailsWith(EIO));
  slave_.Reset(open(name_.c_str(), O_RDWR | O_NOCTTY));
  write(slave_, "again", 5);
  EXPECT_EQ(ReadSome(master_), "again");
}

TEST_F(Pty, WindowSizeSignalsTheForeground) {
  const winsize size = {40, 100, 1, 2};
  EXPECT_THAT(InSession([&] {
                static volatile sig_atomic_t seen = 0;
                const ScopedSignalHandler handler(SIGWINCH, [](int) { seen = 1; });
                EXPECT_THAT(ioctl(master_, TIOCSWINSZ, &size), Succeeds());
                EXPECT_TRUE(WaitUntil([] { return seen == 1; }));
                winsize now = {};
                EXPECT_THAT(ioctl(slave_, TIOCGWINSZ, &now), Succeeds());
                EXPECT_EQ(now.ws_row, 40);
                EXPECT_EQ(now.ws_col, 100);
                seen = 0;
                ioctl(master_, TIOCSWINSZ, &size);
                EXPECT_EQ(seen, 0) << "unchanged: no signal";
              }),
              ExitsWith(0));
}

TEST_F(Pty, ControllingTerminalIsDevTty) {
  EXPECT_THAT(InSession([&] {
                const Fd tty(open("/dev/tty", O_RDWR));
                ASSERT_THAT(tty, Succeeds());
                EXPECT_THAT(write(tty, "tty", 3), SucceedsWith(3));
                EXPECT_EQ(ReadSome(master_), "tty");
                EXPECT_EQ(tcgetpgrp(slave_), getpgrp());
                EXPECT_EQ(tcgetsid(slave_), getsid(0));
                EXPECT_THAT(ioctl(slave_, TIOCNOTTY), Succeeds());
                EXPECT_THAT(open("/dev/tty", O_RDWR), FailsWith(ENXIO));
                signal(SIGHUP, SIG_IGN);
              }),
              testing::AnyOf(ExitsWith(0), KilledBy(SIGHUP)));
}

TEST_F(Pty, OpenWithoutNocttyByALeaderTakesIt) {
  EXPECT_THAT(ForkAndRun([&] {
                ASSERT_THAT(setsid(), Succeeds());
                EXPECT_THAT(open("/dev/tty", O_RDWR), FailsWith(ENXIO));
                const Fd fd(open(name_.c_str(), O_RDWR));
                EXPECT_THAT(Fd(open("/dev/tty", O_RDWR)), Succeeds());
              }),
              ExitsWith(0));
}

TEST_F(Pty, TiocscttyRules) {
  EXPECT_THAT(InSession([&] {
                EXPECT_THAT(ioctl(slave_, TIOCSCTTY, 0), Succeeds()) << "it is ours already";
                EXPECT_THAT(ForkAndRun([&] {
                              setsid();
                              if (geteuid() == 0) setresuid(1, 1, 1);
                              EXPECT_THAT(ioctl(slave_, TIOCSCTTY, 0), FailsWith(EPERM));
                            }),
                            ExitsWith(0));
              }),
              ExitsWith(0));
  EXPECT_THAT(ForkAndRun([&] { EXPECT_THAT(ioctl(slave_, TIOCSCTTY, 0), FailsWith(EPERM)); }),
              ExitsWith(0))
      << "not a session leader";
}

TEST_F(Pty, InterruptQuitAndSuspendSignalTheForeground) {
  const std::pair<const char*, int> keys[] = {{"\x03", SIGINT}, {"\x1c", SIGQUIT}};
  for (const auto& [key, signo] : keys) {
    EXPECT_THAT(InSession([&, key = key, signo = signo] {
                  Gate ready;
                  ChildProcess child([&] {
                    setpgid(0, 0);
                    signal(SIGTTOU, SIG_IGN);
                    tcsetpgrp(slave_, getpgrp());
                    const ScopedRlimit none(RLIMIT_CORE, 0);
                    ready.Open();
                    for (;;) pause();
                  });
                  ready.Wait();
                  Type(key);
                  EXPECT_THAT(child.Wait(), KilledBy(signo));
                }),
                ExitsWith(0));
  }
}

TEST_F(Pty, SuspendKeyStops) {
  EXPECT_THAT(InSession([&] {
                Gate ready;
                ChildProcess child([&] {
                  setpgid(0, 0);
                  signal(SIGTTOU, SIG_IGN);
                  tcsetpgrp(slave_, getpgrp());
                  ready.Open();
                  for (;;) pause();
                });
                ready.Wait();
                Type("\x1a");
                int status = 0;
                EXPECT_THAT(waitpid(child.pid(), &status, WUNTRACED), SucceedsWith(child.pid()));
                EXPECT_THAT(status, StoppedBy(SIGTSTP));
              }),
              ExitsWith(0));
}

TEST_F(Pty, IsigOffPassesTheKeys) {
  NoEcho();
  Change([](termios& t) { t.c_lflag &= ~static_cast<tcflag_t>(ISIG); });
  Type("\x03\n");
  EXPECT_EQ(ReadSome(slave_), "\x03\n");
}

TEST_F(Pty, BackgroundReadsStopWithTtin) {
  EXPECT_THAT(InSession([&] {
                ChildProcess child([&] {
                  setpgid(0, 0);
                  char byte;
                  read(slave_, &byte, 1);
                });
                int status = 0;
                EXPECT_THAT(waitpid(child.pid(), &status, WUNTRACED), SucceedsWith(child.pid()));
                EXPECT_THAT(status, StoppedBy(SIGTTIN));
              }),
              ExitsWith(0));
}

TEST_F(Pty, BackgroundReadsFailWhenTtinIsIgnored) {
  EXPECT_THAT(InSession([&] {
                EXPECT_THAT(ForkAndRun([&] {
                              setpgid(0, 0);
                              signal(SIGTTIN, SIG_IGN);
                              char byte;
                              EXPECT_THAT(read(slave_, &byte, 1), FailsWith(EIO));
                            }),
                            ExitsWith(0));
              }),
              ExitsWith(0));
}

TEST_F(Pty, BackgroundWritesStopOnlyWithTostop) {
  EXPECT_THAT(InSession([&] {
                EXPECT_THAT(ForkAndRun([&] {
                              setpgid(0, 0);
                              EXPECT_THAT(write(slave_, "ok", 2), SucceedsWith(2));
                            }),
                            ExitsWith(0));
                Change([](termios& t) { t.c_lflag |= TOSTOP; });
                ChildProcess child([&] {
                  setpgid(0, 0);
                  write(slave_, "no", 2);
                });
                int status = 0;
                EXPECT_THAT(waitpid(child.pid(), &status, WUNTRACED), SucceedsWith(child.pid()));
                EXPECT_THAT(status, StoppedBy(SIGTTOU));
              }),
              ExitsWith(0));
}

TEST_F(Pty, SetpgrpRules) {
  EXPECT_THAT(InSession([&] {
                EXPECT_THAT(tcsetpgrp(slave_, 0x7ffffff), FailsWith(ESRCH));
                EXPECT_THAT(tcsetpgrp(slave_, -1), FailsWith(EINVAL));
                const Pipe pipe = MakePipe();
                EXPECT_THAT(tcsetpgrp(pipe.reader, getpgrp()), FailsWith(ENOTTY));
              }),
              ExitsWith(0));
  EXPECT_THAT(tcgetpgrp(slave_), FailsWith(ENOTTY)) << "not our terminal";
}

TEST_F(Pty, PeerOpensTheSlaveWithoutItsName) {
  const Fd peer(ioctl(master_, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_THAT(peer, Succeeds());
  EXPECT_THAT(fcntl(peer, F_GETFD), SucceedsWith(FD_CLOEXEC));
  char name[64] = {};
  ASSERT_EQ(ttyname_r(peer, name, sizeof(name)), 0);
  EXPECT_EQ(name, name_);
  Type("to the peer\n");
  EXPECT_EQ(ReadSome(peer), "to the peer\n");
  EXPECT_THAT(ioctl(slave_, TIOCGPTPEER, O_RDWR), FailsWith(EIO));
}

TEST_F(Pty, StatNamesTheTerminalAndItsForeground) {
  EXPECT_THAT(InSession([&] {
                const std::string text = ReadFile("/proc/self/stat");
                int terminal = 0, foreground = 0;
                ASSERT_EQ(sscanf(text.c_str() + text.rfind(')') + 2, "%*c %*d %*d %*d %d %d",
                                 &terminal, &foreground),
                          2);
                struct stat st = {};
                ASSERT_THAT(fstat(slave_, &st), Succeeds());
                EXPECT_EQ(static_cast<dev_t>(terminal), st.st_rdev);
                EXPECT_EQ(foreground, getpgrp());
              }),
              ExitsWith(0));
}

TEST_F(Pty, TheSlaveOutlivesTheSession) {
  EXPECT_THAT(InSession([] {}), ExitsWith(0));
  EXPECT_THAT(tcgetpgrp(slave_), FailsWith(ENOTTY));
  EXPECT_THAT(write(slave_, "still\n", 6), SucceedsWith(6));
  EXPECT_EQ(ReadSome(master_), "still\r\n");
  EXPECT_THAT(InSession([&] { EXPECT_THAT(tcgetpgrp(slave_), SucceedsWith(getpid())); }),
              ExitsWith(0))
      << "and may be another session's";
}

TEST_F(Pty, AClosedMasterHangsTheSlaveUp) {
  master_.Reset();
  char byte;
  EXPECT_THAT(read(slave_, &byte, 1), SucceedsWith(0));
  EXPECT_THAT(write(slave_, "x", 1), FailsWith(EIO));
  termios settings = {};
  EXPECT_THAT(tcgetattr(slave_, &settings), FailsWith(EIO));
  EXPECT_THAT(tcgetpgrp(slave_), FailsWith(EIO));
  pollfd entry = {slave_, POLLIN, 0};
  EXPECT_THAT(poll(&entry, 1, 0), SucceedsWith(1));
  EXPECT_NE(entry.revents & POLLHUP, 0);
}

TEST_F(Pty, TheSessionLeadersExitSignalsTheForeground) {
  Pipe out = MakePipe();
  EXPECT_THAT(InSession([&] {
                Gate ready;
                if (fork() == 0) {
                  const ScopedSignalMask mask(SIG_BLOCK, {SIGHUP});
                  ready.Open();
                  const sigset_t set = SignalSet({SIGHUP});
                  if (sigwaitinfo(&set, nullptr) == SIGHUP) write(out.writer, "hup", 3);
                  if (open("/dev/tty", O_RDWR) < 0) write(out.writer, " no tty", 7);
                  _exit(0);
                }
                ready.Wait();
              }),
              ExitsWith(0));
  out.writer.Reset();
  EXPECT_EQ(ReadAll(out.reader), "hup no tty");
}

}  // namespace
}  // namespace skep::test
