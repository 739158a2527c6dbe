// A socket address of any family.
#pragma once

#include <sys/socket.h>
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "base/check.h"

namespace skep::net {

inline constexpr size_t kMaxAddress = sizeof(sockaddr_storage);

// The raw bytes of a sockaddr, family included, of at most kMaxAddress; none: there is no address.
// Bytes behind `size` have no meaning.
struct Address {
  uint8_t size = 0;
  std::array<char, kMaxAddress> bytes;

  Address() {}  // NOLINT: `bytes` is written as far as `size` says
  explicit Address(std::string_view from) { Append(from); }

  bool empty() const { return size == 0; }
  std::string_view view() const { return {bytes.data(), size}; }
  std::span<char> writable() { return std::span(bytes).first(size); }
  // AF_UNSPEC, too, if there is no room for a family.
  sa_family_t family() const {
    sa_family_t family = AF_UNSPEC;
    if (size >= sizeof family) memcpy(&family, bytes.data(), sizeof family);
    return family;
  }
  void Append(std::string_view more) {
    CHECK(more.size() <= kMaxAddress - size);
    std::copy(more.begin(), more.end(), bytes.begin() + size);
    size = static_cast<uint8_t>(size + more.size());
  }
  friend bool operator==(const Address& a, const Address& b) { return a.view() == b.view(); }
};

}  // namespace skep::net
