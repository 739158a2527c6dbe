// Starting a sandbox: the gofer and the sentry, their sockets, and who holds which descriptor.
//
//   CLI ──control──► gofer ◄──client── sentry ◄──control── CLI
//
// Both run this binary again (`skep gofer`, `skep boot`), each in namespaces of its own from the
// one clone3 that makes it, and die with the CLI.
#pragma once

#include <array>
#include <csignal>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "gofer/main/gofer_main.h"
#include "runtime/caller.h"
#include "runtime/process.h"
#include "sentry/boot/control.h"

namespace skep::runtime {

inline constexpr size_t kFilterParts = 3;  // of filter_use: sentry with notify, with ptrace, gofer

struct SandboxPlan {
  boot::BootConfig config;  // its descriptors are filled in by StartSandbox
  std::vector<gofer::AttachPoint> attach_points;
  std::vector<gofer::HiddenPath> hidden;
  OwnedFd log, strace;
  // cgroup.procs of the sandbox's groups (SandboxCgroup): for stubs; for sentry and gofer.
  OwnedFd stub_cgroup, kernel_cgroup;
  OwnedFd engine_device;  // platform::OpenDeviceFor
  OwnedFd filter_use;     // a test mode: where use of the filters' rows is counted
  // Descriptors of this process that become the guest's 0, 1 and 2: each itself, one above 2, or -1
  // for one that is closed.
  std::array<int, 3> stdio = {0, 1, 2};
  OwnedFd caller_stat;  // BootConfig::caller_stat_fd
  // Where others reach the sandbox, which then outlives this process. None: it does not.
  OwnedFd listen;
  OwnedFd lock;                    // of its state directory, until it can be reached
  bool outlives_caller = false;    // set by those who start processes from it
  std::vector<OwnedFd> keep_open;  // for as long as the sentry lives
  LogFormat log_format = LogFormat::kText;
  LogLevel log_level = LogLevel::kWarning;
  Caller caller;
  // How ids of the container's files stand for those of the host (linux.uidMappings of a
  // config.json). Empty: each for itself; for an ordinary caller, who has one only: his own.
  std::vector<IdMap> uids, gids;
  // A checkpoint test: the file for the image, when it is made (-1: never), and the image to start
  // from.
  OwnedFd image;
  int64_t checkpoint_after_ms = -1;
  bool checkpoint_only = false;  // the sandbox ends with its checkpoint
  bool restore = false;
  sigset_t child_signals = {};  // the signal mask of before the CLI blocked signals
};

struct Sandbox {
  // The control socket goes last: its end tells the sentry to end too.
  OwnedFd control;
  Child gofer, sentry;
  OwnedFd gofer_words, sentry_words;  // why they died (base/last_words.h)
};

HostResult<Sandbox> StartSandbox(SandboxPlan plan);

// A container's gofer alone.
struct Gofer {
  Child child;
  OwnedFd words;  // why it died (base/last_words.h)
  OwnedFd control;
};
// `client`: its end of the client's socket. Takes the plan's trees.
HostResult<Gofer> StartGofer(SandboxPlan& plan, OwnedFd client);
// Waits until it is in its jail, which is not optional.
HostResult<void> JudgeGofer(Gofer& gofer);
// Fills in what the container is told of ids: its maps, and the owners of its first process's
// standard files, which are nobody's in the sentry's namespace.
void DescribeIds(const SandboxPlan& plan, boot::ContainerConfig& container,
                 boot::ProcessConfig& process);
// What became of a process, for its user. `status`: as wait4 tells it; `words`: its last ones.
struct HowItEnded {
  std::string why;               // "the sandbox's kernel failed: CHECK failed at ..."
  std::vector<std::string> log;  // the last lines of it
};
HowItEnded WhyItEnded(std::string_view who, int status, const OwnedFd& words);
// The same once more, with descriptors of its own.
HostResult<SandboxPlan> CopyPlan(const SandboxPlan& plan);

// Appends an attach point and returns its number. `path`: of a directory or a file on the host.
HostResult<int> AddAttachPoint(SandboxPlan& plan, const std::string& path, bool read_only);

}  // namespace skep::runtime
