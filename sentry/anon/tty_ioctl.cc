// The ioctls of terminals (Linux: tty_ioctl, n_tty_ioctl_helper, tty_mode_ioctl).
#include <linux/capability.h>
#include <csignal>

#include "sentry/anon/tty_file.h"

namespace skep::anon {
namespace {

using mm::UserAddr;
using mm::UserPtr;

// From <asm/termbits.h>, which cannot be included beside <termios.h>.
constexpr uint64_t kTcGets2 = _IOC(_IOC_READ, 'T', 0x2A, sizeof(TerminalModes));
constexpr uint64_t kTcSets2 = _IOC(_IOC_WRITE, 'T', 0x2B, sizeof(TerminalModes));
constexpr uint64_t kTcSetsW2 = _IOC(_IOC_WRITE, 'T', 0x2C, sizeof(TerminalModes));
constexpr uint64_t kTcSetsF2 = _IOC(_IOC_WRITE, 'T', 0x2D, sizeof(TerminalModes));

Result<uint64_t> GetModes(vfs::Caller& caller, Terminal& terminal, size_t size, uint64_t to) {
  const TerminalModes modes = terminal.modes();
  const auto bytes = std::as_bytes(std::span(&modes, 1)).first(size);
  const mm::CopyResult copied = caller.memory().CopyOut(UserAddr{to}, bytes);
  if (copied.fault != 0) return Fail(copied.fault);
  return 0;
}

uint32_t SpeedOf(uint32_t cflag, uint32_t old) {
  // The codes of the usual speeds, in order (Linux: baud_table).
  constexpr std::array<uint32_t, 16> kLow = {0,   50,   75,   110,  134,  150,  200,   300,
                                             600, 1200, 1800, 2400, 4800, 9600, 19200, 38400};
  constexpr std::array<uint32_t, 16> kHigh = {0,       57600,   115200,  230400,  460800,  500000,
                                              576000,  921600,  1000000, 1152000, 1500000, 2000000,
                                              2500000, 3000000, 3500000, 4000000};
  constexpr uint32_t kExtended = 0x1000;  // CBAUDEX
  const uint32_t code = cflag & 0x0f;
  if ((cflag & kExtended) == 0) return kLow[code];
  return code == 0 ? old : kHigh[code];  // BOTHER: as given in the speeds
}

Result<uint64_t> PutModes(vfs::Caller& caller, Terminal& terminal, size_t size, bool flush,
                          uint64_t from) {
  TRY(terminal.terminals().CheckForeground(caller, terminal, SIGTTOU));
  TerminalModes modes = terminal.modes();
  const auto bytes = std::as_writable_bytes(std::span(&modes, 1)).first(size);
  const mm::CopyResult copied = caller.memory().CopyIn(UserAddr{from}, bytes);
  if (copied.fault != 0) return Fail(copied.fault);
  modes.ospeed = SpeedOf(modes.cflag, modes.ospeed);
  modes.ispeed = modes.ospeed;
  terminal.SetModes(modes, flush);
  return 0;
}

Result<uint64_t> Flush(vfs::Caller& caller, Terminal& terminal, uint64_t which) {
  TRY(terminal.terminals().CheckForeground(caller, terminal, SIGTTOU));
  if (which != TCIFLUSH && which != TCOFLUSH && which != TCIOFLUSH) return Fail(EINVAL);
  terminal.Flush(which != TCOFLUSH, which != TCIFLUSH);
  return 0;
}

Result<uint64_t> ChangeFlow(vfs::Caller& caller, Terminal& terminal, uint64_t action) {
  TRY(terminal.terminals().CheckForeground(caller, terminal, SIGTTOU));
  switch (action) {
    case TCOOFF:
      terminal.Stop(true);
      return 0;
    case TCOON:
      terminal.Stop(false);
      return 0;
    case TCIOFF:
      terminal.SendChar(terminal.modes().cc[VSTOP]);
      return 0;
    case TCION:
      terminal.SendChar(terminal.modes().cc[VSTART]);
      return 0;
    default:
      return Fail(EINVAL);
  }
}

Result<uint64_t> PutInt(vfs::Caller& caller, uint64_t to, Result<int> value) {
  const int number = TRY(std::move(value));
  TRY(caller.memory().CopyOut(UserPtr<int32_t>(to), number));
  return 0;
}

// Who controls it, and who is in the foreground.
Result<uint64_t> JobIoctl(vfs::Caller& caller, Terminal& terminal, bool from_master, bool readable,
                          uint64_t command, uint64_t argument) {
  Terminals& terminals = terminal.terminals();
  switch (command) {
    case TIOCSCTTY:
      TRY(terminals.Acquire(caller, terminal, readable, argument == 1));
      return 0;
    case TIOCNOTTY:
      TRY(terminals.GiveUp(caller, terminal));
      return 0;
    case TIOCGPGRP:
      return PutInt(caller, argument, terminals.GetForeground(caller, terminal, from_master));
    case TIOCGSID:
      return PutInt(caller, argument, terminals.GetSession(caller, terminal, from_master));
    case TIOCSPGRP: {
      const int group = TRY(caller.memory().CopyIn(UserPtr<const int32_t>(argument)));
      TRY(terminals.SetForeground(caller, terminal, group));
      return 0;
    }
    default:
      return Fail(ENOTTY);
  }
}

Result<uint64_t> StateIoctl(vfs::Caller& caller, Terminal& terminal, uint64_t command,
                            uint64_t argument) {
  constexpr int kNTty = 0;  // N_TTY
  switch (command) {
    case TIOCGWINSZ: {
      TRY(caller.memory().CopyOut(UserPtr<winsize>(argument), terminal.window()));
      return 0;
    }
    case TIOCSWINSZ: {
      const winsize size = TRY(caller.memory().CopyIn(UserPtr<const winsize>(argument)));
      terminal.SetWindow(size);
      return 0;
    }
    case TIOCOUTQ:
      return PutInt(caller, argument, static_cast<int>(terminal.OutputSize()));
    case TIOCGETD:
      return PutInt(caller, argument, kNTty);
    case TIOCSETD: {
      const int discipline = TRY(caller.memory().CopyIn(UserPtr<const int32_t>(argument)));
      if (discipline != kNTty) return Fail(EINVAL);
      return 0;
    }
    case TIOCSTI:
      return Fail(EIO);  // Linux: dev.tty.legacy_tiocsti=0
    case TIOCGPTPEER:
      return Fail(EIO);  // of a slave
    case TIOCEXCL:
    case TIOCNXCL:
      return 0;
    case TIOCGEXCL:
      return PutInt(caller, argument, 0);
    case TIOCVHANGUP:
      if (!caller.creds().HasInFirst(CAP_SYS_ADMIN)) return Fail(EPERM);
      terminal.HangUp();
      return 0;
    case TCSBRK:
    case TCSBRKP:
    case TIOCSBRK:
    case TIOCCBRK: {
      TRY(terminal.terminals().CheckForeground(caller, terminal, SIGTTOU));
      return 0;
    }
    default:
      return Fail(ENOTTY);
  }
}

}  // namespace

Result<uint64_t> TerminalIoctl(vfs::Caller& caller, Terminal& terminal, bool from_master,
                               bool readable, uint64_t command, uint64_t argument) {
  switch (command) {
    case TCGETS:
      return GetModes(caller, terminal, kOldModesSize, argument);
    case TCSETS:
    case TCSETSW:
      return PutModes(caller, terminal, kOldModesSize, false, argument);
    case TCSETSF:
      return PutModes(caller, terminal, kOldModesSize, true, argument);
    case kTcGets2:
      return GetModes(caller, terminal, sizeof(TerminalModes), argument);
    case kTcSets2:
    case kTcSetsW2:
      return PutModes(caller, terminal, sizeof(TerminalModes), false, argument);
    case kTcSetsF2:
      return PutModes(caller, terminal, sizeof(TerminalModes), true, argument);
    case TCFLSH:
      return Flush(caller, terminal, argument);
    case TCXONC:
      return ChangeFlow(caller, terminal, argument);
    case TIOCSCTTY:
    case TIOCNOTTY:
    case TIOCGPGRP:
    case TIOCSPGRP:
    case TIOCGSID:
      return JobIoctl(caller, terminal, from_master, readable, command, argument);
    default:
      return StateIoctl(caller, terminal, command, argument);
  }
}

}  // namespace skep::anon
