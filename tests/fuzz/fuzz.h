// What fuzz targets share: a way to take an input apart, and seeds.
//
// A target is one file NAME_fuzz.cc with a Target in it. It is a libFuzzer program in the preset
// "asan" (main.cc), and a part of the unit test fuzz_tests, which tries its seeds and some
// mutations of them. It fails by a sanitizer's report, by a CHECK, or by Fail().
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace skep::fuzz {

// One decoder. `seeds`: inputs to begin with, as valid and as different as can be.
class Target {
 public:
  using Seeds = std::vector<std::string> (*)();
  using TestOneInput = int (*)(const uint8_t* data, size_t size);
  Target(const char* name_in, Seeds seeds_in, TestOneInput test_in)
      : name(name_in), seeds(seeds_in), test(test_in) {
    All().push_back(this);
  }
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;
  // Those that are linked into this program.
  static std::vector<const Target*>& All() {
    static std::vector<const Target*> all;
    return all;
  }

  const char* const name;
  const Seeds seeds;
  const TestOneInput test;
};

// Front to back; zeros past the end.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  template <class T>
  T Take() {
    T value{};
    const size_t size = rest_.size() < sizeof value ? rest_.size() : sizeof value;
    if (size > 0) memcpy(&value, rest_.data(), size);
    rest_.remove_prefix(size);
    return value;
  }
  std::string_view Text(size_t size) {
    const std::string_view text = rest_.substr(0, size);
    rest_.remove_prefix(text.size());
    return text;
  }
  bool empty() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

// Something that must never hold does.
[[noreturn]] inline void Fail(const char* what) {
  fprintf(stderr, "fuzz: %s\n", what);
  abort();
}

// For targets that make something of any bytes: seeds of `size` random ones.
inline std::vector<std::string> RandomSeeds(size_t count, size_t size) {
  std::minstd_rand random(1);
  std::vector<std::string> seeds(count, std::string(size, 0));
  for (std::string& seed : seeds) {
    for (char& byte : seed) byte = static_cast<char>(random() >> 8);
  }
  return seeds;
}

template <class T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace skep::fuzz
