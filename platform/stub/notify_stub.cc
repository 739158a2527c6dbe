#include "platform/stub/notify_stub.h"

// SAFETY: labels of notify.S; only their addresses are used, and the bytes between begin and end.
#define SKEP_NOTIFY_LABELS(L) \
  L(begin)                    \
  L(end)                      \
  L(start)                    \
  L(handler)                  \
  L(after_futex)              \
  L(after_call)               \
  L(after_send)               \
  L(after_exit_group)         \
  L(after_send_listener)      \
  L(after_wait_listener)      \
  L(after_wake)               \
  L(after_close_listener)     \
  L(after_sigaltstack)        \
  L(after_seccomp)            \
  L(after_manager)            \
  L(after_event)              \
  L(after_sigreturn)

extern "C" {
#define L(name) extern const std::byte skep_notify_##name[];
SKEP_NOTIFY_LABELS(L)
#undef L
}

namespace skep::platform {

NotifyAddresses AddressesOfNotifyStub() {
  NotifyAddresses addresses;
#define L(name) \
  addresses.name = kStubCode + static_cast<uint64_t>(skep_notify_##name - skep_notify_begin);
  SKEP_NOTIFY_LABELS(L)
#undef L
  return addresses;
}

std::span<const std::byte> NotifyStubCode() { return {skep_notify_begin, skep_notify_end}; }

}  // namespace skep::platform
