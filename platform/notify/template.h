// The template process: what stubs are cloned from. It is a fork of the sentry that has given up
// everything it inherited, runs no guest, and shares its descriptor table with all its stubs.
#pragma once

#include <sys/types.h>
#include <string>

#include "base/result.h"
#include "platform/notify/memory.h"
#include "platform/platform.h"

namespace skep::platform::notify {

// Forks it; `socket` becomes its kStubSocket, from which its first answer is awaited by the caller
// (commands: slot 0, sequence 1). options.cpu: where stubs run; options.stubs.cgroup_fd: the
// control group that they are in. The calling thread's end is the end of the template and of its
// stubs.
HostResult<pid_t> SpawnTemplate(StubMemory& memory, int socket, const EngineOptions& options);
// Why a template that ended did so: from its wait status.
std::string WhyTemplateFailed(int status);

}  // namespace skep::platform::notify
