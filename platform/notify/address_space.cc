#include "platform/notify/address_space.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/range.h"
#include "platform/common/map_call.h"
#include "platform/notify/engine.h"
#include "platform/notify/filters.h"

namespace skep::platform::notify {

NotifySpace::NotifySpace(NotifyEngine& engine, std::unique_ptr<Stub> stub)
    : engine_(engine), stub_(std::move(stub)) {
  cpu_start_ = stub_->CpuTimeNs();
  watch_ = engine_.Watch({this, nullptr}, stub_->manager.fd());
}

NotifySpace::~NotifySpace() { engine_.Drop(*this, std::move(stub_)); }

// All notify engines of a sandbox have the same stubs.
bool NotifySpace::Serves(const Engine& engine) const {
  const auto* other = dynamic_cast<const NotifyEngine*>(&engine);
  return other != nullptr && other->Shares(stub_->stubs());
}

uint64_t NotifySpace::CpuTimeNs() const {
  const uint64_t now = stub_->CpuTimeNs();
  return now > cpu_start_ ? now - cpu_start_ : 0;
}

void NotifySpace::Kill() {
  if (stub_->MarkDead("the stub process was killed by signal 9 (by Kill)")) engine_.Announce(*this);
}

void NotifySpace::Tampered(const char* how) {
  if (stub_->MarkDead(how)) engine_.Announce(*this);
}

void NotifySpace::Ended() {
  if (stub_->MarkEnded()) engine_.Announce(*this);
}

Result<void> NotifySpace::Reset() {
  bool done = false;
  {
    MutexLock lock(stub_->mutex);
    done = stub_->UnmapAll();
  }
  if (done) return {};
  Ended();
  return Fail(EIO);
}

Result<void> NotifySpace::Encode(const MapOp& op, StubCall& call) {
  TRY(CheckMapOp(op));
  int fd = -1;
  if (op.kind == MapOp::Kind::kMap) fd = TRY(stub_->stubs().DescriptorOf(op.file, *stub_));
  call = CallFor(op, fd);
  return {};
}

AddressSpace::Applied NotifySpace::Apply(std::span<const MapOp> ops) {
  size_t done = 0;
  bool lost = false;
  int error = 0;
  {
    MutexLock lock(stub_->mutex);
    while (done < ops.size() && error == 0) {
      if (dead()) return {done, EIO};
      // Up to the first that cannot even be said; the ones before it are done first.
      NotifyCommands& page = stub_->stubs().memory().commands(stub_->slot());
      size_t count = 0;
      Result<void> encoded;
      while (count < kMaxBatch && done + count < ops.size()) {
        encoded = Encode(ops[done + count], page.calls[count]);
        if (!encoded) break;
        ++count;
      }
      if (count != 0) {
        const Applied batch = stub_->RunBatch(count);
        lost = batch.error == EIO;
        done += batch.done;
        error = batch.error;
      }
      if (error == 0 && !encoded) error = encoded.error().code();
    }
  }
  if (lost) Ended();
  return {done, error};
}

}  // namespace skep::platform::notify
