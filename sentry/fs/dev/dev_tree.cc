#include "sentry/fs/dev/dev_tree.h"

#include <array>
#include <string_view>

namespace skep::fs {
namespace {

struct Node {
  std::string_view name;
  uint32_t mode, major, minor;
};
constexpr std::array kNodes = {
    Node{"null", S_IFCHR | 0666, 1, 3},
    Node{"zero", S_IFCHR | 0666, 1, 5},
    Node{"full", S_IFCHR | 0666, 1, 7},
    Node{"random", S_IFCHR | 0666, 1, 8},
    Node{"urandom", S_IFCHR | 0666, 1, 9},
    Node{"tty", S_IFCHR | 0666, 5, 0},
    Node{"pts", S_IFDIR | 0755, 0, 0},
    Node{"shm", S_IFDIR | S_ISVTX | 0777, 0, 0},
    Node{"mqueue", S_IFDIR | S_ISVTX | 0777, 0, 0},
};
constexpr Node kConsole = {"console", S_IFCHR | 0600, 5, 1};

struct Link {
  std::string_view name, target;
};
constexpr std::array kLinks = {
    Link{"fd", "/proc/self/fd"},       Link{"stdin", "/proc/self/fd/0"},
    Link{"stdout", "/proc/self/fd/1"}, Link{"stderr", "/proc/self/fd/2"},
    Link{"core", "/proc/kcore"},       Link{"ptmx", "pts/ptmx"},
};

Result<void> Make(vfs::Inode& directory, const Node& node) {
  const Ref<vfs::Inode> made = TRY(directory.Create(
      node.name,
      {.mode = node.mode, .uid = 0, .gid = 0, .rdev_major = node.major, .rdev_minor = node.minor}));
  return {};
}

}  // namespace

Result<void> PopulateDev(vfs::FileSystem& fs, bool console) {
  const Ref<vfs::Inode> root = fs.RootInode();
  sched::SleepLockHold hold(root->directory_lock());
  for (const Node& node : kNodes) TRY(Make(*root, node));
  if (console) TRY(Make(*root, kConsole));
  for (const Link& link : kLinks) {
    const Ref<vfs::Inode> made =
        TRY(root->Symlink(link.name, link.target, {.mode = S_IFLNK | 0777, .uid = 0, .gid = 0}));
  }
  return {};
}

}  // namespace skep::fs
