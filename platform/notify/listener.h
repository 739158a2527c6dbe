// A seccomp listener: through it one thread of a stub asks, and is answered.
#pragma once

#include <linux/seccomp.h>
#include <cstdint>

#include "base/owned_fd.h"
#include "base/result.h"
#include "platform/common/waker.h"

namespace skep::platform::notify {

// Why the host cannot have this engine, as far as it tells without a trial; nullptr if it can.
const char* WhyNoHost();

// Whether a blocking receive ends when the thread does (Linux 6.11); else it must be polled first.
bool ReceiveEndsWithThread();

class Listener {
 public:
  enum class Received {
    kCall,     // a call is pending
    kNothing,  // it was withdrawn, or the wait was interrupted
    kGone,     // the thread has ended
  };

  Listener() = default;
  // Takes the descriptor; the thread and its reader hand the CPU to each other from now on.
  static Result<Listener> Adopt(OwnedFd fd);

  int fd() const { return fd_.get(); }
  // Blocks until there is something.
  Received Receive(seccomp_notif& call);
  // The same, or kNothing because the waker has a reason.
  Received ReceiveUnlessWoken(Waker& waker, seccomp_notif& call);
  // Waits until a call can be received, at most this long (the answer says so), or kGone.
  Received WaitForCall(int timeout_ms);
  // Answers a pending call with this rax. False: the thread has ended.
  bool Answer(uint64_t id, uint64_t rax);
  // While a call is pending: the thread's descriptor `number` becomes a copy of ours.
  Result<void> Donate(uint64_t id, int ours, int number);

 private:
  Received Failed(Errno error);
  bool IsGone();
  Result<int64_t> ControlForSure(unsigned long request, void* argument);

  OwnedFd fd_;
};

}  // namespace skep::platform::notify
