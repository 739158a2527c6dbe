// Guest memory as a type: the sentry copies through it and never holds a pointer into it.
#pragma once

#include <sys/uio.h>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/limits.h"
#include "base/result.h"

namespace skep::mm {

// An address in the guest. It converts to nothing: the sentry can only copy through it.
enum class UserAddr : uint64_t {};

constexpr uint64_t Raw(UserAddr address) { return static_cast<uint64_t>(address); }
constexpr UserAddr operator+(UserAddr address, uint64_t n) { return UserAddr{Raw(address) + n}; }

// The guest says a T (or an array of T) is at this address. It may be lying.
template <class T>
class UserPtr {
 public:
  constexpr UserPtr() = default;
  constexpr explicit UserPtr(UserAddr address) : address_(address) {}
  constexpr explicit UserPtr(uint64_t address) : address_(UserAddr{address}) {}
  constexpr UserAddr addr() const { return address_; }
  constexpr bool is_null() const { return address_ == UserAddr{0}; }
  // The i-th element of an array.
  constexpr UserPtr At(uint64_t i) const { return UserPtr(address_ + i * sizeof(T)); }

 private:
  UserAddr address_{0};
};
template <>
class UserPtr<void> {
 public:
  constexpr UserPtr() = default;
  constexpr explicit UserPtr(UserAddr address) : address_(address) {}
  constexpr explicit UserPtr(uint64_t address) : address_(UserAddr{address}) {}
  constexpr UserAddr addr() const { return address_; }
  constexpr bool is_null() const { return address_ == UserAddr{0}; }
  template <class T>
  constexpr UserPtr<T> As() const {
    return UserPtr<T>(address_);
  }

 private:
  UserAddr address_{0};
};

// True of types whose bytes may cross the boundary: no constructor to bypass, no padding to leak.
// Types with unions or floating point specialise it to true next to the code that zeroes them.
template <class T>
inline constexpr bool kAbiSafe =
    std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T>;

// How much was copied, and why it stopped short if it did.
struct CopyResult {
  size_t bytes = 0;
  int fault = 0;  // EFAULT, or 0; kKilled if the task was killed meanwhile

  // The Linux rule for bulk transfers: report progress if there was any, else the error.
  Result<size_t> OrFault() const {
    if (bytes == 0 && fault != 0) return Fail(fault);
    return bytes;
  }
};

// The contents of one guest address space. Copies may handle guest faults, and so suspend the
// fiber: no Mutex may be held.
class UserMemory {
 public:
  virtual CopyResult CopyIn(UserAddr from, std::span<std::byte> to) = 0;
  virtual CopyResult CopyOut(UserAddr to, std::span<const std::byte> from) = 0;
  virtual CopyResult ZeroOut(UserAddr to, size_t size) = 0;

  // A NUL-terminated string of at most max bytes with its NUL. ENAMETOOLONG if there is no NUL
  // within max; EFAULT.
  Result<std::string> CopyInString(UserPtr<const char> from, size_t max);

  // Copies one object whole, or fails with EFAULT.
  template <class T>
    requires kAbiSafe<std::remove_const_t<T>>
  Result<std::remove_const_t<T>> CopyIn(UserPtr<T> from) {
    std::remove_const_t<T> value;
    CopyResult r = CopyIn(from.addr(), std::as_writable_bytes(std::span(&value, 1)));
    if (r.fault != 0) return Fail(r.fault);
    return value;
  }
  template <class T>
    requires kAbiSafe<T>
  Result<void> CopyOut(UserPtr<T> to, const std::type_identity_t<T>& value) {
    CopyResult r = CopyOut(to.addr(), std::as_bytes(std::span(&value, 1)));
    if (r.fault != 0) return Fail(r.fault);
    return {};
  }
  // Arrays, whole or EFAULT.
  template <class T>
    requires kAbiSafe<T>
  Result<void> CopyInArray(UserPtr<const T> from, std::span<T> to) {
    CopyResult r = CopyIn(from.addr(), std::as_writable_bytes(to));
    if (r.fault != 0) return Fail(r.fault);
    return {};
  }
  template <class T>
    requires kAbiSafe<T>
  Result<void> CopyOutArray(UserPtr<T> to, std::span<const T> from) {
    CopyResult r = CopyOut(to.addr(), std::as_bytes(from));
    if (r.fault != 0) return Fail(r.fault);
    return {};
  }

  // Calls io() once with sentry-visible blocks (at most kMaxIov) that stand for guest ranges, for
  // host preadv/pwritev without a bounce buffer; at most `size` bytes, never more than a MiB: a
  // caller that has more goes on after sched::YieldIfLong. The pages cannot be given to anybody
  // else meanwhile. `write`: the host will write into them.
  virtual CopyResult WithBlocks(
      std::span<const iovec> guest, size_t size, bool write,
      const std::function<Result<size_t>(std::span<const iovec>)>& io) = 0;

 protected:
  ~UserMemory() = default;
};

// A list of byte ranges with a current position: what readv's iovec becomes; the source or target
// of every read and write. Ranges are of one guest address space or, for in-kernel transfers
// (sendfile, exec, core files), of sentry memory.
class IoSequence {
 public:
  // Linux: import_iovec. EINVAL for a length over SSIZE_MAX or count > UIO_MAXIOV; EFAULT for an
  // unreadable list or addresses beyond the guest's; the total is cut to kMaxRwCount.
  static Result<IoSequence> FromIovec(UserMemory& memory, UserPtr<const iovec> list,
                                      uint64_t count);
  static Result<IoSequence> FromBuffer(UserMemory& memory, UserAddr start, uint64_t size);
  static IoSequence FromKernel(std::span<std::byte> buffer);        // must outlive it
  static IoSequence FromKernel(std::span<const std::byte> buffer);  // to read from only

  size_t size() const { return size_; }  // bytes left
  bool empty() const { return size_ == 0; }
  IoSequence TakeFirst(size_t n) const;  // a shorter view
  void DropFirst(size_t n);              // after a partial transfer

  CopyResult CopyOut(std::span<const std::byte> from);  // into the ranges, and advance
  CopyResult CopyIn(std::span<std::byte> to);           // from the ranges, and advance
  CopyResult ZeroOut(size_t n);                         // zeros into the ranges, and advance
  // Host I/O into (write=true) or from the ranges, and advance by what io() returns. One call of
  // io() with at most `max` bytes.
  CopyResult WithBlocks(size_t max, bool write,
                        const std::function<Result<size_t>(std::span<const iovec>)>& io);

 private:
  IoSequence(UserMemory* memory, void* base, size_t size);
  // What is left, the current range first.
  std::span<const iovec> ranges() const;
  // Calls step(address of the current range, done so far, bytes) until n bytes are done, and
  // advances.
  template <class Step>
  CopyResult ForEach(size_t n, Step step);

  UserMemory* memory_ = nullptr;  // null: sentry memory
  // iov_base is a guest address if memory_, else a pointer. Their sizes add up to size_.
  iovec single_{};             // the usual case: one range, and no allocation
  std::vector<iovec> ranges_;  // empty: single_
  size_t first_ = 0;           // ranges_[first_] is current
  size_t size_ = 0;
};

}  // namespace skep::mm
