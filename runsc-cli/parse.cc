#include "runsc-cli/parse.h"

#include <algorithm>
#include <array>

namespace skep::cli {
std::optional<uint64_t> ParseNumber(std::string_view text) {
  if (text.empty()) return std::nullopt;
  uint64_t number = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    if (__builtin_mul_overflow(number, uint64_t{10}, &number)) return std::nullopt;
    if (__builtin_add_overflow(number, static_cast<uint64_t>(c - '0'), &number))
      return std::nullopt;
  }
  return number;
}

HostResult<uint64_t> ParseDuration(std::string_view option, const std::string& text) {
  struct Unit {
    std::string_view name;
    uint64_t ns;
  };
  constexpr uint64_t kSecond = 1'000'000'000;
  constexpr std::array<Unit, 5> kUnits = {Unit{"ms", kSecond / 1000},
                                          {"s", kSecond},
                                          {"m", 60 * kSecond},
                                          {"h", 3600 * kSecond},
                                          {"", kSecond}};
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto number = ParseNumber(std::string_view(text).substr(0, digits));
  const std::string_view suffix = std::string_view(text).substr(digits);
  uint64_t ns = 0;
  for (const Unit& unit : kUnits) {
    if (!number || *number == 0 || unit.name != suffix) continue;
    // A time from now on must be a number too.
    if (!__builtin_mul_overflow(*number, unit.ns, &ns) && ns <= INT64_MAX) return ns;
  }
  return HostFail(std::string(option) + " " + text +
                  ": write a number of seconds, or one with ms, s, m or h");
}

HostResult<uint64_t> ParseSize(const std::string& text) {
  const auto wrong = [&] {
    return HostFail("'" + text +
                    "' is not a size: write a number of bytes, or one with k, m, g or t");
  };
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto number = ParseNumber(std::string_view(text).substr(0, digits));
  if (!number) return wrong();
  std::string suffix;
  for (const char c : text.substr(digits)) suffix += static_cast<char>(c | 0x20);
  constexpr std::array<std::string_view, 4> kUnits = {"k", "m", "g", "t"};
  if (suffix.empty() || suffix == "b") return *number;
  for (size_t i = 0; i < kUnits.size(); ++i) {
    const std::string unit(kUnits[i]);
    if (suffix != unit && suffix != unit + "b" && suffix != unit + "ib") continue;
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(*number, uint64_t{1} << (10 * (i + 1)), &bytes)) return wrong();
    return bytes;
  }
  return wrong();
}

std::optional<std::string> CleanAbsolutePath(std::string_view path) {
  if (path.empty() || path[0] != '/' || path.find('\0') != std::string_view::npos) {
    return std::nullopt;
  }
  std::string clean;
  for (const std::string& component : Split(path, '/')) {
    if (component.empty() || component == ".") continue;
    if (component == "..") return std::nullopt;
    clean += '/';
    clean += component;
  }
  return clean.empty() ? "/" : clean;
}

HostResult<Volume> ParseVolume(const std::string& text) {
  const auto wrong = [&](const char* why) {
    return HostFail("--volume " + text + ": " + why + "; write HOST:GUEST or HOST:GUEST:ro");
  };
  const std::vector<std::string> parts = Split(text, ':');
  if (parts.size() < 2 || parts.size() > 3) return wrong("not two or three parts");
  if (parts[0].empty()) return wrong("the host path is empty");
  const auto guest = CleanAbsolutePath(parts[1]);
  if (!guest || *guest == "/") return wrong("the guest path is not an absolute path below /");
  Volume volume = {parts[0], *guest, false};
  if (parts.size() == 3) {
    if (parts[2] != "ro" && parts[2] != "rw") return wrong("the third part is neither ro nor rw");
    volume.read_only = parts[2] == "ro";
  }
  return volume;
}

}  // namespace skep::cli
