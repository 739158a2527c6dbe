// Finding a program in a guest's tree before there is a guest: as execvp would, but beneath a
// directory that need not be trusted. Nothing found is read.
#pragma once

#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"

namespace skep::cli {

// Where a part of the guest's tree comes from: the root, then volumes and bind mounts over it.
struct GuestTree {
  std::string guest;  // absolute, clean
  int fd = -1;        // O_PATH; borrowed
};

// Opens `path` (absolute or below `cwd`) as the guest would see it. Symlinks stay in the tree that
// they are in. O_PATH.
Result<OwnedFd> OpenInGuest(const std::vector<GuestTree>& trees, const std::string& cwd,
                            const std::string& path);

// The path to give to execve: `program` itself if it has a slash, else the first match in the
// directories of PATH. ENOENT: not there; EACCES: there, but not an executable file; what is below
// a tree that we cannot look into is left for the guest to find out.
Result<std::string> FindProgram(const std::vector<GuestTree>& trees, const std::string& cwd,
                                const std::string& program, const std::vector<std::string>& env);

// The value of `name` in "NAME=value" strings, the last one winning; or null.
const char* FindEnv(const std::vector<std::string>& env, const std::string& name);

// What shells search when PATH is unset.
inline constexpr const char* kDefaultPath =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

}  // namespace skep::cli
