// Work that one worker asks another to do for it. The asker sleeps until it is done, and serves
// what others ask of it meanwhile, so two workers that ask each other cannot wait for ever.
#pragma once

#include <atomic>
#include <cstdint>

#include "platform/common/waker.h"

namespace skep::platform::ptrace {

class RequestQueue {
 public:
  explicit RequestQueue(Waker& waker) : waker_(waker) {}
  ~RequestQueue();
  RequestQueue(const RequestQueue&) = delete;
  RequestQueue& operator=(const RequestQueue&) = delete;

  // Runs `work` on the thread that serves this queue. `own` is the calling thread's queue, or null
  // if it serves none.
  template <class Work>
  void Ask(RequestQueue* own, Work&& work) {
    Request request = {[](void* w) { (*static_cast<std::remove_reference_t<Work>*>(w))(); }, &work,
                       own};
    AskAndWait(request);
  }
  // The owner's thread: runs all that is queued, in the order in which it came.
  void Serve();

 private:
  struct Request {
    void (*run)(void* work);
    void* work;
    RequestQueue* asker;
    std::atomic<uint32_t> done = 0;
    Request* next = nullptr;
  };
  void AskAndWait(Request& request);
  void Answer(Request& request);

  Waker& waker_;
  std::atomic<Request*> head_ = nullptr;
  std::atomic<uint32_t> answering_ = 0;  // others that are about to wake us
};

}  // namespace skep::platform::ptrace
