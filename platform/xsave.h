// The XSAVE area of a thread: the standard format (Intel SDM 1, 13.4), with the words that Linux
// keeps in signal frames.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace skep::platform::xsave {

// Offsets and sizes, in bytes.
inline constexpr size_t kMxcsrAt = 24, kMxcsrMaskAt = 28;
inline constexpr size_t kSoftwareAt = 464, kSoftwareSize = 48;
inline constexpr size_t kLegacySize = 512;  // the header is behind it, features its first word
inline constexpr size_t kHeaderAt = kLegacySize, kHeaderSize = 64;
inline constexpr size_t kMinSize = kLegacySize + kHeaderSize;

// Bits of the header's features. Every area of a signal frame has these two.
inline constexpr uint64_t kX87 = 1, kSse = 2;

// The initial state (Linux: init_fpstate).
inline constexpr uint16_t kInitialFcw = 0x37f;
inline constexpr uint32_t kInitialMxcsr = 0x1f80;
// What MXCSR may hold on a CPU that does not say (a mask of 0).
inline constexpr uint32_t kDefaultMxcsrMask = 0xffbf;

inline constexpr uint32_t kMagic1 = 0x46505853, kMagic2 = 0x46505845;  // FP_XSTATE_MAGIC1, 2

// struct _fpx_sw_bytes
struct SoftwareBytes {
  uint32_t magic1, extended_size;
  uint64_t features;
  uint32_t xstate_size, padding[7];
};
static_assert(sizeof(SoftwareBytes) == kSoftwareSize);

template <class T>
T ReadAt(std::span<const std::byte> area, size_t offset) {
  T value;
  memcpy(&value, area.data() + offset, sizeof(value));
  return value;
}
template <class T>
void WriteAt(std::span<std::byte> area, size_t offset, const T& value) {
  memcpy(area.data() + offset, &value, sizeof(value));
}

// All components in their initial state. The software words stay.
inline void Clear(std::span<std::byte> area) {
  const auto software = ReadAt<SoftwareBytes>(area, kSoftwareAt);
  memset(area.data(), 0, area.size());
  WriteAt(area, 0, kInitialFcw);
  WriteAt(area, kMxcsrAt, kInitialMxcsr);
  WriteAt(area, kSoftwareAt, software);
}

}  // namespace skep::platform::xsave
