// Names of AF_UNIX sockets: sockaddr_un decoding and the abstract namespace.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "base/mutex.h"
#include "sentry/net/in_flight.h"
#include "sentry/net/socket.h"

namespace skep::net {

class UnixEndpoint;

// What a sockaddr_un says.
struct UnixName {
  enum class Kind : uint8_t { kUnnamed, kAbstract, kPath };
  Kind kind = Kind::kUnnamed;
  std::string text;  // abstract: the bytes after the leading NUL; path: without its NUL
};
// Linux: unix_validate_addr. EINVAL.
Result<UnixName> ParseUnixName(const Address& address);
// As getsockname tells it.
Address UnixAddressOf(const UnixName& name);

// What the AF_UNIX sockets of a network namespace share. It outlives them.
class UnixNamespace {
 public:
  // `in_flight`: the same for all namespaces whose sockets may meet.
  explicit UnixNamespace(Ref<InFlight> in_flight) : in_flight_(std::move(in_flight)) {}
  InFlight& in_flight() { return *in_flight_; }

  // Abstract names; sockets of different types do not meet. EADDRINUSE.
  Result<void> Bind(int type, const std::string& name, UnixEndpoint& endpoint);
  // A name nobody has, of five hexadecimal digits (autobind). ENOSPC.
  Result<std::string> BindAny(int type, UnixEndpoint& endpoint);
  void Unbind(int type, const std::string& name);
  Ref<UnixEndpoint> Find(int type, const std::string& name);

 private:
  using Key = std::pair<int, std::string>;
  const Ref<InFlight> in_flight_;
  Mutex mutex_{LockRank::kNames};
  std::map<Key, UnixEndpoint*> abstract_ GUARDED_BY(mutex_);
  uint32_t next_autobind_ GUARDED_BY(mutex_) = 0;
};

}  // namespace skep::net
