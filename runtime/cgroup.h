// A sandbox's control groups: the host's part in a memory limit.
//
// The stubs sit in a group of their own, beside the one of the sentry and the gofer, because
// killing a stub for memory frees what a guest process used, and killing the sentry ends
// everything. Both are in a group that bounds all of the sandbox: what the host allocates for it,
// whoever asked.
//
//   <parent>/skep-sandbox-<pid>-<time>/{stubs,kernel}
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

// The limits of the groups. Stubs take memory of the host's kernel that guests know nothing of, and
// the sentry needs time to choose which process ends: somewhat more than the sandbox's limit.
uint64_t LimitOfStubs(uint64_t limit_bytes);
// That, and what the objects of the guests' kernel may take.
uint64_t LimitOfSandbox(uint64_t limit_bytes);

class SandboxCgroup {
 public:
  // Groups for a sandbox with this limit, or why there are none. A janitor removes them when this
  // object, or its whole process, is gone. Groups that were left behind all the same are removed on
  // the way.
  static HostResult<SandboxCgroup> Make(uint64_t limit_bytes, const std::string& wanted);
  SandboxCgroup() = default;
  SandboxCgroup(SandboxCgroup&& other) noexcept { *this = std::move(other); }
  SandboxCgroup& operator=(SandboxCgroup&& other) noexcept;
  ~SandboxCgroup();  // removes what Make made

  const std::string& path() const { return path_; }
  std::string stubs_path() const { return path_ + "/stubs"; }
  // cgroup.procs, writable: for the sentry, which moves stubs there; for who starts the sentry and
  // the gofer.
  OwnedFd TakeStubs() { return std::move(stubs_); }
  OwnedFd TakeKernel() { return std::move(kernel_); }
  // The groups stay while somebody has these open.
  std::vector<OwnedFd> Holders() const;
  // They are removed when the holders have ended, not with this object.
  void LetGo();
  // What path() was, of a sandbox that has ended in whatever way: its groups are removed if they
  // are still there. Nothing happens while somebody holds them.
  static void RemoveLeft(const std::string& path);

 private:
  HostResult<void> MakeIn(const std::string& parent, uint64_t limit_bytes,
                          MemoryHierarchy::Version version);

  std::string path_;
  OwnedFd directory_;  // locked: its maker is alive
  OwnedFd stubs_, kernel_;
  Janitor janitor_;
};

}  // namespace skep::runtime
