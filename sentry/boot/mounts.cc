#include "sentry/boot/mounts.h"

#include <fmt/format.h>
#include <sys/mount.h>
#include <map>

#include "base/log.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/overlay/overlay_fs.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/kernel/file_systems.h"
#include "sentry/vfs/name_ops.h"

namespace skep::boot {
namespace {

using Kind = MountConfig::Kind;

const char* TypeNameOf(Kind kind) {
  switch (kind) {
    case Kind::kGofer:
      return "9p";
    case Kind::kTmpfs:
      return "tmpfs";
    case Kind::kProc:
      return "proc";
    case Kind::kSysfs:
      return "sysfs";
    case Kind::kDevpts:
      return "devpts";
    case Kind::kDev:
      return "devtmpfs";
    case Kind::kMqueue:
      return "mqueue";
  }
  return "";
}

class Mounter {
 public:
  Mounter(const MountContext& context, kernel::Task& init) : context_(context), init_(init) {}

  Result<void> Root(const MountConfig& config) {
    Ref<vfs::FileSystem> root = TRY(Make(config));
    kernel::Kernel& kernel = context_.kernel;
    context_.mounts =
        MakeRef<vfs::MountNamespace>(std::move(root), Flags(config) & ~uint64_t{MS_RDONLY},
                                     kernel.NextNamespaceNumber(), init_.creds().user_namespace);
    const vfs::Path path = context_.mounts->root();
    auto fs = MakeRef<vfs::FsContext>(context_.mounts, path, path, context_.process.umask);
    kernel::TasksLock lock(kernel);
    init_.fs.Set(std::move(fs));
    return {};
  }

  Result<void> Add(const MountConfig& config) {
    Ref<vfs::FileSystem> fs = TRY(Make(config));
    const vfs::Path at = TRY(MakePoint(config.destination, fs->RootInode()->IsDir()));
    const Ref<vfs::Mount> mount = TRY(context_.mounts->Add(at, std::move(fs), Flags(config)));
    if (config.kind == Kind::kDevpts) {
      // SAFETY: the type's name is devpts.
      Ref<fs::DevptsFs> devpts(static_cast<fs::DevptsFs*>(mount->fs().get()));
      context_.devices->terminals().SetDevpts(std::move(devpts), vfs::Path(mount, mount->root()));
    }
    return {};
  }

  // All mount points have been made in the root: it becomes what its configuration says.
  void FinishRoot(const MountConfig& config) {
    context_.mounts->root().mount->SetFlags(Flags(config));
  }

  // An empty read-only directory, or /dev/null, over what must not be seen (runc: maskPath).
  Result<void> Mask(const std::string& path) {
    vfs::NameOps walker(init_, *init_.fs);
    auto found = walker.Resolve(path, {});
    if (!found || found->inode() == nullptr) return {};  // what is not there needs no mask
    const bool directory = found->inode()->IsDir();
    if (!directory) {
      const vfs::Path null = TRY(walker.Resolve("/dev/null", {}));
      TRY(context_.mounts->Add(*found, null.mount->fs(), MS_RDONLY, null.dentry));
      return {};
    }
    MountConfig empty;
    empty.kind = Kind::kTmpfs;
    empty.read_only = true;
    empty.mode = 0755;
    Ref<vfs::FileSystem> fs = TRY(Make(empty));
    TRY(context_.mounts->Add(*found, std::move(fs), MS_RDONLY));
    return {};
  }

  Result<void> MakeReadOnly(const std::string& path) {
    vfs::NameOps walker(init_, *init_.fs);
    auto found = walker.Resolve(path, {});
    if (!found || found->inode() == nullptr) return {};
    const uint64_t flags = found->mount->flags() | MS_RDONLY;
    TRY(context_.mounts->Add(*found, found->mount->fs(), flags, found->dentry));
    return {};
  }

 private:
  static uint64_t Flags(const MountConfig& config) {
    uint64_t flags = 0;
    if (config.read_only) flags |= MS_RDONLY;
    if (config.no_exec) flags |= MS_NOEXEC;
    if (config.no_suid) flags |= MS_NOSUID;
    if (config.no_dev) flags |= MS_NODEV;
    return flags;
  }

  Result<Ref<vfs::FileSystem>> Make(const MountConfig& config) {
    Ref<vfs::FileSystem> fs = TRY(MakeOfKind(config));
    fs->special_files = context_.devices;
    fs->source = config.source.empty() ? fs->type_name() : config.source;
    return fs;
  }

