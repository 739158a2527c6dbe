#include "sentry/kernel/pid.h"

#include "sentry/kernel/signals.h"
#include "sentry/kernel/task.h"

namespace skep::kernel {

Result<Ref<Pid>> Pid::Allocate(PidNamespace& space) {
  if (space.ended_) return Fail(ENOMEM);
  Ref<Pid> pid(new Pid(Ref<PidNamespace>(&space)));
  pid->levels_.resize(static_cast<size_t>(space.level()) + 1);
  for (PidNamespace* s = &space; s != nullptr; s = s->parent()) {
    const Result<int> number = s->TakeNumber(*pid);
    if (!number) {
      pid->FreeIfUnused();
      return std::unexpected(number.error());
    }
    pid->levels_[static_cast<size_t>(s->level())] = {s, *number};
  }
  return pid;
}

Pid::~Pid() = default;

int Pid::NumberIn(const PidNamespace& space) const {
  const auto level = static_cast<size_t>(space.level());
  return level < levels_.size() && levels_[level].space == &space ? levels_[level].number : 0;
}

void Pid::SetTask(Task* task) {
  task_ = task;
  FreeIfUnused();
}

void Pid::SetGroup(ThreadGroup* group) {
  group_ = group;
  FreeIfUnused();
}

void Pid::FreeIfUnused() {
  if (task_ != nullptr || group_ != nullptr || process_group_ != nullptr || session_ != nullptr) {
    return;
  }
  for (const Level& level : levels_) {
    if (level.space == nullptr) continue;  // Allocate has failed before this one
    const auto found = level.space->pids_.find(level.number);
    if (found != level.space->pids_.end() && found->second == this) {
      level.space->pids_.erase(found);
    }
  }
}

Session::Session(Ref<Pid> id) : id_(std::move(id)) { id_->session_ = this; }

// Not analysed: the last group lets go of it under `tasks`.
Session::~Session() NO_THREAD_SAFETY_ANALYSIS {
  id_->session_ = nullptr;
  id_->FreeIfUnused();
}

ProcessGroup::ProcessGroup(Ref<Pid> id, Ref<Session> session)
    : id_(std::move(id)), session_(std::move(session)) {
  id_->process_group_ = this;
}

// Not analysed: the last member lets go of it under `tasks`.
ProcessGroup::~ProcessGroup() NO_THREAD_SAFETY_ANALYSIS {
  id_->process_group_ = nullptr;
  id_->FreeIfUnused();
}

ThreadGroup* ProcessGroup::NextOf(const ThreadGroup& member) { return member.next_in_group_; }

PidNamespace::PidNamespace(Ref<PidNamespace> parent, Ref<auth::UserNamespace> owner,
                           uint64_t number)
    : parent_(std::move(parent)),
      owner_(std::move(owner)),
      level_(parent_ ? parent_->level() + 1 : 0),
      number_(number) {}

PidNamespace::~PidNamespace() = default;

// Linux: alloc_pid hands out ascending numbers and starts again at 300 after the highest.
Result<int> PidNamespace::TakeNumber(Pid& pid) {
  constexpr int kReserved = 300;
  constexpr int kHighest = 32768;  // sysctl kernel.pid_max's usual value
  for (int tries = 0; tries < kHighest; ++tries) {
    const int number = last_pid_ + 1 < kHighest ? last_pid_ + 1 : kReserved;
    last_pid_ = number;
    if (pids_.try_emplace(number, &pid).second) return number;
  }
  return Fail(EAGAIN);
}

Pid* PidNamespace::Find(int number) const {
  const auto found = pids_.find(number);
  return found == pids_.end() ? nullptr : found->second;
}

Task* PidNamespace::FindTask(int tid) const {
  const Pid* pid = Find(tid);
  return pid == nullptr ? nullptr : pid->task();
}

ThreadGroup* PidNamespace::FindGroup(int tgid) const {
  const Pid* pid = Find(tgid);
  return pid == nullptr ? nullptr : pid->group();
}

ProcessGroup* PidNamespace::FindProcessGroup(int pgid) const {
  const Pid* pid = Find(pgid);
  return pid == nullptr ? nullptr : pid->process_group();
}

void PidNamespace::ForEach(const std::function<bool(Pid&)>& fn, int from) const {
  for (auto it = pids_.lower_bound(from); it != pids_.end(); ++it) {
    if (!fn(*it->second)) return;
  }
}

void PidNamespace::ForEachTask(const std::function<void(Task&)>& fn) const {
  for (const auto& [number, pid] : pids_) {
    if (pid->task() != nullptr) fn(*pid->task());
  }
}

void PidNamespace::ForEachGroup(const std::function<void(ThreadGroup&)>& fn) const {
  for (const auto& [number, pid] : pids_) {
    if (pid->group() != nullptr) fn(*pid->group());
  }
}

void PidNamespace::Zap() {
  ended_ = true;
  reaper_ = nullptr;
  ForEachGroup([](ThreadGroup& group) REQUIRES(tasks) {
    if (!group.zombie) StartGroupExit(group, SIGKILL);
  });
}

}  // namespace skep::kernel
