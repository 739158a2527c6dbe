#include "sentry/mm/user_memory.h"

#include <algorithm>
#include <cstring>

#include "base/range.h"
#include "sentry/mm/copy.h"
#include "sentry/sched/fiber.h"

namespace skep::mm {
namespace {

// Linux: TASK_SIZE_MAX, which access_ok() checks against.
constexpr uint64_t kUserEnd = 0x7fff'ffff'f000;
constexpr size_t kLong = 64 << 10;  // more than a step

bool AccessOk(uint64_t start, uint64_t size) {
  return size <= kUserEnd && start <= kUserEnd - size;
}

uint64_t AddressOf(const iovec& range) { return reinterpret_cast<uint64_t>(range.iov_base); }

void Advance(iovec& range, size_t n) {
  range.iov_base = reinterpret_cast<void*>(AddressOf(range) + n);
  range.iov_len -= n;
}

}  // namespace

Result<std::string> UserMemory::CopyInString(UserPtr<const char> from, size_t max) {
  std::string text;
  char buffer[256];
  uint64_t at = Raw(from.addr());
  for (size_t left = max; left > 0;) {
    // Never past the end of the page the string may end in.
    const size_t n = std::min({sizeof(buffer), left, size_t{kPageSize - (at & (kPageSize - 1))}});
    const CopyResult r = CopyIn(UserAddr{at}, std::as_writable_bytes(std::span(buffer, n)));
    const void* nul = std::memchr(buffer, 0, r.bytes);
    if (nul != nullptr) {
      text.append(buffer, static_cast<size_t>(static_cast<const char*>(nul) - buffer));
      return text;
    }
    if (r.fault != 0) return Fail(r.fault);
    text.append(buffer, n);
    at += n;
    left -= n;
  }
  return Fail(ENAMETOOLONG);
}

IoSequence::IoSequence(UserMemory* memory, void* base, size_t size)
    : memory_(memory), single_{base, size}, size_(size) {}

// Linux: import_iovec.
Result<IoSequence> IoSequence::FromIovec(UserMemory& memory, UserPtr<const iovec> list,
                                         uint64_t count) {
  if (count > kMaxIov) return Fail(EINVAL);
  IoSequence sequence(&memory, nullptr, 0);
  if (count == 0) return sequence;
  std::vector<iovec>& ranges = sequence.ranges_;
  ranges.resize(count);
  const CopyResult r = memory.CopyIn(list.addr(), std::as_writable_bytes(std::span(ranges)));
  if (r.fault != 0) return Fail(r.fault);
  for (const iovec& range : ranges) {
    if (static_cast<ssize_t>(range.iov_len) < 0) return Fail(EINVAL);
  }
  for (iovec& range : ranges) {
    if (!AccessOk(AddressOf(range), range.iov_len)) return Fail(EFAULT);
    range.iov_len = std::min(range.iov_len, kMaxRwCount - sequence.size_);
    sequence.size_ += range.iov_len;
  }
  return sequence;
}

Result<IoSequence> IoSequence::FromBuffer(UserMemory& memory, UserAddr start, uint64_t size) {
  if (static_cast<int64_t>(size) < 0) return Fail(EINVAL);
  if (!AccessOk(Raw(start), size)) return Fail(EFAULT);
  return IoSequence(&memory, reinterpret_cast<void*>(Raw(start)), std::min(size, kMaxRwCount));
}

IoSequence IoSequence::FromKernel(std::span<std::byte> buffer) {
  return IoSequence(nullptr, buffer.data(), buffer.size());
}

IoSequence IoSequence::FromKernel(std::span<const std::byte> buffer) {
  return IoSequence(nullptr, const_cast<std::byte*>(buffer.data()), buffer.size());
}

std::span<const iovec> IoSequence::ranges() const {
  if (ranges_.empty()) return {&single_, size_t{size_ > 0}};
  return std::span(ranges_).subspan(first_);
}

IoSequence IoSequence::TakeFirst(size_t n) const {
  IoSequence view(memory_, nullptr, 0);
  view.size_ = std::min(n, size_);
  if (ranges_.empty()) {
    view.single_ = {single_.iov_base, view.size_};
    return view;
  }
  size_t left = view.size_;
  for (const iovec& range : ranges()) {
    if (left == 0) break;
    view.ranges_.push_back({range.iov_base, std::min(range.iov_len, left)});
    left -= view.ranges_.back().iov_len;
  }
  return view;
}

void IoSequence::DropFirst(size_t n) {
  n = std::min(n, size_);
  size_ -= n;
  if (ranges_.empty()) return Advance(single_, n);
  while (n > 0) {
    const size_t part = std::min(n, ranges_[first_].iov_len);
    Advance(ranges_[first_], part);
    n -= part;
    if (ranges_[first_].iov_len == 0) ++first_;
  }
}

template <class Step>
CopyResult IoSequence::ForEach(size_t n, Step step) {
  CopyResult total;
  n = std::min(n, size_);
  while (total.bytes < n) {
    while (!ranges_.empty() && ranges_[first_].iov_len == 0) ++first_;
    const iovec& range = ranges_.empty() ? single_ : ranges_[first_];
    const size_t part = std::min(n - total.bytes, range.iov_len);
    const CopyResult r = step(AddressOf(range), total.bytes, part);
    DropFirst(r.bytes);
    total.bytes += r.bytes;
    total.fault = r.fault;
    if (total.fault == 0 && total.bytes >= kLong && !sched::YieldIfLong()) total.fault = kKilled;
    if (total.fault != 0) break;
  }
  return total;
}

namespace {

CopyResult KernelResult(size_t done, size_t wanted) { return {done, done == wanted ? 0 : EFAULT}; }

}  // namespace

CopyResult IoSequence::CopyOut(std::span<const std::byte> from) {
  return ForEach(from.size(), [&](uint64_t address, size_t done, size_t n) {
    const std::span<const std::byte> part = from.subspan(done, n);
    if (memory_ != nullptr) return memory_->CopyOut(UserAddr{address}, part);
    return KernelResult(CopyTolerant(reinterpret_cast<void*>(address), part.data(), n), n);
  });
}

CopyResult IoSequence::CopyIn(std::span<std::byte> to) {
  return ForEach(to.size(), [&](uint64_t address, size_t done, size_t n) {
    const std::span<std::byte> part = to.subspan(done, n);
    if (memory_ != nullptr) return memory_->CopyIn(UserAddr{address}, part);
    return KernelResult(CopyTolerant(part.data(), reinterpret_cast<const void*>(address), n), n);
  });
}

CopyResult IoSequence::ZeroOut(size_t size) {
  return ForEach(size, [&](uint64_t address, size_t, size_t n) {
    if (memory_ != nullptr) return memory_->ZeroOut(UserAddr{address}, n);
    return KernelResult(ZeroTolerant(reinterpret_cast<void*>(address), n), n);
  });
}

CopyResult IoSequence::WithBlocks(size_t max, bool write,
                                  const std::function<Result<size_t>(std::span<const iovec>)>& io) {
  const size_t n = std::min(max, size_);
  CopyResult r;
  if (memory_ != nullptr) {
    r = memory_->WithBlocks(ranges(), n, write, io);
  } else {
    const IoSequence part = TakeFirst(n);
    const Result<size_t> done = io(part.ranges());
    r = done ? CopyResult{*done, 0} : CopyResult{0, done.error().code()};
  }
  DropFirst(r.bytes);
  return r;
}

}  // namespace skep::mm
