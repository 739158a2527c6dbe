// The notify engine: guest threads are threads of child processes ("stubs"), each of whose system
// calls the host kernel hands to us as a seccomp notification, with the CPU: no other thread and no
// other CPU is involved. Exceptions and interrupts come the same way, out of a signal handler.
#pragma once

#include <pthread.h>
#include <atomic>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "base/mutex.h"
#include "base/owned_fd.h"
#include "platform/common/stop_queue.h"
#include "platform/common/waker.h"
#include "platform/notify/stubs.h"
#include "platform/platform.h"

namespace skep::platform::notify {

class NotifyContext;
class NotifySpace;

class NotifyEngine final : public Engine {
 public:
  // With stubs that have started; other engines may have them too.
  static HostResult<std::unique_ptr<Engine>> Make(const EngineOptions& options,
                                                  std::shared_ptr<Stubs> stubs);
  ~NotifyEngine() override;

  Result<std::unique_ptr<AddressSpace>> NewAddressSpace() override;
  Result<std::unique_ptr<Context>> NewContext(AddressSpace& space, const Registers& registers,
                                              std::span<const std::byte> xsave) override;
  Event Wait(Deadline deadline, HostPoller& poller) override;
  void Kick() override { waker_.Wake(kKicked); }
  void Forget(HostFileId file) override;
  bool shares_spaces() const override { return true; }
  bool Shares(const Stubs& stubs) const { return stubs_.get() == &stubs; }
  const char* name() const override { return "notify"; }
  size_t xsave_size() const override { return stubs_->xsave().size(); }

  // For spaces and contexts. What a listener belongs to: a space's manager, or a context.
  struct Source {
    NotifySpace* space;
    NotifyContext* context;
  };
  uint64_t Watch(Source source, int listener);
  // Wait does not look at the source any more when it returns.
  void Unwatch(uint64_t watch, int listener);
  // Its CPU is this worker's.
  void Adopt(const GuestThread& thread);
  void Drop(NotifySpace& space, std::unique_ptr<Stub> stub);
  void Drop(NotifyContext& context);
  // One of its contexts is `to`'s from now on.
  void HandOver(NotifyEngine& to) { --contexts_, ++to.contexts_; }
  void PushReady(NotifyContext& context);
  // Wait reports that it died, once more if it has already.
  void Announce(NotifySpace& space);
  // Any thread: a context of this engine that runs was interrupted. One that does not stop for it
  // within kMaxOwedCpuNs of CPU time is killed with its space.
  void WatchInterrupts();
  // The worker's thread.
  void NoteRunning(NotifyContext& context);
  void NoteNotRunning(NotifyContext& context);

 private:
  NotifyEngine(const EngineOptions& options, std::shared_ptr<Stubs> stubs)
      : options_(options), stubs_(std::move(stubs)), stops_(options.cpu) {}
  HostResult<void> Start();

  std::optional<Event> NextStop();
  uint32_t TakeReasons();
  void LookAtInterrupts(uint64_t now);
  NotifyContext* OnlyOneRunning(const HostPoller& poller);
  void ReceiveFrom(NotifyContext& context);
  void LookAtAll(bool block, HostPoller& poller);
  void OnReady(uint64_t watch);
  void SetTimer(Deadline deadline);

  const EngineOptions options_;
  pthread_t worker_ = {};
  Waker waker_;
  const std::shared_ptr<Stubs> stubs_;
  StopQueue<NotifyContext, NotifySpace> stops_;
  OwnedFd epoll_;
  int polled_fd_ = -1;         // the poller's, once it is in our epoll
  bool poller_armed_ = false;  // and will be reported

  // The worker's.
  uint32_t waits_for_one_ = 0;  // since a look at all
  uint64_t next_watch_at_ = 0;  // of interrupts; 0: none is owed
  std::atomic<bool> watch_wanted_ = false;

  // Held while what an event tells of is looked at.
  Mutex watch_mutex_{LockRank::kStubWatch};
  std::unordered_map<uint64_t, Source> sources_ GUARDED_BY(watch_mutex_);
  uint64_t next_watch_ GUARDED_BY(watch_mutex_) = 1;
  std::atomic<size_t> contexts_ = 0, spaces_ = 0;
};

}  // namespace skep::platform::notify
