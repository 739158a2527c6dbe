// What a sandbox is told of the descriptors that become its guest's 0, 1 and 2.
#pragma once

#include <array>

#include "base/result.h"
#include "runtime/spawn.h"

namespace skep::runtime {

// Fills in config.stdio_description_of, stdio_inode_of and stdio_names for the descriptors `fds` of
// this process (-1: closed). Paths are told where one of the plan's mounts shows them to the guest.
void DescribeStdio(const std::array<int, 3>& fds, SandboxPlan& plan);
// The same without names of files, and with owners as this process sees them; for a process that
// joins a sandbox.
void DescribeStdio(const std::array<int, 3>& fds, boot::ProcessConfig& config);

// Where the guest sees the host's `path` by the mounts, each of the host's tree `sources[i]` (""
// for those that are none of the host's). Empty: nowhere.
std::string GuestPathOf(const std::string& path, const std::vector<boot::MountConfig>& mounts,
                        const std::vector<std::string>& sources);

}  // namespace skep::runtime
