// Owners of host files that have no counterpart in the gofer's user namespace. The host shows them
// as its overflow id (65534), which may also be a user's own: the two must not be taken for one
// another, or "nobody" inside would own every file of the host's root.
#pragma once

#include <cstdint>
#include <string_view>

#include "gofer/protocol/messages.h"

namespace skep::gofer {

// What an id map (/proc/self/uid_map, gid_map) says about a file whose owner is shown as
// `overflow`.
enum class Overflow : uint8_t {
  kMapped,    // every id is mapped: it is that user's
  kUnmapped,  // it is not mapped: the owner is somebody else
  kEither,    // it is mapped and others are not
};
Overflow ReadIdMap(std::string_view map, uint32_t overflow);

// Replaces an owner or group without counterpart by kUnmappedId. `fd`, `name` and `flags` are those
// of the statx(2) that gave `attributes`. Where either may be meant, the owner is asked for: the
// gofer may do more to its own files than everybody may; and a group counts as unmapped.
void ReplaceUnmappedIds(int fd, const char* name, int flags, Attributes& attributes);

}  // namespace skep::gofer
