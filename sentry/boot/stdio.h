// Descriptors 0, 1 and 2 of a process that somebody outside starts.
#pragma once

#include <array>

#include "sentry/boot/control.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"

namespace skep::boot {

struct ProcessStdio {
  // Those of one open file description are one number of the host table; none: closed.
  std::array<arena::HostFd, 3> fds;
  // Keep the numbers theirs, whatever guests close.
  std::array<Ref<vfs::File>, 3> files;
  bool opened = false;  // the numbers are files' or a terminal's, which close them
};

// Takes the configuration's descriptors into the host table. Host heap or arena, any thread.
void AdoptStdio(const ProcessConfig& config, ProcessStdio& stdio);

// Lets go of the files, and closes what was adopted and never opened.
void ReleaseStdio(ProcessStdio& stdio);

// Gives `task` its descriptor table. `console`: where there is one, for what the configuration says
// is the terminal.
Result<void> OpenStdio(kernel::Task& task, const ProcessConfig& config, ProcessStdio& stdio,
                       Ref<vfs::File> console);

}  // namespace skep::boot
