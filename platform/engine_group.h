// The engines of one sandbox, one per worker, and what they share: with notify, the stubs and the
// process that these are clones of.
#pragma once

#include <memory>

#include "platform/platform.h"

namespace skep::platform {

class EngineGroup {
 public:
  virtual ~EngineGroup() = default;  // engines may outlive it

  // As platform::MakeEngine: on the worker's own thread. Several threads at once may call it.
  virtual HostResult<std::unique_ptr<Engine>> MakeEngine(int worker, int cpu) = 0;
};

// On the thread whose end is to be the end of all guests; it may fork. Of `options`, worker and cpu
// are not looked at. stub_cgroup_fd is borrowed until all engines are made.
HostResult<std::unique_ptr<EngineGroup>> MakeEngineGroup(EngineKind kind,
                                                         const EngineOptions& options);

}  // namespace skep::platform
