#include "sentry/anon/job_control.h"

#include <linux/capability.h>
#include <csignal>

#include "sentry/anon/terminal.h"

namespace skep::anon {
namespace {

Ref<vfs::ProcessId> SessionOf(vfs::Caller& caller) {
  const vfs::JobControlCaller* const task = caller.job_control();
  return task == nullptr ? Ref<vfs::ProcessId>() : task->SessionId();
}

}  // namespace

Ref<Terminal> Terminals::Of(const vfs::ProcessId& session) {
  MutexLock lock(mutex_);
  const auto found = controlling_.find(&session);
  if (found == controlling_.end()) return {};
  return Ref<Terminal>::TryFrom(found->second);
}

Terminals::Controlling Terminals::ControllingOf(const vfs::ProcessId& session) {
  MutexLock lock(mutex_);
  const auto found = controlling_.find(&session);
  if (found == controlling_.end()) return {};
  return {.number = found->second->number(), .foreground = found->second->foreground_};
}

Ref<vfs::ProcessId> Terminals::SessionOf(Terminal& terminal) {
  MutexLock lock(mutex_);
  return terminal.session_;
}

Ref<vfs::ProcessId> Terminals::ForegroundOf(Terminal& terminal) {
  MutexLock lock(mutex_);
  return terminal.foreground_;
}

void Terminals::Take(Terminal& terminal, vfs::ProcessId& session, Ref<vfs::ProcessId> group) {
  controlling_[&session] = &terminal;
  terminal.session_ = Ref<vfs::ProcessId>(&session);
  terminal.foreground_ = std::move(group);
}

void Terminals::AcquireAtOpen(vfs::Caller& caller, Terminal& terminal) {
  vfs::JobControlCaller* const task = caller.job_control();
  if (task == nullptr || !task->IsSessionLeader()) return;
  const Ref<vfs::ProcessId> session = task->SessionId();
  Ref<vfs::ProcessId> group = task->ProcessGroupId();
  MutexLock lock(mutex_);
  if (terminal.session_ || controlling_.contains(session.get())) return;
  Take(terminal, *session, std::move(group));
}

// Linux: tiocsctty.
Result<void> Terminals::Acquire(vfs::Caller& caller, Terminal& terminal, bool readable,
                                bool steal) {
  vfs::JobControlCaller* const task = caller.job_control();
  if (task == nullptr) return Fail(EPERM);
  const Ref<vfs::ProcessId> session = task->SessionId();
  Ref<vfs::ProcessId> group = task->ProcessGroupId();
  const bool leader = task->IsSessionLeader();
  const bool admin = caller.creds().HasInFirst(CAP_SYS_ADMIN);
  MutexLock lock(mutex_);
  if (leader && terminal.session_ == session) return {};
  if (!leader || controlling_.contains(session.get())) return Fail(EPERM);
  if (terminal.session_) {
    if (!steal || !admin) return Fail(EPERM);
    controlling_.erase(terminal.session_.get());
  }
  if (!readable && !admin) return Fail(EPERM);
  Take(terminal, *session, std::move(group));
  return {};
}

Result<void> Terminals::GiveUp(vfs::Caller& caller, Terminal& terminal) {
  vfs::JobControlCaller* const task = caller.job_control();
  if (task == nullptr) return Fail(ENOTTY);
  const Ref<vfs::ProcessId> session = task->SessionId();
  const bool leader = task->IsSessionLeader();
  Ref<vfs::ProcessId> foreground;
  {
    MutexLock lock(mutex_);
    if (!terminal.session_ || terminal.session_ != session) return Fail(ENOTTY);
    if (!leader) return {};
    controlling_.erase(terminal.session_.get());
    foreground = std::exchange(terminal.foreground_, {});
    terminal.session_ = {};
  }
  if (foreground) {
    processes_.SignalGroup(*foreground, SIGHUP);
    processes_.SignalGroup(*foreground, SIGCONT);
  }
  return {};
}

Result<int> Terminals::GetForeground(vfs::Caller& caller, Terminal& terminal, bool from_master) {
  const Ref<vfs::ProcessId> session = anon::SessionOf(caller);
  MutexLock lock(mutex_);
  if (!from_master && (!terminal.session_ || terminal.session_ != session)) return Fail(ENOTTY);
  return terminal.foreground_ ? caller.NumberOf(*terminal.foreground_) : 0;
}

Result<int> Terminals::GetSession(vfs::Caller& caller, Terminal& terminal, bool from_master) {
  const Ref<vfs::ProcessId> session = anon::SessionOf(caller);
  MutexLock lock(mutex_);
  if (!terminal.session_) return Fail(ENOTTY);
  if (!from_master && terminal.session_ != session) return Fail(ENOTTY);
  return caller.NumberOf(*terminal.session_);
}

// Linux: tiocspgrp.
Result<void> Terminals::SetForeground(vfs::Caller& caller, Terminal& terminal, int process_group) {
  TRY(CheckForeground(caller, terminal, SIGTTOU));
  const Ref<vfs::ProcessId> session = anon::SessionOf(caller);
  {
    MutexLock lock(mutex_);
    if (!terminal.session_ || terminal.session_ != session) return Fail(ENOTTY);
  }
  if (process_group < 0) return Fail(EINVAL);
  Ref<vfs::ProcessId> group = TRY(caller.job_control()->FindProcessGroup(process_group, *session));
  MutexLock lock(mutex_);
  terminal.foreground_ = std::move(group);
  return {};
}

Ref<vfs::ProcessId> Terminals::EndSession(const vfs::ProcessId& session) {
  MutexLock lock(mutex_);
  const auto found = controlling_.find(&session);
  if (found == controlling_.end()) return {};
  Terminal& terminal = *found->second;
  controlling_.erase(found);
  terminal.session_ = {};
  return std::exchange(terminal.foreground_, {});
}

Result<void> Terminals::CheckForeground(vfs::Caller& caller, Terminal& terminal, int signo) {
  vfs::JobControlCaller* const task = caller.job_control();
  if (task == nullptr) return {};
  const Ref<vfs::ProcessId> session = task->SessionId();
  const Ref<vfs::ProcessId> group = task->ProcessGroupId();
  {
    MutexLock lock(mutex_);
    if (!terminal.session_ || terminal.session_ != session) return {};
    if (!terminal.foreground_ || terminal.foreground_ == group) return {};
  }
  if (task->IsBlockedOrIgnored(signo)) {
    if (signo == SIGTTIN) return Fail(EIO);
    return {};
  }
  if (task->InOrphanedGroup()) return Fail(EIO);
  task->SignalOwnGroup(signo);
  return Fail(kRestartSys);
}

void Terminals::Forget(Terminal& terminal) { (void)Detach(terminal); }

Ref<vfs::ProcessId> Terminals::Detach(Terminal& terminal) {
  Ref<vfs::ProcessId> foreground;
  MutexLock lock(mutex_);
  Ref<vfs::ProcessId> session = std::exchange(terminal.session_, {});
  foreground = std::exchange(terminal.foreground_, {});
  if (session) controlling_.erase(session.get());
  return session;
}

}  // namespace skep::anon
