#include "sentry/kernel/file_systems.h"

#include "sentry/kernel/kernel.h"

namespace skep::kernel {

const FileSystemType* FindFileSystem(const Kernel& kernel, std::string_view name) {
  for (const FileSystemType& type : kernel.hooks.file_systems) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

}  // namespace skep::kernel
