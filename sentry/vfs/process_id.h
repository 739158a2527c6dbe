// ProcessId: what files remember of a process, a process group or a session (F_SETOWN, terminals,
// record locks, SO_PEERCRED). kernel::Pid implements it (Linux: struct pid).
//
// It names this very process, whatever becomes of its number; and which number that is depends on
// who asks (Caller::NumberOf).
#pragma once

#include "base/ref.h"

namespace skep::vfs {

class ProcessId : public RefCounted<ProcessId> {
 public:
  virtual ~ProcessId() = default;

 protected:
  ProcessId() = default;
};

}  // namespace skep::vfs
