// Which addresses are guard pages of fiber stacks.
#pragma once

namespace skep::arena {

// A fault there means that the stack above it is full.
bool IsStackGuard(const void* address);

}  // namespace skep::arena
