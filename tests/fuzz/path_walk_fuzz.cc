// Path walks over a tree that the same input builds: names, symlinks, renames, "..", trailing
// slashes.
#include <fcntl.h>

#include "sentry/vfs/name_ops.h"
#include "tests/fuzz/kernel.h"

namespace skep::fuzz {
namespace {

// A path of few names, so that they meet.
std::string Path(Input& in) {
  constexpr std::string_view kParts[] = {"a", "b", "c", "..", ".", "", "/", "/w/"};
  std::string path = in.Take<uint8_t>() % 2 == 0 ? "/w/" : "";
  for (size_t parts = in.Take<uint8_t>() % 6; parts > 0; --parts) {
    path += kParts[in.Take<uint8_t>() % std::size(kParts)];
    if (in.Take<uint8_t>() % 4 != 0) path += '/';
  }
  return path;
}

void Step(kernel::Task& task, Input& in) {
  vfs::NameOps walker(task, *task.fs);
  const uint8_t what = in.Take<uint8_t>();
  const std::string one = Path(in);
  switch (what % 8) {
    case 0:
      (void)walker.Mkdir(one, 0755);
      break;
    case 1:
      (void)walker.Symlink(Path(in), one);
      break;
    case 2:
      (void)walker.Rename(one, walker, Path(in), what / 8U % 4);
      break;
    case 3:
      (void)walker.Unlink(one);
      break;
    case 4:
      (void)walker.Rmdir(one);
      break;
    case 5:
      if (const auto found = walker.Resolve(one, {.follow = vfs::FollowFinal::kNo})) {
        (void)walker.Link(*found, Path(in));
      }
      break;
    default: {
      const auto file = walker.Open(
          one, {.flags = what % 16 < 8 ? uint32_t{O_RDONLY} : uint32_t{O_RDWR | O_CREAT}});
      (void)file;
      break;
    }
  }
}

std::vector<std::string> Seeds() { return RandomSeeds(30, 400); }

int TestOneInput(const uint8_t* data, size_t size) {
  syscalls::TestKernel& kernel = fuzz::TheKernel();
  kernel.OnFiber([&] {
    kernel::Task& task = kernel.init().task();
    vfs::NameOps walker(task, *task.fs);
    (void)walker.Mkdir("/w", 0755);
    fuzz::Input in(data, std::min<size_t>(size, 2048));
    while (!in.empty()) fuzz::Step(task, in);
  });
  return 0;
}

const Target kTarget("path_walk", Seeds, TestOneInput);

}  // namespace
}  // namespace skep::fuzz
