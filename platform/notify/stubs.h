// Makes stubs and their threads, keeps a few for reuse, and owns the descriptor table that they
// share. All methods: any thread, of any engine.
#pragma once

#include <sys/types.h>
#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "base/owned_fd.h"
#include "platform/common/file_table.h"
#include "platform/notify/stub.h"

namespace skep::platform::notify {

class Stubs {
 public:
  explicit Stubs(const EngineOptions& options) : options_(options) {}
  ~Stubs();
  Stubs(const Stubs&) = delete;
  Stubs& operator=(const Stubs&) = delete;

  // On the thread whose end is to be the end of all stubs. Makes the first stub, for the pool, and
  // learns from it what signal frames look like here.
  HostResult<void> Start();

  // `cpu`: the caller's, or -1. Who is asked for something new runs there meanwhile.
  Result<std::unique_ptr<Stub>> NewStub(int cpu);
  // A thread with a frame: a spare, or a new one. Its register state is anything.
  Result<std::unique_ptr<GuestThread>> NewThread(Stub& stub, int cpu);
  // A thread that is in an event and runs no more.
  void Park(std::unique_ptr<GuestThread> thread);
  // To the pool, or its end.
  void Retire(std::unique_ptr<Stub> stub);
  // What a stub had: others may have it once its process, which was killed, is gone.
  struct Ended {
    pid_t pid;  // 0: it is
    uint32_t slot;
    std::vector<uint32_t> stacks;
  };
  void FreeLater(Ended ended);

  // The stubs' descriptor of a file, given through `stub`, whose mutex is held.
  Result<int> DescriptorOf(HostFileId file, Stub& stub) REQUIRES(stub.mutex);
  // True: CloseForgotten is to be called some time.
  bool Forget(HostFileId file) { return table_.Forget(file); }
  void CloseForgotten();

  StubMemory& memory() { return memory_; }
  const XsaveLayout& xsave() const { return xsave_; }

 private:
  struct Answer {
    int error = EIO;
    pid_t pid = 0;
    std::array<OwnedFd, 2> listeners;  // in the order of their threads
    size_t count = 0;
  };

  // Has the root thread of the process `pid` run what is in the command page at `slot`. The answer
  // is the process's own, or that of a stub that it cloned.
  Answer Command(uint32_t slot, pid_t pid) REQUIRES(mutex_);
  bool ReceiveAnswer(Answer& answer, pid_t pid) REQUIRES(mutex_);
  // Its end comes before anything else is asked of a root: its answers must not be taken for
  // another's.
  void EndSilently(pid_t pid) REQUIRES(mutex_);
  HostResult<void> AwaitTemplate() REQUIRES(mutex_);
  Result<std::unique_ptr<Stub>> CloneStub(int cpu);
  Result<std::unique_ptr<GuestThread>> CloneThread(Stub& stub, int cpu) REQUIRES(stub.mutex);
  // Two commands, at `calls`, that make a thread with this stack.
  void EncodeThread(NotifyCommands& page, size_t at, uint32_t index, uint32_t stack_slot);
  // The thread whose listener came: its first event.
  Result<std::unique_ptr<GuestThread>> Adopt(Stub& stub, OwnedFd listener, uint32_t index,
                                             uint32_t stack_slot) REQUIRES(stub.mutex);
  Result<int> TakeFdNumber() REQUIRES(mutex_);
  // A root that is to be woken from that CPU.
  static void PinRoot(pid_t root, int& root_cpu, int cpu);
  void UnpinManager(pid_t manager);
  void Reap();

  const EngineOptions options_;
  StubMemory memory_;
  XsaveLayout xsave_;
  FileTable table_;

  // The roots' socket, the descriptor table, and the memory's numbers.
  Mutex mutex_{LockRank::kStubTable};
  OwnedFd socket_;
  pid_t template_ = 0;
  int template_cpu_ GUARDED_BY(mutex_) = -1;        // where it is pinned; -1: nowhere
  int32_t* free_fds_ GUARDED_BY(mutex_) = nullptr;  // a stack, in reserved address space
  uint32_t free_fd_count_ GUARDED_BY(mutex_) = 0;
  int next_fd_ GUARDED_BY(mutex_);

  Mutex pool_mutex_{LockRank::kStubPool};
  std::vector<std::unique_ptr<Stub>> pool_ GUARDED_BY(pool_mutex_);
  std::deque<Ended> ended_ GUARDED_BY(pool_mutex_);
};

}  // namespace skep::platform::notify
