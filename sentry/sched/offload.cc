#include <csignal>

#include "base/check.h"
#include "sentry/sched/worker_internal.h"

namespace skep::sched {

HostResult<void> OffloadPool::Start() {
  stop_.store(false);
  // Signals of the process are for its other threads.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int error = 0;
  while (error == 0 && threads_.size() < kThreads) {
    pthread_t thread{};
    error = pthread_create(&thread, nullptr, &ThreadMain, this);
    if (error == 0) threads_.push_back(thread);
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  if (error == 0) return {};
  Stop();
  return HostFail("cannot start a helper thread", error);
}

void OffloadPool::Stop() {
  stop_.store(true);
  news_.Signal();
  for (pthread_t thread : threads_) pthread_join(thread, nullptr);
  threads_.clear();
}

void* OffloadPool::ThreadMain(void* self) {
  pthread_setname_np(pthread_self(), "skep-helper");
  static_cast<OffloadPool*>(self)->Loop();
  return nullptr;
}

void OffloadPool::Loop() {
  for (;;) {
    const uint32_t seen = news_.Now();
    OffloadJob* job = nullptr;
    {
      MutexLock lock(lock_);
      job = first_;
      if (job != nullptr) first_ = job->next;
      if (first_ == nullptr) last_ = nullptr;
    }
    if (job == nullptr) {
      if (stop_.load()) return;
      news_.WaitPast(seen);
      continue;
    }
    (*job->work)();
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
  }
  news_.Signal();
  while (!job.done.load(std::memory_order_seq_cst)) Suspend(std::nullopt, Sleep::kUninterruptible);
  in_progress_.fetch_sub(1, std::memory_order_seq_cst);
}

void Offload(std::move_only_function<void()> work) {
  OffloadJob job{&work, &Fiber::Current()};
  RunningHost()->offload.Run(job);
}

}  // namespace skep::sched
