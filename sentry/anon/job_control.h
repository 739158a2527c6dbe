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
  // As the kernel (SI_KERNEL); nobody's if the group, or the session's leader, is gone.
  virtual void SignalGroup(const vfs::ProcessId& group, int signo) = 0;
  virtual void SignalLeader(const vfs::ProcessId& session, int signo) = 0;

 protected:
  ~JobControl() = default;
};

// The controlling terminals of all sessions. One per kernel; outlives its terminals. A session's
// terminal is found by the session's id, so setsid(2) needs no word from the kernel.
class Terminals {
 public:
  explicit Terminals(JobControl& processes) : processes_(processes) {}
  JobControl& processes() { return processes_; }

  // The controlling terminal of a session, or none (/dev/tty: ENXIO).
  Ref<Terminal> Of(const vfs::ProcessId& session);
  // For /proc: the pty's number, or -1; the foreground group.
  struct Controlling {
    int number = -1;
    Ref<vfs::ProcessId> foreground;
  };
  Controlling ControllingOf(const vfs::ProcessId& session);
  Ref<vfs::ProcessId> SessionOf(Terminal& terminal);
  Ref<vfs::ProcessId> ForegroundOf(Terminal& terminal);

  // open(2) without O_NOCTTY: takes the terminal if the caller may.
  void AcquireAtOpen(vfs::Caller& caller, Terminal& terminal);
  Result<void> Acquire(vfs::Caller& caller, Terminal& terminal, bool readable, bool steal);
  Result<void> GiveUp(vfs::Caller& caller, Terminal& terminal);  // TIOCNOTTY
  Result<int> GetForeground(vfs::Caller& caller, Terminal& terminal, bool from_master);
  Result<int> GetSession(vfs::Caller& caller, Terminal& terminal, bool from_master);
  Result<void> SetForeground(vfs::Caller& caller, Terminal& terminal, int process_group);

  // A session's leader has exited: its terminal is let go (Linux: disassociate_ctty; a pty is not
  // hung up). The foreground group, which the kernel sends SIGHUP; null: none.
  Ref<vfs::ProcessId> EndSession(const vfs::ProcessId& session);

  // Whether the caller may use the terminal now (Linux: __tty_check_change). SIGTTIN and SIGTTOU
  // are sent to a background caller's group: kRestartSys; EIO if that is of no use.
  Result<void> CheckForeground(vfs::Caller& caller, Terminal& terminal, int signo);

 private:
  friend class Terminal;
  void Forget(Terminal& terminal);
  // For a hang-up: returns the session that loses its terminal, or none.
  Ref<vfs::ProcessId> Detach(Terminal& terminal);
  void Take(Terminal& terminal, vfs::ProcessId& session, Ref<vfs::ProcessId> group)
      REQUIRES(mutex_);

  JobControl& processes_;
  Mutex mutex_{LockRank::kNames};
  // By session, which the terminal holds.
  std::map<const vfs::ProcessId*, Terminal*> controlling_ GUARDED_BY(mutex_);
};

}  // namespace skep::anon
