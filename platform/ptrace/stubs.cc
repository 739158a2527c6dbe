// What the engine has its stubs do: batches, clones, descriptors; and their end.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <algorithm>
#include <csignal>
#include <cstring>

#include "base/check.h"
#include "base/host_call.h"
#include "base/range.h"
#include "platform/common/map_call.h"
#include "platform/ptrace/address_space.h"
#include "platform/ptrace/calls.h"
#include "platform/ptrace/context.h"
#include "platform/ptrace/engine.h"
#include "platform/ptrace/engine_internal.h"
#include "platform/ptrace/registers.h"
#include "platform/ptrace/stub_filter.h"

namespace skep::platform::ptrace {

// The manager runs until its breakpoint. Whatever else stops or ends meanwhile is handled as in
// Wait: the end of a process is reported only when all its threads' ends were.
bool PtraceEngine::WaitForBatch(pid_t pid) {
  for (;;) {
    int status = 0;
    const Result<pid_t> tid = host::WaitPid(-1, &status, __WALL | __WNOTHREAD);
    if (!tid) return false;
    if (*tid != pid) {
      HandleStatus(*tid, status);
      continue;
    }
    if (!WIFSTOPPED(status)) {
      HandleExit(pid, status);
      return false;
    }
    if (status >> 8 == SIGTRAP) return true;
    const int signo = WSTOPSIG(status);
    if (signo == SIGSEGV || signo == SIGBUS || signo == SIGILL || signo == SIGSYS) {
      // Its code and commands cannot do this: give the stub up.
      (void)host::Kill(pid, SIGKILL);
      continue;
    }
    (void)Continue(pid);
  }
}

PtraceEngine::BatchResult PtraceEngine::RunBatch(pid_t pid, uint32_t slot, size_t count) {
  CommandPage& page = memory_.commands(slot);
  page.count = count;
  BatchResult result = {.done = 0, .error = EIO, .result = 0};
  if (!Continue(pid) || !WaitForBatch(pid)) return result;
  const Result<user_regs_struct> registers = GetRegisters(pid);
  // Guests can read the page: they need not know each other's addresses.
  memset(&page, 0, sizeof(StubCall) * (count + 1));
  if (!registers) return result;
  result.done = std::min<size_t>(registers->r12, count);
  result.result = registers->rax;
  result.error = result.done == count ? 0 : static_cast<int>(-registers->rax);
  return result;
}

bool PtraceEngine::WaitForNewTracee(pid_t tid) {
  while (new_tracee_ != tid) {
    if (lost_tracee_ == tid || !ReapOne(true)) return false;
  }
  return true;
}

// A copy of the template, stopped, its commands still on the template's page.
Result<pid_t> PtraceEngine::CloneStub() {
  if (template_ == 0) return Fail(EIO);
  memory_.commands(0).calls[0] = {SYS_clone, {kCloneStub}};
  new_tracee_ = lost_tracee_ = 0;
  const BatchResult cloned = RunBatch(template_, 0, 1);
  if (cloned.error != 0) return Fail(cloned.error);
  const auto pid = static_cast<pid_t>(cloned.result);
  if (!WaitForNewTracee(pid)) return Fail(EIO);
  tracees_[pid] = {};
  return pid;
}

Result<std::unique_ptr<AddressSpace>> PtraceEngine::NewAddressSpace() {
  CHECK(pthread_self() == worker_);
  const uint32_t slot = TRY(memory_.slots.Take());
  const Result<pid_t> pid = CloneStub();
  if (!pid) {
    memory_.slots.Free(slot);
    return std::unexpected(pid.error());
  }
  auto space = std::make_unique<PtraceSpace>(*this, *pid, slot);
  ++spaces_;
  tracees_[*pid].space = space.get();
  Result<user_regs_struct> registers = GetRegisters(*pid);
  if (!registers) return Fail(EIO);
  registers->rip = AddressesOfStub().run_batch;
  registers->orig_rax = ~0ull;
  if (!SetRegisters(*pid, *registers, kWrittenPrefix)) return Fail(EIO);
  memory_.commands(0).calls[0] = {
      SYS_mmap,
      {kStubCommands, kPageSize, PROT_READ, kMapFlags, kStubMemory, StubMemory::OffsetOf(slot)}};
  if (const BatchResult mapped = RunBatch(*pid, 0, 1); mapped.error != 0) return Fail(mapped.error);
  return space;
}

Result<std::unique_ptr<Context>> PtraceEngine::NewContext(AddressSpace& any_space,
                                                          const Registers& registers,
                                                          std::span<const std::byte> xsave) {
  CHECK(pthread_self() == worker_);
  auto& space = static_cast<PtraceSpace&>(any_space);
  CHECK(&space.engine() == this);
  if (space.dead()) return Fail(EIO);
  memory_.commands(space.slot()).calls[0] = {SYS_clone, {kCloneThread}};
  new_tracee_ = lost_tracee_ = 0;
  const BatchResult cloned = RunBatch(space.pid(), space.slot(), 1);
  if (cloned.error != 0) return Fail(cloned.error);
  const auto tid = static_cast<pid_t>(cloned.result);
  if (!WaitForNewTracee(tid)) return Fail(EIO);
  auto context = std::make_unique<PtraceContext>(*this, space, tid, registers);
  ++contexts_;
  tracees_[tid].context = context.get();
  if (!xsave.empty()) {
    if (const Result<void> r = context->SetFirstXsave(xsave); !r) return Fail(EINVAL);
  }
  return context;
}

Result<int> PtraceEngine::Donate(int fd) {
  if (template_ == 0) return Fail(EIO);
  StubMemory::Scratch& scratch = memory_.scratch();
  const auto in_stub = [&scratch](const void* field) {
    return kStubScratch + static_cast<uint64_t>(static_cast<const std::byte*>(field) -
                                                reinterpret_cast<const std::byte*>(&scratch));
  };
  std::byte byte = {};
  const iovec part = {&byte, 1};
  if (auto sent = host::SendMsg(socket_.get(), {&part, 1}, {&fd, 1}, MSG_DONTWAIT); !sent) {
    return std::unexpected(sent.error());
  }

  scratch = {};
  scratch.part = {in_stub(&scratch.data), sizeof(scratch.data)};
  msghdr message = {};
  message.msg_iov = reinterpret_cast<iovec*>(in_stub(&scratch.part));
  message.msg_iovlen = 1;
  message.msg_control = reinterpret_cast<void*>(in_stub(&scratch.control));
  message.msg_controllen = sizeof(scratch.control);
  static_assert(sizeof(message) == sizeof(scratch.message));
  memcpy(&scratch.message, &message, sizeof(message));
  memory_.commands(0).calls[0] = {
      SYS_recvmsg, {kStubSocket, in_stub(&scratch.message), MSG_DONTWAIT | MSG_CMSG_CLOEXEC}};
  if (const BatchResult r = RunBatch(template_, 0, 1); r.error != 0) return Fail(r.error);
  cmsghdr header;
  memcpy(&header, &scratch.control, sizeof(header));
  if (header.cmsg_len != CMSG_LEN(sizeof(int)) || header.cmsg_type != SCM_RIGHTS) {
    return Fail(EMFILE);
  }
  int received = -1;
  memcpy(&received, &scratch.control[CMSG_LEN(0)], sizeof(received));
  return received;
}

Result<int> PtraceEngine::StubDescriptor(HostFileId file) {
  if (const std::optional<int> known = files_.Find(file)) return *known;
  if (options_.files == nullptr) return Fail(EBADF);
  const int ours = TRY(options_.files->DescriptorOf(file));
  const int theirs = TRY(Donate(ours));
  TRY(files_.Add(file, theirs));
  return theirs;
}

Result<void> PtraceEngine::Encode(const MapOp& op, StubCall& call) {
  TRY(CheckMapOp(op));
  int fd = -1;
  if (op.kind == MapOp::Kind::kMap) fd = TRY(StubDescriptor(op.file));
  call = CallFor(op, fd);
  return {};
}

AddressSpace::Applied PtraceEngine::ApplyHere(PtraceSpace& space, std::span<const MapOp> ops) {
  size_t done = 0;
  while (done < ops.size()) {
    if (space.dead()) return {done, EIO};
    // Up to the first that cannot even be said; the ones before it are done first.
    CommandPage& page = memory_.commands(space.slot());
    size_t count = 0;
    Result<void> encoded;
    while (count < kMaxBatch && done + count < ops.size()) {
      encoded = Encode(ops[done + count], page.calls[count]);
      if (!encoded) break;
      ++count;
    }
    if (count != 0) {
      const BatchResult batch = RunBatch(space.pid(), space.slot(), count);
      done += batch.done;
      if (batch.error != 0) return {done, batch.error};
    }
    if (!encoded) return {done, encoded.error().code()};
  }
  return {done, 0};
}

AddressSpace::Applied PtraceEngine::Apply(PtraceSpace& space, std::span<const MapOp> ops) {
  AddressSpace::Applied applied = {};
  OnWorker([&] { applied = ApplyHere(space, ops); });
  return applied;
}

void PtraceEngine::Drop(PtraceSpace& space) {
  OnWorker([&] { DropHere(space); });
}
void PtraceEngine::Drop(PtraceContext& context) {
  OnWorker([&] { DropHere(context); });
}

void PtraceEngine::DropHere(PtraceSpace& space) {
  if (const auto found = tracees_.find(space.pid()); found != tracees_.end()) {
    found->second = {.is_ending = true};
    (void)host::Kill(space.pid(), SIGKILL);
  }
  if (space.ForgetKill()) deaths_expected_.fetch_sub(1);
  stops_.Remove(space);
  memory_.slots.Free(space.slot());
  --spaces_;
}

void PtraceEngine::SendToExit(pid_t tid) {
  Registers registers = {};
  registers.rip = AddressesOfStub().exit;
  registers.rax = SYS_exit;
  // Failing means that it was killed.
  (void)SetRegisters(tid, ToHost(registers, kCodeSegment64), kWrittenPrefix);
  (void)Continue(tid);
}

void PtraceEngine::DropHere(PtraceContext& context) {
  const pid_t tid = context.tid();
  // A guest that runs is stopped first; it cannot refuse.
  while (context.running() && !context.space().dead()) {
    context.Interrupt();
    if (!ReapOne(true)) break;
  }
  stops_.Remove(context);
  NoteNotRunning(context);
  --contexts_;
  const auto found = tracees_.find(tid);
  if (found == tracees_.end()) return;
  found->second = {.is_ending = true};
  if (!context.space().dead()) SendToExit(tid);
}

}  // namespace skep::platform::ptrace
