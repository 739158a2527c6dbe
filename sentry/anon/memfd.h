// memfd_create(2): a file in memory without a name, and its seals (Linux: mm/memfd.c).
#pragma once

#include <string_view>

#include "sentry/mm/file_pages.h"
#include "sentry/vfs/anon_fs.h"
#include "sentry/vfs/file.h"

namespace skep::anon {

// `name` and `flags` (MFD_*) were judged by the caller.
Result<Ref<vfs::File>> MakeMemfd(mm::MemoryFile& memory, vfs::AnonFs& fs, std::string_view name,
                                 uint32_t flags);

// F_ADD_SEALS: EINVAL (not a memfd, unknown seals), EPERM, EBUSY. F_GET_SEALS: EINVAL.
Result<void> AddSeals(vfs::File& file, uint32_t seals);
Result<uint32_t> GetSeals(vfs::File& file);

}  // namespace skep::anon
