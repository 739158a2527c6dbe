// FilterRow: a host system call that a process of a sandbox may make, what its arguments must be,
// and why it is needed. Lists of rows make the allow-lists of the sentry and the gofer
// (jail/filter.h); an engine adds its own.
#pragma once

#include <array>
#include <cstdint>

namespace skep {

// (argument & mask) == value. The upper half of an argument that the kernel takes as an int may be
// anything: Is() looks at the lower half.
struct ArgumentRule {
  uint8_t argument = 0;
  uint64_t mask = 0;  // 0: no rule
  uint64_t value = 0;
};
constexpr ArgumentRule Is(uint8_t argument, uint32_t value) {
  return {argument, 0xffff'ffff, value};
}
constexpr ArgumentRule IsNull(uint8_t argument) { return {argument, ~uint64_t{0}, 0}; }
constexpr ArgumentRule Without(uint8_t argument, uint64_t bits) { return {argument, bits, 0}; }
constexpr ArgumentRule With(uint8_t argument, uint64_t bits) { return {argument, bits, bits}; }
// An int that is the value, with any of these bits.
constexpr ArgumentRule IsWithAny(uint8_t argument, uint32_t value, uint32_t bits) {
  return {argument, 0xffff'ffff & ~uint64_t{bits}, value};
}
// No bit of an int but these.
constexpr ArgumentRule Only(uint8_t argument, uint32_t bits) {
  return {argument, 0xffff'ffff & ~uint64_t{bits}, 0};
}

// All its rules must hold; each is about another argument. Several rows of one number: any of them.
struct FilterRow {
  int number;
  const char* why;
  std::array<ArgumentRule, 2> rules = {};
  int error = 0;  // not 0: the call is not made, it answers this errno
};

}  // namespace skep
