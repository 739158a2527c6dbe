// Guest copies: MemoryManager as a UserMemory, and words for futexes.
#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/host_call.h"
#include "sentry/mm/copy.h"
#include "sentry/mm/state.h"
#include "sentry/sched/fiber.h"

namespace skep::mm {

using sched::SleepLockHold;

namespace {

// The longest copy under the Mutex.
constexpr size_t kCopyStep = 64 << 10;
// Reads of at least so much look for pages that the host does not have.
constexpr size_t kHolesFrom = 16 << 10;

size_t CopyPart(std::byte* window, std::byte* to, const std::byte* from, size_t size) {
  if (to != nullptr) return CopyTolerant(to, window, size);
  if (from != nullptr) return CopyTolerant(window, from, size);
  return ZeroTolerant(window, size);
}

}  // namespace

// What is at `address`, at most `size` bytes, and to the end of its segment. Under vmas_lock.
MemoryManager::State::Found MemoryManager::State::Find(uint64_t address, size_t size, bool write,
                                                       bool force) {
  const auto it = vmas.FirstEndingAfter(address);
  if (it == vmas.end()) return {Found::Kind::kRefused};
  const Vma& vma = it->second;
  if (vma.start > address) {
    return {vma.grows_down ? Found::Kind::kFault : Found::Kind::kRefused};
  }
  if (force) {
    const int may = write && !vma.shared ? PROT_WRITE : write ? vma.prot & PROT_WRITE : PROT_READ;
    if (may == 0) return {Found::Kind::kRefused};
  } else if (write ? (vma.prot & PROT_WRITE) == 0 : !vma.accessible()) {
    return {Found::Kind::kRefused};
  }
  const auto found = segments.Find(address);
  if (found == segments.end()) return {Found::Kind::kFault};
  const Segment& segment = found->second;
  const bool mine = segment.kind == Segment::Kind::kPrivate;
  if (write && (mine ? segment.cow : !(vma.shared && segment.for_write))) {
    return {Found::Kind::kFault};
  }
  Found result{segment.extent ? Found::Kind::kWindow : Found::Kind::kHostFile};
  result.segment = &segment;
  result.vma = &vma;
  result.size = std::min(size, segment.end - address);
  result.offset = segment.OffsetOf(address);
  if (!segment.extent) return result;
  result.window = segment.extent->file().Window(result.offset);
  CopyCache::Entry& entry = cache.entries[cache.next++ % cache.entries.size()];
  entry.addresses = segment.range();
  entry.window = segment.extent->file().Window(segment.offset);
  entry.readable = vma.accessible();
  entry.writable =
      (vma.prot & PROT_WRITE) != 0 && (mine ? !segment.cow : segment.for_write && vma.shared);
  return result;
}

// Does what a fault of the guest's would: false if the guest would get a signal.
bool MemoryManager::State::Resolve(uint64_t address, bool write, bool force) {
  SleepLockHold hold(mmap_lock);
  if (!force) {
    return Fault(address, {.write = write ? Did::kYes : Did::kNo, .fetch = Did::kNo}).outcome ==
           FaultOutcome::kRetry;
  }
  auto it = vmas.Find(address);
  if (it == vmas.end()) it = ExpandStack(address);
  if (it == vmas.end()) return false;
  const bool present = segments.Find(address) != segments.end();
  const FaultResult result = present ? WriteFault(it, address) : FillFault(it, address);
  return result.outcome == FaultOutcome::kRetry;
}

// Copies between a host file's pages and the sentry: what a load or store there would do.
size_t MemoryManager::State::HostFileCopy(const HostPart& part, std::byte* to,
                                          const std::byte* from) {
  arena::HostTable& files = arena::HostTable::Get();
  if (to != nullptr) {
    const std::byte* const window = files.Window(part.file, part.offset, part.size);
    if (window != nullptr) return CopyTolerant(to, window, part.size);
  }
  const Result<int> fd = files.DescriptorOf(part.file);
  if (!fd) return 0;
  const Result<struct stat> status = host::Stat(*fd);
  if (!status) return 0;
  // Pages wholly beyond the end are not there; the rest of the last page is zeros that nobody
  // keeps.
  const auto end = static_cast<uint64_t>(status->st_size);
  const uint64_t pages_end = PageCeil(end);
  if (part.offset >= pages_end) return 0;
  const size_t size = std::min(part.size, pages_end - part.offset);
  const size_t in_file = part.offset >= end ? 0 : std::min(size, end - part.offset);
  size_t done = 0;
  const std::array<std::byte, 512> zeros{};
  while (done < in_file) {
    const size_t left = in_file - done;
    const Result<size_t> n =
        to != nullptr     ? host::PRead(*fd, {to + done, left}, part.offset + done)
        : from != nullptr ? host::PWrite(*fd, {from + done, left}, part.offset + done)
                          : host::PWrite(*fd, std::span(zeros).first(std::min(left, zeros.size())),
                                         part.offset + done);
    if (!n || *n == 0) return done;
    done += *n;
  }
  if (to != nullptr) std::memset(to + in_file, 0, size - in_file);
  return size;
}

// Every touch of guest pages through a window, reads too, may find fresh ones, which the host hands
// out without asking: so every step of every copy and transfer comes by here.
Result<void> MemoryManager::State::MakeRoomToTouch(size_t bytes) {
  if (!memory.limit().set()) return {};
  {
    MutexLock lock(vmas_lock);
    touched += bytes;
    if (touched < MemoryLimit::kCopyStep) return {};
    touched = 0;
  }
  return memory.limit().MakeRoom(MemoryLimit::kCopyStep);
}

// Copies what was found. Under a limit, reading makes no pages.
size_t MemoryManager::State::CopyFound(const Found& found, std::byte* to, const std::byte* from) {
  if (to == nullptr || found.size < kHolesFrom || !memory.limit().set()) {
    return CopyPart(found.window, to, from, found.size);
  }
  return found.segment->extent->file().CopyPresent({found.offset, found.offset + found.size}, to);
}

// `to`: read; `from`: write; neither: write zeros.
CopyResult MemoryManager::State::CopyLoop(uint64_t address, std::byte* to, const std::byte* from,
                                          size_t size, bool force) {
  const bool write = to == nullptr;
  size_t done = 0;
  while (done < size) {
    const uint64_t at = address + done;
    if (at < address || at >= kGuestAddressEnd) return {done, EFAULT};
    const size_t step = std::min(size - done, kCopyStep);
    if (write || step < kHolesFrom) {
      if (const auto room = MakeRoomToTouch(step); !room) return {done, room.error().code()};
    }
    std::byte* const part_to = to == nullptr ? nullptr : to + done;
    const std::byte* const part_from = from == nullptr ? nullptr : from + done;
    Found::Kind kind;
    HostPart part;
    {
      MutexLock lock(vmas_lock);
      const Found found = Find(at, step, write, force);
      kind = found.kind;
      if (kind == Found::Kind::kWindow) {
        const size_t n = CopyFound(found, part_to, part_from);
        done += n;
        if (n != found.size) return {done, EFAULT};
      } else if (kind == Found::Kind::kHostFile) {
        part = {found.segment->file, found.offset, found.size, found.vma->file};
      }
    }
    if (kind == Found::Kind::kRefused) return {done, EFAULT};
    if (kind == Found::Kind::kFault && !Resolve(at, write, force)) return {done, EFAULT};
    if (kind == Found::Kind::kHostFile) {
      const size_t n = HostFileCopy(part, part_to, part_from);
      done += n;
      if (n != part.size) return {done, EFAULT};
    }
    if (done < size && step == kCopyStep && !sched::YieldIfLong()) return {done, kKilled};
  }
  return {done, 0};
}

// The usual copy: a few bytes of a segment that was used lately.
bool MemoryManager::State::QuickCopy(uint64_t address, std::byte* to, const std::byte* from,
                                     size_t size) {
  if (size > kCopyStep) return false;
  if (size >= kHolesFrom && to != nullptr && memory.limit().set()) return false;
  MutexLock lock(vmas_lock);
  for (const CopyCache::Entry& entry : cache.entries) {
    if (address < entry.addresses.start || address >= entry.addresses.end) continue;
    if (size > entry.addresses.end - address) return false;
    if (to != nullptr ? !entry.readable : !entry.writable) return false;
    if ((touched += size) >= MemoryLimit::kCopyStep && memory.limit().set()) return false;
    return CopyPart(entry.window + (address - entry.addresses.start), to, from, size) == size;
  }
  return false;
}

CopyResult MemoryManager::CopyIn(UserAddr from, std::span<std::byte> to) {
  if (to.empty() || state_->QuickCopy(Raw(from), to.data(), nullptr, to.size())) {
    return {to.size(), 0};
  }
  return state_->CopyLoop(Raw(from), to.data(), nullptr, to.size(), false);
}

CopyResult MemoryManager::CopyOut(UserAddr to, std::span<const std::byte> from) {
  if (from.empty() || state_->QuickCopy(Raw(to), nullptr, from.data(), from.size())) {
    return {from.size(), 0};
  }
  return state_->CopyLoop(Raw(to), nullptr, from.data(), from.size(), false);
}

CopyResult MemoryManager::ZeroOut(UserAddr to, size_t size) {
  return state_->CopyLoop(Raw(to), nullptr, nullptr, size, false);
}

CopyResult MemoryManager::ForceCopyIn(UserAddr from, std::span<std::byte> to) {
  return state_->CopyLoop(Raw(from), to.data(), nullptr, to.size(), true);
}

CopyResult MemoryManager::ForceCopyOut(UserAddr to, std::span<const std::byte> from) {
  if (from.empty()) return {};
  return state_->CopyLoop(Raw(to), nullptr, from.data(), from.size(), true);
}

// -- words --

namespace {

constexpr size_t kWord = sizeof(uint32_t);

bool IsWordAligned(uint64_t address) { return address % kWord == 0; }

// One page of a host file, mapped in the sentry for as long as an atomic operation takes.
class HostFilePage {
 public:
  HostFilePage(platform::HostFileId file, uint64_t offset, bool write) : offset_(offset) {
    const Result<int> fd = arena::HostTable::Get().DescriptorOf(file);
    if (!fd) return;
    const int prot = write ? PROT_READ | PROT_WRITE : PROT_READ;
    const Result<void*> page =
        host::Mmap(nullptr, kPageSize, prot, MAP_SHARED, *fd, PageFloor(offset));
    if (page) page_ = static_cast<std::byte*>(*page);
  }
  ~HostFilePage() {
    if (page_ != nullptr) (void)host::Munmap(page_, kPageSize);
  }
  HostFilePage(const HostFilePage&) = delete;
  HostFilePage& operator=(const HostFilePage&) = delete;
  std::byte* word() const {
    return page_ == nullptr ? nullptr : page_ + (offset_ & (kPageSize - 1));
  }

