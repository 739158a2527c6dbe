// How deep a JSON text nests, before anything that recurses looks at it.
#pragma once

#include <cstddef>
#include <string_view>

namespace skep {

// Deeper than any configuration of ours or of OCI's.
inline constexpr size_t kJsonDepthMax = 64;

// Whether its objects and arrays nest at most `depth` deep. For a text that is not JSON: whatever
// its brackets say.
bool JsonNestsAtMost(std::string_view text, size_t depth);

}  // namespace skep
