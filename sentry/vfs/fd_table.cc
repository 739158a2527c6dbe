#include "sentry/vfs/fd_table.h"

#include <algorithm>

#include "base/check.h"

namespace skep::vfs {

FdReservation::FdReservation(FdReservation&& other) noexcept
    : table_(std::exchange(other.table_, nullptr)), fd_(other.fd_) {}

FdReservation::~FdReservation() {
  if (table_ == nullptr) return;
  MutexLock lock(table_->mutex_);
  table_->slots_[static_cast<size_t>(fd_)].reserved = false;
  table_->NoteFree(fd_);
}

int FdReservation::Commit(Ref<File> file, CloseOnExec cloexec) && {
  CHECK(table_ != nullptr && file);
  FdTable* table = std::exchange(table_, nullptr);
  MutexLock lock(table->mutex_);
  FdTable::Slot& slot = table->slots_[static_cast<size_t>(fd_)];
  CHECK(slot.reserved && !slot.file);
  slot.file = std::move(file);
  slot.cloexec = cloexec == CloseOnExec::kYes;
  slot.reserved = false;
  return fd_;
}

FdTable::FdTable() : lock_waits_(std::make_shared<LockWaits>()) {}
FdTable::~FdTable() = default;

Ref<FdTable> FdTable::Clone() const {
  auto copy = MakeRef<FdTable>();
  copy->lock_waits_ = lock_waits_;
  MutexLock lock(mutex_);
  copy->mutex_.LockNested();
  copy->slots_ = slots_;
  copy->lowest_free_ = 0;
  // A number that another thread has reserved is not open yet.
  for (Slot& slot : copy->slots_) slot.reserved = false;
  copy->mutex_.UnlockNested();
  return copy;
}

void FdTable::NoteFree(int fd) { lowest_free_ = std::min(lowest_free_, fd); }

void FdTable::EnsureSize(int size) {
  const auto wanted = static_cast<size_t>(size);
  if (wanted <= slots_.size()) return;
  if (wanted > slots_.capacity()) slots_.reserve(std::max<size_t>(wanted, slots_.capacity() * 2));
  slots_.resize(wanted);
}

Result<FdReservation> FdTable::Reserve(uint64_t limit, int least) {
  const int end = static_cast<int>(std::min<uint64_t>(limit, kMaxFds));
  MutexLock lock(mutex_);
  const int first = std::max(least, lowest_free_);
  int fd = first;
  const int size = static_cast<int>(slots_.size());
  while (fd < size &&
         (slots_[static_cast<size_t>(fd)].file || slots_[static_cast<size_t>(fd)].reserved)) {
    fd++;
  }
  if (fd >= end) return Fail(EMFILE);
  EnsureSize(fd + 1);
  slots_[static_cast<size_t>(fd)].reserved = true;
  if (least <= lowest_free_) lowest_free_ = fd + 1;
  return FdReservation(*this, fd);
}

Result<FdTable::Slot*> FdTable::SlotAt(int fd) {
  const auto index = static_cast<size_t>(fd);
  if (fd < 0 || index >= slots_.size() || !slots_[index].file) return Fail(EBADF);
  return &slots_[index];
}

Result<Ref<File>> FdTable::GetIncludingPath(int fd) const {
  MutexLock lock(mutex_);
  const auto index = static_cast<size_t>(fd);
  if (fd < 0 || index >= slots_.size() || !slots_[index].file) return Fail(EBADF);
  return slots_[index].file;
}

Result<Ref<File>> FdTable::Get(int fd) const {
  Result<Ref<File>> file = GetIncludingPath(fd);
  if (file && (*file)->is_path()) return Fail(EBADF);
  return file;
}

Result<Ref<File>> FdTable::Remove(int fd) {
  MutexLock lock(mutex_);
  Slot* slot = TRY(SlotAt(fd));
  NoteFree(fd);
  slot->cloexec = false;
  return std::move(slot->file);
}

Result<Ref<File>> FdTable::Replace(int to, Ref<File> file, CloseOnExec cloexec, uint64_t limit) {
  if (to < 0 || static_cast<uint64_t>(to) >= limit || to >= kMaxFds) return Fail(EBADF);
  MutexLock lock(mutex_);
  EnsureSize(to + 1);
  Slot& slot = slots_[static_cast<size_t>(to)];
  if (slot.reserved) return Fail(EBUSY);
  std::swap(slot.file, file);
  slot.cloexec = cloexec == CloseOnExec::kYes;
  return file;
}

Result<bool> FdTable::GetCloexec(int fd) const {
  MutexLock lock(mutex_);
  const auto index = static_cast<size_t>(fd);
  if (fd < 0 || index >= slots_.size() || !slots_[index].file) return Fail(EBADF);
  return slots_[index].cloexec;
}

Result<void> FdTable::SetCloexec(int fd, CloseOnExec cloexec) {
  MutexLock lock(mutex_);
  Slot* slot = TRY(SlotAt(fd));
  slot->cloexec = cloexec == CloseOnExec::kYes;
  return {};
}

std::vector<Ref<File>> FdTable::RemoveIf(const std::function<bool(int fd, bool cloexec)>& which) {
  std::vector<Ref<File>> removed;
  MutexLock lock(mutex_);
  for (size_t i = 0; i < slots_.size(); i++) {
    Slot& slot = slots_[i];
    const int fd = static_cast<int>(i);
    if (!slot.file || !which(fd, slot.cloexec)) continue;
    removed.push_back(std::move(slot.file));
    slot.cloexec = false;
    NoteFree(fd);
  }
  return removed;
}

void FdTable::SetCloexecRange(uint32_t first, uint32_t last) {
  MutexLock lock(mutex_);
  for (size_t i = first; i < slots_.size() && i <= last; i++) {
    if (slots_[i].file) slots_[i].cloexec = true;
  }
}

std::vector<int> FdTable::Numbers() const {
  std::vector<int> numbers;
  MutexLock lock(mutex_);
  for (size_t i = 0; i < slots_.size(); i++) {
    if (slots_[i].file) numbers.push_back(static_cast<int>(i));
  }
  return numbers;
}

Result<void> FinishClose(Caller& caller, FdTable& table, File& file) {
  if (file.is_path()) return {};
  Result<void> flushed = file.Flush(caller);
  Inode* inode = file.inode();
  if (inode != nullptr) {
    if (FileLocks* locks = inode->locks_or_null()) locks->ReleaseRecords(&table);
  }
  return flushed;
}

}  // namespace skep::vfs
