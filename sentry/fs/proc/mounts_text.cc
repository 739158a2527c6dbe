// /proc/<pid>/mounts and mountinfo (Linux: fs/proc_namespace.c).
#include <fmt/format.h>
#include <sys/mount.h>
#include <iterator>

#include "sentry/fs/proc/process.h"
#include "sentry/vfs/name_ops.h"

namespace skep::fs {
namespace {

struct View {
  Ref<vfs::MountNamespace> mounts;
  vfs::Path root;
};

// EINVAL: a zombie has no view of the tree.
Result<View> ViewOf(const Subject& subject) {
  TasksLock lock(*subject.kernel);
  const kernel::Task* task = subject.Find();
  if (task == nullptr || !task->fs) return Fail(EINVAL);
  return View{task->fs->mounts(), task->fs->root()};
}

// Linux: mangle.
std::string Escaped(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\\' || c == '#') {
      escaped += fmt::format("\\{:03o}", static_cast<unsigned char>(c));
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string MountFlags(const vfs::Mount& mount) {
  struct Flag {
    uint64_t bit;
    const char* name;
  };
  constexpr Flag kFlags[] = {{MS_NOSUID, ",nosuid"},         {MS_NODEV, ",nodev"},
                             {MS_NOEXEC, ",noexec"},         {MS_NOATIME, ",noatime"},
                             {MS_NODIRATIME, ",nodiratime"}, {MS_NOSYMFOLLOW, ",nosymfollow"}};
  const uint64_t flags = mount.flags();
  std::string text = mount.read_only() ? "ro" : "rw";
  for (const Flag& flag : kFlags) {
    if ((flags & flag.bit) != 0) text += flag.name;
  }
  if ((flags & (MS_NOATIME | MS_STRICTATIME)) == 0) text += ",relatime";
  return text;
}

std::string OptionsOf(const vfs::FileSystem& fs) {
  return fs.options.empty() || fs.options.starts_with(',') ? fs.options : "," + fs.options;
}

std::string SourceOf(const vfs::FileSystem& fs) {
  return fs.source.empty() ? "none" : Escaped(fs.source);
}

// Calls each(mount, where the reader's root sees it) for the mounts that it sees.
template <class Each>
void ForEachVisible(const View& view, Each each) {
  for (const Ref<vfs::Mount>& mount : view.mounts->List()) {
    const std::string point = vfs::NameOf(vfs::Path(mount, mount->root()), view.root);
    if (point.empty() || point[0] != '/') continue;
    each(*mount, point);
  }
}

}  // namespace

Result<std::string> MountsText(const TaskView& view) {
  const View seen = TRY(ViewOf(view.subject));
  std::string text;
  ForEachVisible(seen, [&](const vfs::Mount& mount, const std::string& point) {
    const Ref<vfs::FileSystem> fs = mount.fs();
    fmt::format_to(std::back_inserter(text), "{} {} {} {}{} 0 0\n", SourceOf(*fs), Escaped(point),
                   fs->type_name(), MountFlags(mount), OptionsOf(*fs));
  });
  return text;
}

Result<std::string> MountinfoText(const TaskView& view) {
  const View seen = TRY(ViewOf(view.subject));
  std::string text;
  ForEachVisible(seen, [&](const vfs::Mount& mount, const std::string& point) {
    const Ref<vfs::FileSystem> fs = mount.fs();
    const vfs::Path parent = mount.point();
    const std::string root = vfs::NameOf(vfs::Path({}, mount.root()), {});
    fmt::format_to(std::back_inserter(text), "{} {} 0:{} {} {} {} - {} {} {}{}\n", mount.id(),
                   parent ? parent.mount->id() : 0, fs->dev_minor(), Escaped(root), Escaped(point),
                   MountFlags(mount), fs->type_name(), SourceOf(*fs),
                   mount.read_only() ? "ro" : "rw", OptionsOf(*fs));
  });
  return text;
}

}  // namespace skep::fs
