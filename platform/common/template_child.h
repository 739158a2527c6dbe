// The template process of a worker's stubs: a fork of the sentry that gives up all that it
// inherited and that stubs are clones of. What the engines' templates have in common.
#pragma once

#include <linux/filter.h>
#include <sys/types.h>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "platform/platform.h"

namespace skep::platform {

struct TemplateChild {
  int memory;  // becomes kStubMemory
  int socket;  // becomes kStubSocket
  pid_t parent;
  sock_fprog filter;
};

// Forks it, into options.stubs.cgroup_fd and onto options.cpu. `main` gets the TemplateChild.
HostResult<pid_t> ForkTemplate(int (*main)(void*), TemplateChild& child,
                               const EngineOptions& options);
// `steps`: what the numbers of LeaveTemplate from kFirstOwnStep on mean.
std::string WhyTemplateFailed(int status, std::span<const char* const> steps);

// -- In the child, which is a copy of the sentry with one thread: other threads' locks may be held
// for ever, so it makes plain system calls only. What it fails in is its exit status. --
inline constexpr int kFirstOwnStep = 4;
[[noreturn]] void LeaveTemplate(int step);
// Dies with the sentry; no descriptor but two, no core files, no rseq area. Leaves with a lower
// step.
void DropInherited(const TemplateChild& child);
bool MapStubPage(uint64_t at, int protection, uint64_t offset);

}  // namespace skep::platform