  Result<Ref<vfs::FileSystem>> MakeOfKind(const MountConfig& config) {
    if (config.kind == Kind::kGofer) return MakeGofer(config);
    const kernel::FileSystemType* type =
        kernel::FindFileSystem(context_.kernel, TypeNameOf(config.kind));
    if (type == nullptr) return Fail(ENODEV);
    kernel::FileSystemRequest request = {.kernel = context_.kernel,
                                         .pids = Ref(&context_.container.pids()),
                                         .special_files = context_.devices};
    if (config.size != 0) request.options.size = config.size;
    request.options.mode = config.mode;
    request.options.console = context_.process.terminal;
    return type->make(request);
  }

  Result<Ref<vfs::FileSystem>> MakeGofer(const MountConfig& config) {
    fs::GoferFsOptions options;
    options.dev_minor = NextMinor();
    options.attach = static_cast<uint32_t>(config.attach);
    options.donated = context_.donated;
    options.caching =
        config.shared_cache ? fs::GoferCaching::kShared : fs::GoferCaching::kExclusive;
    options.read_only = config.read_only || config.overlay;
    Ref<fs::GoferFs> tree = TRY(fs::GoferFs::Make(context_.gofer, options));
    context_.gofer_trees.push_back(tree);
    Ref<vfs::FileSystem> lower = std::move(tree);
    if (!config.overlay) return lower;
    lower->special_files = context_.devices;
    Ref<vfs::FileSystem> upper = MakeRef<fs::TmpFs>(
        *context_.kernel.memory, fs::TmpFsOptions{.dev_minor = NextMinor(), .mode = 0755});
    upper->special_files = context_.devices;
    Ref<fs::OverlayFs> overlay =
        TRY(fs::OverlayFs::Make(NextMinor(), std::move(lower), std::move(upper)));
    return overlay;
  }

  // The mount point; made if the tree lets us, as runc does: a directory for a directory, an empty
  // file for a file.
  Result<vfs::Path> MakePoint(const std::string& destination, bool directory) {
    vfs::NameOps walker(init_, *init_.fs);
    auto found = walker.Resolve(destination, {});
    if (found && found->inode() != nullptr) return *found;
    for (size_t at = destination.find('/', 1); at != std::string::npos;
         at = destination.find('/', at + 1)) {
      (void)walker.Mkdir(destination.substr(0, at), 0755);
    }
    if (directory) {
      (void)walker.Mkdir(destination, 0755);
    } else {
      (void)walker.Mknod(destination, S_IFREG | 0644, 0, 0);
    }
    return walker.Resolve(destination, {});
  }

  uint32_t NextMinor() { return context_.kernel.NewDeviceMinor(); }

  const MountContext& context_;
  kernel::Task& init_;
};

}  // namespace

std::vector<std::string> NamesOfTrees(const std::vector<MountConfig>& mounts) {
  std::vector<std::string> names;
  std::map<std::string, int> seen;
  for (const MountConfig& mount : mounts) {
    if (mount.kind != Kind::kGofer) continue;
    const int times = ++seen[mount.destination];
    names.push_back(times == 1 ? mount.destination
                               : fmt::format("{}#{}", mount.destination, times));
  }
  return names;
}

Result<void> MountAll(const MountContext& context, kernel::Task& init, std::string* failed) {
  Mounter mounter(context, init);
  const auto told = [&](const char* what, const std::string& path, Result<void> result) {
    if (!result) *failed = fmt::format("cannot {} {}", what, path);
    return result;
  };
  bool first = true;
  for (const MountConfig& config : context.config.mounts) {
    const bool of_host = config.kind == MountConfig::Kind::kGofer;
    SKEP_LOG(kDebug, "mounts {} at {}", config.source, config.destination);
    const std::string what = of_host ? fmt::format("mount {} at", config.source) : "mount";
    TRY(told(what.c_str(), config.destination, first ? mounter.Root(config) : mounter.Add(config)));
    first = false;
  }
  mounter.FinishRoot(context.config.mounts.front());
  for (const std::string& path : context.config.readonly_paths) {
    TRY(told("make read-only", path, mounter.MakeReadOnly(path)));
  }
  for (const std::string& path : context.config.masked_paths)
    TRY(told("mask", path, mounter.Mask(path)));
  vfs::NameOps walker(init, *init.fs);
  auto cwd = walker.Resolve(context.process.cwd, {.directory = true});
  TRY(told("enter the working directory", context.process.cwd,
           cwd ? Result<void>() : Fail(cwd.error().code())));
  init.fs->SetCwd(*cwd);
  return {};
}

}  // namespace skep::boot
