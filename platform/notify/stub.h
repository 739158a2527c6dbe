// A stub process and its guest threads, as the sentry knows them. A stub is a space's, or lies in
// the pool of its Stubs with all its threads parked.
#pragma once

#include <sys/types.h>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/lock_rank.h"
#include "base/mutex.h"
#include "platform/notify/frame.h"
#include "platform/notify/listener.h"
#include "platform/notify/memory.h"
#include "platform/platform.h"

namespace skep::platform::notify {

class Stub;
class Stubs;

// A host thread of a stub that runs a guest's instructions.
struct GuestThread {
  Stub* stub = nullptr;
  Listener listener;
  pid_t tid = 0;
  uint32_t index = 0;       // among the stub's threads: where its alternate stack is mapped
  uint32_t stack_slot = 0;  // where that is in the memory file

  // The pending notification.
  uint64_t id = 0;
  bool in_event = false;  // in the signal handler, with a frame
  size_t frame_at = 0;    // in the stack
  uint64_t fpstate = 0;   // the XSAVE area's address in the stub
  uint64_t fs_base = 0, gs_base = 0;
};

class Stub {
 public:
  Stub(Stubs& stubs, pid_t pid, uint32_t slot) : stubs_(stubs), pid_(pid), slot_(slot) {}
  ~Stub();
  Stub(const Stub&) = delete;
  Stub& operator=(const Stub&) = delete;

  Stubs& stubs() { return stubs_; }
  pid_t pid() const { return pid_; }
  uint32_t slot() const { return slot_; }
  bool dead() const { return dead_.load(std::memory_order_acquire); }
  // True the first time. Any thread: the process is killed, whatever it is doing. `why` is
  // constant.
  bool MarkDead(const char* why);
  // It was seen to have ended: the same, with what the host says of it.
  bool MarkEnded();
  std::string WhyDead() const;
  uint64_t CpuTimeNs() const;

  // Runs what is in the command page. done, and the errno of the next; EIO: it is dead.
  AddressSpace::Applied RunBatch(size_t count) REQUIRES(mutex);
  // All guest mappings go.
  bool UnmapAll() REQUIRES(mutex);

  // Whether each of its threads that run may have had kMaxCpuNs of so much CPU time: one that did
  // not do meanwhile what it must do at once does not want to.
  bool HasHadShare(uint64_t cpu_ns) const;
  // A notification of the thread that its own code, or a signal, must bring at once. kNothing: it
  // does not come, although the stub runs.
  Listener::Received AwaitCall(GuestThread& thread, seccomp_notif& call);
  // Takes a notification for the event that it must be. False: forged.
  bool TakeEvent(GuestThread& thread, const seccomp_notif& call, Frame& frame);
  std::span<std::byte> StackOf(const GuestThread& thread);
  // The XSAVE area of its frame.
  std::span<std::byte> XsaveOf(const GuestThread& thread);
  void Signal(const GuestThread& thread);
  // Where it is when it is: the address of an alternate stack in the stub.
  uint64_t StackBase(const GuestThread& thread) const;

  Listener manager;
  uint64_t manager_id = 0;
  std::atomic<uint32_t> running = 0;  // its threads that run guests
  int root_cpu = -1;                  // where the root is pinned; guarded as its commands are
  // A batch is in progress, or a thread is being made. Spares and indices.
  Mutex mutex{LockRank::kStub};
  std::vector<std::unique_ptr<GuestThread>> spares GUARDED_BY(mutex);
  Numbers indices GUARDED_BY(mutex){1 << 14};
  std::vector<uint32_t> stacks GUARDED_BY(mutex);  // all that were ever given to its threads

 private:
  Stubs& stubs_;
  const pid_t pid_;
  const uint32_t slot_;
  std::atomic<bool> dead_ = false;
  bool reaped_ = false;
  std::atomic<const char*> why_dead_ = nullptr;  // null: end_status_ says it
  std::atomic<int> end_status_ = 0;
};

}  // namespace skep::platform::notify
