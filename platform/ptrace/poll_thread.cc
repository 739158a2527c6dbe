#include "platform/ptrace/poll_thread.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <array>
#include <csignal>

#include "base/host_call.h"

namespace skep::platform::ptrace {
namespace {

constexpr size_t kStackBytes = 64 << 10;

void Futex(std::atomic<uint32_t>& word, int operation, uint32_t value) {
  (void)host::Call(SYS_futex, &word, operation, value, 0);
}

}  // namespace

HostResult<void> PollThread::Start() {
  Result<OwnedFd> quit = host::CallFd(SYS_eventfd2, 0, EFD_CLOEXEC);
  if (!quit) return HostFail("eventfd", quit.error().code());
  quit_ = std::move(*quit);
  // It must receive no signal that is meant for the process.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  // tidy: allow(std::thread) a platform thread that runs no kernel code
  const int error = pthread_create(&thread_, &attributes, Main, this);
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  if (error != 0) return HostFail("cannot start the poll thread", error);
  running_ = true;
  return {};
}

PollThread::~PollThread() {
  if (!running_) return;
  state_.store(kQuit);
  const uint64_t one = 1;
  (void)host::Write(quit_.get(), std::as_bytes(std::span(&one, 1)));
  Futex(state_, FUTEX_WAKE_PRIVATE, 1);
  pthread_join(thread_, nullptr);
}

void PollThread::Arm(int epoll_fd) {
  if (state_.load(std::memory_order_relaxed) == kArmed) return;
  epoll_fd_.store(epoll_fd);
  state_.store(kArmed);
  Futex(state_, FUTEX_WAKE_PRIVATE, 1);
}

void* PollThread::Main(void* self) {
  static_cast<PollThread*>(self)->Run();
  return nullptr;
}

void PollThread::Run() {
  for (;;) {
    const uint32_t state = state_.load();
    if (state == kQuit) return;
    if (state == kIdle) {
      Futex(state_, FUTEX_WAIT_PRIVATE, kIdle);
      continue;
    }
    std::array<pollfd, 2> fds = {{{epoll_fd_.load(), POLLIN, 0}, {quit_.get(), POLLIN, 0}}};
    (void)host::Poll(fds, -1);
    if (fds[1].revents != 0) return;
    if (fds[0].revents == 0) continue;
    // Idle first: the worker that sees kPolled may arm again.
    uint32_t armed = kArmed;
    state_.compare_exchange_strong(armed, kIdle);
    waker_.Wake(kPolled);
  }
}

}  // namespace skep::platform::ptrace
