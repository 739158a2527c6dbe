// A thread that turns "a watched host descriptor is ready" into a wake-up of its worker, which
// sleeps in wait4 and cannot poll. It sleeps unless it was armed.
#pragma once

#include <pthread.h>
#include <atomic>
#include <cstdint>

#include "base/owned_fd.h"
#include "base/result.h"
#include "platform/common/waker.h"

namespace skep::platform::ptrace {

class PollThread {
 public:
  explicit PollThread(Waker& waker) : waker_(waker) {}
  ~PollThread();
  PollThread(const PollThread&) = delete;
  PollThread& operator=(const PollThread&) = delete;

  HostResult<void> Start();
  // The worker's thread. Once `epoll_fd` is readable the worker is woken with kPolled, and the
  // thread sleeps until it is armed again. Cheap if it is armed already.
  void Arm(int epoll_fd);

 private:
  enum State : uint32_t { kIdle, kArmed, kQuit };
  static void* Main(void* self);
  void Run();

  Waker& waker_;
  OwnedFd quit_;  // an eventfd that ends its poll
  std::atomic<uint32_t> state_ = kIdle;
  std::atomic<int> epoll_fd_ = -1;
  pthread_t thread_ = {};
  bool running_ = false;
};

}  // namespace skep::platform::ptrace
