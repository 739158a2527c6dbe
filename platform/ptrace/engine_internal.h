// Shared by the engine's own source files.
#pragma once

#include <pthread.h>
#include <utility>

#include "platform/ptrace/engine.h"
#include "platform/ptrace/requests.h"

namespace skep::platform::ptrace {

// The queue that the calling thread serves as a worker; null if it is none.
RequestQueue* QueueOfThread();

template <class Work>
void PtraceEngine::OnWorker(Work&& work) {
  if (pthread_self() == worker_) {
    work();
  } else {
    requests_.Ask(QueueOfThread(), std::forward<Work>(work));
  }
}

}  // namespace skep::platform::ptrace
