#include "sentry/anon/job_control.h"

#include <linux/capability.h>
#include <csignal>

#include "sentry/anon/terminal.h"

namespace skep::anon {

Ref<Terminal> Terminals::Of(int session) {
  MutexLock lock(mutex_);
  const auto found = controlling_.find(session);
  if (found == controlling_.end()) return {};
  return Ref<Terminal>::TryFrom(found->second);
}

Terminals::Controlling Terminals::ControllingOf(int session) {
  MutexLock lock(mutex_);
  const auto found = controlling_.find(session);
  if (found == controlling_.end()) return {};
  return {.number = found->second->number(), .foreground = found->second->foreground_};
}

int Terminals::SessionOf(Terminal& terminal) {
  MutexLock lock(mutex_);
  return terminal.session_;
}

int Terminals::ForegroundOf(Terminal& terminal) {
  MutexLock lock(mutex_);
  return terminal.foreground_;
}

void Terminals::AcquireAtOpen(vfs::Caller& caller, Terminal& terminal) {
  if (!caller.IsSessionLeader()) return;
  const int session = caller.SessionId();
  const int group = caller.ProcessGroupId();
  MutexLock lock(mutex_);
  if (terminal.session_ != 0 || controlling_.contains(session)) return;
  controlling_[session] = &terminal;
  terminal.session_ = session;
  terminal.foreground_ = group;
}

// Linux: tiocsctty.
Result<void> Terminals::Acquire(vfs::Caller& caller, Terminal& terminal, bool readable,
                                bool steal) {
  const int session = caller.SessionId();
  const int group = caller.ProcessGroupId();
  const bool leader = caller.IsSessionLeader();
  const bool admin = caller.creds().Has(CAP_SYS_ADMIN);
  MutexLock lock(mutex_);
  if (leader && terminal.session_ == session) return {};
  if (!leader || controlling_.contains(session)) return Fail(EPERM);
  if (terminal.session_ != 0) {
    if (!steal || !admin) return Fail(EPERM);
    controlling_.erase(terminal.session_);
  }
  if (!readable && !admin) return Fail(EPERM);
  controlling_[session] = &terminal;
  terminal.session_ = session;
  terminal.foreground_ = group;
  return {};
}

Result<void> Terminals::GiveUp(vfs::Caller& caller, Terminal& terminal) {
  const int session = caller.SessionId();
  const bool leader = caller.IsSessionLeader();
  int foreground = 0;
  {
    MutexLock lock(mutex_);
    if (terminal.session_ == 0 || terminal.session_ != session) return Fail(ENOTTY);
    if (!leader) return {};
    controlling_.erase(terminal.session_);
    foreground = std::exchange(terminal.foreground_, 0);
    terminal.session_ = 0;
  }
  if (foreground != 0) {
    processes_.SignalGroup(foreground, SIGHUP);
    processes_.SignalGroup(foreground, SIGCONT);
  }
  return {};
}

Result<int> Terminals::GetForeground(vfs::Caller& caller, Terminal& terminal, bool from_master) {
  const int session = caller.SessionId();
  MutexLock lock(mutex_);
  if (!from_master && (terminal.session_ == 0 || terminal.session_ != session)) {
    return Fail(ENOTTY);
  }
  return terminal.foreground_;
}

Result<int> Terminals::GetSession(vfs::Caller& caller, Terminal& terminal, bool from_master) {
  const int session = caller.SessionId();
  MutexLock lock(mutex_);
  if (terminal.session_ == 0) return Fail(ENOTTY);
  if (!from_master && terminal.session_ != session) return Fail(ENOTTY);
  return terminal.session_;
}

// Linux: tiocspgrp.
Result<void> Terminals::SetForeground(vfs::Caller& caller, Terminal& terminal, int process_group) {
  TRY(CheckForeground(caller, terminal, SIGTTOU));
  const int session = caller.SessionId();
  {
    MutexLock lock(mutex_);
    if (terminal.session_ == 0 || terminal.session_ != session) return Fail(ENOTTY);
  }
  if (process_group < 0) return Fail(EINVAL);
  const int session_of_group = processes_.SessionOfGroup(process_group);
  if (session_of_group == 0) return Fail(ESRCH);
  if (session_of_group != session) return Fail(EPERM);
  MutexLock lock(mutex_);
  terminal.foreground_ = process_group;
  return {};
}

int Terminals::EndSession(int session) {
  MutexLock lock(mutex_);
  const auto found = controlling_.find(session);
  if (found == controlling_.end()) return 0;
  Terminal& terminal = *found->second;
  controlling_.erase(found);
  terminal.session_ = 0;
  return std::exchange(terminal.foreground_, 0);
}

Result<void> Terminals::CheckForeground(vfs::Caller& caller, Terminal& terminal, int signo) {
  const int session = caller.SessionId();
  const int group = caller.ProcessGroupId();
  {
    MutexLock lock(mutex_);
    if (terminal.session_ == 0 || terminal.session_ != session) return {};
    if (terminal.foreground_ == 0 || terminal.foreground_ == group) return {};
  }
  if (caller.IsBlockedOrIgnored(signo)) {
    if (signo == SIGTTIN) return Fail(EIO);
    return {};
  }
  if (caller.InOrphanedGroup()) return Fail(EIO);
  caller.SignalGroup(group, signo);
  return Fail(kRestartSys);
}

void Terminals::Forget(Terminal& terminal) { (void)Detach(terminal); }

int Terminals::Detach(Terminal& terminal) {
  MutexLock lock(mutex_);
  const int session = std::exchange(terminal.session_, 0);
  terminal.foreground_ = 0;
  if (session != 0) controlling_.erase(session);
  return session;
}

}  // namespace skep::anon
