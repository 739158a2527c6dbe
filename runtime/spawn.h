// Starting a sandbox: the gofer and the sentry, their sockets, and who holds which descriptor.
//
//   CLI ──control──► gofer ◄──client── sentry ◄──control── CLI
//
// Both run this binary again (`skep gofer`, `skep boot`), each in namespaces of its own from the
// one clone3 that makes it, and die with the CLI.
#pragma once

#include <csignal>
#include <vector>

#include "base/log.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "gofer/main/gofer_main.h"
#include "runtime/process.h"
#include "sentry/boot/control.h"

namespace skep::runtime {

struct SandboxPlan {
  boot::BootConfig config;  // its descriptors are filled in by StartSandbox
  std::vector<gofer::AttachPoint> attach_points;
  std::vector<gofer::HiddenPath> hidden;
  OwnedFd log, strace, stub_cgroup;
  OwnedFd engine_device;  // platform::OpenDeviceFor
  LogFormat log_format = LogFormat::kText;
  LogLevel log_level = LogLevel::kWarning;
  bool user_namespace = false;  // the CLI has entered one
  // A checkpoint test: the file for the image, when it is made (-1: never), and the image to start
  // from.
  OwnedFd image;
  int64_t checkpoint_after_ms = -1;
  bool restore = false;
  sigset_t child_signals = {};  // the signal mask of before the CLI blocked signals
};

struct Sandbox {
  // The control socket goes last: its end tells the sentry to end too.
  OwnedFd control;
  Child gofer, sentry;
};

HostResult<Sandbox> StartSandbox(SandboxPlan plan);
// The same once more, with descriptors of its own.
HostResult<SandboxPlan> CopyPlan(const SandboxPlan& plan);

// Appends an attach point and returns its number. `path`: of a directory or a file on the host.
HostResult<int> AddAttachPoint(SandboxPlan& plan, const std::string& path, bool read_only);

}  // namespace skep::runtime
