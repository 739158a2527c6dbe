#include "platform/notify/stubs.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <climits>
#include <csignal>
#include <cstring>

#include "base/check.h"
#include "base/host_call.h"
#include "base/missing_defs.h"
#include "platform/common/map_call.h"
#include "platform/notify/filters.h"
#include "platform/notify/template.h"

namespace skep::platform::notify {
namespace {

constexpr int kFirstFile = 16;
constexpr int kMaxFiles = 1 << 20;
constexpr size_t kMaxSpares = 4;  // of a stub
constexpr size_t kMaxPool = 16;
constexpr int kReapedAtOnce = 4;  // more than end at once, so that they do not pile up
constexpr int kSliceUs = 20'000;
constexpr uint64_t kMaxAnswerNs = 20'000'000'000;  // a host may be very busy

bool HasEnded(pid_t pid) {
  siginfo_t info = {};
  const auto waited =
      host::Call(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL, 0);
  return !waited || info.si_pid != 0;
}

// Listeners come by messages, and at the limit of descriptors the host would drop them: whether
// there is room is seen before. EAGAIN, as fork(2) has it.
Result<void> CheckRoom(int any_fd, size_t listeners) {
  std::array<OwnedFd, 2> places;
  for (size_t i = 0; i < listeners; ++i) {
    Result<OwnedFd> place = host::Dup(any_fd);
    if (!place) return Fail(EAGAIN);
    places[i] = std::move(*place);
  }
  return {};
}

}  // namespace

Stubs::~Stubs() {
  pool_.clear();
  if (template_ > 0) {
    (void)host::Kill(template_, SIGKILL);
    ended_.push_back({template_, 0, {}});
  }
  int status = 0;
  for (const Ended& ended : ended_) {
    if (ended.pid != 0) (void)host::WaitPid(ended.pid, &status, __WALL);
  }
  if (free_fds_ != nullptr) (void)host::Munmap(free_fds_, kMaxFiles * sizeof(*free_fds_));
}

HostResult<void> Stubs::Start() {
  if (const char* why = WhyNoHost()) return HostFail(why);
  TRY(memory_.Create());
  TRY(table_.Create());
  auto numbers = host::Mmap(nullptr, kMaxFiles * sizeof(*free_fds_), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!numbers) return HostFail("cannot reserve descriptor numbers", numbers.error().code());
  Result<host::SocketPair> sockets = host::MakeSocketPair(SOCK_SEQPACKET);
  if (!sockets) return HostFail("socketpair", sockets.error().code());
  {
    MutexLock lock(mutex_);
    free_fds_ = static_cast<int32_t*>(*numbers);
    next_fd_ = kFirstFile;
    socket_ = std::move(sockets->a);
    const int on = 1;
    const timeval slice = {0, kSliceUs};
    if (setsockopt(socket_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0 ||
        setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &slice, sizeof(slice)) != 0) {
      return HostFail("setsockopt of the stubs' socket");
    }
    template_ = TRY(SpawnTemplate(memory_, sockets->b.get(), options_));
    template_cpu_ = options_.cpu;
    sockets->b.Reset();
    if (options_.meanwhile) options_.meanwhile();
    TRY(AwaitTemplate());
  }
  Result<std::unique_ptr<Stub>> stub = CloneStub(-1);
  if (!stub) return HostFail("a stub with a guest thread cannot be made", stub.error().code());
  {
    MutexLock lock((*stub)->mutex);
    const GuestThread& thread = *(*stub)->spares.front();
    const size_t at = thread.fpstate - (*stub)->StackBase(thread);
    xsave_ = TRY(XsaveLayout::FromFrame((*stub)->StackOf(thread).subspan(at)));
  }
  Retire(std::move(*stub));
  return {};
}

HostResult<void> Stubs::AwaitTemplate() {
  Answer answer;
  if (ReceiveAnswer(answer, template_)) {
    if (answer.error != 0) return HostFail("the template process", answer.error);
    return {};
  }
  int status = 0;
  (void)host::Kill(template_, SIGKILL);
  (void)host::WaitPid(template_, &status, __WALL);
  template_ = 0;
  return HostFail(WhyTemplateFailed(status));
}

// One message: a byte that is an errno or 0, or a listener.
bool Stubs::ReceiveAnswer(Answer& answer, pid_t pid) {
  const uint64_t deadline = host::MonotonicNs() + kMaxAnswerNs;
  for (;;) {
    uint8_t byte = 0;
    iovec part = {&byte, 1};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(sizeof(int))>
        control;
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const auto got = host::Call(SYS_recvmsg, socket_.get(), &message, MSG_CMSG_CLOEXEC);
    if (!got && (got.error() == Errno(EINTR) || got.error() == Errno(EAGAIN))) {
      if (HasEnded(pid) || host::MonotonicNs() > deadline) return false;
      continue;
    }
    if (!got || *got != 1) return false;
    bool has_listener = false;
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      if (c->cmsg_level != SOL_SOCKET) continue;
      if (c->cmsg_type == SCM_RIGHTS) {
        int listener = -1;
        memcpy(&listener, CMSG_DATA(c), sizeof(listener));
        OwnedFd received(listener);
        if (answer.count < answer.listeners.size()) {
          answer.listeners[answer.count++] = std::move(received);
        }
        has_listener = true;
      } else if (c->cmsg_type == SCM_CREDENTIALS) {
        ucred sender = {};
        memcpy(&sender, CMSG_DATA(c), sizeof(sender));
        answer.pid = sender.pid;
      }
    }
    if (has_listener) continue;
    if (answer.pid != pid && pid != template_) continue;
    answer.error = byte;
    return true;
  }
}

