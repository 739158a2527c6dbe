// OwnedFd: a host descriptor that is closed with its owner. -1 means none.
//
// Not for kernel objects: those name host resources through sentry/arena/host_table.h.
#pragma once

#include <utility>

namespace skep {

class OwnedFd {
 public:
  constexpr OwnedFd() = default;
  explicit constexpr OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    Reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~OwnedFd() { Reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }
  void Reset(int fd = -1);  // closes what it held

 private:
  int fd_ = -1;
};

}  // namespace skep
