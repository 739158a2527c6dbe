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

// A group of engines that are made with the same options and share nothing.
template <class E>
class SeparateEngines final : public EngineGroup {
 public:
  explicit SeparateEngines(const EngineOptions& options) : options_(options) {}
  HostResult<std::unique_ptr<Engine>> MakeEngine(int worker, int cpu) override {
    EngineOptions options = options_;
    options.worker = worker;
    options.cpu = cpu;
    return E::Make(options);
  }

 private:
  const EngineOptions options_;
};

// On the thread whose end is to be the end of all guests; it may fork. It ignores worker and cpu of
// `options`; descriptors are borrowed until all engines are made.
HostResult<std::unique_ptr<EngineGroup>> MakeEngineGroup(EngineKind kind,
                                                         const EngineOptions& options);

}  // namespace skep::platform