void Stubs::EndSilently(pid_t pid) {
  (void)host::Kill(pid, SIGKILL);
  const uint64_t deadline = host::MonotonicNs() + kMaxAnswerNs;
  while (!HasEnded(pid) && host::MonotonicNs() < deadline) (void)host::Call(SYS_sched_yield);
  std::byte byte;
  while (host::Call(SYS_recvfrom, socket_.get(), &byte, 1, MSG_DONTWAIT)) {
  }
}

Stubs::Answer Stubs::Command(uint32_t slot, pid_t pid) {
  NotifyCommands& page = memory_.commands(slot);
  // SAFETY: the root thread reads it while we write.
  std::atomic_ref<uint32_t>(page.sequence).fetch_add(1);
  (void)host::Call(SYS_futex, &page.sequence, FUTEX_WAKE, INT_MAX);
  Answer answer;
  if (ReceiveAnswer(answer, pid)) return answer;
  EndSilently(pid);
  if (pid == template_) {
    MutexLock lock(pool_mutex_);
    ended_.push_back({template_, 0, {}});
    template_ = 0;
  } else if (template_ != 0) {
    // What it had opened for its thread is in the table that others share.
    memory_.commands(0).calls[0] = {SYS_close, {kListenerSlot}};
    memory_.commands(0).count = 1;
    (void)Command(0, template_);
  }
  return {};
}

void Stubs::EncodeThread(NotifyCommands& page, size_t at, uint32_t index, uint32_t stack_slot) {
  const uint64_t base = kNotifyStacks + uint64_t{index} * memory_.stack_size();
  page.stack.base = base;
  page.stack.flags = SS_AUTODISARM;
  page.stack.size = memory_.stack_size();
  page.calls[at] = {SYS_mmap,
                    {base, memory_.stack_size(), PROT_READ | PROT_WRITE, kMapFlags, kStubMemory,
                     memory_.StackAt(stack_slot)}};
  page.calls[at + 1] = {SYS_clone, {kCloneThread}, static_cast<uint64_t>(CloneKind::kGuest)};
}

Result<std::unique_ptr<GuestThread>> Stubs::Adopt(Stub& stub, OwnedFd listener, uint32_t index,
                                                  uint32_t stack_slot) {
  auto thread = std::make_unique<GuestThread>();
  thread->stub = &stub;
  thread->index = index;
  thread->stack_slot = stack_slot;
  thread->listener = TRY(Listener::Adopt(std::move(listener)));
  seccomp_notif call;
  Frame frame;
  if (stub.AwaitCall(*thread, call) != Listener::Received::kCall ||
      !stub.TakeEvent(*thread, call, frame)) {
    return Fail(EIO);
  }
  thread->tid = static_cast<pid_t>(call.pid);
  return thread;
}

// Pins the root to the caller's CPU: waking it on an idle CPU is slower. A root that is not allowed
// on that CPU stays where it is.
void Stubs::PinRoot(pid_t root, int& root_cpu, int cpu) {
  if (cpu < 0 || cpu == root_cpu) return;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(static_cast<size_t>(cpu), &cpus);
  (void)host::SetAffinity(root, cpus);
  root_cpu = cpu;
}

// A manager may run on every CPU: it runs on that of the worker that asks it.
void Stubs::UnpinManager(pid_t manager) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  // Where the process may run: its first thread is no worker and not pinned.
  if (sched_getaffinity(getpid(), sizeof(cpus), &cpus) != 0) return;
  (void)host::SetAffinity(manager, cpus);
}

