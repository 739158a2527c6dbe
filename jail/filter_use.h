// FilterCounter: a process that counts which rows of a filter are used (a test mode).
//
// The filter hands every allowed call to a listener. A process that shares our table of descriptors
// (so that it finds the listener in it) receives each, adds one to its row's count in a shared
// mapping of the file, and lets the call go on.
#pragma once

#include <sys/types.h>
#include <atomic>
#include <span>

#include "jail/filter.h"

namespace skep::jail {

class FilterCounter {
 public:
  // Before the filter. `rows` outlive the call only: the process has a copy.
  HostResult<void> Start(std::span<const FilterRow> rows, const FilterUse& use);
  // After it, without a system call: there is nobody yet who would let it go on.
  void Serve(int listener) { *listener_ = listener; }

 private:
  std::atomic<int>* listener_ = nullptr;  // shared with the process; -1: not yet
};

}  // namespace skep::jail
