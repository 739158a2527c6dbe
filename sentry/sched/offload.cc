#include <fmt/format.h>
#include <algorithm>
#include <csignal>

#include "base/check.h"
#include "base/log.h"
#include "sentry/arena/arena.h"
#include "sentry/sched/worker_internal.h"

namespace skep::sched {

HostResult<void> OffloadPool::Start() {
  stop_.store(false);
  const int error = AddThread();
  if (error == 0) return {};
  return HostFail("cannot start a helper thread", error);
}

int OffloadPool::AddThread() {
  const arena::HostHeapScope host;
  // Signals of the process are for its other threads.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  pthread_t thread{};
  const int error = pthread_create(&thread, nullptr, &ThreadMain, this);
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  MutexLock lock(lock_);
  if (error == 0) threads_.push_back(thread);
  return error;
}

// When there are more jobs than helpers. One that cannot be had is done without.
void OffloadPool::GrowIfShort() {
  {
    MutexLock lock(lock_);
    if (busy_for_.size() + waiting_ <= size_ || size_ == kThreads) return;
    ++size_;
  }
  const int error = AddThread();
  if (error == 0) return;
  SKEP_LOG(kWarning, "no more helper threads: error {}", error);
  MutexLock lock(lock_);
  --size_;
}

void OffloadPool::Stop() {
  stop_.store(true);
  news_.Signal();
  std::vector<pthread_t> threads;
  {
    MutexLock lock(lock_);
    threads = std::move(threads_);
    threads_.clear();
    size_ = 1;
  }
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
}

void* OffloadPool::ThreadMain(void* self) {
  pthread_setname_np(pthread_self(), "skep-helper");
  static_cast<OffloadPool*>(self)->Loop();
  return nullptr;
}

// The first in line of those whose owner has helpers left.
OffloadJob* OffloadPool::TakeJob() {
  MutexLock lock(lock_);
  OffloadJob* previous = nullptr;
  for (OffloadJob* job = first_; job != nullptr; previous = job, job = job->next) {
    const auto busy = std::count(busy_for_.begin(), busy_for_.end(), job->of);
    if (job->of != nullptr && busy >= kThreadsOfOne) continue;
    (previous != nullptr ? previous->next : first_) = job->next;
    if (last_ == job) last_ = previous;
    busy_for_.push_back(job->of);
    --waiting_;
    return job;
  }
  return nullptr;
}

void OffloadPool::EndJobOf(const void* of) {
  MutexLock lock(lock_);
  busy_for_.erase(std::find(busy_for_.begin(), busy_for_.end(), of));
}

void OffloadPool::Loop() {
  for (;;) {
    const uint32_t seen = news_.Now();
    OffloadJob* job = TakeJob();
    if (job == nullptr) {
      if (stop_.load()) return;
      news_.WaitPast(seen);
      continue;
    }
    const void* const of = job->of;
    (*job->work)();
    EndJobOf(of);
    // The job, and the fiber but for this reference, may be gone once `done` is seen.
    Ref<Fiber> fiber(job->fiber);
    job->done.store(true, std::memory_order_seq_cst);
    fiber->Unpark();
  }
}

void OffloadPool::Run(OffloadJob& job) {
  in_progress_.fetch_add(1, std::memory_order_seq_cst);
  {
    MutexLock lock(lock_);
    (last_ != nullptr ? last_->next : first_) = &job;
    last_ = &job;
    ++waiting_;
  }
  news_.Signal();
  GrowIfShort();
  while (!job.done.load(std::memory_order_seq_cst)) Suspend(std::nullopt, Sleep::kUninterruptible);
  in_progress_.fetch_sub(1, std::memory_order_seq_cst);
}

void Offload(std::move_only_function<void()> work) { OffloadFor(nullptr, std::move(work)); }

void OffloadFor(const void* owner, std::move_only_function<void()> work) {
  OffloadJob job{&work, &Fiber::Current(), owner};
  RunningHost()->offload.Run(job);
}

}  // namespace skep::sched