// A stub with its manager and its first guest thread, which is a spare.
Result<std::unique_ptr<Stub>> Stubs::CloneStub(int cpu) {
  uint32_t slot = 0, stack_slot = 0;
  int root_cpu = -1;
  Answer answer;
  {
    MutexLock lock(mutex_);
    if (template_ == 0) return Fail(EIO);
    TRY(CheckRoom(socket_.get(), 2));
    slot = TRY(memory_.stubs.Take());
    Result<uint32_t> stack = memory_.stacks.Take();
    if (!stack) {
      memory_.stubs.Free(slot);
      return std::unexpected(stack.error());
    }
    stack_slot = *stack;
    // The child has this page until it maps its own, where the same commands go on.
    NotifyCommands& page = memory_.commands(0);
    page.calls[0] = {SYS_clone, {kCloneStub}, static_cast<uint64_t>(CloneKind::kStub)};
    page.calls[1] = {SYS_prctl, {PR_SET_PDEATHSIG, SIGKILL}};
    page.calls[2] = {SYS_mmap,
                     {kStubCommands, kPageSize, PROT_READ, kMapFlags, kStubMemory,
                      StubMemory::CommandsAt(slot)}};
    page.calls[3] = {SYS_clone, {kCloneThread}, static_cast<uint64_t>(CloneKind::kManager)};
    EncodeThread(page, 4, 0, stack_slot);
    page.count = 6;
    NotifyCommands& own = memory_.commands(slot);
    own = page;
    own.sequence = page.sequence + 1;
    PinRoot(template_, template_cpu_, cpu);
    root_cpu = template_cpu_;
    answer = Command(0, template_);
    if (answer.error == 0 && answer.count != 2) answer.error = EIO;
    if (answer.error != 0) {
      const bool is_child = answer.pid > 0 && answer.pid != template_;
      if (is_child) (void)host::Kill(answer.pid, SIGKILL);
      FreeLater({is_child ? answer.pid : 0, slot, {stack_slot}});
      return Fail(answer.error);
    }
  }
  auto stub = std::make_unique<Stub>(*this, answer.pid, slot);
  stub->root_cpu = root_cpu;
  MutexLock lock(stub->mutex);
  CHECK(stub->indices.Take() == 0u);
  stub->stacks.push_back(stack_slot);
  stub->manager = TRY(Listener::Adopt(std::move(answer.listeners[0])));
  seccomp_notif call;
  Listener::Received got;
  do {
    got = stub->manager.Receive(call);
  } while (got == Listener::Received::kNothing);
  if (got == Listener::Received::kGone) return Fail(EIO);
  stub->manager_id = call.id;
  if (root_cpu >= 0) UnpinManager(static_cast<pid_t>(call.pid));
  std::unique_ptr<GuestThread> thread =
      TRY(Adopt(*stub, std::move(answer.listeners[1]), 0, stack_slot));
  stub->spares.push_back(std::move(thread));
  return stub;
}

Result<std::unique_ptr<GuestThread>> Stubs::CloneThread(Stub& stub, int cpu) {
  if (stub.dead()) return Fail(EIO);
  const uint32_t index = TRY(stub.indices.Take());
  if (kNotifyStacks + (uint64_t{index} + 1) * memory_.stack_size() > kNotifyStacksEnd) {
    stub.indices.Free(index);
    return Fail(ENOMEM);
  }
  uint32_t stack_slot = 0;
  Answer answer;
  {
    MutexLock lock(mutex_);
    const Result<void> room = CheckRoom(socket_.get(), 1);
    Result<uint32_t> stack = room ? memory_.stacks.Take() : std::unexpected(room.error());
    if (!stack) {
      stub.indices.Free(index);
      return std::unexpected(stack.error());
    }
    stack_slot = *stack;
    stub.stacks.push_back(stack_slot);
    NotifyCommands& page = memory_.commands(stub.slot());
    EncodeThread(page, 0, index, stack_slot);
    page.count = 2;
    PinRoot(stub.pid(), stub.root_cpu, cpu);
    answer = Command(stub.slot(), stub.pid());
    if (answer.error != 0) {
      // The host refused the thread. (If the stub died instead, they are freed with it.)
      if (answer.error != EIO) {
        stub.indices.Free(index);
        stub.stacks.pop_back();
        memory_.stacks.Free(stack_slot);
      }
      return Fail(answer.error);
    }
  }
  if (answer.count != 1) return Fail(EIO);
  return Adopt(stub, std::move(answer.listeners[0]), index, stack_slot);
}

