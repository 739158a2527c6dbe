// Two workers change one overlay at once, on fibers: locks, copy-ups and caches under contention.
#include <linux/fs.h>

#include "sentry/fs/gofer/test_gofer.h"
#include "sentry/fs/overlay/overlay_fs.h"
#include "sentry/fs/test_world.h"
#include "sentry/sched/sched_test_util.h"

namespace skep::fs {
namespace {

constexpr int kRounds = 300;
constexpr int kFibers = 4;

// What went wrong that may not: anything but what the other fibers' doings explain.
bool Explicable(int code) {
  return code == 0 || code == ENOENT || code == EEXIST || code == ENOTEMPTY || code == EXDEV ||
         code == EISDIR || code == ENOTDIR || code == EINVAL || code == EPERM;
}

void Play(World& w, uint32_t seed, int* bad) {
  const std::string directories[] = {"/d0", "/d1", "/d2"};
  uint32_t state = seed;
  const auto random = [&](uint32_t below) {
    state = state * 1664525 + 1013904223;
    return (state >> 16) % below;
  };
  const auto name = [&] { return directories[random(3)] + "/f" + std::to_string(random(6)); };
  for (int i = 0; i < kRounds; i++) {
    int code = 0;
    switch (random(9)) {
      case 0:
        code = w.Write(name(), "text");
        break;
      case 1:
        code = w.Unlink(name());
        break;
      case 2:
        code = w.Rename(name(), name(), random(4) == 0 ? RENAME_EXCHANGE : 0);
        break;
      case 3:
        code = w.Mkdir(name());
        break;
      case 4:
        code = w.Rmdir(name());
        break;
      case 5:
        code = w.Link(name(), name());
        break;
      case 6:
        code = w.Chmod(name(), 0600 + random(64));
        break;
      case 7:
        w.List(directories[random(3)]);
        break;
      default:
        code = Code(w.Stat(name()));
        break;
    }
    if (!Explicable(code)) ++*bad;
    if (random(8) == 0) sched::Yield();
  }
}

TEST(OverlayStress, TwoWorkers) {
  TestGofer gofer(true);
  for (const std::string directory : {"d0", "d1", "d2"}) {
    gofer.tree.Mkdir(directory);
    for (int i = 0; i < 6; i += 2) gofer.tree.Write(directory + "/f" + std::to_string(i), "lower");
    gofer.tree.Mkdir(directory + "/f1");
  }
  std::unique_ptr<World> world;
  {
    const arena::ArenaHeapScope arena;
    Ref<GoferFs> lower = gofer.Mount();
    world = std::make_unique<World>([&](mm::MemoryFile& memory) -> Ref<vfs::FileSystem> {
      return *OverlayFs::Make(5, lower, MakeRef<TmpFs>(memory, TmpFsOptions{.dev_minor = 4}));
    });
  }
  int bad[kFibers] = {};
  {
    sched::TestScheduler scheduler(2);
    std::vector<std::move_only_function<void()>> bodies;
    for (uint32_t i = 0; i < kFibers; i++) {
      bodies.push_back([&, i] { Play(*world, 17 * i + 1, &bad[i]); });
    }
    scheduler.Start();
    scheduler.RunAll(std::move(bodies));
  }
  for (const int count : bad) EXPECT_EQ(count, 0);
  // What is listed can be looked up, and nothing else.
  for (const char* directory : {"/d0", "/d1", "/d2"}) {
    const Names names = world->List(directory);
    world->mounts->root().mount->fs()->cache().DropUnused();
    for (int i = 0; i < 6; i++) {
      const std::string name = "f" + std::to_string(i);
      const bool listed = std::find(names.begin(), names.end(), name) != names.end();
      EXPECT_EQ(world->FindLink(std::string(directory) + "/" + name).has_value(), listed) << name;
    }
  }
}

}  // namespace
}  // namespace skep::fs
