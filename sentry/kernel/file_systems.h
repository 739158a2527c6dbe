// The file systems there are, by name (Linux: struct file_system_type and fs/filesystems.c). One
// table, which boot fills in (boot/file_systems.cc): a container's mounts are made from it,
// /proc/filesystems shows it, and mount(2) asks it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/pid.h"
#include "sentry/vfs/path.h"

namespace skep::kernel {

class Kernel;

// What a mount says of the file system it wants; what a type does not know is not looked at.
struct FileSystemOptions {
  std::optional<uint64_t> size;  // bytes
  std::optional<uint32_t> mode;  // of the root
  bool console = false;          // devtmpfs: there is one
};

struct FileSystemRequest {
  Kernel& kernel;
  Ref<PidNamespace> pids;                // what a proc shows
  Ref<vfs::SpecialFiles> special_files;  // who opens devices and FIFOs there
  FileSystemOptions options;
};

struct FileSystemType {
  std::string_view name;
  // mount(2) asks for CAP_SYS_ADMIN in this user namespace: the owner of the mount namespace
  // (Linux: FS_USERNS_MOUNT), or the first one.
  enum class Capability : uint8_t { kOwner, kFirst } capability = Capability::kFirst;
  // Null: it has files, and is not made by its name: the kernel has one (pipefs), or its layers
  // come from outside (overlay, 9p).
  Result<Ref<vfs::FileSystem>> (*make)(const FileSystemRequest& request) = nullptr;
};

// Null: ENODEV.
const FileSystemType* FindFileSystem(const Kernel& kernel, std::string_view name);

}  // namespace skep::kernel
