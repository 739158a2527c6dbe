#include "platform/common/file_table.h"

#include <sys/mman.h>

#include "base/host_call.h"

namespace skep::platform {
namespace {

HostResult<void*> Reserve(size_t size) {
  auto at = host::Mmap(nullptr, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!at) return HostFail("cannot reserve the table of mapped files", at.error().code());
  return *at;
}

}  // namespace

HostResult<void> FileTable::Create() {
  // SAFETY: zeroed memory of suitable alignment is an array of atomic zeroes.
  stub_fd_ = static_cast<std::atomic<int32_t>*>(TRY(Reserve(kMaxFiles * sizeof(*stub_fd_))));
  next_forgotten_ = static_cast<int32_t*>(TRY(Reserve(kMaxStubFds * sizeof(*next_forgotten_))));
  return {};
}

FileTable::~FileTable() {
  if (stub_fd_ != nullptr) (void)host::Munmap(stub_fd_, kMaxFiles * sizeof(*stub_fd_));
  if (next_forgotten_ != nullptr) {
    (void)host::Munmap(next_forgotten_, kMaxStubFds * sizeof(*next_forgotten_));
  }
}

std::optional<int> FileTable::Find(HostFileId file) const {
  const auto index = static_cast<uint32_t>(file);
  if (index >= kMaxFiles) return std::nullopt;
  const int32_t entry = stub_fd_[index].load(std::memory_order_acquire);
  if (entry == 0) return std::nullopt;
  return entry - 1;
}

Result<void> FileTable::Add(HostFileId file, int stub_fd) {
  const auto index = static_cast<uint32_t>(file);
  if (index >= kMaxFiles || static_cast<uint32_t>(stub_fd) >= kMaxStubFds) return Fail(ENFILE);
  stub_fd_[index].store(stub_fd + 1, std::memory_order_release);
  return {};
}

bool FileTable::Forget(HostFileId file) {
  const auto index = static_cast<uint32_t>(file);
  if (index >= kMaxFiles) return false;
  const int32_t fd = stub_fd_[index].exchange(0) - 1;
  if (fd < 0) return false;
  int32_t head = forgotten_.load();
  do {
    next_forgotten_[fd] = head;
  } while (!forgotten_.compare_exchange_weak(head, fd));
  return true;
}

std::optional<int> FileTable::TakeForgotten() {
  if (taken_ < 0) taken_ = forgotten_.exchange(-1);
  if (taken_ < 0) return std::nullopt;
  const int fd = taken_;
  taken_ = next_forgotten_[fd];
  return fd;
}

}  // namespace skep::platform
