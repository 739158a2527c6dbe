#include "sentry/boot/file_systems.h"

#include "base/range.h"
#include "sentry/fs/dev/dev_tree.h"
#include "sentry/fs/devpts/devpts.h"
#include "sentry/fs/proc/proc_fs.h"
#include "sentry/fs/sys/sys_fs.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/system_info.h"

namespace skep::boot {
namespace {

using kernel::FileSystemRequest;
using kernel::FileSystemType;
using Made = Result<Ref<vfs::FileSystem>>;

uint32_t NextMinor(const FileSystemRequest& request) { return request.kernel.NewDeviceMinor(); }

// Linux: shmem_default_max_blocks.
uint64_t SizeOf(const FileSystemRequest& request) {
  if (request.options.size) return *request.options.size;
  return PageFloor(kernel::TotalsOf(request.kernel).total / 2);
}

Ref<vfs::FileSystem> MakeInMemory(const FileSystemRequest& request, fs::TmpFsOptions options) {
  options.dev_minor = NextMinor(request);
  return MakeRef<fs::TmpFs>(*request.kernel.memory, options);
}

Made MakeTmpfs(const FileSystemRequest& request) {
  return MakeInMemory(request,
                      {.max_bytes = SizeOf(request), .mode = request.options.mode.value_or(01777)});
}

Made MakeDevtmpfs(const FileSystemRequest& request) {
  Ref<vfs::FileSystem> dev = MakeInMemory(request, {.max_bytes = SizeOf(request), .mode = 0755});
  TRY(fs::PopulateDev(*dev, request.options.console));
  return dev;
}

// Without queues.
Made MakeMqueue(const FileSystemRequest& request) {
  return MakeInMemory(request, {.mode = 01777, .type_name = "mqueue"});
}

Made MakeProc(const FileSystemRequest& request) {
  return Ref<vfs::FileSystem>(
      MakeRef<fs::ProcFs>(request.kernel, request.pids, NextMinor(request)));
}

Made MakeSysfs(const FileSystemRequest& request) {
  return Ref<vfs::FileSystem>(
      MakeRef<fs::SysFs>(NextMinor(request), request.kernel.scheduler.worker_count()));
}

Made MakeDevpts(const FileSystemRequest& request) {
  return Ref<vfs::FileSystem>(
      MakeRef<fs::DevptsFs>(fs::DevptsOptions{.dev_minor = NextMinor(request)}));
}

constexpr auto kOwner = FileSystemType::Capability::kOwner;
constexpr auto kFirst = FileSystemType::Capability::kFirst;

constexpr FileSystemType kTypes[] = {
    {"sysfs", kOwner, MakeSysfs},
    {"tmpfs", kOwner, MakeTmpfs},
    {"proc", kOwner, MakeProc},
    {"devtmpfs", kFirst, MakeDevtmpfs},
    {"pipefs", kFirst},
    {"sockfs", kFirst},
    {"devpts", kOwner, MakeDevpts},
    {"mqueue", kOwner, MakeMqueue},
    {"overlay", kOwner},
    {"9p", kFirst},
};

}  // namespace

std::span<const FileSystemType> FileSystems() { return kTypes; }

}  // namespace skep::boot
