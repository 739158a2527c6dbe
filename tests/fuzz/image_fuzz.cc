// The image of a checkpoint: what its head says, and the head and table of the arena in it. What is
// in the pages and in the arena cannot be judged: an image is trusted as the binary is.
#include <algorithm>

#include "base/host_call.h"
#include "base/range.h"
#include "sentry/arena/arena.h"
#include "sentry/arena/image.h"
#include "sentry/boot/image.h"
#include "tests/fuzz/fuzz.h"

namespace skep::fuzz {
namespace {

// What the rest of an input is, by its first byte.
enum class Part : uint8_t { kStart, kHead, kArena, kEnd };

std::string Seed(Part part, const std::string& rest) {
  return std::string(1, static_cast<char>(part)) + rest;
}

boot::ImageHead Head() {
  using Kind = boot::ResourceName::Kind;
  boot::ImageHead head;
  head.starters = "box";
  head.resources = {{{Kind::kTree, "box", "/data"}, 1}, {{Kind::kStdio, "box", "0"}, 2}};
  head.memory_files = {{{0, kPageSize, kPageSize}, {4 * kPageSize, kPageSize, 2 * kPageSize}}, {}};
  head.arena_offset = 3 * kPageSize;
  return head;
}

// An arena of so many empty extents.
std::string Arena(size_t extents) {
  std::string image(2 * kPageSize, '\0');
  const auto put = [&](uint64_t at, const std::string& bytes) {
    image.replace(at, bytes.size(), bytes);
  };
  put(0, Bytes(arena::HeaderOfThisBuild(extents)));
  for (uint64_t i = 0; i < extents; ++i) {
    const uint64_t address = i == 0 ? arena::kBase : arena::kStacksBase + i * kPageSize;
    put(sizeof(arena::ImageHeader) + i * sizeof(arena::ImageExtent),
        Bytes(arena::ImageExtent{address, kPageSize, kPageSize}));
  }
  return image;
}

std::vector<std::string> Seeds() {
  return {Seed(Part::kStart, boot::Encode(boot::ImageStart{kPageSize, 100})),
          Seed(Part::kHead, boot::Encode(Head())), Seed(Part::kArena, Arena(0)),
          Seed(Part::kArena, Arena(3))};
}

void TakeHead(const std::string& bytes) {
  const auto head = boot::DecodeImageHead(bytes);
  if (!head) {
    if (head.error().message.empty()) Fail("an error without a text");
    return;
  }
  for (const std::vector<boot::PageRun>& runs : head->memory_files) {
    for (const boot::PageRun& run : runs) {
      uint64_t end = 0;
      if (__builtin_add_overflow(run.offset, run.size, &end) ||
          __builtin_add_overflow(run.at, run.size, &end)) {
        Fail("pages that wrap");
      }
    }
  }
  const std::string written = boot::Encode(*head);
  const auto again = boot::DecodeImageHead(written);
  if (!again || boot::Encode(*again) != written) Fail("no round trip");
  std::vector<boot::ResourceName> names;
  for (const boot::ImageResource& resource : head->resources) names.push_back(resource.name);
  if (!boot::MatchNames(head->resources, names)) Fail("its own names do not match");
}

void TakeArena(const std::string& bytes) {
  static const OwnedFd file = host::MemfdCreate("fuzz", 1).value();
  if (!host::Truncate(file.get(), 0) ||
      !host::PWrite(file.get(), std::as_bytes(std::span(bytes)), 0)) {
    return;
  }
  const auto extents = arena::ReadExtents(file.get(), 0);
  if (!extents) return;
  uint64_t end = arena::kBase;
  for (const arena::ImageExtent& extent : *extents) {
    if (extent.address < end) Fail("an extent outside the arena, or twice");
    if (extent.offset > bytes.size() || extent.size > bytes.size() - extent.offset) {
      Fail("an extent that the file does not have");
    }
    end = extent.address + extent.size;
  }
}

int TestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (static_cast<fuzz::Part>(data[0] % static_cast<int>(fuzz::Part::kEnd))) {
    case fuzz::Part::kStart:
      (void)boot::DecodeImageStart(rest);
      break;
    case fuzz::Part::kHead:
      fuzz::TakeHead(rest);
      break;
    default:
      fuzz::TakeArena(rest);
      break;
  }
  return 0;
}

const Target kTarget("image", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
