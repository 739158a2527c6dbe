#include "gofer/server/unmapped_ids.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <charconv>
#include <optional>
#include <string>

#include "base/host_call.h"

namespace skep::gofer {
namespace {

constexpr uint32_t kDefaultOverflow = 65534;

// The next number in `text`, which it is taken off.
std::optional<uint64_t> TakeNumber(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t\n"), text.size()));
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return number;
}

struct Ids {
  uint32_t overflow = kDefaultOverflow;
  Overflow meaning = Overflow::kEither;
};

Ids ReadIds(const char* overflow_file, const char* map_file) {
  Ids ids;
  if (const Result<std::string> text = host::ReadWholeFile(overflow_file, 64)) {
    std::string_view rest = *text;
    ids.overflow = static_cast<uint32_t>(TakeNumber(rest).value_or(kDefaultOverflow));
  }
  const Result<std::string> map = host::ReadWholeFile(map_file, 64 << 10);
  if (map) ids.meaning = ReadIdMap(*map, ids.overflow);
  return ids;
}

// What the host lets this process do to the file beyond what it lets everybody do. Its capabilities
// hold for files with a mapped owner alone.
bool IsMoreThanAnybody(int fd, const char* name, int flags, const Attributes& attributes) {
  if (S_ISLNK(attributes.mode)) return false;
  for (const int wanted : {W_OK, R_OK}) {
    if ((attributes.mode & static_cast<uint32_t>(wanted)) != 0) continue;  // everybody may
    if (host::Call(SYS_faccessat2, fd, name, wanted, flags | AT_EACCESS)) return true;
  }
  return false;
}

}  // namespace

Overflow ReadIdMap(std::string_view map, uint32_t overflow) {
  bool mapped = false;
  while (const std::optional<uint64_t> inside = TakeNumber(map)) {
    const std::optional<uint64_t> outside = TakeNumber(map);
    const std::optional<uint64_t> count = TakeNumber(map);
    if (!outside || !count) break;
    if (*inside == 0 && *count == UINT32_MAX) return Overflow::kMapped;
    if (overflow >= *inside && overflow - *inside < *count) mapped = true;
  }
  return mapped ? Overflow::kEither : Overflow::kUnmapped;
}

void ReplaceUnmappedIds(int fd, const char* name, int flags, Attributes& attributes) {
  // As of the first file that is looked at: the jail takes /proc away.
  static const Ids users = ReadIds("/proc/sys/kernel/overflowuid", "/proc/self/uid_map");
  static const Ids groups = ReadIds("/proc/sys/kernel/overflowgid", "/proc/self/gid_map");
  if (attributes.gid == groups.overflow && groups.meaning != Overflow::kMapped) {
    attributes.gid = kUnmappedId;
  }
  if (attributes.uid != users.overflow || users.meaning == Overflow::kMapped) return;
  const bool own =
      users.meaning == Overflow::kEither && IsMoreThanAnybody(fd, name, flags, attributes);
  if (!own) attributes.uid = kUnmappedId;
}

}  // namespace skep::gofer
