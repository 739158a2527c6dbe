// The seccomp filters of a stub's threads. Each thread has the base filter; a guest thread and the
// manager have one of their own besides, with a listener. The host takes the strictest answer.
//
// A call is allowed only by its exact address in the stub's code *and* its number *and* those
// arguments that matter: a guest can jump to any address with anything in its registers.
#pragma once

#include <linux/filter.h>
#include <cstdint>
#include <vector>

namespace skep::platform::notify {

// How roots clone: another stub process, and a thread.
extern const uint64_t kCloneStub, kCloneThread;

std::vector<sock_filter> BaseFilter();
std::vector<sock_filter> ManagerFilter();
// From guest addresses: calls that need the guest's registers, and calls that are not of the x86-64
// ABI, are a signal (RET_TRAP); all others are notifications.
std::vector<sock_filter> GuestFilter();

}  // namespace skep::platform::notify