 private:
  std::byte* page_ = nullptr;
  uint64_t offset_;
};

}  // namespace

// Calls operate(pointer to the word), which returns false if the host refused the page.
template <class Operate>
Result<void> MemoryManager::State::OnWord(uint64_t address, bool write, Operate operate) {
  if (!IsWordAligned(address)) return Fail(EINVAL);
  if (address >= kGuestAddressEnd) return Fail(EFAULT);
  for (;;) {
    Found::Kind kind;
    HostPart part;
    {
      MutexLock lock(vmas_lock);
      const Found found = Find(address, kWord, write, false);
      kind = found.kind;
      if (kind == Found::Kind::kWindow) {
        if (!operate(found.window)) return Fail(EFAULT);
        return {};
      }
      if (kind == Found::Kind::kHostFile) {
        part = {found.segment->file, found.offset, found.size, found.vma->file};
      }
    }
    if (kind == Found::Kind::kRefused) return Fail(EFAULT);
    if (kind == Found::Kind::kFault && !Resolve(address, write, false)) return Fail(EFAULT);
    if (kind == Found::Kind::kHostFile) {
      const HostFilePage page(part.file, part.offset, write);
      if (page.word() == nullptr || !operate(page.word())) return Fail(EFAULT);
      return {};
    }
  }
}

Result<uint32_t> MemoryManager::LoadWord(UserAddr address) {
  uint32_t value = 0;
  TRY(state_->OnWord(Raw(address), false, [&](std::byte* word) {
    const std::optional<uint32_t> seen = LoadWordTolerant(word);
    if (seen) value = *seen;
    return seen.has_value();
  }));
  return value;
}

Result<uint32_t> MemoryManager::FetchModifyWord(UserAddr address,
                                                const std::function<uint32_t(uint32_t)>& change) {
  uint32_t old = 0;
  TRY(state_->OnWord(Raw(address), true, [&](std::byte* word) {
    std::optional<uint32_t> seen = LoadWordTolerant(word);
    while (seen) {
      old = *seen;
      seen = ExchangeWordTolerant(word, old, change(old));
      if (seen && *seen == old) return true;
    }
    return false;
  }));
  return old;
}

Result<bool> MemoryManager::CompareExchangeWord(UserAddr address, uint32_t& expected,
                                                uint32_t desired) {
  uint32_t seen_word = expected;
  TRY(state_->OnWord(Raw(address), true, [&](std::byte* word) {
    const std::optional<uint32_t> seen = ExchangeWordTolerant(word, expected, desired);
    if (seen) seen_word = *seen;
    return seen.has_value();
  }));
  const bool done = seen_word == expected;
  expected = seen_word;
  return done;
}

Result<MemoryManager::FutexKey> MemoryManager::KeyOf(UserAddr address, bool process_private) {
  const uint64_t at = Raw(address);
  if (!IsWordAligned(at)) return Fail(EINVAL);
  if (at >= kGuestAddressEnd) return Fail(EFAULT);
  if (!process_private) {
    MutexLock lock(state_->vmas_lock);
    const auto it = state_->vmas.Find(at);
    if (it == state_->vmas.end() || !it->second.accessible()) return Fail(EFAULT);
    const Vma& vma = it->second;
    if (vma.shared) {
      return FutexKey{reinterpret_cast<uint64_t>(vma.file->Identity()), vma.OffsetOf(at), true};
    }
  }
  return FutexKey{reinterpret_cast<uint64_t>(this), at, false};
}

}  // namespace skep::mm
