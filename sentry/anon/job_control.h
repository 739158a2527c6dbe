// Terminals and sessions: who controls which terminal, and who is in its foreground (Linux:
// drivers/tty/tty_jobctrl.c).
#pragma once

#include <map>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "sentry/vfs/types.h"

namespace skep::anon {

class Terminal;

// What terminals ask of processes. Implemented by kernel/. Called without locks.
class JobControl {
 public:
  virtual void SignalGroup(int process_group, int signo) = 0;  // as the kernel (SI_KERNEL)
  virtual void SignalProcess(int process, int signo) = 0;
  virtual int SessionOfGroup(int process_group) = 0;  // 0: no such group

 protected:
  ~JobControl() = default;
};

// The controlling terminals of all sessions. One per kernel; outlives its terminals. A session's
// terminal is found by the session's number, so setsid(2) needs no word from the kernel.
class Terminals {
 public:
  explicit Terminals(JobControl& processes) : processes_(processes) {}
  JobControl& processes() { return processes_; }

  // The controlling terminal of a session, or none (/dev/tty: ENXIO).
  Ref<Terminal> Of(int session);
  // The same in numbers, for /proc: the pty's, or -1; the foreground group.
  struct Controlling {
    int number = -1;
    int foreground = 0;
  };
  Controlling ControllingOf(int session);
  int SessionOf(Terminal& terminal);
  int ForegroundOf(Terminal& terminal);

  // open(2) without O_NOCTTY: takes the terminal if the caller may.
  void AcquireAtOpen(vfs::Caller& caller, Terminal& terminal);
  Result<void> Acquire(vfs::Caller& caller, Terminal& terminal, bool readable, bool steal);
  Result<void> GiveUp(vfs::Caller& caller, Terminal& terminal);  // TIOCNOTTY
  Result<int> GetForeground(vfs::Caller& caller, Terminal& terminal, bool from_master);
  Result<int> GetSession(vfs::Caller& caller, Terminal& terminal, bool from_master);
  Result<void> SetForeground(vfs::Caller& caller, Terminal& terminal, int process_group);

  // A session's leader has exited: its terminal is let go (Linux: disassociate_ctty; a pty is not
  // hung up). The foreground group, which the kernel sends SIGHUP; 0: none.
  int EndSession(int session);

  // Whether the caller may use the terminal now (Linux: __tty_check_change). SIGTTIN and SIGTTOU
  // are sent to a background caller's group: kRestartSys; EIO if that is of no use.
  Result<void> CheckForeground(vfs::Caller& caller, Terminal& terminal, int signo);

 private:
  friend class Terminal;
  void Forget(Terminal& terminal);
  // Of a hang-up: the session that loses its terminal, or 0.
  int Detach(Terminal& terminal);

  JobControl& processes_;
  Mutex mutex_{LockRank::kNames};
  std::map<int, Terminal*> controlling_ GUARDED_BY(mutex_);  // by session
};

}  // namespace skep::anon
