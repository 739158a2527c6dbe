// What an image of a sandbox says about itself: what outside it needs, by name, and where its parts
// are. Bytes only: nothing here reads files or touches the sandbox.
//
// The file: a fixed part (ImageStart), the pages of the memory files, the head, the arena.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/result.h"

namespace skep::boot {

// Something outside the sandbox that it was using.
struct ResourceName {
  enum class Kind : uint32_t {
    kTree,      // of a gofer; name: where it is mounted
    kStdio,     // a standard file; name: "0", "1" or "2"
    kTerminal,  // the host's, below descriptors 0 and 1
    kStrace,    // where --strace writes; of no container
  } kind = Kind::kTree;
  std::string container;
  std::string name;

  friend auto operator<=>(const ResourceName&, const ResourceName&) = default;
};
// In words: "the files of the mount /data in container 'web'".
std::string InWords(const ResourceName& name);

struct ImageResource {
  ResourceName name;
  uint32_t number = 0;  // kTree: of the attach point; else: in the host table
};

struct PageRun {
  uint64_t offset = 0, size = 0;  // in its memory file
  uint64_t at = 0;                // in the image
};

struct ImageHead {
  std::string starters;                            // the id of the starter's container
  std::vector<ImageResource> resources;            // each name once
  std::vector<std::vector<PageRun>> memory_files;  // in order; runs by offset
  uint64_t arena_offset = 0;
};

struct ImageStart {
  uint64_t head_offset = 0, head_size = 0;
};
inline constexpr size_t kImageStartSize = 24;
inline constexpr uint64_t kImageHeadMax = uint64_t{512} << 20;

std::string Encode(const ImageStart& start);
HostResult<ImageStart> DecodeImageStart(std::string_view bytes);
std::string Encode(const ImageHead& head);
// Refuses what no sandbox writes: so its offsets and sizes add up without overflow.
HostResult<ImageHead> DecodeImageHead(std::string_view bytes);

// Each name of the image must be among those given and the other way round; else the error names
// the first that is not.
HostResult<void> MatchNames(const std::vector<ImageResource>& needed,
                            const std::vector<ResourceName>& given);

}  // namespace skep::boot
