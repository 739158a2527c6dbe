// WithBlocks: host I/O straight into and out of guest pages.
//
// The pages have a use of their own meanwhile, so they are given to nobody else. A page that is
// being written must stay the guest's page: a fork (after which a write fault would copy it) and a
// truncation wait until such transfers are over.
#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"
#include "sentry/mm/state.h"

namespace skep::mm {

namespace {

constexpr size_t kBounceSize = 64 << 10;
// What host I/O out of guest memory reads in place of pages that the host does not have.
constexpr std::array<std::byte, 64 << 10> kZeros{};

}  // namespace

void MemoryManager::State::StopTransfers() {
  bool idle;
  {
    MutexLock lock(vmas_lock);
    ++transfers_stopped;
    idle = transfers == 0;
  }
  if (idle) return;
  sched::WaitUntil(transfer_queue, sched::kAllEvents, std::nullopt, sched::Sleep::kUninterruptible,
                   [&] {
                     MutexLock lock(vmas_lock);
                     return transfers == 0;
                   });
}

void MemoryManager::State::AllowTransfers() {
  {
    MutexLock lock(vmas_lock);
    --transfers_stopped;
  }
  transfer_queue.Wake();
}

void MemoryManager::State::BeginTransfer() {
  const auto begun = [&] {
    MutexLock lock(vmas_lock);
    if (transfers_stopped != 0) return false;
    ++transfers;
    return true;
  };
  if (begun()) return;
  sched::WaitUntil(transfer_queue, sched::kAllEvents, std::nullopt, sched::Sleep::kUninterruptible,
                   begun);
}

void MemoryManager::State::EndTransfer() {
  bool last;
  {
    MutexLock lock(vmas_lock);
    last = --transfers == 0 && transfers_stopped != 0;
  }
  if (last) transfer_queue.Wake();
}

struct MemoryManager::State::Transfer {
  struct Pin {
    Ref<Extent> extent;
    Range used;  // empty: the extent alone
  };
  std::vector<iovec> blocks;
  std::vector<Pin> pins;
  size_t size = 0;
  int fault = 0;       // why it ends before what was asked for
  HostPart host_part;  // the first thing was a page of a host file: size != 0

  void Add(const Found& found, size_t bytes) {
    const Range pages{PageFloor(found.offset), PageCeil(found.offset + bytes)};
    const bool counts = found.segment->kind == Segment::Kind::kPrivate;
    if (counts) found.segment->extent->AddUse(pages);
    pins.push_back({found.segment->extent, counts ? pages : Range{}});
    blocks.push_back({found.window, bytes});
    size += bytes;
  }
  size_t AddZeros(size_t bytes) {
    bytes = std::min(bytes, kZeros.size());
    blocks.push_back({const_cast<std::byte*>(kZeros.data()), bytes});  // to read from only
    size += bytes;
    return bytes;
  }
};

// Adds what can be done of `addresses`; false: no more can.
bool MemoryManager::State::AddBlocks(Transfer& transfer, Range addresses, bool write) {
  for (uint64_t at = addresses.start; at < addresses.end;) {
    if (transfer.blocks.size() == kMaxIov) return false;
    Found::Kind kind = Found::Kind::kRefused;
    if (at < kGuestAddressEnd) {
      MutexLock lock(vmas_lock);
      const Found found = Find(at, addresses.end - at, write, false);
      kind = found.kind;
      if (kind == Found::Kind::kWindow) {
        MemoryFile::Run run{{0, found.size}, false};
        if (!write && memory.limit().set()) {
          run = found.segment->extent->file().RunAt({found.offset, found.offset + found.size});
        }
        size_t n = run.offsets.size();
        if (run.hole) {
          n = transfer.AddZeros(n);
        } else {
          transfer.Add(found, n);
        }
        at += n;
      } else if (kind == Found::Kind::kHostFile && transfer.size == 0) {
        transfer.host_part = {found.segment->file, found.offset, std::min(found.size, kBounceSize),
                              found.vma->file};
      }
    }
    if (kind == Found::Kind::kHostFile) return false;
    if (kind == Found::Kind::kRefused ||
        (kind == Found::Kind::kFault && !Resolve(at, write, false))) {
      transfer.fault = EFAULT;
      return false;
    }
  }
  return true;
}

// By way of sentry memory: the guest's page is one of a host file.
CopyResult MemoryManager::State::Bounce(
    const HostPart& part, bool write,
    const std::function<Result<size_t>(std::span<const iovec>)>& io) {
  std::vector<std::byte> buffer(part.size);
  if (!write && HostFileCopy(part, buffer.data(), nullptr) == 0) return {0, EFAULT};
  const iovec block{buffer.data(), buffer.size()};
  const Result<size_t> done = io({&block, 1});
  if (!done) return {0, done.error().code()};
  if (!write || *done == 0) return {*done, 0};
  HostPart filled = part;
  filled.size = *done;
  const size_t copied = HostFileCopy(filled, nullptr, buffer.data());
  return {copied, copied == *done ? 0 : EFAULT};
}

CopyResult MemoryManager::WithBlocks(
    std::span<const iovec> guest, size_t size, bool write,
    const std::function<Result<size_t>(std::span<const iovec>)>& io) {
  State& state = *state_;
  size = std::min(size, kTransferStep);
  if (write) {
    if (const auto room = state.MakeRoomToTouch(size); !room) return {0, room.error().code()};
    state.BeginTransfer();
  }
  State::Transfer transfer;
  size_t left = size;
  for (const iovec& range : guest) {
    const auto start = reinterpret_cast<uint64_t>(range.iov_base);
    const size_t n = std::min(left, range.iov_len);
    if (n > kGuestAddressEnd || start > kGuestAddressEnd - n) {
      transfer.fault = EFAULT;
      break;
    }
    if (!state.AddBlocks(transfer, {start, start + n}, write)) break;
    left -= n;
    if (left == 0) break;
  }
  CopyResult result;
  if (transfer.size != 0 || size == 0) {
    const Result<size_t> done = io(transfer.blocks);
    result = done ? CopyResult{*done, 0} : CopyResult{0, done.error().code()};
  } else if (transfer.host_part.size != 0) {
    result = state.Bounce(transfer.host_part, write, io);
  } else {
    result = {0, transfer.fault};
  }
  for (const State::Transfer::Pin& pin : transfer.pins) {
    if (!pin.used.empty()) pin.extent->DropUse(pin.used);
  }
  if (write) state.EndTransfer();
  return result;
}

}  // namespace skep::mm
