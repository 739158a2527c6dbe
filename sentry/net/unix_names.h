// Names of AF_UNIX sockets: sockaddr_un decoding and the abstract namespace.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "base/mutex.h"
#include "sentry/net/socket.h"
#include "sentry/vfs/anon_fs.h"

namespace skep::net {

class UnixEndpoint;

// What a sockaddr_un says.
struct UnixName {
  enum class Kind : uint8_t { kUnnamed, kAbstract, kPath };
  Kind kind = Kind::kUnnamed;
  std::string text;  // abstract: the bytes after the leading NUL; path: without its NUL
};
// Linux: unix_validate_addr. EINVAL.
Result<UnixName> ParseUnixName(std::string_view address);
// As getsockname tells it.
Address UnixAddressOf(const UnixName& name);

// What the AF_UNIX sockets of a network namespace share. It outlives them.
class UnixNamespace {
 public:
  explicit UnixNamespace(vfs::AnonFs& fs) : fs_(fs) {}
  vfs::AnonFs& fs() { return fs_; }

  // Abstract names; sockets of different types do not meet. EADDRINUSE.
  Result<void> Bind(int type, const std::string& name, UnixEndpoint& endpoint);
  // A name nobody has, of five hexadecimal digits (autobind). ENOSPC.
  Result<std::string> BindAny(int type, UnixEndpoint& endpoint);
  void Unbind(int type, const std::string& name);
  Ref<UnixEndpoint> Find(int type, const std::string& name);

  // Files inside messages that nobody has received: they may hold each other, so their number is
  // bounded. ETOOMANYREFS.
  Result<void> AddInFlight(size_t count);
  void RemoveInFlight(size_t count) { in_flight_ -= count; }

 private:
  using Key = std::pair<int, std::string>;
  vfs::AnonFs& fs_;
  Mutex mutex_{LockRank::kNames};
  std::map<Key, UnixEndpoint*> abstract_ GUARDED_BY(mutex_);
  uint32_t next_autobind_ GUARDED_BY(mutex_) = 0;
  std::atomic<size_t> in_flight_{0};
};

}  // namespace skep::net
