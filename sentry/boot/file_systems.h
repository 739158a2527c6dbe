// The table of file systems (kernel/file_systems.h): those of Linux that there are here.
#pragma once

#include <span>

#include "sentry/kernel/file_systems.h"

namespace skep::boot {

std::span<const kernel::FileSystemType> FileSystems();

}  // namespace skep::boot
