// Text of the host's files in parts.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace skep::runtime {

// "a::b" -> "a", "", "b"; an empty text is one empty part.
std::vector<std::string> Split(std::string_view text, char separator);

}  // namespace skep::runtime
