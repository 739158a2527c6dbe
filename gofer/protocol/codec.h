// Reader and Writer: the bytes of a gofer message. Each side treats the other's bytes as hostile:
// every read is bounds-checked and copies out; nothing points into a struct on the wire.
//
// All numbers are little-endian, as both processes run on one x86-64 machine.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

#include "base/result.h"

namespace skep::gofer {

static_assert(std::endian::native == std::endian::little);

// A fixed struct without padding, so that no byte of ours leaks and none of theirs is unjudged.
template <class T>
concept Wire = std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T>;

// Takes a message apart, front to back. A message that is too short is EPROTO.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <Wire T>
  Result<T> Get() {
    if (rest_.size() < sizeof(T)) return Fail(EPROTO);
    T value;
    memcpy(&value, rest_.data(), sizeof value);
    rest_ = rest_.subspan(sizeof value);
    return value;
  }
  Result<std::span<const std::byte>> GetBytes(size_t size) {
    if (rest_.size() < size) return Fail(EPROTO);
    const std::span<const std::byte> bytes = rest_.first(size);
    rest_ = rest_.subspan(size);
    return bytes;
  }
  // What PutString wrote. The view is into the message.
  Result<std::string_view> GetString() {
    const uint16_t size = TRY(Get<uint16_t>());
    const std::span<const std::byte> bytes = TRY(GetBytes(size));
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  // A message must have been read to its last byte.
  Result<void> End() const {
    if (!rest_.empty()) return Fail(EPROTO);
    return {};
  }
  size_t left() const { return rest_.size(); }

 private:
  std::span<const std::byte> rest_;
};

// Puts a message together in a buffer it does not own. Once something did not fit, ok() is false
// and nothing more is written.
class Writer {
 public:
  explicit Writer(std::span<std::byte> buffer) : buffer_(buffer) {}

  template <Wire T>
  void Put(const T& value) {
    PutBytes(std::as_bytes(std::span(&value, 1)));
  }
  void PutBytes(std::span<const std::byte> bytes) {
    if (!ok_ || bytes.size() > buffer_.size() - size_) {
      ok_ = false;
      return;
    }
    if (!bytes.empty()) memcpy(buffer_.data() + size_, bytes.data(), bytes.size());
    size_ += bytes.size();
  }
  void PutString(std::string_view text) {
    if (text.size() > UINT16_MAX) {
      ok_ = false;
      return;
    }
    Put(static_cast<uint16_t>(text.size()));
    PutBytes(std::as_bytes(std::span(text)));
  }
  // Overwrites what was put at `at`, which must lie inside what was written.
  template <Wire T>
  void Patch(size_t at, const T& value) {
    if (at > size_ || sizeof value > size_ - at) {
      ok_ = false;
      return;
    }
    memcpy(buffer_.data() + at, &value, sizeof value);
  }
  // Room for the caller to fill; Commit() says how much of it was used.
  std::span<std::byte> Room() const { return buffer_.subspan(size_); }
  void Commit(size_t size) {
    if (size > buffer_.size() - size_) ok_ = false;
    if (ok_) size_ += size;
  }
  void Truncate(size_t size) {
    if (size <= size_) size_ = size;
  }

  bool ok() const { return ok_; }
  size_t size() const { return size_; }
  size_t room() const { return buffer_.size() - size_; }

 private:
  std::span<std::byte> buffer_;
  size_t size_ = 0;
  bool ok_ = true;
};

}  // namespace skep::gofer
