// The stubs' own control group: the host's part in a memory limit.
//
// The stubs sit in a group of their own; the sentry and the gofer do not, because killing a stub
// for memory frees what a guest process used, and killing the sentry would end everything.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "base/result.h"
#include "runtime/janitor.h"

namespace skep::runtime {

// Where this process's memory controller is.
struct MemoryHierarchy {
  enum class Version : uint8_t { kV1, kV2 } version = Version::kV1;
  std::string mount;  // where the hierarchy is mounted
  std::string own;    // this process's group in it, "/" or "/a/b"
};
// From the texts of /proc/self/mountinfo and /proc/self/cgroup.
std::optional<MemoryHierarchy> FindMemoryHierarchy(const std::string& mountinfo,
                                                   const std::string& cgroup);
// Directories in which a group may be made, the best first. `wanted`: the configuration's
// cgroupsPath; empty: beside this process.
std::vector<std::string> ParentCandidates(const MemoryHierarchy& hierarchy,
                                          const std::string& wanted);

// The limit of the group: somewhat more than the sandbox's. Stubs take memory of the host's kernel
// that guests know nothing of, and the sentry needs time to choose which process ends.
uint64_t LimitOfGroup(uint64_t limit_bytes);

class StubCgroup {
 public:
  // A group for a sandbox with this limit, or why there is none. A janitor removes it when this
  // object, or the whole CLI, is gone. Groups that were left behind all the same are removed on the
  // way.
  static HostResult<StubCgroup> Make(uint64_t limit_bytes, const std::string& wanted);
  StubCgroup() = default;
  StubCgroup(StubCgroup&& other) noexcept { *this = std::move(other); }
  StubCgroup& operator=(StubCgroup&& other) noexcept;
  ~StubCgroup();  // removes what Make made

  const std::string& path() const { return path_; }
  // Writable; for the sentry.
  OwnedFd TakeProcs() { return std::move(procs_); }

 private:
  HostResult<void> MakeIn(const std::string& parent, uint64_t limit_bytes,
                          MemoryHierarchy::Version version);

  std::string path_;
  OwnedFd directory_;  // locked: its maker is alive
  OwnedFd procs_;
  Janitor janitor_;
};

}  // namespace skep::runtime