Result<std::unique_ptr<Stub>> Stubs::NewStub(int cpu) {
  Reap();
  for (;;) {
    std::unique_ptr<Stub> stub;
    {
      MutexLock lock(pool_mutex_);
      if (pool_.empty()) break;
      stub = std::move(pool_.back());
      pool_.pop_back();
    }
    if (!stub->dead() && !HasEnded(stub->pid())) return stub;
  }
  return CloneStub(cpu);
}

Result<std::unique_ptr<GuestThread>> Stubs::NewThread(Stub& stub, int cpu) {
  MutexLock lock(stub.mutex);
  if (!stub.spares.empty()) {
    std::unique_ptr<GuestThread> thread = std::move(stub.spares.back());
    stub.spares.pop_back();
    return thread;
  }
  return CloneThread(stub, cpu);
}

void Stubs::Park(std::unique_ptr<GuestThread> thread) {
  Stub& stub = *thread->stub;
  CHECK(thread->in_event);
  // Another process of the guest may be next.
  memset(stub.StackOf(*thread).data(), 0, stub.StackOf(*thread).size());
  MutexLock lock(stub.mutex);
  stub.spares.push_back(std::move(thread));
}

void Stubs::Retire(std::unique_ptr<Stub> stub) {
  Reap();
  bool kept = !stub->dead();
  if (kept) {
    MutexLock lock(stub->mutex);
    kept = stub->spares.size() <= kMaxSpares && stub->UnmapAll();
  }
  if (!kept) return;
  MutexLock lock(pool_mutex_);
  if (pool_.size() < kMaxPool) pool_.push_back(std::move(stub));
}

void Stubs::FreeLater(Ended ended) {
  MutexLock lock(pool_mutex_);
  ended_.push_back(std::move(ended));
}

// The oldest first, and only some: each call costs the same, however many have ended.
void Stubs::Reap() {
  std::vector<Ended> gone;
  {
    MutexLock lock(pool_mutex_);
    for (int looked = 0; looked < kReapedAtOnce && !ended_.empty(); ++looked) {
      Ended ended = std::move(ended_.front());
      ended_.pop_front();
      int status = 0;
      const Result<pid_t> reaped = ended.pid == 0
                                       ? Result<pid_t>(ended.pid)
                                       : host::WaitPid(ended.pid, &status, __WALL | WNOHANG);
      if (ended.pid != 0 && reaped && *reaped == 0) {
        ended_.push_back(std::move(ended));
      } else {
        gone.push_back(std::move(ended));
      }
    }
  }
  if (gone.empty()) return;
  MutexLock lock(mutex_);
  for (const Ended& ended : gone) {
    if (ended.slot != 0) memory_.stubs.Free(ended.slot);
    for (const uint32_t stack : ended.stacks) memory_.stacks.Free(stack);
  }
}

Result<int> Stubs::TakeFdNumber() {
  if (free_fd_count_ > 0) return free_fds_[--free_fd_count_];
  if (next_fd_ >= kMaxFiles) return Fail(ENFILE);
  return next_fd_++;
}

Result<int> Stubs::DescriptorOf(HostFileId file, Stub& stub) {
  if (const std::optional<int> known = table_.Find(file)) return *known;
  if (options_.files == nullptr) return Fail(EBADF);
  const int ours = TRY(options_.files->DescriptorOf(file));
  MutexLock lock(mutex_);
  if (const std::optional<int> known = table_.Find(file)) return *known;
  const int number = TRY(TakeFdNumber());
  Result<void> given = stub.manager.Donate(stub.manager_id, ours, number);
  if (given) given = table_.Add(file, number);
  if (!given) {
    free_fds_[free_fd_count_++] = number;
    return std::unexpected(given.error());
  }
  return number;
}

// A descriptor that cannot be closed now (the template is gone) dies with the stubs.
void Stubs::CloseForgotten() {
  MutexLock lock(mutex_);
  while (template_ != 0) {
    NotifyCommands& page = memory_.commands(0);
    size_t count = 0;
    while (count < kMaxBatch) {
      const std::optional<int> fd = table_.TakeForgotten();
      if (!fd) break;
      page.calls[count++] = {SYS_close, {static_cast<uint64_t>(*fd)}};
    }
    if (count == 0) return;
    std::array<int, kMaxBatch> closed;
    for (size_t i = 0; i < count; ++i) closed[i] = static_cast<int>(page.calls[i].args[0]);
    page.count = count;
    if (Command(0, template_).error != 0) return;
    for (size_t i = 0; i < count; ++i) free_fds_[free_fd_count_++] = closed[i];
  }
}

}  // namespace skep::platform::notify
