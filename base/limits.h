// Bounds on what guests can make the sentry hold, each with its reason.
#pragma once

#include <cstddef>
#include <cstdint>

namespace skep {

inline constexpr size_t kPageSize = 4096;
inline constexpr size_t kPageShift = 12;
inline constexpr size_t kPathMax = 4096;           // PATH_MAX, with its NUL
inline constexpr size_t kNameMax = 255;            // NAME_MAX
inline constexpr int kMaxSymlinks = 40;            // Linux: MAXSYMLINKS
inline constexpr size_t kMaxIov = 1024;            // UIO_MAXIOV
inline constexpr size_t kMaxRwCount = 0x7ffff000;  // Linux: MAX_RW_COUNT
inline constexpr size_t kArgMax = size_t{32}
                                  << 20;  // bytes of argv + envp; Linux: 1/4 of the stack
inline constexpr size_t kMaxArgStrlen =
    32 * kPageSize;                            // one string of argv; Linux: MAX_ARG_STRLEN
inline constexpr size_t kMaxMappings = 65530;  // VMAs of one guest; Linux: vm.max_map_count
inline constexpr int kMaxFds = 1 << 20;        // Linux: fs.nr_open
inline constexpr int kMaxPid = 4194304;        // Linux: PID_MAX_LIMIT
inline constexpr size_t kGoferMessageMax = size_t{1} << 20;  // one gofer message

// Guest addresses end here; stub code lives above it (platform/stub).
inline constexpr uint64_t kGuestAddressMin = 0x10000;  // Linux: vm.mmap_min_addr
inline constexpr uint64_t kGuestAddressEnd = 0x7fff'f000'0000;

}  // namespace skep
