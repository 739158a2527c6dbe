// What a frozen arena is in a file: a header, a table of extents, their bytes.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/result.h"

namespace skep::arena {

struct ImageExtent {
  uint64_t address, size;  // multiples of the page size
  uint64_t offset;         // in the file, from the image's start
};

struct ImageHeader {
  std::array<char, 8> magic;
  std::array<uint8_t, 32> build_id;  // padded with zeros
  std::array<uint32_t, 8> cpu;       // CPUID feature words and XCR0
  uint64_t extent_count;
};

// The header of an image that this binary can resume on this machine.
ImageHeader HeaderOfThisBuild(uint64_t extent_count);
// All of these bytes of an image's file; an error when it is cut short.
HostResult<void> ReadImage(int fd, uint64_t offset, void* to, uint64_t size);
// The table of the image at `offset` of a file. Its extents are in order of address, disjoint, in
// the arena's regions, and all of their bytes are in the file. This holds also of a file that
// anybody has made up; what is in the extents cannot be judged.
HostResult<std::vector<ImageExtent>> ReadExtents(int fd, uint64_t offset);

// Maps the regions, empty.
HostResult<void> MapRegions();
// What Freeze writes: the used part of the arena, in order of address; offsets are not set.
std::vector<ImageExtent> UsedExtents();

}  // namespace skep::arena
