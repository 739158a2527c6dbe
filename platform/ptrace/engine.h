// The ptrace engine: guest threads are threads of child processes ("stubs") that the worker traces
// with PTRACE_SYSEMU, so each of their system calls and exceptions stops and is answered here. It
// works wherever ptrace is allowed; it is the reference for the other engines.
//
// All of it runs on the worker's thread, the only one that may trace its stubs. What other threads
// ask for goes through a RequestQueue.
#pragma once

#include <pthread.h>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "base/owned_fd.h"
#include "platform/common/file_table.h"
#include "platform/common/stop_queue.h"
#include "platform/common/waker.h"
#include "platform/platform.h"
#include "platform/ptrace/poll_thread.h"
#include "platform/ptrace/requests.h"
#include "platform/ptrace/template.h"

namespace skep::platform::ptrace {

class PtraceContext;
class PtraceSpace;

class PtraceEngine final : public Engine {
 public:
  static HostResult<std::unique_ptr<Engine>> Make(const EngineOptions& options);
  ~PtraceEngine() override;

  Result<std::unique_ptr<AddressSpace>> NewAddressSpace() override;
  Result<std::unique_ptr<Context>> NewContext(AddressSpace& space, const Registers& registers,
                                              std::span<const std::byte> xsave) override;
  Event Wait(Deadline deadline, HostPoller& poller) override;
  void Kick() override { waker_.Wake(kKicked); }
  void Forget(HostFileId file) override;
  const char* name() const override { return "ptrace"; }
  size_t xsave_size() const override { return xsave_size_; }

  // For its spaces and contexts.
  AddressSpace::Applied Apply(PtraceSpace& space, std::span<const MapOp> ops);
  void Drop(PtraceSpace& space);
  void Drop(PtraceContext& context);
  void PushReady(PtraceContext& context);
  // Wait reports once more that it died.
  void AnnounceAgain(PtraceSpace& space);
  bool poisons() const { return options_.ptrace.poison_unloaded; }
  void NoteRunning(PtraceContext& context);
  void NoteNotRunning(PtraceContext& context);
  // Any thread: a stub is about to be killed.
  void ExpectDeath();

 private:
  // A thread that we trace.
  struct Tracee {
    PtraceContext* context = nullptr;
    PtraceSpace* space = nullptr;  // it is this space's manager
    bool is_ending = false;        // its owner is gone
  };
  struct BatchResult {
    size_t done = 0;
    int error = 0;        // of the call that failed; EIO: the stub is gone
    uint64_t result = 0;  // of the last call that was done
  };

  explicit PtraceEngine(const EngineOptions& options) : options_(options), stops_(options.cpu) {}
  HostResult<void> Start();

  // Runs `work` on the worker's thread, now if this is it.
  template <class Work>
  void OnWorker(Work&& work);

  // Waiting (engine.cc).
  Event Died(PtraceSpace& space);
  std::optional<Event> NextStop();
  bool ReapOne(bool block);
  void ReapAll(uint64_t now);
  uint32_t TakeReasons();
  pid_t WhomToWaitFor();
  void HandleStatus(pid_t tid, int status);
  void HandleExit(pid_t tid, int status);
  void CloseForgotten();

  // Stubs (stubs.cc).
  BatchResult RunBatch(pid_t pid, uint32_t slot, size_t count);
  bool WaitForBatch(pid_t pid);
  bool WaitForNewTracee(pid_t tid);
  Result<pid_t> CloneStub();
  AddressSpace::Applied ApplyHere(PtraceSpace& space, std::span<const MapOp> ops);
  Result<void> Encode(const MapOp& op, StubCall& call);
  Result<int> StubDescriptor(HostFileId file);
  Result<int> Donate(int fd);
  void DropHere(PtraceSpace& space);
  void DropHere(PtraceContext& context);
  void SendToExit(pid_t tid);
  void MarkDead(PtraceSpace& space, int status);

  const EngineOptions options_;
  pthread_t worker_ = {};
  size_t xsave_size_ = 0;

  Waker waker_;
  RequestQueue requests_{waker_};
  PollThread poll_thread_{waker_};

  StubMemory memory_;
  OwnedFd socket_;  // to the template: carries descriptors
  pid_t template_ = 0;
  FileTable files_;

  std::unordered_map<pid_t, Tracee> tracees_;
  size_t contexts_ = 0, spaces_ = 0;
  pid_t new_tracee_ = 0;   // the last thread that came to its first stop
  pid_t lost_tracee_ = 0;  // the last unknown thread that ended

  StopQueue<PtraceContext, PtraceSpace> stops_;
  uint64_t reaped_at_ = 0;      // when the host had no more stops
  uint32_t waits_for_one_ = 0;  // since a wait for any
  std::atomic<uint32_t> deaths_expected_ = 0;
};

}  // namespace skep::platform::ptrace
