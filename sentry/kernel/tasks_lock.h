// `tasks`: the lock of all tasks and processes of a kernel, as a name for clang's thread-safety
// analysis, and TasksLock, which takes it. Linux: tasklist_lock and siglock in one.
//
// Every kernel has one such lock, and no thread ever holds those of two kernels. So the capability
// has no instance: a field says GUARDED_BY(tasks) and a function REQUIRES(tasks), whatever
// expression leads to the kernel.
#pragma once

#include <utility>

#include "base/mutex.h"
#include "base/thread_annotations.h"

namespace skep::kernel {

class Kernel;

class CAPABILITY("tasks") TasksCapability {};
inline constexpr TasksCapability tasks;

// The mutex behind `tasks`. Only TasksLock takes it.
class TasksMutex {
 private:
  friend class TasksLock;
  // tidy: allow(guards) what it guards says GUARDED_BY(tasks)
  mutable Mutex mutex_{LockRank::kKernel};
};

class SCOPED_CAPABILITY TasksLock {
 public:
  explicit TasksLock(const Kernel& kernel) ACQUIRE(tasks);
  ~TasksLock() RELEASE();
  TasksLock(const TasksLock&) = delete;
  TasksLock& operator=(const TasksLock&) = delete;

 private:
  const TasksMutex& mutex_;
};

// A value of a task that only the task's own fiber changes, holding `tasks`. That fiber (and the
// parent before it publishes the task) reads it without the lock: Mine(), or through the arrow if
// it is a pointer. Others hold the lock: Get().
template <class T>
class OwnFiberWrites {
 public:
  OwnFiberWrites() = default;

  // Not analysed: nobody writes while the only writer reads.
  const T& Mine() const NO_THREAD_SAFETY_ANALYSIS { return value_; }
  auto& operator*() const { return *Mine(); }
  auto operator->() const { return Mine().operator->(); }
  auto get() const { return Mine().get(); }
  explicit operator bool() const { return static_cast<bool>(Mine()); }

  const T& Get() const REQUIRES(tasks) { return value_; }
  void Set(T value) REQUIRES(tasks) { value_ = std::move(value); }
  // The old value: its last reference is let go of without the lock.
  [[nodiscard]] T Exchange(T value) REQUIRES(tasks) {
    return std::exchange(value_, std::move(value));
  }

 private:
  T value_ GUARDED_BY(tasks){};
};

}  // namespace skep::kernel
